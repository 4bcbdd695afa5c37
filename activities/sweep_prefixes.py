"""Step 5: list what is still under the artifacts' own prefixes and delete it; after a quiet period, list them empty.

By now what rows and manifests named is gone, so a listing finds exactly what nobody named: plans, chunks, runs, whatever upload
code invents next, and late writers. What the store itself listed is deleted literally. Uploads that were begun and not
completed are no objects, but hold data: the listing that confirms aborts them first, so that none becomes an object behind it.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from os.path import commonprefix
from typing import NamedTuple

from temporalio import activity
from temporalio.common import MetricMeter

from activities.metrics import count_keys, count_listed_bytes
from activities.requests import run_all
from activities.storage import ledger
from activities.storage.database import Database
from activities.storage.ledger import ChunkState, Prefix, PrefixState
from activities.storage.objects import MAX_KEYS, Found, ObjectStore, Outcome, Upload
from workflows.errors import KeysNotDeletedYet, StaleAttempt, StoreUnavailable
from workflows.messages import SWEEP_PREFIXES, Sweep, Swept

STILL_WRITTEN = "StillWritten"
"""The code of objects that somebody kept on writing while sweep after sweep deleted them."""
_NO_SUCH_UPLOAD = "NoSuchUpload"
_LISTINGS = 3
_PREFIXES_A_PAGE = 25
"""A page of a thousand strangers' names costs about as much as this many listings that find nothing."""

Look = Callable[[str], Iterator[Sequence[Found] | Sequence[Upload]]]


@dataclass
class Listing:
    """What emptying one prefix came to."""

    deleted: int = 0
    size: int = 0
    """Bytes of what was deleted."""
    codes: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """Sealed keys under the prefix that are left over already: they are counted in their pages."""
    not_yet: Counter[str] = field(default_factory=Counter)
    aborted: int | None = None
    """Unfinished uploads; None if they were not looked for."""

    def add(self, outcome: Outcome) -> None:
        """Count what was refused, or is to be tried again."""
        self.codes.update(outcome.refused.values())
        self.not_yet.update(outcome.not_yet.values())


