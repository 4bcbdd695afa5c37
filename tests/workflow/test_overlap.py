"""Several deletions of the same artifacts: what each of them may say is gone, and who finishes what another left behind."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete
from temporalio.client import WorkflowExecutionStatus
from temporalio.worker import Worker

import composition
from activities.backend import tables
from activities.backend.contract import ArtifactRef
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.backend.tables import Artifact
from activities.close_deletion import OTHERS_WITHIN
from activities.interceptors import NamedErrorsOnly
from activities.ledger.holds import On, lift, place
from activities.ledger.overlaps import OtherDeletion, deletions_owing
from activities.ledger.schema import Deletion as DeletionRow
from artifact_deletion.client import start_deletion, wait_rows_deleted
from artifact_deletion.errors import NotYet
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import TASK_QUEUE, DeletionRequest
from demo.world import Snapshot
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack, deletion_of, eventually, pending_failures, resume, steps_of
from workflows.delete_artifacts import DeleteArtifactsWorkflow
from workflows.steps import CLOSE_DELETION, DELETE_OBJECTS, OBJECTS_TASK_QUEUE, SWEEP_PREFIXES, Pace, Step

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@contextlib.asynccontextmanager
async def worker_without(stack: Stack, *steps: Step[Any, Any]) -> AsyncIterator[None]:
    """A worker that does not know these steps, so that whatever needs them gets no further."""
    settings = stack.settings()
    missing = {step.name for step in steps}

    def known(activities: Iterable[Callable[..., Any]]) -> list[Callable[..., Any]]:
        return [one for one in activities if one.__name__ not in missing]

    parts = composition.open_parts(settings, stack.database)
    with ThreadPoolExecutor(8) as threads, ThreadPoolExecutor(8) as requests:
        with_database, with_store = parts.steps(requests, requests, Pace(trace_store=True))
        common: dict[str, Any] = {
            "activity_executor": threads,
            "graceful_shutdown_timeout": settings.shutdown_grace,
            "interceptors": [NamedErrorsOnly()],
        }
        async with (
            Worker(
                stack.client,
                task_queue=TASK_QUEUE,
                workflows=[DeleteArtifactsWorkflow],
                activities=known(with_database),
                **common,
            ),
            Worker(stack.client, task_queue=OBJECTS_TASK_QUEUE, activities=known(with_store), **common),
        ):
            yield


def owed_to(stack: Stack, request: DeletionRequest) -> list[OtherDeletion]:
    """The other deletions that still owe anything of its artifacts."""
    with stack.database.read() as session:
        return deletions_owing(session, request.deletion_id, traces_configured=True)


def gone_before(receipt: DeletionReceipt) -> dict[str, tuple[int, ...]]:
    return {other: ids.ids for other, ids in receipt.artifacts.gone_before.by_deletion.items()}


def assert_each_is_accounted_for_once(first: DeletionReceipt, second: DeletionReceipt, wanted: Iterable[Snapshot]) -> None:
    """Every artifact was deleted by exactly one of them, and the other says by whom."""
    deleted = [*first.artifacts.deleted.ids, *second.artifacts.deleted.ids]
    assert sorted(deleted) == sorted(one.id for one in wanted)
    assert (first.complete, second.complete) == (True, True)
    for ours, theirs in ((first, second), (second, first)):
        named = gone_before(ours).get(theirs.workflow_id, ())
        assert set(named) <= set(theirs.artifacts.deleted.ids)
        assert len(named) + ours.artifacts.deleted.count == ours.requested_artifacts
        assert not ours.artifacts.gone_before.objects_unchecked.ids


@pytest.mark.thorough
def test_two_deletions_that_each_took_an_artifact_of_both_name_each_other(stack: Stack) -> None:
    """One step at a time: both have collected both artifacts, one comes first here, the other there."""
    left, shared, also_shared, right = wanted = stack.snapshots("a", "b", "c", "d")
    stack.world.comparison(shared, also_shared)
    stack.world.comparison(left, shared)
    requests = [
        stack.request([left.id, shared.id, also_shared.id]),
        stack.request([shared.id, also_shared.id, right.id]),
    ]
    before = Evidence.of(stack)
    with steps_of(stack, chunk_artifacts=1) as steps:
        sealed = [[steps.collect(chunk) for chunk in steps.open(request)] for request in requests]
        first, second = sealed
        in_turn = (first[1], second[1], second[0], first[2], first[0], second[2])  # `shared` first here, the other there
        released = [(chunk, steps.delete_rows(chunk)) for chunk in in_turn]
        for request, theirs in zip(requests, reversed(requests), strict=True):
            for chunk, rows in released:
                if chunk.deletion_id == request.deletion_id:
                    steps.delete_what_was_released(chunk, rows)
            owed = owed_to(stack, request)
            assert [other.artifacts for other in owed] == ([1] if request is requests[0] else []), theirs.deletion_id
        receipts = [steps.close(request) for request in reversed(requests)]
    assert_each_is_accounted_for_once(receipts[0], receipts[1], wanted)
    assert [len(gone_before(receipt)) for receipt in receipts] == [1, 1]
    assert_promises_hold(stack, before, requests)


@pytest.mark.thorough
def test_no_artifact_is_reported_as_gone_while_another_deletion_owes_its_objects(stack: Stack) -> None:
    """The rows say that it is gone; the ledger knows that its manifest can still be read."""
    one, two = stack.snapshots("a", "b")
    first, second = stack.request([one.id]), stack.request([one.id, two.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(first)
        released = steps.delete_rows(sealed)
        theirs = steps.open_and_collect(second)
        steps.delete_what_was_released(theirs, steps.delete_rows(theirs))
        assert owed_to(stack, second)
        receipt = steps.close(second)
        assert (receipt.complete, receipt.left_over) == (False, {"OwedByOthers": 1})
        assert gone_before(receipt) == {first.workflow_id: (one.id,)}

        steps.delete_what_was_released(sealed, released)
        assert steps.close(first).complete
        stack.accept(second)
        assert steps.open(second) == []
        assert not owed_to(stack, second)
        assert steps.close(second).complete


@pytest.mark.parametrize("came_back", [False, True], ids=["only the head is the other's", "the base was too, and came back"])
def test_a_base_is_not_reported_as_gone_while_another_deletion_owes_the_objects_of_its_comparison(
    stack: Stack,
    came_back: bool,  # noqa: FBT001
) -> None:
    """The comparison's row went with its head, so nothing tells the base's deletion of the masks that can still be read."""
    head, base = stack.snapshots("a", "b")
    comparison = stack.world.comparison(head, base)
    first, second = stack.request([head.id, *([base.id] if came_back else [])]), stack.request([base.id])
    before = Evidence.of(stack)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(first)
        released = steps.delete_rows(sealed)
        if came_back:
            with stack.database.write() as session:
                session.add(tables.Artifact(id=base.id, project_id=base.artifact.project_id))
        theirs = steps.open_and_collect(second)
        steps.delete_what_was_released(theirs, steps.delete_rows(theirs))
        (owed,) = owed_to(stack, second)
        assert (owed.workflow_id, owed.artifacts) == (first.workflow_id, 1)
        receipt = steps.close(second)
        assert (receipt.complete, receipt.left_over) == (False, {"OwedByOthers": 1})
        assert any(key.endswith(comparison.key) for key in stack.world.objects())

        steps.delete_what_was_released(sealed, released)
        assert steps.close(first).complete
        stack.accept(second)
        assert steps.open(second) == []
        assert steps.close(second).complete
    assert stack.world.objects().keys().isdisjoint(stack.world.objects_of([head.id, base.id]))
    if not came_back:  # else both deleted it, each once
        assert_promises_hold(stack, before, [first, second])


@pytest.mark.thorough
@POSTGRESQL
async def test_two_overlapping_deletions_at_once_delete_everything_exactly_once(stack: Stack) -> None:
    """The whole path: neither waits for ever, and what both were asked for is deleted in one receipt and gone in the other."""
    wanted = stack.snapshots("a", "b", "c", "d", "e")
    for head, base in itertools.pairwise(wanted):
        stack.world.comparison(head, base, chunks=0)
    ids, before = [one.id for one in wanted], Evidence.of(stack)
    async with stack.worker(chunk_artifacts=2):
        receipts = await asyncio.gather(stack.delete(ids[:4]), stack.delete(ids[1:]))
    assert_each_is_accounted_for_once(receipts[0], receipts[1], wanted)
    traces = sum(table == "trace_items" for table, _ in stack.world.rows_of(ids))
    assert sum(sum(one.rows.values()) for one in receipts) == len(stack.world.rows_of(ids)) - traces
    assert_promises_hold(stack, before, [stack.request(ids[:4]), stack.request(ids[1:])])


@pytest.mark.thorough
@SQLITE
async def test_a_deletion_waits_for_what_one_that_died_still_owes_and_resume_starts_that_one(stack: Stack) -> None:
    """Terminated after its rows were deleted and before its objects: no run is at work, and only the ledger knows its keys."""
    one, two, three = stack.snapshots("a", "b", "c")
    stack.world.comparison(one, two)
    before = Evidence.of(stack)
    async with worker_without(stack, DELETE_OBJECTS, SWEEP_PREFIXES):
        died = await stack.start([one.id, two.id])
        await wait_rows_deleted(stack.client, stack.request([one.id, two.id]))
        await died.terminate()
    assert stack.recorded(died.id).state is DeletionState.RUNNING
    assert Evidence.of(stack).objects == before.objects

    async with stack.worker():
        second = await stack.start([two.id, three.id])

        async def waits() -> bool:
            return died.id in (await pending_failures(second)).get(CLOSE_DELETION.name, "")

        await eventually(waits)
        assert await resume(stack.client, stack.database) == [died.id]
        await asyncio.wait_for(second.result(), 40)
    receipt = stack.receipt(second.id)
    assert (receipt.complete, receipt.artifacts.deleted.ids) == (True, (three.id,))
    assert gone_before(receipt) == {died.id: (two.id,)}
    theirs = stack.receipt(died.id)
    assert (theirs.complete, theirs.artifacts.deleted.ids) == (True, (one.id, two.id))
    assert theirs.times.closed <= receipt.times.closed
    assert_promises_hold(stack, before, [stack.request([one.id, two.id]), stack.request([two.id, three.id])])


@pytest.mark.thorough
@SQLITE
def test_what_others_owe_is_waited_for_a_day_and_then_stated_as_given_up(stack: Stack) -> None:
    """One that failed will not go on by itself, so it is not waited for; one that is held has no less time for that."""
    one, two, three = stack.snapshots("a", "b", "c")
    first, second, third = (stack.request(ids) for ids in ([one.id], [one.id, two.id], [one.id, three.id]))
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(first))
        for request in (second, third):
            sealed = steps.open_and_collect(request)
            steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        closing = deletion_of(second)
        placed = place(stack.database, On.DELETION, first.deletion_id, reason="a test", by="user:7")
        for _ in range(2):
            with pytest.raises(NotYet, match=rf"1 other deletions still owe objects .* {first.workflow_id}"):
                steps.run(CLOSE_DELETION, closing)
            waited_for(stack, second, OTHERS_WITHIN)
        with stack.database.write() as session:
            lift(session, [placed.id], by="user:7")
        waited_for(stack, second, OTHERS_WITHIN - timedelta(hours=1))
        with pytest.raises(NotYet):
            steps.run(CLOSE_DELETION, closing)
        waited_for(stack, second, OTHERS_WITHIN)
        assert steps.run(CLOSE_DELETION, closing).left_over == {"OwedByOthers": 1}
        assert steps.close(first).left_over
        assert steps.run(CLOSE_DELETION, deletion_of(third)).left_over == {"OwedByOthers": 1}


def waited_for(stack: Stack, request: DeletionRequest, time: timedelta) -> None:
    """Say that it has waited so long."""
    with stack.database.write() as session:
        session.get_one(DeletionRow, request.deletion_id).waits_since = datetime.now(UTC) - time


@POSTGRESQL
def test_one_that_is_asked_for_anew_while_another_owes_is_not_said_to_have_begun_after_its_rows_went(stack: Stack) -> None:
    """Its rows came back and went with another's: it waits for that one, and deletes none itself."""
    one, two = stack.snapshots("a", "b")
    first, second = stack.request([one.id]), stack.request([one.id, two.id])
    rows = Evidence.of(stack).rows["sentry_preprodartifact"].values()
    with steps_of(stack) as steps:
        stack.accept(first)
        steps.finish(first, steps.open_and_collect(first))
        with stack.database.write() as session:
            session.add_all(Artifact(**row) for row in rows if row["id"] == one.id)
        stack.accept(second)
        sealed = steps.open_and_collect(second)
        released = steps.delete_rows(sealed)
        stack.accept(first)
        assert steps.open(first) == []
        with pytest.raises(NotYet, match="1 other deletions still owe"):
            steps.run(CLOSE_DELETION, deletion_of(first))
        steps.delete_what_was_released(sealed, released)
        assert steps.close(second).complete
        receipt = steps.close(first)
    assert receipt.complete
    assert receipt.times.rows_deleted is None
    assert receipt.times.closed > receipt.times.accepted


