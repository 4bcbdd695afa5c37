"""What two choices cost a small deletion: workflows outside the SDK's sandbox, and no steps within the workflow task."""

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.empty import LOCAL_WORKFLOW, WORKFLOW, EmptyWorker, until_rows_deleted
from benchmarks.measure import mean, percentile, table
from benchmarks.small import Waits
from benchmarks.stage import ROOT, Stage
from demo.run import WorkerProcess

ROUNDS = 4
OUTSIDE, INSIDE = "outside the sandbox, as shipped", "inside"
ORDINARY, LOCAL = "empty steps, as shipped", "the first and the last within the workflow task"


class SandboxedWorker(WorkerProcess):
    """A process that runs benchmarks/sandboxed.py."""

    def _command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "benchmarks.sandboxed"]


async def choices(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """In turns, so many each."""
    sandbox = await _sandbox(stage, deletions=deletions)
    local = await _local_steps(stage, deletions=deletions)
    return {"sandbox": sandbox, "local steps": local}


async def _sandbox(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """Worker CPU and the whole wait, with workers that take turns: both would serve the same queues."""
    waits = Waits.on(stage)
    for round_ in range(ROUNDS):
        for name, kind in ((OUTSIDE, WorkerProcess), (INSIDE, SandboxedWorker)):
            variables = stage.worker_variables() | {"PYTHONPATH": str(ROOT)}
            with kind(stage.folder / f"worker-{kind.__name__}-{round_}".lower(), variables) as worker:
                await waits.ours(worker.pid, "warming up")
                for _ in range(deletions // ROUNDS):
                    await waits.ours(worker.pid, name)
    cpu = {name: mean(waits.costs[name]).client_cpu_s for name in (OUTSIDE, INSIDE)}
    wait = {name: percentile(waits.seconds[name], 0.5) for name in (OUTSIDE, INSIDE)}
    rows = [(name, 1000 * cpu[name], cpu[name] / cpu[OUTSIDE], 1000 * wait[name], wait[name] / wait[OUTSIDE]) for name in cpu]
    head = ("workflows", "worker CPU ms", "over outside", "request to receipt p50 ms", "over outside")
    print(f"\n### The sandbox: {deletions} deletions each\n\n{table(head, rows)}\n", flush=True)
    return {"cpu_s": cpu, "wait_s": wait}


async def _local_steps(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """What Temporal alone would save, beside the whole wait of ours."""
    waits, empty = Waits.on(stage), defaultdict[str, list[tuple[float, float]]](list)
    with stage.worker("worker-choices") as worker, EmptyWorker.of(stage, "worker-choices-empty"):
        await waits.ours(worker.pid, "warming up")
        for _ in range(deletions):
            await waits.ours(worker.pid, "receipt", "rows")
            for name, workflow in ((ORDINARY, WORKFLOW), (LOCAL, LOCAL_WORKFLOW)):
                began = time.perf_counter()
                start = await until_rows_deleted(stage.client, workflow)
                rows = time.perf_counter() - began
                await (await start.workflow_handle()).result()
                empty[name].append((rows, time.perf_counter() - began))
    ours = [percentile(waits.seconds[name], 0.5) for name in ("rows", "receipt")]
    median = {name: [percentile(times, 0.5) for times in zip(*found, strict=True)] for name, found in empty.items()}
    saved = [ordinary - local for ordinary, local in zip(median[ORDINARY], median[LOCAL], strict=True)]
    shown = [
        (
            f"to {what}",
            *(1000 * median[name][place] for name in (ORDINARY, LOCAL)),
            1000 * ours[place],
            saved[place] / ours[place],
        )
        for place, what in enumerate(("rows", "the receipt"))
    ]
    head = ("p50 ms", ORDINARY, LOCAL, "ours, the whole wait", "saved / ours")
    print(f"\n### Steps within the workflow task: {deletions} deletions each\n\n{table(head, shown)}\n", flush=True)
    return {"empty_s": median, "ours_s": ours}
