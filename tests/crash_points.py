"""The points at which a worker of the test build kills itself, by name, and that worker.

    CRASH_POINT="delete_rows, after its first COMMIT" CRASH_MARKER=/tmp/struck python -m tests.crash_points

is an ordinary worker, until it comes there: then it makes the marker, and is gone by SIGKILL. With the marker there already it
goes on. The boundaries are found by wrapping what the worker really calls: a step, a transaction or a request of a store that
was added without a point here ends every worker of the test build with exit code 70.

Beside it a `Death`, for single steps in a test's own process: there a point is passed by an error that nothing catches, and
from then on no boundary is passed any more. What has no boundary leaves nothing behind, so the step is as dead as by SIGKILL.
"""

import contextlib
import dataclasses
import functools
import inspect
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from datetime import timedelta
from itertools import count
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from sqlalchemy.orm import Session
from temporalio import activity
from temporalio.bridge.proto import ActivityTaskCompletion
from temporalio.bridge.proto.workflow_commands import WorkflowCommand
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.bridge.worker import Worker as Bridge
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

import worker
from activities import delete_objects, interceptors, run_all
from activities.backend.sentry import SentryBackend
from activities.database import Database
from activities.delete_rows import DeleteRows
from activities.images.decisions import Decisions
from activities.images.requests import ImageRequests
from activities.ledger.prefixes import Prefix
from activities.listing import Lister
from activities.plan_of_report import OfReport
from activities.stores.s3 import S3Objects
from activities.stores.s3_copies import CopyImages
from activities.stores.s3_markers import MarkerImages
from activities.stores.sql_traces import SqlTraces
from activities.stores.turns import Turns
from activities.sweep_prefixes import Looked, SweepPrefixes
from artifact_deletion.errors import NotYet
from composition import Parts, Step
from settings import PREFIX
from workflows import budgets
from workflows.steps import (
    CANCEL_DELETION,
    CLOSE_DELETION,
    COLLECT_KEYS,
    DELETE_OBJECTS,
    DELETE_ROWS,
    DELETE_TRACE_ITEMS,
    HIDE_IMAGES,
    OPEN_DELETION,
    PREVIEW_DELETION,
    SETTLE_IMAGES,
    STEPS,
    SWEEP_PREFIXES,
    WAIT_TO_BEGIN,
    WAIT_WHILE_HELD,
    WATCH_IMAGES,
    Chunk,
)

NO_NAME = 70
"""Exit code of a worker that came by a boundary that has no name here."""
# As shipped, a step that was lost with its worker is run again after fifteen seconds without a heartbeat. A test need not wait.
LOST_AFTER = timedelta(seconds=0.5)
TASK_LOST_AFTER = timedelta(seconds=0.5)
"""What a test starts its workflow with, for a workflow task that was lost with its worker; Temporal's default is ten."""
QUIET_PERIOD_S, TRACE_ITEMS_PAUSE_S = 0.4, 0.2
"""There is a quiet period, and an event store that deletes later, only where the point is about waiting for them."""

_FIRST, _LATER = "its first COMMIT", "a later COMMIT"
CONFIRMING = f"{SWEEP_PREFIXES.name} to confirm"
"""The look at prefixes after their quiet period, which does more than the one before."""
_OF_IMAGES = ("the store's restore", "the store's clear", "its decision", "the store's look", "the store's purge", "its end")
# What lies inside a step. A point before and one after each of these.
_INSIDE: Mapping[str, tuple[str, ...]] = {
    OPEN_DELETION.name: (_FIRST,),
    WAIT_TO_BEGIN.name: (_FIRST,),
    COLLECT_KEYS.name: (_FIRST, "the store's read", _LATER),
    DELETE_ROWS.name: ("its locks", "its cascade", "its release", _FIRST),
    DELETE_OBJECTS.name: ("the store's delete", _FIRST, _LATER),
    DELETE_TRACE_ITEMS.name: ("the trace store's delete", _FIRST),
    SWEEP_PREFIXES.name: ("the store's delete_found", _FIRST, _LATER),
    CONFIRMING: ("the store's abort_uploads", "the store's delete_found", _FIRST, _LATER),
    CANCEL_DELETION.name: (_FIRST,),
    WATCH_IMAGES.name: (_FIRST,),
    HIDE_IMAGES.name: (_FIRST, "the store's read", _LATER, "its decision", "the store's hide", "its end"),
    SETTLE_IMAGES.name: (_FIRST, "the store's read", _LATER, *_OF_IMAGES),
    CLOSE_DELETION.name: (_FIRST,),
    PREVIEW_DELETION.name: ("the store's read",),
}
_TASK = "a workflow task that"
_COMMANDS = {
    "schedule_activity": f"{_TASK} starts a step",
    "complete_workflow_execution": f"{_TASK} ends",
    "fail_workflow_execution": f"{_TASK} ends",
    "cancel_workflow_execution": f"{_TASK} ends",
    # Only a bulk deletion has these, which no crashing worker runs: a deletion that used one would have no point for it.
    "start_timer": f"{_TASK} starts a timer",
    "start_child_workflow_execution": f"{_TASK} starts another deletion",
    "schedule_local_activity": f"{_TASK} runs a step itself",
    "continue_as_new_workflow_execution": f"{_TASK} begins another run",
}
# Before: in the middle of a workflow task. After: between two of them, with a step waiting or nothing left.
_WORKFLOW = tuple(
    _COMMANDS[command] for command in ("schedule_activity", "schedule_local_activity", "complete_workflow_execution")
)


