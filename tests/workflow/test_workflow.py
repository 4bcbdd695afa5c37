"""What the workflow promises to those who start, ask or replay it, from any client."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
)
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, CancelledError

from activities import collect_keys
from activities.stores.s3 import S3Objects
from artifact_deletion.client import progress, start_deletion, wait_rows_deleted
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt, RowsGone, Stage
from artifact_deletion.request import DELETE_WORKFLOW, MAX_ARTIFACTS, SEARCH_ATTRIBUTES, TASK_QUEUE, DeletionRequest
from composition import open_parts
from demo.servers import TemporalServer
from tests.stack import ROOT, Held, Seen, Stack, connect
from tests.workflow.test_reruns import hold, reset
from workflows import delete_artifacts
from workflows.bulk_steps import BULK_STEPS
from workflows.page import Page
from workflows.reconcile_steps import RECONCILE_PROJECT, RECONCILE_STEPS
from workflows.steps import (
    CANCEL_DELETION,
    COLLECT_KEYS,
    DELETE_OBJECTS,
    HIDE_IMAGES,
    OPEN_DELETION,
    PREVIEW_DELETION,
    SETTLE_IMAGES,
    STEPS,
    SWEEP_PREFIXES,
    WAIT_TO_BEGIN,
    WAIT_WHILE_HELD,
    Pace,
)

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MARKER = "PRIVATE"
NUMBER = 770_077


@pytest.fixture
def held_deletes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Rows are gone, and the first request to delete their objects is not made yet."""
    held = Held(monkeypatch, S3Objects, "delete")
    yield held
    held.let_go()


# Requests ---------------------------------------------------------------------------------------------------------------


def request_with(**changes: Any) -> dict[str, Any]:
    """JSON of a good request, but for the changes."""
    return {"organization_id": 1, "artifact_ids": [NUMBER]} | changes


def payload(data: bytes, encoding: str | None = "json/plain") -> RawValue:
    return RawValue(Payload(data=data, metadata={} if encoding is None else {"encoding": encoding.encode()}))


REFUSED: Mapping[str, tuple[Any, str]] = {
    "no ids": (request_with(artifact_ids=[]), "artifact_ids: "),
    "zero": (request_with(artifact_ids=[NUMBER, 0]), "artifact_ids: "),
    "a negative id": (request_with(artifact_ids=[-NUMBER]), "artifact_ids: "),
    "text for an id": (request_with(artifact_ids=[str(NUMBER)]), "artifact_ids: must be a whole number"),
    "text for ids": (request_with(artifact_ids=MARKER), "artifact_ids: "),
    "a fraction": (request_with(artifact_ids=[NUMBER + 0.5]), "artifact_ids: must be a whole number"),
    "a truth value": (request_with(artifact_ids=[True]), "artifact_ids: must be a whole number"),
    "null for ids": (request_with(artifact_ids=None), "artifact_ids: "),
    "too many ids": (request_with(artifact_ids=list(range(NUMBER, NUMBER + MAX_ARTIFACTS + 1))), "artifact_ids: "),
    "more than 64 bits": (request_with(artifact_ids=[NUMBER, 2**63]), "artifact_ids: "),
    "thousands of digits": (payload(b'{"organization_id":1,"artifact_ids":[' + b"7" * 5000 + b"]}"), "request: "),
    "no organization": ({"artifact_ids": [NUMBER]}, "organization_id: Field required"),
    "text for the organization": (request_with(organization_id=MARKER), "organization_id: must be a whole number"),
    "two wrong fields": ({"artifact_ids": [MARKER]}, "organization_id: Field required; artifact_ids: must be a whole number"),
    "a field that is not known": (request_with(**{MARKER: MARKER}), "an unknown field: "),
    "an e-mail address": (request_with(requested_by=f"{MARKER}@example.com"), "requested_by: "),
    "a sentence": (request_with(reference=f"because {MARKER} said so"), "reference: "),
    "a line break": (request_with(reference=f"{MARKER}\n"), "reference: "),
    "a report and what has expired": (
        request_with(report="0" * 32, expired=True),
        "request: report and expired do not go together: what a report lists has no row that could expire",
    ),
    "a list": ([request_with()], "request: Input should be an object"),
    "text": (MARKER, "request: Input should be an object"),
    "null": (payload(b"null"), "request: Input should be an object"),
    "no JSON": (payload(f"{{{MARKER}".encode()), "request: Invalid JSON"),
    "no UTF-8": (payload(b'"\xff\xfe"'), "request: Invalid JSON"),
    "deep JSON": (payload(b"[" * 50_000), "request: Invalid JSON"),
    "another workflow id than its own": (request_with(), "this deletion's workflow id is delete-artifacts/1/"),
    "a binary null": (payload(b"", "binary/null"), "the request is not JSON"),
    "bytes": (payload(MARKER.encode(), "binary/plain"), "the request is not JSON"),
    "an encoding that is not known": (payload(MARKER.encode(), f"json/{MARKER}"), "the request is not JSON"),
    "no encoding": (payload(json.dumps(request_with()).encode(), None), "the request is not JSON"),
}


