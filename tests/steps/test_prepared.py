"""Statements that the PostgreSQL driver prepares: a worker makes the same ones all day."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from activities.database import Database
from artifact_deletion.errors import DatabaseUnavailable
from tests.postgres_proxy import PostgresProxy
from tests.shop import POSTGRESQL

pytestmark = POSTGRESQL
USES = 7
ASKED = text("SELECT CAST(:value AS TEXT) AS asked_again_and_again")
COUNT = text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%AS asked_again_and_again'")


@contextlib.contextmanager
def opened(url: str, *, prepare: bool = True) -> Iterator[Database]:
    """With a pool of one connection."""
    database = Database(url, pool_size=1, prepare=prepare)
    try:
        yield database
    finally:
        database.dispose()


def prepared(url: str, value: str = "", *, prepare: bool = True) -> bool:
    """Whether it is after some uses, each in a transaction of its own."""
    with opened(url, prepare=prepare) as database:
        for _ in range(USES):
            with database.read() as session:
                assert session.execute(ASKED, {"value": value}).scalar_one() == value
        with database.write() as session:
            return bool(session.execute(COUNT).scalar_one())


def test_what_is_asked_for_again_is_prepared_unless_a_setting_says_no(database_url: str) -> None:
    """Reads come between all writes: they must not make the driver forget."""
    assert prepared(database_url)
    assert not prepared(database_url, prepare=False)


def test_what_asks_for_a_long_list_is_planned_each_time(database_url: str) -> None:
    """A plan that is kept is one for short lists, or for a table of the ledger that was empty then."""
    assert not prepared(database_url, "4711," * 300)


def test_nothing_is_prepared_where_a_pooler_stands_between(database_url: str) -> None:
    """The connection that gets the next transaction knows nothing of it. `make test-pgbouncer` asks a real one."""
    with PostgresProxy(database_url, happens=True, only=lambda _: False, poses=True) as proxy:
        assert not prepared(proxy.url)
    with PostgresProxy(database_url, happens=True, only=lambda _: False) as proxy:
        assert prepared(proxy.url)


def test_a_column_that_a_migration_widens_costs_an_attempt(database_url: str) -> None:
    """PostgreSQL refuses what was prepared for the narrow one. Then the driver prepares it anew."""
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as migration, opened(database_url) as database:

        def look() -> None:
            with database.read() as session:
                session.execute(text("SELECT id FROM narrow")).all()

        migration.execute("CREATE TABLE narrow (id integer)")
        for _ in range(USES):
            look()
        migration.execute("ALTER TABLE narrow ALTER id TYPE bigint")
        with pytest.raises(DatabaseUnavailable, match="0A000"):
            look()
        look()
