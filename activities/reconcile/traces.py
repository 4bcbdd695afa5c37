"""Trace items of a project beside its rows: those of an artifact that has none are left behind.

A trace id is made from an artifact's id, and no way leads back. So ids are tried: those of the project's rows, those that the
listing of objects has shown, and while traces are left, one after the other down from the highest that has a row.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice

from sqlalchemy.orm import Session

from activities.backend.contract import ArtifactRef, Backend
from activities.database import Database
from activities.reconcile.facts import Project, facts_of_artifacts
from activities.reconcile.judge import Class, judge_trace
from activities.reconcile.rows import artifacts_of
from activities.reconcile.stored import Sum, sum_of_items
from activities.reconcile.tally import Tally
from activities.run_all import between_requests
from activities.stores.traces import ListsTraces

_IDS_TRIED = 10_000_000
"""At most. Where ids are no numbers in a row, most of them would be in vain."""
_IDS_AT_A_TIME = 1000


@dataclass(frozen=True)
class CheckTraces:
    """Counts in the tally. Its listed artifacts are tried too, so the listing of objects comes before."""

    database: Database
    backend: Backend
    traces: ListsTraces
    project: Project
    older_than: timedelta
    now: datetime
    tally: Tally

    def check(self) -> Iterator[int]:
        """How many traces were listed, then how many ids tried. Raises TraceStoreUnavailable, TraceStoreRefused.

        Then nothing is counted.
        """
        listed = tried = 0
        for page in self.traces.list_traces(self.project.organization_id, self.project.id):
            self.tally.add_traces(page)
            between_requests(listed := listed + len(page), 0)
            yield listed
        candidates = self._candidates()
        while ids := list(islice(candidates, _IDS_AT_A_TIME)):
            if not self.tally.has_traces():
                return
            self._try(ids)
            between_requests(tried := tried + len(ids), 0)
            yield tried
        unknown = self.tally.traces()
        while part := list(islice(unknown, _IDS_AT_A_TIME)):
            total = Sum()
            for trace in part:
                total.add(sum_of_items(trace, self.now))
            self.tally.add({(Class.TRACE_UNKNOWN, 0): total})
            between_requests(tried, 0)

    def _candidates(self) -> Iterator[int]:
        rows = artifacts_of(self.database, self.backend, self.project)
        return chain(rows, self.tally.artifacts(), self._downward())

    def _downward(self) -> Iterable[int]:
        with self.database.read() as session:
            highest = _highest(session, self.backend)
        yield from range(highest, max(0, highest - _IDS_TRIED), -1)

    def _try(self, ids: Sequence[int]) -> None:
        place = self.project.organization_id, self.project.id
        artifacts = {self.backend.trace_id(ArtifactRef(*place, one)): one for one in ids}
        if not (found := self.tally.take_traces(list(artifacts))):
            return
        with self.database.read(snapshot=True) as session:
            facts = facts_of_artifacts(session, self.backend, self.project, {artifacts[one.id] for one in found})
        for trace in found:
            artifact, items = artifacts[trace.id], sum_of_items(trace, self.now)
            judged = judge_trace(artifact, facts, is_old=items.is_older(self.older_than, self.now))
            self.tally.add({(judged, artifact): items})


def _highest(session: Session, backend: Backend) -> int:
    """Of all projects' artifacts."""
    artifact, *_ = backend.living.selected_columns
    return (
        session.execute(
            backend.living.with_only_columns(artifact, maintain_column_froms=True).order_by(artifact.desc()).limit(1)
        ).scalar()
        or 0
    )
