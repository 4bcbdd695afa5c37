"""One deletion, step by step: which step follows which.

Collect keys, delete the rows in one transaction a chunk, delete objects and trace items, sweep, close. All that a step needs
beyond ids stands in the ledger, so any run of this workflow, a first, a re-run or one after Temporal lost its data, does the
rest and nothing else. The steps themselves wait and try again; how long each may is said in workflows/budgets.py.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.errors import Held, RowsNotDeleted, StaleSeal, to_application_error
    from artifact_deletion.receipt import DeletionReceipt, Progress, RowsGone
    from artifact_deletion.request import DELETE_WORKFLOW, DeletionRequest
    from workflows import metrics
    from workflows.budgets import CLOSING, HIDING, LEDGER, OBJECTS, READS, ROWS, SWEEPS, TRACE_ITEMS, UNLIMITED, fair, longer
    from workflows.failures import leftovers, log_failure, named
    from workflows.inputs import NO_REQUEST, validated
    from workflows.page import Page
    from workflows.quick import at_once, is_waited_for
    from workflows.steps import (
        CANCEL_DELETION,
        CLOSE_DELETION,
        COLLECT_KEYS,
        DELETE_OBJECTS,
        DELETE_ROWS,
        DELETE_TRACE_ITEMS,
        HIDE_IMAGES,
        MAX_OBJECT_STEPS,
        OPEN_DELETION,
        PAGE_KEYS,
        QUIET_PERIODS,
        SWEEP_PREFIXES,
        WAIT_TO_BEGIN,
        WAIT_WHILE_HELD,
        WATCH_IMAGES,
        Chunk,
        Deletion,
        In,
        Opened,
        Opening,
        Out,
        PageRange,
        Released,
        SealedChunk,
        Step,
        UnfinishedChunk,
        Waiting,
    )

T = TypeVar("T")
SEALS_TRIED = 3
"""A chunk whose rows change faster than that is left over, and a re-run tries again."""


@workflow.defn(name=DELETE_WORKFLOW)
class DeleteArtifactsWorkflow:
    """See the module. Its input is JSON of a DeletionRequest from any client."""

    def __init__(self) -> None:
        self._page = Page()
        self._opened: Opened | None = None
        self._ended = False
        self._lifted = Counter[bool]()
        self._waits_while_held = {rows: asyncio.Lock() for rows in (True, False)}

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> DeletionReceipt:
        """Returns the receipt of a complete deletion; fails with ObjectsRemain when anything is left over."""
        receipt: DeletionReceipt | None = None
        failure: BaseException | None = None
        try:
            self._request = validated(raw, DeletionRequest, lambda request: request.workflow_id)
            receipt = await self._finish(asyncio.create_task(self._delete()))
            failure = None if receipt.complete else leftovers(receipt)
        except ActivityError as error:
            failure = named(error, self._request)
        except (ApplicationError, asyncio.CancelledError) as error:
            failure = error
        self._page.ended(receipt, failure)
        # A caller that waits for the rows gets an answer before the run ends.
        self._ended = True
        await workflow.wait_condition(workflow.all_handlers_finished)
        metrics.deletion_ended(receipt, failure)
        if receipt is None or failure is not None:
            raise failure or asyncio.CancelledError
        return receipt

    @workflow.query
    def progress(self) -> Progress:
        """How far the deletion is, in counts."""
        return self._page.progress

    @workflow.update
    async def rows_deleted(self) -> RowsGone:
        """Returns once no row is left; raises RowsNotDeleted if the deletion ends before."""
        await workflow.wait_condition(lambda: self._page.rows_gone or self._ended)
        if not self._page.rows_gone:
            raise to_application_error(RowsNotDeleted("the deletion ended before all rows were deleted; its own end says why"))
        return RowsGone(artifacts=self._page.progress.artifacts, rows=self._page.progress.rows_deleted)

    async def _finish(self, work: asyncio.Task[DeletionReceipt]) -> DeletionReceipt:
        """Wait for the work. A cancel undoes everything before the first commit; after it the rest is finished all the same."""
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await workflow.wait_condition(lambda: self._opened is not None or work.done())
        if self._opened is None:
            return await work  # it was never opened, and says why
        # The ledger knows whether rows are gone; the cancelled step does not.
        cancelled = await self._step(CANCEL_DELETION, self._deletion, LEDGER, "cancel, if nothing is deleted yet")
        if not cancelled.nothing_deleted:
            self._page.cancel_refused()
            return await work
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        raise asyncio.CancelledError

    async def _delete(self) -> DeletionReceipt:
        opened = await self._open()
        self._pace = opened.pace
        self._chunks_at_once = asyncio.Semaphore(opened.pace.chunks_at_once)
        self._object_steps_at_once = asyncio.Semaphore(opened.pace.object_steps_at_once)
        self._object_steps_a_chunk = MAX_OBJECT_STEPS // max(1, len(opened.chunks))
        self._chunks_with_rows = sum(left.released is None for left in opened.chunks)
        await _all([*(self._delete_chunk(left) for left in opened.chunks), self._hide_images()])
        self._page.closing()
        return await self._step(CLOSE_DELETION, self._deletion, CLOSING, "add up the receipt")

    async def _open(self) -> Opened:
        self._page.opening(self._request)
        # Reset leaves the id of the run that it began anew; a fresh start has only its own.
        fresh = workflow.info().run_id == workflow.info().first_execution_run_id
        opening = Opening(request=self._request, fresh=fresh)
        opened = await self._step(OPEN_DELETION, opening, LEDGER, "write the request down")
        self._deletion = Deletion.of(self._request, opened.fence)
        self._opened = opened
        self._page.opened(opened)
        if opened.begins_at is not None:
            await self._once(WAIT_TO_BEGIN, self._deletion, UNLIMITED, "wait for its time")
            self._page.begins(opened)
        return opened

    async def _delete_chunk(self, left: UnfinishedChunk) -> None:
        """One chunk to its end. If its rows cannot be deleted, the others go on."""
        chunk = Chunk(**self._deletion.model_dump(), chunk=left.chunk)
        released = left.released
        if released is None:
            try:
                async with self._chunks_at_once:
                    released = await self._delete_rows(chunk)
            finally:
                self._chunks_with_rows -= 1
            if released is None:
                return
        self._page.rows_deleted(released, now=left.released is None)
        await _all([self._delete_objects(chunk, released), self._delete_trace_items(chunk, released)])

    async def _delete_rows(self, chunk: Chunk) -> Released | None:
        """Collect and delete; collect again if the rows say something else by then. None if they stay."""
        for _ in range(SEALS_TRIED):
            try:
                seal = await self._step(COLLECT_KEYS, chunk, READS, f"collect keys of chunk {chunk.chunk}")
                sealed = SealedChunk(**chunk.model_dump(), seal=seal)
                return await self._step(DELETE_ROWS, sealed, ROWS, f"delete rows of chunk {chunk.chunk}")
            except ActivityError as error:
                if named(error).type != StaleSeal.__name__:
                    log_failure(f"chunk {chunk.chunk}", error)
                    return None
        workflow.logger.error("chunk %s: its rows change faster than its keys can be collected", chunk.chunk)
        return None

    async def _delete_objects(self, chunk: Chunk, released: Released) -> None:
        """Its pages, in as many steps as a history has room for; then the listings that show what no page named."""
        await _all(self._delete_pages(pages, released) for pages in self._shares(chunk, released))
        sweeps = longer(SWEEPS, (QUIET_PERIODS + 1) * self._pace.quiet_period)
        self._page.swept(await self._try(SWEEP_PREFIXES, chunk, sweeps, f"sweep prefixes of chunk {chunk.chunk}"))

    def _shares(self, chunk: Chunk, released: Released) -> Iterable[PageRange]:
        pages = released.end_page - released.first_page
        if released.keys <= self._pace.pages_a_step * PAGE_KEYS:  # many pages that are far from full
            share = max(1, pages)
        else:
            share = max(self._pace.pages_a_step, -(-pages // self._object_steps_a_chunk))
        for first in range(released.first_page, released.end_page, share):
            yield PageRange(**chunk.model_dump(), first=first, end=min(first + share, released.end_page))

    async def _delete_pages(self, pages: PageRange, released: Released) -> None:
        label = f"objects of chunk {pages.chunk}: pages {pages.first + 1}-{pages.end} of {released.end_page}"
        async with self._object_steps_at_once:
            self._page.objects_deleted(pages.chunk, await self._try(DELETE_OBJECTS, pages, OBJECTS, label))

    async def _hide_images(self) -> None:
        """Once no row of the deletion names them any more: one step knows of each image whether another snapshot needs it."""
        if self._deletion.images:
            await workflow.wait_condition(lambda: not self._chunks_with_rows)
            await self._try(WATCH_IMAGES, self._deletion, LEDGER, "watch over the images until they are purged")
            self._page.images_hidden(await self._try(HIDE_IMAGES, self._deletion, HIDING, "hide images no snapshot needs"))

    async def _delete_trace_items(self, chunk: Chunk, released: Released) -> None:
        if released.trace_items_owed and self._pace.trace_store:
            budget = longer(TRACE_ITEMS, self._pace.trace_items_within)
            self._page.trace_items_asked(
                await self._try(DELETE_TRACE_ITEMS, chunk, budget, f"trace items of chunk {chunk.chunk}")
            )

    async def _try(self, step: Step[In, Out], given: In, budget: ActivityConfig, summary: str) -> Out | None:
        """A step after the point of no return: when its time is over the rest is done all the same, and the ledger knows."""
        try:
            return await self._step(step, given, budget, summary)
        except ActivityError as error:
            log_failure(step.name, error)
            return None

    async def _step(self, step: Step[In, Out], given: In, budget: ActivityConfig, summary: str) -> Out:
        """A step to its end. While a person holds it, it waits at no cost, and then begins anew with all its time."""
        rows = step is DELETE_ROWS
        while True:
            lifted = self._lifted[rows]
            try:
                return await self._once(step, given, budget, summary)
            except ActivityError as error:
                if (failure := named(error)).type != Held.__name__:
                    raise
            async with self._waits_while_held[rows]:  # one wait for all rows that are held, and one for all else
                if self._lifted[rows] == lifted:
                    self._page.held(rows, failure.message)
                    waiting = Waiting(**self._deletion.model_dump(), rows=rows)
                    await self._once(WAIT_WHILE_HELD, waiting, UNLIMITED, "wait while it is held")
                    self._lifted[rows] += 1
                    self._page.held(rows, None)

    async def _once(self, step: Step[In, Out], given: In, budget: ActivityConfig, summary: str) -> Out:
        whose: Any = fair(budget, self._request.organization_id)
        with self._page.at_work(step.name):
            if self._is_quick(step):
                done = await at_once(step, given, summary)
                if done is not None:
                    return done
            result: Out = await workflow.execute_activity(step.name, given, result_type=step.returns, summary=summary, **whose)
        return result

    def _is_quick(self, step: Step[Any, Any]) -> bool:
        opened = self._opened
        possible = opened is None or (opened.pace.quick_steps and len(opened.chunks) <= 1)
        return possible and is_waited_for(step, self._request)


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of it to its end, then the first failure if there was one."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
