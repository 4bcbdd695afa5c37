"""Waits are retries: seen with their reasons, no failures, at no cost to a history, and never in the way of what comes next."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import ApplicationErrorCategory, PendingActivityState
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.client import WorkflowHandle
from temporalio.testing import ActivityEnvironment

from activities.close_deletion import CloseDeletion
from activities.interceptors import retry_in
from activities.stores.s3 import S3Objects
from activities.sweep_prefixes import SweepPrefixes
from artifact_deletion.errors import NotYet, StoreUnavailable
from tests.faults.test_faults import attempts
from tests.snuba_server import SnubaServer
from tests.stack import Held, Stack, eventually
from workflows import budgets
from workflows.steps import CLOSE_DELETION, DELETE_TRACE_ITEMS, QUIET_PERIODS, SWEEP_PREFIXES

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
Handle = WorkflowHandle[Any, Any]

# Seen, benign, and no event ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A deletion that waits, and how the wait is ended."""

    handle: Handle
    step: str
    reason: str
    end: Callable[[], None]


@contextlib.asynccontextmanager
async def for_trace_items(stack: Stack, _: pytest.MonkeyPatch) -> AsyncIterator[Waiting]:
    """The consumer of an event store has not deleted them yet."""
    (one,) = stack.snapshots("one")
    place = one.artifact
    with SnubaServer({(place.organization_id, place.project_id, place.trace_id): 3}) as snuba:
        async with stack.worker(trace_store="snuba", snuba_url=snuba.url, trace_items_pause_s=0.1):
            handle = await stack.start([one.id])
            yield Waiting(handle, DELETE_TRACE_ITEMS.name, "3 trace items are still counted", snuba.consume)


@contextlib.asynccontextmanager
async def for_a_quiet_period(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Waiting]:
    """A late writer writes at every look but the last that a prefix gets, unless it is stopped before."""
    (one,) = stack.snapshots("one")
    place = one.artifact
    late = stack.world.physical(one.usecase, place.organization_id, place.project_id, f"{place.prefix}late.json")
    whole, writes = SweepPrefixes.sweep_prefixes, list(range(QUIET_PERIODS))

    @functools.wraps(whole)
    def write_and_sweep(self: SweepPrefixes, chunk: Any) -> Any:
        if writes:
            stack.s3.put_object(Bucket=stack.bucket, Key=late, Body=b"late %d" % writes.pop())
        return whole(self, chunk)

    monkeypatch.setattr(SweepPrefixes, "sweep_prefixes", write_and_sweep)
    async with stack.worker(trace_store="none", quiet_period_s=0.5):
        handle = await stack.start([one.id])
        yield Waiting(handle, SWEEP_PREFIXES.name, "late writers get until ", writes.clear)


@contextlib.asynccontextmanager
async def for_another_deletion(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Waiting]:
    """It has deleted rows of the same artifact, and its objects are still to go."""
    one, two = stack.snapshots("one", "two")
    held = Held(monkeypatch, S3Objects, "delete", only=lambda _, keys: any(one.artifact.prefix in key for key in keys))
    async with stack.worker():
        other = await stack.start([one.id])
        await held.reached()
        handle = await stack.start([one.id, two.id])
        reason = f"1 other deletions still owe objects of these artifacts: {other.id}"
        try:
            yield Waiting(handle, CLOSE_DELETION.name, reason, held.let_go)
        finally:
            held.let_go()
        await other.result()


async def described_while(handle: Handle, step: str, attempt: int) -> DescribeWorkflowExecutionResponse:
    """The deletion while this step alone is left, and waits for so late an attempt."""

    async def waits() -> DescribeWorkflowExecutionResponse | None:
        found = (await handle.describe()).raw_description
        (first, *others) = found.pending_activities or [None]
        if first is None or others or first.activity_type.name != step or first.attempt < attempt:
            return None
        if found.HasField("pending_workflow_task"):  # which is about to ask for other steps
            return None
        return found if first.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED else None

    return await eventually(waits)


@pytest.mark.thorough
@on_sqlite
@pytest.mark.parametrize("wait", [for_trace_items, for_a_quiet_period, for_another_deletion])
async def test_a_wait_is_seen_with_its_reason_and_is_neither_a_failure_nor_an_event(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wait: Callable[..., Any]
) -> None:
    """Pending Activities is where an operator looks; an alert must not fire, and a wait of days must fit into a history."""
    async with wait(stack, monkeypatch) as waiting:
        first = await described_while(waiting.handle, waiting.step, attempt=2)
        later = await described_while(waiting.handle, waiting.step, first.pending_activities[0].attempt + 1)
        waiting.end()
        await asyncio.wait_for(waiting.handle.result(), 40)
    for seen in (first, later):
        failure = seen.pending_activities[0].last_failure
        assert failure.message.startswith(waiting.reason)
        info = failure.application_failure_info
        assert (info.type, info.category) == ("NotYet", ApplicationErrorCategory.APPLICATION_ERROR_CATEGORY_BENIGN)
    lengths = {seen.workflow_execution_info.history_length for seen in (first, later)}
    assert len(lengths) == 1, "further attempts add no event"
    assert [attempt > 2 for attempt, _ in await attempts(waiting.handle, waiting.step)] == [True]
    events = [event async for event in waiting.handle.fetch_history_events()]
    assert not [event for event in events if event.HasField("timer_started_event_attributes")]
    assert [said.getMessage() for said in caplog.records if said.levelno >= logging.WARNING] == []
    assert stack.receipt(waiting.handle.id).complete


