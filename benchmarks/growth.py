"""What a key costs us, from a thousand to a million of them, against a store that answers at once."""

import statistics
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import text

from artifact_deletion.request import DeletionRequest
from benchmarks.bulk import delete_ours
from benchmarks.data import Doomed
from benchmarks.measure import ContenderFailed, cpu_s
from benchmarks.stage import Stage
from benchmarks.store import InstantStore
from demo.servers import POLL_INTERVAL
from tests.stack import recorded

_SIZE = text(
    "SELECT COALESCE(SUM(octet_length(keys)), 0), pg_total_relation_size('artifact_deletion.artifact_deletion_page') "
    "FROM artifact_deletion.artifact_deletion_page"
)
_LEFT = text(
    "SELECT (SELECT COUNT(*) FROM artifact_deletion.artifact_deletion_page) + "
    "(SELECT COUNT(*) FROM artifact_deletion.artifact_deletion_prefix)"
)


@contextmanager
def ledger_watched(stage: Stage, most: dict[str, int]) -> Iterator[None]:
    """Put down how large the pages' table becomes: bytes of packed keys, and bytes on disk with index and overhead."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(POLL_INTERVAL * 3):
            with stage.database.read() as session:
                packed, on_disk = session.execute(_SIZE).one()
            most["packed"], most["on_disk"] = max(most["packed"], int(packed)), max(most["on_disk"], int(on_disk))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


async def growth(stage: Stage, *, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """So many rounds of all sizes. Returns medians by size."""
    runs = defaultdict[str, list[dict[str, float]]](list)
    with InstantStore(stage.folder / "instant") as store:
        for _ in range(rounds):
            for size in sizes:
                runs[str(size)].append(await _grown(stage, store, Doomed(size)))
    results = {
        size: {figure: statistics.median(run[figure] for run in of_size) for figure in of_size[0]}
        for size, of_size in runs.items()
    }
    if any(run["rows_left"] for of_size in runs.values() for run in of_size):
        raise ContenderFailed("ours: the ledger still has pages or prefixes")
    return {"rounds": rounds, "sizes": results}


async def _grown(stage: Stage, store: InstantStore, doomed: Doomed) -> dict[str, float]:
    """By a worker of its own, whose peak of memory is then that of this size."""
    store.hold(doomed)
    stage.insert_rows(doomed)
    with psycopg.connect(stage.dsn, autocommit=True) as connection:
        connection.execute("VACUUM FULL artifact_deletion.artifact_deletion_page")
    most = {"packed": 0, "on_disk": 0}
    with stage.worker(f"worker-{doomed.keys}", s3_endpoint=store.endpoint) as worker:
        with ledger_watched(stage, most):
            cost, request = await delete_ours(stage, worker.pid, doomed, store.pid)
        whole = cpu_s([worker.pid])
    if recorded(stage.database, request.workflow_id).receipt is None:
        raise ContenderFailed("ours: no receipt")
    with stage.database.read() as session:
        left = session.execute(_LEFT).scalar_one()
    return vars(cost) | most | {"whole_cpu_s": whole, "rows_left": left} | await history_of(stage, request)


async def history_of(stage: Stage, request: DeletionRequest) -> dict[str, int]:
    """Events and bytes of the deletion's last run, and bytes of the longest event but the first, which has the request.

    No payload is longer than the event that it is in.
    """
    handle = stage.client.get_workflow_handle(request.workflow_id)
    info = (await handle.describe()).raw_description.workflow_execution_info
    _, *events = [event.ByteSize() async for event in handle.fetch_history_events()]
    return {"events": info.history_length, "history_bytes": info.history_size_bytes, "longest_event_bytes": max(events)}
