"""Deletions run for days: a worker of the next version takes over in the middle, and replays what the last one recorded."""

import json
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.common import RawValue
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from artifact_deletion.converter import data_converter
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DELETE_WORKFLOW
from tests.stack import ROOT
from workflows.budgets import SWEEPS
from workflows.delete_artifacts import DeleteArtifactsWorkflow
from workflows.delete_in_bulk import DeleteInBulkWorkflow
from workflows.inputs import NO_REQUEST
from workflows.preview_deletion import PreviewDeletionWorkflow
from workflows.reconcile import ReconcileWorkflow
from workflows.run_retention import RunRetentionWorkflow
from workflows.steps import SWEEP_PREFIXES, Chunk, Released

HISTORIES = sorted((ROOT / "tests" / "histories").glob("*.json"))


def history_of(recorded: Path) -> WorkflowHistory:
    history = json.loads(recorded.read_text())
    started = history["events"][0]["workflowExecutionStartedEventAttributes"]
    return WorkflowHistory.from_json(started["workflowId"], history)


@pytest.mark.parametrize("recorded", HISTORIES, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(recorded: Path) -> None:
    """As `record_histories.py` has recorded it."""
    known = [
        DeleteArtifactsWorkflow,
        DeleteInBulkWorkflow,
        PreviewDeletionWorkflow,
        ReconcileWorkflow,
        RunRetentionWorkflow,
    ]
    replayer = Replayer(workflows=known, data_converter=data_converter)
    await replayer.replay_workflow(history_of(recorded))


def test_histories_of_every_course_are_recorded() -> None:
    """Without files the replay above would pass, having replayed nothing."""
    assert {path.stem for path in HISTORIES} == {
        "asked_again",
        "bulk",
        "bulk_handed_on",
        "bulk_taken_up",
        "cancel_refused",
        "cancelled",
        "cancelled_in_time",
        "collected_again",
        "held_trace_items",
        "held_twice",
        "left_over",
        "many_pages",
        "never_collected",
        "no_trace_store",
        "over_a_ceiling",
        "owed_by_others",
        "plain",
        "preview",
        "reconcile_handed_on",
        "reconcile_taken_up",
        "refused",
        "rerun",
        "reset_after_cancel",
        "retried",
        "rows_by_chunk",
        "swept_again",
        "waited",
        "waited_for_its_time",
    }


@workflow.defn(name=DELETE_WORKFLOW)
class SweepsFirst(DeleteArtifactsWorkflow):
    """The same steps in another order."""

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> DeletionReceipt:
        return await super().run(raw)

    async def _delete_objects(self, chunk: Chunk, released: Released) -> None:
        await self._try(SWEEP_PREFIXES, chunk, SWEEPS, "sweep")
        await super()._delete_objects(chunk, released)


async def test_a_workflow_whose_order_was_changed_does_not_replay() -> None:
    """The replay of recorded histories is worth something only if it can fail."""
    replayer = Replayer(workflows=[SweepsFirst], data_converter=data_converter, workflow_runner=UnsandboxedWorkflowRunner())
    with pytest.raises(workflow.NondeterminismError, match=r"does not match activity type .* 'sweep_prefixes'"):
        await replayer.replay_workflow(history_of(next(path for path in HISTORIES if path.stem == "plain")))
