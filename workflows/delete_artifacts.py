"""One deletion, step by step: what happens, in which order, and how long each step may take.

Collect keys, delete the rows in one transaction a chunk, delete objects and trace items, sweep, wait, sweep again, close. All
that a step needs beyond ids stands in the ledger, so any run of this workflow, a first, a re-run or one after Temporal lost its
data, does what is left and nothing else.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import Priority, RawValue, RetryPolicy, SearchAttributeKey, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)
from temporalio.workflow import ActivityConfig, ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from workflows.errors import AskAgain, InvalidRequest, ObjectsRemain, RowsNotDeleted, StaleSeal, to_application_error
    from workflows.messages import (
        CANCEL_DELETION,
        CLOSE_DELETION,
        COLLECT_KEYS,
        DELETE_OBJECTS,
        DELETE_ROWS,
        DELETE_TRACE_ITEMS,
        FIND_OWED_ELSEWHERE,
        LEFTOVERS_ATTRIBUTE,
        MAX_REQUEST_BYTES,
        OBJECTS_TASK_QUEUE,
        OPEN_DELETION,
        ORGANIZATION_ATTRIBUTE,
        READ_REQUEST,
        STAGE_ATTRIBUTE,
        SWEEP_PREFIXES,
        TASK_QUEUE,
        WORKFLOW_NAME,
        AllRowsDeleted,
        Chunk,
        Deletion,
        DeletionReceipt,
        DeletionRequest,
        In,
        Opened,
        Out,
        Pace,
        PageRange,
        Progress,
        RowsDeleted,
        SealedChunk,
        Stage,
        Step,
        Sweep,
        UnfinishedChunk,
        refused_fields,
    )

T = TypeVar("T")
NO_REQUEST = RawValue(Payload())

# A worker says every few seconds that it lives; a step lost with its worker is run elsewhere after this.
LOST_AFTER = timedelta(seconds=15)
# For ever, within a step's budget: soon at first, then every minute, so that a mended store or database is noticed.
AGAIN = RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(minutes=1))
# A database that is being upgraded or failed over comes back within hours; after a day a person should look.
LEDGER = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=5),
    schedule_to_close_timeout=timedelta(days=1),
    heartbeat_timeout=LOST_AFTER,
    retry_policy=AGAIN,
)
# Manifests are read from the store, which may be down all weekend; nothing is deleted yet, so waiting harms nobody.
READS = ActivityConfig(
    task_queue=OBJECTS_TASK_QUEUE,
    start_to_close_timeout=timedelta(hours=6),
    schedule_to_close_timeout=timedelta(days=3),
    heartbeat_timeout=LOST_AFTER,
    retry_policy=AGAIN,
)
# One transaction: the database's own time-outs end what waits too long for a lock, and it is run again.
ROWS = ActivityConfig(
    start_to_close_timeout=timedelta(hours=1),
    schedule_to_close_timeout=timedelta(days=1),
    heartbeat_timeout=LOST_AFTER,
    retry_policy=AGAIN,
)
# A store may be down all weekend; after three days a person should look.
OBJECTS = ActivityConfig(
    task_queue=OBJECTS_TASK_QUEUE,
    start_to_close_timeout=timedelta(hours=6),
    schedule_to_close_timeout=timedelta(days=3),
    heartbeat_timeout=LOST_AFTER,
    retry_policy=AGAIN,
)
TRACE_ITEMS = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=30),
    schedule_to_close_timeout=timedelta(days=3),
    heartbeat_timeout=LOST_AFTER,
    retry_policy=AGAIN,
)

TRACE_ITEMS_LONGEST_PAUSE = timedelta(minutes=15)
# Another deletion takes seconds, or days where its store is down.
OTHERS_FIRST_PAUSE, OTHERS_LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=5)
SEALS_TRIED = 20
"""Rows that change faster than their keys can be collected twenty times over are somebody's bug."""
SWEEPS = 5
"""A writer that is still at work after so many quiet periods is reported."""


