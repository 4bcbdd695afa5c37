"""One deletion, step by step: what happens, in which order, and how long each step may take.

Collect keys, delete the rows in one transaction a chunk, delete objects and trace items, sweep, wait, sweep again, close. All
that a step needs beyond ids stands in the ledger, so any run of this workflow, a first, a re-run or one after Temporal lost its
data, does what is left and nothing else.
"""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import Priority, RawValue, RetryPolicy, SearchAttributeKey, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
    RetryState,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)
from temporalio.workflow import ActivityConfig, ChildWorkflowCancellationType, LocalActivityConfig, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from workflows import metrics, page
    from workflows.carried import CARRIED_MEMO, Carried, Spans
    from workflows.errors import (
        AskAgain,
        Frozen,
        InvalidRequest,
        ObjectsRemain,
        RowsNotDeleted,
        StaleSeal,
        Unconfirmed,
        to_application_error,
    )
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
        PAGE_KEYS,
        READ_REQUEST,
        STAGE_ATTRIBUTE,
        SWEEP_PREFIXES,
        TASK_QUEUE,
        WAIT_UNTIL_CONFIRMED,
        WAIT_UNTIL_THAWED,
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
        UnderWay,
        UnfinishedChunk,
        refused_fields,
    )

T = TypeVar("T")
NO_REQUEST = RawValue(Payload())

# A worker says every few seconds that it lives; a step lost with its worker is run elsewhere after this.
LOST_AFTER = timedelta(seconds=15)
# What holds a step up on purpose is waited for by a step of its own, at no cost to the held one's budget.
HELD_UP_BY = {Frozen.__name__: WAIT_UNTIL_THAWED, Unconfirmed.__name__: WAIT_UNTIL_CONFIRMED}
# For ever, within a step's budget: soon at first, then every minute, so that a mended store or database is noticed.
AGAIN = RetryPolicy(
    initial_interval=timedelta(milliseconds=500),
    maximum_interval=timedelta(minutes=1),
    non_retryable_error_types=[*HELD_UP_BY],
)
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
# Within a workflow task, which has ten seconds.
QUICKLY = LocalActivityConfig(start_to_close_timeout=timedelta(seconds=5), retry_policy=RetryPolicy(maximum_attempts=1))
QUICK_ARTIFACTS = 100
# However long it takes; every few seconds, so that a deletion goes on soon after somebody has let it.
HELD_UP = ActivityConfig(
    start_to_close_timeout=LOST_AFTER,
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=4)),
)

TRACE_ITEMS_LONGEST_PAUSE = timedelta(minutes=15)
# Another deletion takes seconds, or days where its store is down.
OTHERS_LONGEST_PAUSE = timedelta(minutes=5)
# A run that begins later than that after its start was reset by somebody who has mended the cause.
HANDED_ON_WITHIN = timedelta(minutes=5)
OTHERS_AT_A_TIME = 50
"""To see whether somebody runs it takes a dozen events of the history for each."""
SEALS_TRIED = 20
"""Rows that change faster than their keys can be collected twenty times over are somebody's bug."""
SWEEPS = 5
"""A writer that is still at work after so many quiet periods is reported."""