@pytest.mark.thorough
@SQLITE
async def test_a_deletion_that_died_is_finished_when_it_is_asked_for_again(stack: Stack) -> None:
    """The same request after a terminate is the same deletion: its rows are counted as before, its objects go now."""
    (one,) = stack.snapshots("a")
    before = Evidence.of(stack)
    async with worker_without(stack, CLOSE_DELETION):
        died = await stack.start([one.id])
        await wait_rows_deleted(stack.client, stack.request([one.id]))
        await died.terminate()
    async with stack.worker():
        receipt = await stack.delete([one.id])
    assert (receipt.complete, receipt.workflow_id) == (True, died.id)
    assert receipt.artifacts.deleted.ids == (one.id,)
    assert_promises_hold(stack, before, [stack.request([one.id])])


@pytest.mark.thorough
@POSTGRESQL
async def test_ten_clients_that_ask_for_the_same_at_once_get_one_deletion_and_one_receipt(stack: Stack) -> None:
    """Asking twice is asking once, in whatever order the ids stand, and from any client."""
    wanted = stack.snapshots("a", "b")
    ids, before = [one.id for one in wanted], Evidence.of(stack)
    clients = await asyncio.gather(*(stack.another_client() for _ in range(10)))
    async with stack.worker():

        async def ask(number: int) -> tuple[str | None, DeletionReceipt, int]:
            request = stack.request(ids[:: 1 if number % 2 else -1], requested_by=f"user:{number}")
            await asyncio.to_thread(stack.accept, request)
            handle = await start_deletion(clients[number], request)
            rows = await wait_rows_deleted(clients[number], request)
            return handle.first_execution_run_id or handle.result_run_id, await handle.result(), rows.rows

        answers = await asyncio.gather(*(ask(number) for number in range(10)))
    runs, receipts, rows = zip(*answers, strict=True)
    assert (len(set(runs)), len(set(rows))) == (1, 1)
    assert all(receipt == receipts[0] for receipt in receipts)
    assert (receipts[0].complete, receipts[0].artifacts.deleted.ids) == (True, tuple(sorted(ids)))
    described = await stack.client.get_workflow_handle(receipts[0].workflow_id).describe()
    assert (described.run_id, described.status) == (runs[0], WorkflowExecutionStatus.COMPLETED)
    assert_promises_hold(stack, before, [stack.request(ids)])


