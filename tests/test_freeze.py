"""Stop everything: what is frozen deletes nothing more, loses nothing and fails nothing, and goes on when it is thawed."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

import starter
import worker
from activities import collect_keys
from activities.delete_rows import DeleteRows
from activities.storage import freeze as freezing
from activities.storage.database import Database
from activities.storage.freeze import FRESH_S, FreezableTraces, Switch, freeze, frozen_since, thaw
from activities.storage.objects import GuardedObjects, S3Objects
from activities.storage.snuba import SnubaTraces
from activities.storage.traces import SqlTraces
from examples.folder_store import FolderStore
from tests.conftest import Command
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Held, Seen, Stack, connect, eventually, steps_of, wait_for_waiters
from workflows import delete_artifacts, page
from workflows.errors import Frozen
from workflows.messages import DELETE_ROWS, WAIT_UNTIL_THAWED

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
REASON = "PRIVATE: somebody deletes the wrong ones"


@pytest.fixture
def heeded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers ask before every request, so that a test need not let the time pass in which they may still begin one."""
    monkeypatch.setattr(freezing, "FRESH_S", 0.0)


async def attempts_of(handle: WorkflowHandle[Any, Any], step: str) -> int:
    described = await handle.describe()
    return sum(one.attempt for one in described.raw_description.pending_activities if one.activity_type.name == step)


@on_sqlite
async def test_a_deletion_frozen_in_the_middle_of_its_pages_waits_and_goes_on(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, heeded_at_once: None
) -> None:
    """Two workers, some pages gone, many not: nothing changes while it is frozen, and a thaw is all that is needed."""
    for module in (collect_keys, delete_artifacts):
        monkeypatch.setattr(module, "PAGE_KEYS", 5)
    head, base = stack.snapshots("head", "base")
    stack.world.comparison(head, base, masks=60)
    before = Evidence.of(stack)
    asked: list[object] = []

    def not_the_first_two(*_: object) -> bool:
        asked.append(None)
        return len(asked) > 2

    held = Held(monkeypatch, S3Objects, "delete", only=not_the_first_two)
    settings = stack.settings(pages_an_activity=1)
    async with worker.running(settings, stack.client), worker.running(settings, await connect(stack.temporal_address)):
        handle = await stack.start([head.id])
        await held.reached()

        async def some_are_gone() -> bool:
            return (await starter.progress(stack.client, handle.id)).pages_done == 2

        await eventually(some_are_gone)
        await asyncio.to_thread(freeze, stack.database, REASON)
        frozen = Seen.of(stack.world)
        held.let_go()

        async def waits() -> bool:
            return await attempts_of(handle, WAIT_UNTIL_THAWED.name) > 1

        await eventually(waits)
        assert Seen.of(stack.world) == frozen
        progress = await starter.progress(stack.client, handle.id)
        assert (progress.pages_done, progress.left_over) == (2, 0)
        assert f"frozen since {frozen_since(stack.database):%Y-%m-%d %H:%M:%S} UTC" in page.details(progress)
        thaw(stack.database)
        await asyncio.wait_for(handle.result(), 40)
        assert (await starter.progress(stack.client, handle.id)).held_up == {}
    assert_promises_hold(stack, before, [stack.request([head.id])])
    assert stack.receipt(handle.id).complete
    history = (await handle.fetch_history()).to_json()
    assert "PRIVATE" not in history
    assert "wait_until_thawed" in history


