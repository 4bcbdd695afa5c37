"""The ledger's tables: made by migrations, by printed SQL, beside another who makes them; refused where they are others'."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import BLANK_SCHEMA, MetaData, text

from activities.database import Database
from activities.ledger.schema import DeletionPage, LedgerTable
from artifact_deletion.errors import LedgerOutdated
from artifact_deletion.outbox import LEDGER_SCHEMA
from demo.servers import PostgresServer
from migrations import VERSION_TABLE, as_sql, check_version, migrate
from tests.stack import PROCESS, wait_for_waiters


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database(f"empty_{PROCESS}_{tmp_path.name}".lower())


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.dispose()


def differences(database: Database) -> list[Any]:
    """What Alembic would change to make the database's ledger the one that the code declares."""
    on_postgresql = database.is_postgresql
    declared = LedgerTable.metadata
    if not on_postgresql:
        declared = MetaData()
        for table in LedgerTable.metadata.tables.values():
            copy: Any = table.to_metadata  # its annotations leave no way to say “no schema”
            made = copy(declared, schema=None, referred_schema_fn=lambda *_: BLANK_SCHEMA)
            for column in made.columns:
                if column.identity is not None:  # which SQLite does not have: it numbers rows by itself
                    column.identity = column.server_default = None

    def ours(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name == (LEDGER_SCHEMA if on_postgresql else None)
        return kind != "table" or (str(name).startswith("artifact_deletion") and name != VERSION_TABLE)

    options = {"include_schemas": on_postgresql, "include_name": ours, "compare_type": True, "compare_server_default": True}
    with database.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), declared))


@pytest.mark.thorough
def test_migrations_make_exactly_the_declared_tables_and_are_safe_to_repeat(empty: Database) -> None:
    """A column in the code alone would fail at the first deletion; one in the migrations alone would never be filled."""
    for _ in range(2):
        migrate(empty)
        check_version(empty)
        assert differences(empty) == []
    with empty.write() as session:
        table = f"{LEDGER_SCHEMA}.{DeletionPage.__tablename__}" if empty.is_postgresql else DeletionPage.__tablename__
        session.execute(text(f"DROP TABLE {table}"))
    assert [change[0] for change in differences(empty)] == ["add_table"], "the comparison itself sees a missing table"


@pytest.mark.thorough
@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
def test_a_migration_waits_for_one_that_is_at_work(empty: Database, empty_url: str) -> None:
    """Several machines may be set up at the same time, the first time too, when the schema is not there yet."""
    with ThreadPoolExecutor(1) as pool, psycopg.connect(empty_url.replace("+psycopg", "", 1)) as first:
        first.execute("SELECT pg_advisory_xact_lock(hashtext('artifact_deletion.migrations'))")
        first.execute(f"CREATE SCHEMA {LEDGER_SCHEMA}".encode())
        second = pool.submit(migrate, empty)
        wait_for_waiters(empty)
        first.commit()
        second.result(10)
    check_version(empty)
    assert differences(empty) == []


@pytest.mark.thorough
def test_the_printed_sql_makes_the_same_tables(empty: Database, empty_url: str) -> None:
    """An operator who may not migrate hands the SQL to one who may, and the worker then finds its version."""
    if empty_url.startswith("sqlite"):
        connection = sqlite3.connect(empty_url.removeprefix("sqlite:///"))
        connection.executescript(as_sql("sqlite"))
        connection.close()
    else:
        with psycopg.connect(empty_url.replace("+psycopg", "", 1), autocommit=True) as session:
            session.execute(as_sql("postgresql").encode())
    check_version(empty)
    assert differences(empty) == []


def set_version(database: Database, version: str) -> None:
    table = f"{LEDGER_SCHEMA}.{VERSION_TABLE}" if database.is_postgresql else VERSION_TABLE
    with database.write() as session:
        session.execute(text(f"UPDATE {table} SET version_num = '{version}'"))


def test_a_ledger_of_another_version_is_refused_by_name(database: Database) -> None:
    """A worker that is older or newer than its tables would find out in the middle of a deletion."""
    check_version(database)
    set_version(database, "0.9")
    with pytest.raises(LedgerOutdated, match=r"at version 0\.9, this code needs 1\.\d+: run .*starter\.py setup"):
        check_version(database)
    for newer in ("2.0", "9999"):
        set_version(database, newer)
        with pytest.raises(LedgerOutdated, match=f"this code is too old for the ledger, which is at version {newer}"):
            check_version(database)
        with pytest.raises(LedgerOutdated, match=f"this code is too old to set up the ledger, which is at version {newer}"):
            migrate(database)


def test_a_ledger_that_only_gained_something_is_worked_with_and_not_set_up(database: Database) -> None:
    """An old worker can be restarted after a newer release added a column; but it does not know how to migrate from there."""
    set_version(database, "1.999")
    check_version(database)
    with pytest.raises(LedgerOutdated, match=r"this code is too old to set up the ledger, which is at version 1\.999"):
        migrate(database)


def test_an_absent_ledger_is_refused_by_name(empty: Database) -> None:
    """The first worker against a new database says what to do."""
    with pytest.raises(LedgerOutdated, match="is absent"):
        check_version(empty)
