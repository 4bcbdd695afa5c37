"""Step 4: delete the artifacts' trace items, and count until there are none.

An event store accepts a deletion long before it happens, so the same request is made again until nothing is matched any more:
at once for stores that delete at once, by the workflow on a durable timer for all others.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func
from temporalio import activity

from activities.requests import between_requests
from activities.storage import ledger
from activities.storage.database import Database
from activities.storage.ledger import ChunkState, DeletionChunk
from activities.storage.traces import TraceStore
from workflows.errors import StaleAttempt, TraceStoreRefused
from workflows.messages import DELETE_TRACE_ITEMS, Chunk, TraceItemsAsked


@dataclass(frozen=True)
class DeleteTraceItems:
    """Needs the ledger and the trace store, if there is one."""

    database: Database
    traces: TraceStore | None

    @activity.defn(name=DELETE_TRACE_ITEMS.name, no_thread_cancel_exception=True)
    def delete_trace_items(self, chunk: Chunk) -> TraceItemsAsked:
        """What was matched, settled once nothing is matched any more. Raises TraceStoreUnavailable, TraceStoreRefused."""
        if self.traces is None:
            return TraceItemsAsked(matched=0, settled=True)
        with self.database.read() as session:
            found = ledger.read_chunk(session, chunk.deletion_id, chunk.chunk)
            organization_id = ledger.organization_of(session, chunk.deletion_id)
            if found.state != ChunkState.ROWS_DELETED:
                raise StaleAttempt(f"chunk {chunk.chunk}: its rows are not deleted")
            ledger.refuse_living(session, chunk.deletion_id, chunk.chunk)
            if found.trace_items_confirmed_at is not None:
                return TraceItemsAsked(matched=0, settled=True)
            trace_ids = defaultdict(list)
            for artifact in ledger.owned_artifacts(session, chunk.deletion_id, chunk.chunk, organization_id):
                trace_ids[artifact.project_id].append(artifact.trace_id)
        matched = still_matched = 0
        refusal = None
        for done, (project_id, ids) in enumerate(sorted(trace_ids.items())):
            between_requests(done, len(trace_ids))
            try:
                first = self.traces.delete(organization_id, project_id, ids)
                matched += first
                again = first and self.traces.deletes_at_once
                still_matched += self.traces.delete(organization_id, project_id, ids) if again else first
            except TraceStoreRefused as refused:  # the other projects' items go all the same
                refusal = refused
        if refusal is not None:
            raise refusal
        confirmed = still_matched == 0
        with self.database.write() as session:
            found = ledger.lock_chunk(session, chunk.deletion_id, chunk.chunk)
            if found.trace_items_confirmed_at is not None:  # by another attempt: the receipt may say when
                return TraceItemsAsked(matched=matched, settled=True)
            values: dict[str, Any] = {
                "trace_items_matched": DeletionChunk.trace_items_matched + (matched if _first_time(found) else 0)
            }
            if confirmed:
                values["trace_items_confirmed_at"] = func.now()
            session.execute(ledger.update_chunk(found).values(values), execution_options={"synchronize_session": False})
        return TraceItemsAsked(matched=matched, settled=confirmed)


def _first_time(found: DeletionChunk) -> bool:
    # Asking again matches again what is only accepted yet: the first count is what there was.
    return found.trace_items_matched == 0
