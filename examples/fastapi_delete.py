"""A complete DELETE handler: decided in the backend's own transaction, answered when the rows are gone or the time is over.

    DELETE /organizations/{organization_id}/artifacts/{artifact_id}

    204  the rows are gone; objects and trace items go in the background
    202  accepted, and not done yet: Temporal is slow or down. `python starter.py resume --every 30s` starts what does not run
    403  the caller may not delete here
    404  the artifact is another organization's
    409  the deletion ended before the rows were gone, and says why

Serve it with `uvicorn --factory examples.fastapi_delete:create_app`, after `may_delete` was replaced by a check of your own.
It needs what a backend installs, and FastAPI: nothing of the service.
"""

import os
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Path, Response, status
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import Engine, create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from artifact_deletion import DeletionRequest, Deletions, accept_deletion
from artifact_deletion.errors import ArtifactNotInOrganization, DeletionError

Id = Annotated[int, Path(gt=0, lt=2**63)]
DEADLINE = timedelta(seconds=5)
"""What a caller is ready to wait for. Rows of an artifact take a fraction of a second."""


class BackendRow(DeclarativeBase):
    """The backend's own tables."""


class AuditEntry(BackendRow):
    """Something that the backend commits together with the decision to delete: both happen or neither."""

    __tablename__ = "audit_entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    caller: Mapped[str]
    artifact_id: Mapped[int]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class Accepted(BaseModel):
    """The body of a 202."""

    workflow_id: str


def may_delete(organization_id: Id) -> str:
    """The id of a caller who may delete in this organization. Who may is the backend's to know: replace this."""
    raise HTTPException(status.HTTP_403_FORBIDDEN, f"deleting in organization {organization_id} is not allowed yet")


def decide(engine: Engine, request: DeletionRequest) -> None:
    """From this commit on the deletion will happen, Temporal up or down."""
    with Session(engine) as session, session.begin():
        accept_deletion(session, request)
        session.add_all(AuditEntry(caller=request.requested_by, artifact_id=one) for one in request.artifact_ids)


def create_app(engine: Engine | None = None, deadline: timedelta = DEADLINE) -> FastAPI:
    """The handler over the backend's database, by default the one that DATABASE_URL names."""
    backend = engine or create_engine(os.environ["DATABASE_URL"], hide_parameters=True)
    deletions = Deletions()
    app = FastAPI()

    @app.delete(
        "/organizations/{organization_id}/artifacts/{artifact_id}",
        status_code=status.HTTP_204_NO_CONTENT,
        responses={status.HTTP_202_ACCEPTED: {"model": Accepted}},
    )
    async def delete_artifact(organization_id: Id, artifact_id: Id, caller: Annotated[str, Depends(may_delete)]) -> Response:
        request = DeletionRequest(
            organization_id=organization_id, artifact_ids=[artifact_id], requested_by=caller, images="delete"
        )
        await run_in_threadpool(decide, backend, request)
        try:
            done = await deletions.rows_deleted(request, within=deadline)
        except ArtifactNotInOrganization:
            raise HTTPException(status.HTTP_404_NOT_FOUND, "the organization has no such artifact") from None
        except DeletionError as ended:
            raise HTTPException(status.HTTP_409_CONFLICT, str(ended)) from None
        if done is not None:
            return Response(status_code=status.HTTP_204_NO_CONTENT)
        accepted = Accepted(workflow_id=request.workflow_id)
        return JSONResponse(accepted.model_dump(), status_code=status.HTTP_202_ACCEPTED)

    return app
