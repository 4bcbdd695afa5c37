"""What hiding an image needs of a store: it is unreadable at once, its bytes stay, and both can be undone until the purge.

A *place* is a physical key where the image may lie. *Ours* is what a round left there: the id of a delete marker, or the key of
a copy in quarantine. Every request is one attempt; trouble with a request as a whole is raised as StoreUnavailable.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from activities.stores.objects import Outcome

StillAtWork = Callable[[], None]
"""Called once a request that names a key and no version is signed, right before it is sent. Raises if its round is over."""
Places = Mapping[str, Sequence[str]]
"""By place: ours, the newest last. Empty where a round has left nothing."""


@dataclass
class Hidden:
    """What hiding came to: each place is in one of these, and one that is refused may have something of ours too."""

    ours: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    """There was nothing to hide."""
    refused: dict[str, str] = field(default_factory=dict)
    """Place to code: asking again would be answered the same."""


@dataclass
class Restored:
    """What restoring came to: each place is in exactly one of these."""

    readable: set[str] = field(default_factory=set)
    empty: set[str] = field(default_factory=set)
    """No bytes of it are there."""
    refused: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """A place at the last look before a purge."""

    is_newer: bool = False
    """Bytes are there that came after ours, or ours is gone: another round has to hide them first."""
    data: Sequence[tuple[str, str | None]] = ()
    """(key, version) of all that the purge deletes first."""
    markers: Sequence[tuple[str, str | None]] = ()
    """Delete markers, which go in a later request: without them the data would be readable."""


class ImageStore(Protocol):
    """All methods may be called from many threads, with at most 1000 places."""

    @property
    def how(self) -> str:
        """`markers` or `copies`, for receipts."""

    def in_use(self, prefix: str, *, directly: bool) -> bool:
        """Whether anything lies under a prefix; with `directly`, outside of its folders. Hidden versions count."""

    def hidden_under(self, prefix: str) -> Iterator[tuple[str, str]]:
        """(place, ours) of all that lies hidden directly under a prefix, whatever the ledger knows of it.

        A place comes once for each copy of it. Raises StoreUnavailable.
        """

    def hide(self, places: Sequence[str], round_: int, still: StillAtWork) -> Hidden:
        """Make them unreadable. Asked twice, it does no harm. Raises StoreUnavailable, and what `still` raises."""

    def restore(self, places: Places, still: StillAtWork) -> Restored:
        """Make them readable where there are bytes; what is readable stays as it is."""

    def look(self, places: Places) -> dict[str, Seen]:
        """The last look before a purge, at every place."""

    def purge(self, seen: Sequence[Seen]) -> Outcome:
        """Delete what the look found, data before markers. The outcome's keys may repeat."""

    def clear(self, places: Places) -> Outcome:
        """Delete what is left of ours beside restored images: copies, and markers over nothing."""

    def left_by(self, place: str, round_: int) -> str | None:
        """What a round left in a place, though its answer may be lost. None: that cannot be told."""