@pytest.mark.thorough
@on_sqlite
async def test_a_bad_request_fails_once_in_words_that_name_fields_and_no_values(stack: Stack) -> None:
    """A person who starts this from another language sees what is wrong, instead of a workflow task that is tried for ever."""
    handles = {
        name: await stack.client.start_workflow(
            DELETE_WORKFLOW, given, id=f"refused/{stack.organization_id}/{name}", task_queue=TASK_QUEUE
        )
        for name, (given, _) in REFUSED.items()
    }
    async with stack.worker():
        failures = dict(zip(handles, await asyncio.gather(*map(stack.failure, handles.values())), strict=True))
    assert {name: failure.type for name, failure in failures.items()} == dict.fromkeys(REFUSED, "InvalidRequest")
    unexpected = {name: failures[name].message for name, (_, words) in REFUSED.items() if words not in failures[name].message}
    assert unexpected == {}
    for name, handle in handles.items():
        events = [event async for event in handle.fetch_history_events()]
        assert len(events) == 5, f"{name}: started, one workflow task, failed"
        said = b"".join(event.SerializeToString() for event in events[1:])
        assert MARKER.encode() not in said, name
        assert str(NUMBER).encode() not in said, name


@on_sqlite
async def test_a_mistake_of_ours_ends_no_deletion_and_the_next_release_finishes_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows gone, objects not: a workflow that failed here would have to be found and run again by a person.

    The release stumbles once; the next time it is asked it is the one that is mended.
    """
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    whole, mistakes = Page.rows_deleted, [TypeError()]

    def stumbles(*given: Any, **named: Any) -> None:
        if mistakes:
            raise mistakes.pop()
        whole(*given, **named)

    monkeypatch.setattr(Page, "rows_deleted", stumbles)
    async with stack.worker():
        handle = await stack.start([one.id])
        await handle.result()
    assert [event async for event in handle.fetch_history_events() if event.HasField("workflow_task_failed_event_attributes")]
    stack.assert_only_these_are_gone([one.id], before)


@pytest.mark.thorough
@on_sqlite
async def test_plain_json_from_a_client_of_any_kind_is_enough(stack: Stack) -> None:
    """No converter, no class of ours, no row in the ledger beforehand, ids in any order and twice."""
    one, two = stack.snapshots("one", "two")
    request = stack.request([one.id, two.id])
    before = Seen.of(stack.world)
    client = await Client.connect(stack.temporal_address, namespace=stack.client.namespace)
    given = {"organization_id": stack.organization_id, "artifact_ids": [two.id, one.id, two.id]}
    async with stack.worker():
        handle = await client.start_workflow(
            "DeleteArtifactsWorkflow", given, id=request.workflow_id, task_queue="artifact-deletion"
        )
        result = await handle.result()
    assert (result["complete"], result["requested_artifacts"]) == (True, 2)
    stack.assert_only_these_are_gone([one.id, two.id], before)
    assert stack.receipt(request.workflow_id).complete


def test_the_same_artifacts_are_the_same_deletion_whoever_asks_and_how() -> None:
    """Asking twice is asking once, so the id must not depend on order, repetition, or on who asks and why."""

    def deletion(*ids: int, organization_id: int = 1, **more: Any) -> str:
        request = DeletionRequest(organization_id=organization_id, artifact_ids=ids, **more)
        assert request.workflow_id == f"delete-artifacts/{organization_id}/{request.deletion_id}"
        return request.deletion_id

    same = deletion(1, 2, 30)
    for again in (deletion(30, 2, 1), deletion(2, 2, 1, 30, 30), deletion(1, 2, 30, requested_by="a", reference="b")):
        assert again == same
    others = (deletion(1, 2), deletion(1, 23), deletion(12, 30), deletion(1, 2, 30, project_id=7))
    assert len({same, deletion(1, 2, 30, organization_id=11), *others}) == 6


# Updates and queries ----------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@on_sqlite
async def test_every_caller_hears_that_the_rows_are_gone_while_objects_are_still_there(
    stack: Stack, held_deletes: Held
) -> None:
    """A backend's DELETE handler answers in one round trip; ten of them, of users who click twice, and one that comes late."""
    (one,) = stack.snapshots("one")
    objects = stack.world.objects()
    request = stack.request([one.id])
    stack.accept(request)
    async with stack.worker():
        answers = await asyncio.gather(*(wait_rows_deleted(stack.client, request) for _ in range(10)))
        assert one.id not in stack.world.rows()["sentry_preprodartifact"]
        assert stack.world.objects() == objects
        held_deletes.let_go()
        receipt = await stack.client.get_workflow_handle(request.workflow_id, result_type=DeletionReceipt).result()
        answers.append(await wait_rows_deleted(stack.client, request))
    assert answers == 11 * [RowsGone(artifacts=1, rows=sum(receipt.rows.values()))]


