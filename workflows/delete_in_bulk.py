"""All artifacts of a project or an organization: ordinary deletions as child workflows, a few at a time.

Each is a deletion like any other, with its own id, ledger, receipt and holds: one that fails stops no other, and one that is
terminated with this workflow is none, since children outlive it. All of them stand behind what a person waits for.
"""

import asyncio
import contextlib
import re
from collections import Counter
from datetime import datetime, timedelta
from typing import Any, NoReturn

from temporalio import workflow
from temporalio.common import Priority, RawValue, SearchAttributeKey
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.bulk import (
        BULK_PRIORITY,
        BULK_WORKFLOW,
        COMPLETE,
        CONFIRM_UPDATE,
        PAUSE_SIGNAL,
        UNPAUSE_SIGNAL,
        BulkCounts,
        BulkProgress,
        BulkReceipt,
    )
    from artifact_deletion.errors import BulkNotComplete, InvalidRequest, to_application_error
    from artifact_deletion.receipt import DeletionReceipt
    from artifact_deletion.request import DELETE_WORKFLOW, OPAQUE_ID, TASK_QUEUE, DeletionRequest
    from workflows import bulk_text, metrics
    from workflows.budgets import LEDGER, TURNS, UNLIMITED, fair
    from workflows.bulk_steps import (
        CLOSE_BULK,
        NEXT_ARTIFACTS,
        OPEN_BULK,
        WAIT_FOR_OTHERS,
        After,
        ArtifactsFound,
        BulkOpened,
        BulkRun,
        SoFar,
    )
    from workflows.failures import named, of_deletion
    from workflows.inputs import NO_REQUEST, validated
    from workflows.steps import In, Out, Step

MAX_EVENTS = 2000
"""Of a run, about: a hundred deletions. Then the next run goes on."""
FAILED_NAMED = 20
_ORGANIZATION = SearchAttributeKey.for_keyword("OrganizationId")