@dataclass(frozen=True)
class SweepPrefixes:
    """Needs the ledger and the store."""

    database: Database
    store: ObjectStore
    requests: Executor

    @activity.defn(name=SWEEP_PREFIXES.name, no_thread_cancel_exception=True)
    def sweep_prefixes(self, sweep: Sweep) -> Swept:
        """Returns what was found. Raises KeysNotDeletedYet, StoreUnavailable: then the step is run again from where it was."""
        with self.database.read() as session:
            chunk = ledger.read_chunk(session, sweep.deletion_id, sweep.chunk)
            if chunk.state != ChunkState.ROWS_DELETED:
                raise StaleAttempt(f"chunk {sweep.chunk}: its rows are not deleted")
            ledger.refuse_living(session, sweep.deletion_id, sweep.chunk)
            prefixes = ledger.prefixes_to_sweep(session, sweep.deletion_id, sweep.chunk)
            in_pages = {
                short(page.scope + key)
                for page in ledger.read_pages(session, sweep.deletion_id, sweep.chunk)
                for key in page.keys
            }
        exact = [prefix for prefix in prefixes if prefix.exact and sweep.confirm]
        by_scope = _by_scope(exact)
        together = run_all(self.requests, [partial(self._without_uploads, group) for group in by_scope])
        uploads = {key: Listing(aborted=0) for keys in together for key in keys}
        uploads |= dict(run_all(self.requests, [partial(self._abort_exact, one) for one in exact if one.name not in uploads]))
        settle = partial(self._settle, sweep, activity.metric_meter())
        wide = [prefix for prefix in prefixes if not prefix.exact]
        if not self.store.listable:  # it was, or was thought to be, when they were sealed
            settle([[Emptied(prefix, PrefixState.UNCHECKED, Listing()) for prefix in wide]])
            wide = []
        quiet_together = run_all(self.requests, [partial(self._prove, sweep, group) for group in _by_scope(wide)], settle)
        proven = {one.prefix.name for group in quiet_together for one in group}
        jobs = [partial(self._sweep_one, sweep, prefix, in_pages) for prefix in wide if prefix.name not in proven]
        batches = [exact[start : start + MAX_KEYS] for start in range(0, len(exact), MAX_KEYS)]
        jobs += [partial(self._delete_exact, batch, in_pages, uploads) for batch in batches]
        swept = run_all(self.requests, jobs, settle)
        listings = [one.listing for of_job in swept for one in of_job]
        not_yet = sum((listing.not_yet for listing in listings), Counter[str]())
        if not_yet:
            codes = ", ".join(f"{code} {count}" for code, count in sorted(not_yet.items()))
            raise KeysNotDeletedYet(f"{not_yet.total()} listed objects are to be tried again ({codes})")
        left_over = sum(listing.codes.total() for listing in listings)
        return Swept(
            found=sum(listing.deleted for listing in listings) + left_over,
            left_over=left_over,
            quiet=all(one.state is not PrefixState.SWEPT for of_job in (*quiet_together, *swept) for one in of_job),
        )

    def _prove(self, sweep: Sweep, group: Sequence[Prefix]) -> "list[Emptied]":
        """Those of the prefixes under which one listing of all they have in common finds nothing."""
        prefixes = {prefix.name: prefix for prefix in group if prefix.prefix.endswith("/")}
        looks = [self.store.uploads_under] if sweep.confirm and self.store.lists_uploads else []
        quiet = self._quiet(prefixes.keys(), [*looks, self.store.list_under])
        listing = Listing(aborted=0 if looks else None)
        return [Emptied(prefixes[one], _state(sweep, prefixes[one], listing), listing) for one in sorted(quiet)]

    def _without_uploads(self, group: Sequence[Prefix]) -> set[str]:
        """The keys that one listing shows to have no unfinished upload."""
        keys = {prefix.name for prefix in group}
        return self._quiet(keys, [self.store.uploads_under]) if self.store.lists_uploads else set()

    def _quiet(self, prefixes: Collection[str], looks: Sequence[Look]) -> set[str]:
        """Of these prefixes or keys, those under which none of the listings, each read to its end, shows anything.

        None of them, where that would take longer than to ask for each, or the store refuses to list what lies between them.
        """
        common = commonprefix(list(prefixes))  # noqa: RUF071  the store compares character by character too
        pages = len(prefixes) // _PREFIXES_A_PAGE
        quiet = set(prefixes)
        try:
            for look in looks:
                for number, page in enumerate(look(common)):
                    if number == pages:
                        return set()
                    for one in page:
                        quiet.difference_update([one.key], (one.key[: slash.end()] for slash in re.finditer("/", one.key)))
        except StoreUnavailable:
            return set()
        return quiet

    def _sweep_one(self, sweep: Sweep, prefix: Prefix, in_pages: set[int]) -> "list[Emptied]":
        """Empty a prefix; to confirm, list again after deleting, until a listing finds nothing that could be deleted."""
        total = Listing()
        quiet = False
        for _ in range(_LISTINGS if sweep.confirm else 1):
            listing = self._empty(prefix.name, in_pages, uploads=sweep.confirm)
            total.deleted += listing.deleted
            total.size += listing.size
            total.codes, total.not_yet, total.refused = listing.codes, listing.not_yet, listing.refused
            if listing.aborted is not None:
                total.aborted = (total.aborted or 0) + listing.aborted
            if quiet := not listing.deleted and not listing.aborted:
                break
        if sweep.last and not quiet:
            total.codes[STILL_WRITTEN] += listing.deleted + (listing.aborted or 0)
        return [Emptied(prefix, _state(sweep, prefix, total), total)]

    def _empty(self, prefix: str, in_pages: set[int], *, uploads: bool) -> Listing:
        listing = Listing()
        if uploads:
            self._abort_uploads(prefix, listing)
        for page in self.store.list_under(prefix):
            found = [one for one in page if short(one.key) not in in_pages]
            listing.refused += len(page) - len(found)
            if found:
                outcome = self.store.delete_found(found)
                listing.deleted += len(outcome.deleted) + len(outcome.absent)
                listing.size += sum(one.size for one in found if one.key not in outcome.remaining)
                listing.add(outcome)
        return listing

    def _abort_uploads(self, prefix: str, listing: Listing, *, exact: bool = False) -> None:
        if not self.store.lists_uploads:
            return
        listing.aborted = 0
        absent: set[Upload] = set()
        for page in self.store.uploads_under(prefix):
            uploads = [one for one in page if not exact or one.key == prefix]
            outcome = self.store.abort_uploads(uploads)
            listing.aborted += len(outcome.deleted)
            absent |= {one for one in uploads if outcome.refused.get(one.key) == _NO_SUCH_UPLOAD}
            outcome.refused = {key: code for key, code in outcome.refused.items() if code != _NO_SUCH_UPLOAD}
            listing.add(outcome)
        if absent:  # somebody else ended them in between; but there are stores that go on listing what they do not find
            listed = {one for page in self.store.uploads_under(prefix) for one in page}
            listing.codes.update([_NO_SUCH_UPLOAD] * len(absent & listed))

    def _abort_exact(self, prefix: Prefix) -> tuple[str, Listing]:
        listing = Listing()
        self._abort_uploads(prefix.name, listing, exact=True)
        return prefix.name, listing

    def _delete_exact(self, exact: list[Prefix], in_pages: set[int], uploads: dict[str, Listing]) -> "list[Emptied]":
        """Keys whose neighbours are others': they were deleted with the pages, and are deleted again after the quiet period."""
        keys = {prefix.name: prefix for prefix in exact}
        outcome = self.store.delete([key for key in keys if short(key) not in in_pages])
        emptied = []
        for key, prefix in keys.items():
            listing = uploads[key]
            listing.codes += Counter([outcome.refused[key]] if key in outcome.refused else [])
            listing.not_yet += Counter([outcome.not_yet[key]] if key in outcome.not_yet else [])
            left_over = listing.codes or listing.not_yet or short(key) in in_pages
            emptied.append(Emptied(prefix, PrefixState.LEFT_OVER if left_over else PrefixState.EMPTY, listing))
        return emptied

    def _settle(self, sweep: Sweep, meter: MetricMeter, done: "Sequence[list[Emptied]]") -> None:
        emptied = [one for of_job in done for one in of_job]
        if not emptied:
            return
        # Thousands of prefixes that were proven together share one listing: it is compared with others once.
        listings = {id(one.listing): one.listing for one in emptied}
        texts = {shared: repr(listing) for shared, listing in listings.items()}
        alike: dict[tuple[PrefixState, str], list[Emptied]] = defaultdict(list)
        for one in emptied:
            alike[one.state, texts[id(one.listing)]].append(one)
        unsettled = False
        with self.database.write() as session:
            found = ledger.lock_released(session, sweep.deletion_id, sweep.chunk, emptied[0].prefix.epoch)
            for (state, _), those in alike.items():
                listing = those[0].listing
                unsettled |= not ledger.settle_prefixes(
                    session,
                    found,
                    [one.prefix for one in those],
                    state,
                    deleted=listing.deleted,
                    aborted=listing.aborted,
                    codes=dict(listing.codes + listing.not_yet),
                    sweep=sweep.number,
                )
        count_keys(meter, "listing", deleted=sum(one.listing.deleted for one in emptied))
        count_listed_bytes(meter, sum(one.listing.size for one in emptied))
        if unsettled:
            raise KeysNotDeletedYet("another attempt is at work on the same prefixes; what it leaves is to be listed again")


class Emptied(NamedTuple):
    """A prefix after its listing."""

    prefix: Prefix
    state: PrefixState
    listing: Listing


def _by_scope(prefixes: Iterable[Prefix]) -> list[list[Prefix]]:
    """Groups that are worth a listing of what they have in common."""
    groups: dict[str, list[Prefix]] = defaultdict(list)
    for prefix in prefixes:
        groups[prefix.scope].append(prefix)
    return [group for group in groups.values() if len(group) >= _PREFIXES_A_PAGE]


def _state(sweep: Sweep, prefix: Prefix, listing: Listing) -> PrefixState:
    if listing.codes or listing.refused or listing.not_yet:
        return PrefixState.LEFT_OVER
    # Something that was found after the quiet period says that it was not quiet: only another one can confirm.
    # That holds for an earlier attempt of the same sweep too.
    noisy = listing.deleted or listing.aborted or prefix.noisy_sweep == sweep.number
    if not sweep.confirm or (noisy and not sweep.last):
        return PrefixState.SWEPT
    return PrefixState.EMPTY


def short(key: str) -> int:
    """Eight bytes that stand for a key: a million of them fit where a million keys would not."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
