"""Many deletions under random faults of every kind, and then the oracle: `make soak SECONDS=600 SEED=7`.

One round after another, each with a world, a bucket and a database of its own, until the time is over. In a round, requests
that overlap are made, held, cancelled, terminated, made again, while workers are killed, stopped and resumed, the servers are
killed and started again, Temporal forgets everything, and the store is seen through a faulty proxy. Then the faults end, and
what was accepted is resumed or run again until it has ended. Exit code 1 if it does not, or if a promise does not hold.

A seed draws the same faults again, but not at the same instants: those are the processes' own.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from sqlalchemy import text
from temporalio.client import Client, Interceptor, OutboundInterceptor, StartWorkflowInput, WorkflowHandle
from temporalio.service import RPCError

from activities.backend.tables import Artifact
from activities.database import Database
from activities.images import owed
from activities.ledger import holds
from activities.stores.s3 import S3Objects
from activities.watch_images import watch_unwatched
from artifact_deletion.client import is_running, start_deletion, trying_again
from artifact_deletion.converter import data_converter
from artifact_deletion.errors import DatabaseUnavailable
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import SEARCH_ATTRIBUTES, DeletionRequest
from demo.servers import ObjectStoreServer, PostgresServer, Server, TemporalServer
from demo.world import Build, Project, Snapshot, screen
from settings import PREFIX
from tests import crash_points, fault_proxy
from tests.crash_points import POINTS
from tests.fault_proxy import FaultProxy, answering, operation, refusing_keys
from tests.images_oracle import image_violations, without_images
from tests.oracle import Evidence, violations
from tests.soak_uploads import CATCH_UP_S, GRACE_S, LATE_S, Uploads
from tests.stack import Stack, prepare_database, resume, s3_of
from workflows.steps import PREVIEW_DELETION

ROUND_S = 20.0
REST_S = 240.0
"""How long a round may take to come to rest; what does not is a finding."""
RERUNS = 4
"""How often what failed is run again when all faults are over; what fails more often than that is a finding."""
WORKERS = 3
_AT_FIRST = 3
"""Deletions that are asked for before anything strikes."""
_BUCKETS = {False: "soak", True: "soak-versioned"}
_STARTUP_FAILED = 3
_LOST = -signal.SIGKILL


@dataclass
class Servers:
    """All that the rounds share."""

    temporal: TemporalServer
    objects: ObjectStoreServer
    postgres: PostgresServer
    proxy: FaultProxy
    client: Client
    sqlite: Path
    """A prepared database to copy."""


@dataclass
class Figures:
    """What was done, for a person who reads the end."""

    rounds: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    artifacts: int = 0
    workers: int = 0

    def __str__(self) -> str:
        def counts(of: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(of.items()))

        faults = "\n".join(f"  {count:5} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"rounds: {self.rounds.total()} ({counts(self.rounds)})\n"
            f"deletions: {self.ended.total()} ({counts(self.ended)}) of {self.artifacts} artifacts\n"
            f"uploads meanwhile: {self.uploads.total()} ({counts(self.uploads)})\n"
            f"worker processes: {self.workers}\n"
            f"faults: {self.faults.total()}\n{faults}"
        )


@dataclass
class Worker:
    process: ForkServerProcess
    log: Path

    def send(self, number: signal.Signals) -> None:
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, number)


@dataclass
class Round:
    """One world, what is asked of it, and what strikes meanwhile."""

    stack: Stack
    servers: Servers
    draw: random.Random
    figures: Figures
    quiet_period_s: float
    projects: list[list[Snapshot | Build]] = field(default_factory=list)
    places: list[Project] = field(default_factory=list)
    uploads: dict[str, int] = field(default_factory=dict)
    """Artifact by the key of an upload that was begun for it."""
    requests: dict[str, DeletionRequest] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    later: set[asyncio.Task[None]] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    uploading: Uploads = field(init=False)
    clients: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.uploading = Uploads(self.stack)

    # The world ------------------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Two organizations with two projects each: snapshots, comparisons, builds that share an icon, unfinished uploads."""
        world, draw = self.stack.world, self.draw
        for slug in ("acme", "globex"):
            organization = world.organization(slug)
            for name in ("shop", "site"):
                project = world.project(organization, name)
                screens = {f"{one}.png": screen(one) for one in ("login", "cart", "home")}
                snapshots = [
                    world.snapshot(
                        project,
                        screens | {"home.png": screen("home", seed)},
                        usecase=draw.choice(["preprod", "snapshots"]),
                        old_format=draw.random() < 0.2,
                    )
                    for seed in range(draw.randint(3, 5))
                ]
                for head, base in zip(snapshots[1:], snapshots, strict=False):
                    unreadable = b"{" if draw.random() < 0.2 else None
                    world.comparison(
                        head,
                        base,
                        masks=draw.randint(0, 4),
                        manifest=unreadable,
                        versioned=draw.random() < 0.3,
                        committed=draw.random() < 0.8,
                        usecase=head.usecase,
                    )
                icons = ["icn_same", "icn_same", f"icn_{name}", "file", None]
                builds = [world.mobile_build(project, icon=draw.choice(icons)) for _ in range(draw.randint(1, 3))]
                for head_build, base_build in zip(builds[1:], builds, strict=False):
                    world.size_comparison(head_build, base_build)
                for one in draw.sample(snapshots, 2):
                    place = one.artifact
                    key = world.physical(one.usecase, organization, project.id, f"{place.prefix}late.bin")
                    self.stack.s3.create_multipart_upload(Bucket=self.stack.bucket, Key=key)
                    self.uploads[key] = place.id
                self.projects.append([*snapshots, *builds])
                self.places.append(project)
                self.uploading.images.snapshots += snapshots

    # Deletions ------------------------------------------------------------------------------------------------------------

    async def ask(self) -> None:
        """A request for some artifacts of an organization, or, now and then, one that must be refused."""
        first = self.draw.randrange(2) * 2
        ours = [one for project in self.projects[first : first + 2] for one in project]
        chosen = self.draw.sample(ours, self.draw.randint(1, 5))
        if self.draw.random() < 0.1:
            chosen.append(self.draw.choice(self.projects[2 - first]))
        organization = ours[0].artifact.organization_id
        request = DeletionRequest(
            organization_id=organization,
            artifact_ids=tuple(one.id for one in chosen),
            images=self.draw.choice(["delete", "delete", "keep"]),
        )
        await self._start(request)

    async def upload(self) -> None:
        """A client begins to upload a snapshot, and goes on beside all else."""
        number, usecase = self.draw.randrange(len(self.places)), self.draw.choice(["preprod", "snapshots"])
        draw = random.Random(self.draw.random())

        async def to_the_end() -> None:
            made = await asyncio.to_thread(self.uploading.upload, self.places[number], usecase, draw)
            self.figures.uploads["gave up" if made is None else "committed"] += 1
            if made is not None:
                self.projects[number].append(made)

        task = asyncio.create_task(to_the_end())
        self.clients.add(task)
        task.add_done_callback(self.clients.discard)

    async def ask_again(self) -> None:
        if self.requests:
            await self._start(self.draw.choice(list(self.requests.values())))

    async def cancel(self) -> None:
        await self._running(lambda handle: handle.cancel(rpc_timeout=_SOON), "deletion cancelled")

    async def terminate(self) -> None:
        await self._running(lambda handle: handle.terminate(rpc_timeout=_SOON), "deletion terminated")

    async def resume(self) -> None:
        with contextlib.suppress(RPCError, TimeoutError):
            await asyncio.wait_for(resume(self.servers.client, self.stack.database), 5)

    async def _start(self, request: DeletionRequest) -> None:
        try:
            # In a thread: the worker that holds SQLite's lock may be one that this one is to resume.
            await asyncio.to_thread(self.stack.accept, request)
        except DatabaseUnavailable:
            return  # a backend would tell its user so
        self.requests[request.workflow_id] = request
        with contextlib.suppress(RPCError, TimeoutError):  # whatever is accepted is resumed later
            await asyncio.wait_for(start_deletion(self.servers.client, request), 3)

    async def _running(self, act: Callable[[Any], Awaitable[None]], what: str) -> None:
        if not self.requests:
            return
        workflow = self.draw.choice(list(self.requests))
        with contextlib.suppress(RPCError, TimeoutError):
            await asyncio.wait_for(act(self.servers.client.get_workflow_handle(workflow)), 3)
            self.figures.faults[what] += 1

    async def hold(self) -> None:
        """A person holds a deletion, an organization or everything, or keeps an artifact, and lets it go a while later."""
        if not self.requests:
            return
        request = self.draw.choice(list(self.requests.values()))
        on, which = self.draw.choice(
            [
                (holds.On.EVERYTHING, ""),
                (holds.On.ORGANIZATION, str(request.organization_id)),
                (holds.On.DELETION, request.deletion_id),
                (holds.On.ARTIFACT, str(self.draw.choice(request.artifact_ids))),
                (holds.On.PROJECT, str(self.draw.choice(self.draw.choice(self.projects)).artifact.project_id)),
            ]
        )
        try:
            # In a thread: it waits for the transactions of workers, one of which may be stopped.
            placed = await asyncio.to_thread(holds.place, self.stack.database, on, which, reason="soak", by="user:7")
        except DatabaseUnavailable:
            return  # it may stand all the same, and is lifted when all comes to rest
        self.figures.faults[f"hold on {on}"] += 1
        kept = int(which) if on is holds.On.ARTIFACT and self._is_there(int(which)) else None

        def lift() -> None:
            if kept is not None and self._is_there(kept, while_held=placed.id) is False:
                self.broken.append(f"artifact {kept} was deleted while it was held")
            self._lift([placed.id])

        self._later(self.draw.uniform(0.2, 4), lift)

    def _is_there(self, artifact: int, while_held: int | None = None) -> bool | None:
        """Whether it has a row. None: the database does not say, or the hold is lifted by now."""
        with contextlib.suppress(DatabaseUnavailable), self.stack.database.read() as session:
            if while_held is None or while_held in {one.id for one in holds.placed(session)}:
                return session.get(Artifact, artifact) is not None
        return None

    def _lift(self, ids: list[int]) -> None:
        with contextlib.suppress(DatabaseUnavailable), self.stack.database.write() as session:
            holds.lift(session, ids, by="user:7")

    def _lift_all(self) -> None:
        with self.stack.database.read() as session:
            placed = holds.placed(session)
        if placed:
            self._lift([one.id for one in placed])

    # Faults ---------------------------------------------------------------------------------------------------------------

    async def kill_worker(self) -> None:
        self.draw.choice(self.workers).send(signal.SIGKILL)
        self.figures.faults["worker SIGKILL"] += 1

    async def stop_worker(self) -> None:
        """Longer than its steps' heartbeats are waited for, so that it goes on beside the one that took over."""
        worker = self.draw.choice(self.workers)
        worker.send(signal.SIGSTOP)
        self.figures.faults["worker SIGSTOP, later SIGCONT"] += 1
        self._later(self.draw.uniform(0.3, 4), lambda: worker.send(signal.SIGCONT))

    async def restart(self, server: Server) -> None:
        self.figures.faults[f"{server.name} killed and started again"] += 1
        length = self.draw.uniform(0, 1.5)

        def kill_and_start() -> None:
            with self.uploading.servers_up:
                server.kill()
                time.sleep(length)
                server.start()

        await asyncio.to_thread(kill_and_start)

    async def forget(self) -> None:
        self.figures.faults["temporal emptied"] += 1
        await asyncio.to_thread(self.servers.temporal.forget)

    async def terminate_backends(self) -> None:
        if not self.stack.database.is_postgresql:
            return
        self.figures.faults["postgres backends terminated"] += 1
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "

        def terminate() -> None:
            with self.uploading.servers_up, self.stack.database.write() as session:
                session.execute(text(f"{others}pg_backend_pid()"))

        await asyncio.to_thread(terminate)

    async def spoil_requests(self) -> None:
        """A fault of the proxy, for a while and for some requests."""
        salt = self.draw.random()
        server = self.servers.objects

        def chosen(key: str) -> bool:
            return random.Random(f"{salt} {key}").random() < 0.3

        def some(kind: fault_proxy.Kind) -> Callable[[], object]:
            only = self.draw.choice(_OPERATIONS)
            times = self.draw.choice([1, 3, None])
            return lambda: self.servers.proxy.begin(kind, only=only, times=times)

        def refused(code: str) -> Callable[[], object]:
            kind = refusing_keys(code, chosen, server.access_key, server.secret_key)
            return lambda: self.servers.proxy.begin(kind, only=operation("DeleteObjects"))

        kinds: dict[str, Callable[[], object]] = {
            "500": some(answering(500, "InternalError")),
            "503 SlowDown": some(answering(503, "SlowDown")),
            "403 AccessDenied": some(answering(403, "AccessDenied")),
            "403 RequestTimeTooSkewed": some(answering(403, "RequestTimeTooSkewed")),
            "404 NoSuchBucket": some(answering(404, "NoSuchBucket")),
            "200 of something else": some(answering(200, body=b"<html>hello</html>")),
            "request lost": some(fault_proxy.unreached),
            "answer lost": some(fault_proxy.unheard),
            "answer cut off": some(fault_proxy.cut),
            "answer withheld": some(fault_proxy.withheld),
            "answer truncated": some(fault_proxy.truncated),
            "some keys AccessDenied": refused("AccessDenied"),
            "some keys SlowDown": refused("SlowDown"),
        }
        name = self.draw.choice(sorted(kinds))
        self.figures.faults[f"store: {name}"] += 1
        fault: Any = kinds[name]()
        self._later(self.draw.uniform(0.2, 3), fault.end)

    async def refuse_connections(self) -> None:
        self.figures.faults["store: connections refused"] += 1

        def refuse() -> None:
            with self.servers.proxy.refusing_connections():
                time.sleep(length)

        length = self.draw.uniform(0.1, 1.5)
        await asyncio.to_thread(refuse)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        async def wait_and_act() -> None:
            await asyncio.sleep(seconds)
            act()

        task = asyncio.create_task(wait_and_act())
        self.later.add(task)
        task.add_done_callback(self.later.discard)

    # Workers --------------------------------------------------------------------------------------------------------------

    def start_worker(self, *, crashing: bool) -> None:
        point = self.draw.choice(_POINTS) if crashing else None
        number = self.figures.workers
        self.figures.workers += 1
        changes = {
            "S3_ENDPOINT": self.servers.proxy.endpoint,
            "S3_READ_TIMEOUT_S": "2",
            "DATABASE_LOCK_TIMEOUT_S": "2",
            "CHUNK_ARTIFACTS": "2",
            "DATABASE_STEPS": "4",
            "STORE_STEPS": "4",
            "STORE_REQUESTS": "6",
            "QUIET_PERIOD_S": str(self.quiet_period_s),
            "IMAGES_GRACE_S": str(GRACE_S),
            "IMAGES_LATE_S": str(LATE_S),
            "IMAGES_CATCH_UP_S": str(CATCH_UP_S),
        }
        environment = self.stack.environment(**{f"{PREFIX}{name}": value for name, value in changes.items()})
        if point:
            marker = self.stack.folder / f"struck-{number}"
            environment |= {crash_points.CRASH_POINT: point, crash_points.CRASH_MARKER: str(marker)}
        log = self.stack.folder / f"worker-{number}.log"
        self.workers.append(Worker(crash_points.start_forked(environment, log), log))

    def replace_the_dead(self, *, crashing: bool = True) -> None:
        """Each that has died is replaced, mostly by one that will die at a point of its own."""
        for worker in [one for one in self.workers if not one.process.is_alive()]:
            code = worker.process.exitcode
            if code == _LOST and list(self.stack.folder.glob(worker.log.name.replace("worker", "struck").replace(".log", ""))):
                self.figures.faults["worker killed at a crash point"] += 1
            if code not in {_LOST, _STARTUP_FAILED}:
                self.broken.append(f"a worker ended with {code}; its log: {worker.log}")
            self.workers.remove(worker)
        while len(self.workers) < WORKERS:
            self.start_worker(crashing=crashing and self.draw.random() < 0.8)

    def end_workers(self) -> None:
        for worker in self.workers:
            worker.send(signal.SIGKILL)
            worker.process.join()
        self.workers.clear()

    # A round --------------------------------------------------------------------------------------------------------------

    async def run(self, seconds: float) -> list[str]:
        """Returns what is broken."""
        self.build()
        before = Evidence.of(self.stack)
        try:
            await self._strike(seconds)
            await self._come_to_rest()
            after = Evidence.of(self.stack)
        finally:
            self.end_workers()
        also_owned = {key for key, artifact in self.uploads.items() if artifact not in after.artifacts}
        asked = list(self.requests.values())
        self.broken += violations(self.stack, without_images(before), without_images(after), asked, also_owned)
        self.broken += image_violations(self.uploading.images, before, after, asked)
        self.figures.ended.update(self._states().values())
        self.figures.artifacts += len({one for request in self.requests.values() for one in request.artifact_ids})
        return self.broken

    async def _strike(self, seconds: float) -> None:
        servers = self.servers
        actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (16, self.ask),
            (6, self.ask_again),
            (12, self.upload),
            (2, self.cancel),
            (2, self.terminate),
            (2, self.hold),
            (2, self.resume),
            (4, self.kill_worker),
            (4, self.stop_worker),
            (10, self.spoil_requests),
            (2, self.refuse_connections),
            (3, self.terminate_backends),
            (1, lambda: self.restart(servers.objects)),
            (1, lambda: self.restart(servers.temporal)),
            (1, self.forget),
        ]
        if self.stack.database.is_postgresql:
            actions.append((1, lambda: self.restart(servers.postgres)))
        until = time.monotonic() + seconds
        for _ in range(_AT_FIRST):
            await self.ask()
        while time.monotonic() < until:
            self.replace_the_dead()
            (act,) = self.draw.choices([one for _, one in actions], [weight for weight, _ in actions])
            await act()
            await asyncio.sleep(self.draw.uniform(0, 0.3))

    async def _come_to_rest(self) -> None:
        """What is open is resumed, what failed is run again, until all have ended; only workers still die, at their points."""
        while waiting_for := self.later | self.clients:
            await asyncio.wait(waiting_for)
        self.servers.proxy.clear()
        reruns: Counter[str] = Counter()
        until = time.monotonic() + REST_S
        self._lift_all()
        while waiting := {id_: state for id_, state in self._states().items() if state not in _AT_REST}:
            self.replace_the_dead(crashing=False)
            for workflow in [id_ for id_, state in waiting.items() if state is DeletionState.FAILED]:
                if not await is_running(self.servers.client, self.requests[workflow]):
                    reruns[workflow] += 1
                    if reruns[workflow] > RERUNS:
                        found = self.stack.receipt(workflow).left_over
                        self.broken.append(f"{workflow} fails again and again: {found}")
                        return
                    await self._start(self.requests[workflow])
            await self.resume()
            if time.monotonic() > until:
                self.broken.append(f"not at rest after {REST_S:.0f} s: {waiting}")
                self.broken += [str(one) for workflow in waiting for one in await trying_again(self.servers.client, workflow)]
                return
            await asyncio.sleep(0.3)
        await self._until_no_image_is_on_its_way(until)

    async def _until_no_image_is_on_its_way(self, until: float) -> None:
        while True:
            with self.stack.database.read() as session:
                projects = owed.to_watch(session)
            if not projects:
                return
            self.replace_the_dead(crashing=False)
            with contextlib.suppress(RPCError, TimeoutError):
                await asyncio.wait_for(watch_unwatched(self.servers.client, projects), 5)
            if time.monotonic() > until:
                self.broken.append(f"images are on their way after {REST_S:.0f} s, in projects {projects}")
                return
            await asyncio.sleep(0.3)

    def _states(self) -> dict[str, DeletionState]:
        return {workflow: self.stack.recorded(workflow).state for workflow in self.requests}


