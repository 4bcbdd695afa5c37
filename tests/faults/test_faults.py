"""Whatever is killed, taken away or taken back in the middle, the same deletion comes to the same end."""

import asyncio
import contextlib
import functools
import itertools
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import func, select
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

from activities.delete_rows import DeleteRows
from activities.ledger.schema import DeletionChunk
from activities.stores.s3 import S3Objects
from activities.sweep_prefixes import SweepPrefixes
from artifact_deletion.client import progress
from artifact_deletion.errors import NotYet
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import Stage
from artifact_deletion.request import SEARCH_ATTRIBUTES
from demo.servers import S3Server, ServerError, TemporalServer
from demo.world import Comparison, Snapshot
from tests.faults.test_crashes import start
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Held, Seen, Stack, connect, eventually, pending_failures, recorded, resume, s3_of, wait_for_waiters
from workflows import text
from workflows.steps import Chunk, Swept

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

# A worker that is asked to stop while it is in the middle of deleting rows.
ASKED_TO_STOP_WHILE_DELETING_ROWS = """
import functools, os, signal
import worker
from activities.delete_rows import DeleteRows
from workflows import quick

quick.SMALL = 0  # each step by itself, to be found in the history
worker.Worker = functools.partial(worker.Worker, max_cached_workflows=0)
whole = DeleteRows.delete_rows

@functools.wraps(whole)
def asked(self, sealed):
    os.kill(os.getpid(), signal.SIGTERM)
    return whole(self, sealed)

DeleteRows.delete_rows = asked
worker.run()
"""


@pytest.fixture
def held_deletes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Rows are gone, and the first request to delete their objects is not made yet."""
    held = Held(monkeypatch, S3Objects, "delete")
    yield held
    held.let_go()


@pytest.fixture(scope="module")
def mortal_server(
    object_store_server: Callable[[Path], S3Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    with object_store_server(tmp_path_factory.mktemp("mortal")) as server:
        yield server


@pytest.fixture
def mortal_store(stack: Stack, mortal_server: S3Server) -> Iterator[S3Server]:
    """An object store that the test may kill."""
    bucket = f"mortal-{stack.organization_id}"
    s3_of(mortal_server).create_bucket(Bucket=bucket)
    stack.use_bucket(bucket, mortal_server)
    yield mortal_server
    with contextlib.suppress(ServerError):  # it is up again, as it mostly is
        mortal_server.start()


@pytest.fixture
async def mortal_temporal(stack: Stack, tmp_path: Path) -> AsyncIterator[TemporalServer]:
    """A Temporal server, on a file, that the test may kill or empty."""
    with TemporalServer(tmp_path / "temporal", ui=False, search_attributes=SEARCH_ATTRIBUTES) as server:
        stack.use_temporal(await connect(server.address))
        yield server
        server.kill()  # to stop takes it seconds


def compared(stack: Stack, masks: int = 3) -> tuple[Snapshot, Snapshot, Comparison]:
    """A head, which is to be deleted, a base and their comparison."""
    head, base = stack.snapshots("head", "base")
    return head, base, stack.world.comparison(head, base, masks=masks)


def state_of(stack: Stack, handle: WorkflowHandle[Any, Any]) -> DeletionState:
    return recorded(stack.database, handle.id).state


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


@pytest.mark.thorough
@on_postgresql
async def test_a_worker_killed_after_the_commit_loses_no_key(stack: Stack) -> None:
    """SIGKILL between COMMIT and report: rows are gone, no one has heard of it, and the keys are in the ledger alone."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    worker = stack.crashing_worker("delete_rows, after its first COMMIT")
    handle = await start(stack, stack.request([head.id]))

    await worker.is_killed()
    assert head.id not in stack.world.rows()["sentry_preprodartifact"]
    assert stack.world.objects() == before.objects

    async with stack.worker():
        await handle.result()
        counted = (await progress(stack.client, handle.id)).rows_deleted
    stack.assert_only_these_are_gone([head.id], before)
    receipt = stack.receipt(handle.id)
    assert receipt.complete
    assert counted == sum(receipt.rows.values()) == len(stack.world.rows_of([head.id])) - receipt.trace_items.matched
    events = (await handle.fetch_history()).events
    assert [event for event in events if event.HasField("workflow_task_timed_out_event_attributes")]


