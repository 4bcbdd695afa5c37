"""A deletion that failed is run again in whichever way is at hand, and comes to its end: command, Web UI's Reset, backend."""

import asyncio
import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowHandle

from activities.stores.s3 import S3Objects
from artifact_deletion.client import Deletions
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Held, Seen, Stack, steps_of

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def hold(stack: Stack, artifact_ids: Iterable[int], status: Any) -> None:
    """Put one object of each artifact under a legal hold, or take it off."""
    for artifact in artifact_ids:
        key = min(stack.world.objects_of([artifact]))
        stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": status})


async def failed(stack: Stack, artifact_ids: Iterable[int]) -> WorkflowHandle[Any, DeletionReceipt]:
    """A deletion that the store did not let come to its end; what stood in its way is gone by now."""
    ids = list(artifact_ids)
    hold(stack, ids, "ON")
    handle = await stack.start(ids)
    assert (await stack.failure(handle)).type == "ObjectsRemain"
    hold(stack, ids, "OFF")
    return handle


async def reset(stack: Stack, handle: WorkflowHandle[Any, Any], step: str) -> str:
    """What the Web UI's Reset button does: go back to the workflow task that scheduled the first of these steps, or ran it."""
    task = 0
    async for event in handle.fetch_history_events():
        scheduled, ran = event.activity_task_scheduled_event_attributes, event.marker_recorded_event_attributes
        if scheduled.activity_type.name == step:
            task = scheduled.workflow_task_completed_event_id
        elif any(f'"{step}"'.encode() in payload.data for payload in ran.details["data"].payloads):
            task = ran.workflow_task_completed_event_id
        if task:
            break
    answer = await stack.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=stack.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            reason="mended",
            workflow_task_finish_event_id=task,
            request_id=str(uuid.uuid4()),
        )
    )
    return answer.run_id


@pytest.mark.thorough
@pytest.mark.parametrize("step", ["open_deletion", "collect_keys", "delete_objects"])
async def test_a_reset_to_before_the_failed_step_finishes_the_deletion(stack: Stack, locking_bucket: str, step: str) -> None:
    """Whatever lies before the step is not done again, and the ledger, which called it failed, agrees in the end."""
    stack.use_bucket(locking_bucket)
    one, _ = stack.snapshots("one", "two")
    before = Evidence.of(stack)
    async with stack.worker():
        handle = await failed(stack, [one.id])
        run = await reset(stack, handle, step)
        again = stack.client.get_workflow_handle(handle.id, run_id=run, result_type=DeletionReceipt)
        receipt = await asyncio.wait_for(again.result(), 40)
    assert receipt.complete
    found = stack.recorded(handle.id)
    assert (found.state, found.receipt) == (DeletionState.CLOSED, receipt)
    assert_promises_hold(stack, before, [stack.request([one.id])])


@pytest.mark.thorough
@pytest.mark.parametrize(
    "arguments", [("{}",), pytest.param(("--all-failed", "--yes"), marks=pytest.mark.thorough)], ids=["one", "all"]
)
@pytest.mark.usefixtures("only_visible_steps")
async def test_a_rerun_of_what_reset_has_taken_up_leaves_it_to_its_end(
    stack: Stack, locking_bucket: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Two people mend the same night: the second must not take the ledger's word away from under the first one's run."""
    stack.use_bucket(locking_bucket)
    (one,) = stack.snapshots("one")
    async with stack.worker():
        handle = await failed(stack, [one.id])
        held = Held(monkeypatch, S3Objects, "delete")
        try:
            run = await reset(stack, handle, "delete_objects")
            await held.reached()
            status = await stack.run_command("status", handle.id)
            rerun = await stack.run_command("rerun", *(argument.format(handle.id) for argument in arguments))
        finally:
            held.let_go()
        again = stack.client.get_workflow_handle(handle.id, run_id=run, result_type=DeletionReceipt)
        assert (await asyncio.wait_for(again.result(), 40)).complete
    assert rerun.returncode == 0, rerun.stderr
    assert status.stdout.startswith(f"{handle.id}: failed, running again\n")
    assert stack.recorded(handle.id).state == DeletionState.CLOSED


@pytest.mark.thorough
async def test_a_reset_to_after_the_failed_step_says_again_what_is_left(stack: Stack, locking_bucket: str) -> None:
    """Too late a place is an easy mistake: nothing is lost by it, and the failure says the same as before."""
    stack.use_bucket(locking_bucket)
    (one,) = stack.snapshots("one")
    async with stack.worker():
        handle = await failed(stack, [one.id])
        first = await stack.failure(handle)
        run = await reset(stack, handle, "close_deletion")
        again = await stack.failure(stack.client.get_workflow_handle(handle.id, run_id=run, result_type=DeletionReceipt))
    assert (again.type, again.message) == (first.type, first.message)
    assert stack.recorded(handle.id).state == DeletionState.FAILED


async def test_a_close_whose_answer_was_lost_says_the_same_when_it_is_asked_again(stack: Stack, locking_bucket: str) -> None:
    """A worker dies between the COMMIT of a receipt with leftovers and its report: their counts must not be lost with it."""
    stack.use_bucket(locking_bucket)
    (one,) = stack.snapshots("one")
    hold(stack, [one.id], "ON")
    request = stack.request([one.id])
    with steps_of(stack, bucket=locking_bucket) as steps:
        first = steps.finish(request, steps.open_and_collect(request))
        again = steps.close(request)
    assert first.left_over
    assert again.left_over == first.left_over


@pytest.mark.thorough
async def test_a_backend_that_asks_again_finishes_the_deletion(stack: Stack, locking_bucket: str) -> None:
    """A user presses Delete once more: the handler accepts and starts as always, and what is left is done."""
    stack.use_bucket(locking_bucket)
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    request = stack.request([one.id])

    async def connected() -> Any:
        return stack.client

    async with stack.worker():
        handle = await failed(stack, [one.id])
        stack.accept(request)
        gone = await Deletions(connected).rows_deleted(request, within=timedelta(seconds=40))
        assert gone is not None
        await asyncio.wait_for(stack.client.get_workflow_handle(handle.id).result(), 40)
    stack.assert_only_these_are_gone([one.id], before)
    assert stack.receipt(handle.id).complete
