"""Whole projects and organizations: many ordinary deletions, a few at a time, behind what people wait for."""

import asyncio
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from activities.ledger import in_flight
from activities.ledger.policies import Scope, set_policy
from activities.stores.s3 import S3Objects
from artifact_deletion.bulk import (
    BULK_PRIORITY,
    BULK_WORKFLOW,
    CONFIRM_UPDATE,
    PAUSE_SIGNAL,
    UNPAUSE_SIGNAL,
    BulkCounts,
    BulkProgress,
    BulkReceipt,
    BulkRequest,
)
from artifact_deletion.client import start_bulk, start_deletion
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import PROGRESS_QUERY, SEARCH_ATTRIBUTES, TASK_QUEUE, DeletionRequest
from demo.servers import TemporalServer
from demo.world import Place, Project, Snapshot, screen
from tests.end_to_end.test_deployment import ran_on, set_current
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Held, Seen, Stack, connect, eventually, pending_failures
from tests.steps.test_retention import aged
from tests.workflow.test_reruns import hold
from workflows import bulk_text, delete_in_bulk
from workflows.bulk_steps import NEXT_ARTIFACTS, WAIT_FOR_OTHERS, BulkOpened, BulkRun, SoFar

Bulk = WorkflowHandle[Any, BulkReceipt]
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def shop_of(stack: Stack, count: int, *, slug: str = "shop") -> tuple[Project, list[Snapshot]]:
    """A project with so many small snapshots."""
    project = stack.world.project(stack.organization_id, slug)
    return project, [stack.world.snapshot(project, {"home": screen("home")}) for _ in range(count)]


def whole(project: Project, **more: Any) -> BulkRequest:
    return BulkRequest(organization_id=project.organization_id, project_id=project.id, **more)


def deletions_of(bulk: BulkRequest, snapshots: Iterable[Snapshot | Place], size: int) -> list[DeletionRequest]:
    """Those that it is to begin, in order."""
    ids = sorted(one.id for one in snapshots)
    return [bulk.deletion_of(ids[start : start + size]) for start in range(0, len(ids), size)]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Rows are gone, and the first request to delete their objects is not made yet."""
    made = Held(monkeypatch, S3Objects, "delete")
    yield made
    made.let_go()


async def progress(bulk: Bulk) -> BulkProgress:
    answer: BulkProgress = await bulk.query(PROGRESS_QUERY, result_type=BulkProgress)
    return answer


async def result(bulk: Bulk) -> BulkReceipt:
    return await asyncio.wait_for(bulk.result(), 60)


@pytest.fixture
def organization(stack: Stack) -> int:
    found = stack.world.organization("acme")
    assert found == stack.organization_id
    return found


pytestmark = pytest.mark.usefixtures("organization")


@pytest.mark.thorough
async def test_a_project_goes_whole_and_one_deletion_that_fails_neither_stops_nor_hides_the_others(
    stack: Stack, locking_bucket: str
) -> None:
    """Six deletions of ten artifacts; the store holds on to an object of one. Another project is as it was."""
    stack.use_bucket(locking_bucket)
    project, snapshots = shop_of(stack, 60)
    shop_of(stack, 2, slug="other")
    bulk = whole(project, requested_by="user:7", reference="TICKET-1")
    requests = deletions_of(bulk, snapshots, 10)
    hold(stack, [snapshots[25].id], "ON")
    before = Evidence.of(stack)
    async with stack.worker(chunk_artifacts=10):
        handle = await start_bulk(stack.client, bulk)
        with pytest.raises(WorkflowFailureError) as failed:
            await result(handle)
        failure = failed.value.cause
        assert isinstance(failure, ApplicationError)
        assert failure.type == "BulkNotComplete"
        receipt = BulkReceipt.model_validate(failure.details[0])
        assert receipt.deletions == {"complete": 5, "ObjectsRemain": 1}
        assert receipt.failed == (requests[2].workflow_id,)
        assert (receipt.artifacts, receipt.asked, receipt.deleted, receipt.remaining) == (60, 60, 60, 0)
        assert failure.message.startswith("1 of 6 deletions are not complete (ObjectsRemain 1): ")
        assert requests[2].workflow_id in failure.message
        states = [stack.recorded(one.workflow_id).state for one in requests]
        assert states == [DeletionState.FAILED if one is requests[2] else DeletionState.CLOSED for one in requests]
        assert stack.receipt(requests[0].workflow_id).reference == "TICKET-1"

        hold(stack, [snapshots[25].id], "OFF")
        assert (await result(await start_bulk(stack.client, bulk))).complete, "there is nothing to delete any more"
        await (await start_deletion(stack.client, requests[2])).result()
    assert_promises_hold(stack, before, requests)


@pytest.mark.thorough
@on_sqlite
async def test_an_organization_goes_with_all_of_its_projects_and_no_other(stack: Stack) -> None:
    """Artifacts of all projects in the order of their ids; an image goes with the last snapshot that shows it."""
    (_, one), (_, two) = shop_of(stack, 3), shop_of(stack, 2, slug="app")
    stranger = stack.world.project(stack.world.organization("globex"), "shop")
    stack.world.snapshot(stranger, {"home": screen("home")})
    bulk = BulkRequest(organization_id=stack.organization_id, images="delete")
    before = Seen.of(stack.world)
    async with stack.worker(chunk_artifacts=2, bulk_deletions_at_once=1):
        receipt = await result(await start_bulk(stack.client, bulk))
    assert (receipt.complete, receipt.deleted, receipt.deletions) == (True, 5, {"complete": 3})
    assert receipt.images_hidden == 2, "one of each project"
    stack.assert_only_these_are_gone([at.id for at in (*one, *two)], before, hidden=[one[0], two[0]])


@pytest.mark.thorough
@on_sqlite
async def test_no_history_grows_without_bounds(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run hands on to the next, with what runs at that moment, what was counted, and whose turn it is."""
    monkeypatch.setattr(delete_in_bulk, "MAX_EVENTS", 1)
    project, snapshots = shop_of(stack, 6)
    bulk = whole(project)
    before = Evidence.of(stack)
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=2):
        handle = await start_bulk(stack.client, bulk)
        receipt = await result(handle)
        metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    assert (receipt.artifacts, receipt.asked, receipt.deleted, receipt.deletions) == (6, 6, 6, {"complete": 6})
    assert_promises_hold(stack, before, deletions_of(bulk, snapshots, 1))
    last = (await stack.client.get_workflow_handle(handle.id).describe()).raw_description
    assert last.workflow_execution_info.first_run_id != last.workflow_execution_info.execution.run_id
    assert last.workflow_execution_info.priority.priority_key == BULK_PRIORITY
    assert metadata.current_details.startswith(bulk.summary), "Temporal gives the summary to the first run alone"