@on_sqlite
async def test_a_deletion_terminated_after_the_commit_is_finished_by_the_next_one(stack: Stack) -> None:
    """Worker killed after the COMMIT, workflow terminated: a start from nothing but the ledger knows what is owed."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    worker = stack.crashing_worker("delete_rows, after its first COMMIT")
    handle = await stack.start([head.id])
    await worker.is_killed()
    await handle.terminate("an operator lost patience")

    assert await resume(stack.client, stack.database) == [handle.id]
    async with stack.worker():
        await stack.client.get_workflow_handle(handle.id).result()
    stack.assert_only_these_are_gone([head.id], before)
    assert stack.receipt(handle.id).complete


@pytest.mark.thorough
@on_sqlite
@pytest.mark.usefixtures("only_visible_steps")
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


@pytest.mark.thorough
@on_sqlite
async def test_a_second_worker_shares_the_work(stack: Stack, held_deletes: Held) -> None:
    """One that joins gets its part of the store's task queue: here the first one is stuck; the rest is done all the same."""
    snapshots = stack.snapshots("a", "b", "c", "d", "e", "f")
    before = Seen.of(stack.world)
    process = stack.worker_process(ARTIFACT_DELETION_DATABASE_STEPS="2", ARTIFACT_DELETION_STORE_STEPS="2")
    joined = f"{process.pid}@{socket.gethostname()}"
    async with stack.worker(database_steps=2, store_steps=2, chunk_artifacts=1):
        log = stack.folder / "worker-0.log"
        await eventually(lambda: asyncio.to_thread(lambda: "worker is up" in log.read_text()))
        handle = await stack.start(one.id for one in snapshots)
        await held_deletes.reached()

        async def done_by_the_other() -> bool:
            return joined in {worker for _, worker in await attempts(handle, "delete_objects")}

        assert await eventually(done_by_the_other)
        held_deletes.let_go()
        await handle.result()
    stack.assert_only_these_are_gone([one.id for one in snapshots], before)
    first = stack.client.service_client.config.identity
    assert {worker for _, worker in await attempts(handle, "delete_objects")} == {first, joined}

    process.send_signal(signal.SIGINT)
    assert await returncode(process) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.thorough
@on_sqlite
async def test_what_the_store_refuses_is_left_over_until_it_no_longer_does(stack: Stack, locking_bucket: str) -> None:
    """A legal hold on a sealed mask and on a plan that only the listing finds: all else goes, and a re-run ends it."""
    stack.use_bucket(locking_bucket)
    head, _, comparison = compared(stack)
    scope = stack.world.physical(head.usecase, head.artifact.organization_id, head.artifact.project_id, "")
    plan = f"{comparison.key.removesuffix('comparison.json')}plan.json"
    locked = {scope + comparison.mask_keys[0], scope + plan}
    hold(stack, locked, "ON")
    before, evidence = Seen.of(stack.world), Evidence.of(stack)

    async with stack.worker():
        handle = await stack.start([head.id])
        failure = await stack.failure(handle)
        assert failure.type == "ObjectsRemain"
        assert failure.message == (
            "2 left over (AccessDenied 2); all else is done. AccessDenied: the store refuses to delete them: look at the "
            f"worker's permissions, object locks and legal holds. When the cause is mended: python starter.py rerun {handle.id}"
        )
        stack.assert_only_these_are_gone([head.id], before, left=locked)
        assert stack.world.object_versions().keys() == stack.world.objects().keys()
        receipt = stack.receipt(handle.id)
        assert not receipt.complete
        assert (receipt.objects.left_over, receipt.objects.found_left_over) == ({"AccessDenied": 1}, {"AccessDenied": 1})
        assert state_of(stack, handle) == DeletionState.FAILED
        assert_promises_hold(stack, evidence, [stack.request([head.id])])

        hold(stack, locked, "OFF")
        again = await stack.run_command("rerun", handle.id, "--wait")
    assert again.returncode == 0, again.stderr
    stack.assert_only_these_are_gone([head.id], before)
    assert stack.world.object_versions().keys() == stack.world.objects().keys()
    assert stack.receipt(handle.id).complete
    assert stack.receipt(handle.id).left_over == {}
    assert_promises_hold(stack, evidence, [stack.request([head.id])])


def hold(stack: Stack, keys: set[str], status: Any) -> None:
    for key in keys:
        stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": status})


