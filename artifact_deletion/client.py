"""Temporal's side of a deletion: start it, wait for its rows, see how far it is.

A request handler with asyncio asks `Deletions`, one without `BlockingDeletions` (artifact_deletion/blocking.py). Both answer
within their deadline. A deletion that Temporal did not take then is started later, by `resume`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    RPCTimeoutOrCancelledError,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from artifact_deletion import errors
from artifact_deletion.bulk import BULK_PRIORITY, BULK_WORKFLOW, BulkProgress, BulkReceipt, BulkRequest
from artifact_deletion.converter import connect, unreachable
from artifact_deletion.errors import DeletionError, RowsNotDeleted, TemporalUnreachable, WorkflowIdTaken
from artifact_deletion.receipt import DeletionReceipt, Preview, Progress, RowsGone
from artifact_deletion.request import (
    DELETE_WORKFLOW,
    PREVIEW_WORKFLOW,
    PROGRESS_QUERY,
    ROWS_DELETED_UPDATE,
    TASK_QUEUE,
    DeletionRequest,
)

_log = logging.getLogger("artifact_deletion.client")
_ANSWERS_WITHIN = timedelta(seconds=3)


async def start_deletion(client: Client, request: DeletionRequest) -> WorkflowHandle[Any, DeletionReceipt]:
    """Start a deletion, or find it running. One that failed or was cancelled runs again and does the rest.

    A run of a complete deletion returns its receipt.
    """
    return await client.start_workflow(DELETE_WORKFLOW, request, **_start_options(request))


async def wait_rows_deleted(client: Client, request: DeletionRequest) -> RowsGone:
    """Start the deletion if need be, and return once its rows are gone: two round trips, while objects go in the background.

    Raises temporalio's WorkflowUpdateFailedError if the deletion ends before its rows are gone (its cause names why).
    """
    running = await start_deletion(client, request)
    # One id for all callers of a run: the server then answers all of them from one update.
    update_id = f"rows-deleted-{running.result_run_id}"
    start: WithStartWorkflowOperation[Any, DeletionReceipt]
    start = WithStartWorkflowOperation(DELETE_WORKFLOW, request, **_start_options(request))
    try:
        # With a start, so that a run that has ended in between is no obstacle.
        answer: RowsGone = await client.execute_update_with_start_workflow(
            ROWS_DELETED_UPDATE, start_workflow_operation=start, id=update_id, result_type=RowsGone
        )
    except (RPCError, RPCTimeoutOrCancelledError) as error:
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await start.workflow_handle()  # its future fails too, and would be reported as never looked at
        if isinstance(error.__cause__, asyncio.CancelledError):
            raise error.__cause__ from None
        raise
    return answer


def _start_options(request: DeletionRequest) -> dict[str, Any]:
    """Under one id Temporal runs a deletion once at a time."""
    return {
        "id": request.workflow_id,
        "task_queue": TASK_QUEUE,
        "priority": Priority(fairness_key=str(request.organization_id)),
        "result_type": DeletionReceipt,
        "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
        "id_reuse_policy": WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        "static_summary": request.summary,
        "static_details": request.details,
    }


async def start_bulk(client: Client, request: BulkRequest) -> WorkflowHandle[Any, BulkReceipt]:
    """Start a bulk deletion, or find it running. One that has ended runs again and does the rest."""
    return await client.start_workflow(
        BULK_WORKFLOW,
        request,
        id=request.workflow_id,
        task_queue=TASK_QUEUE,
        result_type=BulkReceipt,
        priority=Priority(priority_key=BULK_PRIORITY, fairness_key=str(request.organization_id)),
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        static_summary=request.summary,
        static_details=request.details,
    )


async def bulk_progress(client: Client, workflow: str) -> BulkProgress:
    """How far a bulk deletion is, in counts. Raises RPCError as `progress` does."""
    handle = client.get_workflow_handle(workflow)
    answer: BulkProgress = await handle.query(PROGRESS_QUERY, result_type=BulkProgress, rpc_timeout=_ANSWERS_WITHIN)
    return answer


async def preview_deletion(client: Client, request: DeletionRequest) -> Preview:
    """What the deletion would do if it ran now. Raises temporalio's WorkflowFailureError if there is no telling."""
    preview: Preview = await client.execute_workflow(
        PREVIEW_WORKFLOW,
        request,
        id=request.preview_id,
        task_queue=TASK_QUEUE,
        result_type=Preview,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        static_summary=f"Preview: {request.summary}",
    )
    return preview


async def progress(client: Client, workflow: str) -> Progress:
    """How far a deletion is, in counts. Raises RPCError where Temporal knows no such workflow, or no worker answers in time."""
    handle = client.get_workflow_handle(workflow)
    answer: Progress = await handle.query(PROGRESS_QUERY, result_type=Progress, rpc_timeout=_ANSWERS_WITHIN)
    return answer


