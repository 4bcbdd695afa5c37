"""Step 0: write the deletion down, refuse what may not be asked, and cut the rest into chunks."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio import activity

from activities.storage import ledger
from activities.storage.database import Database, one_of
from activities.storage.drift import Schema
from activities.storage.ledger import DeletionState
from activities.storage.tables import Artifact, Project
from workflows.errors import ArtifactNotInOrganization, ProjectNotInOrganization
from workflows.messages import OPEN_DELETION, DeletionRequest, Opened, Pace, UnfinishedChunk

_IDS_SHOWN = 10
_PLACES = (
    select(Artifact.id, Artifact.project_id, Project.organization_id)
    .join(Project, Project.id == Artifact.project_id)
    .where(one_of(Artifact.id, "artifacts"))
)


@dataclass(frozen=True)
class OpenDeletion:
    """Needs the database alone: nothing is read from the store before the request is known to be allowed."""

    database: Database
    schema: Schema
    chunk_size: int
    traces_configured: bool
    pace: Pace

    @activity.defn(name=OPEN_DELETION.name, no_thread_cancel_exception=True)
    def open_deletion(self, request: DeletionRequest) -> Opened:
        """Returns what is left to do, at first everything. Raises ArtifactNotInOrganization, SchemaDrift and others."""
        self.schema.refuse_unknown_tables()
        try:
            return self._open(request)
        except (ArtifactNotInOrganization, ProjectNotInOrganization):
            with self.database.write() as session:
                ledger.accept(session, request)
                ledger.set_state(session, request.deletion_id, DeletionState.REFUSED)
            raise

    def _open(self, request: DeletionRequest) -> Opened:
        with self.database.write() as session:
            state = ledger.lock_deletion(session, request.deletion_id)
            if state is None:
                ledger.accept(session, request)
                state = ledger.lock_deletion(session, request.deletion_id)
            ledger.refuse_cancelled_run(session, request.deletion_id, activity.info().workflow_run_id or "")
            first_time = not ledger.has_chunks(session, request.deletion_id)
            if first_time:
                places = _places(session, request)
                asked = [(artifact, places.get(artifact, request.project_id)) for artifact in request.artifact_ids]
            else:
                # Rows that came back, from a backup or another organization, are deleted again.
                settled = ledger.settled_artifacts(session, request.deletion_id)
                asked = [pair for pair in ledger.living_artifacts(session, request).items() if pair[0] in settled]
            made = ledger.make_chunks(session, request.deletion_id, asked, self.chunk_size, again=not first_time)
            if state is not DeletionState.CLOSED or asked:
                ledger.set_state(session, request.deletion_id, DeletionState.RUNNING)
            if first_time:
                chunks, rows = [UnfinishedChunk(chunk=chunk, released=None, swept=False) for chunk in made], 0
            else:
                rows = ledger.rows_deleted(session, request.deletion_id)
                chunks = ledger.unfinished_chunks(session, request.deletion_id, traces_configured=self.traces_configured)
        return Opened(chunks=tuple(chunks), rows_deleted=rows, pace=self.pace)


def _places(session: Session, request: DeletionRequest) -> dict[int, int]:
    """Project by artifact, of those that exist. Raises if any of them, or the request's project, is another organization's."""
    refuse_foreign_project(session, request)
    places, foreign = places_and_foreign(session, request)
    if foreign:
        raise not_in_organization(request, foreign)
    return places


def refuse_foreign_project(session: Session, request: DeletionRequest) -> None:
    """Raises ProjectNotInOrganization."""
    if request.project_id is not None:
        owner = session.execute(select(Project.organization_id).where(Project.id == request.project_id)).scalar_one_or_none()
        if owner not in {None, request.organization_id}:
            raise ProjectNotInOrganization(
                f"project {request.project_id} is not one of organization {request.organization_id}; nothing was deleted"
            )


def places_and_foreign(session: Session, request: DeletionRequest) -> tuple[dict[int, int], list[int]]:
    """Project by artifact, of those that exist, and those of them that are another organization's."""
    places, foreign = {}, []
    for artifact, project, organization in session.execute(_PLACES, {"artifacts": request.artifact_ids}):
        places[artifact] = project
        if organization != request.organization_id:
            foreign.append(artifact)
    return places, foreign


def not_in_organization(request: DeletionRequest, foreign: list[int]) -> ArtifactNotInOrganization:
    """The error that names the first of them."""
    shown = ", ".join(map(str, sorted(foreign)[:_IDS_SHOWN])) + (" …" if len(foreign) > _IDS_SHOWN else "")
    return ArtifactNotInOrganization(
        f"{len(foreign)} of {len(request.artifact_ids)} artifacts do not belong to organization "
        f"{request.organization_id} ({shown}); nothing was deleted"
    )
