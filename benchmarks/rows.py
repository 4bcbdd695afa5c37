"""Many artifacts with many rows and few objects: ours from request to rows gone, beside the same cascade as SQL by hand."""

import asyncio
import itertools
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from obstore.store import S3Store
from sqlalchemy import text
from temporalio.api.enums.v1 import EventType

from artifact_deletion.client import start_deletion, wait_rows_deleted
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import DeletionRequest
from benchmarks.empty import EmptyWorker, until_chunks_empty
from benchmarks.measure import ContenderFailed, Cost, cpu_s, measured
from benchmarks.stage import BUCKET, Stage
from settings import Settings

ORGANIZATION = PROJECT = 9001
WARMING_UP, BASES = 10, 10
ROWS_AN_ARTIFACT = 17
OURS, SQL, MANIFESTS, EMPTY = "ours", "sql", "manifests", "empty"
_FILL, _CASCADE = ((Path(__file__).parent / name).read_text() for name in ("rows.sql", "cascade.sql"))
_LOCKED_SINCE = """
SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE relation = 'sentry_preprodartifact'::regclass AND mode IN ('RowShareLock', 'RowExclusiveLock')
"""


@dataclass
class Run(Cost):
    """What one run of one contender came to; its other CPU is PostgreSQL's."""

    rows: int = 0
    temporal_cpu_s: float = 0.0
    locked_s: float = 0.0
    """The longest time that one transaction held locks on the backend's rows, as sampled."""
    steps_s: dict[str, float] = field(default_factory=dict)
    """Each kind of step, summed over chunks, several of which are at work at a time."""
    receipt_s: float | None = None
    """From the request, where that was waited for."""


@contextmanager
def watched(stage: Stage, run: Run, client: int) -> Iterator[None]:
    """Put down what is done inside costs this process and the servers, and the longest that rows were locked."""
    ended = threading.Event()

    def sample() -> None:
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            while not ended.wait(0.01):
                found = connection.execute(_LOCKED_SINCE).fetchone()
                run.locked_s = max(run.locked_s, float(found[0] or 0) if found else 0)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    before = cpu_s([stage.temporal.pid])
    try:
        with measured(run, clients=[client], store=stage.objects.pid, others=[stage.postgres.pid]):
            yield
    finally:
        run.temporal_cpu_s = cpu_s([stage.temporal.pid]) - before
        ended.set()
        sampler.join()


_firsts = itertools.count(2_000_000, 20_000)


def fill(stage: Stage, count: int, *, objects: bool) -> range:
    """Rows of so many artifacts, and objects where one in a hundred comparisons names some.

    Returns the artifacts' ids, never the same again: Temporal remembers a deletion that the ledger does not.
    """
    first = next(_firsts)
    values = {"first": first, "count": WARMING_UP + count, "organization": ORGANIZATION, "project": PROJECT}
    ids = range(first + WARMING_UP, first + WARMING_UP + count)
    with stage.database.engine.begin() as connection:
        for statement in _FILL.split(";\n")[:-1]:
            connection.execute(text(statement), values)
    with psycopg.connect(stage.dsn, autocommit=True) as plain:
        plain.execute("VACUUM ANALYZE")
        plain.execute("CHECKPOINT")
    if objects:
        put_objects(stage, ids)
    return ids


def put_objects(stage: Stage, ids: range) -> None:
    """See _objects."""
    store = S3Store(
        BUCKET,
        endpoint=stage.objects.endpoint,
        access_key_id=stage.objects.access_key,
        secret_access_key=stage.objects.secret_key,
        client_options={"allow_http": True},
    )
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda one: store.put(*one), _objects(ids)))


def delete_by_hand(stage: Stage, ids: range) -> Run:
    """See cascade.sql."""
    run = Run(rows=ROWS_AN_ARTIFACT * len(ids))
    with psycopg.connect(stage.dsn) as connection, watched(stage, run, os.getpid()):
        began = time.thread_time()
        for statement in _CASCADE.split(";\n")[:-1]:
            connection.execute(statement, {"ids": list(ids)})
        connection.commit()
        own = time.thread_time() - began
    run.client_cpu_s = own  # without the thread that watches the locks in this process
    return run


