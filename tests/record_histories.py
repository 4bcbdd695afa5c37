"""Record the histories that the tests replay: `python -m tests.record_histories`, after the workflow was changed on purpose.

With names of scenarios, only those are recorded anew. One file for each way that a deletion can go, from real runs on servers
of their own.
"""

import asyncio
import contextlib
import functools
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from activities.database import Database
from activities.delete_rows import DeleteRows
from activities.ledger import holds
from activities.ledger.holds import On
from activities.reconcile.reconcile import Reconciliation
from activities.stores import guards
from activities.stores.s3 import S3Objects
from activities.stores.snuba import SnubaTraces
from activities.sweep_prefixes import SweepPrefixes
from artifact_deletion.bulk import CONFIRM_UPDATE, PAUSE_SIGNAL, UNPAUSE_SIGNAL, BulkRequest
from artifact_deletion.client import preview_deletion, progress, start_bulk, wait_rows_deleted
from artifact_deletion.converter import data_converter
from artifact_deletion.errors import DeletionError, InvalidRequest, StaleSeal, StoreUnavailable
from artifact_deletion.request import SEARCH_ATTRIBUTES, TASK_QUEUE
from demo.servers import ObjectStoreServer, TemporalServer
from demo.world import create_schema, sample_world
from migrations import migrate
from tests.snuba_server import SnubaServer
from tests.stack import Held, Stack, eventually, pending_failures, s3_of
from tests.workflow.test_reruns import reset
from workflows.bulk_steps import WAIT_FOR_OTHERS
from workflows.reconcile_steps import RECONCILE_WORKFLOW, Reconcile
from workflows.steps import CLOSE_DELETION, DELETE_TRACE_ITEMS, OPEN_DELETION, PAGE_KEYS, WAIT_TO_BEGIN, Chunk, Swept

HISTORIES = Path(__file__).with_name("histories")
Handle = WorkflowHandle[Any, Any]
Recorded = dict[str, Handle]


