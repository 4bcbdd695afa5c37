"""Empties prefixes and looks for single keys by listing them: what a sweep does with a store, without the ledger."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix

from activities.stores.objects import Found, Listings, Outcome, Upload
from artifact_deletion.errors import StoreUnavailable

DELETED_BUT_LISTED = "DeletedButListed"
"""The code of things that the store says it deleted, and then lists again as they were."""
_NO_SUCH_UPLOAD = "NoSuchUpload"
_LISTINGS = 3
_REMEMBERED = 100_000
"""Deleted things that are known again if they are listed again; eight bytes for each."""
_PREFIXES_A_PAGE = 25
"""A page of a thousand strangers' names costs about as much as this many listings that find nothing."""

Look = Callable[[str], Iterator[Sequence[Found] | Sequence[Upload]]]


@dataclass
class Listing:
    """What emptying one prefix came to."""

    deleted: int = 0
    size: int = 0
    """Bytes of the deleted objects."""
    codes: Counter[str] = field(default_factory=Counter)
    """Of what is still there and will not go."""
    not_yet: Counter[str] = field(default_factory=Counter)
    """Of what the store asks to try again."""
    in_pages: int = 0
    """Sealed keys under the prefix that are left over already: they are counted in their pages."""
    aborted: int | None = None
    """Unfinished uploads; None if they were not looked for."""
    last: int = 0
    """How many things the last listing found and deleted: 0 says that it was seen empty."""

    @property
    def is_noisy(self) -> bool:
        """True if it found anything that could be deleted."""
        return bool(self.deleted or self.aborted)

    def add(self, outcome: Outcome) -> None:
        """Count refusals, and requests to try again."""
        self.codes.update(outcome.refused.values())
        self.not_yet.update(outcome.not_yet.values())


@dataclass
class Seen:
    """Things that were deleted while one prefix was emptied, by `_mark`."""

    deleted: set[int] = field(default_factory=set)
    in_vain: set[int] = field(default_factory=set)
    """Those of them that are listed all the same."""


@dataclass(frozen=True)
class Lister:
    """Asks one store. Sealed keys that are still in pages are left to those."""

    store: Listings
    in_pages: Collection[int] = frozenset()
    """Physical keys, by `short`."""

    def empty(self, prefix: str, *, confirm: bool, exact: bool = False) -> Listing:
        """Delete all that lies under the prefix, or the one key.

        To `confirm` that it is empty, unfinished uploads too, and after a listing that found anything it is listed again. Else
        only after one of several pages: deleting may have made the store pass over some.
        """
        total, seen = Listing(), Seen()
        for number in range(_LISTINGS):
            total.codes, total.not_yet, total.in_pages = Counter(), Counter(), 0
            total.last = pages = 0
            if confirm:
                self._abort_uploads(prefix, total, exact=exact)
            for page in self._listed(prefix, exact=exact):
                pages += 1
                self._delete(page, total, seen, is_last=number == _LISTINGS - 1)
            if not total.last or (pages < 2 and not confirm):  # noqa: PLR2004  several
                break
        return total

    def _listed(self, prefix: str, *, exact: bool) -> Iterator[Sequence[Found]]:
        for page in self.store.list_under(prefix):
            found = [one for one in page if one.key == prefix] if exact else page
            if found:
                yield found

    def _delete(self, page: Sequence[Found], total: Listing, seen: "Seen", *, is_last: bool) -> None:
        found = [one for one in page if short(one.key) not in self.in_pages]
        total.in_pages += len(page) - len(found)
        # A version is never written twice. An object may be, with the same bytes in the same second, but hardly twice in a row.
        again = {_mark(one) for one in found if (one.version or is_last) and _mark(one) in seen.deleted}
        total.codes[DELETED_BUT_LISTED] += len(again)
        total.deleted -= len(again - seen.in_vain)
        seen.in_vain |= again
        if not (found := [one for one in found if not again or _mark(one) not in again]):
            return
        outcome = self.store.delete_found(found)
        remaining = outcome.remaining
        gone = [one for one in found if one.key not in remaining]
        total.deleted += len(outcome.deleted) + len(outcome.absent)
        total.last += len(outcome.deleted) + len(outcome.absent)
        total.size += sum(one.size for one in gone)
        total.add(outcome)
        seen.deleted.update([_mark(one) for one in gone][: _REMEMBERED - len(seen.deleted)])

    def _abort_uploads(self, prefix: str, total: Listing, *, exact: bool) -> None:
        if not self.store.lists_uploads:
            return
        total.aborted = total.aborted or 0
        absent: set[Upload] = set()
        for page in self.store.uploads_under(prefix):
            uploads = [one for one in page if not exact or one.key == prefix]
            outcome = self.store.abort_uploads(uploads)
            total.aborted += len(outcome.deleted)
            total.last += len(outcome.deleted)
            absent |= {one for one in uploads if outcome.refused.get(one.key) == _NO_SUCH_UPLOAD}
            outcome.refused = {key: code for key, code in outcome.refused.items() if code != _NO_SUCH_UPLOAD}
            total.add(outcome)
        if absent:  # their owner ended them in between; but there are stores that go on listing what they do not find
            listed = {one for page in self.store.uploads_under(prefix) for one in page}
            total.codes.update([_NO_SUCH_UPLOAD] * len(absent & listed))

    def quiet(self, names: Collection[str], *, uploads: bool) -> set[str]:
        """Of these prefixes or keys, those under which one listing of all they have in common shows nothing.

        None of them, where that would take longer than to ask for each, or the store refuses to list what lies between them.
        """
        looks: list[Look] = [self.store.uploads_under] if uploads and self.store.lists_uploads else []
        common = commonprefix(list(names))  # noqa: RUF071  the store compares character by character too
        pages = len(names) // _PREFIXES_A_PAGE
        quiet = set(names)
        try:
            for look in [*looks, self.store.list_under]:
                for number, page in enumerate(look(common)):
                    if number == pages:
                        return set()
                    for one in page:
                        quiet.difference_update([one.key], (one.key[: slash.end()] for slash in re.finditer("/", one.key)))
        except StoreUnavailable:
            return set()
        return quiet


def lying_at(store: Listings, name: str, *, exact: bool) -> Iterator[Found]:
    """What lies under a prefix, or at one exact key: of an object that has versions each, and each delete marker."""
    return (one for page in store.list_under(name) for one in page if one.key == name or not exact)


def refuse_cut_off(store: Listings, key: str, length: int) -> None:
    """Raises StoreUnavailable if the store lists another length: what was read is not the object, or not all of it."""
    if store.listable:
        lengths = {one.size for one in lying_at(store, key, exact=True) if one.is_latest and not one.is_marker}
        if lengths and length not in lengths:
            raise StoreUnavailable("the object store's answer was cut off")


def uploads_at(store: Listings, name: str, *, exact: bool) -> int:
    """How many unfinished uploads there are; 0 where the store cannot say."""
    if not store.lists_uploads:
        return 0
    return sum(one.key == name or not exact for page in store.uploads_under(name) for one in page)


def worth_a_listing(names_by_scope: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Names of one scope that are so many that it pays to list what they have in common. (scope, name) pairs."""
    groups: dict[str, list[str]] = defaultdict(list)
    for scope, name in names_by_scope:
        groups[scope].append(name)
    return [group for group in groups.values() if len(group) >= _PREFIXES_A_PAGE]


def short(key: str) -> int:
    """Eight bytes that stand for a key: a million of them fit where a million keys would not."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def _mark(found: Found) -> int:
    return short(f"{found.key}\n{found.version}\n{found.mark}")