@workflow.defn(name=WORKFLOW_NAME)
class DeleteArtifactsWorkflow:
    """See the module. Its input is JSON of a DeletionRequest from any client."""

    def __init__(self) -> None:
        self._trace_items_until: datetime | None = None
        self._progress = Progress()
        self._pace = Pace()
        self._rows_owed: set[int] = set()
        self._rows_under_way: set[int] = set()
        self._rows_settled = False
        self._ended = False
        self._settled_keys: dict[int, int] = {}
        self._chunks_at_once = asyncio.Semaphore()
        self._activities_at_once = asyncio.Semaphore()

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> DeletionReceipt:
        """Returns the receipt of a complete deletion; fails with ObjectsRemain when anything is left over."""
        receipt: DeletionReceipt | None = None
        failure: BaseException | None = None
        try:
            self._request = validated(raw, lambda request: request.workflow_id)
            self._deletion = Deletion(deletion_id=self._request.deletion_id)
            receipt = await self._finish(asyncio.create_task(self._delete()))
        except ActivityError as error:
            failure = named(error)
        except (ApplicationError, asyncio.CancelledError) as error:
            failure = error
        # Whoever waits for the rows gets an answer before the run ends.
        self._ended = True
        await workflow.wait_condition(workflow.all_handlers_finished)
        if failure is not None:
            raise failure
        if receipt is None:
            until = self._trace_items_until
            workflow.continue_as_new(self._request, memo={_TRACE_ITEMS_UNTIL: until} if until else {})
        if not receipt.complete:
            raise _leftovers(receipt)
        return receipt

    @workflow.query
    def progress(self) -> Progress:
        """How far the deletion is, in counts."""
        return self._progress

    @workflow.update
    async def rows_deleted(self) -> AllRowsDeleted:
        """Returns once no row is left; raises RowsNotDeleted if the deletion ends before, AskAgain if it goes on elsewhere."""
        await workflow.wait_condition(lambda: self._rows_settled or self._ended or self._history_is_long())
        if self._rows_settled:
            return AllRowsDeleted(artifacts=self._progress.artifacts, rows=self._progress.rows_deleted)
        if self._ended:
            raise to_application_error(RowsNotDeleted("the deletion ended before all rows were deleted; its own end says why"))
        raise to_application_error(AskAgain("the deletion goes on in another run; ask again"))

    async def _delete(self) -> DeletionReceipt | None:
        """The whole deletion. None if the history is so long that another run is to go on."""
        opened = await self._open()
        chunks = await self._delete_chunks(opened.chunks)
        await self._sweep_until_quiet(chunks)
        await self._wait_for_others()
        if self._history_is_long():
            return None
        self._note(stage=Stage.CLOSING)
        receipt = await self._step(CLOSE_DELETION, self._deletion, LEDGER, "add up the receipt")
        left_over = sum(receipt.left_over.values())
        self._note(stage=Stage.FAILED if left_over else Stage.COMPLETED, left_over=left_over)
        return receipt

    async def _finish(self, work: asyncio.Task[DeletionReceipt | None]) -> DeletionReceipt | None:
        """Wait for the work. A cancel undoes everything before the first commit; after it the rest is finished all the same."""
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The ledger knows whether rows are gone; the cancelled step does not.
            cancelled = await self._step(CANCEL_DELETION, self._request, LEDGER, "cancel, if nothing is deleted yet")
        if not cancelled.nothing_deleted:
            self._note(cancel_refused=True)
            return await work
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        self._note(stage=Stage.CANCELLED)
        raise asyncio.CancelledError

    async def _open(self) -> Opened:
        self._note(stage=Stage.OPENING, artifacts=len(self._request.artifact_ids))
        opened = await self._step(OPEN_DELETION, self._request, LEDGER, "write the request down")
        self._pace = opened.pace
        self._chunks_at_once = asyncio.Semaphore(opened.pace.chunks_at_once)
        self._activities_at_once = asyncio.Semaphore(opened.pace.activities_at_once)
        self._rows_owed = {left.chunk for left in opened.chunks if left.released is None}
        self._rows_under_way = set(self._rows_owed)
        self._rows_settled = not self._rows_owed
        self._note(stage=Stage.COLLECTING, chunks=len(opened.chunks), rows_deleted=opened.rows_deleted)
        return opened

    async def _delete_chunks(self, unfinished: Sequence[UnfinishedChunk]) -> list[int]:
        """The chunks whose rows are gone. One that fails before that does not keep the others from their end."""
        await _all(self._delete_chunk(left) for left in unfinished)
        return [left.chunk for left in unfinished if left.chunk not in self._rows_owed]

    async def _delete_chunk(self, left: UnfinishedChunk) -> None:
        chunk = Chunk(deletion_id=self._deletion.deletion_id, chunk=left.chunk)
        if left.released is not None:
            deleted: RowsDeleted | None = left.released
            self._note_rows(chunk, left.released, rows=0)
            # Rows that came back are in chunks of their own; until those are gone, this one's objects may be theirs.
            await workflow.wait_condition(lambda: not self._rows_under_way)
        else:
            async with self._chunks_at_once:
                deleted = await self._delete_rows(chunk)
            self._rows_under_way.discard(left.chunk)
        if deleted is None:
            return
        await _all([self._delete_objects(chunk, deleted), self._delete_trace_items(chunk, deleted)])
        if not left.swept:
            await self._sweep(Sweep(**chunk.model_dump(), number=0))

    async def _delete_rows(self, chunk: Chunk) -> RowsDeleted | None:
        """Collect and delete; collect again as long as the rows say something else by then. None if their time is over."""
        for _ in range(SEALS_TRIED):
            if self._history_is_long():
                return None
            try:
                collected = await self._step(COLLECT_KEYS, chunk, READS, f"collect keys of chunk {chunk.chunk}")
                sealed = SealedChunk(
                    **chunk.model_dump(), epoch=collected.epoch, pages=collected.pages, digest=collected.digest
                )
                deleted = await self._step(DELETE_ROWS, sealed, ROWS, f"delete rows of chunk {chunk.chunk}")
            except ActivityError as error:
                if named(error).type == StaleSeal.__name__:
                    continue
                _log_failure(f"chunk {chunk.chunk}", error)
                return None
            self._note_rows(chunk, deleted, rows=deleted.rows)
            return deleted
        workflow.logger.error("chunk %s: its rows change faster than its keys can be collected", chunk.chunk)
        return None

    def _note_rows(self, chunk: Chunk, deleted: RowsDeleted, *, rows: int) -> None:
        self._rows_owed.discard(chunk.chunk)
        self._rows_settled = not self._rows_owed
        self._note(
            stage=Stage.DELETING_OBJECTS if self._rows_settled else Stage.COLLECTING,
            chunks_rows_deleted=self._progress.chunks_rows_deleted + 1,
            rows_deleted=self._progress.rows_deleted + rows,
            pages=self._progress.pages + deleted.pages,
            keys=self._progress.keys + deleted.sealed,
        )

    async def _delete_objects(self, chunk: Chunk, deleted: RowsDeleted) -> None:
        size = self._pace.pages_an_activity
        ranges = [
            PageRange(**chunk.model_dump(), first=first, last=min(first + size, deleted.pages) - 1)
            for first in range(deleted.first_page, deleted.pages, size)
        ]
        await _all(self._delete_pages(pages, deleted.pages) for pages in ranges)

    async def _delete_pages(self, pages: PageRange, of: int) -> None:
        label = f"objects of chunk {pages.chunk}: pages {pages.first + 1}-{pages.last + 1} of {of}"
        if (done := await self._try(DELETE_OBJECTS, pages, OBJECTS, label)) is not None:
            self._settled_keys[pages.chunk] = max(self._settled_keys.get(pages.chunk, 0), done.settled)
            self._note(
                pages_done=self._progress.pages_done + pages.last - pages.first + 1,
                keys_done=sum(self._settled_keys.values()),
                left_over=self._progress.left_over + done.left_over,
            )

    async def _delete_trace_items(self, chunk: Chunk, deleted: RowsDeleted) -> None:
        if not deleted.trace_items_owed:
            return
        if self._trace_items_until is None:
            handed_on: datetime | None = workflow.memo_value(_TRACE_ITEMS_UNTIL, None, type_hint=datetime)
            self._trace_items_until = handed_on or workflow.now() + self._pace.trace_items_within
        matched, pause = 0, self._pace.trace_items_pause
        while True:
            answer = await self._try(DELETE_TRACE_ITEMS, chunk, TRACE_ITEMS, f"trace items of chunk {chunk.chunk}")
            if answer is None:
                return
            self._note(trace_items_matched=self._progress.trace_items_matched + max(0, answer.matched - matched))
            matched = max(matched, answer.matched)
            if answer.settled or workflow.now() + pause > self._trace_items_until:
                return
            await workflow.sleep(pause)
            pause = min(2 * pause, TRACE_ITEMS_LONGEST_PAUSE)

    async def _sweep_until_quiet(self, chunks: Sequence[int]) -> None:
        """After a quiet period list every prefix again; where something new was found, wait and list once more."""
        self._note(stage=Stage.SWEEPING)
        noisy = list(chunks)
        for number in range(1, SWEEPS + 1):
            if not noisy or self._history_is_long():
                return
            if self._pace.quiet_period:
                await workflow.sleep(self._pace.quiet_period)
            quiet = await _all(
                self._sweep(Sweep(deletion_id=self._deletion.deletion_id, chunk=chunk, number=number, last=number == SWEEPS))
                for chunk in noisy
            )
            noisy = [chunk for chunk, is_quiet in zip(noisy, quiet, strict=True) if not is_quiet]

    async def _sweep(self, sweep: Sweep) -> bool:
        """Whether no further sweep is needed, or none would help."""
        label = f"{'list again' if sweep.confirm else 'sweep'}: prefixes of chunk {sweep.chunk}"
        if (swept := await self._try(SWEEP_PREFIXES, sweep, OBJECTS, label)) is None:
            return True
        self._note(found_by_listing=self._progress.found_by_listing + swept.found)
        return swept.quiet

    async def _wait_for_others(self) -> None:
        """Wait until other deletions have deleted what they took of ours; one that nobody runs is run to its end, once."""
        run_to_their_end: set[str] = set()
        pause = OTHERS_FIRST_PAUSE
        while not self._history_is_long():
            owed = await self._step(FIND_OWED_ELSEWHERE, self._deletion, LEDGER, "what other deletions owe")
            waiting = [other for other in owed.deletions if other.deletion_id not in run_to_their_end]
            self._note(waiting_for=tuple(other.workflow_id for other in waiting))
            if not waiting:
                return
            for other in waiting:
                request = await self._step(READ_REQUEST, Deletion(deletion_id=other.deletion_id), LEDGER, "read its request")
                if await _run(request):
                    run_to_their_end.add(other.deletion_id)
            await workflow.sleep(pause)
            pause = min(2 * pause, OTHERS_LONGEST_PAUSE)

    def _history_is_long(self) -> bool:
        return workflow.info().is_continue_as_new_suggested()

    async def _step(self, step: Step[In, Out], given: In, options: ActivityConfig, summary: str) -> Out:
        where: Any = {"task_queue": TASK_QUEUE, **options}
        fair = Priority(fairness_key=str(self._request.organization_id))
        result: Out = await workflow.execute_activity(
            step.name, given, result_type=step.returns, summary=summary, priority=fair, **where
        )
        return result

    async def _try(self, step: Step[In, Out], given: In, options: ActivityConfig, summary: str) -> Out | None:
        """A step after the point of no return: when its time is over the rest is done all the same, and the ledger knows.

        None too when the history is long: the next run does what this one leaves.
        """
        async with self._activities_at_once:
            if self._history_is_long():
                return None
            try:
                return await self._step(step, given, options, summary)
            except ActivityError as error:
                _log_failure(step.name, error)
                return None

    def _note(self, **changes: Any) -> None:
        before, self._progress = self._progress, self._progress.model_copy(update=changes)
        workflow.set_current_details(self._progress.markdown)
        shown = {
            ORGANIZATION_ATTRIBUTE: str(self._request.organization_id),
            STAGE_ATTRIBUTE: str(self._progress.stage),
            LEFTOVERS_ATTRIBUTE: self._progress.left_over,
        }
        if (before.stage, before.left_over) != (
            self._progress.stage,
            self._progress.left_over,
        ) and self._pace.search_attributes:
            workflow.upsert_search_attributes([_ATTRIBUTES[name].value_set(value) for name, value in shown.items()])