async def delete_ours(stage: Stage, ids: range, *, receipt: bool) -> Run:
    """By a worker that is up and has deleted before. Without `receipt`, the deletion is ended when its rows are gone."""
    run = Run(rows=ROWS_AN_ARTIFACT * len(ids))
    with stage.worker("worker-rows", shutdown_grace_s="1") as worker:
        warming_up = DeletionRequest(organization_id=ORGANIZATION, artifact_ids=tuple(range(ids[0] - WARMING_UP, ids[0])))
        await (await start_deletion(stage.client, warming_up)).result()
        request = DeletionRequest(organization_id=ORGANIZATION, artifact_ids=tuple(ids))
        began = time.perf_counter()
        with watched(stage, run, worker.pid):
            with stage.database.write() as session:
                accept_deletion(session, request)
            deleted = await wait_rows_deleted(stage.client, request)
        if deleted.rows != run.rows:
            raise ContenderFailed(f"ours: {deleted.rows} rows instead of {run.rows}")
        handle = stage.client.get_workflow_handle(request.workflow_id)
        if receipt:
            if not (found := await (await start_deletion(stage.client, request)).result()).complete:
                raise ContenderFailed(f"ours: the receipt says {found.objects}")
            run.receipt_s = time.perf_counter() - began
        run.steps_s = await _steps(handle)
        if not receipt:
            await handle.terminate()
    return run


def read_manifests(stage: Stage, ids: range) -> Run:
    """What no deletion of these artifacts can leave out: one GET each."""
    run, keys = Run(), [key for key, _ in _objects(ids) if key.endswith("/comparison.json")]
    readers = Settings.model_fields["manifest_readers"].default
    costs = measured(run, clients=[os.getpid()], store=stage.objects.pid, others=[stage.postgres.pid])
    with costs, ThreadPoolExecutor(readers) as threads:
        list(threads.map(lambda key: stage.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read(), keys))
    return run


async def take_empty_steps(stage: Stage, artifacts: int) -> Run:
    """As many steps as a deletion of so many artifacts has until its rows are gone."""
    run = Run()
    chunks, at_once = (Settings.model_fields[name].default for name in ("chunk_artifacts", "chunks_at_once"))
    with EmptyWorker.of(stage, "worker-rows-empty") as worker:
        await until_chunks_empty(stage.client, 1, 1)
        with watched(stage, run, worker.pid):
            await until_chunks_empty(stage.client, -(-artifacts // chunks), at_once)
    return run


async def rows(stage: Stage, *, sizes: Sequence[tuple[int, int]], receipts: int) -> dict[str, Any]:
    """(artifacts, rounds) in turns; ours is waited for to the receipt once for at most `receipts` artifacts."""
    results: dict[str, Any] = {}
    for size, rounds in sizes:
        runs = defaultdict[str, list[Run]](list)
        for number in range(rounds):
            for name in (OURS, SQL) if number % 2 else (SQL, OURS):
                ids = fill(stage, size, objects=name == OURS)
                if name == OURS:
                    run = await delete_ours(stage, ids, receipt=size <= receipts and not number)
                    put_objects(stage, ids)
                    runs[MANIFESTS].append(await asyncio.to_thread(read_manifests, stage, ids))
                    runs[EMPTY].append(await take_empty_steps(stage, size))
                else:
                    run = await asyncio.to_thread(delete_by_hand, stage, ids)
                with stage.database.read() as session:
                    if left := session.execute(
                        text(f"SELECT count(*) FROM sentry_preprodartifact WHERE id >= {ids[0]}")
                    ).scalar():
                        raise ContenderFailed(f"{name} left {left} artifacts")
                runs[name].append(run)
                print(
                    f"  {size:,} artifacts, round {number + 1}: {name}: {run.wall_s:.2f} s {run.steps_s}",
                    file=sys.stderr,
                    flush=True,
                )
        results[str(size)] = {name: [vars(run) for run in of_name] for name, of_name in runs.items()}
    return results


async def _steps(handle: Any) -> dict[str, float]:
    """Seconds at work by kind of step, of those that have ended."""
    names, began, took = {}, {}, defaultdict[str, float](float)
    async for event in handle.fetch_history_events():
        at = event.event_time.ToMicroseconds() / 1e6
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            began[event.event_id] = at
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            ended = event.activity_task_completed_event_attributes
            took[names[ended.scheduled_event_id]] += at - began[ended.started_event_id]
    return dict(took)


def _objects(ids: range) -> Iterator[tuple[str, bytes]]:
    """A manifest and the mask that it names, for each comparison that has them."""
    scope, base = f"preprod/org.{ORGANIZATION}/project.{PROJECT}/objects/", ids[0] - WARMING_UP - BASES
    for head in ids:
        if head % 10 == 0:
            home = f"{ORGANIZATION}/{PROJECT}/{head}/{base}/"
            images = {"home.png": {"status": "changed", "diff_mask_key": f"{home}diff/home.png"}}
            manifest = {"head_artifact_id": head, "base_artifact_id": base, "images": images}
            yield f"{scope}{home}comparison.json", json.dumps(manifest).encode()
            yield f"{scope}{home}diff/home.png", b"\x89PNG"
