"""What a run hands on to the next one of the same deletion, when its history is long: what was tried already.

The ledger knows what is owed, and not why: without this, each run would begin with what the one before it could not delete, and
none would come to the rest, nor to an end.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from workflows.messages import Message

CARRIED_MEMO = "carried"
"""Temporal's memo in which it is handed on."""


class Spans(Message):
    """A set of numbers as spans from the first to the last: what is done in order needs few."""

    spans: tuple[tuple[int, int], ...] = ()

    def covers(self, first: int, last: int | None = None) -> bool:
        """True if all numbers from `first` to `last` are in it; without `last` that one alone."""
        return any(start <= first and (first if last is None else last) <= end for start, end in self.spans)

    def with_all(self, first: int, last: int | None = None) -> "Spans":
        """The same with these numbers too."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted((*self.spans, (first, first if last is None else last))):
            if merged and start <= merged[-1][1] + 1:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        return Spans(spans=tuple(merged))


class Carried(Message):
    """Of all runs so far that continued each other."""

    deleted: Spans = Spans()
    """Chunks of which rows, objects and trace items were tried, and that were listed once."""
    pages: Mapping[int, Spans] = {}
    """Pages that were tried, by chunk, of the chunks that are not among those."""
    swept: Spans = Spans()
    """Chunks that were listed empty after a quiet period, or will not be."""
    trace_items_until: datetime | None = None
    others_run: tuple[str, ...] = ()
    """Ids of other deletions that were run to their end."""
    others_pause: timedelta = timedelta(seconds=1)
    """Before they are looked at again: another deletion takes seconds, or days where its store is down."""