@pytest.mark.thorough
@on_sqlite
async def test_whoever_waits_for_rows_hears_that_they_stay(stack: Stack) -> None:
    """An artifact of another organization: the deletion is refused, and no one waits for ever."""
    (one,) = stack.snapshots("one")
    stranger = stack.world.snapshot(stack.world.project(stack.world.organization("globex"), "app"), one.images)
    before = Seen.of(stack.world)
    request = stack.request([one.id, stranger.id])
    stack.accept(request)
    async with stack.worker():
        waiting = (wait_rows_deleted(stack.client, request) for _ in range(3))
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        failure = await stack.failure(stack.client.get_workflow_handle(request.workflow_id, result_type=DeletionReceipt))
    assert failure.type == "ArtifactNotInOrganization"
    for error in errors:
        assert isinstance(error, WorkflowUpdateFailedError)
        assert isinstance(error.cause, ApplicationError)
        assert error.cause.type == "RowsNotDeleted"
    assert Seen.of(stack.world) == before


@pytest.mark.thorough
@on_sqlite
async def test_progress_counts_what_is_done(stack: Stack, held_deletes: Held) -> None:
    """What an operator sees in the middle, and at the end, agrees with the receipt."""
    one, two = stack.snapshots("one", "two")
    stack.world.comparison(one, two, masks=5)
    async with stack.worker(chunk_artifacts=1):
        handle = await stack.start([one.id, two.id])
        await wait_rows_deleted(stack.client, stack.request([one.id, two.id]))
        middle = await progress(stack.client, handle.id)
        held_deletes.let_go()
        await handle.result()
        end = await progress(stack.client, handle.id)
    receipt = stack.receipt(handle.id)
    assert (middle.stage, middle.artifacts, middle.chunks, middle.chunks_rows_deleted) == (Stage.DELETING_OBJECTS, 2, 2, 2)
    assert (middle.keys_done, middle.left_over) == (0, 0)
    assert middle.rows_deleted == end.rows_deleted == sum(receipt.rows.values())
    assert (end.stage, end.left_over) == (Stage.COMPLETED, 0)
    assert end.keys_done == end.keys == middle.keys == receipt.objects.sealed
    assert (end.found_by_listing, end.trace_items_matched) == (receipt.objects.found_by_listing, receipt.trace_items.matched)


