"""One artifact with one comparison of fifty masks: how long whoever asked waits."""

import asyncio
import time
from typing import Any

from benchmarks.measure import ContenderFailed, percentile, table
from benchmarks.reference import delete_snapshot
from benchmarks.stage import BUCKET, Stage
from client import accept_deletion, start_deletion, wait_rows_deleted
from demo.world import World, screen
from workflows.messages import DeletionRequest

MASKS = 50
ROWS, RECEIPT, REFERENCE = "ours, request to rows gone", "ours, request to receipt", "the reference's caller, whole wait"


async def small(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """As many of each, one after another and in turns."""
    world = World(stage.database.engine, stage.s3, BUCKET)
    project = world.project(world.organization("acme"), "shop")
    base = world.snapshot(project, {"login": screen("login"), "cart": screen("cart")})
    seconds: dict[str, list[float]] = {ROWS: [], RECEIPT: [], REFERENCE: []}
    with stage.worker("worker-small"):
        for _ in range(deletions):
            ours, theirs = (world.snapshot(project, {"login": screen("login", 1), "cart": screen("cart")}) for _ in range(2))
            for snapshot in (ours, theirs):
                world.comparison(snapshot, base, masks=MASKS)
            began = time.perf_counter()
            await asyncio.to_thread(delete_snapshot, stage.database, stage.s3, world, theirs)
            seconds[REFERENCE].append(time.perf_counter() - began)
            request = DeletionRequest(organization_id=project.organization_id, artifact_ids=(ours.id,))
            began = time.perf_counter()
            with stage.database.write() as session:
                accept_deletion(session, request)
            await wait_rows_deleted(stage.client, request)
            seconds[ROWS].append(time.perf_counter() - began)
            receipt = await (await start_deletion(stage.client, request)).result()
            seconds[RECEIPT].append(time.perf_counter() - began)
            if not receipt.complete or receipt.objects.deleted < MASKS:
                raise ContenderFailed(f"ours: the receipt says {receipt.objects}")
    whole = percentile(seconds[REFERENCE], 0.5)
    rows = [
        (name, 1000 * percentile(found, 0.5), 1000 * percentile(found, 0.95), percentile(found, 0.5) / whole)
        for name, found in seconds.items()
    ]
    head = ("wait", "p50 ms", "p95 ms", "p50 / the reference's")
    print(f"\n### Small: {MASKS} masks, {deletions} deletions each\n\n{table(head, rows)}\n", flush=True)
    return seconds
