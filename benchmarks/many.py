"""Hundreds of small deletions asked for at once, beside as many the reference's way, one after another."""

import asyncio
import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from artifact_deletion.client import start_deletion
from artifact_deletion.outbox import accept_deletion
from benchmarks.data import ORGANIZATION, Doomed
from benchmarks.empty import EmptyWorker, until_empty
from benchmarks.growth import history_of
from benchmarks.measure import ContenderFailed, Cost, measured
from benchmarks.reference import delete_snapshot
from benchmarks.stage import BUCKET, Stage, connect
from demo.servers import TemporalServer
from demo.world import SNAPSHOTS, Place, Snapshot, World

MASKS, WARMING_UP = 50, 4
WORKERS = {"": 1, "_two": 2}
REFERENCE, EMPTY = "reference", "empty"


def small_ones(count: int, organization: int = ORGANIZATION) -> list[Doomed]:
    """Artifacts of one comparison with fifty masks each."""
    return [Doomed(MASKS, 10**6 * (organization - ORGANIZATION + 2) + 2 * number, organization) for number in range(count)]


async def delete_all(stage: Stage, doomed: Sequence[Doomed]) -> None:
    """All at once, each from its request to its receipt. Raises ContenderFailed if one does not have every mask."""
    for one in doomed:
        with stage.database.write() as session:
            accept_deletion(session, one.request)
    handles = await asyncio.gather(*(start_deletion(stage.client, one.request) for one in doomed))
    for one, receipt in zip(doomed, await asyncio.gather(*(handle.result() for handle in handles)), strict=True):
        if not receipt.complete or receipt.objects.deleted < one.keys:
            raise ContenderFailed(f"ours: the receipt says {receipt.objects}")


@contextlib.asynccontextmanager
async def other_temporal(stage: Stage, **options: Any) -> AsyncIterator[Stage]:
    """The same stage on another Temporal server, an empty one."""
    with TemporalServer(stage.folder / f"temporal-{time.time_ns()}", ui=False, **options) as temporal:
        yield dataclasses.replace(stage, temporal=temporal, client=await connect(temporal))
        temporal.kill()


async def many(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """As many of each, on the same objects: ours by one and two workers, with Temporal's server in memory, then on its file."""
    doomed, results = small_ones(WARMING_UP + deletions), dict[str, dict[str, Any]]()
    for where, (suffix, workers) in itertools.product(("in_memory", "on_file"), WORKERS.items()):
        async with other_temporal(stage, in_memory=where == "in_memory") as beside:
            results[where + suffix] = await _ours(beside, doomed, f"worker-many-{where}", workers)
    async with other_temporal(stage, in_memory=True) as beside:
        with EmptyWorker.of(beside, "worker-many-empty") as worker:
            await until_empty(beside.client)
            cost = Cost()
            with measured(cost, clients=[worker.pid], store=stage.objects.pid, others=beside.others):
                await asyncio.gather(*(until_empty(beside.client) for _ in range(deletions)))
        results[EMPTY] = vars(cost) | {"events": None, "left": None}
    stage.fill(*doomed)
    stage.insert_rows(*doomed)
    await asyncio.to_thread(the_reference_s_way, stage, doomed[:WARMING_UP])
    cost = await asyncio.to_thread(the_reference_s_way, stage, doomed[WARMING_UP:])
    results[REFERENCE] = vars(cost) | {"events": 0, "left": _left(stage, doomed)}
    return {"deletions": deletions, "masks": MASKS, "contenders": results}


async def _ours(stage: Stage, doomed: Sequence[Doomed], name: str, workers: int) -> dict[str, Any]:
    """By so many workers that are up and have deleted before."""
    stage.fill(*doomed)
    stage.insert_rows(*doomed)
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(stage.worker(f"{name}-{workers}-{number}")).pid for number in range(workers)]
        await delete_all(stage, doomed[:WARMING_UP])
        cost = Cost()
        with measured(cost, clients=pids, store=stage.objects.pid, others=stage.others):
            await delete_all(stage, doomed[WARMING_UP:])
    events = (await history_of(stage, doomed[-1].request))["events"]
    return vars(cost) | {"events": events, "left": _left(stage, doomed)}


def the_reference_s_way(stage: Stage, doomed: Sequence[Doomed]) -> Cost:
    """A loop over them, in this process."""
    world, cost = World(stage.database.engine, stage.s3, BUCKET), Cost()
    with measured(cost, clients=[os.getpid()], store=stage.objects.pid, others=[stage.postgres.pid]):
        for one in doomed:
            place = Place(one.organization, one.organization, one.id)
            manifest = f"{place.prefix}manifest.json"
            snapshot = Snapshot(place, one.id, SNAPSHOTS, {}, selective=False, manifest_key=manifest)
            delete_snapshot(stage.database, stage.s3, world, snapshot)
    return cost


def _left(stage: Stage, doomed: Sequence[Doomed]) -> int:
    """What the reference does not know of, such as plans, is still there after it."""
    return sum(stage.left(one) for one in doomed)
