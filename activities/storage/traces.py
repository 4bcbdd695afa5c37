"""The trace stores: where an artifact's trace items are counted and deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from sqlalchemy import CursorResult, Index, Integer, String, bindparam, delete
from sqlalchemy.orm import Mapped, mapped_column

from activities.storage.database import Database
from activities.storage.tables import BackendTable

PREPROD = 11
"""The trace item type of preprod artifacts: `TRACE_ITEM_TYPE_PREPROD` of sentry-protos."""


class TraceItem(BackendTable):
    """The embedded stand-in for Sentry's event store."""

    __tablename__ = "trace_items"
    __table_args__ = (Index("trace_items_trace", "organization_id", "project_id", "trace_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    organization_id: Mapped[int]
    project_id: Mapped[int]
    item_type: Mapped[int] = mapped_column(Integer)
    trace_id: Mapped[str] = mapped_column(String(32))


_DELETE_TRACE_ITEMS = (
    delete(TraceItem)
    .where(
        TraceItem.organization_id == bindparam("organization"),
        TraceItem.project_id == bindparam("project"),
        TraceItem.item_type == PREPROD,
        TraceItem.trace_id.in_(bindparam("trace_ids", expanding=True)),
    )
    .execution_options(synchronize_session=False)
)


class TraceStore(Protocol):
    """What a deletion needs of an event store. Methods may be called from many threads."""

    @property
    def deletes_at_once(self) -> bool:
        """True if asking again at once can confirm a deletion; False if a consumer deletes minutes later."""

    def delete(self, organization_id: int, project_id: int, trace_ids: Sequence[str]) -> int:
        """Ask for the deletion of the preprod trace items with these trace ids, and count what was matched.

        Accepted is not gone: an event store may delete minutes later. Asking again until nothing is matched is what confirms
        it, and harms nothing. Raises TraceStoreUnavailable.
        """


@dataclass(frozen=True)
class SqlTraces:
    """The embedded default: trace items in the backend's own database."""

    database: Database

    @property
    def deletes_at_once(self) -> bool:
        """See TraceStore."""
        return True

    def delete(self, organization_id: int, project_id: int, trace_ids: Sequence[str]) -> int:
        """See TraceStore."""
        asked = {"organization": organization_id, "project": project_id, "trace_ids": list(trace_ids)}
        with self.database.write() as session:
            return cast("CursorResult[Any]", session.execute(_DELETE_TRACE_ITEMS, asked)).rowcount