@workflow.defn(name=BULK_WORKFLOW)
class DeleteInBulkWorkflow:
    """See the module. Its input is JSON of a BulkRequest from any client."""

    def __init__(self) -> None:
        self._is_known = False
        self._counts = BulkCounts()
        self._running: dict[asyncio.Task[None], DeletionRequest] = {}
        self._last: str | None = None
        self._paused = False
        self._waits: str | None = None

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> BulkReceipt:
        """Returns its receipt if no artifact is there any more and each deletion is complete; else BulkNotComplete."""
        try:
            receipt = await self._run(raw)
        except (ActivityError, ApplicationError, asyncio.CancelledError) as error:
            if self._is_known:
                metrics.bulk_ended(self._request.kind, None, error)
            raise
        metrics.bulk_ended(self._request.kind, receipt, None)
        return receipt

    async def _run(self, raw: RawValue) -> BulkReceipt:
        self._request = validated(raw, BulkRun, lambda request: request.workflow_id)
        if self._request.so_far is not None and workflow.info().continued_run_id is None:
            # A client could say that a second person has confirmed it.
            raise to_application_error(InvalidRequest("so_far: only a run that is handed on has it"))
        self._is_known = True
        try:
            receipt = await self._delete(self._request.so_far)
        except (ActivityError, asyncio.CancelledError) as error:
            if isinstance(error, ActivityError) and not is_cancelled_exception(error):
                raise named(error) from None
            self._waiting(bulk_text.CANCELLED)
            raise
        if not receipt.complete:
            raise ApplicationError(bulk_text.not_complete(receipt), receipt, type=BulkNotComplete.__name__, non_retryable=True)
        return receipt

    @workflow.signal(name=PAUSE_SIGNAL)
    def pause(self) -> None:
        """No further deletion begins; those that run come to their end."""
        self._paused = True

    @workflow.signal(name=UNPAUSE_SIGNAL)
    def unpause(self) -> None:
        """It goes on."""
        self._paused = False

    @workflow.update(name=CONFIRM_UPDATE)
    async def confirm(self, by: str) -> None:
        """A second person says that so much is meant. Raises InvalidRequest for the one who asked."""
        await workflow.wait_condition(lambda: self._is_known)
        if not re.fullmatch(OPAQUE_ID, by):
            raise to_application_error(InvalidRequest("by: must be an opaque id, such as user:7"))
        if by == self._request.requested_by:
            raise to_application_error(InvalidRequest("by: another person than the one who asked has to confirm it"))
        self._note(confirmed_by=self._counts.confirmed_by or by)

    @workflow.query
    def progress(self) -> BulkProgress:
        """How far it is, in counts."""
        running = tuple(request.workflow_id for task, request in self._running.items() if not task.done())
        return BulkProgress(
            **self._counts.model_dump(), running=running, waits=bulk_text.PAUSED if self._paused else self._waits
        )

    async def _delete(self, so_far: SoFar | None) -> BulkReceipt:
        if so_far is None:
            so_far = SoFar(opened=await self._open(), counts=self._counts)
        self._counts, self._paused = so_far.counts, self._paused or so_far.paused
        for ids in so_far.running:
            self._begin(ids)
        while ids := (page := await self._next(so_far)).artifact_ids:
            if page.not_before is None:
                self._begin(ids)
            else:
                await self._begin_later(ids, page.not_before)
            self._note(asked=self._counts.asked + len(ids))
            so_far = so_far.model_copy(update={"after": ids[-1], "not_before": self._not_before(len(ids))})
            if self._is_long():
                self._hand_on(so_far)
        await self._until_run(0)
        return await self._close()

    async def _open(self) -> BulkOpened:
        """Count first. So many that another person has to confirm them wait for that person, before anything is deleted."""
        request = self._request.request
        opened = await self._step(OPEN_BULK, request, LEDGER, "count the artifacts")
        if opened.search_attributes:
            workflow.upsert_search_attributes([_ORGANIZATION.value_set(str(request.organization_id))])
        self._note(artifacts=opened.artifacts)
        if opened.too_many:
            if request.requested_by is None:
                raise to_application_error(InvalidRequest(bulk_text.no_one_asked(opened.artifacts)))
            self._waiting(bulk_text.needs_confirmation(opened.artifacts, request))
            await workflow.wait_condition(lambda: self._counts.confirmed_by is not None)
            self._waiting(None)
        return opened

    async def _next(self, so_far: SoFar) -> ArtifactsFound:
        """The artifacts of the next deletion, when its turn comes; none at the end."""
        if so_far.not_before is not None and (pause := so_far.not_before - workflow.now()) > timedelta(0):
            self._waiting(bulk_text.limited(so_far.not_before))
            await workflow.sleep(pause, summary="so many artifacts an hour")
            self._waiting(None)
        await self._until_run(so_far.opened.deletions_at_once - 1)
        self._show()
        while True:
            await workflow.wait_condition(lambda: not self._paused)
            size, an_hour = so_far.opened.artifacts_a_deletion, self._request.artifacts_an_hour
            page = After(
                request=self._request.request,
                after=so_far.after,
                at_most=size if an_hour is None else min(size, an_hour),
                last=self._last,
            )
            found = await self._step(NEXT_ARTIFACTS, page, TURNS, f"artifacts after {so_far.after}")
            if not self._paused:  # it may have waited for its turn for hours
                return found

    def _not_before(self, artifacts: int) -> Any:
        an_hour = self._request.artifacts_an_hour
        return None if an_hour is None else workflow.now() + timedelta(hours=artifacts / an_hour)

    def _begin(self, ids: tuple[int, ...]) -> None:
        request = self._request.deletion_of(ids)
        self._last = request.deletion_id
        self._running[asyncio.create_task(self._delete_some(request))] = request

    async def _begin_later(self, ids: tuple[int, ...], not_before: datetime) -> None:
        """A deletion that waits for days: its end is not waited for, so that what expires meanwhile is not late."""
        request = self._request.deletion_of(ids).model_copy(update={"not_before": not_before})
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await workflow.start_child_workflow(DELETE_WORKFLOW, request, **self._as_child(request))
        self._note(waiting=self._counts.waiting + 1)

    async def _until_run(self, at_most: int) -> None:
        """Return when no more deletions than that run."""
        while len(self._running) > at_most:
            ended, _ = await workflow.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                del self._running[task]
                await task  # which counted how its deletion ended; a mistake of ours is raised here

    async def _delete_some(self, request: DeletionRequest) -> None:
        receipt: DeletionReceipt | None
        try:
            how, receipt = COMPLETE, await self._child(request)
        except ChildWorkflowError as error:
            how, receipt = of_deletion(error)
        counts, deleted = self._counts, receipt.artifacts.deleted.count if receipt else 0
        metrics.bulk_deleted(self._request.kind, deleted)
        self._note(
            deleted=counts.deleted + deleted,
            not_expired=counts.not_expired + (receipt.artifacts.not_expired.count if receipt else 0),
            deletions=dict(Counter(counts.deletions) + Counter([how])),
            failed=counts.failed if how == COMPLETE else (*counts.failed, request.workflow_id)[:FAILED_NAMED],
            blobs_left=counts.blobs_left + (receipt.files.blobs_left if receipt else 0),
            images_hidden=counts.images_hidden + (receipt.images.hidden if receipt else 0),
            images_kept=counts.images_kept + (receipt.manifests.images_kept + receipt.images.kept if receipt else 0),
        )

    async def _child(self, request: DeletionRequest) -> DeletionReceipt:
        """A deletion to its end. Where a run is at work on it already, that one first: one that is complete says so at once."""
        while True:
            with contextlib.suppress(WorkflowAlreadyStartedError):
                receipt: DeletionReceipt = await workflow.execute_child_workflow(
                    DELETE_WORKFLOW, request, **self._as_child(request)
                )
                return receipt
            await self._step(WAIT_FOR_OTHERS, request, UNLIMITED, f"wait for {request.workflow_id}")

    def _as_child(self, request: DeletionRequest) -> dict[str, Any]:
        """It outlives this workflow, and stands behind what a person waits for."""
        return {
            "id": request.workflow_id,
            "task_queue": TASK_QUEUE,
            "result_type": DeletionReceipt,
            "parent_close_policy": workflow.ParentClosePolicy.ABANDON,
            "cancellation_type": workflow.ChildWorkflowCancellationType.ABANDON,
            "priority": Priority(priority_key=BULK_PRIORITY, fairness_key=str(request.organization_id)),
            "static_summary": request.summary,
            "static_details": request.details,
        }

    async def _close(self) -> BulkReceipt:
        request = self._request.request
        closed = await self._step(CLOSE_BULK, request, TURNS, "what remains, and the rest")
        return BulkReceipt(
            **self._counts.model_dump(),
            workflow_id=request.workflow_id,
            organization_id=request.organization_id,
            project_id=request.project_id,
            expired=request.expired,
            requested_by=request.requested_by,
            reference=request.reference,
            remaining=closed.remaining,
            rows=closed.rows,
        )

    def _is_long(self) -> bool:
        info = workflow.info()
        return info.get_current_history_length() >= MAX_EVENTS or info.is_continue_as_new_suggested()

    def _hand_on(self, so_far: SoFar) -> NoReturn:
        """The next run finds deletions that run as it would find a person's: it waits for them, and hears how they ended."""
        running = tuple(tuple(request.artifact_ids) for task, request in self._running.items() if not task.done())
        so_far = so_far.model_copy(update={"counts": self._counts, "paused": self._paused, "running": running})
        workflow.continue_as_new(
            BulkRun(**self._request.request.model_dump(), so_far=so_far),
            # Pinned to the build that it began on, a run of weeks would keep that build's workers up.
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE,
        )

    async def _step(self, step: Step[In, Out], given: In, budget: ActivityConfig, summary: str) -> Out:
        whose: Any = fair(budget, self._request.organization_id)
        result: Out = await workflow.execute_activity(step.name, given, result_type=step.returns, summary=summary, **whose)
        return result

    def _note(self, **changes: Any) -> None:
        self._counts = self._counts.model_copy(update=changes)
        self._show()

    def _waiting(self, why: str | None) -> None:
        self._waits = why
        self._show()

    def _show(self) -> None:
        workflow.set_current_details(bulk_text.details(self._request, self.progress()))
