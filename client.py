"""What a backend calls: accept a deletion in its own transaction, start it, wait for its rows, look at it.

What is accepted is in the ledger, even while Temporal is down: whatever is not started then, `resume` starts later. A request
handler asks one of two facades, `Deletions` with asyncio or `BlockingDeletions` without, and is answered within its deadline.
"""

import asyncio
import atexit
import contextlib
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVarTuple, Unpack

from pydantic import ValidationError
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
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
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

from activities.storage import ledger
from activities.storage.database import Database
from activities.storage.ledger import Deletion, DeletionState
from workflows import errors
from workflows.converter import connect
from workflows.errors import AskAgain, DeletionError, RowsNotDeleted, TemporalUnreachable
from workflows.messages import (
    PREVIEW_WORKFLOW_NAME,
    ROWS_DELETED_UPDATE_ID,
    SEARCH_ATTRIBUTES,
    TASK_QUEUE,
    WORKFLOW_NAME,
    AllRowsDeleted,
    DeletionReceipt,
    DeletionRequest,
    Preview,
    Progress,
)

Given = TypeVarTuple("Given")
_log = logging.getLogger("artifact_deletion.client")
_ANSWERS_WITHIN = timedelta(seconds=3)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_OPEN = (DeletionState.ACCEPTED, DeletionState.RUNNING)


class NoSuchDeletion(LookupError):
    """The ledger knows no deletion of that id."""


@dataclass(frozen=True)
class Recorded:
    """A deletion as the ledger has it."""

    request: DeletionRequest
    state: DeletionState
    accepted_at: datetime
    receipt: DeletionReceipt | None


def accept_deletion(session: Session | Connection, request: DeletionRequest, *, reason: str | None = None) -> str:
    """Write a deletion down in the caller's own transaction, and return its workflow id. Asking twice is asking once.

    With an AsyncSession: `await session.run_sync(accept_deletion, request)`. `reason` is free text for the ledger alone; it
    never reaches Temporal. Once the caller has committed, the deletion will happen.
    """
    if isinstance(session, Connection):
        with Session(session, join_transaction_mode="rollback_only") as own:
            ledger.accept(own, request, reason)
    else:
        ledger.accept(session, request, reason)
    return request.workflow_id


@dataclass(frozen=True)
class Trying:
    """A step that did not succeed yet, and is tried again."""

    step: str
    attempt: int
    failure: str
    """The last one."""

    def __str__(self) -> str:
        return f"{self.step}, attempt {self.attempt}: {self.failure}"


async def start_deletion(client: Client, request: DeletionRequest) -> WorkflowHandle[Any, DeletionReceipt]:
    """Start a deletion, or find it running or completed. One that failed or was cancelled runs again and does what is left."""
    return await client.start_workflow(WORKFLOW_NAME, request, **_start_options(request))


async def wait_rows_deleted(client: Client, request: DeletionRequest) -> AllRowsDeleted:
    """Start the deletion if need be, and return once its rows are gone: two round trips, while objects go in the background.

    Raises temporalio's WorkflowUpdateFailedError if the deletion ends before its rows are gone (its cause names why).
    """
    pause = _FIRST_PAUSE_S
    while True:
        running = await start_deletion(client, request)
        try:
            return await _rows_deleted(client, request, f"{ROWS_DELETED_UPDATE_ID}-{running.result_run_id}")
        except WorkflowUpdateFailedError as error:
            if not isinstance(error.cause, ApplicationError) or error.cause.type != AskAgain.__name__:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


async def _rows_deleted(client: Client, request: DeletionRequest, update_id: str) -> AllRowsDeleted:
    """Ask the run that is there. Where it has ended unasked, the server starts another for it."""
    start: WithStartWorkflowOperation[Any, DeletionReceipt]
    start = WithStartWorkflowOperation(WORKFLOW_NAME, request, **_start_options(request))
    try:
        answer: AllRowsDeleted = await client.execute_update_with_start_workflow(
            "rows_deleted", start_workflow_operation=start, id=update_id, result_type=AllRowsDeleted
        )
    except (RPCError, RPCTimeoutOrCancelledError) as error:
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await start.workflow_handle()  # its future fails too, and would be reported as never looked at
        if isinstance(error.__cause__, asyncio.CancelledError):
            raise error.__cause__ from None
        raise
    return answer


