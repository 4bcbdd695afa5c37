"""The limit of keys a second over all workers, counted at the store. The store is a stand-in: a real one would be the limit."""

import contextlib
from typing import Any

from benchmarks.bulk import delete_ours
from benchmarks.data import Doomed
from benchmarks.stage import Stage
from benchmarks.store import InstantStore, most_in_a_second, steady_rate


async def limit(stage: Stage, *, seconds: int, keys_per_second: int = 2000) -> dict[str, Any]:
    """One deletion that takes about so long, by one and by two worker processes, and with smaller activities."""
    results: dict[str, Any] = {}
    doomed = Doomed(seconds * keys_per_second)
    for processes, pages in ((1, 4), (2, 4), (2, 1)):
        name = f"limit-{processes}-{pages}"
        settings = {"keys_per_second": str(keys_per_second), "pages_a_step": str(pages)}
        with InstantStore(stage.folder / name, logs=True) as store, contextlib.ExitStack() as stack:
            store.hold(doomed)
            stage.insert_rows(doomed)
            workers = [stage.worker(f"{name}-{number}", s3_endpoint=store.endpoint, **settings) for number in range(processes)]
            pids = [stack.enter_context(worker).pid for worker in workers]
            cost, _ = await delete_ours(stage, pids[0], doomed, store.pid)
            asked = store.asked()
        results[name] = {
            "processes": processes,
            "pages": pages,
            "wall_s": cost.wall_s,
            "steady": steady_rate(asked),
            "of_limit": steady_rate(asked) / keys_per_second,
            "most": most_in_a_second(asked),
        }
    return {"keys_per_second": keys_per_second, "keys": doomed.keys, "runs": list(results.values())}