@dataclass(frozen=True)
class Trying:
    """A step that did not succeed yet, and is tried again."""

    step: str
    attempt: int
    reason: str
    """Of its last attempt."""

    def __str__(self) -> str:
        return f"{self.step}, attempt {self.attempt}: {self.reason}"


async def trying_again(client: Client, workflow: str) -> list[Trying]:
    """The steps of a running deletion that wait or are tried again, and why: the reason if it is stuck. Needs no worker."""
    described = await client.get_workflow_handle(workflow).describe()
    return [
        Trying(pending.activity_type.name, pending.attempt, pending.last_failure.message)
        for pending in described.raw_description.pending_activities
        if pending.HasField("last_failure")
    ]


async def is_running(client: Client, request: DeletionRequest) -> bool:
    """Whether a run of the deletion is at work. Raises WorkflowIdTaken if something else runs under its id."""
    try:
        found = await client.get_workflow_handle(request.workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    if found.status is not WorkflowExecutionStatus.RUNNING:
        return False
    if (found.workflow_type, found.task_queue) != (DELETE_WORKFLOW, TASK_QUEUE):
        raise WorkflowIdTaken(
            f"{request.workflow_id} is taken by a workflow that is not ours (its type or task queue is another): nothing will "
            f"be deleted; terminate it, then run `python starter.py resume`"
        )
    return True


async def resume(client: Client, requests: Iterable[DeletionRequest]) -> list[str]:
    """Start each of these deletions that no run is at work on (see `deletions_to_start`). Returns the ids of those started."""
    started = []
    for request in requests:
        try:
            if await is_running(client, request):
                continue
        except WorkflowIdTaken as taken:
            _log.error("%s", taken)
            continue
        await start_deletion(client, request)
        started.append(request.workflow_id)
    return started


class Deletions:
    """For handlers with asyncio: one client for all calls, made by the first one and again when that failed.

    One instance serves one event loop.
    """

    def __init__(self, connect_: Callable[[], Awaitable[Client]] = connect) -> None:
        """Touches no network: a backend may make one when it is imported."""
        self._connect = connect_
        self._connecting: asyncio.Future[Client] | None = None
        self._looking = set[asyncio.Task[None]]()

    async def rows_deleted(self, request: DeletionRequest, *, within: timedelta) -> RowsGone | None:
        """Start an accepted deletion and wait for its rows. None: not within the deadline, or Temporal cannot be reached.

        With None the handler answers 202: the deletion goes on, or `resume` starts it. Raises the error with which a
        deletion ended before its rows were gone: ArtifactNotInOrganization, ProjectNotInOrganization, RowsNotDeleted, ….
        """
        try:
            async with asyncio.timeout(within.total_seconds()):
                client = await self._client()
                try:
                    return await wait_rows_deleted(client, request)
                except WorkflowUpdateFailedError:
                    raise await _end_of(client, request) from None
        except TimeoutError:
            _log.info("%s: its rows are not gone within %s", request.workflow_id, within)
            self._say_if_taken(request)
        except TemporalUnreachable as error:
            _log.warning("%s: %s", request.workflow_id, error)
        except (RPCError, RPCTimeoutOrCancelledError) as error:
            _log.warning("%s: %s", request.workflow_id, unreachable(error))
            self._say_if_taken(request)
        return None

    async def _client(self) -> Client:
        """Many calls wait for one attempt to connect, which goes on when one of them has no more time."""
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
            self._connecting.add_done_callback(self._forget_failure)
        return await asyncio.shield(self._connecting)

    def _forget_failure(self, connecting: asyncio.Future[Client]) -> None:
        if connecting.cancelled() or connecting.exception() is not None:
            self._connecting = None

    def _say_if_taken(self, request: DeletionRequest) -> None:
        """Log, behind the handler's answer, if a stranger's workflow stands in the deletion's place."""
        if self._connecting is not None and self._connecting.done():
            looking = asyncio.ensure_future(_say_if_taken(self._connecting.result(), request))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)


async def _say_if_taken(client: Client, request: DeletionRequest) -> None:
    with contextlib.suppress(RPCError, RPCTimeoutOrCancelledError, TimeoutError):
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN.total_seconds()):
                await is_running(client, request)
        except WorkflowIdTaken as taken:
            _log.error("%s", taken)


async def _end_of(client: Client, request: DeletionRequest) -> DeletionError:
    """Why a deletion ended before its rows were gone."""
    try:
        await client.get_workflow_handle(request.workflow_id).result()
    except WorkflowFailureError as failure:
        if isinstance(cause := failure.cause, ApplicationError):
            named = getattr(errors, cause.type or "", None)
            if isinstance(named, type) and issubclass(named, DeletionError):
                return named(cause.message)
    return RowsNotDeleted("the deletion ended before all rows were deleted; a re-run does the rest")
