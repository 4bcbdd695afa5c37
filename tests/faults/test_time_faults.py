"""Time-outs that strike what is not dead: an attempt that Temporal has given up on goes on, and changes nothing any more."""

import asyncio
import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session
from temporalio import activity
from temporalio.worker import Worker

import worker
from activities import delete_objects, interceptors, sweep_prefixes
from activities.backend.sentry import SentryBackend
from activities.collect_keys import CollectKeys
from activities.ledger import chunks
from activities.ledger.schema import DeletionChunk
from activities.plan import Planner
from activities.stores.sql_traces import SqlTraces
from artifact_deletion.request import DELETE_WORKFLOW, TASK_QUEUE
from tests.faults.test_faults import compared, returncode
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack, eventually
from workflows import budgets
from workflows.steps import Chunk

pytestmark = pytest.mark.thorough

BUDGETS = (budgets.READS, budgets.ROWS, budgets.OBJECTS, budgets.TRACE_ITEMS, budgets.SWEEPS)
STEPS: dict[str, tuple[object, str]] = {
    "collect_keys": (Planner, "keys"),
    "delete_rows": (SentryBackend, "transaction"),
    "delete_objects": (delete_objects, "run_all"),
    "delete_trace_items": (SqlTraces, "delete"),
    "sweep_prefixes": (sweep_prefixes, "run_all"),
}
"""What each step calls when it has read what it is to do, and has not done it yet."""

# A worker that stops in the middle of a step, once. It polls for few tasks, since those that it gets while it stands are lost.
STOPPED_IN = """
import functools, os, signal
from datetime import timedelta
import worker
from activities.backend.sentry import SentryBackend
from activities.stores.s3 import S3Objects
from workflows import budgets

for options in (budgets.READS, budgets.ROWS, budgets.OBJECTS, budgets.TRACE_ITEMS, budgets.SWEEPS):
    options["heartbeat_timeout"] = timedelta(seconds=1)
worker.Worker = functools.partial(
    worker.Worker,
    max_cached_workflows=0,
    max_concurrent_workflow_task_polls=1,
    max_concurrent_activity_task_polls=1,
)
owner, name = {}
whole = getattr(owner, name)

def stopped(*given):
    setattr(owner, name, whole)
    done = whole(*given)
    os.kill(os.getpid(), signal.SIGSTOP)
    return done

setattr(owner, name, stopped)
worker.run()
"""


@pytest.fixture(autouse=True)
def given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporal gives an attempt up after a second without a heartbeat, and not after fifteen."""
    for options in BUDGETS:
        monkeypatch.setitem(options, "heartbeat_timeout", timedelta(seconds=1))
    monkeypatch.setattr(worker, "Worker", functools.partial(Worker, max_cached_workflows=0))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeats of every first attempt are lost."""
    whole = interceptors._LastCursor.heartbeat  # noqa: SLF001  where all of them pass

    def heartbeat(self: Any, *details: Any) -> None:
        if activity.info().attempt > 1:
            whole(self, *details)

    monkeypatch.setattr(interceptors._LastCursor, "heartbeat", heartbeat)  # noqa: SLF001


