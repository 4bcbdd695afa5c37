"""A deletion that waits for its time: seen as waiting, called off at once, and not a moment too early."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

from activities import wait_to_begin
from activities.database import Database
from activities.ledger.schema import clock
from artifact_deletion.client import Deletions, progress, start_deletion
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt, Progress, Stage
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack, eventually, pending_failures, resume
from tests.workflow.test_reruns import reset
from workflows import text
from workflows.steps import OPEN_DELETION, WAIT_TO_BEGIN

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
DAY = timedelta(days=1)
Handle = WorkflowHandle[Any, DeletionReceipt]


def from_now(database: Database, after: timedelta) -> datetime:
    """By the database's clock."""
    with database.read() as session:
        return session.execute(select(clock())).scalar_one() + after


async def waits(stack: Stack, handle: Handle) -> str:
    """Returns once it waits: why, as Temporal's Pending Activities say it."""

    async def seen() -> str | None:
        return (await pending_failures(handle)).get(WAIT_TO_BEGIN.name)

    return await eventually(seen)


async def is_cancelled(handle: Handle) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await asyncio.wait_for(handle.result(), 20)
    assert isinstance(failed.value.cause, CancelledError)


@pytest.mark.thorough
@pytest.mark.usefixtures("only_visible_steps")
async def test_nothing_is_touched_before_its_time_and_all_is_done_after_it(stack: Stack) -> None:
    """By the database's clock, which is the ledger's; and the wait costs the steps none of their time."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    begins_at = from_now(stack.database, timedelta(seconds=2))
    async with stack.worker():
        handle = await stack.start([one.id], not_before=begins_at)
        await asyncio.wait_for(handle.result(), 40)
    receipt = stack.receipt(handle.id)
    assert receipt.complete
    assert receipt.times.rows_deleted is not None
    assert receipt.times.rows_deleted >= begins_at > receipt.times.accepted
    assert_promises_hold(stack, before, [stack.request([one.id])])
    scheduled = [
        event.activity_task_scheduled_event_attributes
        async for event in handle.fetch_history_events()
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert [one.activity_type.name for one in scheduled][:3] == ["open_deletion", "wait_to_begin", "collect_keys"]
    assert scheduled[1].schedule_to_close_timeout.ToSeconds() == 0, "no limit"


@pytest.mark.thorough
@pytest.mark.parametrize("opened_before", [False, True], ids=["before it is opened", "while it waits"])
async def test_until_its_time_a_cancel_undoes_it_at_once(stack: Stack, *, opened_before: bool) -> None:
    """We deleted the wrong project: nothing of it is touched, and no one waits for a day to hear that."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    begins_at = from_now(stack.database, DAY)
    request = stack.request([one.id], not_before=begins_at)
    stack.accept(request)
    handle = await start_deletion(stack.client, request)
    if not opened_before:
        await handle.cancel()
    async with stack.worker():
        if opened_before:
            said = f"begins at {begins_at:%Y-%m-%d %H:%M:%S} UTC, unless it is cancelled before"
            assert await waits(stack, handle) == said
            shown = await progress(stack.client, handle.id)
            assert (shown.stage, shown.waits_until) == (Stage.WAITING, begins_at)
            page = text.details(shown)
            assert page.startswith(
                f"**Now: waiting until {begins_at:%Y-%m-%d %H:%M:%S} UTC.** Nothing is deleted yet: *Cancel* undoes everything."
            )
            assert "Stuck?" not in page
            assert Seen.of(stack.world) == before
            await handle.cancel()
        await is_cancelled(handle)
        assert (await progress(stack.client, handle.id)).waits_until is None
        assert await resume(stack.client, stack.database) == []
    assert stack.recorded(handle.id).state is DeletionState.CANCELLED
    assert Seen.of(stack.world) == before


@pytest.mark.thorough
@on_sqlite
async def test_a_backends_handler_has_its_answer_within_its_deadline(stack: Stack) -> None:
    """202: the rows go later, whether it waits for that, or asks Temporal anew each time."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    request = stack.request([one.id], not_before=from_now(stack.database, DAY))
    stack.accept(request)

    async def connected() -> Any:
        return stack.client

    deletions = Deletions(connected)
    async with stack.worker():
        for _ in range(2):
            assert await deletions.rows_deleted(request, within=timedelta(seconds=1)) is None
            assert "begins at" in await waits(stack, stack.client.get_workflow_handle(request.workflow_id))
    assert Seen.of(stack.world) == before


@pytest.mark.thorough
async def test_one_who_asks_for_it_at_once_begins_it(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person insists, from a backend or at the command line: the run that waits sees that ask at its next look."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    monkeypatch.setattr(wait_to_begin, "_LOOK_AGAIN", timedelta(milliseconds=50))
    async with stack.worker():
        handle = await stack.start([one.id], not_before=from_now(stack.database, DAY))
        await waits(stack, handle)
        assert (await stack.start([one.id])).id == handle.id
        await asyncio.wait_for(handle.result(), 40)
        assert (await progress(stack.client, handle.id)).waits_until is None
    assert stack.receipt(handle.id).complete
    assert_promises_hold(stack, before, [stack.request([one.id])])


@pytest.mark.thorough
@on_sqlite
@pytest.mark.parametrize("ended", ["terminated", "reset"])
async def test_a_run_that_takes_up_a_wait_goes_on_waiting(stack: Stack, ended: str) -> None:
    """The time stands in the ledger: Temporal may forget it, and no one need say it again."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    begins_at = from_now(stack.database, DAY)
    async with stack.worker():
        handle = await stack.start([one.id], not_before=begins_at)
        await waits(stack, handle)
        if ended == "terminated":
            await handle.terminate()
            assert await resume(stack.client, stack.database) == [handle.id]
        else:
            await reset(stack, handle, OPEN_DELETION.name)
        again: Handle = stack.client.get_workflow_handle(handle.id, result_type=DeletionReceipt)
        assert f"{begins_at:%Y-%m-%d %H:%M:%S} UTC" in await waits(stack, again)
        assert Seen.of(stack.world) == before
        await again.cancel()
        await is_cancelled(again)
    assert Seen.of(stack.world) == before


def test_a_page_says_until_when_it_waits_and_that_there_is_a_way_back() -> None:
    """Unless rows went in an earlier life: then a cancel undoes nothing."""
    waiting = Progress(stage=Stage.WAITING, waits_until=datetime(2026, 11, 30, 2, tzinfo=UTC))
    assert text.details(waiting).startswith("**Now: waiting until 2026-11-30 02:00:00 UTC.** Nothing is deleted yet")
    assert [when for _, when, _ in text.part_lines(waiting)] == ["to come"] * 4
    back = waiting.model_copy(update={"rows_deleted": 7})
    assert "there is no way back" in text.details(back)
