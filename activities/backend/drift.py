"""Is the schema the one that deletions know? A table that refers to artifacts and is not deleted would block every COMMIT.

Only the tables that go with an artifact are held against our list; much else refers to projects and files.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from threading import Lock

from sqlalchemy import ForeignKeyConstraint, Table, inspect
from sqlalchemy.exc import SQLAlchemyError

from activities.database import Database, unavailable
from artifact_deletion.errors import SchemaDrift

_FRESH_S = 60.0


@dataclass(frozen=True, order=True)
class Reference:
    """A foreign key: `table.column` refers to `target`."""

    table: str
    column: str
    target: str


@dataclass
class Schema:
    """The foreign keys of the backend's database, looked up at most once a minute: tables come by migrations."""

    database: Database
    tables: Collection[Table]
    """Those whose rows go with an artifact."""
    _lock: Lock = field(default_factory=Lock)
    _found: frozenset[Reference] | None = None
    _looked_up: float = 0.0

    def references(self, *, fresh: bool = False) -> frozenset[Reference]:
        """Every foreign key of the database."""
        with self._lock:
            if fresh or self._found is None or time.monotonic() - self._looked_up > _FRESH_S:
                self._found = _look_up(self.database)
                self._looked_up = time.monotonic()
            return self._found

    def unknown_references(self, *, fresh: bool = False) -> list[Reference]:
        """Foreign keys to these tables that none of them declares."""
        targets = {table.name for table in self.tables}
        known = {reference for table in self.tables for reference in _declared(table)}
        return sorted(found for found in self.references(fresh=fresh) if found.target in targets and found not in known)

    def refuse_unknown_tables(self) -> None:
        """Raises SchemaDrift, naming the tables, if the schema has grown beyond what deletions know."""
        if self.unknown_references() and (unknown := self.unknown_references(fresh=True)):
            names = ", ".join(f"{reference.table}.{reference.column} → {reference.target}" for reference in unknown)
            raise SchemaDrift(f"the database has foreign keys that this version does not know: {names}; nothing was deleted")


def _declared(table: Table) -> set[Reference]:
    return {
        Reference(table.name, column.name, key.elements[0].column.table.name)
        for key in table.constraints
        if isinstance(key, ForeignKeyConstraint)
        for column in key.columns
    }


def _look_up(database: Database) -> frozenset[Reference]:
    try:
        keys = inspect(database.engine).get_multi_foreign_keys()
    except SQLAlchemyError as error:
        raise unavailable(error) from None
    return frozenset(
        Reference(table, column, key["referred_table"])
        for (_, table), found in keys.items()
        for key in found
        for column in key["constrained_columns"]
    )
