"""What the steps of a small deletion cost by themselves, run one after another in this process, without Temporal."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr
from sqlalchemy import event
from temporalio.testing import ActivityEnvironment

from activities.stores.s3 import S3Objects
from activities.stores.turns import Turns
from artifact_deletion.outbox import accept_deletion
from benchmarks.data import Doomed
from benchmarks.many import MASKS, small_ones
from benchmarks.measure import ContenderFailed
from benchmarks.stage import BUCKET, Stage
from composition import open_parts
from settings import Settings
from workflows.steps import (
    CLOSE_DELETION,
    COLLECT_KEYS,
    DELETE_OBJECTS,
    DELETE_ROWS,
    DELETE_TRACE_ITEMS,
    OPEN_DELETION,
    SWEEP_PREFIXES,
    Chunk,
    Deletion,
    In,
    Opening,
    Out,
    Pace,
    PageRange,
    SealedChunk,
    Step,
)

WARMING_UP = 5
COSTS = ("CPU ms", "statements", "transactions", "requests of the store", "wall ms")
ALL = "all of them"
ASK = "ask"
"""What the backend's own transaction does, beside the steps."""


class Steps:
    """A worker's activities on the stage's servers, with whatever they do counted by the name of the step."""

    def __init__(self, stage: Stage, requests: Executor, reads: Executor) -> None:
        self.stage = stage
        self.costs: dict[str, Counter[str]] = defaultdict(Counter)
        settings = Settings(
            database_url=SecretStr(stage.database.engine.url.render_as_string(hide_password=False)),
            bucket=BUCKET,
            s3_endpoint=stage.objects.endpoint,
            s3_access_key=stage.objects.access_key,
            s3_secret_key=SecretStr(stage.objects.secret_key),
            usecases=("preprod",),
            trace_store="sql",
            quiet_period_s=0,
        )
        parts = open_parts(settings)
        self.database = parts.database
        self._activities = {step.__name__: step for queue in parts.steps(requests, reads, Pace()) for step in queue}
        self._now: Counter[str] = Counter()
        event.listen(self.database.engine, "before_cursor_execute", lambda *_: self._count("statements"))
        event.listen(self.database.engine, "begin", lambda _: self._count("transactions"))
        if isinstance(parts.store, S3Objects):
            parts.store.client.meta.events.register("before-send.s3", lambda **_: self._count("requests of the store"))

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """Put down what is done inside."""
        self._now = self.costs[name]
        cpu, began = time.process_time(), time.perf_counter()
        yield
        self._now["wall ms"] += round(1e6 * (time.perf_counter() - began))
        self._now["CPU ms"] += round(1e6 * (time.process_time() - cpu))

    def run(self, step: Step[In, Out], given: In) -> Out:
        """One step."""
        with self.counted(step.name):
            done: Out = ActivityEnvironment().run(self._activities[step.name], given)
        return done

    def delete(self, doomed: Doomed) -> None:
        """One deletion from its request to its receipt. Raises ContenderFailed if it is not complete."""
        request = doomed.request
        with self.counted(ASK), self.database.write() as session:
            accept_deletion(session, request)
        opened = self.run(OPEN_DELETION, Opening(request=request, fresh=True))
        of: dict[str, Any] = {
            "deletion_id": request.deletion_id,
            "organization_id": request.organization_id,
            "fence": opened.fence,
        }
        for left in opened.chunks:
            chunk = Chunk(**of, chunk=left.chunk)
            sealed = SealedChunk(**of, chunk=left.chunk, seal=self.run(COLLECT_KEYS, chunk))
            released = self.run(DELETE_ROWS, sealed)
            pages = PageRange(**of, chunk=left.chunk, first=released.first_page, end=released.end_page)
            self.run(DELETE_OBJECTS, pages)
            self.run(DELETE_TRACE_ITEMS, chunk)
            self.run(SWEEP_PREFIXES, chunk)
        if not (receipt := self.run(CLOSE_DELETION, Deletion(**of))).complete:
            raise ContenderFailed(f"the steps left something over: {receipt.objects}")

    def _count(self, what: str) -> None:
        self._now[what] += 1


def steps(stage: Stage, *, deletions: int) -> dict[str, Any]:
    """Costs a deletion, by step."""
    doomed = small_ones(WARMING_UP + deletions)
    stage.fill(*doomed)
    stage.insert_rows(*doomed)
    with Turns(64) as requests, Turns(8) as reads:
        measured = Steps(stage, requests, reads)
        for one in doomed[:WARMING_UP]:
            measured.delete(one)
        measured.costs.clear()
        for one in doomed[WARMING_UP:]:
            measured.delete(one)
        measured.database.dispose()
    total = sum(measured.costs.values(), Counter[str]())
    found = {**measured.costs, ALL: total}
    by_step = {
        name: {what: of_step[what] / deletions / (1000 if what.endswith(" ms") else 1) for what in COSTS}
        for name, of_step in found.items()
    }
    return {"deletions": deletions, "masks": MASKS, "steps": by_step}