_POINTS = [point for point in POINTS if not point.startswith(PREVIEW_DELETION.name)]  # there are none here
_SOON = timedelta(seconds=2)
_AT_REST = {DeletionState.CLOSED, DeletionState.REFUSED, DeletionState.CANCELLED}
_OPERATIONS: list[fault_proxy.Matches] = [
    lambda _: True,
    operation("DeleteObjects"),
    operation("GetObject"),
    operation("ListObjectsV2", "ListObjectVersions", "ListMultipartUploads"),
    operation("DeleteObject", "AbortMultipartUpload"),
]
_KINDS = [("postgresql", False), ("sqlite", True), ("postgresql", True), ("sqlite", False)]


@contextlib.asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[Servers]:
    """Every server, with two buckets and a database to copy."""
    with contextlib.ExitStack() as running:
        temporal = running.enter_context(TemporalServer(folder / "temporal", ui=False, search_attributes=SEARCH_ATTRIBUTES))
        objects = running.enter_context(ObjectStoreServer(folder / "objects"))
        postgres = running.enter_context(PostgresServer(folder / "postgres"))
        prepare_database(postgres.create_database("template_backend"))
        sqlite = folder / "template.db"
        prepare_database(f"sqlite:///{sqlite}")
        s3 = s3_of(objects)
        for versioned, bucket in _BUCKETS.items():
            s3.create_bucket(Bucket=bucket)
            if versioned:
                s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        proxy = running.enter_context(FaultProxy(objects.endpoint))
        client = await Client.connect(temporal.address, data_converter=data_converter, interceptors=[TasksLostSoon()])
        yield Servers(temporal, objects, postgres, proxy, client, sqlite)