@pytest.mark.thorough
@on_sqlite
async def test_a_run_that_is_handed_on_goes_on_with_the_current_build(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, held: Held, tmp_path: Path
) -> None:
    """Pinned to the build that it began on, a bulk deletion of weeks would keep that build's workers up."""
    monkeypatch.setattr(delete_in_bulk, "MAX_EVENTS", 1)
    project, _ = shop_of(stack, 3)
    with TemporalServer(tmp_path / "temporal", in_memory=True, ui=False, search_attributes=SEARCH_ATTRIBUTES) as server:
        stack.use_temporal(await connect(server.address))
        async with stack.worker(build_id="one", chunk_artifacts=1, bulk_deletions_at_once=1):
            await set_current(stack.client, "one")
            handle = await start_bulk(stack.client, whole(project))
            await held.reached()
            async with stack.worker(build_id="two"):
                await set_current(stack.client, "two")
                held.let_go()
                assert (await result(handle)).complete
        first = stack.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        last = stack.client.get_workflow_handle(handle.id)
        assert (await ran_on(first), await ran_on(last)) == ("one", "two")


@pytest.mark.thorough
@on_sqlite
@pytest.mark.usefixtures("only_visible_steps")
async def test_what_a_person_waits_for_goes_first(stack: Stack) -> None:
    """Each step of a bulk's deletions stands behind those of ordinary ones, in turn with those of other organizations."""
    project, snapshots = shop_of(stack, 2)
    alone = stack.world.snapshot(stack.world.project(stack.organization_id, "app"), {"home": screen("home")})
    async with stack.worker():
        await stack.delete([alone.id])
        await result(await start_bulk(stack.client, whole(project)))
    (of_bulk,) = deletions_of(whole(project), snapshots, 2)
    assert await priorities(stack, of_bulk.workflow_id) == {(BULK_PRIORITY, str(stack.organization_id))}
    assert {key for key, _ in await priorities(stack, stack.request([alone.id]).workflow_id)} == {2, 3, 4}