@workflow.defn(name=WORKFLOW_NAME)
class DeleteArtifactsWorkflow:
    """See the module. Its input is JSON of a DeletionRequest from any client."""

    def __init__(self) -> None:
        self._carried = Carried()
        self._progress = Progress()
        self._stage_since = workflow.now()
        self._under_way: dict[int, UnderWay] = {}
        self._begun = itertools.count()
        self._pace = Pace()
        self._rows_owed: set[int] = set()
        self._rows_under_way: set[int] = set()
        self._rows_settled = False
        self._ended = False
        self._settled_keys: dict[int, int] = {}
        self._found_left_over: dict[int, int] = {}
        self._chunks_at_once = asyncio.Semaphore()
        self._activities_at_once = asyncio.Semaphore()
        self._waits: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waited: Counter[str] = Counter()

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
            failure = named(error, self._request)
        except (ApplicationError, asyncio.CancelledError) as error:
            failure = error
        if isinstance(failure, ApplicationError):
            workflow.set_current_details(page.ended(failure.message))
        elif receipt is not None:
            workflow.set_current_details(page.closed(receipt))
        # Whoever waits for the rows gets an answer before the run ends.
        self._ended = True
        await workflow.wait_condition(workflow.all_handlers_finished)
        metrics.deletion_ended(receipt, failure)
        if failure is not None:
            raise failure
        if receipt is None:
            workflow.continue_as_new(self._request, memo={CARRIED_MEMO: self._carried})
        if not receipt.complete:
            raise _leftovers(receipt)
        return receipt

    @workflow.query
    def progress(self) -> Progress:
        """How far the deletion is, in counts."""
        return self._progress.model_copy(update={"under_way": tuple(_grouped(self._under_way.values()))})

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
        close = self._step if self._pace.exports_receipts else self._quickly
        receipt = await close(CLOSE_DELETION, self._deletion, LEDGER, "add up the receipt")
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
        self._note(stage=Stage.CANCELLED, held_up={})
        raise asyncio.CancelledError

    async def _open(self) -> Opened:
        if workflow.now() - workflow.info().start_time < HANDED_ON_WITHIN:
            self._carried = workflow.memo_value(CARRIED_MEMO, Carried(), type_hint=Carried)
        self._note(stage=Stage.OPENING, artifacts=len(self._request.artifact_ids))
        opened = await self._quickly(OPEN_DELETION, self._request, LEDGER, "write the request down")
        self._pace = opened.pace
        self._chunks_at_once = asyncio.Semaphore(opened.pace.chunks_at_once)
        self._activities_at_once = asyncio.Semaphore(opened.pace.activities_at_once)
        self._rows_owed = {left.chunk for left in opened.chunks if left.released is None}
        self._rows_under_way = set(self._rows_owed)
        self._rows_settled = not self._rows_owed
        stage = Stage.DELETING_ROWS if opened.rows_deleted else Stage.COLLECTING
        self._note(stage=stage, chunks=len(opened.chunks), rows_deleted=opened.rows_deleted)
        return opened

    async def _delete_chunks(self, unfinished: Sequence[UnfinishedChunk]) -> list[int]:
        """The chunks whose rows are gone. One that fails before that does not keep the others from their end."""
        await _all(self._delete_chunk(left) for left in unfinished)
        return [left.chunk for left in unfinished if left.chunk not in self._rows_owed]

    async def _delete_chunk(self, left: UnfinishedChunk) -> None:
        chunk = Chunk(deletion_id=self._deletion.deletion_id, chunk=left.chunk)
        deleted = left.released
        if deleted is not None:
            self._note_rows(chunk, deleted, rows=0)
        if self._carried.deleted.covers(left.chunk):
            self._rows_under_way.discard(left.chunk)
            return
        if deleted is None:
            async with self._chunks_at_once:
                deleted = await self._delete_rows(chunk)
            self._rows_under_way.discard(left.chunk)
        else:
            # Rows that came back are in chunks of their own; until those are gone, this one's objects may be theirs.
            await workflow.wait_condition(lambda: not self._rows_under_way)
        if deleted is not None:
            await _all([self._delete_objects(chunk, deleted), self._delete_trace_items(chunk, deleted)])
            if not left.swept:
                await self._sweep(Sweep(**chunk.model_dump(), number=0))
        if not self._history_is_long():
            pages = {number: spans for number, spans in self._carried.pages.items() if number != left.chunk}
            self._carry(deleted=self._carried.deleted.with_all(left.chunk), pages=pages)

    def _carry(self, **changes: Any) -> None:
        self._carried = self._carried.model_copy(update=changes)

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
            stage=Stage.DELETING_OBJECTS if self._rows_settled else Stage.DELETING_ROWS,
            chunks_rows_deleted=self._progress.chunks_rows_deleted + 1,
            rows_deleted=self._progress.rows_deleted + rows,
            pages=self._progress.pages + deleted.pages,
            keys=self._progress.keys + deleted.sealed,
        )

    async def _delete_objects(self, chunk: Chunk, deleted: RowsDeleted) -> None:
        size = self._pace.pages_an_activity
        if deleted.sealed <= size * PAGE_KEYS:
            size = max(1, deleted.pages)  # many pages that are far from full
        tried = self._carried.pages.get(chunk.chunk, Spans())
        ranges = [
            PageRange(**chunk.model_dump(), first=first, last=last)
            for first in range(deleted.first_page, deleted.pages, size)
            if not tried.covers(first, last := min(first + size, deleted.pages) - 1)
        ]
        await _all(self._delete_pages(pages, deleted.pages) for pages in ranges)

    async def _delete_pages(self, pages: PageRange, of: int) -> None:
        label = f"objects of chunk {pages.chunk}: pages {pages.first + 1}-{pages.last + 1} of {of}"
        done = await self._try(DELETE_OBJECTS, pages, OBJECTS, label)
        if done is not None or not self._history_is_long():
            tried = self._carried.pages.get(pages.chunk, Spans()).with_all(pages.first, pages.last)
            self._carry(pages={**self._carried.pages, pages.chunk: tried})
        if done is not None:
            self._settled_keys[pages.chunk] = max(self._settled_keys.get(pages.chunk, 0), done.settled)
            self._note(
                pages_done=self._progress.pages_done + pages.last - pages.first + 1,
                keys_done=sum(self._settled_keys.values()),
                left_over=self._progress.left_over + done.left_over,
            )

    async def _delete_trace_items(self, chunk: Chunk, deleted: RowsDeleted) -> None:
        if not deleted.trace_items_owed:
            return
        if self._carried.trace_items_until is None:
            self._carry(trace_items_until=workflow.now() + self._pace.trace_items_within)
        self._note(trace_chunks=self._progress.trace_chunks + 1)
        matched, pause = 0, self._pace.trace_items_pause
        while True:
            answer = await self._try(DELETE_TRACE_ITEMS, chunk, TRACE_ITEMS, f"trace items of chunk {chunk.chunk}")
            if answer is None:
                return
            self._note(trace_items_matched=self._progress.trace_items_matched + max(0, answer.matched - matched))
            matched = max(matched, answer.matched)
            if answer.settled:
                self._note(trace_chunks_settled=self._progress.trace_chunks_settled + 1)
            until = self._carried.trace_items_until
            if answer.settled or until is None or workflow.now() + pause > until:
                return
            await self._pause(pause, "then trace items are counted again")
            pause = min(2 * pause, TRACE_ITEMS_LONGEST_PAUSE)

    async def _sweep_until_quiet(self, chunks: Sequence[int]) -> None:
        """After a quiet period list every prefix again; where something new was found, wait and list once more."""
        self._note(stage=Stage.SWEEPING)
        noisy = [chunk for chunk in chunks if not self._carried.swept.covers(chunk)]
        for number in range(1, SWEEPS + 1):
            if not noisy or self._history_is_long():
                return
            if self._pace.quiet_period:
                await self._pause(self._pace.quiet_period, "late writers get this time, then prefixes are listed again")
            quiet = await _all(
                self._sweep(Sweep(deletion_id=self._deletion.deletion_id, chunk=chunk, number=number, last=number == SWEEPS))
                for chunk in noisy
            )
            noisy = [chunk for chunk, is_quiet in zip(noisy, quiet, strict=True) if not is_quiet]
            self._note(chunks_quiet=len(chunks) - len(noisy))

    async def _sweep(self, sweep: Sweep) -> bool:
        """Whether no further sweep is needed, or none would help."""
        label = f"{'list again' if sweep.confirm else 'sweep'}: prefixes of chunk {sweep.chunk}"
        swept = await self._try(SWEEP_PREFIXES, sweep, OBJECTS, label)
        quiet = swept is None or swept.quiet
        if sweep.confirm and (quiet or sweep.last) and (swept is not None or not self._history_is_long()):
            self._carry(swept=self._carried.swept.with_all(sweep.chunk))
        if swept is None:
            return quiet
        self._found_left_over[sweep.chunk] = swept.left_over
        self._note(
            found_by_listing=self._progress.found_by_listing + swept.found,
            found_left_over=sum(self._found_left_over.values()),
        )
        return quiet

    async def _wait_for_others(self) -> None:
        """Wait until other deletions have deleted what they took of ours; one that nobody runs is run to its end, once."""
        while not self._history_is_long():
            owed = await self._quickly(FIND_OWED_ELSEWHERE, self._deletion, LEDGER, "what other deletions owe")
            waiting = [other for other in owed.deletions if other.deletion_id not in self._carried.others_run]
            self._note(waiting_for=tuple(other.workflow_id for other in waiting))
            if not waiting:
                return
            for other in waiting[:OTHERS_AT_A_TIME]:
                if self._history_is_long():
                    return
                request = await self._step(READ_REQUEST, Deletion(deletion_id=other.deletion_id), LEDGER, "read its request")
                if await _run(request):
                    self._carry(others_run=(*self._carried.others_run, other.deletion_id))
            await self._pause(self._carried.others_pause, "then the other deletions are looked at again")
            self._carry(others_pause=min(2 * self._carried.others_pause, OTHERS_LONGEST_PAUSE))

    def _history_is_long(self) -> bool:
        return workflow.info().is_continue_as_new_suggested()

    async def _quickly(self, step: Step[In, Out], given: In, options: ActivityConfig, summary: str) -> Out:
        """A few statements of the ledger, within the workflow task: that saves a small deletion a third of its round trips.

        Where it does not succeed at once it is a step like any other, which everybody sees and which is tried again.
        """
        if len(self._request.artifact_ids) > QUICK_ARTIFACTS:
            return await self._step(step, given, options, summary)
        within: Any = QUICKLY
        try:
            result: Out = await self._shown(
                UnderWay(what=step.name, since=workflow.now()),
                lambda: workflow.execute_local_activity(step.name, given, result_type=step.returns, summary=summary, **within),
            )
        except FailureError as error:  # the step's own: Temporal wraps it for other activities alone
            if is_cancelled_exception(error) or (isinstance(error, ApplicationError) and error.non_retryable):
                raise
        else:
            return result
        return await self._step(step, given, options, summary)

    async def _step(self, step: Step[In, Out], given: In, options: ActivityConfig, summary: str) -> Out:
        """A step to its end. What holds it up on purpose is waited for, and then it begins anew with all its time."""
        while True:
            try:
                return await self._once(step, given, options, summary)
            except ActivityError as error:
                if (held_up := named(error)).type not in HELD_UP_BY:
                    raise
            await self._wait_until_allowed(str(held_up.type), held_up.message)

    async def _wait_until_allowed(self, what: str, why: str) -> None:
        """One wait for all the steps that are held up by the same."""
        waited = self._waited[what]
        async with self._waits[what]:
            if self._waited[what] != waited:
                return
            self._note(held_up=self._progress.held_up | {what: why})
            wait, since = HELD_UP_BY[what], workflow.now()
            await self._once(wait, self._deletion, HELD_UP, wait.name.replace("_", " "))
            self._waited[what] += 1
            if (until := self._carried.trace_items_until) is not None:
                self._carry(trace_items_until=until + (workflow.now() - since))
            self._note(held_up={other: why for other, why in self._progress.held_up.items() if other != what})

    async def _once(self, step: Step[In, Out], given: In, options: ActivityConfig, summary: str) -> Out:
        where: Any = {"task_queue": TASK_QUEUE, **options}
        fair = Priority(fairness_key=str(self._request.organization_id))
        result: Out = await self._shown(
            UnderWay(what=step.name, since=workflow.now()),
            lambda: workflow.execute_activity(
                step.name, given, result_type=step.returns, summary=summary, priority=fair, **where
            ),
        )
        return result

    async def _pause(self, pause: timedelta, reason: str) -> None:
        what = UnderWay(what=reason, since=workflow.now(), until=workflow.now() + pause)
        await self._shown(what, lambda: workflow.sleep(pause, summary=reason))

    async def _shown(self, what: UnderWay, work: Callable[[], Awaitable[T]]) -> T:
        """Show that it is at work as long as it is. Not by `finally`: that runs too when a worker lets go of the workflow."""
        number = next(self._begun)
        self._under_way[number] = what
        self._show()
        try:
            result = await work()
        except (FailureError, asyncio.CancelledError):
            del self._under_way[number]
            self._show()
            raise
        del self._under_way[number]
        self._show()
        return result

    def _show(self) -> None:
        workflow.set_current_details(page.details(self.progress()))

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
        if before.stage is not self._progress.stage:
            metrics.stage_ended(before.stage, workflow.now() - self._stage_since)
            self._stage_since = workflow.now()
            workflow.logger.info("%s", self._progress.stage)
        self._show()
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


