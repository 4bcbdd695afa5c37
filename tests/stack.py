"""One test's own backend, bucket and ledger on the shared servers, and workers to delete with."""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

import pytest
from mypy_boto3_s3 import S3Client
from sqlalchemy import Engine, event, select, text
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

import artifact_deletion.client
import composition
import worker
from activities.close_deletion import OTHERS_WITHIN
from activities.database import Database
from activities.ledger.prefixes import EXACT
from activities.ledger.schema import Deletion as DeletionRow
from activities.ledger.schema import DeletionPrefix
from activities.stores.objects import ObjectStore
from activities.stores.s3 import S3Objects
from activities.verify_deletion import Verified
from artifact_deletion import outbox
from artifact_deletion.client import start_deletion
from artifact_deletion.converter import data_converter
from artifact_deletion.errors import DeletionError, NotYet
from artifact_deletion.outbox import Recorded, accept_deletion
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest
from demo.servers import S3Server
from demo.world import Snapshot, World, create_schema, screen
from migrations import migrate
from settings import PREFIX, Settings
from workflows.steps import (
    CANCEL_DELETION,
    CLOSE_DELETION,
    COLLECT_KEYS,
    DELETE_OBJECTS,
    DELETE_ROWS,
    DELETE_TRACE_ITEMS,
    OPEN_DELETION,
    SWEEP_PREFIXES,
    Cancelled,
    Chunk,
    Deletion,
    In,
    Opening,
    Out,
    Pace,
    PageRange,
    Released,
    SealedChunk,
    Step,
    Swept,
)

ROOT = Path(__file__).parents[1]
PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "main")
"""Which of the test run's processes this is. They share servers: a bucket, database or role there bears this name."""
# Every test has organizations of its own, so that no two ask for the same deletion of the namespace that they share.
_numbers = itertools.count(1)
_PATIENCE_S = 40
_NOT_IN_TIME = {RPCStatusCode.CANCELLED, RPCStatusCode.DEADLINE_EXCEEDED}
"""What a busy worker's queries end with."""
Answer = TypeVar("Answer")


@functools.cache  # a client takes a tenth of a second to make
def s3_of(server: S3Server) -> S3Client:
    return server.client()


def prepare_database(url: str) -> None:
    """Make the backend's schema and an empty ledger in a database."""
    database = Database(url)
    create_schema(database.engine)
    migrate(database)
    database.dispose()


