"""A stand-in for Sentry's event store: a table of trace items beside the backend's own, for development and the small."""

from datetime import datetime

from sqlalchemy import DateTime, Index, Integer, String, func
from sqlalchemy.orm import Mapped, mapped_column

from activities.backend.tables import BackendTable

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
    timestamp: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
