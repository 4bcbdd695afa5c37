"""What a deletion as a whole tells Prometheus: how it ended, and how long each of its stages took.

The workflow's meter counts nothing while a history is replayed. No label holds an id: those are in traces and logs.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import MetricCounter, MetricMeter
from temporalio.exceptions import ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.bulk import BULK_KINDS, BulkReceipt
    from artifact_deletion.errors import (
        ArtifactNotInOrganization,
        BulkNotComplete,
        InvalidRequest,
        ProjectNotInOrganization,
    )
    from artifact_deletion.receipt import DeletionReceipt, Stage

_REFUSALS = {error.__name__ for error in (ArtifactNotInOrganization, InvalidRequest, ProjectNotInOrganization)}

OUTCOMES = ("completed", "left_over", "refused", "cancelled", "failed")


def begin_at_zero(meter: MetricMeter) -> None:
    """Let the series of every outcome be there before the first deletion ends."""
    for outcome in OUTCOMES:
        _ended(meter).add(0, {"outcome": outcome})


def bulk_at_zero(meter: MetricMeter) -> None:
    """The same of bulk deletions."""
    for kind in BULK_KINDS:
        _bulk_artifacts(meter).add(0, {"kind": kind})
        for outcome in OUTCOMES:
            _bulk_ended(meter).add(0, {"kind": kind, "outcome": outcome})


def bulk_ended(kind: str, receipt: BulkReceipt | None, failure: BaseException | None) -> None:
    """Count a bulk deletion that has come to its end. Its deletions are counted as all others are."""
    _bulk_ended(workflow.metric_meter()).add(1, {"kind": kind, "outcome": _outcome(receipt, failure)})


def bulk_deleted(kind: str, artifacts: int) -> None:
    """Count artifacts whose rows a deletion of a bulk deletion has deleted."""
    _bulk_artifacts(workflow.metric_meter()).add(artifacts, {"kind": kind})


def deletion_ended(receipt: DeletionReceipt | None, failure: BaseException | None) -> None:
    """Count a deletion that has come to its end."""
    _ended(workflow.metric_meter()).add(1, {"outcome": _outcome(receipt, failure)})


def stage_ended(stage: Stage, took: timedelta) -> None:
    """Time a stage. Its unit becomes the last part of the name."""
    seconds = workflow.metric_meter().create_histogram_timedelta("artifact_deletion_stage", "Time that a stage took")
    seconds.record(took, {"stage": stage.name.lower()})


def _ended(meter: MetricMeter) -> MetricCounter:
    return meter.create_counter("artifact_deletion_deletions", "Deletions that ended, by outcome")


def _bulk_ended(meter: MetricMeter) -> MetricCounter:
    return meter.create_counter("artifact_deletion_bulk", "Bulk deletions that ended, by kind and outcome")


def _bulk_artifacts(meter: MetricMeter) -> MetricCounter:
    return meter.create_counter("artifact_deletion_bulk_artifacts", "Artifacts that bulk deletions deleted, by kind")


def _outcome(receipt: DeletionReceipt | BulkReceipt | None, failure: BaseException | None) -> str:
    if receipt is not None:
        return "completed" if receipt.complete else "left_over"
    if failure is None or is_cancelled_exception(failure):
        return "cancelled"
    kind = failure.type if isinstance(failure, ApplicationError) else None
    return "left_over" if kind == BulkNotComplete.__name__ else "refused" if kind in _REFUSALS else "failed"
