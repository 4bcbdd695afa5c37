"""What a hold on an artifact or a project keeps: it stays whole, and the rest of its deletion goes on.

An artifact is held by its id, or by the project in which it is, or was last if it has no row. One that was compared with it is
held along, since neither's rows could go without the comparison, whose objects may lie under the held one's prefix. What that
other one was compared with is not: its comparison goes with it, as ever. Of a report's deletion a head is held along too by the
base of a comparison that the report lists: its objects are both artifacts' own, and no row ties the two.

Collecting leaves out what is held, and delete_rows looks once more under its locks: where holds say something else by then, the
keys are collected again.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, String, and_, bindparam, cast, delete, exists, select, union
from sqlalchemy.orm import Session

from activities.backend.contract import Backend, places_of
from activities.ledger import reports
from activities.ledger.holds import On
from activities.ledger.image_schema import ImagePage
from activities.ledger.overlaps import OPEN, owes
from activities.ledger.schema import ChunkState, Deletion, DeletionArtifact, DeletionChunk, Hold, RowsState
from activities.one_of import one_of
from artifact_deletion.request import DeletionRequest


@dataclass(frozen=True)
class Kept:
    """The artifacts and projects that have a hold."""

    artifacts: Collection[int]
    projects: Collection[int]

    def keeps(self, artifact: int, project: int | None) -> bool:
        """Whether it is held for its own sake."""
        return artifact in self.artifacts or project in self.projects


IMAGES_HELD = "ImagesHeld"
"""The code of images that stay readable, since a hold is on their project."""
_NOT_LIFTED = Hold.lifted_at.is_(None)
_KEPT = select(Hold.on_what, Hold.on_id).where(Hold.on_what.in_([On.ARTIFACT, On.PROJECT]), _NOT_LIFTED)


def held_among(
    session: Session, backend: Backend, known: Mapping[int, int | None], organization_id: int, report: str | None = None
) -> dict[int, int | None]:
    """Of artifacts, given the projects in which they were last known, those that are held, and the projects now.

    One that is another organization's by now is not ours to keep. `report`: of the deletion, if it has one.
    """
    found = session.execute(_KEPT).all()
    if not found:
        return {}
    kept = Kept(*({int(on_id) for on, on_id in found if on == wanted} for wanted in (On.ARTIFACT, On.PROJECT)))
    places = places_of(backend.find(session, known.keys()), known, organization_id)
    ours = {artifact.id: artifact.project_id for artifact in places.owned} | dict.fromkeys(places.lost)
    tied = _tied(session, backend, ours) | (reports.leftovers_of(session, report, ours) if report is not None else set())
    others = backend.find(session, {other for _, other in tied})
    along = {one for one, other in tied if kept.keeps(other, others.get(other, (None,))[0])}
    return {artifact: project for artifact, project in ours.items() if artifact in along or kept.keeps(artifact, project)}


def _tied(session: Session, backend: Backend, artifacts: Collection[int]) -> set[tuple[int, int]]:
    """(artifact, other) of those that a row ties to another."""
    ties = [part.ties for part in backend.parts if part.ties is not None]
    return {(one, other) for tie in ties for one, other in session.execute(tie, {"artifacts": artifacts})}


# In a deletion --------------------------------------------------------------------------------------------------------

_OF_CHUNK = and_(DeletionChunk.deletion_id == DeletionArtifact.deletion_id, DeletionChunk.chunk == DeletionArtifact.chunk)
_LEFT = (
    select(DeletionArtifact.artifact_id, DeletionArtifact.project_id)
    .join(DeletionChunk, _OF_CHUNK)
    .where(
        DeletionArtifact.deletion_id == bindparam("of"),
        DeletionArtifact.rows_state == RowsState.HELD,
        DeletionChunk.state == ChunkState.ROWS_DELETED,
    )
)
_TAKE = (
    delete(DeletionArtifact)
    .where(
        DeletionArtifact.deletion_id == bindparam("of"),
        DeletionArtifact.rows_state == RowsState.HELD,
        one_of(DeletionArtifact.artifact_id, "artifacts"),
    )
    .execution_options(synchronize_session=False)
)


def left_by_holds(session: Session, deletion_id: str) -> dict[int, int | None]:
    """The artifacts that holds have kept out of a deletion, and the project in which each was."""
    return {row.artifact_id: row.project_id for row in session.execute(_LEFT, {"of": deletion_id})}


def take_out(session: Session, deletion_id: str, artifacts: Iterable[int]) -> None:
    """Take these out of the chunks that had left them, which owe nothing of theirs: they go into another."""
    session.execute(_TAKE, {"of": deletion_id, "artifacts": list(artifacts)})


# When holds are placed or lifted ---------------------------------------------------------------------------------------


def is_on(on: On, id_: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """Whether a hold is on the artifact or project with this id, as a column."""
    return exists(Hold.id).where(Hold.on_what == on, Hold.on_id == cast(id_, String), _NOT_LIFTED)


_LET_GO = union(
    select(DeletionArtifact.deletion_id).where(
        DeletionArtifact.rows_state == RowsState.HELD,
        ~is_on(On.ARTIFACT, DeletionArtifact.artifact_id),
        ~is_on(On.PROJECT, DeletionArtifact.project_id),
    ),
    select(ImagePage.deletion_id).where(
        ImagePage.left_over[IMAGES_HELD].as_integer() > 0, ~is_on(On.PROJECT, ImagePage.project_id)
    ),
)


def let_go(session: Session, deletion_id: str | None = None) -> list[DeletionRequest]:
    """Open and failed deletions, or the one of them, that hold back what no hold is on any more: a re-run takes it.

    One that was held along counts too, without a look at what it was compared with: a re-run looks, and may leave it again.
    """
    found = select(Deletion.request).where(Deletion.id.in_(_LET_GO), Deletion.state.in_(OPEN)).order_by(Deletion.accepted_at)
    if deletion_id is not None:
        found = found.where(Deletion.id == deletion_id)
    return [DeletionRequest.model_validate(request) for request in session.execute(found).scalars()]


def came_too_late(session: Session, on: On, on_id: int) -> list[str]:
    """Digests of open deletions that owe objects of the artifact or project, whose rows are gone. At most twenty."""
    column = DeletionArtifact.artifact_id if on is On.ARTIFACT else DeletionArtifact.project_id
    found = (
        select(Deletion.id)
        .join(DeletionArtifact, DeletionArtifact.deletion_id == Deletion.id)
        .join(DeletionChunk, _OF_CHUNK)
        .where(
            column == on_id,
            DeletionArtifact.rows_state.in_([RowsState.DELETED, RowsState.GONE, RowsState.COMPARED]),
            DeletionChunk.state == ChunkState.ROWS_DELETED,
            Deletion.state.in_(OPEN),
            owes(traces_configured=False),
        )
    )
    return list(session.execute(found.distinct().order_by(Deletion.id).limit(20)).scalars())
