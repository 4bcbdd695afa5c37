"""Stop everything: what is held deletes nothing more, loses nothing and fails nothing, and goes on when the hold is lifted."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

import worker
from activities import collect_keys
from activities.database import Database
from activities.delete_rows import DeleteRows
from activities.ledger import holds
from activities.ledger.holds import On, Placed
from activities.stores import guards
from activities.stores.guards import FRESH_S, GuardedObjects, HoldWatch, guarded
from activities.stores.s3 import S3Objects
from activities.stores.snuba import SnubaTraces
from activities.stores.sql_traces import SqlTraces
from artifact_deletion import errors
from artifact_deletion.client import progress
from examples.folder_store import FolderStore
from tests.conftest import Command
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Held, Seen, Stack, deletion_of, eventually, steps_of, wait_for_waiters
from workflows import delete_artifacts, text
from workflows.steps import DELETE_ROWS, WAIT_WHILE_HELD, Waiting

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
REASON = "PRIVATE: a script deletes the wrong ones"


def freeze(database: Database) -> Placed:
    """Place a hold on everything."""
    return holds.place(database, On.EVERYTHING, "", reason=REASON, by="user:7")


def thaw(database: Database) -> None:
    """Lift every hold."""
    with database.write() as session:
        holds.lift(session, [one.id for one in holds.placed(session)], by="user:8")


@pytest.fixture
def heeded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers ask before every request, so that a test need not let the time pass in which they may still begin one."""
    monkeypatch.setattr(guards, "FRESH_S", 0.0)


async def attempts_of(handle: WorkflowHandle[Any, Any], step: str) -> int:
    described = await handle.describe()
    return sum(one.attempt for one in described.raw_description.pending_activities if one.activity_type.name == step)


@pytest.mark.thorough
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
    asked: list[int] = []

    def not_the_first_two(_store: object, keys: list[str]) -> bool:
        asked.append(len(keys))
        return len(asked) > 2

    held = Held(monkeypatch, S3Objects, "delete", only=not_the_first_two)
    settings = stack.settings(pages_a_step=1)
    async with worker.running(settings, stack.client), worker.running(settings, await stack.another_client()):
        handle = await stack.start([head.id])
        await held.reached()

        async def some_are_gone() -> bool:
            return (await progress(stack.client, handle.id)).keys_done == sum(asked[:2])

        await eventually(some_are_gone)
        held_by = await asyncio.to_thread(freeze, stack.database)
        frozen = Seen.of(stack.world)
        held.let_go()

        async def waits() -> bool:
            return await attempts_of(handle, WAIT_WHILE_HELD.name) > 1

        await eventually(waits)
        assert Seen.of(stack.world) == frozen
        shown = await progress(stack.client, handle.id)
        assert (shown.keys_done, shown.left_over) == (sum(asked[:2]), 0)
        assert f"held since {held_by.placed_at:%Y-%m-%d %H:%M:%S} UTC" in text.details(shown)
        thaw(stack.database)
        await asyncio.wait_for(handle.result(), 40)
        assert (await progress(stack.client, handle.id)).held is None
    assert_promises_hold(stack, before, [stack.request([head.id])])
    assert stack.receipt(handle.id).complete
    history = (await handle.fetch_history()).to_json()
    assert "PRIVATE" not in history
    assert "wait_while_held" in history


@pytest.mark.thorough
@on_sqlite
@pytest.mark.usefixtures("only_visible_steps")
async def test_what_is_frozen_costs_a_step_none_of_its_time(stack: Stack, heeded_at_once: None) -> None:
    """A step has a budget of days, a freeze may take weeks: they wait in a step without a budget, and then begin anew."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    freeze(stack.database)
    async with stack.worker():
        handle = await stack.start([one.id])

        async def waits() -> bool:
            return await attempts_of(handle, WAIT_WHILE_HELD.name) > 0

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
    (wait,) = [one for one in scheduled if one.activity_type.name == WAIT_WHILE_HELD.name]
    assert wait.schedule_to_close_timeout.ToSeconds() == 0, "no limit"
    assert [one.activity_type.name for one in scheduled].count(DELETE_ROWS.name) == 2


@pytest.mark.thorough
@on_sqlite
async def test_a_frozen_deletion_can_be_cancelled(stack: Stack, heeded_at_once: None) -> None:
    """A person who placed the hold because it was a mistake wants to undo it next."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    freeze(stack.database)
    async with stack.worker():
        handle = await stack.start([one.id])

        async def waits() -> bool:
            return await attempts_of(handle, WAIT_WHILE_HELD.name) > 0

        await eventually(waits)
        await handle.cancel()
        with pytest.raises(Exception, match="Workflow execution failed"):
            await asyncio.wait_for(handle.result(), 40)
    thaw(stack.database)
    assert stack.recorded(handle.id).state == "cancelled"
    assert Seen.of(stack.world) == before