@pytest.mark.thorough
@on_sqlite
async def test_a_temporal_that_is_killed_goes_on_by_itself(
    stack: Stack, mortal_temporal: TemporalServer, held_deletes: Held
) -> None:
    """SIGKILL when rows are gone and their objects are not, and a start on the same file: no one has to do anything."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    async with stack.worker():
        handle = await stack.start([head.id])
        await held_deletes.reached()
        mortal_temporal.kill()
        held_deletes.let_go()
        mortal_temporal.start()
        await handle.result()
    assert head.id not in stack.world.rows()["sentry_preprodartifact"]
    assert stack.receipt(handle.id).complete
    assert_promises_hold(stack, before, [stack.request([head.id])])


@on_sqlite
async def test_a_temporal_that_forgot_everything_costs_nothing(
    stack: Stack, mortal_temporal: TemporalServer, held_deletes: Held
) -> None:
    """Emptied between the rows' COMMIT and the first object: what is owed stands in our own tables."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    async with stack.worker():
        handle = await stack.start([head.id])
        await held_deletes.reached()
        assert head.id not in stack.world.rows()["sentry_preprodartifact"]
        mortal_temporal.forget()
        held_deletes.let_go()
        assert await resume(stack.client, stack.database) == [handle.id]
        await stack.client.get_workflow_handle(handle.id).result()
    assert stack.receipt(handle.id).complete
    assert_promises_hold(stack, before, [stack.request([head.id])])


@pytest.mark.thorough
@pytest.mark.ceph
@on_sqlite
async def test_a_store_that_goes_down_is_waited_for_in_plain_sight(
    stack: Stack, mortal_store: S3Server, held_deletes: Held
) -> None:
    """Killed as the first objects are to go: an operator reads why nothing moves, and no one has to do anything after."""
    head, _, _ = compared(stack)
    before, evidence = Seen.of(stack.world), Evidence.of(stack)
    async with stack.worker():
        handle = await stack.start([head.id])
        await held_deletes.reached()
        mortal_store.kill()
        held_deletes.let_go()

        async def failure() -> str | None:
            return (await pending_failures(handle)).get("delete_objects")

        assert await eventually(failure) == "the object store could not be reached (EndpointConnectionError)"
        assert (await progress(stack.client, handle.id)).stage == Stage.DELETING_OBJECTS
        mortal_store.start()
        await handle.result()
    stack.assert_only_these_are_gone([head.id], before)
    receipt = stack.receipt(handle.id)
    assert receipt.complete
    assert receipt.objects.sealed == receipt.objects.deleted + receipt.objects.absent
    assert_promises_hold(stack, evidence, [stack.request([head.id])])