async def plain(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """Two chunks, comparisons, builds; a caller waits for the rows."""
    sample = sample_world(stack.world)
    async with stack.worker(chunk_artifacts=2):
        handle = await stack.start(sample.to_delete, requested_by="user:7")
        await wait_rows_deleted(stack.client, stack.request(sample.to_delete, requested_by="user:7"))
        await handle.result()
    return {"plain": handle}


async def rows_by_chunk(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """One chunk's rows are gone while another's are still there, which is a stage of its own."""
    one, two = stack.snapshots("one", "two")
    async with stack.worker(chunk_artifacts=1, chunks_at_once=1):
        handle = await stack.start([one.id, two.id])
        await handle.result()
    return {"rows_by_chunk": handle}


async def retried(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """The store fails at first, in each of the steps that call it, and there is a quiet period."""
    (one,) = stack.snapshots("one")
    for name in ("read", "delete", "list_under"):
        changed.setattr(S3Objects, name, _failing_once(getattr(S3Objects, name)))
    async with stack.worker(quiet_period_s=0.1):
        handle = await stack.start([one.id])
        await handle.result()
    return {"retried": handle}


async def preview(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """A dry run; the store fails at first."""
    (one,) = stack.snapshots("one")
    changed.setattr(S3Objects, "read", _failing_once(S3Objects.read))
    async with stack.worker():
        await preview_deletion(stack.client, request := stack.request([one.id]))
    return {"preview": stack.client.get_workflow_handle(request.preview_id)}


async def left_over(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """One object under a legal hold."""
    _use_locking_bucket(stack)
    (one,) = stack.snapshots("one")
    _hold(stack, one.id, "ON")
    async with stack.worker():
        handle = await stack.start([one.id])
        await _failed(handle)
    return {"left_over": handle}


async def rerun(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """What one run left over is done by the next, which begins with rows that are gone."""
    _use_locking_bucket(stack)
    (one,) = stack.snapshots("one")
    _hold(stack, one.id, "ON")
    async with stack.worker():
        await _failed(await stack.start([one.id]))
        _hold(stack, one.id, "OFF")
        handle = await stack.start([one.id])
        await handle.result()
    return {"rerun": handle}


async def many_pages(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """The pages of a chunk are several steps."""
    head, base = stack.snapshots("head", "base")
    stack.world.comparison(head, base, masks=PAGE_KEYS + 1)
    async with stack.worker(pages_a_step=1):
        handle = await stack.start([head.id])
        await handle.result()
    return {"many_pages": handle}


async def asked_again(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """Trace items are counted again until there are none."""
    (one,) = stack.snapshots("one")
    place = one.artifact
    with SnubaServer({(place.organization_id, place.project_id, place.trace_id): 3}) as snuba:
        async with stack.worker(trace_store="snuba", snuba_url=snuba.url, trace_items_pause_s=0.1):
            handle = await stack.start([one.id])

            async def asked_twice() -> bool:
                return len(snuba.requests) > 1

            await eventually(asked_twice)
            snuba.consume()
            await handle.result()
    return {"asked_again": handle}


async def no_trace_store(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """None is asked, and the receipt says so."""
    (one,) = stack.snapshots("one")
    async with stack.worker(trace_store="none"):
        handle = await stack.start([one.id])
        await handle.result()
    return {"no_trace_store": handle}


async def owed_by_others(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """Another deletion owes objects of the same artifact, and has failed: that one is named, and waited for by no one."""
    _use_locking_bucket(stack)
    one, two = stack.snapshots("one", "two")
    _hold(stack, one.id, "ON")
    async with stack.worker():
        await _failed(await stack.start([one.id]))
        handle = await stack.start([one.id, two.id])
        await _failed(handle)
    return {"owed_by_others": handle}


async def refused(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """An artifact of another organization."""
    (one,) = stack.snapshots("one")
    project = stack.world.project(stack.world.organization("globex"), "app")
    stranger = stack.world.snapshot(project, one.images)
    async with stack.worker():
        handle = await stack.start([one.id, stranger.id])
        await _failed(handle)
    return {"refused": handle}


async def cancelled(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """Before any row is deleted."""
    (one,) = stack.snapshots("one")
    held = Held(changed, S3Objects, "read")
    async with stack.worker():
        handle = await stack.start([one.id])
        await held.reached()
        await handle.cancel()
        await _failed(handle)
        held.let_go()
    return {"cancelled": handle}


async def reset_after_cancel(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """Cancelled before any row is deleted, and taken up again by Reset: the ledger says that it is no longer open."""
    handle = (await cancelled(stack, changed))["cancelled"]
    async with stack.worker():
        run = await reset(stack, handle, OPEN_DELETION.name)
        again = stack.client.get_workflow_handle(handle.id, run_id=run)
        await _failed(again)
    return {"reset_after_cancel": again}


async def waited_for_its_time(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """A second is waited for, by the database's clock."""
    (one,) = stack.snapshots("one")
    async with stack.worker():
        handle = await stack.start([one.id], not_before=datetime.now(UTC) + timedelta(seconds=1))
        await handle.result()
    return {"waited_for_its_time": handle}


async def cancelled_in_time(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """While it waits for its time."""
    (one,) = stack.snapshots("one")
    async with stack.worker():
        handle = await stack.start([one.id], not_before=datetime.now(UTC) + timedelta(days=1))

        async def waits() -> bool:
            return WAIT_TO_BEGIN.name in await pending_failures(handle)

        await eventually(waits)
        await handle.cancel()
        await _failed(handle)
    return {"cancelled_in_time": handle}


async def cancel_refused(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """After rows were deleted."""
    (one,) = stack.snapshots("one")
    held = Held(changed, S3Objects, "delete")
    async with stack.worker():
        handle = await stack.start([one.id])
        await held.reached()
        await handle.cancel()

        async def heard() -> bool:
            return (await progress(stack.client, handle.id)).cancel_refused

        await eventually(heard)
        held.let_go()
        await handle.result()
    return {"cancel_refused": handle}


async def held_twice(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """Held before its rows go, let go, held again before its objects go, let go."""
    (one,) = stack.snapshots("one")
    changed.setattr(guards, "FRESH_S", 0.0)
    deletes = Held(changed, S3Objects, "delete")
    placed = _place(stack)
    async with stack.worker():
        handle = await stack.start([one.id])
        await _held_up(stack, handle)
        _lift(stack, placed)
        await deletes.reached()
        placed = _place(stack)
        deletes.let_go()
        await _held_up(stack, handle)
        _lift(stack, placed)
        await handle.result()
    return {"held_twice": handle}


async def held_trace_items(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """Held before trace items are asked for; let go, they are asked for until there are none."""
    (one,) = stack.snapshots("one")
    place = one.artifact
    changed.setattr(guards, "FRESH_S", 0.0)
    asks = Held(changed, SnubaTraces, "delete")
    with SnubaServer({(place.organization_id, place.project_id, place.trace_id): 3}) as snuba:
        async with stack.worker(trace_store="snuba", snuba_url=snuba.url, trace_items_pause_s=0.1):
            handle = await stack.start([one.id])
            await asks.reached()
            placed = _place(stack)
            asks.let_go()
            await _held_up(stack, handle)
            _lift(stack, placed)

            async def counted() -> bool:
                return DELETE_TRACE_ITEMS.name in await pending_failures(handle)

            await eventually(counted)
            snuba.consume()
            await handle.result()
    return {"held_trace_items": handle}


async def over_a_ceiling(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """More artifacts than may go unconfirmed, until they are confirmed. Two chunks wait, in one step."""
    one, two = stack.snapshots("one", "two")
    async with stack.worker(max_artifacts_unconfirmed=1, chunk_artifacts=1):
        handle = await stack.start([one.id, two.id])
        await _held_up(stack, handle)
        with stack.database.write() as session:
            holds.confirm(session, stack.request([one.id, two.id]).deletion_id, 0, by="user:7")
        await handle.result()
    return {"over_a_ceiling": handle}


async def waited(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """Another deletion owes objects of the same artifact, and is at work: this one waits."""
    one, two = stack.snapshots("one", "two")
    held = Held(changed, S3Objects, "delete", only=lambda _, keys: any(one.artifact.prefix in key for key in keys))
    async with stack.worker():
        first = await stack.start([one.id])
        await held.reached()
        handle = await stack.start([one.id, two.id])

        async def waits() -> bool:
            return first.id in (await pending_failures(handle)).get(CLOSE_DELETION.name, "")

        await eventually(waits)
        held.let_go()
        await asyncio.gather(first.result(), handle.result())
    return {"waited": handle}


async def collected_again(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """The rows say something else than when their keys were collected."""
    (one,) = stack.snapshots("one")
    changed.setattr(DeleteRows, "delete_rows", _failing_once(DeleteRows.delete_rows, StaleSeal("chunk 0: collect again")))
    async with stack.worker():
        handle = await stack.start([one.id])
        await handle.result()
    return {"collected_again": handle}


async def never_collected(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """One chunk's rows say something else whenever its keys are collected; the other is deleted all the same."""
    one, two = stack.snapshots("one", "two")
    whole = DeleteRows.delete_rows

    @functools.wraps(whole)
    def delete_rows(self: DeleteRows, sealed: Any) -> Any:
        if sealed.chunk == 0:
            raise StaleSeal("chunk 0: collect again")
        return whole(self, sealed)

    changed.setattr(DeleteRows, "delete_rows", delete_rows)
    async with stack.worker(chunk_artifacts=1, chunks_at_once=1):
        handle = await stack.start([one.id, two.id])
        await _failed(handle)
    return {"never_collected": handle}


async def swept_again(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """The listing that was to confirm finds a late object, so that another one is needed."""
    (one,) = stack.snapshots("one")
    place = one.artifact
    late = stack.world.physical(one.usecase, place.organization_id, place.project_id, f"{place.prefix}late.json")
    whole, to_write = SweepPrefixes.sweep_prefixes, iter(range(3))

    @functools.wraps(whole)
    def write_and_sweep(self: SweepPrefixes, chunk: Chunk) -> Swept:
        for _ in to_write:
            stack.s3.put_object(Bucket=stack.bucket, Key=late, Body=b"late")
            break
        return whole(self, chunk)

    changed.setattr(SweepPrefixes, "sweep_prefixes", write_and_sweep)
    async with stack.worker(quiet_period_s=0.2):
        handle = await stack.start([one.id])
        await handle.result()
    return {"swept_again": handle}


async def bulk(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """Confirmed by a second person, paused and gone on with, with a limit an hour; one of its deletions is not complete."""
    _use_locking_bucket(stack)
    one = stack.snapshots("one", "two", "three")[0]
    _hold(stack, one.id, "ON")
    request = BulkRequest(
        organization_id=stack.organization_id,
        project_id=one.artifact.project_id,
        requested_by="user:7",
        artifacts_an_hour=36_000,
    )
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=1, max_bulk_unconfirmed=2):
        handle = await start_bulk(stack.client, request)
        await handle.signal(PAUSE_SIGNAL)
        await handle.execute_update(CONFIRM_UPDATE, "user:8")
        await handle.signal(UNPAUSE_SIGNAL)
        await _failed(handle)
    return {"bulk": handle}


async def bulk_handed_on(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """A deletion runs when the first run hands on to the next, which waits for it."""
    one = stack.snapshots(*"abcdefgh")[0]
    held = Held(changed, S3Objects, "delete", only=lambda _, keys: any(one.artifact.prefix in key for key in keys))
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=2):
        first = await start_bulk(stack.client, BulkRequest(organization_id=stack.organization_id))
        last = stack.client.get_workflow_handle(first.id)

        async def waits() -> bool:
            return WAIT_FOR_OTHERS.name in await pending_failures(last)

        await eventually(waits)
        held.let_go()
        await first.result()
    handed_on = stack.client.get_workflow_handle(first.id, run_id=first.first_execution_run_id)
    return {"bulk_handed_on": handed_on, "bulk_taken_up": last}


async def reconcile(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """Ten projects of an organization, of which two fail: the last run takes up what the others counted."""
    (one,) = stack.snapshots("one")
    others = [stack.world.project(one.artifact.organization_id, f"app-{number}") for number in range(9)]
    whole, away = Reconciliation.list_objects, {others[0].id, others[-1].id}

    def list_objects(look: Reconciliation) -> Iterator[int]:
        if look.project.id in away:
            raise InvalidRequest("no look at this project succeeds")
        return whole(look)

    changed.setattr(Reconciliation, "list_objects", list_objects)
    async with stack.worker():
        given, name = Reconcile(organization_id=one.artifact.organization_id), "reconcile"
        first = await stack.client.start_workflow(RECONCILE_WORKFLOW, given, id=name, task_queue=TASK_QUEUE)
        await _failed(first)
    handed_on = stack.client.get_workflow_handle(name, run_id=first.first_execution_run_id)
    return {"reconcile_handed_on": handed_on, "reconcile_taken_up": stack.client.get_workflow_handle(name)}


SCENARIOS: tuple[Callable[[Stack, pytest.MonkeyPatch], Awaitable[Recorded]], ...] = (
    plain,
    rows_by_chunk,
    retried,
    preview,
    left_over,
    rerun,
    many_pages,
    asked_again,
    no_trace_store,
    owed_by_others,
    refused,
    cancelled,
    reset_after_cancel,
    waited_for_its_time,
    cancelled_in_time,
    cancel_refused,
    held_twice,
    held_trace_items,
    over_a_ceiling,
    waited,
    collected_again,
    never_collected,
    swept_again,
    bulk,
    bulk_handed_on,
    reconcile,
)

_DOWN = StoreUnavailable("the object store could not be reached (EndpointConnectionError)")


async def _held_up(stack: Stack, handle: Handle) -> None:
    async def waits() -> bool:
        return "held since" in ((await progress(stack.client, handle.id)).held or "")

    await eventually(waits)


def _place(stack: Stack) -> int:
    return holds.place(stack.database, On.EVERYTHING, "", reason="recorded", by="user:7").id


def _lift(stack: Stack, placed: int) -> None:
    with stack.database.write() as session:
        holds.lift(session, [placed], by="user:7")


def _failing_once(whole: Callable[..., Any], error: DeletionError = _DOWN) -> Callable[..., Any]:
    failed = False

    @functools.wraps(whole)
    def call(*given: Any) -> Any:
        nonlocal failed
        if not failed:
            failed = True
            raise error
        return whole(*given)

    return call


def _use_locking_bucket(stack: Stack) -> None:
    name = f"{stack.bucket}-locking"
    stack.s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    stack.use_bucket(name)


def _hold(stack: Stack, artifact_id: int, status: Any) -> None:
    key = min(stack.world.objects_of([artifact_id]))
    stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": status})


async def _failed(handle: Handle) -> None:
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()
        raise AssertionError("the deletion completed")


async def _write(recorded: Recorded) -> None:
    for name, handle in recorded.items():
        history = json.loads((await handle.fetch_history()).to_json())
        (HISTORIES / f"{name}.json").write_text(f"{json.dumps(history, indent=1)}\n")


async def _connect(server: TemporalServer) -> Client:
    return await Client.connect(server.address, data_converter=data_converter, identity="recorder")


@contextlib.asynccontextmanager
async def _stack(folder: Path, temporal: TemporalServer, store: ObjectStoreServer, number: int) -> AsyncIterator[Stack]:
    folder.mkdir()
    url, bucket = f"sqlite:///{folder / 'backend.db'}", f"recorded-{number}"
    database = Database(url)
    create_schema(database.engine)
    migrate(database)
    s3_of(store).create_bucket(Bucket=bucket)
    yield Stack(database, url, store, s3_of(store), bucket, await _connect(temporal), temporal.address, folder)
    database.dispose()


async def main() -> None:
    """Run every scenario, and write down what it left in Temporal."""
    with (
        tempfile.TemporaryDirectory() as name,
        TemporalServer(
            Path(name) / "temporal",
            in_memory=True,
            ui=False,
            search_attributes=SEARCH_ATTRIBUTES,
            dynamic_config={"limit.historyCount.suggestContinueAsNew": 40},
        ) as temporal,
        ObjectStoreServer(Path(name) / "objects") as store,
    ):
        wanted = [scenario for scenario in SCENARIOS if not sys.argv[1:] or scenario.__name__ in sys.argv[1:]]
        for number, scenario in enumerate(wanted):
            with pytest.MonkeyPatch.context() as changed:
                async with _stack(Path(name) / scenario.__name__, temporal, store, number) as stack:
                    await _write(await scenario(stack, changed))


if __name__ == "__main__":
    asyncio.run(main())
