"""A TraceStore on a table beside the backend's own, for development and the small."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import CursorResult, bindparam, delete, func, select, type_coerce

from activities.backend.trace_items import PREPROD, TraceItem
from activities.database import Database
from activities.ledger.schema import UtcDateTime
from activities.one_of import one_of
from activities.stores.traces import StoredTrace

_OF_PROJECT = (
    TraceItem.organization_id == bindparam("organization"),
    TraceItem.project_id == bindparam("project"),
    TraceItem.item_type == PREPROD,
)
_OF_TRACES = (*_OF_PROJECT, one_of(TraceItem.trace_id, "trace_ids"))
_DELETE_TRACE_ITEMS = delete(TraceItem).where(*_OF_TRACES).execution_options(synchronize_session=False)
_COUNT_TRACE_ITEMS = select(func.count()).select_from(TraceItem).where(*_OF_TRACES)
_TRACES_A_PAGE = 1000
_NEXT_TRACES = (
    select(TraceItem.trace_id, func.count(), type_coerce(func.max(TraceItem.timestamp), UtcDateTime))
    .where(*_OF_PROJECT, TraceItem.trace_id > bindparam("after"))
    .group_by(TraceItem.trace_id)
    .order_by(TraceItem.trace_id)
    .limit(_TRACES_A_PAGE)
)


@dataclass(frozen=True)
class SqlTraces:
    """A TraceStore on that table, which counts and lists too."""

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

    def list_traces(self, organization_id: int, project_id: int) -> Iterator[Sequence[StoredTrace]]:
        """See ListsTraces."""
        of, after = {"organization": organization_id, "project": project_id}, ""
        while True:
            with self.database.read() as session:
                found = session.execute(_NEXT_TRACES, {**of, "after": after}).all()
            if not found:
                return
            yield [StoredTrace(*row) for row in found]
            after = found[-1][0]