async def priorities(stack: Stack, workflow: str) -> set[tuple[int, str]]:
    events = (await stack.client.get_workflow_handle(workflow).fetch_history()).events
    scheduled = [one.activity_task_scheduled_event_attributes for one in events]
    return {(one.priority.priority_key, one.priority.fairness_key) for one in scheduled if one.activity_id}


@pytest.mark.thorough
@on_sqlite
async def test_paused_it_begins_no_further_deletion_until_it_goes_on(stack: Stack, held: Held) -> None:
    """A person looks whether the first ones are what was meant."""
    project, snapshots = shop_of(stack, 3)
    bulk = whole(project)
    before = Evidence.of(stack)
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=1):
        handle = await start_bulk(stack.client, bulk)
        await held.reached()
        await handle.signal(PAUSE_SIGNAL)
        held.let_go()

        async def first_ended() -> bool:
            return (await progress(handle)).deletions == {"complete": 1}

        await eventually(first_ended)
        now = await progress(handle)
        assert (now.asked, now.running, now.artifacts) == (1, (), 3)
        assert now.waits == bulk_text.PAUSED
        events = (await handle.fetch_history()).events
        steps = [one.activity_task_scheduled_event_attributes.activity_type.name for one in events]
        assert steps.count(NEXT_ARTIFACTS.name) == 1, "it has not even looked for the next ones"
        await handle.signal(UNPAUSE_SIGNAL)
        assert (await result(handle)).deleted == 3
    assert_promises_hold(stack, before, deletions_of(bulk, snapshots, 1))


