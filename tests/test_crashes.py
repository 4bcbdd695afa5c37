"""A worker is killed at every boundary there is, and whoever takes over comes to the same end.

The points are those of crash_points.py; each is a test of its own. The process, its servers and the signal are real.
"""

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

import starter
from activities.storage import ledger
from activities.storage.freeze import freeze, thaw
from activities.storage.ledger import DeletionState
from settings import PREFIX
from tests.crash_points import CONFIRMING, LATE_KEY, POINTS, TASK_LOST_AFTER
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack, eventually, steps_of
from tests.test_uploads import begin_upload
from workflows.messages import (
    CANCEL_DELETION,
    DELETE_ROWS,
    PREVIEW_DELETION,
    PREVIEW_WORKFLOW_NAME,
    READ_REQUEST,
    STEPS,
    TASK_QUEUE,
    WAIT_UNTIL_CONFIRMED,
    WAIT_UNTIL_THAWED,
    WORKFLOW_NAME,
    DeletionReceipt,
    DeletionRequest,
    Preview,
)

OF_A_CANCEL = [point for point in POINTS if point.startswith(f"{CANCEL_DELETION.name},")]
OF_A_PREVIEW = [point for point in POINTS if point.startswith(f"{PREVIEW_DELETION.name},")]
OF_TWO = [point for point in POINTS if point.startswith(f"{READ_REQUEST.name},") or "another deletion" in point]
OF_A_HOLD = [point for point in POINTS if point.startswith((f"{WAIT_UNTIL_THAWED.name},", f"{WAIT_UNTIL_CONFIRMED.name},"))]
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
        WORKFLOW_NAME,
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
    assert_promises_hold(stack, before, [request], also_owned=[upload, late])


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
        assert starter.recorded(stack.database, handle.id).state is ended_as
        assert_promises_hold(stack, before, [request])
        assert (await stack.delete([one.id])).complete
    assert_promises_hold(stack, before, [request])


@at(OF_TWO)
async def test_a_worker_killed_while_it_finishes_what_another_deletion_owes_is_replaced(stack: Stack, point: str) -> None:
    """The other one deleted the rows and nobody runs it: whoever takes over runs it to its end, or waits for who does."""
    one, two = stack.snapshots("one", "two")
    before = Evidence.of(stack)
    other, request = stack.request([one.id, two.id]), stack.request([one.id])
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(other))
    worker = stack.crashing_worker(point)
    handle = await start(stack, request)
    await worker.is_killed()

    async with stack.worker():
        await end(handle)
        await end(stack.client.get_workflow_handle(other.workflow_id))
    assert stack.receipt(handle.id).complete
    assert stack.receipt(other.workflow_id).complete
    assert_promises_hold(stack, before, [other, request])


@at(OF_A_HOLD)
async def test_a_worker_killed_while_a_deletion_is_held_up_is_replaced(stack: Stack, point: str) -> None:
    """Frozen, or larger than may go unconfirmed: until it is let go nothing is deleted, and after that all of it is."""
    frozen = point.startswith(WAIT_UNTIL_THAWED.name)
    one, two = stack.snapshots("one", "two")
    before = Evidence.of(stack)
    request = stack.request([one.id, two.id])
    if frozen:
        freeze(stack.database, "a test")
    worker = stack.crashing_worker(point, **({} if frozen else {f"{PREFIX}MAX_ARTIFACTS_UNCONFIRMED": "1"}))
    handle = await start(stack, request)

    async def held_up() -> bool:
        return bool((await starter.progress(stack.client, handle.id)).held_up)

    def let_go() -> None:
        if frozen:
            thaw(stack.database)
            return
        with stack.database.write() as session:
            ledger.confirm(session, request.deletion_id, "user:7")

    if point.endswith("after"):
        await eventually(held_up)
        assert Evidence.of(stack).rows == before.rows
        let_go()
    await worker.is_killed()
    async with stack.worker(max_artifacts_unconfirmed=None if frozen else 1):
        if not point.endswith("after"):
            await eventually(held_up)
            assert Evidence.of(stack).rows == before.rows
            let_go()
        await end(handle)
    assert stack.receipt(handle.id).complete
    assert_promises_hold(stack, before, [request])


@at(OF_A_PREVIEW)
async def test_a_worker_killed_in_a_preview_changes_nothing(stack: Stack, point: str) -> None:
    """Somebody waits for the answer, which another worker gives."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    request = stack.request([one.id])
    worker = stack.crashing_worker(point)
    handle = await stack.client.start_workflow(
        PREVIEW_WORKFLOW_NAME,
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
