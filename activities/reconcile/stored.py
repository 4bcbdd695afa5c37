"""A listing as keys: each with all versions that hold bytes, and their sum. One key is in memory at a time."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, filterfalse, groupby
from operator import add, attrgetter
from typing import NamedTuple

from activities.stores.objects import Found
from activities.stores.traces import StoredTrace

AGES = ("under 1 day", "under 7 days", "under 30 days", "under 1 year", "older", "unknown")
_DAYS = (1, 7, 30, 365)
_DAY_S = 86_400


@dataclass(slots=True)
class Sum:
    """How many objects, their bytes, and when they were written, in seconds since 1970. Each version counts as an object."""

    objects: int = 0
    size: int = 0
    oldest: int | None = None
    """None: of no object it is known."""
    newest: int | None = None
    ages: list[int] = field(default_factory=lambda: [0] * len(AGES))
    """How many of them are in each of AGES."""

    def add_version(self, found: Found, at: float) -> None:
        """Count an object, or one version of it. `at`: the moment of the look, in seconds since 1970."""
        self.size += found.size
        self.add_written(1, found.written, at)

    def add_written(self, objects: int, written: datetime | None, at: float) -> None:
        """Count some that were written then."""
        self.objects += objects
        if written is None:
            self.ages[-1] += objects
            return
        seconds = int(written.timestamp())
        self.ages[bisect_right(_DAYS, (at - seconds) / _DAY_S)] += objects
        self._span(seconds, seconds)

    def add(self, other: "Sum") -> None:
        """Count all that another has."""
        self.objects += other.objects
        self.size += other.size
        self.ages = list(map(add, self.ages, other.ages))
        if other.oldest is not None and other.newest is not None:
            self._span(other.oldest, other.newest)

    def _span(self, oldest: int, newest: int) -> None:
        if self.oldest is None or oldest < self.oldest:
            self.oldest = oldest
        if self.newest is None or newest > self.newest:
            self.newest = newest

    def is_older(self, than: timedelta, now: datetime) -> bool:
        """True if each is. One whose age is unknown is never old enough."""
        return self.newest is not None and not self.ages[-1] and self.newest <= (now - than).timestamp()


class Stored(NamedTuple):
    """A key under which there are bytes."""

    key: str
    """Physical."""
    sum: Sum
    is_readable: bool
    """False if a delete marker lies over all its versions."""


def sum_of_items(trace: StoredTrace, now: datetime) -> Sum:
    """Of a trace: each trace item counts as an object without bytes, as old as the last of them."""
    total = Sum()
    total.add_written(trace.items, trace.written, now.timestamp())
    return total


def stored(listing: Iterable[Sequence[Found]], now: datetime) -> Iterator[Stored]:
    """Each listed key that has bytes. Delete markers are none."""
    # A server may list markers apart from versions; versions of one key lie beside each other all the same.
    found, at = filterfalse(attrgetter("is_marker"), chain.from_iterable(listing)), now.timestamp()
    for key, versions in groupby(found, attrgetter("key")):
        total, is_readable = Sum(), False
        for one in versions:
            total.add_version(one, at)
            is_readable = is_readable or one.is_latest
        yield Stored(key, total, is_readable)