def _start_options(request: DeletionRequest) -> dict[str, Any]:
    """Once at a time. A run of what is complete already finds that in the ledger, and returns the receipt."""
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


async def preview_deletion(client: Client, request: DeletionRequest) -> Preview:
    """What the deletion would do if it ran now. Raises temporalio's WorkflowFailureError if it cannot be told."""
    preview: Preview = await client.execute_workflow(
        PREVIEW_WORKFLOW_NAME,
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
    answer: Progress = await handle.query("progress", result_type=Progress, rpc_timeout=_ANSWERS_WITHIN)
    return answer


async def trying_again(client: Client, workflow: str) -> list[Trying]:
    """The steps of a running deletion that are tried again, and why: the reason if it is stuck. Needs no worker."""
    described = await client.get_workflow_handle(workflow).describe()
    return [
        Trying(pending.activity_type.name, pending.attempt, pending.last_failure.message)
        for pending in described.raw_description.pending_activities
        if pending.HasField("last_failure")
    ]


def recorded(database: Database, workflow: str) -> Recorded:
    """A deletion by its workflow id, or by the digest at its end. Raises NoSuchDeletion."""
    with database.read() as session:
        row = session.execute(select(Deletion).where(Deletion.id == workflow.rpartition("/")[2])).scalar_one_or_none()
        if row is None:
            raise NoSuchDeletion(f"the ledger knows no deletion {workflow!r}")
        return Recorded(
            request=DeletionRequest.model_validate(row.request),
            state=DeletionState(row.state),
            accepted_at=row.accepted_at,
            receipt=None if row.receipt is None else DeletionReceipt.model_validate(row.receipt),
        )


def receipt(database: Database, workflow: str) -> DeletionReceipt | None:
    """The receipt as the ledger has it, complete or with leftovers; None while there is none. Raises NoSuchDeletion."""
    return recorded(database, workflow).receipt


async def resume(client: Client, database: Database) -> list[str]:
    """Start every open deletion that nobody runs: accepted while Temporal was down, or lost with its data."""
    with database.read() as session:
        found = session.execute(
            select(Deletion.id, Deletion.request).where(Deletion.state.in_(_OPEN)).order_by(Deletion.accepted_at)
        ).all()
    started = []
    for deletion_id, asked in found:
        try:
            request = DeletionRequest.model_validate(asked)
        except ValidationError:
            # Written by another version: the others need not wait until somebody has looked at it.
            _log.error("deletion %s: its request in the ledger is none that this version knows", deletion_id)
            continue
        if request.deletion_id != deletion_id:
            _log.error("deletion %s: its request's own id is %s", deletion_id, request.deletion_id)
            continue
        if not await is_running(client, request.workflow_id):
            await start_deletion(client, request)
            started.append(request.workflow_id)
    return started


async def register_search_attributes(client: Client) -> list[str]:
    """Add those of our search attributes that the namespace lacks. Safe to repeat. On Temporal Cloud, make them beforehand."""
    types = {"Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD, "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT}
    operator = client.operator_service
    known = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    missing = {name: types[kind] for name, kind in SEARCH_ATTRIBUTES.items() if name not in known.custom_attributes}
    if missing:
        await operator.add_search_attributes(AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing))
    return sorted(missing)


async def is_running(client: Client, workflow: str) -> bool:
    try:
        found = await client.get_workflow_handle(workflow).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return found.status is WorkflowExecutionStatus.RUNNING


# For request handlers -------------------------------------------------------------------------------------------------


