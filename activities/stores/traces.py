"""What a deletion needs of a trace store: the place where an artifact's trace items are counted and deleted."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, runtime_checkable


class TraceStore(Protocol):
    """What a deletion needs of an event store. Methods may be called from many threads."""

    def delete(
        self, organization_id: int, project_id: int, trace_ids: Sequence[str], before: Callable[[], None] = lambda: None
    ) -> tuple[int, int]:
        """Ask for the deletion of the preprod trace items with these ids. Returns how many matched, and how many are left.

        Accepted is not gone: an event store may delete minutes later. Asking again until none is left is then the only
        confirmation, and harms nothing. `before` is called before each request, and the caller raises what it raises. Raises
        TraceStoreUnavailable, TraceStoreRefused.
        """


@runtime_checkable
class CountsTraceItems(Protocol):
    """What a trace store may have besides, so that `verify` can look for trace items: it counts, and deletes nothing."""

    def count(self, organization_id: int, project_id: int, trace_ids: Sequence[str]) -> int:
        """How many preprod trace items with these ids there are. Raises TraceStoreUnavailable, TraceStoreRefused."""


class StoredTrace(NamedTuple):
    """The preprod trace items of one trace."""

    id: str
    """32 hex digits."""
    items: int
    written: datetime | None
    """The time of its last item; None: unknown, and so never old enough."""


@runtime_checkable
class ListsTraces(Protocol):
    """What a trace store may have besides, so that `reconcile` finds trace items of artifacts that have no row."""

    def list_traces(self, organization_id: int, project_id: int) -> Iterator[Sequence[StoredTrace]]:
        """Each trace of the project that has preprod trace items, page by page.

        One that is written or deleted meanwhile may be missing, and any may come twice. Raises TraceStoreUnavailable,
        TraceStoreRefused.
        """
