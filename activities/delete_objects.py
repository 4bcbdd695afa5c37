"""Step 3: delete the released keys from the object store, page by page.

A request deletes a page, or several that are not full. Pages shrink in the ledger to the keys that the store did not delete, so
a crash costs at most a few repeated requests. Refused keys stay in the page, with their code, as left over. If the store asks
to try again, this attempt fails, so that Temporal retries it where an operator can see it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from temporalio import activity
from temporalio.common import MetricMeter

from activities.database import Database
from activities.ledger import chunks, pages
from activities.ledger.pages import KeyPage, Settlement
from activities.ledger.schema import PageSource
from activities.living import Living
from activities.metrics import count_keys
from activities.run_all import run_all
from activities.stores.guards import Guard, guarded
from activities.stores.objects import MAX_KEYS, ObjectStore, Outcome
from artifact_deletion.errors import KeysNotDeletedYet
from workflows.steps import DELETE_OBJECTS, ObjectsDeleted, PageRange

_PAGES_AT_A_TIME = 64
"""A step may have thousands of pages; so many are in memory."""


@dataclass(frozen=True)
class DeleteObjects:
    """Needs the ledger and the store."""

    database: Database
    store: ObjectStore
    guard: Guard
    living: Living
    requests: Executor
    """Bounds the requests that the whole process makes of the store at a time."""

    @activity.defn(name=DELETE_OBJECTS.name, no_thread_cancel_exception=True)
    def delete_objects(self, share: PageRange) -> ObjectsDeleted:
        """Returns when nothing of these pages is left but keys that the store refuses for good.

        Raises KeysNotDeletedYet, StoreUnavailable: then the step is run again on the rest. Raises Held, ArtifactReappeared.
        """
        done = ObjectsDeleted(settled=0, left_over=0)
        for first in range(share.first, share.end, _PAGES_AT_A_TIME):
            part = share.model_copy(update={"first": first, "end": min(first + _PAGES_AT_A_TIME, share.end)})
            of_part = self._delete_part(part)
            done = ObjectsDeleted(settled=of_part.settled, left_over=done.left_over + of_part.left_over)
        return done

    def _delete_part(self, part: PageRange) -> ObjectsDeleted:
        with self.database.read() as session:
            found = self.living.read_released(session, part)
            owed = list(pages.read_pages(session, part, first=part.first, end=part.end))
        store = guarded(self.store, self.guard.before(part.organization_id, part.deletion_id))
        settling = Settling(self.database, part, activity.metric_meter(), settled=found.settled)
        requests = [partial(self._delete_pages, store, together) for together in _full(owed)]
        answered = run_all(self.requests, requests, settling.settle)
        not_yet = Counter(code for answer in answered for code in answer.outcome.not_yet.values())
        if not_yet:
            codes = ", ".join(f"{code} {count}" for code, count in sorted(not_yet.items()))
            raise KeysNotDeletedYet(f"{not_yet.total()} keys are to be tried again ({codes})")
        return ObjectsDeleted(settled=settling.settled, left_over=sum(len(answer.outcome.remaining) for answer in answered))

    def _delete_pages(self, store: ObjectStore, together: Sequence[KeyPage]) -> "Answer":
        kept: set[str] = set()
        shared = [key for page in together if page.source is PageSource.SHARED for key in page.keys]
        if shared:
            # An icon may have been uploaded again since, for another artifact: look once more, right before it would go.
            with self.database.read() as session:
                kept = self.living.backend.still_named(session, shared)
        answer = Answer(together, frozenset(kept))
        keys = list(dict.fromkeys(key for page in together for key in answer.asked(page).values()))
        if keys:
            answer.outcome = store.delete(keys)
        return answer


@dataclass
class Settling:
    """Writes answers down as they come."""

    database: Database
    share: PageRange
    meter: MetricMeter
    settled: int
    """Keys of the whole chunk that are settled by now."""

    def settle(self, answers: Sequence["Answer"]) -> None:
        """Shrink the pages to what is left. Raises KeysNotDeletedYet if another attempt is at work on one."""
        settlements = [settlement for answer in answers for settlement in answer.settlements()]
        with self.database.write() as session:
            found = chunks.lock_released(session, self.share)
            settled = pages.settle_pages(session, found, settlements)
            others = [one.page.seq for one in settlements if one.page.seq not in settled]
            still_owed = any(pages.keys_owed(session, self.share, first=seq, end=seq + 1) for seq in others)
            self.settled = found.deleted + found.absent + found.kept
        for one in settlements:
            if one.page.seq in settled:
                count_keys(self.meter, "ledger", deleted=one.deleted, absent=one.absent, kept=one.kept)
        if still_owed:
            raise KeysNotDeletedYet("another attempt is at work on the same page; the rest is to be tried again")


@dataclass
class Answer:
    """What one request of the store came to."""

    pages: Sequence[KeyPage]
    kept: frozenset[str]
    """Icons among their keys that an app info names again."""
    outcome: Outcome = field(default_factory=Outcome)

    def asked(self, page: KeyPage) -> dict[str, str]:
        """Physical key by key, of those of a page that the store was asked to delete."""
        kept = self.kept if page.source is PageSource.SHARED else frozenset()
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


def _full(owed: Iterable[KeyPage]) -> Iterator[list[KeyPage]]:
    """Pages for one request each, of at most as many keys as one takes."""
    together: list[KeyPage] = []
    keys = 0
    for page in owed:
        if together and keys + len(page.keys) > MAX_KEYS:
            yield together
            together, keys = [], 0
        together.append(page)
        keys += len(page.keys)
    if together:
        yield together
