"""The rows of one table that go with artifacts: to be looked at, locked or deleted by the same condition."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from sqlalchemy import ColumnElement, CompoundSelect, Row, Select, Table, delete, select
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.dml import ReturningDelete

Verb = Literal["look", "lock", "delete"]


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one table that go with artifacts, and the columns that say what they named."""

    table: type[Any]
    """A mapped class whose rows have an `id`."""
    where: ColumnElement[bool]
    """Ids of artifacts come as the parameter `artifacts`: `one_of(Shot.build_id, "artifacts")`."""
    columns: tuple[InstrumentedAttribute[Any], ...] = ()
    ties: CompoundSelect[int, int] | Select[int, int] | None = None
    """Where a row goes with two artifacts, as a comparison does: (one of `artifacts`, the other). Held, they stay together."""

    @property
    def of(self) -> Table:
        """The table itself."""
        table: Table = self.table.__table__
        return table

    @cached_property
    def look(self) -> Select[*tuple[Any, ...]]:
        """The id first, then the columns."""
        return select(self.table.id, *self.columns).where(self.where)

    @cached_property
    def lock(self) -> Select[*tuple[Any, ...]]:
        """The same, and they cannot change before this transaction ends."""
        return self.look.with_for_update(of=self.table)

    @cached_property
    def delete(self) -> ReturningDelete[*tuple[Any, ...]]:
        """The same, and they are gone."""
        return delete(self.table).where(self.where).returning(self.table.id, *self.columns)

    def rows(self, session: Session, verb: Verb, ids: Mapping[str, Collection[int]]) -> Sequence[Row[*tuple[Any, ...]]]:
        """What was looked at, locked or deleted."""
        session.flush()  # what a backend's own ORM has changed
        # Not by the session, which takes longer over what a DELETE of a mapped table returns than the DELETE itself.
        return session.connection().execute(getattr(self, verb), ids).all()