@on_sqlite
async def test_what_is_frozen_costs_a_step_none_of_its_time(stack: Stack, heeded_at_once: None) -> None:
    """A step has a budget of days, a freeze may take weeks: they wait in a step without a budget, and then begin anew."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    freeze(stack.database, REASON)
    async with stack.worker():
        handle = await stack.start([one.id])

        async def waits() -> bool:
            return await attempts_of(handle, WAIT_UNTIL_THAWED.name) > 0

        await eventually(waits)
        assert await attempts_of(handle, DELETE_ROWS.name) == 0, "it is not tried again by Temporal"
        assert Evidence.of(stack).rows == before.rows
        assert Evidence.of(stack).objects == before.objects
        thaw(stack.database)
        await asyncio.wait_for(handle.result(), 40)
    assert_promises_hold(stack, before, [stack.request([one.id])])
    scheduled = [
        event.activity_task_scheduled_event_attributes
        async for event in handle.fetch_history_events()
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    (wait,) = [one for one in scheduled if one.activity_type.name == WAIT_UNTIL_THAWED.name]
    assert wait.schedule_to_close_timeout.ToSeconds() == 0, "no limit"
    assert [one.activity_type.name for one in scheduled].count(DELETE_ROWS.name) == 2


@on_sqlite
async def test_a_frozen_deletion_can_be_cancelled(stack: Stack, heeded_at_once: None) -> None:
    """Whoever froze because it was a mistake wants to undo it next."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    freeze(stack.database, REASON)
    async with stack.worker():
        handle = await stack.start([one.id])

        async def waits() -> bool:
            return await attempts_of(handle, WAIT_UNTIL_THAWED.name) > 0

        await eventually(waits)
        await handle.cancel()
        with pytest.raises(Exception, match="Workflow execution failed"):
            await asyncio.wait_for(handle.result(), 40)
    thaw(stack.database)
    assert starter.recorded(stack.database, handle.id).state == "cancelled"
    assert Seen.of(stack.world) == before


def test_a_freeze_between_collecting_and_deleting_rows_keeps_every_row(stack: Stack) -> None:
    """The transaction itself looks for the freeze; thawed, the same seal is released."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    before = Evidence.of(stack)
    stack.accept(request)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        freeze(stack.database, REASON)
        with pytest.raises(Frozen, match=r"frozen since .* UTC; they go on after `python starter\.py thaw`"):
            steps.delete_rows(sealed)
        assert Seen.of(stack.world) == Seen(before.rows, before.objects)
        thaw(stack.database)
        assert steps.finish(request, sealed).complete
    assert_promises_hold(stack, before, [request])


@on_sqlite
def test_a_frozen_worker_asks_no_store_to_delete(stack: Stack) -> None:
    """Pages, listed objects, unfinished uploads and trace items: each of the requests is refused before it is made."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    place = one.artifact
    nobody_names = stack.world.physical("preprod", place.organization_id, place.project_id, f"{place.prefix}plan.json")
    stack.s3.put_object(Bucket=stack.bucket, Key=nobody_names, Body=b"{}")
    before = Evidence.of(stack)
    stack.accept(request)
    store = worker.open_store(stack.settings(), Switch(stack.database))
    with steps_of(stack, store) as steps:
        sealed = steps.open_and_collect(request)
        deleted = steps.delete_rows(sealed)
        freeze(stack.database, REASON)
        rows_gone = Seen.of(stack.world)
        with pytest.raises(Frozen):
            steps.delete_objects(sealed, deleted)
        with pytest.raises(Frozen):
            steps.sweep(sealed, 0)
        stack.s3.create_multipart_upload(Bucket=stack.bucket, Key=nobody_names)
        (uploads,) = store.uploads_under(nobody_names)
        with pytest.raises(Frozen):
            store.abort_uploads(uploads)
        with pytest.raises(Frozen):
            FreezableTraces(SqlTraces(stack.database), Switch(stack.database)).delete(1, 1, ["0" * 32])
        assert Seen.of(stack.world) == rows_gone
        assert list(store.uploads_under(nobody_names)) == [uploads]
        thaw(stack.database)
    with steps_of(stack, worker.open_store(stack.settings(), Switch(stack.database))) as steps:
        steps.delete_what_was_released(sealed, deleted)
        assert steps.close(request).complete
    assert_promises_hold(stack, before, [request], also_owned=[nobody_names])