@pytest.mark.thorough
def test_a_freeze_between_collecting_and_deleting_rows_keeps_every_row(stack: Stack) -> None:
    """The transaction itself looks for the freeze; thawed, the same seal is released."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    before = Evidence.of(stack)
    stack.accept(request)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        freeze(stack.database)
        with pytest.raises(
            errors.Held,
            match=r"^every deletion is held since .* UTC; it goes on after `python starter\.py lift [0-9]+ --by WHO`$",
        ):
            steps.delete_rows(sealed)
        assert Seen.of(stack.world) == Seen(before.rows, before.objects)
        thaw(stack.database)
        assert steps.finish(request, sealed).complete
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
@on_sqlite
def test_a_held_worker_asks_no_store_to_delete(stack: Stack, heeded_at_once: None) -> None:
    """Pages, listed objects, unfinished uploads and trace items: each of the requests is refused before it is made."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    place = one.artifact
    names_none = stack.world.physical("preprod", place.organization_id, place.project_id, f"{place.prefix}plan.json")
    stack.s3.put_object(Bucket=stack.bucket, Key=names_none, Body=b"{}")
    before = Evidence.of(stack)
    stack.accept(request)
    watch = HoldWatch(stack.database)
    refuse = partial(watch.refuse_held, stack.organization_id, request.deletion_id)
    store = guarded(S3Objects(stack.s3, stack.bucket, versioned=False), lambda _: refuse())
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        deleted = steps.delete_rows(sealed)
        freeze(stack.database)
        rows_gone = Seen.of(stack.world)
        with pytest.raises(errors.Held):
            steps.delete_objects(sealed, deleted)
        with pytest.raises(errors.Held):
            steps.sweep(sealed)
        with pytest.raises(errors.Held):
            steps.delete_trace_items(sealed)
        stack.s3.create_multipart_upload(Bucket=stack.bucket, Key=names_none)
        (uploads,) = store.uploads_under(names_none)
        with pytest.raises(errors.Held):
            store.abort_uploads(uploads)
        with pytest.raises(errors.Held):
            SqlTraces(stack.database).delete(1, 1, ["0" * 32], refuse)
        assert Seen.of(stack.world) == rows_gone
        assert list(store.uploads_under(names_none)) == [uploads]
        thaw(stack.database)
        steps.open(request)
        steps.delete_what_was_released(sealed, deleted)
        assert steps.close(request).complete
    assert_promises_hold(stack, before, [request], also_owned=[names_none])


@pytest.mark.parametrize("single", [False, True], ids=["a key that is deleted singly", "a batch"])
@on_sqlite
def test_a_hold_is_heeded_before_each_request_of_one_call(stack: Stack, single: bool) -> None:  # noqa: FBT001
    """One call of the store may be a thousand requests: a hold that comes after the first of them stops the others."""
    keys = [f"a\\{number}" if single else f"a/{number}" for number in range(3)]
    calls: list[int] = []

    def before(keys: int) -> None:
        calls.append(keys)
        if len(calls) > 1:
            raise errors.Held("held")

    store = guarded(S3Objects(stack.s3, stack.bucket, versioned=False), before)
    if single:
        with pytest.raises(errors.Held):
            store.delete(keys)
        assert calls == [1, 1]
    else:
        assert len(store.delete(keys).deleted) == 3
        assert calls == [3]


@pytest.mark.thorough
@pytest.mark.parametrize("on", [On.EVERYTHING, On.ORGANIZATION, On.DELETION])
@on_sqlite
def test_a_hold_is_on_what_it_says_and_on_nothing_else(stack: Stack, on: On, heeded_at_once: None) -> None:
    """One organization's, or one deletion's: all others go on."""
    one, two = stack.snapshots("one", "two")
    other = stack.world.organization("globex")
    third = stack.world.snapshot(stack.world.project(other, "app"), one.images)
    requests = [stack.request([one.id]), stack.request([two.id]), stack.request([third.id], organization_id=other)]
    on_id = {On.EVERYTHING: "", On.ORGANIZATION: str(stack.organization_id), On.DELETION: requests[0].deletion_id}[on]
    with steps_of(stack) as steps:
        seals = [steps.open_and_collect(request) for request in requests]
        placed = holds.place(stack.database, on, on_id, reason=REASON, by="user:7")
        for number, sealed in enumerate(seals):
            waiting = Waiting(**deletion_of(requests[number]).model_dump(), rows=True)
            if number < {On.EVERYTHING: 3, On.ORGANIZATION: 2, On.DELETION: 1}[on]:
                with pytest.raises(errors.Held, match=f"held since .* lift {placed.id} --by WHO"):
                    steps.delete_rows(sealed)
                with pytest.raises(errors.NotYet):
                    steps.run(WAIT_WHILE_HELD, waiting)
            else:
                assert steps.finish(requests[number], sealed).complete
                steps.run(WAIT_WHILE_HELD, waiting)
        thaw(stack.database)
        for request, sealed in zip(requests, seals, strict=True):
            if steps.fence(request) == 0 and stack.recorded(request.workflow_id).state == "running":
                assert steps.finish(request, sealed).complete