def steps_backend(stack: Stack) -> SentryBackend:
    return SentryBackend(stack.database, Scopes("", ()))


def delete_rows_by_hand(stack: Stack, one: Snapshot) -> None:
    """As the reference implementation does, which then loses the keys."""
    with stack.database.write() as session:
        session.execute(delete(tables.SnapshotMetrics).where(tables.SnapshotMetrics.preprod_artifact_id == one.id))
        session.execute(delete(tables.Artifact).where(tables.Artifact.id == one.id))


@pytest.mark.thorough
@SQLITE
async def test_an_artifact_gone_without_a_trace_is_said_to_be_unchecked_and_swept_if_its_project_is_named(stack: Stack) -> None:
    """Without its project it is unknown where an artifact's objects lie: "gone" would be a claim without a check."""
    lost, neighbour = stack.snapshots("a", "b")
    project = lost.artifact.project_id
    before = Seen.of(stack.world)
    delete_rows_by_hand(stack, lost)
    owed = stack.world.objects_of([lost.id])
    assert owed <= stack.world.objects().keys()
    async with stack.worker():
        receipt = await stack.delete([lost.id])
        assert receipt.artifacts.gone_before.objects_unchecked.ids == (lost.id,)
        assert (receipt.trace_items.state, receipt.trace_items.confirmed_at) == ("unchecked", None), "no project to ask in"
        assert (receipt.artifacts.deleted.count, receipt.artifacts.gone_before.swept.count, receipt.objects.prefixes) == (
            0,
            0,
            0,
        )
        assert owed <= stack.world.objects().keys()

        receipt = await stack.delete([lost.id], project_id=project)
    assert (receipt.complete, receipt.artifacts.gone_before.swept.ids) == (True, (lost.id,))
    assert receipt.artifacts.gone_before.objects_unchecked.ids == ()
    assert receipt.objects.prefixes == receipt.objects.prefixes_listed_empty > 0
    assert (receipt.trace_items.state, receipt.trace_items.matched > 0) == ("confirmed", True)
    stack.assert_only_these_are_gone([lost.id], before)
    assert stack.world.objects_of([neighbour.id]) <= stack.world.objects().keys()


