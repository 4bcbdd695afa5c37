"""What the SDK's sandbox would cost a small deletion: workflows run outside of it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import mean, percentile
from benchmarks.small import Waits
from benchmarks.stage import ROOT, Stage
from demo.run import WorkerProcess

ROUNDS = 4
OUTSIDE, INSIDE = "outside", "inside"


class SandboxedWorker(WorkerProcess):
    """A process that runs benchmarks/sandboxed.py."""

    def _command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "benchmarks.sandboxed"]


async def choices(stage: Stage, *, deletions: int) -> dict[str, Any]:
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
    sandbox = {
        name: {"cpu_s": mean(waits.costs[name]).client_cpu_s, "p50_s": percentile(waits.seconds[name], 0.5)}
        for name in (OUTSIDE, INSIDE)
    }
    return {"deletions": deletions, "sandbox": sandbox}
