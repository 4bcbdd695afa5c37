"""Step 5: list what is still under the artifacts' own prefixes and delete it; after a quiet period, list nothing.

By now the keys that rows and manifests named are gone, so a listing finds exactly those that no one named: plans, chunks, runs,
whatever upload code invents next, and late writers. Listed things are deleted literally. Uploads that were begun and not
completed are no objects, but hold data: the listing that confirms aborts them first, so that none becomes an object behind it.

The first attempt lists and deletes. Then each prefix has a quiet period, by the database's clock, for which the step is simply
tried again later. A prefix that was written to meanwhile gets another one, and is left over after a few of them. Archives and
icons, whose neighbours are others', were deleted with the pages: after the quiet period each is looked for by its own name.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from sqlalchemy.orm import Session
from temporalio import activity
from temporalio.common import MetricMeter

from activities.backend.contract import PrefixKind
from activities.database import Database
from activities.ledger import chunks, pages, prefixes, reports
from activities.ledger.prefixes import Look, Prefix
from activities.ledger.schema import PrefixState, clock
from activities.listing import Lister, Listing, lying_at, short, worth_a_listing
from activities.living import Living, ReleasedChunk
from activities.metrics import count_keys, count_listed_bytes
from activities.plan_of_report import OfReport, leave_what_came_back
from activities.run_all import run_all, run_of_step
from activities.stores.guards import BeforeDeleting, Guard, guarded
from activities.stores.objects import Listings, ObjectStore
from artifact_deletion.errors import KeysNotDeletedYet, NotYet
from workflows.steps import QUIET_PERIODS, SWEEP_PREFIXES, Chunk, Swept

FOUND = "found_by_listing"
STILL_WRITTEN = "StillWritten"
"""The code of objects that a writer kept on writing, one quiet period after another."""
STILL_THERE = "StillThere"
"""The code of an icon that is there after it was deleted, and that no app info names. An upload may be about to."""


@dataclass(frozen=True)
class Looked:
    """A prefix after its listing."""

    prefix: Prefix
    listing: Listing
    look: Look


@dataclass(frozen=True)
class SweepPrefixes:
    """Needs the ledger and the store."""

    database: Database
    store: ObjectStore
    guard: Guard
    living: Living
    requests: Executor
    quiet_period: timedelta

    @activity.defn(name=SWEEP_PREFIXES.name, no_thread_cancel_exception=True)
    def sweep_prefixes(self, chunk: Chunk) -> Swept:
        """Returns what was found, once each prefix is listed empty or left over.

        Raises NotYet until the quiet period is over, KeysNotDeletedYet, StoreUnavailable: it is run again from where it was.
        """
        before, run_id = self.guard.before(chunk.organization_id, chunk.deletion_id), run_of_step()
        while True:
            of_report = None if chunk.report is None else self._of_report(chunk, chunk.report, before)
            listings: Listings = guarded(self.store, before) if of_report is None else of_report.listings()
            with self.database.read() as session:
                found = self.living.read_released(session, chunk)
                owed = prefixes.prefixes_to_sweep(session, chunk)
                in_pages = _keys_in_pages(session, found, chunk)
            waiting = [one for one in owed if not one.was_left_over_by(run_id)]
            due = [one for one in waiting if self._due_in(one, found) <= timedelta(0)]
            if not due:
                return self._ended(found, owed, waiting)
            due = [one for one in due if not _confirms(one)] or due  # then all that confirm can be written down at once
            looked = self._look(chunk, Lister(listings, in_pages), of_report, due)
            if len(due) == len(owed) and all(one.look.state is None for one in looked):
                new = sum(one.listing.deleted for one in looked)
                return Swept(found=found.listed.get(FOUND, 0) + new, left_over=0)

    def _of_report(self, chunk: Chunk, report: str, before: BeforeDeleting) -> OfReport:
        """Only what was written before the report, of what has no row: looked for anew after each quiet period."""
        backend = self.living.backend
        with self.database.write() as session:
            found = chunks.lock_released(session, chunk)
            leave_what_came_back(session, backend, chunk, found, report)
            return OfReport(self.database, backend, self.store, before, reports.get(session, report))

    def _due_in(self, prefix: Prefix, found: ReleasedChunk) -> timedelta:
        """When to look at it: at once the first time, then after a quiet period."""
        since = prefix.quiet_since or (found.rows_deleted_at if prefix.is_exact else None)
        return timedelta(0) if since is None or not self.store.listable else since + self.quiet_period - prefix.now

    def _ended(self, found: ReleasedChunk, owed: Sequence[Prefix], waiting: Sequence[Prefix]) -> Swept:
        listed = found.listed.get(FOUND, 0)
        if waiting:
            pause = max(self._due_in(one, found) for one in waiting)
            raise NotYet(
                f"late writers get until {waiting[0].now + pause:%H:%M:%S} UTC, then {len(waiting):,} prefixes are listed "
                f"again; {listed:,} objects that no row named were found so far",
                pause,
            )
        left_over = sum(sum(one.codes.values()) for one in owed)
        return Swept(found=listed, left_over=left_over)

    def _look(self, chunk: Chunk, lister: Lister, of_report: OfReport | None, due: Sequence[Prefix]) -> list[Looked]:
        """List each prefix once, together with others where that shows them empty, and write down what came of it."""
        settle = partial(self._settle, chunk, run_of_step(), activity.metric_meter())
        if not self.store.listable:  # it was, or was thought to be, when they were sealed
            unseen = [Looked(one, Listing(), Look(None)) for one in due]
            settle([unseen])
            return unseen
        by_name = {one.name: one for one in due}
        groups = [
            (group, confirm)
            for confirm in (False, True)
            for group in worth_a_listing((one.scope + one.kind, one.name) for one in due if _confirms(one) == confirm)
        ]
        quiet = run_all(
            self.requests, [partial(self._prove, lister, by_name, group, confirm) for group, confirm in groups], settle
        )
        proven = {one.prefix.name for group in quiet for one in group}
        jobs = [partial(self._look_at, lister, of_report, one) for one in due if one.name not in proven]
        looked = [one for of_job in (*quiet, *run_all(self.requests, jobs, settle)) for one in of_job]
        not_yet = Counter(code for one in looked for code in one.listing.not_yet.elements())
        if not_yet:
            codes = ", ".join(f"{code} {count}" for code, count in sorted(not_yet.items()))
            raise KeysNotDeletedYet(f"{not_yet.total()} listed objects are to be tried again ({codes})")
        return looked

    def _prove(self, lister: Lister, by_name: dict[str, Prefix], group: Collection[str], confirm: bool) -> list[Looked]:  # noqa: FBT001
        """Those of the prefixes under which one listing of all they have in common finds nothing."""
        listing = Listing(aborted=0 if confirm and self.store.lists_uploads else None)
        quiet = sorted(lister.quiet(group, uploads=confirm))
        return [Looked(by_name[name], listing, _judged(by_name[name], listing)) for name in quiet]

    def _look_at(self, lister: Lister, of_report: OfReport | None, prefix: Prefix) -> list[Looked]:
        if prefix.kind is PrefixKind.SHARED:
            return [self._look_for_shared(lister, prefix)]
        if of_report is not None and prefix.kind is PrefixKind.COMPARISON:
            lister = replace(lister, store=of_report.leftover(prefix))
        listing = lister.empty(prefix.name, confirm=_confirms(prefix), exact=prefix.is_exact)
        listing.in_pages += prefix.is_exact and short(prefix.name) in lister.in_pages
        return [Looked(prefix, listing, _judged(prefix, listing))]

    def _look_for_shared(self, lister: Lister, prefix: Prefix) -> Looked:
        """An icon that is there again may be another's: it goes only if a person runs the deletion again, and none names it."""
        listing = Listing(in_pages=int(short(prefix.name) in lister.in_pages))
        there = any(lying_at(self.store, prefix.name, exact=True))
        if there and not listing.in_pages:
            with self.database.read() as session:
                named = self.living.backend.still_named(session, [prefix.prefix])
            if not named and prefix.state is PrefixState.LEFT_OVER:
                listing = lister.empty(prefix.name, confirm=True, exact=True)
            elif not named:  # another chunk may be about to delete it, or an upload to name it
                return Looked(prefix, listing, _not_quiet(prefix, {STILL_THERE: 1}))
        return Looked(prefix, listing, _judged(prefix, listing))

    def _settle(self, chunk: Chunk, run_id: str, meter: MetricMeter, done: Sequence[Sequence[Looked]]) -> None:
        looked = [one for of_job in done for one in of_job]
        if not looked:
            return
        with self.database.write() as session:
            found = chunks.lock_released(session, chunk)
            settled = prefixes.settle_prefixes(session, found, [(one.prefix, one.look) for one in looked], run_id)
            of_ours = [one for one in looked if one.prefix.name in settled]
            counts = self._counts(of_ours)
            prefixes.count_listed(found, counts)
            if counts["prefixes_listed_empty"] and found.listed_empty_from is None:
                found.listed_empty_from = clock()
        count_keys(meter, "listing", deleted=counts[FOUND])
        count_listed_bytes(meter, sum(one.listing.size for one in of_ours))
        if len(settled) < len(looked):
            raise KeysNotDeletedYet("another attempt is at work on the same prefixes; they are to be listed again")

    def _counts(self, looked: Sequence[Looked]) -> Counter[str]:
        """By the names of ObjectsReceipt's fields."""
        done = [one for one in looked if one.look.state is None]
        prefixes_done = [one for one in done if not one.prefix.is_exact]
        counts = Counter({FOUND: sum(one.listing.deleted for one in looked)})
        counts["uploads_aborted"] = sum(one.listing.aborted or 0 for one in looked)
        counts["uploads_unchecked"] = sum(one.listing.aborted is None for one in prefixes_done)
        if self.store.listable:
            counts["prefixes_listed_empty"] = len(prefixes_done)
            counts["keys_listed_absent"] = len(done) - len(prefixes_done)
        else:
            counts["prefixes_unchecked"] = len(prefixes_done)
        return counts


