"""Artifacts that have rows again: their objects are left alone, whatever the ledger owes of them.

A restored backup or a second transfer can bring rows back. Each step that touches a store looks here first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, bindparam, func, select
from sqlalchemy.orm import Session, aliased

from activities.backend.contract import Backend
from activities.ledger.schema import ChunkState, DeletionArtifact, DeletionChunk, RowsState, clock, of_chunk
from artifact_deletion.errors import ArtifactReappeared, NotOpen, NotYet, StaleAttempt
from workflows.steps import Chunk

_SOON = timedelta(seconds=2)
_COLUMNS = (
    DeletionChunk.sealed,
    DeletionChunk.deleted + DeletionChunk.absent + DeletionChunk.kept,
    DeletionChunk.listed,
    DeletionChunk.rows_deleted_at,
    DeletionChunk.trace_items_matched,
    DeletionChunk.trace_items_asked_at,
    DeletionChunk.trace_items_asked_by,
    DeletionChunk.trace_items_confirmed_at,
    clock(),
)


@dataclass(frozen=True)
class ReleasedChunk:
    """A chunk whose rows are deleted, as it was read."""

    sealed: int
    settled: int
    """Of its sealed keys: deleted, absent or kept."""
    listed: Mapping[str, int]
    rows_deleted_at: datetime
    trace_items_matched: int
    trace_items_asked_at: datetime | None
    trace_items_asked_by: str | None
    trace_items_confirmed_at: datetime | None
    now: datetime
    """The database's clock when it was read."""


class Living:
    """Statements that join the ledger's artifacts with the backend's, made once."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        living = backend.living.subquery()
        artifact_id, _, organization_id = living.columns
        again, open_chunk = aliased(DeletionArtifact), aliased(DeletionChunk)
        of_ours = and_(*of_chunk(DeletionArtifact), artifact_id == DeletionArtifact.artifact_id)
        mine = DeletionArtifact.rows_state.in_([RowsState.PENDING, RowsState.DELETED, RowsState.GONE])
        alive = select(func.count()).select_from(DeletionArtifact).join(living, of_ours).where(mine)
        going = (
            alive.join(again, and_(again.deletion_id == DeletionArtifact.deletion_id, again.artifact_id == artifact_id))
            .join(open_chunk, and_(open_chunk.deletion_id == again.deletion_id, open_chunk.chunk == again.chunk))
            .where(open_chunk.state == ChunkState.OPEN, again.rows_state != RowsState.COMPARED)
        )
        self._released = select(alive.scalar_subquery(), DeletionChunk.state, *_COLUMNS).where(
            *of_chunk(DeletionChunk), DeletionChunk.fence == bindparam("of_fence")
        )
        self._back = select(alive.scalar_subquery(), going.scalar_subquery())
        self._of_deletion = (
            select(
                DeletionArtifact.artifact_id,
                DeletionArtifact.chunk,
                DeletionArtifact.project_id,
                DeletionArtifact.rows_state,
                organization_id,
            )
            .outerjoin(living, artifact_id == DeletionArtifact.artifact_id)
            .where(DeletionArtifact.deletion_id == bindparam("of"), DeletionArtifact.rows_state != RowsState.COMPARED)
            .order_by(DeletionArtifact.chunk)
        )

    def read_released(self, session: Session, chunk: Chunk) -> "ReleasedChunk":
        """The chunk, if its rows are deleted and none of its artifacts has a row again.

        Raises ArtifactReappeared if one has; NotYet while further chunks of the same deletion are about to delete those rows.
        """
        values = {"of": chunk.deletion_id, "of_chunk": chunk.chunk, "of_fence": chunk.fence}
        row = session.execute(self._released, values).one_or_none()
        if row is None:
            raise NotOpen("this deletion was cancelled since; nothing of this step was done")
        alive, state, *columns = row
        if state != ChunkState.ROWS_DELETED:
            raise StaleAttempt(f"chunk {chunk.chunk}: its rows are not deleted")
        going = 0
        if alive:  # hardly ever: the database takes longer to plan this than all else
            alive, going = session.execute(self._back, values).one()
        if alive > going:
            raise ArtifactReappeared(
                f"{alive} artifacts whose rows were gone have rows again; objects are left alone until a re-run deletes these, "
                "or, where they are another organization's, until they are deleted there"
            )
        if alive:
            raise NotYet(f"the rows of {alive} artifacts that came back are deleted first", _SOON)
        return ReleasedChunk(*columns)

    def of_deletion(self, session: Session, deletion_id: str) -> "list[Standing]":
        """Each artifact in each of its chunks, in the order of chunks."""
        rows = session.execute(self._of_deletion, {"of": deletion_id})
        return [Standing(artifact, chunk, project, RowsState(state), now) for artifact, chunk, project, state, now in rows]


@dataclass(frozen=True)
class Standing:
    """How an artifact stands in one chunk of a deletion."""

    id: int
    chunk: int
    project_id: int | None
    rows_state: RowsState
    organization_now: int | None
    """Where it has a row; None if it has none."""