@SQLITE
def test_a_head_waits_for_the_objects_of_its_comparison_where_no_store_lists(stack: Stack) -> None:
    """The base's deletion took the comparison's row, and with it all that leads to the masks."""
    head, base = stack.snapshots("head", "base")
    comparison = stack.world.comparison(head, base)
    first, second = stack.request([base.id]), stack.request([head.id])
    with steps_of(stack, bucket_listable=False) as steps:
        steps.delete_rows(steps.open_and_collect(first))
        theirs = steps.open_and_collect(second)
        steps.delete_what_was_released(theirs, steps.delete_rows(theirs))
        (other,) = owed_to(stack, second)
        assert other.workflow_id == first.workflow_id
        assert steps.close(second).left_over == {"OwedByOthers": 1}
    assert any(key.endswith(comparison.key) for key in stack.world.objects())


@pytest.mark.thorough
@pytest.mark.parametrize("collected_again", [False, True])
@SQLITE
def test_a_base_waits_for_the_objects_of_a_comparison_whose_rows_somebody_deleted_after_they_were_sealed(
    stack: Stack,
    collected_again: bool,  # noqa: FBT001
) -> None:
    """Nothing was there to tell with whom the head was compared when the chunk's rows were deleted."""
    head, base = stack.snapshots("head", "base")
    comparison = stack.world.comparison(head, base)
    first, second = stack.request([head.id]), stack.request([base.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(first)
        backend, ref = steps_backend(stack), ArtifactRef(stack.organization_id, head.artifact.project_id, head.id)
        with stack.database.write() as session:
            backend.delete(session, [ref], backend.lock(session, [head.id], stack.organization_id))
        if collected_again:
            sealed = steps.collect(sealed)
        steps.delete_rows(sealed)
        theirs = steps.open_and_collect(second)
        steps.delete_what_was_released(theirs, steps.delete_rows(theirs))
        assert steps.close(second).left_over == {"OwedByOthers": 1}
    assert any(key.endswith(comparison.key) for key in stack.world.objects())