class Deletions:
    """For handlers with asyncio: one client for all calls, made by the first one and again when that failed.

    One instance serves one event loop.
    """

    def __init__(self, connect_: Callable[[], Awaitable[Client]] = connect) -> None:
        """Touches no network: a backend may make one when it is imported."""
        self._connect = connect_
        self._connecting: asyncio.Future[Client] | None = None

    async def rows_deleted(self, request: DeletionRequest, *, within: timedelta) -> AllRowsDeleted | None:
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
        except (RPCError, RPCTimeoutOrCancelledError, TemporalUnreachable) as error:
            _log.warning("%s: Temporal cannot be used now (%s)", request.workflow_id, type(error).__name__)
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


class BlockingDeletions:
    """For handlers without asyncio, under threads and prefork servers: one client a process, none of which lives across a fork.

    The SDK's threads leave locks behind that corrupt a forked child, so they end before each fork and are started anew when
    somebody asks; calls that other threads have open then are asked again.
    """

    def __init__(self, connect_: Callable[[Runtime], Awaitable[Client]] = connect) -> None:
        """Touches no network and starts no thread: a backend may make one when it is imported."""
        self._connect = connect_
        self._lock = threading.Lock()
        self._running: _Running | None = None
        with _forks:
            _blocking.add(self)

    def rows_deleted(self, request: DeletionRequest, *, within: timedelta) -> AllRowsDeleted | None:
        """See Deletions."""
        until = time.monotonic() + within.total_seconds()
        while True:
            with self._lock:
                if self._running is None:
                    self._running = _Running(self._connect)
                running = self._running
                left = timedelta(seconds=max(0, until - time.monotonic()))
                answer = asyncio.run_coroutine_threadsafe(running.deletions.rows_deleted(request, within=left), running.loop)
            try:
                return answer.result()
            except CancelledError:
                if not running.ended_by_fork:
                    raise
            except BaseException:
                answer.cancel()
                raise

    def close(self) -> None:
        """Give up open calls and end the thread; the next call starts another."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _before_fork(self) -> None:
        self._lock.acquire()  # until the fork is over, so that nobody starts another in between
        running, self._running = self._running, None
        if running is not None:
            running.ended_by_fork = True
            running.stop()

    def _after_fork(self) -> None:
        self._lock.release()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that knows whether a thread of the SDK is in it."""

    inside = 0

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Given]], object], *args: *Given, context: Context | None = None
    ) -> asyncio.Handle:
        # How the SDK's threads hand over results. They hold the GIL from here to their end, so 0 means that none needs it.
        self.inside += 1
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        finally:
            self.inside -= 1


class _Running:
    """A thread with an event loop and a client in it, on threads of the SDK that are its own and end with it."""

    def __init__(self, connect_: Callable[[Runtime], Awaitable[Client]]) -> None:
        runtime = Runtime(telemetry=TelemetryConfig())
        self.ended_by_fork = False
        self.loop = _Loop()
        self._stopped = asyncio.Event()
        self.deletions = Deletions(lambda: connect_(runtime))
        self._thread = threading.Thread(target=self._run, name="artifact-deletion", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        while self.loop.inside:  # a thread of the SDK that still wants the GIL could neither be waited for nor be left behind
            time.sleep(0.001)
        del self.deletions  # and with it the client and the SDK's threads
        gc.collect()  # which may hang in a cycle

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:  # which cancels the calls that are still open at its end
            runner.run(self._stopped.wait())


_blocking: weakref.WeakSet[BlockingDeletions] = weakref.WeakSet()
_forks = threading.Lock()
"""Held during a fork: another thread's has to wait for its end."""
_forking: list[BlockingDeletions] = []


def _before_fork() -> None:
    _forks.acquire()
    _forking.extend(sorted(_blocking, key=id))
    for one in _forking:
        one._before_fork()  # noqa: SLF001  of this file


def _after_fork() -> None:
    for one in _forking:
        one._after_fork()  # noqa: SLF001  of this file
    _forking.clear()
    _forks.release()


def _at_exit() -> None:
    # An interpreter that ends while a call of the SDK is open can wait for it for ever.
    for one in list(_blocking):
        one.close()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
atexit.register(_at_exit)


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
