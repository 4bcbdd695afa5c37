"""`starter.py demo`: a deletion from end to end, on servers of its own, and a check that it took what it had to and no more.

It deletes things, so it is deaf to the machine around it: no variable, profile file or proxy has a say in where it goes, and it
refuses to go anywhere but 127.0.0.1 and a temporary folder.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from urllib.parse import quote, urlsplit

from sqlalchemy import URL
from temporalio.client import Client, WorkflowUpdateFailedError

from activities.database import Database
from artifact_deletion.client import wait_rows_deleted
from artifact_deletion.converter import data_converter
from artifact_deletion.outbox import accept_deletion, recorded
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest
from commands.display import columns_text
from commands.exit_codes import DONE, FAILED
from commands.following import How, follow
from commands.output import OutputLost, say
from commands.receipt_text import receipt_lines
from commands.setup import register_search_attributes
from demo.inventory import DemoFailed, Inventory, check_exactly, left_in_project
from demo.servers import Identity, ObjectStoreServer, Server, ServerError, TemporalServer, _guard
from demo.world import Sample, World, create_schema, sample_world
from migrations import migrate
from settings import PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

WORKER = Path(__file__).resolve().parents[1] / "worker.py"
BUCKET = "demo"
QUIET_PERIOD = 1.0
"""Seconds before the sweep that confirms: long enough to be seen."""
DELETION_TIMEOUT = 60.0
"""Seconds. The deletion takes four on an idle machine; one that is stuck must not hold up what waits for the exit code."""

_KEPT_VARIABLES = ("PATH", "TERM", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
T = TypeVar("T")


class WorkerProcess(Server):
    """`python worker.py` as in production: it is told everything by its environment, which no other user can read."""

    name = "worker"
    stop_timeout = 5.0

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        super().__init__(folder, ports=0)
        self._variables = variables

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def _command(self) -> Sequence[str | Path]:
        return [sys.executable, WORKER]

    def _answers(self) -> bool:
        return "worker is up" in self.log.read_text(errors="replace")

    def _launch(self) -> None:
        # The base class starts servers, which get none of our variables; this one is ours.
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, **self._variables},
            )
        self._guard = _guard(self._process.pid)


@dataclass(frozen=True)
class Stage:
    """Where the demo plays."""

    temporal: TemporalServer
    objects: ObjectStoreServer
    worker_user: Identity
    database: Database
    s3: "S3Client"
    client: Client
    world: World

    def check_loopback(self, folder: Path) -> None:
        """Refuse to go on unless everything is ours: asks the clients where they go, not us where we sent them."""
        addresses = (self.client.service_client.config.target_host, self.temporal.ui_url, self.s3.meta.endpoint_url)
        for address in addresses:
            if urlsplit(address if "//" in address else f"//{address}").hostname != "127.0.0.1":
                raise DemoFailed(f"it would have talked to {address}, which is not this machine")
        if not Path(self.database.engine.url.database or "").is_relative_to(folder):
            raise DemoFailed(f"it would have used a database outside {folder}")

    def worker_variables(self) -> dict[str, str]:
        settings = {
            "database_url": self.database.engine.url.render_as_string(hide_password=False),
            "bucket": BUCKET,
            "s3_endpoint": self.objects.endpoint,
            "s3_access_key": self.worker_user.access_key,
            "s3_secret_key": self.worker_user.secret_key,
            "trace_store": "sql",
            "quiet_period_s": str(QUIET_PERIOD),
            "shutdown_grace_s": "3",
        }
        variables = {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}
        return variables | {"TEMPORAL_ADDRESS": self.temporal.address}

    async def ui_url(self, workflow: str) -> str:
        run = (await self.client.get_workflow_handle(workflow).describe()).run_id
        return f"{self.temporal.ui_url}/namespaces/default/workflows/{quote(workflow, safe='')}/{run}/history"


class StopSignals:
    """Ctrl-C, SIGTERM and SIGHUP end the demo where it is: by an exception where it blocks, by a cancel where it awaits.

    Once only: what follows is the cleaning up, which an impatient second Ctrl-C must not cut short.
    """

    def __init__(self) -> None:
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._loop = asyncio.get_running_loop()
        self._armed = True
        self.received = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in _STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def obeyed(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._armed = False

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        if not self._armed:
            return
        self._armed, self.received = False, True
        if asyncio.current_task() is self._task:
            raise KeyboardInterrupt
        self._task.cancel()
        self._loop.call_soon_threadsafe(lambda: None)  # wakes the loop up


async def demo() -> int:
    """Show a deletion and check it. Returns the exit code; by then all servers have ended and the folder is gone.

    Raises OutputLost.
    """
    signals = StopSignals()
    try:
        with (
            signals,
            tempfile.TemporaryDirectory(prefix="artifact-deletion-demo-") as name,
            _deaf(name) as folder,
            contextlib.ExitStack() as servers,
            signals.obeyed(),
        ):
            await _show(folder, servers)
    except BaseException as error:
        # An interrupt that strikes inside a library can come out as an error of that library.
        if signals.received:
            return _fail("The demo was interrupted; its servers are stopped, their folder is removed.")
        if not isinstance(error, Exception) or isinstance(error, OutputLost):
            raise
        return _fail(f"The demo failed: {_sentence(error)}")
    return DONE


async def _show(folder: Path, servers: contextlib.ExitStack) -> None:
    with _doing("Starting Temporal with its Web UI, an S3 server (SeaweedFS) and a SQLite database"):
        stage = await _set_up(folder, servers)
    say(f"  Temporal {stage.temporal.address}, Web UI {stage.temporal.ui_url}")
    say(f"  objects  {stage.objects.endpoint}")
    say(f"  database and all data in {folder}")
    with _doing("Filling them"):
        sample = sample_world(stage.world)
        before = Inventory.of(stage.world)
    kept, doomed = len(sample.to_keep), len(sample.to_delete)
    say(f"  2 organizations, {len(sample.projects)} projects, {len(sample.snapshots)} snapshots with")
    filled = f"{len(before.rows)} rows, {len(before.objects)} objects"
    say(f"  {len(sample.comparisons)} comparisons, {len(sample.builds)} mobile builds: {filled}")
    with _doing("Starting the worker"):
        worker = servers.enter_context(WorkerProcess(folder / "worker", stage.worker_variables()))
    say(f"  process {worker.pid}")
    with _doing(f"Deleting {doomed} of {kept + doomed} artifacts, all of them in project {sample.project.slug}"):
        done = await _unless_worker_ends(worker, _delete(stage, sample))
    with _doing("Checking all that is left"):
        _check(stage, sample, before)
    say(f"\nIn Temporal's Web UI: {await stage.ui_url(done.workflow_id)}")
    _wait_for_enter()


async def _set_up(folder: Path, servers: contextlib.ExitStack) -> Stage:
    worker_user = Identity("worker", tuple(f"{action}:{BUCKET}" for action in ("Read", "List", "Write")))
    temporal = servers.enter_context(TemporalServer(folder / "temporal"))
    objects = servers.enter_context(ObjectStoreServer(folder / "objects", identities=[worker_user]))
    for server in (temporal, objects):
        servers.callback(server.kill)  # what a graceful end takes seconds to save is thrown away
    url = URL.create("sqlite", database=str(folder / "backend.db"))
    database = Database(url.render_as_string(hide_password=False))
    servers.callback(database.dispose)
    s3 = objects.client()
    servers.callback(s3.close)
    client = await Client.connect(temporal.address, data_converter=data_converter)
    world = World(database.engine, s3, BUCKET)
    stage = Stage(temporal, objects, worker_user, database, s3, client, world)
    stage.check_loopback(folder)
    s3.create_bucket(Bucket=BUCKET)
    create_schema(database.engine)
    migrate(database)
    await register_search_attributes(client)
    return stage


async def _delete(stage: Stage, sample: Sample) -> DeletionReceipt:
    request = DeletionRequest(
        organization_id=sample.organization_id,
        artifact_ids=sample.to_delete,
        requested_by="user:1842",
        reference="ticket:SHOP-311",
    )
    asked = time.monotonic()
    with stage.database.write() as session:
        workflow = accept_deletion(session, request, reason="asked for by the demo")
    with contextlib.suppress(WorkflowUpdateFailedError):  # it ended before; why is what `follow` will say
        gone = await wait_rows_deleted(stage.client, request)
        say(f"  after {time.monotonic() - asked:.1f} s its {gone.rows} rows are gone, and a backend would answer its user;")
        say("  the objects go in the background:")
    code = await follow(stage.client, workflow, How(every_s=0.2))
    with stage.database.read() as session:
        done = recorded(session, workflow).receipt
    if done is None:
        raise DemoFailed("the deletion ended without a receipt in the ledger")
    say(f"\n{columns_text(receipt_lines(done, utc=False))}\n")
    if code != DONE or not done.complete:
        raise DemoFailed("the deletion did not complete")
    return done


async def _unless_worker_ends(worker: WorkerProcess, work: Coroutine[Any, Any, T]) -> T:
    """Wait for the work, but not for a worker that is gone or stuck: Temporal would wait for another one for ever."""
    others = asyncio.all_tasks()
    task = asyncio.create_task(work)
    deadline = time.monotonic() + DELETION_TIMEOUT
    try:
        while not task.done():
            await asyncio.wait([task], timeout=0.1)
            if not task.done() and worker.exit_code is not None:
                reason = f"the worker ended with exit code {worker.exit_code} before the deletion did"
                raise DemoFailed(f"{reason}; its log ends with:\n{worker.log_tail()}")
            if not task.done() and time.monotonic() > deadline:
                reason = f"the deletion did not end within {DELETION_TIMEOUT:.0f} s"
                raise DemoFailed(f"{reason}; the worker's log ends with:\n{worker.log_tail()}")
        return task.result()
    finally:
        await _cut_off(asyncio.all_tasks() - others)


async def _cut_off(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel what still waits for Temporal: a call that is open when the interpreter ends can keep it from ending."""
    if tasks:
        # The client's own futures, whose results are not asked for, would complain of that.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1)


