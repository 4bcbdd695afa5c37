"""A complete DELETE handler for servers with threads: decided in the backend's own transaction, answered within a deadline.

    DELETE /organizations/{organization_id}/artifacts/{artifact_id}

    204  the rows are gone; objects and trace items go in the background
    202  accepted, and not done yet: Temporal is slow or down. `python starter.py resume --every 30s` starts what does not run
    400  no such request: an id is 0, or too large
    403  the caller may not delete here
    404  the artifact is another organization's
    409  the deletion ended before the rows were gone, and says why

Serve it with `gunicorn --workers 4 --threads 50 'examples.flask_delete:create_app()'`, after `may_delete` was replaced by a
check of your own. A request that waits for its rows keeps a thread busy: while Temporal is down, for the whole deadline.
It needs what a backend installs, and Flask: nothing of the service.
"""

import os
from datetime import datetime, timedelta

from flask import Flask, Response, abort, jsonify
from pydantic import ValidationError
from sqlalchemy import Engine, create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from artifact_deletion import BlockingDeletions, DeletionRequest, accept_deletion
from artifact_deletion.errors import ArtifactNotInOrganization, DeletionError
from artifact_deletion.request import refused_fields

DEADLINE = timedelta(seconds=5)
"""What a caller is ready to wait for. Rows of an artifact take a fraction of a second."""
deletions = BlockingDeletions()


class BackendRow(DeclarativeBase):
    """The backend's own tables."""


class AuditEntry(BackendRow):
    """Something that the backend commits together with the decision to delete: both happen or neither."""

    __tablename__ = "audit_entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    caller: Mapped[str]
    artifact_id: Mapped[int]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


def may_delete(organization_id: int) -> str:
    """The id of a caller who may delete in this organization. Who may is the backend's to know: replace this."""
    abort(403, f"deleting in organization {organization_id} is not allowed yet")


def decide(engine: Engine, request: DeletionRequest) -> None:
    """From this commit on the deletion will happen, Temporal up or down."""
    with Session(engine) as session, session.begin():
        accept_deletion(session, request)
        session.add_all(AuditEntry(caller=request.requested_by, artifact_id=one) for one in request.artifact_ids)


def create_app(engine: Engine | None = None) -> Flask:
    """The handler over the backend's database, by default the one that DATABASE_URL names."""
    backend = engine or create_engine(os.environ["DATABASE_URL"], hide_parameters=True)
    app = Flask(__name__)

    @app.delete("/organizations/<int:organization_id>/artifacts/<int:artifact_id>")
    def delete_artifact(organization_id: int, artifact_id: int) -> Response:
        caller = may_delete(organization_id)
        try:
            request = DeletionRequest(
                organization_id=organization_id, artifact_ids=[artifact_id], requested_by=caller, images="delete"
            )
        except ValidationError as error:
            abort(400, refused_fields(error))
        decide(backend, request)
        try:
            done = deletions.rows_deleted(request, within=DEADLINE)
        except ArtifactNotInOrganization:
            abort(404, "the organization has no such artifact")
        except DeletionError as ended:
            abort(409, str(ended))
        if done is not None:
            return Response(status=204)
        accepted = jsonify(workflow_id=request.workflow_id)
        accepted.status_code = 202
        return accepted

    return app