def named(error: ActivityError, request: DeletionRequest | None = None) -> ApplicationError:
    """The step's own error, as the workflow's; with a request what to do, where its time was over and nothing else."""
    cause = error.cause
    final = error.retry_state is RetryState.NON_RETRYABLE_FAILURE
    again = "" if request is None or final else f". When the cause is mended: {page.rerun_command(request.workflow_id)}"
    if isinstance(cause, ApplicationError):
        return ApplicationError(f"{cause.message}{again}", type=cause.type, non_retryable=True)
    return ApplicationError(f"{error.activity_type}: its time is over{again}", type="StepTimedOut", non_retryable=True)


def _grouped(under_way: Iterable[UnderWay]) -> Iterator[UnderWay]:
    """Steps of one kind as one, with the oldest's time."""
    kinds: dict[tuple[str, datetime | None], UnderWay] = {}
    for one in under_way:
        known = kinds.setdefault((one.what, one.until), one.model_copy(update={"count": 0}))
        kinds[one.what, one.until] = known.model_copy(update={"count": known.count + 1, "since": min(known.since, one.since)})
    yield from kinds.values()


def _leftovers(receipt: DeletionReceipt) -> ApplicationError:
    message = page.left_over_message(receipt.left_over, receipt.workflow_id)
    kind = RowsNotDeleted if receipt.artifacts.not_reached.count else ObjectsRemain
    return ApplicationError(message, receipt, type=kind.__name__, non_retryable=True)
