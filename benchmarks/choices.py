"""What two choices cost a small deletion: workflows outside the SDK's sandbox, and no steps within the workflow task."""

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.empty import LOCAL_WORKFLOW, WORKFLOW, EmptyWorker, until_rows_deleted
from benchmarks.measure import mean, percentile
from benchmarks.small import RECEIPT, ROWS, Waits
from benchmarks.stage import ROOT, Stage
from demo.run import WorkerProcess

ROUNDS = 4
OUTSIDE, INSIDE = "outside", "inside"
ORDINARY, LOCAL = "ordinary", "local"
UNTIL = (ROWS, RECEIPT)


class SandboxedWorker(WorkerProcess):
    """A process that runs benchmarks/sandboxed.py."""

    def _command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "benchmarks.sandboxed"]


async def choices(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """In turns, so many each."""
    sandbox = await _sandbox(stage, deletions=deletions)
    local = await _local_steps(stage, deletions=deletions)
    return {"deletions": deletions, "sandbox": sandbox, "local": local}


async def _sandbox(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """Worker CPU and the whole wait, with workers that take turns: both would serve the same queues."""
    waits = Waits.on(stage)
    rounds = min(ROUNDS, deletions // 2)
    for round_ in range(rounds):
        for name, kind in ((OUTSIDE, WorkerProcess), (INSIDE, SandboxedWorker)):
            variables = stage.worker_variables() | {"PYTHONPATH": str(ROOT)}
            with kind(stage.folder / f"worker-{kind.__name__}-{round_}".lower(), variables) as worker:
                await waits.ours(worker.pid, "warming up")
                for _ in range(deletions // rounds):
                    await waits.ours(worker.pid, name)
    return {
        name: {"cpu_s": mean(waits.costs[name]).client_cpu_s, "p50_s": percentile(waits.seconds[name], 0.5)}
        for name in (OUTSIDE, INSIDE)
    }


async def _local_steps(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """What Temporal alone would save, beside the whole wait of ours."""
    waits, empty = Waits.on(stage), defaultdict[str, list[tuple[float, float]]](list)
    with stage.worker("worker-choices") as worker, EmptyWorker.of(stage, "worker-choices-empty"):
        await waits.ours(worker.pid, "warming up")
        for _ in range(deletions):
            await waits.ours(worker.pid, RECEIPT, ROWS)
            for name, workflow in ((ORDINARY, WORKFLOW), (LOCAL, LOCAL_WORKFLOW)):
                began = time.perf_counter()
                start = await until_rows_deleted(stage.client, workflow)
                rows = time.perf_counter() - began
                await (await start.workflow_handle()).result()
                empty[name].append((rows, time.perf_counter() - began))
    ours = {name: percentile(waits.seconds[name], 0.5) for name in UNTIL}
    median = {
        name: dict(zip(UNTIL, (percentile(times, 0.5) for times in zip(*found, strict=True)), strict=True))
        for name, found in empty.items()
    }
    return {"empty_s": median, "ours_s": ours}
