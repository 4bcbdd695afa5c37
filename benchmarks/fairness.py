"""How long a small deletion of one organization takes while another organization's keys wait in the same queues.

The store is a stand-in that takes a second or two for each request that deletes, as a busy one does, and the worker makes
sixteen of it at a time: so the wait is for turns, and not for this machine's processor.
"""

import asyncio
import time
from typing import Any

from benchmarks.data import ORGANIZATION, Doomed
from benchmarks.many import delete_all, other_temporal, small_ones
from benchmarks.measure import ContenderFailed
from benchmarks.stage import Stage
from benchmarks.store import InstantStore

LARGE = 16
"""Deletions that the other organization's keys are asked for in: as many steps as a worker takes at a time, and more."""
STORE_REQUESTS = 16
"""Of the store at a time: with as many as by default, all keys would be under way at once and none would wait."""
FAIRNESS = "matching.enableFairness"


async def fairness(stage: Stage, *, keys: int, small: int, pause_s: float) -> dict[str, Any]:
    """Without and with the server's switch. Raises ContenderFailed if the other organization was done too soon to tell."""
    results: dict[str, Any] = {}
    for switch in (False, True):
        name = f"fairness-{switch}".lower()
        async with other_temporal(stage, in_memory=True, dynamic_config={FAIRNESS: switch}) as beside:
            with InstantStore(stage.folder / name, logs=True, pause_s=pause_s) as store:
                large = [Doomed(keys // LARGE, 5_000_000 + 100 * number, ORGANIZATION + 1) for number in range(LARGE)]
                ours = small_ones(3 + small)
                for one in (*large, *ours):
                    store.hold(one)
                stage.insert_rows(*large, *ours)
                with beside.worker(f"worker-{name}", s3_endpoint=store.endpoint, store_requests=str(STORE_REQUESTS)):
                    alone = [await _seconds(beside, one) for one in ours[:3]]
                    asked, began = len(store.asked()), time.perf_counter()
                    work = asyncio.create_task(delete_all(beside, large))
                    while len(store.asked()) < asked + LARGE:  # noqa: ASYNC110  by now there is more to do than room for it
                        await asyncio.sleep(0.1)
                    took = []
                    for one in ours[3:]:
                        seconds = await _seconds(beside, one)
                        if not work.done():
                            took.append(seconds)
                    if not took:
                        raise ContenderFailed("the other organization's deletions ended before ours")
                    await work
                    whole = time.perf_counter() - began
        results["on" if switch else "off"] = {"alone": alone, "beside": took, "whole_s": whole}
    return {"keys": keys, "pause_s": pause_s, "requests_at_once": STORE_REQUESTS, "switch": results}


async def _seconds(stage: Stage, doomed: Doomed) -> float:
    began = time.perf_counter()
    await delete_all(stage, [doomed])
    return time.perf_counter() - began