@contextlib.contextmanager
def stack_of(on: Servers, number: int, database: str, *, versioned: bool, folder: Path) -> Iterator[Stack]:
    """A database of its own, and a bucket that is empty again for the next round."""
    folder.mkdir()
    if database == "sqlite":
        shutil.copy(on.sqlite, folder / "backend.db")
        url = f"sqlite:///{folder / 'backend.db'}"
    else:
        url = on.postgres.create_database(f"soak_{number}", template="template_backend")
    opened, bucket, s3 = Database(url), _BUCKETS[versioned], s3_of(on.objects)
    try:
        yield Stack(opened, url, on.objects, s3, bucket, on.client, on.temporal.address, folder)
    finally:
        opened.dispose()
    store = S3Objects(s3, bucket, versioned)
    for found in store.list_under(""):
        store.delete_found(found)
    for uploads in store.uploads_under(""):
        store.abort_uploads(uploads)


class TasksLostSoon(Interceptor):
    """Has a workflow task that is lost with its worker run again after two seconds, not ten: then a round rests sooner."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002  the SDK's name
        return _TasksLostSoon(next)


class _TasksLostSoon(OutboundInterceptor):
    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:  # noqa: A002  the SDK's name
        input.task_timeout = crash_points.TASK_LOST_AFTER
        return await super().start_workflow(input)


async def soak(seconds: float, seed: int, folder: Path) -> int:
    """Returns the exit code."""
    figures, began = Figures(), time.monotonic()
    async with servers(folder) as on:
        number = 0
        while (left := began + seconds - time.monotonic()) > 0:
            draw = random.Random(f"{seed}/{number}")
            database, versioned = _KINDS[number % len(_KINDS)]
            with stack_of(on, number, database, versioned=versioned, folder=folder / f"round-{number}") as stack:
                one = Round(stack, on, draw, figures, quiet_period_s=draw.choice([0, crash_points.QUIET_PERIOD_S]))
                broken = await one.run(min(ROUND_S, max(left, 3)))
            kind = f"{database}, {'versioned' if versioned else 'unversioned'} bucket"
            figures.rounds[kind] += 1
            print(f"  round {number} ({kind}): {len(one.requests)} deletions, {time.monotonic() - began:.0f} s", flush=True)
            if broken:
                print("\n".join([f"seed {seed}, round {number}: a promise does not hold", *broken, str(figures)]))
                return 1
            number += 1
    print(f"seed {seed}, {time.monotonic() - began:.0f} s, every promise holds\n{figures}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long faults strike; the last round then comes to rest")
    parser.add_argument("--seed", type=int, default=None, help="drawn, and printed, if it is not given")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    logging.basicConfig(level=logging.CRITICAL)  # what fails here is meant to
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"soak: seed {seed}, {arguments.seconds:.0f} s, logs in {folder}", flush=True)
    code = asyncio.run(soak(arguments.seconds, seed, folder))
    if code == 0:
        shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    ended_with = main()
    sys.stdout.flush()
    # The SDK's threads can abort an interpreter that ends right after a call.
    os._exit(ended_with)
