"""`make bench`: all ways of deleting, in one run on the same servers. Tables on standard output, all figures in a JSON file."""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.bulk import bulk
from benchmarks.choices import choices
from benchmarks.fairness import fairness
from benchmarks.growth import growth
from benchmarks.limit import limit
from benchmarks.many import many
from benchmarks.rows import rows
from benchmarks.small import small
from benchmarks.stage import Stage, open_stage, servers
from benchmarks.steps import steps
from benchmarks.workers import workers

Part = Callable[[], Awaitable[dict[str, Any]]]
PARTS = ("small", "steps", "choices", "many", "growth", "rows", "limit", "fairness", "workers", "bulk")


def parts_of(stage: Stage, *, quick: bool, keys: Sequence[int]) -> dict[str, Part]:
    """What can be run, by name."""
    bulk_sizes = keys or ([2_000] if quick else [20_000, 100_000])
    growth_sizes = [1_000, 10_000, 100_000, *([] if quick else [1_000_000])]
    found: dict[str, Part] = {
        "small": lambda: small(stage, deletions=6 if quick else 60),
        "steps": lambda: asyncio.to_thread(steps, stage, deletions=3 if quick else 100),
        "choices": lambda: choices(stage, deletions=4 if quick else 60),
        "growth": lambda: growth(stage, sizes=growth_sizes, rounds=1 if quick else 3),
        "bulk": lambda: bulk(stage, sizes=bulk_sizes, rounds=3, reference=[2_000] if quick else [20_000], quick=quick),
        "rows": lambda: rows(stage, sizes=[(300, 3)] if quick else [(1_000, 3), (10_000, 3)], receipts=1_000),
        "many": lambda: many(stage, deletions=10 if quick else 500),
        "limit": lambda: limit(stage, seconds=4 if quick else 20),
        "fairness": lambda: fairness(
            stage, keys=20_000 if quick else 200_000, small=1 if quick else 3, pause_s=2 if quick else 1
        ),
        "workers": lambda: workers(stage, keys=10_000 if quick else 100_000, small=4 if quick else 100),
    }
    return {name: found[name] for name in PARTS}


async def main(arguments: argparse.Namespace) -> None:
    """Raises ContenderFailed."""
    began = time.monotonic()
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="artifact-deletion-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        temporal, postgres, objects = stack.enter_context(servers(folder, in_memory=arguments.temporal_in_memory))
        stage = await open_stage(folder, temporal, postgres, objects)
        stack.callback(stage.database.dispose)
        by_name = parts_of(stage, quick=arguments.quick, keys=arguments.keys)
        results = {name: await by_name[name]() for name in arguments.parts or PARTS}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    if grown := results.get("growth"):
        lines = {
            "seconds a 1000 keys": [(int(keys), of["wall_s"] / int(keys) * 1000) for keys, of in grown.items()],
            "worker CPU seconds a 1000 keys": [
                (int(keys), of["client_cpu_s"] / int(keys) * 1000) for keys, of in grown.items()
            ],
        }
        plot.write(arguments.json.with_suffix(".svg"), "Cost against size, a store that answers at once", lines)
    print(f"All figures: {arguments.json} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under five minutes")
    parser.add_argument("--keys", type=int, nargs="*", default=[], help="sizes for bulk")
    parser.add_argument("--temporal-in-memory", action="store_true", help="Temporal's development server without its file")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    asyncio.run(main(given))
