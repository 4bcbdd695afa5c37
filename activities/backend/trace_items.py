"""A stand-in for Sentry's event store: a table of trace items beside the backend's own, for development and the small."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import CursorResult, Index, Integer, String, bindparam, delete, func, select
from sqlalchemy.orm import Mapped, mapped_column

from activities.backend.tables import BackendTable
from activities.database import Database
from activities.one_of import one_of

PREPROD = 11
"""The trace item type of preprod artifacts: `TRACE_ITEM_TYPE_PREPROD` of sentry-protos."""


class TraceItem(BackendTable):
    """One trace item; its content is of no interest here."""

    __tablename__ = "trace_items"
    __table_args__ = (Index("trace_items_trace", "organization_id", "project_id", "trace_id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(primary_key=True)
    organization_id: Mapped[int]
    project_id: Mapped[int]
    item_type: Mapped[int] = mapped_column(Integer)
    trace_id: Mapped[str] = mapped_column(String(32))


_OF_TRACES = (
    TraceItem.organization_id == bindparam("organization"),
    TraceItem.project_id == bindparam("project"),
    TraceItem.item_type == PREPROD,
    one_of(TraceItem.trace_id, "trace_ids"),
)
_DELETE_TRACE_ITEMS = delete(TraceItem).where(*_OF_TRACES).execution_options(synchronize_session=False)
_COUNT_TRACE_ITEMS = select(func.count()).select_from(TraceItem).where(*_OF_TRACES)


@dataclass(frozen=True)
class SqlTraces:
    """A TraceStore on that table, which counts too."""

    database: Database

    def delete(
        self, organization_id: int, project_id: int, trace_ids: Sequence[str], before: Callable[[], None] = lambda: None
    ) -> tuple[int, int]:
        """See TraceStore. Once this transaction is committed, none is left."""
        before()
        asked = {"organization": organization_id, "project": project_id, "trace_ids": trace_ids}
        with self.database.write() as session:
            deleted = cast("CursorResult[Any]", session.execute(_DELETE_TRACE_ITEMS, asked)).rowcount
        return deleted, 0

    def count(self, organization_id: int, project_id: int, trace_ids: Sequence[str]) -> int:
        """See CountsTraceItems."""
        asked = {"organization": organization_id, "project": project_id, "trace_ids": trace_ids}
        with self.database.read() as session:
            return session.execute(_COUNT_TRACE_ITEMS, asked).scalar_one()
