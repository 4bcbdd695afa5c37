"""Several worker processes on the same queues: what they do together, and that they do nothing twice.

Counted at a store that answers at once: a real one on the same machine would be what all of them wait for.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.data import Doomed
from benchmarks.many import delete_all, small_ones
from benchmarks.measure import ContenderFailed, cpu_s
from benchmarks.stage import Stage
from benchmarks.store import Asked, InstantStore


def asked_for(asked: Sequence[Asked]) -> tuple[int, int, int]:
    """Keys that were asked for, those that were asked for twice, and apart from them archives.

    An archive lies among others', so that no listing of a prefix can confirm that it is gone: it is deleted once more instead.
    """
    times = Counter(key for one in asked for key in one.keys)
    again = {key for key, count in times.items() if count > 1}
    archives = {key for key in again if "/snapshot_archives/" in key and times[key] == 2}  # noqa: PLR2004
    return len(times), len(again - archives), len(archives)


async def workers(stage: Stage, *, counts: Sequence[int], keys: int, small: int) -> dict[str, Any]:
    """One deletion of so many keys, then so many small ones at once. Raises ContenderFailed if a key was asked for twice."""
    results: dict[str, Any] = {}
    for processes in counts:
        with InstantStore(stage.folder / f"workers-{processes}", logs=True) as store, contextlib.ExitStack() as stack:
            names = [f"workers-{processes}-{number}" for number in range(processes)]
            pids = [stack.enter_context(stage.worker(name, s3_endpoint=store.endpoint)).pid for name in names]
            for what, doomed in ((f"1 of {keys:,} keys", [Doomed(keys)]), (f"{small} of 50 keys", small_ones(small))):
                for one in doomed:
                    store.hold(one)
                stage.insert_rows(*doomed)
                before, used, began = len(store.asked()), cpu_s(pids), time.perf_counter()
                await delete_all(stage, doomed)
                took = time.perf_counter() - began
                every, twice, swept = asked_for(store.asked()[before:])
                if twice or every < sum(one.keys for one in doomed):
                    raise ContenderFailed(f"{processes} workers asked for {every} keys, {twice} of them twice")
                results[f"{processes}, {what}"] = {
                    "processes": processes,
                    "what": what,
                    "wall_s": took,
                    "keys_a_second": every / took,
                    "deletions_a_second": len(doomed) / took,
                    "cpu_s": cpu_s(pids) - used,
                    "asked_for": every,
                    "twice": twice,
                    "again": swept,
                }
    return {"runs": list(results.values())}