# Reset after a cancel ---------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("step", [OPEN_DELETION.name, COLLECT_KEYS.name])
@on_sqlite
async def test_a_reset_of_a_cancelled_run_deletes_nothing_and_a_fresh_start_begins_anew(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Reset is for what failed. A person who pressed it here did not ask for the deletion, and a fresh start does."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    held = Held(monkeypatch, S3Objects, "read")
    async with stack.worker():
        handle = await stack.start([one.id])
        await held.reached()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as cancelled:
            await asyncio.wait_for(handle.result(), 40)
        assert isinstance(cancelled.value.cause, CancelledError)
        held.let_go()
        run = await reset(stack, handle, step)
        failure = await stack.failure(stack.client.get_workflow_handle(handle.id, run_id=run, result_type=DeletionReceipt))
        assert failure.type == "NotOpen"
        assert stack.recorded(handle.id).state is DeletionState.CANCELLED
        assert Seen.of(stack.world) == before

        fresh = await start_deletion(stack.client, stack.request([one.id]))
        assert (await asyncio.wait_for(fresh.result(), 40)).complete
    stack.assert_only_these_are_gone([one.id], before)
    assert stack.recorded(handle.id).state is DeletionState.CLOSED


# Temporal servers of other kinds ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def bare_temporal(folder: Path) -> Iterator[TemporalServer]:
    """Without our search attributes, and with histories that are said to be long after 40 events, not after 4,096."""
    long = {"limit.historyCount.suggestContinueAsNew": 40}
    with TemporalServer(folder / "temporal", in_memory=True, ui=False, dynamic_config=long) as server:
        yield server


@pytest.fixture(scope="module")
def bare_temporal_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bare_temporal(tmp_path_factory.mktemp("bare")) as server:
        yield server.address


async def ended_in_one_run(client: Client, workflow: str) -> WorkflowExecutionStatus | None:
    """Asks the history, not the list of workflows: the list learns of an end later."""
    described = await client.get_workflow_handle(workflow).describe()
    assert described.run_id == described.raw_info.first_run_id
    return described.status


@pytest.mark.thorough
@on_sqlite
@pytest.mark.usefixtures("only_visible_steps")
async def test_every_step_of_a_deletion_is_one_that_everybody_sees(stack: Stack) -> None:
    """What ran inside a workflow task would have no attempts, no reason and no budget that an operator could look at.

    Only steps of small deletions are tried there first: tests/workflow/test_quick.py.
    """
    (one,) = stack.snapshots("one")
    async with stack.worker():
        handle = await stack.start([one.id], images="delete")
        assert (await handle.result()).complete
    events = (await handle.fetch_history()).events
    scheduled = {event.activity_task_scheduled_event_attributes.activity_type.name for event in events} - {""}
    of_others = {CANCEL_DELETION, PREVIEW_DELETION, SETTLE_IMAGES, WAIT_TO_BEGIN, WAIT_WHILE_HELD}
    assert scheduled == {step.name for step in STEPS if step not in of_others}
    assert not [event for event in events if event.HasField("marker_recorded_event_attributes")]
    assert not [event for event in events if event.HasField("timer_started_event_attributes")]


@pytest.mark.thorough
@on_sqlite
async def test_a_namespace_without_our_search_attributes_is_good_enough(stack: Stack, bare_temporal_address: str) -> None:
    """Registering them takes rights that not everyone has: without them lists cannot be filtered, and no more."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    stack.use_temporal(await connect(bare_temporal_address))
    async with stack.worker():
        receipt = await stack.delete([one.id])
    stack.assert_only_these_are_gone([one.id], before)
    assert receipt.complete


@pytest.mark.thorough
@on_sqlite
async def test_a_large_deletion_is_one_run_to_its_end_however_long_the_server_calls_it(
    stack: Stack, bare_temporal_address: str
) -> None:
    """Its history is bounded by design, so nothing is handed on; a caller that waits for the rows is answered once."""
    snapshots = stack.snapshots(*"abcdefgh")
    before = Seen.of(stack.world)
    request = stack.request(one.id for one in snapshots)
    stack.accept(request)
    stack.use_temporal(await connect(bare_temporal_address))
    async with stack.worker(chunk_artifacts=1, chunks_at_once=1):
        answer = await wait_rows_deleted(stack.client, request)
        handle = stack.client.get_workflow_handle(request.workflow_id)
        await asyncio.wait_for(handle.result(), 40)
    assert len((await handle.fetch_history()).events) > 100
    assert await ended_in_one_run(stack.client, request.workflow_id) == WorkflowExecutionStatus.COMPLETED
    stack.assert_only_these_are_gone([one.id for one in snapshots], before)
    receipt = stack.receipt(request.workflow_id)
    assert receipt.complete
    assert receipt.artifacts.deleted.count == 8
    assert receipt.objects.sealed == receipt.objects.deleted + receipt.objects.absent
    assert answer == RowsGone(artifacts=8, rows=sum(receipt.rows.values()))


@pytest.mark.thorough
@pytest.mark.parametrize("in_one_chunk", [False, True], ids=["many chunks", "many pages"])
@on_sqlite
async def test_many_leftovers_fail_the_deletion_and_a_reset_tries_all_of_them_again(
    stack: Stack,
    bare_temporal_address: str,
    locking_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    in_one_chunk: bool,  # noqa: FBT001
) -> None:
    """Twenty chunks that the store holds on to, or one with a step for each of its pages: no run begins with them anew."""
    stack.use_bucket(locking_bucket)
    ids = [one.id for one in stack.snapshots(*"abcdefghijklmnopqrst")]
    hold(stack, ids, "ON")
    if in_one_chunk:
        for module in (collect_keys, delete_artifacts):
            monkeypatch.setattr(module, "PAGE_KEYS", 1)
    stack.use_temporal(await connect(bare_temporal_address))
    async with stack.worker(chunk_artifacts=20 if in_one_chunk else 1, pages_a_step=1):
        handle = await stack.start(ids)
        assert (await stack.failure(handle)).type == "ObjectsRemain"
        assert await ended_in_one_run(stack.client, handle.id) == WorkflowExecutionStatus.FAILED
        assert stack.receipt(handle.id).left_over == {"AccessDenied": 20}
        asked = (event.activity_task_scheduled_event_attributes for event in (await handle.fetch_history()).events)
        assert sum(one.activity_type.name == DELETE_OBJECTS.name for one in asked) >= 20
        hold(stack, ids, "OFF")
        run = await reset(stack, stack.client.get_workflow_handle(handle.id), OPEN_DELETION.name)
        again = stack.client.get_workflow_handle(handle.id, run_id=run, result_type=DeletionReceipt)
        assert (await asyncio.wait_for(again.result(), 40)).complete


@pytest.mark.thorough
@on_sqlite
async def test_where_they_are_registered_lists_can_be_filtered_by_them(stack: Stack) -> None:
    """Operators ask for deletions of an organization, in a stage, with leftovers."""
    (one,) = stack.snapshots("one")
    async with stack.worker():
        receipt = await stack.delete([one.id])
    described = await stack.client.get_workflow_handle(receipt.workflow_id).describe()
    found = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    assert {name: found[name] for name in SEARCH_ATTRIBUTES} == {
        "OrganizationId": str(stack.organization_id),
        "DeletionStage": "completed",
        "Leftovers": 0,
    }


# What the workflow knows of its steps -----------------------------------------------------------------------------------


@on_sqlite
def test_the_worker_has_every_step_with_the_types_that_the_workflow_expects(stack: Stack) -> None:
    """The workflow knows its steps by name alone: a name or type that differs would only show when it is run."""
    parts = open_parts(stack.settings(), stack.database)
    with ThreadPoolExecutor(1) as pool:
        queues = parts.steps(pool, pool, Pace())
    definitions = [activity._Definition.must_from_callable(one) for queue in queues for one in queue]  # noqa: SLF001
    every = (*STEPS, *BULK_STEPS, *RECONCILE_STEPS)
    assert {(one.name, *(one.arg_types or ()), one.ret_type) for one in definitions} == {
        (step.name, step.takes, step.returns) for step in every
    }
    assert len(definitions) == len(every)
    assert [one.name for one in definitions if not one.no_thread_cancel_exception] == [], "it would strike inside a transaction"
    of_store = {activity._Definition.must_from_callable(one).name for one in queues[1]}  # noqa: SLF001
    of_images, of_looks = {HIDE_IMAGES.name, SETTLE_IMAGES.name}, {RECONCILE_PROJECT.name}
    assert of_store == {
        COLLECT_KEYS.name,
        DELETE_OBJECTS.name,
        SWEEP_PREFIXES.name,
        PREVIEW_DELETION.name,
        *of_images,
        *of_looks,
    }


@pytest.mark.thorough
def test_the_workflow_imports_neither_database_nor_store() -> None:
    """What it does not import it cannot call: a workflow that did would not replay.

    The contract's package is an empty one here, since what a backend imports from it would hide what the workflow imports.
    """
    program = (
        "import sys, types; package = sys.modules['artifact_deletion'] = types.ModuleType('artifact_deletion'); "
        "package.__path__ = ['artifact_deletion']; import workflows.delete_artifacts, workflows.delete_in_bulk, "
        "workflows.preview_deletion, workflows.run_retention, workflows.watch_project_images; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"workflows", "artifact_deletion"} <= imported
    service = {"activities", "settings", "worker", "starter", "composition", "adapters", "pydantic_settings"}
    assert imported.isdisjoint({"sqlalchemy", "boto3", "botocore", "psycopg"} | service)
