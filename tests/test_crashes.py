"""A worker is killed at every boundary there is, and the worker that takes over comes to the same end.

The points are those of crash_points.py; each is a test of its own. The process, its servers and the signal are real.
"""

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

from activities.ledger import holds
from artifact_deletion.client import progress
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt, Preview
from artifact_deletion.request import DELETE_WORKFLOW, PREVIEW_WORKFLOW, TASK_QUEUE, DeletionRequest
from settings import PREFIX
from tests.crash_points import CONFIRMING, FOR_A_HOLD, FOR_OTHERS, LATE_KEY, POINTS, TASK_LOST_AFTER, points_of
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack, eventually, recorded, resume, steps_of
from tests.test_uploads import begin_upload
from workflows.steps import CANCEL_DELETION, DELETE_ROWS, PREVIEW_DELETION, STEPS, WAIT_WHILE_HELD

OF_A_CANCEL = [point for point in POINTS if point.startswith(f"{CANCEL_DELETION.name},")]
OF_A_PREVIEW = [point for point in POINTS if point.startswith(f"{PREVIEW_DELETION.name},")]
OF_TWO = points_of(FOR_OTHERS)
OF_A_HOLD = [*points_of(WAIT_WHILE_HELD.name), *points_of(FOR_A_HOLD)]
OF_ONE = [point for point in POINTS if point not in {*OF_A_CANCEL, *OF_A_PREVIEW, *OF_TWO, *OF_A_HOLD}]


def at(points: list[str]) -> pytest.MarkDecorator:
    """Each point with a database: rows go on PostgreSQL, where COMMIT is another process's, all else on either, in turn."""
    return pytest.mark.parametrize(
        ("point", "database_url"),
        [
            pytest.param(point, "postgresql" if number % 3 == 0 or point.startswith(DELETE_ROWS.name) else "sqlite", id=point)
            for number, point in enumerate(points)
        ],
        indirect=["database_url"],
    )


def test_every_step_has_points() -> None:
    """Before and after it, at the least. A new step's are among the tests below, which are red until they come to it."""
    assert {point for step in STEPS for point in (f"{step.name}, before", f"{step.name}, after")} <= set(POINTS)
    assert len(set(POINTS)) == len(POINTS)


async def start(stack: Stack, request: DeletionRequest) -> WorkflowHandle[Any, DeletionReceipt]:
    """As a backend does, but for the time-out of a workflow task that is lost with its worker."""
    stack.accept(request)
    return await stack.client.start_workflow(
        DELETE_WORKFLOW,
        request,
        id=request.workflow_id,
        task_queue=TASK_QUEUE,
        result_type=DeletionReceipt,
        task_timeout=TASK_LOST_AFTER,
    )


async def end(handle: WorkflowHandle[Any, Any]) -> Any:
    return await asyncio.wait_for(handle.result(), 40)


@at(OF_ONE)
async def test_a_worker_killed_in_a_deletion_is_replaced(stack: Stack, point: str) -> None:
    """Done and not told, or about to be done: another worker finishes it, and the receipt shows nothing of it."""
    head, base = stack.snapshots("head", "base")
    stack.world.comparison(head, base, masks=3)
    place = head.artifact
    upload = f"{stack.world.physical(head.usecase, place.organization_id, place.project_id, place.prefix)}late.json"
    begin_upload(stack, upload)
    archive = stack.world.physical(head.usecase, place.organization_id, place.project_id, place.archive_key)
    begin_upload(stack, archive)
    late = f"{upload.removesuffix('.json')}r.json"
    before = Evidence.of(stack)
    request = stack.request([head.id])
    finds_one = point.startswith(CONFIRMING) and "delete_found" in point
    worker = stack.crashing_worker(point, **({LATE_KEY: late} if finds_one else {}))
    handle = await start(stack, request)
    await worker.is_killed()

    async with stack.worker():
        await end(handle)
    receipt = stack.receipt(handle.id)
    assert receipt.complete
    assert sum(receipt.rows.values()) == sum(table != "trace_items" for table, _ in stack.world.rows_of([head.id]))
    assert_promises_hold(stack, before, [request], also_owned=[upload, archive, late])


