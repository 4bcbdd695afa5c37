"""What a transaction means on both databases: all or nothing, at one isolation level, and no values in the words of errors."""

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import Connection, Engine, func, insert, select, text, update
from sqlalchemy.orm import Session
from temporalio.api.failure.v1 import Failure

from activities.backend import tables
from activities.database import Database
from activities.ledger import deletions
from activities.ledger.schema import Deletion
from artifact_deletion.converter import data_converter
from artifact_deletion.errors import DatabaseUnavailable
from artifact_deletion.outbox import DeletionState, accept_deletion
from tests.steps.test_ledger import REQUEST

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
MARKER = "secret-marker-4711"


def add_artifact_without_project(session: Session) -> None:
    session.execute(insert(tables.Artifact).values(project_id=4711))
    assert artifacts_in(session) == 1, "only the COMMIT refuses it"


def artifacts_in(session: Session) -> int:
    return int(session.execute(select(func.count()).select_from(tables.Artifact)).scalar_one())


def test_a_transaction_that_reads_keeps_nothing(database: Database) -> None:
    """PostgreSQL refuses to write in it."""
    with contextlib.suppress(DatabaseUnavailable), database.read() as session:
        session.execute(insert(tables.Organization).values(slug="acme"))
    with database.read() as session:
        assert not session.execute(select(tables.Organization.id)).all()


def test_a_commit_that_foreign_keys_refuse_leaves_nothing_and_a_clean_connection(database: Database) -> None:
    """SQLite keeps a transaction open whose COMMIT failed: back in the pool, it would lock out everyone, and commit later."""
    with pytest.raises(DatabaseUnavailable, match="refused"), database.write() as session:
        add_artifact_without_project(session)
    pooled = database.engine.raw_connection()
    if isinstance(pooled.driver_connection, sqlite3.Connection):
        assert not pooled.driver_connection.in_transaction
    pooled.close()
    other = Database(database.engine.url.render_as_string(hide_password=False), lock_timeout_s=0.1)
    with other.write() as session:
        assert artifacts_in(session) == 0
        session.execute(insert(tables.Organization).values(slug="acme"))
    other.dispose()
    with database.write() as session:
        session.execute(insert(tables.Organization).values(slug="globex"))
    with database.read() as session:
        assert session.execute(select(func.count()).select_from(tables.Organization)).scalar_one() == 2
        assert artifacts_in(session) == 0


def test_a_transaction_that_fails_half_way_leaves_nothing(database: Database) -> None:
    """An error of ours between two statements undoes the first."""

    def fail(session: Session) -> None:
        session.execute(insert(tables.Organization).values(slug="acme"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), database.write() as session:
        fail(session)
    with database.write() as session:
        assert session.execute(select(func.count()).select_from(tables.Organization)).scalar_one() == 0


def refuse_a_duplicate(session: Session) -> None:
    for _ in range(2):
        session.execute(insert(tables.InstallableArtifact).values(preprod_artifact_id=4711, url_path=MARKER))


def refuse_a_foreign_key(session: Session) -> None:
    session.execute(insert(tables.InstallableArtifact).values(preprod_artifact_id=4711, url_path=MARKER))


def refuse_a_statement(session: Session) -> None:
    session.execute(text(f"SELECT '{MARKER}' FROM no_such_table WHERE name = :name"), {"name": MARKER})


def refuse_a_null(session: Session) -> None:
    session.execute(insert(tables.File).values(name=MARKER, type=None))


def test_what_is_said_of_a_databases_error_carries_no_values(database: Database) -> None:
    """A database quotes the row that it refuses; the message of our error goes into Temporal's history."""
    named = r"\((IntegrityError|OperationalError|ProgrammingError) [A-Z0-9_]+\)"
    for refused in (refuse_a_duplicate, refuse_a_foreign_key, refuse_a_statement, refuse_a_null):
        with pytest.raises(DatabaseUnavailable, match=named) as caught, database.write() as session:
            refused(session)
        assert_says_nothing(caught.value)


def test_what_is_said_of_a_database_that_is_down_carries_no_secret(tmp_path: Path) -> None:
    """A driver's message names host, user and file."""
    for url in (f"postgresql+psycopg://{MARKER}:{MARKER}@127.0.0.1:1/{MARKER}", f"sqlite:///{tmp_path}/{MARKER}/backend.db"):
        database = Database(url)
        with pytest.raises(DatabaseUnavailable, match="could not be used") as caught, database.read() as session:
            session.execute(text("SELECT 1"))
        assert_says_nothing(caught.value)
        database.dispose()


def assert_says_nothing(error: DatabaseUnavailable) -> None:
    """Neither in words nor as what Temporal stores: causes and traces are part of that."""
    assert MARKER not in str(error)
    assert "4711" not in str(error)
    failure = Failure()
    data_converter.failure_converter.to_failure(error, data_converter.payload_converter, failure)
    assert MARKER not in str(failure)
    assert not failure.HasField("cause")


def test_times_are_utc_on_both_databases(database: Database) -> None:
    """SQLite keeps no zone, PostgreSQL answers in its own, and a receipt's times are read by others."""
    if database.is_postgresql:
        with database.write() as session:
            session.execute(text(f"ALTER DATABASE {database.engine.url.database} SET timezone TO 'America/New_York'"))
        database.dispose()
    with database.write() as session:
        accept_deletion(session, REQUEST)
        (asked,) = deletions.serve_asks(session, REQUEST.deletion_id)
        deletions.make(session, REQUEST, DeletionState.CLOSED, asked.at)
        session.execute(update(Deletion).values(closed_at=func.now()))
    with database.read() as session:
        accepted, closed = session.execute(select(Deletion.accepted_at, Deletion.closed_at)).one()
    assert accepted.tzinfo is not None
    assert accepted.utcoffset() == (closed and closed.utcoffset()) == timedelta(0)


@on_postgresql
def test_threads_that_find_their_connections_dead_at_once_replace_the_pool_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second to find it out would throw away the living connections that the first has made."""
    database, other = Database(database_url, pool_size=2), Database(database_url, pool_size=1)
    together = Barrier(2)

    def session_of(_: int) -> int:
        with database.write() as session:
            together.wait(10)
            return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())

    connect, dispose = Engine.connect, Engine.dispose
    given: list[Connection] = []
    replaced: list[Engine] = []

    def both_given(engine: Engine) -> Connection:
        connection = connect(engine)
        given.append(connection)
        if connection in given[:2]:  # the dead ones, both out of the same pool
            together.wait(10)
        return connection

    def count(engine: Engine) -> None:
        replaced.append(engine)
        dispose(engine)

    with ThreadPoolExecutor(2) as threads:
        pids = list(threads.map(session_of, range(2)))
        with other.write() as session:
            session.execute(text("SELECT pg_terminate_backend(pid) FROM unnest(:pids) AS pid"), {"pids": pids})
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "connect", both_given)
            patched.setattr(Engine, "dispose", count)
            assert set(threads.map(session_of, range(2))).isdisjoint(pids)
    assert len(replaced) == 1
    database.dispose()
    other.dispose()
