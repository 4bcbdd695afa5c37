"""One artifact with one comparison of fifty masks: how long whoever asked waits."""

import asyncio
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from temporalio.client import WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy

from benchmarks import empty
from benchmarks.measure import ContenderFailed, percentile, table
from benchmarks.reference import delete_snapshot
from benchmarks.stage import BUCKET, ROOT, Stage
from client import accept_deletion, start_deletion, wait_rows_deleted
from demo.run import WorkerProcess
from demo.world import Snapshot, World, screen
from workflows.messages import DeletionRequest

MASKS = 50
QUIET_PERIOD_S = 1.0
REFERENCE = "the reference's caller, whole wait"
ROWS, RECEIPT = "ours, request to rows gone", "ours, request to receipt"
WITH_QUIET_PERIOD = f"the same, with a quiet period of {QUIET_PERIOD_S:.0f} s"
EMPTY_ROWS, EMPTY_RECEIPT = "Temporal alone, empty steps up to the rows", "Temporal alone, empty steps up to the receipt"
WARMING_UP = "a new worker's first"
SHOWN = (REFERENCE, ROWS, RECEIPT, WITH_QUIET_PERIOD, EMPTY_ROWS, EMPTY_RECEIPT)


class EmptyWorker(WorkerProcess):
    """A process that runs `benchmarks.empty`."""

    def _command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", empty.__name__]


async def small(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """As many of each, one after another and in turns."""
    world = World(stage.database.engine, stage.s3, BUCKET)
    project = world.project(world.organization("acme"), "shop")
    base = world.snapshot(project, {"login": screen("login"), "cart": screen("cart")})
    seconds = defaultdict[str, list[float]](list)

    def snapshot() -> Snapshot:
        one = world.snapshot(project, {"login": screen("login", 1), "cart": screen("cart")})
        world.comparison(one, base, masks=MASKS)
        return one

    async def ours(rows: str | None, receipt: str) -> None:
        request = DeletionRequest(organization_id=project.organization_id, artifact_ids=(snapshot().id,))
        began = time.perf_counter()
        with stage.database.write() as session:
            accept_deletion(session, request)
        await wait_rows_deleted(stage.client, request)
        if rows is not None:
            seconds[rows].append(time.perf_counter() - began)
        closed = await (await start_deletion(stage.client, request)).result()
        seconds[receipt].append(time.perf_counter() - began)
        if not closed.complete or closed.objects.deleted < MASKS:
            raise ContenderFailed(f"ours: the receipt says {closed.objects}")

    async def nothing() -> None:
        began = time.perf_counter()
        start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
            empty.WORKFLOW, id=str(uuid.uuid4()), task_queue=empty.QUEUE, id_conflict_policy=WorkflowIDConflictPolicy.FAIL
        )
        await stage.client.execute_update_with_start_workflow(empty.UPDATE, start_workflow_operation=start)
        seconds[EMPTY_ROWS].append(time.perf_counter() - began)
        await (await start.workflow_handle()).result()
        seconds[EMPTY_RECEIPT].append(time.perf_counter() - began)

    variables = {"TEMPORAL_ADDRESS": stage.temporal.address, "PYTHONPATH": str(ROOT)}
    with stage.worker("worker-small"), EmptyWorker(stage.folder / "worker-empty", variables):
        await ours(None, WARMING_UP)
        for _ in range(deletions):
            theirs = snapshot()
            began = time.perf_counter()
            await asyncio.to_thread(delete_snapshot, stage.database, stage.s3, world, theirs)
            seconds[REFERENCE].append(time.perf_counter() - began)
            await ours(ROWS, RECEIPT)
            await nothing()
    with stage.worker("worker-small-quiet", quiet_period_s=str(QUIET_PERIOD_S)):
        await ours(None, WARMING_UP)
        for _ in range(deletions // 5):
            await ours(None, WITH_QUIET_PERIOD)
    whole = percentile(seconds[REFERENCE], 0.5)
    rows = [
        (
            name,
            1000 * percentile(seconds[name], 0.5),
            1000 * percentile(seconds[name], 0.95),
            percentile(seconds[name], 0.5) / whole,
        )
        for name in SHOWN
    ]
    head = ("wait", "p50 ms", "p95 ms", "p50 / the reference's")
    print(f"\n### Small: {MASKS} masks, {deletions} deletions each\n\n{table(head, rows)}\n", flush=True)
    return seconds