@on_postgresql
def test_freezing_returns_when_the_last_transaction_that_had_not_seen_it_has_ended(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that deletes rows already is let finish, and is waited for: nothing is committed behind whoever froze."""
    one, two = stack.snapshots("one", "two")
    first, second = stack.request([one.id]), stack.request([two.id])
    before = Evidence.of(stack)
    with steps_of(stack) as steps, ThreadPoolExecutor(2) as pool:
        for request in (first, second):
            stack.accept(request)
        seals = {request: steps.open_and_collect(request) for request in (first, second)}
        held = Held(monkeypatch, DeleteRows, "_release")
        deleting = pool.submit(steps.delete_rows, seals[first])
        try:
            asyncio.run(held.reached())
            frozen = pool.submit(freeze, stack.database, REASON)
            wait_for_waiters(stack.database)
            assert frozen_since(stack.database) is not None, "whoever comes now sees it"
            assert not frozen.done()
        finally:
            held.let_go()
        frozen.result(30)
        assert one.id not in stack.world.rows()["sentry_preprodartifact"]
        with pytest.raises(Frozen):
            steps.delete_rows(seals[second])
        thaw(stack.database)
        steps.delete_what_was_released(seals[first], deleting.result())
        steps.close(first)
        steps.finish(second, seals[second])
    assert_promises_hold(stack, before, [first, second])


@on_sqlite
def test_a_store_of_a_backends_own_is_asked_for_nothing_either(database: Database, tmp_path: Path) -> None:
    """What an adapter does with a request is its own affair: it gets none. Snuba is asked in many parts, each of them is."""
    own = FolderStore(tmp_path / "own")
    own.put("key", b"x")
    switch = Switch(database)
    store = GuardedObjects(own, lambda _: switch.refuse_frozen())
    freeze(database, REASON)
    (found,) = store.list_under("")
    with pytest.raises(Frozen):
        store.delete(["key"])
    with pytest.raises(Frozen):
        store.delete_found(found)
    with pytest.raises(Frozen):
        store.abort_uploads([])
    assert store.read("key", 10) == b"x"
    with pytest.raises(Frozen):
        SnubaTraces("http://127.0.0.1:1", before_request=switch.refuse_frozen).delete(1, 1, ["0" * 32])


def test_frozen_twice_is_frozen_once(database: Database) -> None:
    """Two people pull the switch: the first time counts, and one thaw is enough."""
    since = freeze(database, "one")
    assert freeze(database, "two") == since == frozen_since(database)
    assert thaw(database) == since
    assert thaw(database) is None is frozen_since(database)


@on_sqlite
def test_a_thousand_requests_ask_the_database_once_a_second(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no request begins more than a second after the freeze."""
    now, looked_up = 1000.0, 0
    whole = freezing.frozen_since

    def counted(of: Database) -> Any:
        nonlocal looked_up
        looked_up += 1
        return whole(of)

    monkeypatch.setattr(freezing, "frozen_since", counted)
    monkeypatch.setattr(freezing, "time", SimpleNamespace(monotonic=lambda: now))
    switch = Switch(database)
    for _ in range(1000):
        switch.refuse_frozen()
    assert looked_up == 1
    freeze(database, REASON)
    now += FRESH_S / 2
    switch.refuse_frozen()
    now += FRESH_S / 2
    for _ in range(1000):
        with pytest.raises(Frozen):
            switch.refuse_frozen()
    assert looked_up == 2
    thaw(database)
    now += FRESH_S
    switch.refuse_frozen()
    assert FRESH_S <= 1


@on_sqlite
def test_an_operator_freezes_sees_it_and_thaws(stack: Stack, command: Command) -> None:
    """The whole of it from a terminal."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    code, said = command("freeze", "--reason", REASON)
    frozen, waiting = said.splitlines()
    assert (code, frozen[:13], waiting[:8]) == (0, "frozen since ", "freezing")
    code, shown = command("status", request.workflow_id)
    assert (code, frozen in shown, "PRIVATE" in shown) == (0, True, False)
    assert "frozen_since" in command("status", request.workflow_id, "--json")[1]
    assert command("thaw")[1].startswith("thawed: ")
    assert "frozen" not in command("status", request.workflow_id)[1]
    assert command("thaw") == (0, "deletions were not frozen\n")
