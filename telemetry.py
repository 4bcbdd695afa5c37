"""What a worker shows of itself: metrics over HTTP, log lines, and a file that says it is alive."""

import asyncio
import contextlib
import json
import logging
import re
import traceback
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from temporalio import activity, workflow
from temporalio.common import MetricMeter
from temporalio.exceptions import FailureError
from temporalio.runtime import LogForwardingConfig, LoggingConfig, PrometheusConfig, Runtime, TelemetryConfig, TelemetryFilter

import activities.metrics
import workflows.metrics
from activities.gauges import LedgerGauges
from artifact_deletion.bulk import BULK_WORKFLOW
from artifact_deletion.errors import DeletionError, Misconfigured
from artifact_deletion.request import DELETE_WORKFLOW, TASK_QUEUE
from workflows.steps import DELETE_OBJECTS, OBJECTS_TASK_QUEUE, SETTLE_IMAGES, SWEEP_PREFIXES

ALIVE_EVERY_S = 5.0
_DELETION = re.compile(r"(?:delete|preview)-artifacts/(?P<organization_id>[0-9]+)/(?P<deletion_id>[0-9a-f]{32})")
# A stage takes milliseconds, or days where a store is down.
_STAGE_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 72 * 3600)
_log = logging.getLogger("artifact_deletion.telemetry")


def runtime(metrics_address: str | None = None, *, log_fields: bool = True) -> Runtime:
    """The SDK's threads, with metrics of the SDK and of ours on one endpoint where one is set. Raises Misconfigured.

    The SDK logs through `logging`: by itself it writes to standard output, where JSON and receipts go. `log_fields`: with where
    a line comes from, and with fields that hold addresses.
    """
    metrics = metrics_address and PrometheusConfig(
        metrics_address,
        counters_total_suffix=True,
        unit_suffix=True,
        durations_as_seconds=True,
        histogram_bucket_overrides={"artifact_deletion_stage": _STAGE_SECONDS},
    )
    forwarding = LogForwardingConfig(
        logging.getLogger("temporalio.core"),
        append_target_to_name=log_fields,
        prepend_target_on_message=log_fields,
        append_log_fields_to_message=log_fields,
    )
    logs = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding)
    try:
        return Runtime(telemetry=TelemetryConfig(logging=logs, metrics=metrics or None, attach_service_name=False))
    except ValueError:
        raise Misconfigured("ARTIFACT_DELETION_METRICS_ADDRESS: no metrics can be served there") from None


def begin_at_zero(meter: MetricMeter, namespace: str) -> None:
    """Let each counter's series be there before it counts: Prometheus sees no increase in what begins at 1.

    With the labels that the SDK adds to a workflow's meter and to a step's, so that these are the very same series.
    """

    def of(task_queue: str, **more: str) -> MetricMeter:
        return meter.with_additional_attributes({"namespace": namespace, "task_queue": task_queue, **more})

    workflows.metrics.begin_at_zero(of(TASK_QUEUE, workflow_type=DELETE_WORKFLOW))
    workflows.metrics.bulk_at_zero(of(TASK_QUEUE, workflow_type=BULK_WORKFLOW))
    steps = (DELETE_OBJECTS, SWEEP_PREFIXES, SETTLE_IMAGES)
    activities.metrics.begin_at_zero(*(of(OBJECTS_TASK_QUEUE, activity_type=one.name) for one in steps))


@contextlib.asynccontextmanager
async def reported(gauges: LedgerGauges, every_s: float) -> AsyncIterator[None]:
    """Refresh the gauges until the context ends. An outage of the database is said once, and outlived."""
    refreshing = asyncio.create_task(_refresh(gauges, every_s))
    try:
        yield
    finally:
        refreshing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await refreshing


async def _refresh(gauges: LedgerGauges, every_s: float) -> None:
    trouble = ""
    while True:
        try:
            await asyncio.to_thread(gauges.refresh)
            trouble = ""
        except DeletionError as error:
            if str(error) != trouble:
                _log.warning("the ledger's metrics stand still: %s", error)
            trouble = str(error)
        except Exception as error:  # noqa: BLE001  metrics are no reason for a worker to end
            _log.error("the ledger's metrics stand still: %s", type(error).__name__)  # its message may carry data
        await asyncio.sleep(every_s)


@contextlib.asynccontextmanager
async def alive(file: Path) -> AsyncIterator[None]:
    """Touch a file every few seconds from the loop that polls Temporal, until the context ends; then it goes."""
    touching = asyncio.create_task(_touch(file))
    try:
        yield
    finally:
        touching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await touching
        await asyncio.to_thread(file.unlink, missing_ok=True)


async def _touch(file: Path) -> None:
    while True:
        try:
            file.touch()  # noqa: ASYNC240  a call of microseconds, and the loop's own life is what it shows
        except OSError as error:
            _log.warning("the health file cannot be written: %s", type(error).__name__)
        await asyncio.sleep(ALIVE_EVERY_S)


def log_lines(log_format: str) -> None:
    """Send the process's log to standard error, as text or as one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the worker only looks up the ledger's version
    if log_format == "json":
        logging.captureWarnings(capture=True)
        activity.logger.activity_info_on_message = workflow.logger.workflow_info_on_message = False


class TextLines(logging.Formatter):
    """For a person. Of an exception, where it was raised, and what our own errors and Temporal's say."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's name
        return _shown(ei[1], ei[2])


class JsonLines(logging.Formatter):
    """For a log store: what is known of the step that speaks, by name."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_step(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _shown(record.exc_info[1], record.exc_info[2])
        return json.dumps(line, default=str)


def _step(record: logging.LogRecord) -> dict[str, Any]:
    """The workflow, deletion, activity and attempt that a line is of, as far as they are known."""
    of_activity: dict[str, Any] = getattr(record, "temporal_activity", {})
    if not of_activity and activity.in_activity():
        of_activity = vars(activity.info())
    known = of_activity or getattr(record, "temporal_workflow", {})
    step = {"workflow_id": known.get("workflow_id"), "run_id": known.get("workflow_run_id") or known.get("run_id")}
    if of_activity:
        step |= {"activity": known["activity_type"], "attempt": known["attempt"]}
    if found := _DELETION.fullmatch(str(known.get("workflow_id"))):
        step |= {"organization_id": int(found["organization_id"]), "deletion_id": found["deletion_id"]}
    return {name: value for name, value in step.items() if value is not None}


def _shown(error: BaseException, trace: TracebackType | None) -> str:
    """What may be said of an exception: the messages of strangers carry keys and values."""
    said = f": {error}" if isinstance(error, DeletionError | FailureError) else ""
    place = "; ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace))
    return f"{type(error).__name__}{said}{f' at {place}' if place else ''}"