# When a step is tried again ----------------------------------------------------------------------------------------------

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("age", "asked", "within", "expected"),
    [
        (timedelta(0), None, DAY, 0.5),
        (SECOND, None, DAY, 0.5),
        (8 * SECOND, None, DAY, 2),
        (60 * SECOND, None, DAY, 15),
        (HOUR, None, DAY, 60),
        (23 * HOUR, None, DAY, 60),
        (timedelta(0), HOUR, DAY, 3600),
        (23 * HOUR, SECOND / 10, DAY, 0.1),
        (DAY - 30 * SECOND, None, DAY, 29.5),
        (DAY - 30 * SECOND, HOUR, DAY, 29.5),
        (DAY - SECOND / 10, None, DAY, 0.001),
        (DAY + HOUR, None, DAY, 0.001),
        (10 * DAY, None, timedelta(0), 60),
        (10 * DAY, 3 * SECOND, timedelta(0), 3),
    ],
)
def test_a_step_is_tried_again_soon_at_first_then_every_minute_and_never_after_its_time(
    age: timedelta, asked: timedelta | None, within: timedelta, expected: float
) -> None:
    """A quarter of its age, unless it asks for a pause; the last attempt comes before its time is over. No limit is zero."""
    info = dataclasses.replace(
        ActivityEnvironment.default_info(), scheduled_time=datetime.now(UTC) - age, schedule_to_close_timeout=within
    )
    found = retry_in(info, asked)
    assert found is not None
    assert found > timedelta(0)
    assert found.total_seconds() == pytest.approx(expected, rel=0.01, abs=0.0005 if expected < 0.01 else 0.05)


def failing(whole: Callable[..., Any], errors: Iterator[Exception]) -> Callable[..., Any]:
    @functools.wraps(whole)
    def fails(*given: Any) -> Any:
        for error in errors:
            raise error
        return whole(*given)

    return fails


@pytest.mark.thorough
@on_sqlite
async def test_an_outage_after_a_long_wait_is_looked_at_again_soon(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the policy's own backoff, which counts waits too, it would be looked at once a minute from its first second on."""
    (one,) = stack.snapshots("one")
    waits = [NotYet("it waits", timedelta(milliseconds=10)) for _ in range(20)]
    errors = iter([*waits, *(StoreUnavailable("the object store could not be reached") for _ in range(2))])
    monkeypatch.setattr(SweepPrefixes, "sweep_prefixes", failing(SweepPrefixes.sweep_prefixes, errors))
    async with stack.worker():
        handle = await stack.start([one.id])
        await asyncio.wait_for(handle.result(), 20)
    assert [attempt for attempt, _ in await attempts(handle, SWEEP_PREFIXES.name)] == [23]
    policy = budgets.SWEEPS["retry_policy"]
    assert policy is not None
    assert policy.maximum_interval is not None
    assert policy.maximum_interval.total_seconds() > 20, "or the policy alone would have been soon enough"


@pytest.mark.thorough
@on_sqlite
@pytest.mark.usefixtures("only_visible_steps")
async def test_a_step_that_asks_for_a_longer_pause_than_it_has_time_is_tried_once_more_before_that(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal would end it at once, with its time not nearly over."""
    (one,) = stack.snapshots("one")
    errors = iter([NotYet("it waits", timedelta(hours=1))])
    monkeypatch.setattr(CloseDeletion, "close_deletion", failing(CloseDeletion.close_deletion, errors))
    monkeypatch.setitem(budgets.CLOSING, "schedule_to_close_timeout", timedelta(seconds=4))
    async with stack.worker():
        handle = await stack.start([one.id])
        assert (await asyncio.wait_for(handle.result(), 40)).complete
    assert [attempt for attempt, _ in await attempts(handle, CLOSE_DELETION.name)] == [2]


# Whose turn it is --------------------------------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.usefixtures("only_visible_steps")
async def test_rows_come_before_objects_and_sweeps_and_organizations_take_turns(stack: Stack) -> None:
    """A person waits for rows. The lower the key, the earlier the step is taken from its queue."""
    (one,) = stack.snapshots("one")
    async with stack.worker():
        handle = await stack.start([one.id], images="delete")
        await handle.result()
    given = {}
    async for event in handle.fetch_history_events():
        scheduled = event.activity_task_scheduled_event_attributes
        if scheduled.activity_type.name:
            given[scheduled.activity_type.name] = scheduled.priority
    rows = [given[name].priority_key for name in ("open_deletion", "collect_keys", "delete_rows")]
    after = ("delete_objects", "delete_trace_items", "hide_images", "close_deletion")
    objects = [given[name].priority_key for name in after]
    assert 0 < max(rows) < min(objects)
    assert max(objects) < given[SWEEP_PREFIXES.name].priority_key <= 5
    assert {priority.fairness_key for priority in given.values()} == {str(stack.organization_id)}
