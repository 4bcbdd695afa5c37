"""What a report's deletion would take: places of artifacts that have no row, and of comparisons that have none.

No row goes, and no key that one names. Steps look again for rows before they delete: what has one again stays.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from activities.backend.contract import ArtifactRef, Backend, Names, OwnPrefix, Places
from activities.database import Database
from activities.ledger import chunks, prefixes, reports
from activities.ledger.prefixes import Look, Prefix
from activities.ledger.schema import STAYING, DeletionChunk, PrefixState, RowsState
from activities.plan import Plan
from activities.run_all import run_of_step
from activities.stores.guards import BeforeDeleting, guarded
from activities.stores.objects import Found, ObjectStore, Outcome
from activities.stores.written_before import WrittenBefore
from workflows.steps import Chunk

REAPPEARED = "Reappeared"
"""The code of a comparison that has a row again, and of which objects may be gone."""


def plan_of_report(session: Session, backend: Backend, report_id: str, artifact_ids: Collection[int]) -> Plan:
    """Artifacts that have a row by now, wherever it is, count as moved: of them only comparisons go that the report lists."""
    report = reports.get(session, report_id)
    heads = {head for head, _ in reports.leftovers_of(session, report_id, artifact_ids)}
    stay = heads | backend.find(session, artifact_ids).keys()
    going = dict.fromkeys((one for one in artifact_ids if one not in stay), report.project_id)
    places, names = backend.survey(session, going, report.organization_id)
    own = [*backend.own_prefixes(places, names), *_comparisons(session, backend, report_id, artifact_ids)]
    return Plan(Places(gone=places.gone, moved=sorted(stay)), Names(), own)


def leave_what_came_back(session: Session, backend: Backend, chunk: Chunk, found: DeletionChunk, report_id: str) -> None:
    """Nothing is deleted any more of what has a row again. The chunk is locked."""
    ids = [one.id for one in chunks.artifacts_of(session, chunk) if one.rows_state not in STAYING]
    living = backend.find(session, ids)
    chunks.set_artifacts(session, chunk, living, rows_state=RowsState.MOVED)
    prefixes.forget_artifacts(session, found, living)
    compared = prefixes.named_by_rows(session, found).difference(_comparisons(session, backend, report_id, ids))
    if compared:
        _leave_compared(session, chunk, found, {one.name for one in compared})


def _leave_compared(session: Session, chunk: Chunk, found: DeletionChunk, names: Collection[str]) -> None:
    """What was not looked at yet is whole. The rest is left over, until a re-run says that a person has seen it."""
    run_id = run_of_step()
    back = [one for one in prefixes.prefixes_to_sweep(session, chunk) if one.name in names and not one.was_left_over_by(run_id)]
    touched = {one.prefix: one for one in back if one.looks and not _was_said(one)}  # one for all usecases
    prefixes.forget(session, found, (one for one in back if one is not touched.get(one.prefix)))
    looks = [(one, Look(PrefixState.LEFT_OVER, {REAPPEARED: 1})) for one in touched.values()]
    prefixes.settle_prefixes(session, found, looks, run_id)


def _was_said(prefix: Prefix) -> bool:
    return prefix.state is PrefixState.LEFT_OVER and REAPPEARED in prefix.codes


def _comparisons(session: Session, backend: Backend, report_id: str, artifact_ids: Collection[int]) -> list[OwnPrefix]:
    """Those that the report lists under these artifacts, and that have no row."""
    if not (listed := reports.leftovers_of(session, report_id, artifact_ids)):
        return []
    report = reports.get(session, report_id)
    place = report.organization_id, report.project_id
    return backend.without_rows(session, [(ArtifactRef(*place, head), base) for head, base in listed])


class _ComparedAgain(Exception):
    """A comparison has a row again; it never leaves this file."""


@dataclass(frozen=True)
class LeftoverListings(WrittenBefore):
    """The folder of one comparison, of which nothing is deleted once it has a row again."""

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        """See Listings."""
        try:
            return super().delete_found(found)
        except _ComparedAgain:
            return Outcome(refused={one.key: REAPPEARED for one in found})


@dataclass(frozen=True)
class OfReport:
    """The store, as a report's deletion may use it: it deletes nothing that was written later."""

    database: Database
    backend: Backend
    store: ObjectStore
    before: BeforeDeleting
    report: reports.Recorded

    def listings(self) -> WrittenBefore:
        """For what artifacts own."""
        return WrittenBefore(guarded(self.store, self.before), self.report.written_before)

    def leftover(self, comparison: OwnPrefix) -> LeftoverListings:
        """For a comparison: its row is looked for once more right before each request that deletes."""

        def look_again(keys: int) -> None:
            self.before(keys)  # it may wait, and the row come meanwhile
            with self.database.read() as session:
                if not self._is_left(session, comparison):
                    raise _ComparedAgain

        return LeftoverListings(guarded(self.store, look_again), self.report.written_before)

    def _is_left(self, session: Session, comparison: OwnPrefix) -> bool:
        place = self.report.organization_id, self.report.project_id
        owner = self.backend.owner_of(comparison.prefix, *place)
        left = self.backend.without_rows(session, [(ArtifactRef(*place, owner.artifact), owner.base)])
        return comparison.name in {one.name for one in left}