_TRACE_ITEMS_UNTIL = "trace_items_until"
_ATTRIBUTES: dict[str, SearchAttributeKey[Any]] = {
    ORGANIZATION_ATTRIBUTE: SearchAttributeKey.for_keyword(ORGANIZATION_ATTRIBUTE),
    STAGE_ATTRIBUTE: SearchAttributeKey.for_keyword(STAGE_ATTRIBUTE),
    LEFTOVERS_ATTRIBUTE: SearchAttributeKey.for_int(LEFTOVERS_ATTRIBUTE),
}


def validated(raw: RawValue, workflow_id: Callable[[DeletionRequest], str]) -> DeletionRequest:
    """What a client handed over. Whatever else it is, the answer is final and names no value."""
    if len(raw.payload.data) > MAX_REQUEST_BYTES:
        raise to_application_error(InvalidRequest(f"the request is longer than {MAX_REQUEST_BYTES:,} bytes"))
    try:
        request: object = workflow.payload_converter().from_payload(raw.payload, DeletionRequest)
    except ValidationError as error:
        raise to_application_error(InvalidRequest(refused_fields(error))) from None
    except Exception:  # noqa: BLE001  nothing that a client sends may be retried for ever
        request = None
    if not isinstance(request, DeletionRequest):
        raise to_application_error(InvalidRequest("the request is not JSON of a deletion request"))
    if workflow.info().workflow_id != (own := workflow_id(request)):
        # Under one id Temporal runs a deletion once at a time, whoever asks for it.
        raise to_application_error(InvalidRequest(f"this deletion's workflow id is {own}"))
    return request


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of it to its end, then the first failure if there was one."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def _run(request: DeletionRequest) -> bool:
    """Run another deletion to its end, under its own id and whatever becomes of this one. False if somebody runs it already."""
    try:
        other: Any = await workflow.start_child_workflow(
            WORKFLOW_NAME,
            request,
            id=request.workflow_id,
            task_queue=TASK_QUEUE,
            parent_close_policy=ParentClosePolicy.ABANDON,
            cancellation_type=ChildWorkflowCancellationType.ABANDON,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=request.summary,
            static_details=request.details,
        )
    except WorkflowAlreadyStartedError:
        return False
    try:
        await other
    except ChildWorkflowError:
        workflow.logger.warning("deletion %s failed again", request.deletion_id)
    return True


def _log_failure(what: str, error: ActivityError) -> None:
    """Raises a cancellation; anything else the ledger knows, and the receipt will say."""
    if is_cancelled_exception(error):
        raise error
    workflow.logger.error("%s: %s", what, named(error).message)


def named(error: ActivityError) -> ApplicationError:
    """The step's own error, as the workflow's."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return ApplicationError(cause.message, type=cause.type, non_retryable=True)
    return ApplicationError(f"{error.activity_type}: its time is over", type="StepTimedOut", non_retryable=True)


def _leftovers(receipt: DeletionReceipt) -> ApplicationError:
    counts = ", ".join(f"{code} {count:,}" for code, count in sorted(receipt.left_over.items()))
    message = (
        f"{sum(receipt.left_over.values()):,} left over ({counts}); all else is done. "
        f"When the cause is mended: python starter.py rerun {receipt.workflow_id}"
    )
    kind = RowsNotDeleted if receipt.artifacts.not_reached.count else ObjectsRemain
    return ApplicationError(message, receipt, type=kind.__name__, non_retryable=True)
