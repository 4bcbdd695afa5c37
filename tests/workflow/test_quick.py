"""A small deletion tries its steps at once, within the workflow task; whatever goes wrong there is seen as in any other."""

import asyncio
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from activities.close_deletion import CloseDeletion
from activities.collect_keys import CollectKeys
from activities.delete_rows import DeleteRows
from activities.open_deletion import OpenDeletion
from activities.stores.turns import Turns, organization
from artifact_deletion.client import start_bulk
from artifact_deletion.converter import data_converter
from artifact_deletion.errors import ArtifactNotInOrganization, StoreUnavailable
from artifact_deletion.outbox import DeletionState
from demo.world import screen
from tests.faults.test_crashes import start
from tests.faults.test_faults import attempts
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Held, Stack, eventually, recorded
from tests.workflow.test_bulk import deletions_of, result, shop_of, whole
from tests.workflow.test_scheduled_reconcile import begin as reconcile
from tests.workflow.test_scheduled_reconcile import result as reconciled
from workflows import quick
from workflows.delete_artifacts import DeleteArtifactsWorkflow
from workflows.quick import QUICK_STEPS, SMALL
from workflows.steps import COLLECT_KEYS, DELETE_OBJECTS, DELETE_TRACE_ITEMS, SWEEP_PREFIXES

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
Handle = WorkflowHandle[Any, Any]
ALWAYS_VISIBLE = {step.name for step in (DELETE_OBJECTS, DELETE_TRACE_ITEMS, SWEEP_PREFIXES)}
QUICK = {step.name for step in QUICK_STEPS}


async def visible(handle: Handle) -> set[str]:
    """The steps of which Temporal knows more than that they were done."""
    events = (await handle.fetch_history()).events
    return {event.activity_task_scheduled_event_attributes.activity_type.name for event in events} - {""}


async def done_at_once(handle: Handle) -> int:
    """How many steps, as failures too."""
    events = (await handle.fetch_history()).events
    return sum(event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED for event in events)


async def test_a_small_deletion_makes_no_trips_for_what_a_person_waits_for(stack: Stack) -> None:
    small = stack.snapshots(*(f"small {number}" for number in range(SMALL)))
    before = Evidence.of(stack)
    async with stack.worker():
        handle = await stack.start([one.id for one in small])
        await handle.result()
    assert await visible(handle) == ALWAYS_VISIBLE
    assert await done_at_once(handle) == len(QUICK)
    assert_promises_hold(stack, before, [stack.request([one.id for one in small])])


@on_sqlite
@pytest.mark.parametrize(("artifacts", "chunk"), [(SMALL + 1, 250), (2, 1)], ids=["more artifacts", "two chunks"])
async def test_a_larger_one_is_not_tried_at_once(stack: Stack, artifacts: int, chunk: int) -> None:
    """A workflow task that works on one chunk would hold up the others. Whether there are several, opening it tells."""
    found = stack.snapshots(*(f"one {number}" for number in range(artifacts)))
    async with stack.worker(chunk_artifacts=chunk):
        handle = await stack.start([one.id for one in found])
        await handle.result()
    assert await visible(handle) >= ALWAYS_VISIBLE | QUICK - {"open_deletion"}
    assert await done_at_once(handle) == (artifacts <= SMALL)


@on_sqlite
async def test_a_bulk_waits_for_its_turn_with_all_of_its_steps(stack: Stack) -> None:
    """They stand behind those of other deletions, which they could not within a workflow task."""
    stack.snapshots("elsewhere")
    project, snapshots = shop_of(stack, 1)
    async with stack.worker():
        await result(await start_bulk(stack.client, whole(project)))
    (deletion,) = deletions_of(whole(project), snapshots, 1)
    handle = stack.client.get_workflow_handle(deletion.workflow_id)
    assert await visible(handle) >= ALWAYS_VISIBLE | QUICK
    assert await done_at_once(handle) == 0


@on_sqlite
@pytest.mark.parametrize("step", [OpenDeletion, CollectKeys, DeleteRows, CloseDeletion])
async def test_a_step_that_fails_at_once_is_begun_anew_where_it_is_seen(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, step: type
) -> None:
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    (name,) = QUICK & set(dir(step))
    monkeypatch.setattr(step, name, once_failing(getattr(step, name)))
    async with stack.worker():
        handle = await stack.start([one.id])
        await handle.result()
    assert await visible(handle) == ALWAYS_VISIBLE | {name}
    assert [attempt for attempt, _ in await attempts(handle, name)] == [1]
    assert_promises_hold(stack, before, [stack.request([one.id])])


def once_failing(step: Callable[..., Any]) -> Callable[..., Any]:
    failures = iter([StoreUnavailable("away for a moment")])

    def failing(*given: Any) -> Any:
        if failure := next(failures, None):
            raise failure
        return step(*given)

    failing.__dict__.update(step.__dict__)
    failing.__annotations__ = step.__annotations__
    return failing


