"""What inserts into ledger tables need beyond SQLAlchemy's own, on PostgreSQL and on SQLite."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

from sqlalchemy import Table, bindparam, func, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from activities.ledger.schema import LedgerTable
from activities.one_of import Several


def insert_once(session: Session, table: Any, values: Mapping[str, Any], key: Any) -> bool:
    """Add a row, unless one with its key is there already: then False, after a wait for a transaction that is adding it."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return session.execute(dialect.insert(table).values(values).on_conflict_do_nothing().returning(key)).first() is not None


def insert_many(
    session: Session,
    ledger_table: type[LedgerTable],
    same: Mapping[str, Any],
    names: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Add those rows whose keys are not there yet: `same` is in each of them, `names` are the columns in which they differ."""
    if not rows:
        return
    if session.get_bind().dialect.name != "postgresql":
        each = [{**same, **dict(zip(names, row, strict=True))} for row in rows]
        session.execute(sqlite.insert(ledger_table).on_conflict_do_nothing(), each)
        return
    # One statement with an array a column: sent row by row, a chunk's prefixes cost more than all else in its transaction.
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    session.execute(_insert_columns(ledger_table, tuple(same), tuple(names)), {**same, **columns})


@cache
def _insert_columns(ledger_table: type[LedgerTable], same: tuple[str, ...], names: tuple[str, ...]) -> postgresql.Insert:
    table = cast("Table", ledger_table.__table__)
    arrays = (sql_cast(bindparam(name, type_=Several()), ARRAY(table.c[name].type)) for name in names)
    each = func.unnest(*arrays).table_valued(*names).render_derived("each")
    chosen = [*(bindparam(name, type_=table.c[name].type) for name in same), *(each.c[name] for name in names)]
    adding = postgresql.insert(table).from_select([*same, *names], select(*chosen), include_defaults=False)
    return adding.on_conflict_do_nothing()
