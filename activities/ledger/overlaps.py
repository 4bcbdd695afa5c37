"""What several deletions have to do with each other: one must not call an artifact gone whose objects another still owes."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, bindparam, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from activities.backend.contract import PrefixKind
from activities.ledger.schema import (
    STAYING,
    ChunkState,
    Deletion,
    DeletionArtifact,
    DeletionChunk,
    DeletionPage,
    DeletionPrefix,
    RowsState,
)
from activities.one_of import one_of
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import DeletionRequest, workflow_id

OPEN = (DeletionState.RUNNING, DeletionState.FAILED)
_OTHER = (Deletion.id, Deletion.organization_id, Deletion.fence, Deletion.state)


def owes(*, traces_configured: bool) -> ColumnElement[bool]:
    """True for a chunk that owes anything: rows, pages, prefixes or trace items."""
    kinds = [DeletionChunk.state == ChunkState.OPEN, _owes_objects()]
    if traces_configured:
        kinds.append(DeletionChunk.trace_items_confirmed_at.is_(None))
    return or_(*kinds)


def _owes_objects() -> ColumnElement[bool]:
    page = and_(DeletionPage.deletion_id == DeletionChunk.deletion_id, DeletionPage.chunk == DeletionChunk.chunk)
    prefix = and_(DeletionPrefix.deletion_id == DeletionChunk.deletion_id, DeletionPrefix.chunk == DeletionChunk.chunk)
    return or_(exists().where(page), exists().where(prefix))


@dataclass(frozen=True)
class OtherDeletion:
    """A deletion that took rows of ours or their comparisons, and still owes objects or trace items of those artifacts."""

    id: str
    organization_id: int
    fence: int
    state: str
    artifacts: int

    @property
    def workflow_id(self) -> str:
        """Under which Temporal runs it."""
        return workflow_id(self.organization_id, self.id)


@cache
def _owing(*, traces_configured: bool) -> Select[str, int, int, str, int]:
    ours, theirs, own = aliased(DeletionArtifact), aliased(DeletionArtifact), aliased(Deletion)
    trace_items = [DeletionChunk.trace_items_confirmed_at.is_(None)] if traces_configured else []
    deleted = and_(theirs.rows_state == RowsState.DELETED, or_(_owes_objects(), *trace_items))
    # One that stays may be compared with one that does not, whose chunk is the same: it says so of one of the two.
    compared = and_(theirs.rows_state.in_([RowsState.COMPARED, *STAYING]), _owes_objects())
    return (
        select(*_OTHER, func.count(ours.artifact_id.distinct()))
        .select_from(ours)
        .join(theirs, and_(theirs.artifact_id == ours.artifact_id, theirs.deletion_id != ours.deletion_id))
        .join(Deletion, Deletion.id == theirs.deletion_id)
        .join(own, own.id == ours.deletion_id)
        .join(DeletionChunk, and_(DeletionChunk.deletion_id == theirs.deletion_id, DeletionChunk.chunk == theirs.chunk))
        .where(
            ours.deletion_id == bindparam("of"),
            ours.rows_state.in_([RowsState.DELETED, RowsState.GONE]),  # it may have come back, and they took it then
            Deletion.state.in_(OPEN),
            Deletion.organization_id == own.organization_id,
            DeletionChunk.state == ChunkState.ROWS_DELETED,
            or_(deleted, compared),
        )
        .group_by(*_OTHER)
        .order_by(Deletion.id)
    )


def deletions_owing(session: Session, deletion_id: str, *, traces_configured: bool) -> list[OtherDeletion]:
    """The other deletions that still owe anything of artifacts that this one deleted or found gone.

    A comparison's objects are its head's and its base's: where another deletion took the head, no row tells us of them.
    """
    found = session.execute(_owing(traces_configured=traces_configured), {"of": deletion_id})
    return [OtherDeletion(*row) for row in found]


def open_deletions_of(session: Session, request: DeletionRequest) -> list[str]:
    """Workflow ids of the organization's other open or failed deletions that have artifacts of this request, at most twenty."""
    others = (
        select(Deletion.id)
        .join(DeletionArtifact, DeletionArtifact.deletion_id == Deletion.id)
        .where(
            one_of(DeletionArtifact.artifact_id, request.artifact_ids),
            DeletionArtifact.rows_state != RowsState.COMPARED,
            Deletion.organization_id == request.organization_id,
            Deletion.id != request.deletion_id,
            Deletion.state.in_(OPEN),
        )
        .distinct()
    )
    found = session.execute(others).scalars()
    return [workflow_id(request.organization_id, one) for one in sorted(found)][:20]


