"""What a deletion as a whole tells Prometheus: how it ended, and how long each of its stages took.

The workflow's meter counts nothing while a history is replayed. No label holds an id: those are in traces and logs.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.errors import ArtifactNotInOrganization, InvalidRequest, ProjectNotInOrganization
    from artifact_deletion.receipt import DeletionReceipt, Stage

_REFUSALS = {error.__name__ for error in (ArtifactNotInOrganization, InvalidRequest, ProjectNotInOrganization)}


def deletion_ended(receipt: DeletionReceipt | None, failure: BaseException | None) -> None:
    """Count a deletion that has come to its end."""
    counter = workflow.metric_meter().create_counter("artifact_deletion_deletions", "Deletions that ended, by outcome")
    counter.add(1, {"outcome": _outcome(receipt, failure)})


def stage_ended(stage: Stage, took: timedelta) -> None:
    """Time a stage. Its unit becomes the last part of the name."""
    seconds = workflow.metric_meter().create_histogram_timedelta("artifact_deletion_stage", "Time that a stage took")
    seconds.record(took, {"stage": stage.name.lower()})


def _outcome(receipt: DeletionReceipt | None, failure: BaseException | None) -> str:
    if receipt is not None:
        return "completed" if receipt.complete else "left_over"
    if failure is None or is_cancelled_exception(failure):
        return "cancelled"
    return "refused" if isinstance(failure, ApplicationError) and failure.type in _REFUSALS else "failed"
