"""A run's history is bounded by design: computed from the code's own constants, and measured on a real server.

Temporal warns at 10,240 events or 10 MB, and ends a workflow at five times as much. Nothing is handed on to another run, so the
largest deletion that there may be must fit.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from artifact_deletion.client import start_deletion, wait_rows_deleted
from artifact_deletion.errors import StaleSeal, to_application_error
from artifact_deletion.receipt import (
    ArtifactsReceipt,
    DeletionReceipt,
    FilesReceipt,
    GoneBefore,
    Ids,
    ManifestsReceipt,
    ObjectsReceipt,
    Stage,
    TimesReceipt,
    TraceItemsReceipt,
)
from artifact_deletion.request import MAX_ARTIFACTS, TASK_QUEUE, DeletionRequest
from tests.stack import eventually
from workflows import steps
from workflows.delete_artifacts import SEALS_TRIED, DeleteArtifactsWorkflow
from workflows.steps import MAX_CHUNKS, MAX_OBJECT_STEPS, OBJECTS_TASK_QUEUE, STEPS

MAX_EVENTS, MAX_BYTES = 10_000, 10_000_000
_A_STEP = 3
"""Events: scheduled, started, ended. However often it is tried again, there are no more."""
_A_TASK = 3
"""Events of the workflow task that follows: scheduled, started, completed."""

# How often a run may have each of its steps. A person's holds come on top: each makes the steps that it holds up begin anew.
ONCE = (
    *(steps.OPEN_DELETION, steps.WAIT_TO_BEGIN, steps.WATCH_IMAGES, steps.HIDE_IMAGES),
    *(steps.CLOSE_DELETION, steps.CANCEL_DELETION),
)
EACH_SEAL = (steps.COLLECT_KEYS, steps.DELETE_ROWS)
EACH_CHUNK = (steps.DELETE_TRACE_ITEMS, steps.SWEEP_PREFIXES)
OBJECT_STEPS = (steps.DELETE_OBJECTS,)
OF_A_HOLD, OF_OTHERS = (steps.WAIT_WHILE_HELD,), (steps.PREVIEW_DELETION, steps.SETTLE_IMAGES)


def worst_case() -> int:
    """Events of the largest run, if no two steps end in time for one workflow task."""
    of_chunks = MAX_CHUNKS * (SEALS_TRIED * len(EACH_SEAL) + len(EACH_CHUNK))
    all_steps = len(ONCE) + of_chunks + len(OBJECT_STEPS) * MAX_OBJECT_STEPS
    # Search attributes are set when the stage or the number of leftovers changes.
    upserts = len(Stage) + MAX_OBJECT_STEPS + MAX_CHUNKS
    started_asked_to_cancel_and_ended, an_update = 3, 2
    return started_asked_to_cancel_and_ended + an_update + _A_TASK + all_steps * (_A_STEP + _A_TASK) + upserts


def test_the_longest_history_that_there_may_be_is_within_temporals_limits() -> None:
    """A constant that is raised, or a step that is added, makes this red before it makes a deletion end."""
    assert worst_case() < MAX_EVENTS


def test_every_step_is_in_the_computation() -> None:
    """A new step is counted with those that it is as often as."""
    counted = (*ONCE, *EACH_SEAL, *EACH_CHUNK, *OBJECT_STEPS, *OF_A_HOLD, *OF_OTHERS)
    assert sorted(step.name for step in counted) == sorted(step.name for step in STEPS)


IDS = range(2**63 - MAX_ARTIFACTS, 2**63)
PACE = steps.Pace(chunks_at_once=1, object_steps_at_once=1, trace_store=True, search_attributes=True)
"""One after another, so that each step has a workflow task of its own."""


def longest_receipt(request: DeletionRequest) -> DeletionReceipt:
    """Each list of ids as long as it may be."""
    ids, now = Ids.of(IDS), datetime.now(UTC)
    return DeletionReceipt(
        deletion_id=request.deletion_id,
        workflow_id=request.workflow_id,
        organization_id=request.organization_id,
        requested_artifacts=len(request.artifact_ids),
        requested_by=request.requested_by,
        reference=request.reference,
        complete=False,
        artifacts=ArtifactsReceipt(
            deleted=ids,
            moved=ids,
            not_reached=ids,
            reappeared=ids,
            gone_before=GoneBefore(
                by_deletion={f"{request.workflow_id}{number}": ids for number in range(1000)}, swept=ids, objects_unchecked=ids
            ),
        ),
        rows={f"sentry_table_{number}": 2**40 for number in range(20)},
        files=FilesReceipt(kept={f"reason {number}": ids for number in range(10)}),
        objects=ObjectsReceipt(left_over={f"Code{number}": 2**40 for number in range(100)}),
        manifests=ManifestsReceipt(),
        trace_items=TraceItemsReceipt(),
        times=TimesReceipt(accepted=now, closed=now),
    )


class LargestDeletion:
    """Fakes of the steps: a real deletion of ten million keys would take hours. What they return is as large as it may be."""

    def __init__(self, request: DeletionRequest) -> None:
        self.request = request
        self.seals: dict[int, int] = {}
        self.object_steps = 0

    @activity.defn(name=steps.OPEN_DELETION.name)
    async def open_deletion(self, opening: steps.Opening) -> steps.Opened:
        assert opening.request == self.request
        chunks = tuple(steps.UnfinishedChunk(chunk=number, released=None) for number in range(MAX_CHUNKS))
        return steps.Opened(fence=0, chunks=chunks, rows_deleted=0, pace=PACE, begins_at=datetime.now(UTC))

    @activity.defn(name=steps.WAIT_TO_BEGIN.name)
    async def wait_to_begin(self, _deletion: steps.Deletion) -> steps.Due:
        return steps.Due()

    @activity.defn(name=steps.COLLECT_KEYS.name)
    async def collect_keys(self, chunk: steps.Chunk) -> steps.Seal:
        self.seals[chunk.chunk] = self.seals.get(chunk.chunk, 0) + 1
        return steps.Seal(epoch=self.seals[chunk.chunk], pages=2**31, digest="0" * 64)

    @activity.defn(name=steps.DELETE_ROWS.name)
    async def delete_rows(self, sealed: steps.SealedChunk) -> steps.Released:
        if sealed.seal.epoch < SEALS_TRIED:
            raise to_application_error(StaleSeal(f"chunk {sealed.chunk}: the ledger holds another seal; nothing was deleted"))
        return steps.Released(rows=2**31, first_page=0, end_page=100_000, keys=10**8, trace_items_owed=True)

    @activity.defn(name=steps.DELETE_OBJECTS.name)
    async def delete_objects(self, pages: steps.PageRange) -> steps.ObjectsDeleted:
        assert pages.end > pages.first
        self.object_steps += 1
        return steps.ObjectsDeleted(settled=pages.end * 1000, left_over=1)

    @activity.defn(name=steps.DELETE_TRACE_ITEMS.name)
    async def delete_trace_items(self, _chunk: steps.Chunk) -> steps.TraceItemsDeleted:
        return steps.TraceItemsDeleted(matched=2**31, confirmed=False)

    @activity.defn(name=steps.SWEEP_PREFIXES.name)
    async def sweep_prefixes(self, _chunk: steps.Chunk) -> steps.Swept:
        return steps.Swept(found=2**31, left_over=1)

    @activity.defn(name=steps.WATCH_IMAGES.name)
    async def watch_images(self, _deletion: steps.Deletion) -> steps.ImagesWatched:
        return steps.ImagesWatched(projects=MAX_ARTIFACTS)

    @activity.defn(name=steps.HIDE_IMAGES.name)
    async def hide_images(self, _deletion: steps.Deletion) -> steps.ImagesHidden:
        return steps.ImagesHidden(hidden=2**31, kept=2**31, left_over=1)

    @activity.defn(name=steps.CLOSE_DELETION.name)
    async def close_deletion(self, _deletion: steps.Deletion) -> DeletionReceipt:
        return longest_receipt(self.request).for_history()

    @activity.defn(name=steps.CANCEL_DELETION.name)
    async def cancel_deletion(self, _deletion: steps.Deletion) -> steps.Cancelled:
        return steps.Cancelled(nothing_deleted=False)

    def of_queue(self, *wanted: steps.Step[Any, Any]) -> list[Any]:
        return [getattr(self, step.name) for step in wanted]


@pytest.mark.thorough
async def test_the_largest_deletion_that_there_may_be_is_within_temporals_limits(client: Client) -> None:
    """As many chunks and object steps as a run may have, each seal but the last stale, leftovers everywhere, a late cancel."""
    request = DeletionRequest(organization_id=2**63 - 1, artifact_ids=IDS, requested_by="u" * 128, reference="r" * 128)
    request = request.model_copy(update={"images": "delete"})
    fakes = LargestDeletion(request)
    of_store = (steps.COLLECT_KEYS, steps.DELETE_OBJECTS, steps.SWEEP_PREFIXES, steps.HIDE_IMAGES)
    of_database = (*(step for step in ONCE if step not in of_store), steps.DELETE_ROWS, steps.DELETE_TRACE_ITEMS)
    async with (
        Worker(client, task_queue=OBJECTS_TASK_QUEUE, activities=fakes.of_queue(*of_store)),
        Worker(client, task_queue=TASK_QUEUE, workflows=[DeleteArtifactsWorkflow], activities=fakes.of_queue(*of_database)),
    ):
        handle = await start_deletion(client, request)
        rows_gone = asyncio.create_task(wait_rows_deleted(client, request))

        async def rows_are_going() -> bool:
            return fakes.object_steps > 0

        await eventually(rows_are_going)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert (await rows_gone).artifacts == MAX_ARTIFACTS
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.details, "the receipt"
    assert fakes.object_steps == MAX_OBJECT_STEPS
    described = (await handle.describe()).raw_description.workflow_execution_info
    assert MAX_EVENTS / 2 < described.history_length <= worst_case()
    assert described.history_size_bytes < MAX_BYTES