class FirstAttempts:
    """The first call of each function waits: for the next attempt's, so that both go on at once, or until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, together: bool) -> None:
        self.went_on: list[str] = []
        self._ended: list[str] = []
        self._over = threading.Event()
        executed = interceptors._NamedErrorsOnly.execute_activity  # noqa: SLF001

        async def execute(interceptor: Any, given: Any) -> Any:
            try:
                return await executed(interceptor, given)
            finally:
                if activity.info().attempt == 1:
                    self._ended.append(activity.info().activity_type)

        monkeypatch.setattr(interceptors._NamedErrorsOnly, "execute_activity", execute)  # noqa: SLF001
        for step, (owner, name) in STEPS.items():
            whole = getattr(owner, name)
            wait = threading.Barrier(2).wait if together else self._over.wait
            monkeypatch.setattr(owner, name, self._held(step, whole, wait, waiting=2 if together else 1))

    def _held(self, step: str, whole: Callable[..., Any], wait: Callable[[float], Any], waiting: int) -> Callable[..., Any]:
        calls = itertools.count()

        @functools.wraps(whole)
        def held(*given: Any) -> Any:
            if (call := next(calls)) < waiting:
                wait(40)
            if call == 0:
                self.went_on.append(step)
            return whole(*given)

        return held

    async def let_go(self) -> None:
        """Returns when those that waited have come to their end."""
        at_work = len(STEPS) - len(self.went_on)
        others = len(self._ended)
        self._over.set()

        async def all_have_ended() -> bool:
            return len(self._ended) == others + at_work

        await eventually(all_have_ended)


@pytest.mark.parametrize(
    ("database_url", "together"),
    [("postgresql", True), pytest.param("sqlite", True, marks=pytest.mark.thorough), ("sqlite", False)],
    indirect=["database_url"],
    ids=["both at once, PostgreSQL", "both at once, SQLite", "after all is done"],
)
async def test_an_attempt_whose_heartbeats_are_lost_and_the_next_one_do_each_thing_once(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, silent: None, *, together: bool
) -> None:
    """Two attempts at each step: on the same epoch, rows, pages and prefixes at the same moment, or one far too late."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    first = FirstAttempts(monkeypatch, together=together)
    async with stack.worker():
        handle = await stack.start([head.id])
        await handle.result()
        ended = Evidence.of(stack)
        await first.let_go()
    assert sorted(first.went_on) == sorted(STEPS)
    assert Evidence.of(stack) == ended
    receipt = stack.receipt(handle.id)
    assert receipt.complete
    assert sum(receipt.rows.values()) == sum(table != "trace_items" for table, _ in stack.world.rows_of([head.id]))
    assert_promises_hold(stack, before, [stack.request([head.id])])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("owner", "name"),
    [pytest.param(Planner, "keys", marks=pytest.mark.thorough), (SentryBackend, "transaction")],
    ids=["while the next one collects", "when the next one's keys are about to be released"],
)
async def test_a_late_attempt_that_collects_anew_only_has_the_keys_collected_once_more(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, silent: None, owner: type, name: str
) -> None:
    """It begins an epoch after the next attempt has begun its own: that one is stale then, and the deletion none the worse."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    attempts, late, begun = itertools.count(), threading.Event(), threading.Event()
    collect, begin, overtaken = CollectKeys.collect_keys, chunks.begin_epoch, getattr(owner, name)

    @functools.wraps(collect)
    def collect_late(self: CollectKeys, chunk: Chunk) -> Any:
        if next(attempts) == 0:
            late.wait(40)
        return collect(self, chunk)

    @functools.wraps(overtaken)
    def be_overtaken(*given: Any) -> Any:
        if not late.is_set():
            late.set()
            begun.wait(40)
        return overtaken(*given)

    def begin_epoch(session: Session, chunk: Chunk) -> DeletionChunk:
        if late.is_set():
            event.listen(session, "after_commit", lambda _: begun.set())
        return begin(session, chunk)

    monkeypatch.setattr(CollectKeys, "collect_keys", collect_late)
    monkeypatch.setattr(chunks, "begin_epoch", begin_epoch)
    monkeypatch.setattr(owner, name, be_overtaken)
    async with stack.worker():
        handle = await stack.start([head.id])
        await handle.result()
    assert begun.is_set()
    assert stack.receipt(handle.id).complete
    assert_promises_hold(stack, before, [stack.request([head.id])])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "where",
    [
        pytest.param("(S3Objects, 'read')", marks=pytest.mark.thorough),
        "(SentryBackend, 'delete_files')",
        pytest.param("(S3Objects, 'delete')", marks=pytest.mark.thorough),
    ],
    ids=["between manifest and ledger", "between the rows and the commit", "between the store's answer and the ledger"],
)
async def test_a_worker_that_is_stopped_past_its_time_outs_changes_nothing_when_it_goes_on(stack: Stack, where: str) -> None:
    """SIGSTOP, as a machine that is suspended; another worker ends the deletion, and what the first had in mind is stale."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    process = stack.worker_process("-c", STOPPED_IN.format(where), ARTIFACT_DELETION_DATABASE_STATEMENT_TIMEOUT_S="2")
    request = stack.request([head.id])
    stack.accept(request)
    # As started by a backend, but for a workflow task that is lost with the stopped worker: it is given up after a second.
    handle = await stack.client.start_workflow(
        DELETE_WORKFLOW, request, id=request.workflow_id, task_queue=TASK_QUEUE, task_timeout=timedelta(seconds=1)
    )
    _, status = await asyncio.to_thread(os.waitpid, process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    async with stack.worker(database_lock_timeout_s=1):
        await asyncio.wait_for(handle.result(), 60)
        ended = Evidence.of(stack)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert await returncode(process) == 0
    assert Evidence.of(stack) == ended
    assert stack.receipt(handle.id).complete
    assert_promises_hold(stack, before, [request])
