"""What a deletion needs of a trace store: the place where an artifact's trace items are counted and deleted."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable


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
