"""Step 4: delete the artifacts' trace items, and ask until none is counted.

An event store accepts a deletion long before it happens, so the same request is made again until nothing is matched any more:
after a pause of the step, unless the store deletes at once.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, update
from sqlalchemy.orm import Session
from temporalio import activity

from activities.backend.contract import ArtifactRef
from activities.database import Database
from activities.ledger import chunks
from activities.ledger.schema import DeletionChunk, RowsState, clock, of_chunk
from activities.living import Living
from activities.plan_of_report import leave_what_came_back
from activities.run_all import between_requests, run_of_step
from activities.stores.guards import HoldWatch
from activities.stores.traces import TraceStore
from artifact_deletion.errors import NotYet, TraceStoreRefused
from workflows.steps import DELETE_TRACE_ITEMS, Chunk, TraceItemsDeleted

_LONGEST_PAUSE = timedelta(minutes=15)
_NOTE = update(DeletionChunk).where(*of_chunk(DeletionChunk), DeletionChunk.fence == bindparam("of_fence"))
_NOTE = _NOTE.where(DeletionChunk.trace_items_confirmed_at.is_(None)).execution_options(synchronize_session=False)


@dataclass(frozen=True)
class DeleteTraceItems:
    """Needs the ledger and the trace store, if there is one."""

    database: Database
    traces: TraceStore | None
    watch: HoldWatch
    living: Living
    pause: timedelta
    """Before items are counted again, at first; then as long as they were counted so far, up to a quarter of an hour."""
    within: timedelta
    """Items that are still counted so long after the first request are reported as unconfirmed."""

    @activity.defn(name=DELETE_TRACE_ITEMS.name, no_thread_cancel_exception=True)
    def delete_trace_items(self, chunk: Chunk) -> TraceItemsDeleted:
        """Returns once none is counted or their time is over. Raises NotYet, TraceStoreUnavailable, TraceStoreRefused, Held."""
        if self.traces is None:
            return TraceItemsDeleted(matched=0, confirmed=False)
        if chunk.report is not None:
            with self.database.write() as session:
                released = chunks.lock_released(session, chunk)
                leave_what_came_back(session, self.living.backend, chunk, released, chunk.report)
        with self.database.read() as session:
            found = self.living.read_released(session, chunk)
            if found.trace_items_confirmed_at is not None:
                return TraceItemsDeleted(matched=found.trace_items_matched, confirmed=True)
            owned = _owned(session, chunk)
        matched, left = self._ask(chunk, self.traces, owned)
        # A step that was held, or is another run's, is another step: time in which no one asked does not count.
        before, step = found.trace_items_matched, f"{run_of_step()} {activity.info().activity_id}"
        asked_at = found.trace_items_asked_at if found.trace_items_asked_by == step else None
        with self.database.write() as session:
            values: dict[str, Any] = {"trace_items_matched": max(matched, before)}
            if left == 0:
                values |= {"trace_items_confirmed_at": clock()}
            if asked_at is None:
                values |= {"trace_items_asked_at": clock(), "trace_items_asked_by": step}
            of = {"of": chunk.deletion_id, "of_chunk": chunk.chunk, "of_fence": chunk.fence}
            session.execute(_NOTE.values(values), of)
        if left:
            asked_for = found.now - (asked_at or found.now)
            if asked_for < self.within:
                pause = min(max(self.pause, asked_for), _LONGEST_PAUSE, self.within)
                raise NotYet(f"{left:,} trace items are still counted; they are counted again in a while", pause)
        return TraceItemsDeleted(matched=max(matched, before), confirmed=left == 0)

    def _ask(self, chunk: Chunk, traces: TraceStore, owned: list[ArtifactRef]) -> tuple[int, int]:
        """(matched, left) of all projects together. One project's refusal is raised after all others were asked for."""
        by_project = defaultdict[int, list[str]](list)
        for artifact in owned:
            by_project[artifact.project_id].append(self.living.backend.trace_id(artifact))
        matched = left = 0
        refusal: TraceStoreRefused | None = None

        def before() -> None:
            self.watch.refuse_held(chunk.organization_id, chunk.deletion_id)

        for done, (project_id, ids) in enumerate(sorted(by_project.items())):
            between_requests(done, len(by_project))
            try:
                of_project, still_there = traces.delete(chunk.organization_id, project_id, ids, before)
                matched += of_project
                left += still_there
            except TraceStoreRefused as refused:
                refusal = refused
        if refusal is not None:
            raise refusal
        return matched, left


def _owned(session: Session, chunk: Chunk) -> list[ArtifactRef]:
    """The artifacts whose trace items are to be deleted: rows deleted by the chunk, or gone with a known project."""
    return [
        ArtifactRef(chunk.organization_id, artifact.project_id, artifact.id)
        for artifact in chunks.artifacts_of(session, chunk)
        if artifact.project_id is not None and artifact.rows_state in {RowsState.DELETED, RowsState.GONE}
    ]