def _check(stage: Stage, sample: Sample, before: Inventory) -> None:
    world, after = stage.world, Inventory.of(stage.world)
    say(left_in_project(world, sample, before, after))
    check_exactly("row", world.rows_of(sample.to_delete), before.rows, after.rows)
    check_exactly("object", world.objects_of(sample.to_delete), before.objects, after.objects)
    readable = _check_images(stage, sample)
    say("  (The receipt counts keys, some of them tried in several places: a store does not say which of them were there.)")
    say(f"  All {len(after.rows)} other rows and {len(after.objects)} other objects are what they were, byte for byte;")
    kept = len([one for one in sample.snapshots if one.id in sample.to_keep])
    say(f"  the {kept} kept snapshots still have all of their {readable} images, each read and compared.")


def _check_images(stage: Stage, sample: Sample) -> int:
    """Read every image of the snapshots that stay, and return how many there are."""
    read = 0
    for snapshot in (one for one in sample.snapshots if one.id in sample.to_keep):
        organization, project = snapshot.artifact.organization_id, snapshot.artifact.project_id
        for png in snapshot.images.values():
            image = f"{organization}/{project}/{hashlib.sha256(png).hexdigest()}"
            key = stage.world.physical(snapshot.usecase, organization, project, image)
            if stage.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() != png:
                raise DemoFailed(f"an image of snapshot {snapshot.id}, which was to stay, is not what it was")
            read += 1
    return read