async def test_no_further_deletion_begins_while_those_that_run_owe_too_many_keys(
    stack: Stack, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three may run at a time, and one alone has more keys than are let in flight. Paused meanwhile, it stays so."""
    monkeypatch.setattr(in_flight, "LOOK_AGAIN", timedelta(milliseconds=100))
    project, snapshots = shop_of(stack, 3)
    bulk = whole(project)
    before = Evidence.of(stack)
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=3, bulk_keys_at_once=1):
        handle = await start_bulk(stack.client, bulk)
        await held.reached()

        async def waits() -> bool:
            return "the next one begins when these are 1 or fewer" in await why_it_waits(handle)

        await eventually(waits)
        assert (await progress(handle)).asked == 1
        await handle.signal(PAUSE_SIGNAL)
        held.let_go()

        async def has_ended() -> bool:
            found = await handle.describe()
            return (await progress(handle)).deletions == {"complete": 1} and not found.raw_description.pending_activities

        await eventually(has_ended)
        assert (await progress(handle)).asked == 1
        held.hold()
        await handle.signal(UNPAUSE_SIGNAL)
        await held.reached()
        await eventually(waits)
        assert (await progress(handle)).asked == 2
        held.let_go()
        assert (await result(handle)).deletions == {"complete": 3}
    assert_promises_hold(stack, before, deletions_of(bulk, snapshots, 1))


async def why_it_waits(bulk: Bulk) -> str:
    return (await pending_failures(bulk)).get(NEXT_ARTIFACTS.name, "")


@pytest.mark.thorough
@on_sqlite
async def test_a_cancel_begins_no_further_deletion_and_those_that_run_come_to_their_end(stack: Stack, held: Held) -> None:
    """No deletion is left half done. Asked for anew, it does the rest."""
    project, snapshots = shop_of(stack, 3)
    bulk = whole(project)
    first, *others = deletions_of(bulk, snapshots, 1)
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=1):
        handle = await start_bulk(stack.client, bulk)
        await held.reached()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await result(handle)
        assert isinstance(failed.value.cause, CancelledError)
        now = await progress(handle)
        assert (now.asked, now.running, now.waits) == (1, (first.workflow_id,), bulk_text.CANCELLED)
        held.let_go()
        ended = await stack.client.get_workflow_handle(first.workflow_id, result_type=DeletionReceipt).result()
        assert ended.complete
        assert set(stack.world.rows()["sentry_preprodartifact"]) == {id_ for one in others for id_ in one.artifact_ids}
        assert (await result(await start_bulk(stack.client, bulk))).deletions == {"complete": 2}


@pytest.mark.thorough
@on_sqlite
async def test_its_deletions_outlive_it(stack: Stack, held: Held) -> None:
    """A person who terminates it leaves none half done."""
    project, snapshots = shop_of(stack, 1)
    bulk = whole(project)
    before = Evidence.of(stack)
    async with stack.worker():
        handle = await start_bulk(stack.client, bulk)
        await held.reached()
        await handle.terminate()
        held.let_go()
        (request,) = deletions_of(bulk, snapshots, 1)
        await stack.client.get_workflow_handle(request.workflow_id).result()
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
@on_sqlite
async def test_so_many_artifacts_need_a_second_persons_word(stack: Stack) -> None:
    """Before anything is deleted. The one who asked cannot be the second, and must be known."""
    project, _ = shop_of(stack, 2)
    before = Seen.of(stack.world)
    async with stack.worker(max_bulk_unconfirmed=1):
        with pytest.raises(WorkflowFailureError) as failed:
            await result(await start_bulk(stack.client, whole(project)))
        assert isinstance(failed.value.cause, ApplicationError)
        assert failed.value.cause.message.startswith("requested_by: 2 artifacts need a second person's word")

        handle = await start_bulk(stack.client, whole(project, requested_by="user:7"))

        async def waits() -> bool:
            return "need a second person's word" in ((await progress(handle)).waits or "")

        await eventually(waits)
        for by, said in (("user:7", "another person"), ("jane@example.com", "an opaque id")):
            with pytest.raises(WorkflowUpdateFailedError) as refused:
                await handle.execute_update(CONFIRM_UPDATE, by)
            assert isinstance(refused.value.cause, ApplicationError)
            assert said in refused.value.cause.message
        assert Seen.of(stack.world) == before
        await handle.execute_update(CONFIRM_UPDATE, "user:8")
        receipt = await result(handle)
    assert (receipt.deleted, receipt.confirmed_by) == (2, "user:8")


@on_sqlite
async def test_what_one_run_hands_on_no_client_says(stack: Stack) -> None:
    """It could say that the second person has confirmed it, or that more go at a time than may."""
    project, _ = shop_of(stack, 2)
    before = Seen.of(stack.world)
    opened = BulkOpened(artifacts=2, too_many=False)
    forged = BulkRun(**whole(project).model_dump(), so_far=SoFar(opened=opened, counts=BulkCounts(confirmed_by="user:8")))
    async with stack.worker(max_bulk_unconfirmed=1):
        handle = await stack.client.start_workflow(
            BULK_WORKFLOW, forged, id=whole(project).workflow_id, task_queue=TASK_QUEUE, result_type=BulkReceipt
        )
        with pytest.raises(WorkflowFailureError) as failed:
            await result(handle)
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.message == "so_far: only a run that is handed on has it"
    assert Seen.of(stack.world) == before


@pytest.mark.thorough
@on_sqlite
async def test_as_many_as_need_no_confirmation_go_at_a_time(stack: Stack) -> None:
    """Else a person would have to confirm each of a bulk's deletions too."""
    project, _ = shop_of(stack, 3)
    async with stack.worker(max_artifacts_unconfirmed=2):
        assert (await result(await start_bulk(stack.client, whole(project)))).deletions == {"complete": 2}


@pytest.mark.thorough
@on_sqlite
async def test_a_deletion_that_a_person_has_begun_is_waited_for(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs under the same id. What it says at its end counts here too."""
    project, snapshots = shop_of(stack, 2)
    bulk = whole(project)
    first, _ = deletions_of(bulk, snapshots, 1)
    before, reads = Evidence.of(stack), Held(monkeypatch, S3Objects, "read")
    stack.accept(first)
    async with stack.worker(chunk_artifacts=1):
        await start_deletion(stack.client, first)
        await reads.reached()
        handle = await start_bulk(stack.client, bulk)

        async def waits() -> bool:
            return first.workflow_id in (await pending_failures(handle)).get(WAIT_FOR_OTHERS.name, "")

        await eventually(waits)
        reads.let_go()
        receipt = await result(handle)
    assert (receipt.deletions, receipt.deleted) == ({"complete": 2}, 2)
    assert_promises_hold(stack, before, deletions_of(bulk, snapshots, 1))


@pytest.mark.thorough
@on_sqlite
async def test_artifacts_that_come_meanwhile_go_too(stack: Stack, held: Held) -> None:
    """As long as it runs: their ids are higher. It ends when there is none."""
    project, snapshots = shop_of(stack, 2)
    bulk = whole(project)
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=1):
        handle = await start_bulk(stack.client, bulk)
        await held.reached()
        late = stack.world.snapshot(project, {"home": screen("home")})
        before = Evidence.of(stack)
        held.let_go()
        receipt = await result(handle)
    assert (receipt.artifacts, receipt.deleted, receipt.remaining) == (2, 3, 0)
    assert_promises_hold(stack, before, deletions_of(bulk, [*snapshots, late], 1))


@pytest.mark.thorough
@on_sqlite
async def test_what_remains_at_the_end_is_no_success(stack: Stack, held: Held) -> None:
    """An upload that took its id early and committed late is behind the page: its artifact is found when it is asked again."""
    project, _ = shop_of(stack, 0)
    stack.world.snapshot(project, {"home": screen("home")}, id=100)
    bulk = whole(project)
    async with stack.worker():
        handle = await start_bulk(stack.client, bulk)
        await held.reached()
        late = stack.world.snapshot(project, {"home": screen("home")}, id=99)
        held.let_go()
        with pytest.raises(WorkflowFailureError) as failed:
            await result(handle)
        assert isinstance(failed.value.cause, ApplicationError)
        assert failed.value.cause.type == "BulkNotComplete"
        assert failed.value.cause.message == "1 artifacts still have rows: ask for it again"
        assert late.id in stack.world.rows()["sentry_preprodartifact"]
        assert (await result(await start_bulk(stack.client, bulk))).complete


@pytest.mark.thorough
@on_sqlite
async def test_so_many_artifacts_an_hour_are_the_limit(stack: Stack) -> None:
    """A timer between two deletions, as long as the artifacts of the first are worth."""
    project, _ = shop_of(stack, 4)
    async with stack.worker(chunk_artifacts=2):
        handle = await start_bulk(stack.client, whole(project, artifacts_an_hour=36_000))
        await result(handle)
    events = (await handle.fetch_history()).events
    timers = [one.timer_started_event_attributes.start_to_fire_timeout.ToMilliseconds() for one in events]
    asked = [one for one in timers if one]
    assert len(asked) == 2, "after each page"
    assert all(100 < one <= 200 for one in asked), asked


@pytest.mark.thorough
@on_sqlite
async def test_no_deletion_has_more_artifacts_than_an_hour(stack: Stack) -> None:
    project, _ = shop_of(stack, 4)
    async with stack.worker(chunk_artifacts=3):
        handle = await start_bulk(stack.client, whole(project, artifacts_an_hour=2))

        async def limited() -> BulkProgress | None:
            found = await progress(handle)
            return found if found.waits else None

        assert (await eventually(limited)).asked == 2
        await handle.terminate()


@on_sqlite
async def test_a_project_of_another_organization_is_refused(stack: Stack) -> None:
    """And so is input that is none, from a client of any kind, in words that name no value."""
    stranger, _ = stack.world.project(stack.world.organization("globex"), "app"), None
    stack.world.snapshot(stranger, {"home": screen("home")})
    before = Seen.of(stack.world)
    bulk = BulkRequest(organization_id=stack.organization_id, project_id=stranger.id)
    async with stack.worker():
        with pytest.raises(WorkflowFailureError) as failed:
            await result(await start_bulk(stack.client, bulk))
        assert isinstance(failed.value.cause, ApplicationError)
        assert failed.value.cause.type == "ProjectNotInOrganization"
        given = {"organization_id": 1, "artifacts_an_hour": "PRIVATE", "PRIVATE": 1}
        handle = await stack.client.start_workflow(BULK_WORKFLOW, given, id="refused/bulk", task_queue=TASK_QUEUE)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, ApplicationError)
        assert (
            failed.value.cause.message
            == "artifacts_an_hour: must be a whole number; an unknown field: Extra inputs are not permitted"
        )
    assert Seen.of(stack.world) == before


@pytest.mark.thorough
@on_sqlite
async def test_a_worker_that_is_killed_in_the_middle_costs_time_and_nothing_else(stack: Stack) -> None:
    """Another one goes on where it was."""
    project, snapshots = shop_of(stack, 12)
    bulk = whole(project)
    before = Evidence.of(stack)
    process = stack.worker_process(ARTIFACT_DELETION_CHUNK_ARTIFACTS="2", ARTIFACT_DELETION_BULK_DELETIONS_AT_ONCE="2")
    handle = await start_bulk(stack.client, bulk)

    async def at_work() -> bool:
        return (await progress(handle)).deleted > 0

    await eventually(at_work)
    process.kill()
    async with stack.worker(chunk_artifacts=2):
        receipt = await result(handle)
    assert (receipt.deleted, receipt.deletions) == (12, {"complete": 6})
    assert_promises_hold(stack, before, deletions_of(bulk, snapshots, 2))


@pytest.mark.thorough
async def test_what_has_expired_goes_and_nothing_else(stack: Stack) -> None:
    """By the policies of the ledger as they stand when each page is asked for."""
    _, snapshots = shop_of(stack, 5)
    old, needed, head, young, last = snapshots
    stack.world.comparison(head, needed)
    other, (elsewhere,) = shop_of(stack, 1, slug="other")
    aged(stack, old, needed, last, elsewhere)
    bulk = BulkRequest(organization_id=stack.organization_id, expired=True)
    before = Evidence.of(stack)
    async with stack.worker(chunk_artifacts=1):
        assert (await result(await start_bulk(stack.client, bulk))).deleted == 0, "without any policy"
        with stack.database.write() as session:
            set_policy(session, Scope(None, None, "snapshots"), 90, by="user:7")
            set_policy(session, Scope(None, other.id, None), None, by="user:7")
        receipt = await result(await start_bulk(stack.client, bulk))
    assert (receipt.complete, receipt.deleted, receipt.expired) == (True, 2, True)
    assert set(stack.world.rows()["sentry_preprodartifact"]) == {needed.id, head.id, young.id, elsewhere.id}
    assert_promises_hold(stack, before, deletions_of(bulk, [old, last], 1))


@pytest.mark.thorough
async def test_what_has_a_grace_waits_for_its_end_and_goes_then(stack: Stack) -> None:
    """Deletions that wait hold up neither the run nor what has none."""
    now, later = shop_of(stack, 2), shop_of(stack, 2, slug="later")
    aged(stack, *now[1], *later[1])
    with stack.database.write() as session:
        set_policy(session, Scope(None, None, None), 90, by="user:7")
        set_policy(session, Scope(None, later[0].id, None), 90, by="user:7", grace_s=2)
    bulk = BulkRequest(organization_id=stack.organization_id, expired=True)
    before = Evidence.of(stack)
    requests = deletions_of(bulk, [*now[1], *later[1]], 1)
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=1):
        receipt = await result(await start_bulk(stack.client, bulk))
        assert (receipt.complete, receipt.asked, receipt.deleted, receipt.waiting) == (True, 4, 2, 2)
        waiting = [stack.client.get_workflow_handle(one.workflow_id) for one in requests[2:]]
        for one in waiting:
            priority = (await one.describe()).raw_description.workflow_execution_info.priority
            assert priority.priority_key == BULK_PRIORITY
            await asyncio.wait_for(one.result(), 60)
    assert [stack.recorded(one.workflow_id).request.not_before is None for one in requests] == [True, True, False, False]
    assert_promises_hold(stack, before, requests)


async def test_what_is_needed_again_stays_and_is_counted(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new head comes while keys are collected. That its base stays is right: the run is complete, and nothing remains."""
    _, (old, base, head) = shop_of(stack, 3)
    aged(stack, old, base)
    with stack.database.write() as session:
        set_policy(session, Scope(None, None, None), 90, by="user:7")
    bulk = BulkRequest(organization_id=stack.organization_id, expired=True)
    reads = Held(monkeypatch, S3Objects, "read")
    async with stack.worker():
        handle = await start_bulk(stack.client, bulk)
        await reads.reached()
        stack.world.comparison(head, base)
        before = Evidence.of(stack)
        reads.let_go()
        receipt = await result(handle)
    assert (receipt.complete, receipt.deletions) == (True, {"complete": 1})
    assert (receipt.artifacts, receipt.asked, receipt.deleted, receipt.not_expired, receipt.remaining) == (2, 2, 1, 1, 0)
    assert ("Stay", "1 were needed again when their rows were to go") in list(bulk_text.count_lines(receipt))
    assert set(stack.world.rows()["sentry_preprodartifact"]) == {base.id, head.id}
    assert_promises_hold(stack, before, deletions_of(bulk, [old, base], 2))


@pytest.mark.thorough
@on_sqlite
async def test_what_expires_while_the_expired_ones_go_is_another_runs(stack: Stack, held: Held) -> None:
    """Time goes on: a run that failed for it would fail every night."""
    _, (young, old) = shop_of(stack, 2)
    aged(stack, old)
    with stack.database.write() as session:
        set_policy(session, Scope(None, None, None), 90, by="user:7")
    async with stack.worker():
        handle = await start_bulk(stack.client, BulkRequest(organization_id=stack.organization_id, expired=True))
        await held.reached()
        aged(stack, young)
        held.let_go()
        receipt = await result(handle)
    assert (receipt.deleted, receipt.remaining) == (1, 1)
