"""Whatever is killed, taken away or taken back in the middle, the same deletion comes to the same end."""

import asyncio
import functools
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

import starter
from activities.collect_keys import CollectKeys
from activities.storage import ledger
from activities.storage.ledger import DeletionState
from activities.storage.objects import S3Objects
from activities.sweep_prefixes import SweepPrefixes
from demo.servers import ObjectStoreServer, TemporalServer
from demo.world import Comparison, Snapshot
from tests.stack import Seen, Stack, connect, eventually, pending_failures, s3_of
from workflows.messages import SEARCH_ATTRIBUTES, Stage, Sweep, Swept

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

# A worker that dies between the COMMIT and its report. As shipped, a step that a killed worker had taken is tried again
# when its time is over; here that is two seconds, so that the test need not wait for it.
KILLED_AFTER_THE_COMMIT = """
import functools, os, signal, sys
from datetime import timedelta
from temporalio.worker import UnsandboxedWorkflowRunner
import worker
from activities.delete_rows import DeleteRows
from workflows import delete_artifacts

delete_artifacts.ROWS["start_to_close_timeout"] = timedelta(seconds=2)
worker.Worker = functools.partial(worker.Worker, workflow_runner=UnsandboxedWorkflowRunner(), max_cached_workflows=0)
whole = DeleteRows.delete_rows

@functools.wraps(whole)
def killed(self, sealed):
    whole(self, sealed)
    os.kill(os.getpid(), signal.SIGKILL)

DeleteRows.delete_rows = killed
sys.exit(worker.main([]))
"""

# A worker that is asked to stop while it is in the middle of deleting rows.
ASKED_TO_STOP_WHILE_DELETING_ROWS = """
import functools, os, signal, sys
import worker
from activities.delete_rows import DeleteRows

worker.Worker = functools.partial(worker.Worker, max_cached_workflows=0)
whole = DeleteRows.delete_rows

@functools.wraps(whole)
def asked(self, sealed):
    os.kill(os.getpid(), signal.SIGTERM)
    return whole(self, sealed)

DeleteRows.delete_rows = asked
sys.exit(worker.main([]))
"""


class Held:
    """Holds every call of a method until it is let go, so that a fault can strike exactly there; the call itself is real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        whole = getattr(owner, name)
        self._reached, self._open = threading.Event(), threading.Event()

        @functools.wraps(whole)
        def held(*given: Any) -> Any:
            self._reached.set()
            self._open.wait()
            return whole(*given)

        monkeypatch.setattr(owner, name, held)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 30)

    def let_go(self) -> None:
        self._open.set()


@pytest.fixture
def held_deletes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Rows are gone, and the first request to delete their objects is not made yet."""
    held = Held(monkeypatch, S3Objects, "delete")
    yield held
    held.let_go()


@pytest.fixture(scope="module")
def mortal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    with ObjectStoreServer(tmp_path_factory.mktemp("mortal")) as server:
        yield server


@pytest.fixture
def mortal_store(stack: Stack, mortal_server: ObjectStoreServer) -> Iterator[ObjectStoreServer]:
    """An object store that the test may kill."""
    s3_of(mortal_server).create_bucket(Bucket=stack.bucket)
    stack.use_bucket(stack.bucket, mortal_server)
    yield mortal_server
    mortal_server.kill()
    mortal_server.start()


@pytest.fixture
async def mortal_temporal(stack: Stack, tmp_path: Path) -> AsyncIterator[TemporalServer]:
    """A Temporal server that the test may empty."""
    with TemporalServer(tmp_path / "temporal", ui=False, search_attributes=SEARCH_ATTRIBUTES) as server:
        stack.use_temporal(await connect(server.address))
        yield server


def compared(stack: Stack, masks: int = 3) -> tuple[Snapshot, Snapshot, Comparison]:
    """A head, which is to be deleted, a base and their comparison."""
    head, base = stack.snapshots("head", "base")
    return head, base, stack.world.comparison(head, base, masks=masks)


def state_of(stack: Stack, handle: WorkflowHandle[Any, Any]) -> DeletionState:
    return starter.recorded(stack.database, handle.id).state


async def attempts(handle: WorkflowHandle[Any, Any], step: str) -> list[tuple[int, str]]:
    """(attempt, worker) of every run of a step that the history knows."""
    scheduled, found = set(), []
    async for event in handle.fetch_history_events():
        if event.activity_task_scheduled_event_attributes.activity_type.name == step:
            scheduled.add(event.event_id)
        started = event.activity_task_started_event_attributes
        if started.scheduled_event_id in scheduled:
            found.append((started.attempt, started.identity))
    return found


