"""A project's listing beside its rows, and the mere listing of the same prefix by rclone: whole processes, in turns."""

import os
import sys
from collections import defaultdict
from typing import Any

from benchmarks.data import Doomed
from benchmarks.measure import Cost, run_tool
from benchmarks.stage import BUCKET, ROOT, Stage

OURS, RCLONE = "ours", "rclone"


def reconcile(stage: Stage, *, objects: int, rounds: int) -> dict[str, Any]:
    """Raises ContenderFailed. Ours reads no object: the listing has shown each that a row names."""
    living, costs = Doomed(objects), defaultdict[str, list[Cost]](list)
    stage.fill(living)
    stage.insert_rows(living)
    ours = [sys.executable, str(ROOT / "starter.py"), "reconcile", "--project", str(living.organization), "--json"]
    contenders = {
        OURS: (ours, stage.worker_variables() | {"PATH": os.environ["PATH"], "HOME": str(stage.folder)}),
        RCLONE: (["rclone", "lsf", "-R", "--files-only", f"bench:{BUCKET}/{living.scope}"], stage.environment()),
    }
    for number in range(rounds):
        for name in (OURS, RCLONE) if number % 2 else (RCLONE, OURS):
            costs[name].append(run_tool(*contenders[name], stage.objects.pid))
    return {"objects": objects, "contenders": {name: [vars(cost) for cost in of_name] for name, of_name in costs.items()}}