@on_sqlite
async def test_a_step_that_takes_long_is_seen_while_it_does_and_both_attempts_harm_nothing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt within the workflow task goes on in its thread: it is as any that Temporal has given up."""
    (one,) = stack.snapshots("one")
    before, held = Evidence.of(stack), Held(monkeypatch, CollectKeys, "collect_keys")
    async with stack.worker():
        handle = await stack.start([one.id])

        async def is_seen() -> bool:
            pending = (await handle.describe()).raw_description.pending_activities
            return [activity.activity_type.name for activity in pending] == [COLLECT_KEYS.name]

        await eventually(is_seen)
        held.let_go()
        await asyncio.wait_for(handle.result(), 40)
    assert_promises_hold(stack, before, [stack.request([one.id])])


@on_sqlite
async def test_what_goes_on_after_its_time_takes_no_more_threads_than_it_was_given(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a store that hangs would soon have them all, and the database's steps would stand still too."""
    first, second = stack.snapshots("first", "second")
    calls = itertools.count()
    held = Held(monkeypatch, CollectKeys, "collect_keys", only=lambda *_: next(calls) == 0)
    async with stack.worker(database_steps=1):
        of_first = await stack.start([first.id])
        assert (await asyncio.wait_for(of_first.result(), 40)).complete
        of_second = await stack.start([second.id])
        assert (await asyncio.wait_for(of_second.result(), 40)).complete
        held.let_go()
    assert await visible(of_first) == ALWAYS_VISIBLE | QUICK - {"open_deletion"}
    assert await visible(of_second) == ALWAYS_VISIBLE | QUICK


@on_sqlite
async def test_requests_of_the_store_take_turns_as_those_of_their_organization(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal hands a step within a workflow task no fairness key; a look at a project names its organization in no field."""
    one, base = stack.snapshots("one", "base")
    stack.world.comparison(one, base, masks=1)
    seen, whole = list[str](), Turns.submit

    def submit(self: Turns, *given: Any) -> Any:
        seen.append(organization.get())
        return whole(self, *given)

    monkeypatch.setattr(Turns, "submit", submit)
    async with stack.worker():
        await stack.delete([one.id])
        for_deletion = len(seen)
        await reconciled(await reconcile(stack, stack.organization_id))
    assert set(seen) == {str(stack.organization_id)}
    assert 0 < for_deletion < len(seen)


@on_sqlite
async def test_what_is_final_is_final_at_once(stack: Stack) -> None:
    stack.snapshots("one")
    stranger = stack.world.snapshot(stack.world.project(stack.world.organization("globex"), "app"), {"login": screen("login")})
    async with stack.worker():
        handle = await stack.start([stranger.id])
        failure = await stack.failure(handle)
    assert failure.type == ArtifactNotInOrganization.__name__
    assert await visible(handle) == set()


@on_sqlite
async def test_a_cancel_that_is_heard_while_a_step_is_tried_at_once_undoes_everything(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workflow task that lasts is said to go on before its time is over, and the cancel comes with the answer."""
    (one,) = stack.snapshots("one")
    before, held = Evidence.of(stack), Held(monkeypatch, CollectKeys, "collect_keys")
    monkeypatch.setattr(quick, "_WITHIN", timedelta(seconds=20))
    request = stack.request([one.id])
    async with stack.worker():
        handle = await start(stack, request)
        await held.reached()
        await handle.cancel()

        async def is_cancelled() -> bool:
            return recorded(stack.database, request.workflow_id).state == DeletionState.CANCELLED

        await eventually(is_cancelled)
        held.let_go()
        with pytest.raises(WorkflowFailureError) as failed:
            await asyncio.wait_for(handle.result(), 40)
    assert isinstance(failed.value.cause, CancelledError)
    assert Evidence.of(stack).objects == before.objects
    assert Evidence.of(stack).rows == before.rows
    assert await done_at_once(handle) >= 1
    await Replayer(
        workflows=[DeleteArtifactsWorkflow], data_converter=data_converter, workflow_runner=UnsandboxedWorkflowRunner()
    ).replay_workflow(await handle.fetch_history())


@pytest.mark.thorough
@on_sqlite
async def test_workers_of_the_database_alone_leave_the_store_to_others(stack: Stack) -> None:
    """They have no credentials of the store: a step that reads from it goes through Temporal."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    async with stack.worker(serves="rows"), stack.worker(serves="objects"):
        handle = await stack.start([one.id])
        await handle.result()
    assert await visible(handle) == ALWAYS_VISIBLE | QUICK - {"open_deletion"}
    assert_promises_hold(stack, before, [stack.request([one.id])])