def _wait_of(step: str) -> str:
    return f"a wait of {step}"


# Before: Temporal does not know yet that a step waits, and why. After: no worker has it, and it comes back by itself.
FOR_TRACES, FOR_QUIET = _wait_of(DELETE_TRACE_ITEMS.name), _wait_of(SWEEP_PREFIXES.name)
FOR_OTHERS, FOR_A_HOLD = _wait_of(CLOSE_DELETION.name), _wait_of(WAIT_WHILE_HELD.name)
FOR_UPLOADS, FOR_ITS_TIME = _wait_of(SETTLE_IMAGES.name), _wait_of(WAIT_TO_BEGIN.name)
_WAITS = (FOR_TRACES, FOR_QUIET, FOR_OTHERS, FOR_A_HOLD, FOR_UPLOADS, FOR_ITS_TIME)
# It waits only while a snapshot is committed at that moment, or an image is being purged: no test here comes to it at will.
_WITHOUT_A_POINT = {HIDE_IMAGES.name}
# Only of images that a step which died has left for a minute: `hide_images` has the points of the same requests.
_WITHOUT_A_POINT_WITHIN = {(SETTLE_IMAGES.name, "the store's hide")}


def points_of(boundary: str, inside: tuple[str, ...] = ()) -> list[str]:
    """The names of the points before and after a boundary, and of those within."""
    within = [f"{boundary}, {when} {what}" for what in inside for when in ("before", "after")]
    return [f"{boundary}, before", *within, f"{boundary}, after"]


POINTS: tuple[str, ...] = tuple(
    point
    for boundary in [*(step.name for step in STEPS), CONFIRMING, *_WORKFLOW, *_WAITS]
    for point in points_of(boundary, _INSIDE.get(boundary, ()))
)
"""Every point. A step has its own as soon as it stands in STEPS."""
CRASH_POINT, CRASH_MARKER = "CRASH_POINT", "CRASH_MARKER"
LATE_KEY = "CRASH_LATE_KEY"
"""A key at which a late writer puts an object in the quiet period, so that the sweep that confirms finds one."""

_boundary: ContextVar[str] = ContextVar("_boundary")
_commits: ContextVar["count[int]"] = ContextVar("_commits")
_inside_one = ContextVar("_inside_one", default=False)
_waiting: dict[bytes, str] = {}
"""Steps that have said that they wait, by Temporal's token of the attempt."""


def come_to(point: str) -> None:
    """Die here if this is the point, and has not struck before."""
    if point not in POINTS:
        sys.stderr.write(f"no crash point is named {point!r}\n")
        os._exit(NO_NAME)
    if point == os.environ.get(CRASH_POINT):
        with contextlib.suppress(FileExistsError):
            Path(os.environ[CRASH_MARKER]).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)


class Died(BaseException):
    """In a test's own process, what stands for SIGKILL."""


@dataclasses.dataclass
class Death:
    """Takes the place of `come_to`: a step dies at a point, once, and does nothing more."""

    point: str
    struck: bool = False
    is_dead: bool = False

    def come_to(self, point: str) -> None:
        assert point in POINTS, point
        if point == self.point and not self.struck:
            self.struck = self.is_dead = True
        if self.is_dead:
            raise Died(point)


def come_within(when: str, what: str) -> None:
    """Come to a point within the step of this thread; the world's own doings, outside of any step, have none."""
    if (boundary := _boundary.get(None)) and (boundary, what) not in _WITHOUT_A_POINT_WITHIN:
        come_to(f"{boundary}, {when} {what}")