def _confirms(prefix: Prefix) -> bool:
    """Whether this look is one after a quiet period."""
    return prefix.is_exact or prefix.quiet_since is not None


def _judged(prefix: Prefix, listing: Listing) -> Look:
    """What a listing means for a prefix: pure, so that its rules can be read and tested as they stand."""
    codes = dict(+(listing.codes + listing.not_yet)) if listing.codes or listing.not_yet else {}
    if listing.not_yet:
        return Look(prefix.state, codes, is_unfinished=True)
    if not _confirms(prefix):
        return Look(PrefixState.SWEPT, codes)
    if codes or listing.in_pages:
        return Look(PrefixState.LEFT_OVER, codes)
    if not listing.is_noisy:
        return Look(None)
    # After the last quiet period, seen empty now is good enough, if a listing has seen it so.
    return _not_quiet(prefix, {STILL_WRITTEN: listing.last} if listing.last else {})


def _not_quiet(prefix: Prefix, codes: Mapping[str, int]) -> Look:
    """It gets another quiet period, or, after the last, is left over with what is still there."""
    if prefix.noisy_rounds + 1 < QUIET_PERIODS:
        return Look(PrefixState.SWEPT, is_noisy=True)
    return Look(PrefixState.LEFT_OVER, codes) if codes else Look(None)


def _keys_in_pages(session: Session, found: ReleasedChunk, chunk: Chunk) -> frozenset[int]:
    """The sealed keys that are still owed, by `short`."""
    if found.sealed == found.settled:
        return frozenset()
    return frozenset(short(page.scope + key) for page in pages.read_pages(session, chunk) for key in page.keys)
