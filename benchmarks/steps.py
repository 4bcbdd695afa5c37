"""What the steps of a small deletion cost by themselves, run one after another in this process, without Temporal."""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr
from sqlalchemy import event
from temporalio.testing import ActivityEnvironment

from activities.storage.freeze import Switch
from activities.storage.objects import S3Objects
from activities.turns import Turns
from benchmarks.data import Doomed
from benchmarks.many import small_ones
from benchmarks.measure import ContenderFailed, cpu_s, table
from benchmarks.stage import BUCKET, Stage
from client import accept_deletion
from settings import Settings
from worker import activities_for, open_database, open_store, open_traces
from workflows.messages import Chunk, Deletion, Pace, PageRange, SealedChunk, Sweep

WARMING_UP = 5
COSTS = ("CPU ms", "statements", "transactions", "requests of the store", "PostgreSQL CPU ms", "store CPU ms", "wall ms")
HEAD = ("step", *COSTS)


class Steps:
    """A worker's activities on the stage's servers, with whatever they do counted by the name of the step."""

    def __init__(self, stage: Stage, requests: Turns, reads: Turns) -> None:
        self.stage = stage
        self.costs: dict[str, Counter[str]] = defaultdict(Counter)
        settings = Settings(
            database_url=SecretStr(stage.database.engine.url.render_as_string(hide_password=False)),
            bucket=BUCKET,
            s3_endpoint=stage.objects.endpoint,
            s3_access_key=stage.objects.access_key,
            s3_secret_key=SecretStr(stage.objects.secret_key),
            trace_store="sql",
        )
        self.database = open_database(settings)
        switch = Switch(self.database)
        store, traces = open_store(settings, switch), open_traces(settings, self.database, switch)
        of_queues = activities_for(settings, self.database, store, traces, requests=requests, reads=reads, pace=Pace())
        self._activities = {step.__name__: step for of_queue in of_queues for step in of_queue}
        self._now: Counter[str] = Counter()
        event.listen(self.database.engine, "before_cursor_execute", lambda *_: self._count("statements"))
        event.listen(self.database.engine, "begin", lambda _: self._count("transactions"))
        if isinstance(store, S3Objects):
            store.client.meta.events.register("before-send.s3", lambda **_: self._count("requests of the store"))

    def run(self, name: str, given: Any) -> Any:
        """One step."""
        self._now = self.costs[name]
        before, began = self._clocks(), time.perf_counter()
        result = ActivityEnvironment().run(self._activities[name], given)
        self._now["wall ms"] += round(1e6 * (time.perf_counter() - began))
        for what, ended, started in zip(("CPU ms", "PostgreSQL CPU ms", "store CPU ms"), self._clocks(), before, strict=True):
            self._now[what] += round(1e6 * (ended - started))
        return result

    def delete(self, doomed: Doomed) -> None:
        """One deletion from its request to its receipt. Raises ContenderFailed if it is not complete."""
        with self.database.write() as session:
            accept_deletion(session, doomed.request)
        deletion = Deletion(deletion_id=doomed.request.deletion_id)
        for left in self.run("open_deletion", doomed.request).chunks:
            chunk = {"deletion_id": deletion.deletion_id, "chunk": left.chunk}
            collected = self.run("collect_keys", Chunk(**chunk))
            sealed = SealedChunk(**chunk, epoch=collected.epoch, pages=collected.pages, digest=collected.digest)
            deleted = self.run("delete_rows", sealed)
            self.run("delete_objects", PageRange(**chunk, first=deleted.first_page, last=deleted.pages - 1))
            self.run("delete_trace_items", Chunk(**chunk))
            for number in range(2):
                self.run("sweep_prefixes", Sweep(**chunk, number=number))
        self.run("find_owed_elsewhere", deletion)
        if not (receipt := self.run("close_deletion", deletion)).complete:
            raise ContenderFailed(f"the steps left something over: {receipt.objects}")

    def _count(self, what: str) -> None:
        self._now[what] += 1

    def _clocks(self) -> Sequence[float]:
        return time.process_time(), cpu_s([self.stage.postgres.pid]), cpu_s([self.stage.objects.pid])


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
    results = {
        name: {what: of_step[what] / deletions / (1000 if what.endswith(" ms") else 1) for what in COSTS}
        for name, of_step in {**measured.costs, "all of them": total}.items()
    }
    rows = [(name, *of_step.values()) for name, of_step in results.items()]
    print(f"\n### Steps: {deletions} deletions of 50 masks each, without Temporal\n\n{table(HEAD, rows)}\n", flush=True)
    return results