async def returncode(process: Any) -> int:
    code: int = await asyncio.to_thread(process.wait, 30)
    return code


@on_postgresql
async def test_a_worker_killed_after_the_commit_loses_no_key(stack: Stack) -> None:
    """SIGKILL between COMMIT and report: rows are gone, no one has heard of it, and the keys are in the ledger alone."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    process = stack.worker_process("-c", KILLED_AFTER_THE_COMMIT)
    handle = await stack.start([head.id])

    assert await returncode(process) == -signal.SIGKILL
    assert head.id not in stack.world.rows()["sentry_preprodartifact"]
    assert stack.world.objects() == before.objects

    async with stack.worker():
        await handle.result()
    stack.assert_only_these_are_gone([head.id], before)
    receipt = stack.receipt(handle.id)
    assert receipt.complete
    assert sum(receipt.rows.values()) == len(stack.world.rows_of([head.id])) - receipt.trace_items.matched
    assert [attempt for attempt, _ in await attempts(handle, "delete_rows")] == [2]


@on_sqlite
async def test_a_deletion_terminated_after_the_commit_is_finished_by_the_next_one(stack: Stack) -> None:
    """Worker killed after the COMMIT, workflow terminated: a start from nothing but the ledger knows what is owed."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    process = stack.worker_process("-c", KILLED_AFTER_THE_COMMIT)
    handle = await stack.start([head.id])
    assert await returncode(process) == -signal.SIGKILL
    await handle.terminate("an operator lost patience")

    assert await starter.resume(stack.client, stack.database) == [handle.id]
    async with stack.worker():
        await stack.client.get_workflow_handle(handle.id).result()
    stack.assert_only_these_are_gone([head.id], before)
    assert stack.receipt(handle.id).complete


@on_sqlite
async def test_a_worker_asked_to_stop_finishes_what_it_is_doing(stack: Stack) -> None:
    """SIGTERM inside delete_rows: the step is reported by the worker that had it, which then leaves; another goes on."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    process = stack.worker_process("-c", ASKED_TO_STOP_WHILE_DELETING_ROWS)
    handle = await stack.start([head.id])
    assert await returncode(process) == 0
    async with stack.worker():
        await handle.result()
    stack.assert_only_these_are_gone([head.id], before)
    assert await attempts(handle, "delete_rows") == [(1, f"{process.pid}@{socket.gethostname()}")]


@on_sqlite
async def test_a_second_worker_shares_the_work(stack: Stack) -> None:
    """More workers are how a deletion is made faster: whoever joins gets its part, of both task queues."""
    snapshots = stack.snapshots("a", "b", "c", "d", "e", "f", "g", "h")
    before = Seen.of(stack.world)
    process = stack.worker_process(ARTIFACT_DELETION_CHUNK_ARTIFACTS="1")
    async with stack.worker(chunk_artifacts=1):
        first = await stack.start([snapshots[0].id])
        await first.result()
        log = stack.folder / "worker-0.log"
        await eventually(lambda: asyncio.to_thread(lambda: "worker is up" in log.read_text()))
        handle = await stack.start(one.id for one in snapshots[1:])
        await handle.result()
    stack.assert_only_these_are_gone([one.id for one in snapshots], before)
    for step in ("delete_rows", "sweep_prefixes"):
        workers = {worker for _, worker in await attempts(handle, step)}
        assert workers == {
            f"{process.pid}@{socket.gethostname()}",
            stack.client.service_client.config.identity,
        }, step


@on_sqlite
async def test_what_the_store_refuses_is_left_over_until_it_no_longer_does(stack: Stack, locking_bucket: str) -> None:
    """A legal hold on a sealed mask and on a plan that only the listing finds: all else goes, and a re-run ends it."""
    stack.use_bucket(locking_bucket)
    head, _, comparison = compared(stack)
    scope = stack.world.physical(head.usecase, head.artifact.organization_id, head.artifact.project_id, "")
    plan = f"{comparison.key.removesuffix('comparison.json')}plan.json"
    locked = {scope + comparison.mask_keys[0], scope + plan}
    hold(stack, locked, "ON")
    before = Seen.of(stack.world)

    async with stack.worker():
        handle = await stack.start([head.id])
        failure = await stack.failure(handle)
        assert failure.type == "ObjectsRemain"
        assert failure.message == (
            "2 left over (AccessDenied 2); all else is done. "
            f"When the cause is mended: python starter.py rerun {handle.id}"
        )
        stack.assert_only_these_are_gone([head.id], before, left=locked)
        assert stack.world.object_versions().keys() == stack.world.objects().keys()
        receipt = stack.receipt(handle.id)
        assert not receipt.complete
        assert (receipt.objects.left_over, receipt.objects.found_left_over) == ({"AccessDenied": 1}, {"AccessDenied": 1})
        assert state_of(stack, handle) == DeletionState.FAILED

        hold(stack, locked, "OFF")
        again = await stack.run_command("rerun", handle.id, "--wait")
    assert again.returncode == 0, again.stderr
    stack.assert_only_these_are_gone([head.id], before)
    assert stack.world.object_versions().keys() == stack.world.objects().keys()
    assert stack.receipt(handle.id).complete
    assert stack.receipt(handle.id).left_over == {}


def hold(stack: Stack, keys: set[str], status: Any) -> None:
    for key in keys:
        stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": status})


@on_sqlite
async def test_a_temporal_that_forgot_everything_costs_nothing(
    stack: Stack, mortal_temporal: TemporalServer, held_deletes: Held
) -> None:
    """Emptied between the rows' COMMIT and the first object: what is owed stands in our own tables."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    async with stack.worker():
        handle = await stack.start([head.id])
        await held_deletes.reached()
        assert head.id not in stack.world.rows()["sentry_preprodartifact"]
        mortal_temporal.forget()
        held_deletes.let_go()
        assert await starter.resume(stack.client, stack.database) == [handle.id]
        await stack.client.get_workflow_handle(handle.id).result()
    stack.assert_only_these_are_gone([head.id], before)
    assert stack.receipt(handle.id).complete