@at(OF_A_CANCEL)
async def test_a_worker_killed_in_a_cancel_undoes_all_or_nothing(stack: Stack, point: str) -> None:
    """While the lost cancel is waited for the deletion may have come past the point of no return: then it is finished."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    request = stack.request([one.id])
    handle = await start(stack, request)
    await handle.cancel()
    worker = stack.crashing_worker(point)
    await worker.is_killed()

    async with stack.worker():
        ended_as = DeletionState.CLOSED
        try:
            await end(handle)
        except WorkflowFailureError as failed:
            if not isinstance(failed.cause, CancelledError):
                raise
            ended_as = DeletionState.CANCELLED
        assert recorded(stack.database, handle.id).state is ended_as
        assert_promises_hold(stack, before, [request])
        assert (await stack.delete([one.id])).complete
    assert_promises_hold(stack, before, [request])


@at(OF_TWO)
async def test_a_worker_killed_while_a_deletion_waits_for_another_one_is_replaced(stack: Stack, point: str) -> None:
    """The other one deleted the rows, and no run is at work on it: once it is resumed, both come to their ends."""
    one, two = stack.snapshots("one", "two")
    before = Evidence.of(stack)
    other, request = stack.request([one.id, two.id]), stack.request([one.id])
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(other))
    worker = stack.crashing_worker(point)
    handle = await start(stack, request)
    await worker.is_killed()

    async with stack.worker():
        assert await resume(stack.client, stack.database) == [other.workflow_id]
        await end(stack.client.get_workflow_handle(other.workflow_id))
        await end(handle)
    receipts = [stack.receipt(one.workflow_id) for one in (other, request)]
    assert [one.complete for one in receipts] == [True, True]
    assert receipts[0].times.closed <= receipts[1].times.closed
    assert_promises_hold(stack, before, [other, request])


@at(OF_A_HOLD)
@pytest.mark.parametrize("by_a_person", [True, False], ids=["by a person", "over a ceiling"])
async def test_a_worker_killed_while_a_deletion_is_held_is_replaced(stack: Stack, point: str, *, by_a_person: bool) -> None:
    """Until it is let go nothing is deleted, and after that all of it is."""
    one, two = stack.snapshots("one", "two")
    before = Evidence.of(stack)
    request = stack.request([one.id, two.id])
    if by_a_person:
        placed = holds.place(stack.database, holds.On.EVERYTHING, "", reason="a test", by="user:7").id
    ceiling = None if by_a_person else 1
    worker = stack.crashing_worker(point, **({} if by_a_person else {f"{PREFIX}MAX_ARTIFACTS_UNCONFIRMED": str(ceiling)}))
    handle = await start(stack, request)

    async def held() -> bool:
        return "held since" in ((await progress(stack.client, handle.id)).held or "")

    def let_go() -> None:
        with stack.database.write() as session:
            if by_a_person:
                holds.lift(session, [placed], by="user:7")
            else:
                holds.confirm(session, request.deletion_id, 0, by="user:7")

    found_lifted = point == f"{WAIT_WHILE_HELD.name}, after"
    if found_lifted:
        await eventually(held)
        assert Evidence.of(stack).rows == before.rows
        let_go()
    await worker.is_killed()
    async with stack.worker(max_artifacts_unconfirmed=ceiling):
        if not found_lifted:
            await eventually(held)
            assert Evidence.of(stack).rows == before.rows
            let_go()
        await end(handle)
    assert stack.receipt(handle.id).complete
    assert_promises_hold(stack, before, [request])


@at(OF_A_PREVIEW)
async def test_a_worker_killed_in_a_preview_changes_nothing(stack: Stack, point: str) -> None:
    """A person waits for the answer, which another worker gives."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    request = stack.request([one.id])
    worker = stack.crashing_worker(point)
    handle = await stack.client.start_workflow(
        PREVIEW_WORKFLOW,
        request,
        id=request.preview_id,
        task_queue=TASK_QUEUE,
        result_type=Preview,
        task_timeout=TASK_LOST_AFTER,
    )
    await worker.is_killed()
    async with stack.worker():
        assert (await end(handle)).artifacts.ids == (one.id,)
    assert Evidence.of(stack) == before
    assert_promises_hold(stack, before, [])
