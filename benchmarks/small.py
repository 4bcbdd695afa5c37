"""One artifact with one comparison of fifty masks: how long whoever asked waits."""

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from benchmarks.empty import EmptyWorker, until_rows_deleted
from benchmarks.measure import ContenderFailed, percentile, table
from benchmarks.reference import delete_snapshot
from benchmarks.stage import BUCKET, Stage
from client import accept_deletion, start_deletion, wait_rows_deleted
from demo.world import Project, Snapshot, World, screen
from workflows.messages import DeletionRequest

MASKS = 50
QUIET_PERIOD_S = 1.0
REFERENCE = "the reference's caller, whole wait"
ROWS, RECEIPT = "ours, request to rows gone", "ours, request to receipt"
WITH_QUIET_PERIOD = f"the same, with a quiet period of {QUIET_PERIOD_S:.0f} s"
EMPTY_ROWS, EMPTY_RECEIPT = "Temporal alone, empty steps up to the rows", "Temporal alone, empty steps up to the receipt"
WARMING_UP = "a new worker's first"
SHOWN = (REFERENCE, ROWS, RECEIPT, WITH_QUIET_PERIOD, EMPTY_ROWS, EMPTY_RECEIPT)


@dataclass(frozen=True)
class Waits:
    """Makes snapshots, has them deleted, and puts down how long whoever asked waited, in seconds."""

    stage: Stage
    world: World
    project: Project
    base: Snapshot
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def on(cls, stage: Stage) -> "Waits":
        """In an organization of its own."""
        world = World(stage.database.engine, stage.s3, BUCKET)
        project = world.project(world.organization("acme"), "shop")
        return cls(stage, world, project, world.snapshot(project, {"login": screen("login"), "cart": screen("cart")}))

    def snapshot(self) -> Snapshot:
        """Another one to be deleted, compared with the base."""
        one = self.world.snapshot(self.project, {"login": screen("login", 1), "cart": screen("cart")})
        self.world.comparison(one, self.base, masks=MASKS)
        return one

    async def reference(self) -> None:
        """The reference's caller."""
        theirs, began = self.snapshot(), time.perf_counter()
        await asyncio.to_thread(delete_snapshot, self.stage.database, self.stage.s3, self.world, theirs)
        self.seconds[REFERENCE].append(time.perf_counter() - began)

    async def ours(self, receipt: str, rows: str | None = None) -> None:
        """From the request to the receipt, and to the rows if that is named. Raises ContenderFailed."""
        request = DeletionRequest(organization_id=self.project.organization_id, artifact_ids=(self.snapshot().id,))
        began = time.perf_counter()
        with self.stage.database.write() as session:
            accept_deletion(session, request)
        await wait_rows_deleted(self.stage.client, request)
        if rows is not None:
            self.seconds[rows].append(time.perf_counter() - began)
        closed = await (await start_deletion(self.stage.client, request)).result()
        self.seconds[receipt].append(time.perf_counter() - began)
        if not closed.complete or closed.objects.deleted < MASKS:
            raise ContenderFailed(f"ours: the receipt says {closed.objects}")

    async def nothing(self) -> None:
        """Temporal alone."""
        began = time.perf_counter()
        start = await until_rows_deleted(self.stage.client)
        self.seconds[EMPTY_ROWS].append(time.perf_counter() - began)
        await (await start.workflow_handle()).result()
        self.seconds[EMPTY_RECEIPT].append(time.perf_counter() - began)


async def small(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """As many of each, one after another and in turns."""
    waits = Waits.on(stage)
    with stage.worker("worker-small"), EmptyWorker.of(stage, "worker-empty"):
        await waits.ours(WARMING_UP)
        for _ in range(deletions):
            await waits.reference()
            await waits.ours(RECEIPT, ROWS)
            await waits.nothing()
    with stage.worker("worker-small-quiet", quiet_period_s=str(QUIET_PERIOD_S)):
        await waits.ours(WARMING_UP)
        for _ in range(deletions // 5):
            await waits.ours(WITH_QUIET_PERIOD)
    median = {name: percentile(waits.seconds[name], 0.5) for name in SHOWN}
    rows = [
        (name, 1000 * median[name], 1000 * percentile(waits.seconds[name], 0.95), median[name] / median[REFERENCE])
        for name in SHOWN
    ]
    head = ("wait", "p50 ms", "p95 ms", "p50 / the reference's")
    print(f"\n### Small: {MASKS} masks, {deletions} deletions each\n\n{table(head, rows)}\n", flush=True)
    return waits.seconds