class Threads(ThreadPoolExecutor):
    """Threads that know which step they work for."""

    def submit(self, job: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        return super().submit(copy_context().run, job, *given, **named)


class _Turns(Turns):
    """The same of the threads that ask the store."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(copy_context().run, fn, *args, **kwargs)


def _delete_later(whole: Callable[..., tuple[int, int]]) -> Callable[..., tuple[int, int]]:
    """As an event store does: what it says is left is what it matched."""

    @functools.wraps(whole)
    def delete(*given: Any, **named: Any) -> tuple[int, int]:
        matched, _ = whole(*given, **named)
        return matched, matched

    return delete


def _around(owner: type, name: str, what: str) -> None:
    """Points before and after a method, where a step calls it and not another method of the kind."""
    whole = getattr(owner, name)

    @functools.wraps(whole)
    def around(*given: Any, **named: Any) -> Any:
        if _inside_one.get():
            return whole(*given, **named)
        come_within("before", what)
        token = _inside_one.set(True)
        try:
            done = whole(*given, **named)
        finally:
            _inside_one.reset(token)
        come_within("after", what)
        return done

    replace(owner, name, around)


def replace(owner: object, name: str, by: object) -> None:
    """For good: this process lives no longer than its worker. A test that puts points into its own process undoes it."""
    setattr(owner, name, by)


def _around_async_step(step: Step) -> Step:
    @functools.wraps(step)
    async def around(given: Any) -> Any:
        _boundary.set(step.__name__)
        _commits.set(count())
        come_to(f"{step.__name__}, before")
        done = await step(given)
        come_to(f"{step.__name__}, after")
        return done

    return around


def _around_step(step: Step) -> Step:
    if inspect.iscoroutinefunction(step):
        return _around_async_step(step)

    @functools.wraps(step)
    def around(given: Any) -> Any:
        boundary = step.__name__
        _boundary.set(boundary)  # of this call alone: Temporal runs each in a context of its own
        _commits.set(count())
        come_to(f"{boundary}, before")
        try:
            done = step(given)
        except NotYet:
            if boundary not in _WITHOUT_A_POINT:
                _waiting[activity.info().task_token] = boundary
            raise
        come_to(f"{boundary}, after")
        return done

    return around


def _around_confirming_looks() -> None:
    whole = SweepPrefixes._look  # noqa: SLF001  where each look begins

    def look(
        self: SweepPrefixes, chunk: Chunk, lister: Lister, of_report: OfReport | None, due: Sequence[Prefix]
    ) -> list[Looked]:
        if not any(one.is_exact or one.quiet_since for one in due):
            return whole(self, chunk, lister, of_report, due)
        sweeping, commits = _boundary.set(CONFIRMING), _commits.set(count())
        come_to(f"{CONFIRMING}, before")
        if late := os.environ.pop(LATE_KEY, None):
            store: Any = self.store
            store.client.put_object(Bucket=store.bucket, Key=late, Body=b"late")
        looked = whole(self, chunk, lister, of_report, due)
        come_to(f"{CONFIRMING}, after")
        _boundary.reset(sweeping)
        _commits.reset(commits)
        return looked

    replace(SweepPrefixes, whole.__name__, look)


def _around_images() -> None:
    for store in (MarkerImages, CopyImages):
        for name in ("hide", "restore", "clear", "look", "purge"):
            _around(store, name, f"the store's {name}")
    for name in ("begin", "take_due"):
        _around(Decisions, name, "its decision")
    _around(Decisions, "end", "its end")
    _around(ImageRequests, "_end", "its end")


def _around_commits() -> None:
    whole = Database.write

    @contextlib.contextmanager
    def write(self: Database) -> Iterator[Session]:
        with whole(self) as session:
            yield session
            if _inside_one.get() or _boundary.get(None) is None:
                return
            session.flush()
            which = _LATER if next(_commits.get()) else _FIRST
            come_within("before", which)
        come_within("after", which)

    replace(Database, whole.__name__, write)


def _around_workflow_tasks() -> None:
    whole = Bridge.complete_workflow_activation

    async def complete(self: Bridge, completion: WorkflowActivationCompletion) -> None:
        tasks = [task for task in map(_named, completion.successful.commands) if task]
        for task in tasks:
            come_to(f"{task}, before")
        await whole(self, completion)
        for task in tasks:
            come_to(f"{task}, after")

    replace(Bridge, whole.__name__, complete)


def _one_at_a_time(ended: SimpleQueue[Any], patience_s: float) -> list[Any]:
    """Answers that come at the same moment would be written down in one transaction, and there would be no later one."""
    try:
        return [ended.get(timeout=patience_s)]
    except Empty:
        return []


def _named(command: WorkflowCommand) -> str | None:
    return _COMMANDS.get(str(command.WhichOneof("variant")))


def _around_waits() -> None:
    whole = Bridge.complete_activity_task

    async def complete(self: Bridge, comp: ActivityTaskCompletion) -> None:
        step = _waiting.pop(comp.task_token, None)
        if step:
            come_to(f"{_wait_of(step)}, before")
        await whole(self, comp)
        if step:
            come_to(f"{_wait_of(step)}, after")

    replace(Bridge, whole.__name__, complete)


_BUDGETS = (
    *(budgets.LEDGER, budgets.READS, budgets.ROWS, budgets.OBJECTS, budgets.TRACE_ITEMS, budgets.SWEEPS, budgets.CLOSING),
    *(budgets.PREVIEWS, budgets.UNLIMITED, budgets.TURNS, budgets.HIDING, budgets.IMAGES),
)


def install() -> None:
    """Make this process's worker one of the test build."""
    install_in_steps()
    soon = timedelta(milliseconds=50)
    for options in _BUDGETS:
        if options is not budgets.UNLIMITED:
            options["heartbeat_timeout"] = LOST_AFTER
        policy = options["retry_policy"] or RetryPolicy()
        options["retry_policy"] = dataclasses.replace(policy, initial_interval=soon, maximum_interval=LOST_AFTER)
    budgets.UNLIMITED["start_to_close_timeout"] = LOST_AFTER
    replace(interceptors, "SOONEST", soon)
    replace(interceptors, "LATEST", LOST_AFTER)
    # Uncached, or the workflow's next task would wait for the dead worker.
    replace(worker, "Worker", functools.partial(Worker, max_cached_workflows=0))
    replace(worker, "ThreadPoolExecutor", Threads)
    replace(worker, "Turns", _Turns)
    if os.environ.get(CRASH_POINT) in points_of(FOR_TRACES):
        replace(SqlTraces, "delete", _delete_later(SqlTraces.delete))
    _around_workflow_tasks()
    _around_waits()


def install_in_steps() -> None:
    """Put a point before and after each step, and before and after whatever it does within."""
    for name in ("read", "delete", "delete_found", "abort_uploads"):
        _around(S3Objects, name, f"the store's {name}")
    _around_images()
    _around(SqlTraces, "delete", "the trace store's delete")
    _around(SentryBackend, "lock", "its locks")
    _around(SentryBackend, "delete", "its cascade")
    _around(DeleteRows, "_release", "its release")
    _around_confirming_looks()
    _around_commits()
    # Each page has its own request and each answer its own commit: as shipped, a small deletion has one of both.
    replace(delete_objects, "MAX_KEYS", 1)
    replace(run_all, "SETTLED_WITHIN_S", 0.0)
    replace(run_all, "_next", _one_at_a_time)
    whole = Parts.steps

    def steps(*given: Any, **named: Any) -> tuple[list[Step], list[Step]]:
        with_database, with_store = whole(*given, **named)
        return [_around_step(step) for step in with_database], [_around_step(step) for step in with_store]

    replace(Parts, whole.__name__, steps)


def crashing(point: str, marker: Path) -> dict[str, str]:
    """The environment of a worker that dies at this point, beside its settings."""
    assert point in POINTS, point
    return {
        CRASH_POINT: point,
        CRASH_MARKER: str(marker),
        f"{PREFIX}QUIET_PERIOD_S": str(QUIET_PERIOD_S if point in points_of(FOR_QUIET) else 0),
        f"{PREFIX}TRACE_ITEMS_PAUSE_S": str(TRACE_ITEMS_PAUSE_S),
    }


def run() -> NoReturn:
    """Run this process's worker, of the test build, and end it."""
    install()
    sys.argv[1:] = []
    worker.run()


def _run_forked(environment: dict[str, str], log: Path) -> NoReturn:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    run()


def start_forked(environment: dict[str, str], log: Path) -> ForkServerProcess:
    """A worker process like any other, but forked from one that has imported all: two seconds sooner than a new Python."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash_points"])
    process = context.Process(target=_run_forked, args=(environment, log), daemon=True)
    process.start()
    return process


if __name__ == "__main__":
    run()
