"""Step 3: delete the released keys from the object store, page by page.

A page is one request. It shrinks in the ledger to what the store did not delete before anything else happens, so a crash costs
at most a repeated request. What the store refuses stays in the page, with its code, as left over; what it asks to try again
fails this attempt, so that Temporal retries it with backoff, where an operator can see it.
"""

from collections import Counter
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from temporalio import activity
from temporalio.common import MetricMeter

from activities.delete_rows import icons_still_named
from activities.metrics import count_keys
from activities.requests import run_all
from activities.storage import ledger
from activities.storage.database import Database
from activities.storage.ledger import Page, PageSource
from activities.storage.objects import ObjectStore, Outcome
from workflows.errors import KeysNotDeletedYet
from workflows.messages import DELETE_OBJECTS, ObjectsDeleted, PageRange


@dataclass(frozen=True)
class DeleteObjects:
    """Needs the ledger and the store."""

    database: Database
    store: ObjectStore
    requests: Executor
    """Bounds the requests that the whole process makes of the store at a time."""

    @activity.defn(name=DELETE_OBJECTS.name, no_thread_cancel_exception=True)
    def delete_objects(self, pages: PageRange) -> ObjectsDeleted:
        """Returns when nothing of these pages is left but what the store refuses for good.

        Raises KeysNotDeletedYet, StoreUnavailable: then the step is run again on what is left.
        """
        with self.database.read() as session:
            ledger.refuse_living(session, pages.deletion_id, pages.chunk)
            owed = list(ledger.read_pages(session, pages.deletion_id, pages.chunk, first=pages.first, last=pages.last))
        outcomes = run_all(self.requests, [partial(self._delete_page, page, activity.metric_meter()) for page in owed])
        not_yet = Counter(code for outcome in outcomes for code in outcome.not_yet.values())
        if not_yet:
            codes = ", ".join(f"{code} {count}" for code, count in sorted(not_yet.items()))
            raise KeysNotDeletedYet(f"{not_yet.total()} keys are to be tried again ({codes})")
        with self.database.read() as session:
            found = ledger.read_chunk(session, pages.deletion_id, pages.chunk)
            return ObjectsDeleted(
                settled=found.deleted + found.absent + found.kept,
                left_over=ledger.keys_owed(session, pages.deletion_id, pages.chunk, first=pages.first, last=pages.last),
            )

    def _delete_page(self, page: Page, meter: MetricMeter) -> Outcome:
        kept: set[str] = set()
        if page.source is PageSource.ICON:
            # An icon may have been uploaded again since, for another artifact: look once more, right before it would go.
            with self.database.read() as session:
                kept = icons_still_named(session, page.keys)
        keys = [page.scope + key for key in page.keys if key not in kept]
        outcome = self.store.delete(keys) if keys else Outcome()
        remaining = {key.removeprefix(page.scope): code for key, code in outcome.remaining.items()}
        with self.database.write() as session:
            found = ledger.lock_released(session, page.deletion_id, page.chunk, page.epoch)
            settled = ledger.settle_page(
                session, found, page, remaining, deleted=len(outcome.deleted), absent=len(outcome.absent), kept=len(kept)
            )
            if not settled and ledger.keys_owed(session, page.deletion_id, page.chunk, first=page.seq, last=page.seq):
                raise KeysNotDeletedYet("another attempt is at work on the same page; what it leaves is to be tried again")
        if settled:
            count_keys(meter, "ledger", deleted=len(outcome.deleted), absent=len(outcome.absent), kept=len(kept))
        return outcome
