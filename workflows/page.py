"""What an operator sees of a running deletion: its progress, kept up with every step, as query, page and search attributes."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.receipt import AtWork, DeletionReceipt, Progress, Stage
    from artifact_deletion.request import DeletionRequest
    from workflows import metrics, text
    from workflows.steps import ImagesHidden, ObjectsDeleted, Opened, Released, Swept, TraceItemsDeleted

_ORGANIZATION = SearchAttributeKey.for_keyword("OrganizationId")
_STAGE = SearchAttributeKey.for_keyword("DeletionStage")
_LEFTOVERS = SearchAttributeKey.for_int("Leftovers")


class Page:
    """The deletion's progress. Each method is told of one thing that has happened."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._stage_since = workflow.now()
        self._rows_owed = 1  # until it is opened and the number is known
        self._settled_keys = Counter[int]()
        self._steps: dict[int, tuple[str, datetime]] = {}
        self._numbers = count()
        self._searchable = False
        self._held: dict[bool, str | None] = {True: None, False: None}

    @property
    def progress(self) -> Progress:
        """The answer to the query."""
        return self._progress.model_copy(update={"at_work": tuple(self._at_work())})

    @property
    def rows_gone(self) -> bool:
        """True once no row of the deletion is left."""
        return not self._rows_owed and not self._progress.artifacts_held

    def opening(self, request: DeletionRequest) -> None:
        self._organization_id = request.organization_id
        self._note(artifacts=len(request.artifact_ids), images=request.images == "delete")

    def opened(self, opened: Opened) -> None:
        self._searchable = opened.pace.search_attributes
        self._rows_owed = sum(left.released is None for left in opened.chunks)
        self._traces = opened.pace.trace_store
        trace_chunks = sum(self._owes_traces(left.released) for left in opened.chunks)
        self._note(
            stage=Stage.WAITING if opened.begins_at else self._first_stage(opened),
            waits_until=opened.begins_at,
            chunks=len(opened.chunks),
            trace_chunks=trace_chunks,
            rows_deleted=opened.rows_deleted,
            artifacts_held=opened.held,
        )

    def begins(self, opened: Opened) -> None:
        """Its time has come."""
        self._note(stage=self._first_stage(opened), waits_until=None)

    def _first_stage(self, opened: Opened) -> Stage:
        if not self._rows_owed:
            return Stage.DELETING_OBJECTS
        return Stage.DELETING_ROWS if opened.rows_deleted else Stage.COLLECTING

    def rows_deleted(self, released: Released, *, now: bool) -> None:
        """The rows of a chunk are gone, `now` or since an earlier run."""
        self._rows_owed -= now
        self._note(
            stage=Stage.DELETING_ROWS if self._rows_owed else Stage.DELETING_OBJECTS,
            chunks_rows_deleted=self._progress.chunks_rows_deleted + 1,
            rows_deleted=self._progress.rows_deleted + (released.rows if now else 0),
            artifacts_held=self._progress.artifacts_held + released.held,
            trace_chunks=self._progress.trace_chunks - (self._traces and now and not released.trace_items_owed),
            keys=self._progress.keys + released.keys,
        )

    def _owes_traces(self, released: Released | None) -> bool:
        return self._traces and (released is None or released.trace_items_owed)

    def objects_deleted(self, chunk: int, deleted: ObjectsDeleted | None) -> None:
        """None: its time was over."""
        if deleted is not None:
            self._settled_keys[chunk] = max(self._settled_keys[chunk], deleted.settled)
            left_over = self._progress.left_over + deleted.left_over
            self._note(keys_done=self._settled_keys.total(), left_over=left_over)

    def trace_items_asked(self, deleted: TraceItemsDeleted | None) -> None:
        """None: its time was over."""
        if deleted is not None:
            self._note(
                trace_items_matched=self._progress.trace_items_matched + deleted.matched,
                trace_chunks_confirmed=self._progress.trace_chunks_confirmed + deleted.confirmed,
            )

    def swept(self, swept: Swept | None) -> None:
        """None: its time was over."""
        if swept is not None:
            self._note(
                chunks_swept=self._progress.chunks_swept + 1,
                found_by_listing=self._progress.found_by_listing + swept.found,
                left_over=self._progress.left_over + swept.left_over,
            )

    def images_hidden(self, hidden: ImagesHidden | None) -> None:
        """None: its time was over."""
        if hidden is not None:
            self._note(
                images_hidden=hidden.hidden,
                images_kept=hidden.kept,
                left_over=self._progress.left_over + hidden.left_over,
            )

    def held(self, rows: bool, why: str | None) -> None:  # noqa: FBT001
        """Rows, or what comes after them, begin to wait while they are held; None: they go on."""
        self._held[rows] = why
        self._note(held=self._held[True] or self._held[False])

    def closing(self) -> None:
        self._note(stage=Stage.CLOSING)

    def cancel_refused(self) -> None:
        self._note(cancel_refused=True)

    def ended(self, receipt: DeletionReceipt | None, failure: BaseException | None) -> None:
        """With a receipt, an error, or neither of them: cancelled."""
        if receipt is not None:
            left_over = sum(receipt.left_over.values())
            self._note(stage=Stage.FAILED if left_over else Stage.COMPLETED, left_over=left_over)
            workflow.set_current_details(text.closed(receipt))
        elif isinstance(failure, ApplicationError):
            workflow.set_current_details(text.ended(failure.message))
        else:
            self._note(stage=Stage.CANCELLED, held=None, waits_until=None)
            workflow.set_current_details(text.CANCELLED)

    @contextmanager
    def at_work(self, step: str) -> Iterator[None]:
        """Show a step as long as it is at work. Not by `finally`: that runs too when a worker lets go of the workflow."""
        number = next(self._numbers)
        self._steps[number] = step, workflow.now()
        self._show()
        try:
            yield
        except (FailureError, asyncio.CancelledError):
            del self._steps[number]
            self._show()
            raise
        del self._steps[number]
        self._show()

    def _at_work(self) -> Iterator[AtWork]:
        """Steps of one name as one, with the oldest's time."""
        names = dict.fromkeys(name for name, _ in self._steps.values())
        for name in names:
            since = [at for other, at in self._steps.values() if other == name]
            yield AtWork(step=name, count=len(since), since=min(since))

    def _note(self, **changes: Any) -> None:
        before, self._progress = self._progress, self._progress.model_copy(update=changes)
        now = self._progress
        if before.stage is not now.stage:
            metrics.stage_ended(before.stage, workflow.now() - self._stage_since)
            self._stage_since = workflow.now()
            workflow.logger.info("%s", now.stage)
        self._show()
        if self._searchable and (before.stage, before.left_over) != (now.stage, now.left_over):
            values = (_ORGANIZATION, str(self._organization_id)), (_STAGE, str(now.stage)), (_LEFTOVERS, now.left_over)
            workflow.upsert_search_attributes([key.value_set(value) for key, value in values])  # type: ignore[arg-type]

    def _show(self) -> None:
        workflow.set_current_details(text.details(self.progress))
