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
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

import starter
from activities.delete_rows import DeleteRows
from activities.storage import freeze as freezing
from activities.storage import ledger
from activities.storage.database import Database
from activities.storage.objects import S3Objects
from activities.storage.snuba import SnubaTraces
from activities.sweep_prefixes import SweepPrefixes
from demo.servers import ObjectStoreServer, TemporalServer
from demo.world import create_schema, sample_world
from migrations import migrate
from tests.snuba_server import SnubaServer
from tests.stack import Held, Stack, eventually, s3_of
from workflows.converter import data_converter
from workflows.errors import DeletionError, StaleSeal, StoreUnavailable
from workflows.messages import SEARCH_ATTRIBUTES, Sweep, Swept

HISTORIES = Path(__file__).with_name("histories")
Handle = WorkflowHandle[Any, Any]
Recorded = dict[str, Handle]


async def plain(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """Two chunks, comparisons, builds; somebody waits for the rows."""
    sample = sample_world(stack.world)
    async with stack.worker(chunk_artifacts=2):
        handle = await stack.start(sample.to_delete, requested_by="user:7")
        await starter.wait_rows_deleted(stack.client, stack.request(sample.to_delete, requested_by="user:7"))
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
        await starter.preview_deletion(stack.client, request := stack.request([one.id]))
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


async def asked_again(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """Trace items are counted again on a timer until there are none."""
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


async def taken_over(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """Another deletion owes objects of the same artifact; it is run again to its end."""
    _use_locking_bucket(stack)
    one, two = stack.snapshots("one", "two")
    _hold(stack, one.id, "ON")
    async with stack.worker():
        first = await stack.start([one.id])
        await _failed(first)
        _hold(stack, one.id, "OFF")
        handle = await stack.start([one.id, two.id])
        await handle.result()
    return {"taken_over": handle}


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


async def cancel_refused(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """After rows were deleted."""
    (one,) = stack.snapshots("one")
    held = Held(changed, S3Objects, "delete")
    async with stack.worker():
        handle = await stack.start([one.id])
        await held.reached()
        await handle.cancel()

        async def heard() -> bool:
            return (await starter.progress(stack.client, handle.id)).cancel_refused

        await eventually(heard)
        held.let_go()
        await handle.result()
    return {"cancel_refused": handle}


async def frozen(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """Frozen before its rows go, thawed, frozen again before its objects go, thawed."""
    (one,) = stack.snapshots("one")
    changed.setattr(freezing, "FRESH_S", 0.0)
    held = Held(changed, S3Objects, "delete")
    freezing.freeze(stack.database, "recorded")
    async with stack.worker():
        handle = await stack.start([one.id])
        await _held_up(stack, handle, "Frozen")
        freezing.thaw(stack.database)
        await held.reached()
        freezing.freeze(stack.database, "recorded")
        held.let_go()
        await _held_up(stack, handle, "Frozen")
        freezing.thaw(stack.database)
        await handle.result()
    return {"frozen": handle}


async def frozen_trace_items(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """Frozen before trace items are asked for; thawed, they are asked for twice."""
    (one,) = stack.snapshots("one")
    place = one.artifact
    changed.setattr(freezing, "FRESH_S", 0.0)
    held = Held(changed, SnubaTraces, "delete")
    with SnubaServer({(place.organization_id, place.project_id, place.trace_id): 3}) as snuba:
        async with stack.worker(trace_store="snuba", snuba_url=snuba.url, trace_items_pause_s=0.1):
            handle = await stack.start([one.id])
            await held.reached()
            freezing.freeze(stack.database, "recorded")
            held.let_go()
            await _held_up(stack, handle, "Frozen")
            freezing.thaw(stack.database)

            async def asked() -> bool:
                return len(snuba.requests) > 0

            await eventually(asked)
            snuba.consume()
            await handle.result()
    return {"frozen_trace_items": handle}


async def unconfirmed(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """More artifacts than may go unconfirmed, until they are confirmed."""
    one, two = stack.snapshots("one", "two")
    async with stack.worker(max_artifacts_unconfirmed=1, chunk_artifacts=1):
        handle = await stack.start([one.id, two.id])
        await _held_up(stack, handle, "Unconfirmed")
        with stack.database.write() as session:
            ledger.confirm(session, stack.request([one.id, two.id]).deletion_id, "user:7")
        await handle.result()
    return {"unconfirmed": handle}


async def continued(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """A history that is long for its server, and the run that followed it."""
    snapshots = stack.snapshots("a", "b", "c", "d")
    with TemporalServer(
        stack.folder / "temporal", in_memory=True, ui=False, dynamic_config={"limit.historyCount.suggestContinueAsNew": 120}
    ) as server:
        stack.use_temporal(await _connect(server))
        async with stack.worker(chunk_artifacts=1):
            handle = await stack.start(one.id for one in snapshots)
            await handle.result()
        last = (await handle.describe()).run_id
        first = stack.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        await _write({"continued": first, "continued_run": stack.client.get_workflow_handle(handle.id, run_id=last)})
    return {}


async def told_to_ask_again(stack: Stack, _: pytest.MonkeyPatch) -> Recorded:
    """Somebody waits for rows in a run that is over before they are gone: the first run of several."""
    snapshots = stack.snapshots(*"abcdefgh")
    request = stack.request(one.id for one in snapshots)
    stack.accept(request)
    with TemporalServer(
        stack.folder / "temporal", in_memory=True, ui=False, dynamic_config={"limit.historyCount.suggestContinueAsNew": 80}
    ) as server:
        stack.use_temporal(await _connect(server))
        async with stack.worker(chunk_artifacts=1, chunks_at_once=1):
            first = await starter.start_deletion(stack.client, request)
            await starter.wait_rows_deleted(stack.client, request)
            await first.result()
        run = stack.client.get_workflow_handle(first.id, run_id=first.first_execution_run_id)
        await _write({"told_to_ask_again": run})
    return {}


async def waited(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """Another deletion owes objects of the same artifact, and somebody runs it: this one waits."""
    one, two = stack.snapshots("one", "two")
    held = Held(changed, S3Objects, "delete", only=lambda _, keys: any(one.artifact.prefix in key for key in keys))
    async with stack.worker():
        first = await stack.start([one.id])
        await held.reached()
        handle = await stack.start([one.id, two.id])

        async def waits() -> bool:
            return bool((await starter.progress(stack.client, handle.id)).waiting_for)

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


async def swept_again(stack: Stack, changed: pytest.MonkeyPatch) -> Recorded:
    """The listing that was to confirm finds a late object, so that another one is needed."""
    (one,) = stack.snapshots("one")
    place = one.artifact
    late = stack.world.physical(one.usecase, place.organization_id, place.project_id, f"{place.prefix}late.json")
    whole = SweepPrefixes.sweep_prefixes

    @functools.wraps(whole)
    def sweep_and_write(self: SweepPrefixes, sweep: Sweep) -> Swept:
        swept = whole(self, sweep)
        if not sweep.confirm:
            stack.s3.put_object(Bucket=stack.bucket, Key=late, Body=b"late")
        return swept

    changed.setattr(SweepPrefixes, "sweep_prefixes", sweep_and_write)
    async with stack.worker():
        handle = await stack.start([one.id])
        await handle.result()
    return {"swept_again": handle}


SCENARIOS: tuple[Callable[[Stack, pytest.MonkeyPatch], Awaitable[Recorded]], ...] = (
    plain,
    rows_by_chunk,
    retried,
    preview,
    left_over,
    asked_again,
    taken_over,
    refused,
    cancelled,
    cancel_refused,
    frozen,
    frozen_trace_items,
    unconfirmed,
    continued,
    told_to_ask_again,
    waited,
    collected_again,
    swept_again,
)

_DOWN = StoreUnavailable("the object store could not be reached (EndpointConnectionError)")


async def _held_up(stack: Stack, handle: Handle, by: str) -> None:
    async def waits() -> bool:
        return by in (await starter.progress(stack.client, handle.id)).held_up

    await eventually(waits)


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
        TemporalServer(Path(name) / "temporal", in_memory=True, ui=False, search_attributes=SEARCH_ATTRIBUTES) as temporal,
        ObjectStoreServer(Path(name) / "objects") as store,
    ):
        wanted = [scenario for scenario in SCENARIOS if not sys.argv[1:] or scenario.__name__ in sys.argv[1:]]
        for number, scenario in enumerate(wanted):
            with pytest.MonkeyPatch.context() as changed:
                async with _stack(Path(name) / scenario.__name__, temporal, store, number) as stack:
                    await _write(await scenario(stack, changed))


if __name__ == "__main__":
    asyncio.run(main())