@cache
def _artifacts_owed(*, traces_configured: bool) -> Select[int]:
    return (
        select(DeletionArtifact.artifact_id)
        .join(Deletion, Deletion.id == DeletionArtifact.deletion_id)
        .join(
            DeletionChunk,
            and_(DeletionChunk.deletion_id == DeletionArtifact.deletion_id, DeletionChunk.chunk == DeletionArtifact.chunk),
        )
        .where(
            one_of(DeletionArtifact.artifact_id, "artifacts"),
            DeletionArtifact.project_id == bindparam("project"),
            DeletionArtifact.rows_state != RowsState.COMPARED,
            Deletion.organization_id == bindparam("organization"),
            Deletion.state.in_(OPEN),
            owes(traces_configured=traces_configured),
        )
    )


_SHARED_KEYS = DeletionPrefix.scope + DeletionPrefix.prefix
_SHARED_KEYS_OWED = (
    select(_SHARED_KEYS)
    .join(Deletion, Deletion.id == DeletionPrefix.deletion_id)
    .where(one_of(_SHARED_KEYS, "keys"), DeletionPrefix.kind == PrefixKind.SHARED, Deletion.state.in_(OPEN))
)


def artifacts_owed(
    session: Session, artifact_ids: Collection[int], organization_id: int, project_id: int, *, traces_configured: bool = False
) -> set[int]:
    """Of these artifacts, those of whose chunk an open or failed deletion still owes rows or objects, in this project.

    With `traces_configured`, those too of which it owes trace items alone.
    """
    of = {"artifacts": artifact_ids, "organization": organization_id, "project": project_id}
    return set(session.execute(_artifacts_owed(traces_configured=traces_configured), of).scalars())


def shared_keys_owed(session: Session, keys: Collection[str]) -> set[str]:
    """Of these physical keys, those that an open or failed deletion deletes unless a row names them."""
    return set(session.execute(_SHARED_KEYS_OWED, {"keys": keys}).scalars())


def deleted_by_others(session: Session, deletion_id: str) -> list[tuple[int, str]]:
    """(artifact, workflow id) for artifacts that this deletion found gone and another one of the organization had deleted."""
    ours, theirs = aliased(DeletionArtifact), aliased(DeletionArtifact)
    rows = session.execute(
        select(ours.artifact_id, Deletion.organization_id, Deletion.id)
        .select_from(ours)
        .join(theirs, and_(theirs.artifact_id == ours.artifact_id, theirs.deletion_id != ours.deletion_id))
        .join(Deletion, Deletion.id == theirs.deletion_id)
        .where(
            ours.deletion_id == bindparam("of"),
            ours.rows_state == RowsState.GONE,
            theirs.rows_state == RowsState.DELETED,
            Deletion.organization_id == _own_organization(),
        )
        .distinct(),
        {"of": deletion_id},
    )
    return [(artifact, workflow_id(organization, other)) for artifact, organization, other in rows]


def _own_organization() -> ScalarSelect[int]:
    own = aliased(Deletion)
    return select(own.organization_id).where(own.id == bindparam("of")).scalar_subquery()


def known_places(session: Session, request: DeletionRequest) -> dict[int, int]:
    """Project by artifact, where an earlier run of the same deletion wrote it down."""
    rows = session.execute(
        select(DeletionArtifact.artifact_id, DeletionArtifact.project_id).where(
            DeletionArtifact.deletion_id == request.deletion_id, DeletionArtifact.project_id.is_not(None)
        )
    )
    return {row.artifact_id: row.project_id for row in rows if row.project_id is not None}