@dataclass
class Stack:
    """What a test deletes from, and with."""

    database: Database
    database_url: str
    server: S3Server
    s3: S3Client
    bucket: str
    client: Client
    temporal_address: str
    folder: Path
    organization_id: int = 0
    world: World = field(init=False)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _crashing: list["CrashingWorker"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.organization_id = 1000 * next(_numbers)
        with self.database.write() as session:
            if self.database.is_postgresql:
                session.execute(text(f"ALTER TABLE sentry_organization ALTER COLUMN id RESTART WITH {self.organization_id}"))
            else:
                values = {"name": "sentry_organization", "seq": self.organization_id - 1}
                session.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"), values)
        self.world = World(self.database.engine, self.s3, self.bucket)

    def use_bucket(self, bucket: str, server: S3Server | None = None) -> None:
        """Put what follows into another bucket, of another server if one is given."""
        if server is not None:
            self.server, self.s3 = server, s3_of(server)
        self.bucket = bucket
        self.world = World(self.database.engine, self.s3, bucket)

    def use_temporal(self, client: Client) -> None:
        """Run what follows on another Temporal server."""
        self.client, self.temporal_address = client, client.service_client.config.target_host

    def settings(self, **changes: Any) -> Settings:
        """A worker's settings, without a quiet period unless a test is about it."""
        values: dict[str, Any] = {
            "database_url": self.database_url,
            "bucket": self.bucket,
            "s3_endpoint": self.server.endpoint,
            "s3_access_key": self.server.access_key,
            "s3_secret_key": self.server.secret_key,
            "trace_store": "sql",
            "quiet_period_s": 0,
            "database_steps": 8,
            "store_steps": 8,
            "shutdown_grace_s": 5,
        }
        return Settings(**(values | changes))

    def recorded(self, workflow: str) -> Recorded:
        """A deletion as the ledger has it."""
        return recorded(self.database, workflow)

    def verify(self, request: DeletionRequest, **changes: Any) -> Verified:
        """What is there now of a deletion."""
        parts = composition.open_parts(self.settings(**changes))
        try:
            with ThreadPoolExecutor(4) as requests:
                return parts.verifying(requests).verify(request)
        finally:
            parts.database.dispose()

    @contextlib.asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncIterator[None]:
        """A worker in this process."""
        async with worker.running(self.settings(**changes), self.client):
            yield

    def request(self, artifact_ids: Iterable[int], **more: Any) -> DeletionRequest:
        """A request for artifacts of the test's first organization."""
        return DeletionRequest(**{"organization_id": self.organization_id, "artifact_ids": tuple(artifact_ids), **more})

    def accept(self, request: DeletionRequest) -> None:
        with self.database.write() as session:
            accept_deletion(session, request)

    async def start(self, artifact_ids: Iterable[int], **more: Any) -> WorkflowHandle[Any, DeletionReceipt]:
        """Accept and start, as a backend does."""
        request = self.request(artifact_ids, **more)
        self.accept(request)
        return await start_deletion(self.client, request)

    async def delete(self, artifact_ids: Iterable[int], **more: Any) -> DeletionReceipt:
        """Delete to the end, and return the ledger's receipt."""
        handle = await self.start(artifact_ids, **more)
        await asyncio.wait_for(handle.result(), _PATIENCE_S)
        return self.receipt(handle.id)

    async def failure(self, handle: WorkflowHandle[Any, DeletionReceipt]) -> ApplicationError:
        """What a deletion that must fail failed with."""
        with pytest.raises(WorkflowFailureError) as failed:
            await asyncio.wait_for(handle.result(), _PATIENCE_S)
        assert isinstance(failed.value.cause, ApplicationError), failed.value.cause
        return failed.value.cause

    def receipt(self, workflow: str) -> DeletionReceipt:
        found = receipt(self.database, workflow)
        assert found is not None
        return found

    def snapshots(self, *names: str) -> list[Snapshot]:
        """Snapshots of three screens each, in one project, sharing two of the three images."""
        organization = self.world.organization("acme")
        assert organization == self.organization_id
        project = self.world.project(organization, "shop")
        return [
            self.world.snapshot(project, {"login": screen("login"), "cart": screen("cart"), name: screen("home", seed)})
            for seed, name in enumerate(names)
        ]

    def image_keys(self, snapshot: Snapshot) -> dict[str, str]:
        """The physical key of each of a snapshot's images, by name."""
        at = snapshot.artifact
        organization, project = at.organization_id, at.project_id
        return {
            name: self.world.physical(
                snapshot.usecase, organization, project, f"{organization}/{project}/{hashlib.sha256(png).hexdigest()}"
            )
            for name, png in snapshot.images.items()
        }

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment of a worker or command of its own, as settings name it."""
        settings = self.settings()
        values = {
            "database_url": self.database_url,
            "bucket": self.bucket,
            "s3_endpoint": self.server.endpoint,
            "s3_access_key": self.server.access_key,
            "s3_secret_key": self.server.secret_key,
            "trace_store": settings.trace_store,
            "quiet_period_s": "0",
        }
        named = {f"{PREFIX}{name.upper()}": value for name, value in values.items()}
        around = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        return around | self.temporal_environment() | named | changes

    def temporal_environment(self) -> dict[str, str]:
        """Where its Temporal is, as every client is told."""
        return {"TEMPORAL_ADDRESS": self.temporal_address, "TEMPORAL_NAMESPACE": self.client.namespace}

    async def another_client(self) -> Client:
        """Of the same namespace, by a connection of its own."""
        return await connect(self.temporal_address, self.client.namespace)

    def worker_process(self, *command: str, **changes: str) -> subprocess.Popen[bytes]:
        """A worker as a process of its own, which the test may kill; its output goes to a file."""
        with (self.folder / f"worker-{len(self._processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *(command or ("worker.py",))],
                cwd=ROOT,
                env=self.environment(**changes),
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def crashing_worker(self, point: str, **changes: str) -> "CrashingWorker":
        """A worker process that is gone by SIGKILL when it comes to this point (see crash_points.py)."""
        from tests import crash_points  # noqa: PLC0415  which imports this file

        number = len(self._crashing)
        log = self.folder / f"crashing-worker-{number}.log"
        environment = self.environment(**crash_points.crashing(point, self.folder / f"struck-{number}"), **changes)
        self._crashing.append(CrashingWorker(crash_points.start_forked(environment, log), log))
        return self._crashing[-1]

    def command(self, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run starter.py."""
        line = [sys.executable, "starter.py", *map(str, arguments)]
        return subprocess.run(
            line, cwd=ROOT, env=self.environment(**changes), capture_output=True, text=True, timeout=60, check=False
        )

    async def run_command(self, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """The same while workers of this process go on."""
        return await asyncio.to_thread(self.command, *arguments, **changes)

    def stop_processes(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        for crashing in self._crashing:
            crashing.process.kill()
            crashing.process.join()

    def assert_only_these_are_gone(
        self,
        artifact_ids: Iterable[int],
        before: "Seen",
        *,
        left: Iterable[str] = (),
        also_gone: Iterable[str] = (),
        hidden: Iterable[Snapshot] = (),
    ) -> None:
        """Exactly the rows and objects that belong to these artifacts are gone, and all else is byte for byte as it was.

        `hidden`: snapshots whose images are hidden too. Their copies are in quarantine.
        """
        ids = list(artifact_ids)
        now = Seen.of(self.world)
        gone_objects = before.objects.keys() - now.objects.keys()
        expected = (self.world.objects_of(ids) - set(left)) | set(also_gone)
        expected |= {key for snapshot in hidden for key in self.image_keys(snapshot).values()}
        there = {key: found for key, found in now.objects.items() if not key.startswith("quarantine/")}
        assert gone_objects == expected & before.objects.keys()
        assert {key: before.objects[key] for key in there} == there
        gone_rows = {(table, row) for table, rows in before.rows.items() for row in rows if row not in now.rows.get(table, {})}
        assert gone_rows == self.world.rows_of(ids)
        assert all(now.rows[table][row] == before.rows[table][row] for table, rows in now.rows.items() for row in rows)


@dataclass(frozen=True)
class CrashingWorker:
    """A worker of the test build, and where its output goes."""

    process: ForkServerProcess
    log: Path

    async def is_up(self) -> None:
        """Return when it asks for work."""

        async def says_so() -> bool:
            return self.log.exists() and "worker is up" in self.log.read_text()

        await eventually(says_so)

    async def is_killed(self) -> None:
        """Return when it has died at its point, and of nothing else."""
        await asyncio.to_thread(self.process.join, _PATIENCE_S)
        assert self.process.exitcode == -signal.SIGKILL, (self.process.exitcode, self.log.read_text())


@dataclass(frozen=True)
class Seen:
    """The world at a moment."""

    rows: dict[str, dict[int, dict[str, Any]]]
    objects: dict[str, Any]

    @classmethod
    def of(cls, world: World) -> "Seen":
        return cls(world.rows(), dict(world.objects()))


async def connect(address: str, namespace: str = "default") -> Client:
    return await Client.connect(address, namespace=namespace, data_converter=data_converter)


def lines(output: str) -> Iterator[str]:
    return (line for line in output.splitlines() if line.strip())


@dataclass(frozen=True)
class Steps:
    """The activities of a worker called one by one, without Temporal, so that a test can act between two of them."""

    database: Database
    activities: dict[str, Callable[..., Any]]
    environment: ActivityEnvironment = field(default_factory=ActivityEnvironment)

    def run(self, step: Step[In, Out], given: In) -> Out:
        done: Out = self.environment.run(self.activities[step.name], given)
        return done

    def open(self, request: DeletionRequest, *, fresh: bool = True) -> list[Chunk]:
        """The chunks that are not finished. A fresh start is another run, as is what Reset began anew."""
        run_id = f"run-{next(_numbers)}"
        self.environment.info = dataclasses.replace(self.environment.info, workflow_run_id=run_id)
        opened = self.run(OPEN_DELETION, Opening(request=request, fresh=fresh))
        of = deletion_of(request, opened.fence).model_dump()
        return [Chunk(**of, chunk=left.chunk) for left in opened.chunks]

    def collect(self, chunk: Chunk) -> SealedChunk:
        of = {name: getattr(chunk, name) for name in Chunk.model_fields}
        return SealedChunk(**of, seal=self.run(COLLECT_KEYS, Chunk(**of)))

    def open_and_collect(self, request: DeletionRequest) -> SealedChunk:
        """The one chunk of a small request, sealed."""
        (chunk,) = self.open(request)
        return self.collect(chunk)

    def delete_rows(self, sealed: SealedChunk) -> Released:
        return self.run(DELETE_ROWS, sealed)

    def delete_objects(self, chunk: Chunk, released: Released) -> None:
        if released.first_page < released.end_page:
            share = PageRange(**plain(chunk), first=released.first_page, end=released.end_page)
            self.run(DELETE_OBJECTS, share)

    def delete_what_was_released(self, chunk: Chunk, released: Released) -> None:
        self.delete_objects(chunk, released)
        if released.trace_items_owed:
            self.delete_trace_items(chunk)
        self.sweep(chunk)

    def delete_trace_items(self, chunk: Chunk) -> None:
        self.run(DELETE_TRACE_ITEMS, Chunk(**plain(chunk)))

    def sweep(self, chunk: Chunk) -> Swept:
        """To its end, where there is no quiet period."""
        return self.run(SWEEP_PREFIXES, Chunk(**plain(chunk)))

    def look(self, chunk: Chunk) -> bool:
        """One look at each prefix, where there is a quiet period. True if no further look is needed."""
        try:
            self.sweep(chunk)
        except NotYet:
            return False
        return True

    def pass_quiet_period(self) -> None:
        """What time does."""
        day = timedelta(days=1)
        with self.database.write() as session:
            for row in session.execute(select(DeletionPrefix)).scalars():
                if row.quiet_since is not None or row.kind in EXACT:
                    row.quiet_since = (row.quiet_since or datetime.now(UTC)) - day

    def close(self, request: DeletionRequest) -> DeletionReceipt:
        """The ledger's receipt. If others owe objects, they are waited for in vain."""
        closing = deletion_of(request, self.fence(request))
        try:
            self.run(CLOSE_DELETION, closing)
        except NotYet:
            with self.database.write() as session:
                session.get_one(DeletionRow, request.deletion_id).waits_since = datetime.now(UTC) - OTHERS_WITHIN
            self.run(CLOSE_DELETION, closing)
        found = receipt(self.database, request.workflow_id)
        assert found is not None
        return found

    def cancel(self, request: DeletionRequest) -> Cancelled:
        return self.run(CANCEL_DELETION, deletion_of(request, self.fence(request)))

    def fence(self, request: DeletionRequest) -> int:
        """The deletion's, as it stands in the ledger."""
        with self.database.read() as session:
            return session.execute(select(DeletionRow.fence).where(DeletionRow.id == request.deletion_id)).scalar_one()

    def finish(self, request: DeletionRequest, sealed: SealedChunk) -> DeletionReceipt:
        """From a sealed chunk to the end."""
        self.delete_what_was_released(sealed, self.delete_rows(sealed))
        return self.close(request)


def deletion_of(request: DeletionRequest, fence: int = 0) -> Deletion:
    """A step's input."""
    return Deletion.of(request, fence)


def plain(chunk: Chunk) -> dict[str, Any]:
    """Its fields as those of a mere chunk."""
    return {name: getattr(chunk, name) for name in Chunk.model_fields}


@contextlib.contextmanager
def steps_of(
    stack: Stack, store: ObjectStore | None = None, database: Database | None = None, **changes: Any
) -> Iterator[Steps]:
    """The steps over the stack's database and bucket, or over others; changed settings may name another store too."""
    settings = stack.settings(**changes)
    parts = composition.open_parts(settings, database or stack.database)
    if store is None and not {"bucket", "s3_endpoint", "s3_secret_key"} & changes.keys():
        lists_uploads = settings.bucket_listable and settings.bucket_multipart
        store = S3Objects(
            stack.s3, stack.bucket, versioned=False, listable=settings.bucket_listable, lists_uploads=lists_uploads
        )
    parts = dataclasses.replace(parts, store=store or parts.store)
    with ThreadPoolExecutor(settings.store_requests, thread_name_prefix="store") as requests:
        by_queue = parts.steps(requests, requests, Pace(trace_store=parts.traces is not None))
        yield Steps(parts.database, {one.__name__: one for queue in by_queue for one in queue})


def recorded(database: Database, workflow: str) -> Recorded:
    """A deletion as the ledger has it. Raises NoSuchDeletion."""
    with database.read() as session:
        return outbox.recorded(session, workflow)


def receipt(database: Database, workflow: str) -> DeletionReceipt | None:
    """Its receipt, if there is one."""
    return recorded(database, workflow).receipt


async def resume(client: Client, database: Database) -> list[str]:
    """Start every deletion that no run is at work on."""
    with database.read() as session:
        requests = list(outbox.deletions_to_start(session))
    return await artifact_deletion.client.resume(client, requests)


def again(step: Callable[[], Answer]) -> Answer:
    """What Temporal does: the step is run until it succeeds, here at most five times."""
    for _ in range(4):
        with contextlib.suppress(DeletionError):
            return step()
    return step()


async def eventually(ask: Callable[[], Awaitable[Answer | None]]) -> Answer:
    """Ask until there is an answer: for what another process has come to, which nothing but asking can tell."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            try:
                if found := await ask():
                    return found
            except RPCError as error:
                if error.status not in _NOT_IN_TIME:
                    raise
            await asyncio.sleep(0.02)


async def pending_failures(handle: WorkflowHandle[Any, Any]) -> dict[str, str]:
    """What an operator sees of the steps that are to be tried again: the last failure of each."""
    described = await handle.describe()
    return {
        pending.activity_type.name: pending.last_failure.message
        for pending in described.raw_description.pending_activities
        if pending.HasField("last_failure")
    }


def wait_for_waiters(database: Database, count: int = 1, *, patience_s: float = 10) -> None:
    """Return when so many sessions of this PostgreSQL database wait for a lock."""
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    deadline = time.monotonic() + patience_s
    while True:
        with database.read() as session:
            if (found := session.execute(waiting).scalar_one()) == count:
                return
        assert time.monotonic() < deadline, f"{found} sessions wait for a lock"


class Pause:
    """Stops a thread that executes a statement that begins so, until it is let go; the statement itself is real.

    SQLite does not show who waits for what, and a wait for one read of several takes no lock on PostgreSQL.
    """

    def __init__(self, engine: Engine, statement: str) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

        @event.listens_for(engine, "before_cursor_execute")
        def before(_c: object, _cursor: object, sql: str, _p: object, _context: object, _many: object) -> None:
            if " ".join(sql.split()).startswith(statement) and not self.reached.is_set():
                self.reached.set()
                assert self._open.wait(20)

    def wait(self) -> None:
        assert self.reached.wait(10)

    def let_go(self) -> None:
        self._open.set()


class Held:
    """Holds every call of a method or function until it is let go, so that a fault can strike there; the call is real."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, only: Callable[..., bool] = lambda *_: True
    ) -> None:
        whole = getattr(owner, name)
        self._reached, self._open = threading.Event(), threading.Event()

        @functools.wraps(whole)
        def held(*given: Any) -> Any:
            if only(*given):
                self._reached.set()
                self._open.wait(_PATIENCE_S)
            return whole(*given)

        monkeypatch.setattr(owner, name, held)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 30)

    def let_go(self) -> None:
        self._open.set()

    def hold(self) -> None:
        """From now on, again."""
        self._reached.clear()
        self._open.clear()