@pytest.mark.thorough
@on_postgresql
def test_freezing_returns_when_the_last_transaction_that_had_not_seen_it_has_ended(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that deletes rows already is let finish, and is waited for: nothing is committed behind the person who froze."""
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
            frozen = pool.submit(freeze, stack.database)
            wait_for_waiters(stack.database)
            with stack.database.read() as session:
                assert holds.placed(session), "a transaction that begins now sees it"
            assert not frozen.done()
        finally:
            held.let_go()
        frozen.result(30)
        assert one.id not in stack.world.rows()["sentry_preprodartifact"]
        with pytest.raises(errors.Held):
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
    watch = HoldWatch(database)
    refuse = partial(watch.refuse_held, 1, "a" * 32)
    store = guarded(own, lambda _: refuse())
    assert isinstance(store, GuardedObjects)
    freeze(database)
    (found,) = store.list_under("")
    with pytest.raises(errors.Held):
        store.delete(["key"])
    with pytest.raises(errors.Held):
        store.delete_found(found)
    with pytest.raises(errors.Held):
        store.abort_uploads([])
    assert store.read("key", 10) == b"x"
    with pytest.raises(errors.Held):
        SnubaTraces("http://127.0.0.1:1").delete(1, 1, ["0" * 32], refuse)


def test_held_twice_is_held_until_both_are_lifted(database: Database) -> None:
    """Two people pull the switch, each for a reason of their own: neither overwrites the other's, nor lifts it by accident."""
    first, second = freeze(database), holds.place(database, On.EVERYTHING, "", reason="another", by="user:9")
    with database.write() as session:
        assert holds.lift(session, [first.id], by="user:8") == [first]
        assert holds.lift(session, [first.id], by="user:8") == []
        assert holds.placed(session) == [second]
    with pytest.raises(errors.Held):
        HoldWatch(database).refuse_held(1, "a" * 32)
    thaw(database)
    HoldWatch(database).refuse_held(1, "a" * 32)


@on_sqlite
def test_a_thousand_requests_ask_the_database_once_a_second(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no request begins more than a second after the hold."""
    now, looked_up = 1000.0, 0
    whole = holds.placed_but_on_artifacts

    def counted(session: Any) -> Any:
        nonlocal looked_up
        looked_up += 1
        return whole(session)

    monkeypatch.setattr(holds, "placed_but_on_artifacts", counted)
    monkeypatch.setattr(guards, "time", SimpleNamespace(monotonic=lambda: now))
    watch = HoldWatch(database)
    refuse = partial(watch.refuse_held, 1, "a" * 32)
    for _ in range(1000):
        refuse()
    assert looked_up == 1
    freeze(database)
    now += FRESH_S / 2
    refuse()
    now += FRESH_S / 2
    for _ in range(1000):
        with pytest.raises(errors.Held):
            refuse()
    assert looked_up == 2
    thaw(database)
    now += FRESH_S
    refuse()
    assert FRESH_S <= 1


@pytest.mark.thorough
@on_sqlite
def test_an_operator_holds_sees_it_and_lifts(stack: Stack, command: Command) -> None:
    """The whole of it from a terminal."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    code, said = command("hold", "--everything", "--reason", REASON, "--by", "user:7")
    assert (code, "hold 1 on everything since " in said) == (0, True)
    code, listed = command("holds")
    assert (code, REASON in listed, "user:7" in listed) == (0, True, True)
    code, shown = command("status", request.workflow_id)
    assert (code, "held since " in shown, "PRIVATE" in shown) == (0, True, False)
    code, said = command("lift", "--everything", "--by", "user:8")
    assert (code, "lifted" in said) == (0, True)
    assert "held since" not in command("status", request.workflow_id)[1]
    assert command("lift", "--everything", "--by", "user:8")[0] == 0
