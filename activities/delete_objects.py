"""Step 3: delete the released keys from the object store, page by page.

A request deletes a page, or several that are not full. Pages shrink in the ledger to what the store did not delete, so a crash
costs at most a few repeated requests. What the store refuses stays in the page, with its code, as left over; what it asks to
try again fails this attempt, so that Temporal retries it with backoff, where an operator can see it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from temporalio import activity
from temporalio.common import MetricMeter

from activities.delete_rows import icons_still_named
from activities.metrics import count_keys
from activities.requests import run_all
from activities.storage import ledger
from activities.storage.database import Database
from activities.storage.ledger import Page, PageSource, Settlement
from activities.storage.objects import MAX_KEYS, ObjectStore, Outcome
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
        meter = activity.metric_meter()
        requests = [partial(self._delete_pages, together) for together in _full(owed)]
        answered = run_all(self.requests, requests, partial(self._settle, pages, meter))
        not_yet = Counter(code for answer in answered for code in answer.outcome.not_yet.values())
        if not_yet:
            codes = ", ".join(f"{code} {count}" for code, count in sorted(not_yet.items()))
            raise KeysNotDeletedYet(f"{not_yet.total()} keys are to be tried again ({codes})")
        with self.database.read() as session:
            found = ledger.read_chunk(session, pages.deletion_id, pages.chunk)
            return ObjectsDeleted(
                settled=found.deleted + found.absent + found.kept,
                left_over=ledger.keys_owed(session, pages.deletion_id, pages.chunk, first=pages.first, last=pages.last),
            )

    def _delete_pages(self, pages: Sequence[Page]) -> "Answer":
        kept: set[str] = set()
        icons = [key for page in pages if page.source is PageSource.ICON for key in page.keys]
        if icons:
            # An icon may have been uploaded again since, for another artifact: look once more, right before it would go.
            with self.database.read() as session:
                kept = icons_still_named(session, icons)
        answer = Answer(pages, frozenset(kept))
        keys = list(dict.fromkeys(key for page in pages for key in answer.asked(page).values()))
        if keys:
            answer.outcome = self.store.delete(keys)
        return answer

    def _settle(self, owed: PageRange, meter: MetricMeter, answers: Iterable["Answer"]) -> None:
        settlements = [settlement for answer in answers for settlement in answer.settlements()]
        with self.database.write() as session:
            found = ledger.lock_released(session, owed.deletion_id, owed.chunk, settlements[0].page.epoch)
            settled = ledger.settle_pages(session, found, settlements)
            by_others = [one.page.seq for one in settlements if one.page.seq not in settled]
            still_owed = any(ledger.keys_owed(session, owed.deletion_id, owed.chunk, first=seq, last=seq) for seq in by_others)
        for one in settlements:
            if one.page.seq in settled:
                count_keys(meter, "ledger", deleted=one.deleted, absent=one.absent, kept=one.kept)
        if still_owed:
            raise KeysNotDeletedYet("another attempt is at work on the same page; what it leaves is to be tried again")


@dataclass
class Answer:
    """What one request of the store came to."""

    pages: Sequence[Page]
    kept: frozenset[str]
    """Icons among their keys that are somebody's again."""
    outcome: Outcome = field(default_factory=Outcome)

    def asked(self, page: Page) -> dict[str, str]:
        """Physical key by key, of those of a page that the store was asked to delete."""
        kept = self.kept if page.source is PageSource.ICON else frozenset()
        return {key: page.scope + key for key in page.keys if key not in kept}

    def settlements(self) -> Iterator[Settlement]:
        """What to write down, page by page."""
        remaining, absent = self.outcome.remaining, frozenset(self.outcome.absent)
        for page in self.pages:
            asked = self.asked(page)
            left = {key: remaining[physical] for key, physical in asked.items() if physical in remaining}
            gone_before = sum(physical in absent for physical in asked.values())
            yield Settlement(
                page,
                left,
                deleted=len(asked) - len(left) - gone_before,
                absent=gone_before,
                kept=len(page.keys) - len(asked),
            )


def _full(pages: Iterable[Page]) -> Iterator[list[Page]]:
    """Pages for one request each, of at most as many keys as one takes."""
    together: list[Page] = []
    keys = 0
    for page in pages:
        if together and keys + len(page.keys) > MAX_KEYS:
            yield together
            together, keys = [], 0
        together.append(page)
        keys += len(page.keys)
    if together:
        yield together