def _wait_for_enter() -> None:
    """On a terminal, keep everything up until Enter, Ctrl-C or the end of the input."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        say("It ends with the demo now; on a terminal it would stay up until Enter.")
        return
    say("It stays up until you press Enter.")
    with contextlib.suppress(KeyboardInterrupt, OSError):
        sys.stdin.readline()


@contextlib.contextmanager
def _deaf(name: str) -> Iterator[Path]:
    """Replace the environment for us and all that we start, and put it back. Returns the folder that is all there is."""
    folder, before = Path(name).resolve(), dict(os.environ)
    os.environ.clear()
    os.environ.update({name: before[name] for name in _KEPT_VARIABLES if name in before})
    os.environ.update(
        HOME=str(folder),  # where profile files would be
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
        TEMPORAL_CONFIG_FILE=os.devnull,
        NO_PROXY="*",  # macOS has proxies in its system settings, too
    )
    try:
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """Say what happens now, and if it fails, what it was."""
    say(f"{what} ...")
    try:
        yield
    except OutputLost:
        raise
    except Exception as error:
        raise DemoFailed(f"{what[0].lower()}{what[1:]}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    if isinstance(error, DemoFailed | ServerError):
        return str(error)
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no reason given')}"


def _fail(sentence: str) -> int:
    with contextlib.suppress(OSError):  # the reader may be gone
        print(end="", flush=True)
    sys.stderr.write(f"{sentence}\n")
    return FAILED
