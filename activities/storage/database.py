"""Connections to the backend's database, and what a transaction means on PostgreSQL and on SQLite."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import (
    Boolean,
    Connection,
    Dialect,
    Engine,
    FunctionElement,
    SQLColumnExpression,
    String,
    bindparam,
    create_engine,
    event,
    literal,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import UserDefinedType

from workflows.errors import DatabaseUnavailable

LEDGER_SCHEMA = "artifact_deletion"
"""The ledger's own schema. SQLite has no schemas: there the tables stand beside the backend's."""

_IDS_A_QUERY = 5000
"""PostgreSQL's protocol takes 65,535 parameters a statement, SQLite 32,766."""

T = TypeVar("T")


class Several(UserDefinedType[Iterable[Any]]):
    """Many ids, texts or truth values as one text, which PostgreSQL casts to an array, and SQLite's `json_each` takes.

    The driver takes longer to look at each element of a list than the database to find its row.
    """

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Iterable[Any] | None], str]:
        return _array if dialect.name == "postgresql" else lambda values: json.dumps(list(values or ()))


def _array(values: Iterable[Any] | None) -> str:
    return f"{{{','.join([_element(value) for value in values or ()])}}}"


def _element(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return "NULL" if value is None else str(value)


class one_of(FunctionElement[bool]):  # noqa: N801  it is used as a function
    """`column IN (values)` with all ids or texts as one parameter: a statement, and the work to make it, do not grow with them.

    Instead of values a parameter's name, for a statement that is made once.
    """

    type = Boolean()
    inherit_cache = True

    def __init__(self, column: SQLColumnExpression[Any], values: Iterable[int] | Iterable[str] | str) -> None:
        named = bindparam(values, type_=Several()) if isinstance(values, str) else literal(list(values), Several())
        super().__init__(column, named)


@compiles(one_of, "postgresql")
def _one_of_array(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, values = element.clauses
    array = "TEXT[]" if isinstance(column.type, String) else "BIGINT[]"
    return f"{compiler.process(column, **options)} = ANY (CAST({compiler.process(values, **options)} AS {array}))"


@compiles(one_of, "sqlite")
def _one_of_json(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  names and placeholders that SQLAlchemy made


def slices(ids: Iterable[T]) -> Iterator[list[T]]:
    """Ids in parts that fit into one statement."""
    every = list(ids)
    return (every[start : start + _IDS_A_QUERY] for start in range(0, len(every), _IDS_A_QUERY))


def ledger_schema(dialect: str) -> dict[str, Any]:
    """The execution options under which ledger statements find their tables."""
    return {} if dialect == "postgresql" else {"schema_translate_map": {LEDGER_SCHEMA: None}}


class Database:
    """An engine with short transactions that either commit or leave nothing behind.

    PostgreSQL is used without session state, so that a transaction-mode pooler may stand between. On SQLite every writing
    transaction is `BEGIN IMMEDIATE`, since a lock that is taken later can fail in the middle.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        lock_timeout_s: float = 10,
        statement_timeout_s: float = 120,
        prepare: bool = False,
    ) -> None:
        """`prepare`: let the PostgreSQL driver prepare statements, which a transaction-mode pooler may not bear."""
        if url.startswith("sqlite"):
            engine = _sqlite_engine(url, lock_timeout_s)
        else:
            engine = create_engine(
                url,
                hide_parameters=True,
                pool_size=pool_size,
                max_overflow=pool_size,
                pool_pre_ping=True,
                connect_args={"connect_timeout": 10, "prepare_threshold": 5 if prepare else None},
            )
        self.engine: Engine = engine.execution_options(**ledger_schema(engine.dialect.name))
        limits = {
            "lock_timeout": lock_timeout_s,
            "statement_timeout": statement_timeout_s,
            # Of a worker that is suspended between two statements: its locks would be held until it goes on.
            "idle_in_transaction_session_timeout": statement_timeout_s,
        }
        # As SET LOCAL, in one round trip instead of three.
        values = ", ".join(f"set_config('{name}', '{seconds * 1000:.0f}', true)" for name, seconds in limits.items())
        self._limits = f"SELECT {values}" if self.is_postgresql else None

    @property
    def is_postgresql(self) -> bool:
        """False means SQLite."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction that commits at the end. Raises DatabaseUnavailable, and the step is run again."""
        with self._session(write=True) as session, session.begin():
            if self._limits is not None:
                session.connection().exec_driver_sql(self._limits)
            yield session

    @contextmanager
    def read(self, *, snapshot: bool = False) -> Iterator[Session]:
        """One transaction that changes nothing; with `snapshot` PostgreSQL enforces that, and all of it sees one moment."""
        with self._session(write=False) as session:
            if snapshot and self.is_postgresql:
                session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            yield session
            session.rollback()

    @contextmanager
    def _session(self, *, write: bool) -> Iterator[Session]:
        try:
            with self.engine.connect().execution_options(writes=write) as connection, Session(connection) as session:
                yield session
        except SQLAlchemyError as error:
            raise unavailable(error) from None

    def dispose(self) -> None:
        """Close the idle connections."""
        self.engine.dispose()


def unavailable(error: SQLAlchemyError) -> DatabaseUnavailable:
    """What may be said of a database's error: its class and SQLSTATE. Its message carries values."""
    origin = error.orig if isinstance(error, DBAPIError) else None
    state = getattr(origin, "sqlstate", None) or getattr(origin, "sqlite_errorname", None)
    reason = f"{type(error).__name__}{f' {state}' if state else ''}"
    if isinstance(error, IntegrityError):
        return DatabaseUnavailable(f"the database refused the transaction ({reason}); nothing of it was kept")
    return DatabaseUnavailable(f"the database could not be used ({reason}); nothing of the transaction was kept")


def _sqlite_engine(url: str, lock_timeout_s: float) -> Engine:
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": lock_timeout_s})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by its own rules
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @event.listens_for(engine, "commit")
    def commit(connection: Connection) -> None:
        # A COMMIT that foreign keys refuse leaves SQLite's transaction open: it must not live on in the pool.
        try:
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise

    return engine
