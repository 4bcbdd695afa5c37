"""Connections to the backend's database, and what a transaction means on PostgreSQL and on SQLite."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from artifact_deletion.errors import DatabaseUnavailable
from artifact_deletion.outbox import LEDGER_SCHEMA

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_BEGIN_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ"
_LONG = 1_000
"""Characters of a parameter: a hundred ids."""
_READ_ONLY = "25006"
"""SQLSTATE of a write on a connection that may only read, as during maintenance or after a failover to another writer."""


def ledger_schema(dialect: str) -> dict[str, Any]:
    """The execution options under which ledger statements find their tables."""
    return {} if dialect == "postgresql" else {"schema_translate_map": {LEDGER_SCHEMA: None}}


class Database:
    """An engine with short transactions that either commit or leave nothing behind.

    PostgreSQL is used without session state, so that a transaction-mode pooler may stand between. It is used at READ COMMITTED,
    whatever its default: an older snapshot would not show what was committed while a statement waited for its lock. On SQLite
    every writing transaction is `BEGIN IMMEDIATE`, since a lock that is taken later can fail in the middle.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        lock_timeout_s: float = 10,
        statement_timeout_s: float = 120,
        prepare: bool = True,
    ) -> None:
        """`prepare`: let the PostgreSQL driver prepare statements on connections that no pooler shares out."""
        limits = {
            "lock_timeout": lock_timeout_s,
            "statement_timeout": statement_timeout_s,
            # Of a worker that is suspended between two statements: its locks would be held until it goes on.
            "idle_in_transaction_session_timeout": statement_timeout_s,
        }
        if url.startswith("sqlite"):
            engine = _sqlite_engine(url, lock_timeout_s)
        else:
            engine = _postgresql_engine(url, pool_size, prepare=prepare)
        self._replacing = Lock()
        self.engine: Engine = engine.execution_options(**ledger_schema(engine.dialect.name))
        settings = [f"SET LOCAL {name} = {seconds * 1000:.0f}" for name, seconds in limits.items()]
        self._begin_write = "; ".join([_BEGIN, *settings]) if self.is_postgresql else "BEGIN IMMEDIATE"

    @property
    def is_postgresql(self) -> bool:
        """False means SQLite."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction that commits at the end. Raises DatabaseUnavailable, and the step is run again."""
        with self._session(self._begin_write) as session, session.begin():
            yield session

    @contextmanager
    def read(self, *, snapshot: bool = False) -> Iterator[Session]:
        """One transaction that changes nothing, as PostgreSQL enforces; with `snapshot` all of it sees one moment there."""
        begin = f"{_BEGIN_SNAPSHOT if snapshot else _BEGIN} READ ONLY" if self.is_postgresql else "BEGIN"
        with self._session(begin) as session:
            yield session
            # There is nothing to keep. But after a ROLLBACK psycopg forgets what it has prepared.
            (session.commit if self.is_postgresql else session.rollback)()

    @contextmanager
    def _session(self, begin: str) -> Iterator[Session]:
        try:
            with (
                self._begun(begin) as connection,
                Session(connection, autoflush=False, join_transaction_mode="control_fully") as session,
            ):
                yield session
        except SQLAlchemyError as error:
            raise unavailable(error) from None

    def _begun(self, begin: str) -> Connection:
        """A connection whose transaction has begun. That shows whether it has died in the pool: no ping has to ask before."""
        pool = self.engine.pool
        connection = self.engine.connect().execution_options(begin=begin)
        try:
            connection.begin()
        except OperationalError as error:
            connection.close()
            if not error.connection_invalidated:
                raise
            with self._replacing:
                if self.engine.pool is pool:  # no other thread has replaced it yet
                    self.engine.dispose()  # after a restart, or a failover, the others are dead too
            connection = self.engine.connect().execution_options(begin=begin)
            connection.begin()
        return connection

    def dispose(self) -> None:
        """Close the idle connections."""
        self.engine.dispose()


def _postgresql_engine(url: str, pool_size: int, *, prepare: bool) -> Engine:
    """Transactions begin with a text of ours, so that settings which hold for one of them cost no round trip of their own."""
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_use_lifo=True,  # the connection that was used last has statements prepared
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": 10, "prepare_threshold": 5 if prepare else None},
    )
    _prepare_less(engine)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        text, driver = connection.get_execution_options().get("begin", _BEGIN), connection.connection.driver_connection
        try:
            driver.execute(text, prepare=False)  # type: ignore[union-attr]  # psycopg's
        except psycopg.OperationalError as error:
            connection.invalidate(error)
            raise OperationalError(text, None, error, hide_parameters=True, connection_invalidated=True) from None

    @event.listens_for(engine, "handle_error")
    def throw_away_if_read_only(context: ExceptionContext) -> None:
        # A connection of a time when the database was read-only stays so for ever: it goes, and all of its age with it.
        if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
            context.is_disconnect = context.invalidate_pool_on_disconnect = True

    return engine


def _prepare_less(engine: Engine) -> None:
    """Nothing through a pooler, and no long lists."""

    @event.listens_for(engine, "connect")
    def prepare_nothing_through_a_pooler(connection: "psycopg.Connection[Any]", _record: object) -> None:
        # A pooler in transaction mode may give each transaction another connection, without what was prepared on the last one.
        # As a connection begins, PostgreSQL names the process that serves it (BackendKeyData); a pooler, one of its own making.
        answering = connection.execute("SELECT pg_backend_pid()").fetchone()
        if answering != (connection.info.backend_pid,):
            connection.prepare_threshold = None

    @event.listens_for(engine, "do_execute")
    def plan_long_lists_each_time(cursor: "psycopg.Cursor[Any]", statement: Any, parameters: Any, _context: object) -> bool:
        # A plan that is kept for any list is one for short lists, and looks through a long one again and again.
        if is_long := any(isinstance(one, str) and len(one) > _LONG for one in parameters.values()):
            cursor.execute(statement, parameters, prepare=False)
        return is_long


def unavailable(error: SQLAlchemyError) -> DatabaseUnavailable:
    """The part of a database's error that may be said: its class and SQLSTATE. Its message carries values."""
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
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN IMMEDIATE"))

    @event.listens_for(engine, "commit")
    def commit(connection: Connection) -> None:
        # A COMMIT that foreign keys refuse leaves SQLite's transaction open: it must not live on in the pool.
        try:
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise

    return engine