@on_sqlite
async def test_a_store_that_goes_down_is_waited_for_in_plain_sight(
    stack: Stack, mortal_store: ObjectStoreServer, held_deletes: Held
) -> None:
    """Killed as the first objects are to go: an operator reads why nothing moves, and nobody has to do anything after."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    async with stack.worker():
        handle = await stack.start([head.id])
        await held_deletes.reached()
        mortal_store.kill()
        held_deletes.let_go()

        async def failure() -> str | None:
            return (await pending_failures(handle)).get("delete_objects")

        assert await eventually(failure) == "the object store could not be reached (EndpointConnectionError)"
        assert (await starter.progress(stack.client, handle.id)).stage == Stage.DELETING_OBJECTS
        mortal_store.start()
        await handle.result()
    stack.assert_only_these_are_gone([head.id], before)
    receipt = stack.receipt(handle.id)
    assert receipt.complete
    assert receipt.objects.sealed == receipt.objects.deleted + receipt.objects.absent


def after_each_sweep(monkeypatch: pytest.MonkeyPatch, write: Callable[[Sweep], None]) -> None:
    """A writer that acts exactly when a sweep has come to its end."""
    whole = SweepPrefixes.sweep_prefixes

    @functools.wraps(whole)
    def swept(self: SweepPrefixes, sweep: Sweep) -> Swept:
        found = whole(self, sweep)
        write(sweep)
        return found

    monkeypatch.setattr(SweepPrefixes, "sweep_prefixes", swept)


@on_sqlite
async def test_an_object_written_in_the_quiet_period_is_found(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison that was running when its rows went writes its result: into a prefix that was swept already."""
    head, _, comparison = compared(stack)
    before = Seen.of(stack.world)
    scope = stack.world.physical(head.usecase, head.artifact.organization_id, head.artifact.project_id, "")
    late = f"{scope}{comparison.key.removesuffix('comparison.json')}chunks/late.json"

    def write(sweep: Sweep) -> None:
        if not sweep.confirm:
            stack.s3.put_object(Bucket=stack.bucket, Key=late, Body=b"late")

    async with stack.worker():
        await stack.delete([head.id], project_id=head.artifact.project_id)
    on_time = len(stack.world.objects_of([head.id]))
    assert on_time

    head, _, comparison = compared_in(stack, head)
    late = f"{scope}{comparison.key.removesuffix('comparison.json')}chunks/late.json"
    before = Seen.of(stack.world)
    after_each_sweep(monkeypatch, write)
    async with stack.worker(quiet_period_s=0.1):
        receipt = await stack.delete([head.id])
    stack.assert_only_these_are_gone([head.id], before)
    assert receipt.complete
