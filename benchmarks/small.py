"""One artifact with one comparison of fifty masks: how long the caller waits."""

import asyncio
import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from artifact_deletion.client import start_deletion, wait_rows_deleted
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import DeletionRequest
from benchmarks.empty import EmptyWorker, until_rows_deleted
from benchmarks.measure import ContenderFailed, Cost, average, measured, percentile
from benchmarks.reference import delete_snapshot
from benchmarks.stage import BUCKET, Stage
from demo.world import Project, Snapshot, World, screen
from settings import Settings

MASKS = 50
QUIET_PERIOD_S = 1.0
REFERENCE, ROWS, RECEIPT, WITH_QUIET_PERIOD = "reference", "rows", "receipt", "quiet"
ALL_USECASES_ROWS, ALL_USECASES = "usecases rows", "usecases"
EMPTY_ROWS, EMPTY_RECEIPT = "empty rows", "empty receipt"
WARMING_UP = "a new worker's first"


@dataclass(frozen=True)
class Waits:
    """Makes snapshots, has them deleted, and puts down how long the caller waited, in seconds, and what a deletion cost."""

    stage: Stage
    world: World
    project: Project
    base: Snapshot
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    costs: defaultdict[str, list[Cost]] = field(default_factory=lambda: defaultdict(list))

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

    @contextlib.contextmanager
    def _counted(self, name: str, client: int, rows: str | None = None) -> Iterator[Callable[[], None]]:
        """Put down what is done inside. What it yields says that the rows are gone."""
        cost = Cost()
        with measured(cost, clients=[client], store=self.stage.objects.pid, others=self.stage.others):
            began = time.perf_counter()
            yield lambda: self.seconds[rows].append(time.perf_counter() - began) if rows else None
        self.seconds[name].append(cost.wall_s)
        self.costs[name].append(cost)

    async def reference(self) -> None:
        """The reference's caller."""
        theirs = self.snapshot()
        with self._counted(REFERENCE, os.getpid()):
            await asyncio.to_thread(delete_snapshot, self.stage.database, self.stage.s3, self.world, theirs)

    async def ours(self, worker: int, receipt: str, rows: str | None = None) -> None:
        """From the request to the receipt, and to the rows if that is named. Raises ContenderFailed."""
        request = DeletionRequest(organization_id=self.project.organization_id, artifact_ids=(self.snapshot().id,))
        with self._counted(receipt, worker, rows) as rows_gone:
            with self.stage.database.write() as session:
                accept_deletion(session, request)
            await wait_rows_deleted(self.stage.client, request)
            rows_gone()
            closed = await (await start_deletion(self.stage.client, request)).result()
        if not closed.complete or closed.objects.deleted < MASKS:
            raise ContenderFailed(f"ours: the receipt says {closed.objects}")

    async def nothing(self, worker: int) -> None:
        """Temporal alone."""
        with self._counted(EMPTY_RECEIPT, worker, EMPTY_ROWS) as rows_gone:
            start = await until_rows_deleted(self.stage.client)
            rows_gone()
            await (await start.workflow_handle()).result()


async def small(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """As many of each, one after another and in turns."""
    waits = Waits.on(stage)
    with stage.worker("worker-small") as worker, EmptyWorker.of(stage, "worker-empty") as empty:
        await waits.ours(worker.pid, WARMING_UP)
        for _ in range(deletions):
            await waits.reference()
            await waits.ours(worker.pid, RECEIPT, ROWS)
            await waits.nothing(empty.pid)
    usecases = Settings.model_fields["usecases"].default
    with stage.worker("worker-small-usecases", usecases=",".join(usecases)) as worker:
        await waits.ours(worker.pid, WARMING_UP)
        for _ in range(deletions // 3):
            await waits.ours(worker.pid, ALL_USECASES, ALL_USECASES_ROWS)
    with stage.worker("worker-small-quiet", quiet_period_s=str(QUIET_PERIOD_S)) as worker:
        await waits.ours(worker.pid, WARMING_UP)
        for _ in range(deletions // 5):
            await waits.ours(worker.pid, WITH_QUIET_PERIOD)
    return {
        "deletions": deletions,
        "masks": MASKS,
        "quiet_period_s": QUIET_PERIOD_S,
        "usecases": len(usecases),
        "waits": {
            name: {"p50_s": percentile(seconds, 0.5), "p95_s": percentile(seconds, 0.95)} | _costs(waits.costs[name])
            for name, seconds in waits.seconds.items()
            if name != WARMING_UP
        },
    }


def _costs(costs: list[Cost]) -> dict[str, float]:
    return average(costs) if costs else {}
