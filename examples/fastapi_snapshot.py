"""A complete handler that commits a snapshot and shows no hidden image: upload_snapshot.py is its client.

    POST /organizations/{organization_id}/projects/{project_id}/snapshots

    201  the snapshot is committed, and each of its images is there
    403  the caller may not upload here
    409  nothing was committed: put these images without asking whether they exist, and ask again with the same `put_again`

Serve it with `uvicorn --factory examples.fastapi_snapshot:create_app`, after `may_upload` and `rows_of` were replaced by yours.
It needs what a backend installs, and FastAPI: nothing of the service. Workers then run with IMAGES_RESERVED.
"""

import os
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Path, Response, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, StringConstraints
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from artifact_deletion import reserve_images

Id = Annotated[int, Path(gt=0, lt=2**63)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class NewSnapshot(BaseModel):
    """What a client posts, once its images are there."""

    images: dict[str, Hash]
    """By name, as in the manifest."""
    put_again: dict[Hash, int] = {}
    """What it was answered last, if it has put these images since."""


class PutAgain(BaseModel):
    """The body of a 409. The numbers are text: JavaScript has none so large."""

    put_again: dict[Hash, str]


AddRows = Callable[[Session, int, Mapping[str, str]], int]
"""Adds the snapshot's rows and writes its manifest, given its project and images. Returns the artifact's id."""


def may_upload(organization_id: Id, project_id: Id) -> int:
    """The project, if it is the organization's and the caller may upload to it. That is the backend's to know: replace this."""
    raise HTTPException(status.HTTP_403_FORBIDDEN, f"project {project_id} of organization {organization_id} takes no uploads")


def rows_of() -> AddRows:
    """The backend's own rows: replace this."""
    raise HTTPException(status.HTTP_501_NOT_IMPLEMENTED)


def create_app(engine: Engine | None = None) -> FastAPI:
    """The handler over the backend's database, by default the one that DATABASE_URL names."""
    backend = engine or create_engine(os.environ["DATABASE_URL"], hide_parameters=True)
    app = FastAPI()

    @app.post(
        "/organizations/{organization_id}/projects/{project_id}/snapshots",
        status_code=status.HTTP_201_CREATED,
        responses={status.HTTP_409_CONFLICT: {"model": PutAgain}},
    )
    def commit_snapshot(
        project_id: Annotated[int, Depends(may_upload)],
        snapshot: NewSnapshot,
        add_rows: Annotated[AddRows, Depends(rows_of)],
    ) -> Response:
        hashes = set(snapshot.images.values())
        with Session(backend) as session:
            artifact_id = add_rows(session, project_id, snapshot.images)
            missing = reserve_images(  # the last thing before COMMIT
                session, project_id=project_id, artifact_id=artifact_id, images=hashes, put_again=snapshot.put_again
            )
            if missing:
                session.rollback()
                answer = PutAgain(put_again={name: str(round_) for name, round_ in missing.items()})
                return JSONResponse(answer.model_dump(), status_code=status.HTTP_409_CONFLICT)
            session.commit()
        return JSONResponse({"artifact_id": artifact_id}, status_code=status.HTTP_201_CREATED)

    return app