@on_sqlite
async def test_an_object_written_in_the_quiet_period_is_found(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison that was at work when its rows went writes into a prefix that was swept already."""
    head, _, comparison = compared(stack)
    before = Seen.of(stack.world)
    scope = stack.world.physical(head.usecase, head.artifact.organization_id, head.artifact.project_id, "")
    late = f"{scope}{comparison.key.removesuffix('comparison.json')}chunks/late.json"
    waits: list[str] = []
    whole = SweepPrefixes.sweep_prefixes

    @functools.wraps(whole)
    def sweep_and_write(self: SweepPrefixes, chunk: Chunk) -> Swept:
        try:
            return whole(self, chunk)
        except NotYet as wait:
            if not waits:
                stack.s3.put_object(Bucket=stack.bucket, Key=late, Body=b"late")
            waits.append(str(wait))
            raise

    monkeypatch.setattr(SweepPrefixes, "sweep_prefixes", sweep_and_write)
    async with stack.worker(quiet_period_s=0.2):
        receipt = await stack.delete([head.id])
    stack.assert_only_these_are_gone([head.id], before)
    assert receipt.complete
    found = receipt.objects.found_by_listing
    said = [f"{count:,} objects that no row named were found so far" for count in (found - 1, found)]
    assert [words for words in said if any(words in wait for wait in waits)] == said


@on_sqlite
async def test_a_writer_that_never_stops_is_reported(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix that is written to after every sweep cannot be called empty, however often it is listed."""
    (head,) = stack.snapshots("head")
    key = stack.world.physical(head.usecase, head.artifact.organization_id, head.artifact.project_id, head.artifact.prefix)
    whole, writes = S3Objects.list_under, itertools.count()

    def write_and_list(self: S3Objects, prefix: str) -> Any:
        if prefix == key:  # never the same, or it would look like an object that the store does not delete
            stack.s3.put_object(Bucket=stack.bucket, Key=f"{key}again.json", Body=b"again %d" % next(writes))
        return whole(self, prefix)

    monkeypatch.setattr(S3Objects, "list_under", write_and_list)
    async with stack.worker():
        handle = await stack.start([head.id])
        assert (await stack.failure(handle)).type == "ObjectsRemain"
    assert stack.receipt(handle.id).objects.found_left_over == {"StillWritten": 1}


@pytest.mark.thorough
@pytest.mark.ceph
@on_sqlite
async def test_a_cancel_before_the_first_commit_undoes_everything(stack: Stack, mortal_store: S3Server) -> None:
    """Cancelled while the keys cannot be collected because the store is down. Asked for again, it is deleted."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    mortal_store.kill()
    async with stack.worker():
        handle = await stack.start([head.id])

        async def failure() -> str | None:
            return (await pending_failures(handle)).get("collect_keys")

        assert await eventually(failure) == "the object store could not be reached (EndpointConnectionError)"
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()
        assert isinstance(error.value.cause, CancelledError)
        assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED
        assert state_of(stack, handle) == DeletionState.CANCELLED
        mortal_store.start()
        assert Seen.of(stack.world) == before
        with stack.database.read() as session:
            assert session.execute(select(func.count()).select_from(DeletionChunk)).scalar_one() == 0

        receipt = await stack.delete([head.id])
    assert receipt.complete
    stack.assert_only_these_are_gone([head.id], before)


@on_sqlite
async def test_a_cancel_after_the_first_commit_is_refused_in_words(stack: Stack, held_deletes: Held) -> None:
    """Rows are gone and their objects are not: stopping here would orphan them. The deletion finishes, and says so."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    async with stack.worker():
        handle = await stack.start([head.id])
        await held_deletes.reached()
        await handle.cancel()

        async def refused() -> bool:
            return (await progress(stack.client, handle.id)).cancel_refused

        assert await eventually(refused)
        held_deletes.let_go()
        await handle.result()
        now = await progress(stack.client, handle.id)
        assert "A cancel came after rows were deleted" in text.details(now)
    stack.assert_only_these_are_gone([head.id], before)
    assert stack.receipt(handle.id).complete
    assert state_of(stack, handle) == DeletionState.CLOSED


@pytest.mark.thorough
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_cancel_during_the_transaction_waits_for_its_commit_and_comes_too_late(stack: Stack) -> None:
    """The rows' transaction waits for a lock that another client holds: whether anything is undone is only known after it."""
    head, _, _ = compared(stack)
    before = Seen.of(stack.world)
    async with stack.worker():
        with stack.database.engine.connect() as other:
            other.execute(sqlalchemy.text("SELECT 1 FROM sentry_preprodartifact WHERE id = :id FOR UPDATE"), {"id": head.id})
            handle = await stack.start([head.id])
            await asyncio.to_thread(wait_for_waiters, stack.database, 1)
            await handle.cancel()
            await asyncio.to_thread(wait_for_waiters, stack.database, 2)
            other.rollback()
        await handle.result()
        assert (await progress(stack.client, handle.id)).cancel_refused
    stack.assert_only_these_are_gone([head.id], before)
    assert stack.receipt(handle.id).complete


@pytest.mark.thorough
@on_sqlite
async def test_a_cancel_between_two_chunks_finishes_both(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first chunk's rows are gone, the second's are not: half a request cannot be undone, so all of it is done."""
    one, two = stack.snapshots("one", "two")
    before = Evidence.of(stack)
    held = Held(monkeypatch, DeleteRows, "delete_rows", only=lambda _self, sealed: sealed.chunk == 1)
    async with stack.worker(chunk_artifacts=1):
        handle = await stack.start([one.id, two.id])
        await held.reached()

        async def first_is_gone() -> bool:
            return (await progress(stack.client, handle.id)).chunks_rows_deleted == 1

        await eventually(first_is_gone)
        await handle.cancel()

        async def refused() -> bool:
            return (await progress(stack.client, handle.id)).cancel_refused

        await eventually(refused)
        held.let_go()
        await handle.result()
    assert_promises_hold(stack, before, [stack.request([one.id, two.id])])
    assert stack.receipt(handle.id).artifacts.deleted.count == 2
