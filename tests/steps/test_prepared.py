"""Statements that the PostgreSQL driver prepares: a worker makes the same ones all day, and a plan costs more than they do."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from activities.database import Database
from artifact_deletion.errors import DatabaseUnavailable
from tests.shop import POSTGRESQL

pytestmark = POSTGRESQL
USES = 7
ASKED = "SELECT 'asked for again and again'"


@contextlib.contextmanager
def opened(url: str, *, prepare: bool = True) -> Iterator[Database]:
    """With a pool of one connection."""
    database = Database(url, pool_size=1, prepare=prepare)
    try:
        yield database
    finally:
        database.dispose()


def ask(database: Database, asked: str = ASKED) -> None:
    with database.read() as session:
        session.execute(text(asked)).all()


def prepared(url: str, *, prepare: bool = True) -> bool:
    """Whether it is after some uses, each in a transaction of its own."""
    with opened(url, prepare=prepare) as database:
        for _ in range(USES):
            ask(database)
        with database.write() as session:
            found = text(f"SELECT count(*) FROM pg_prepared_statements WHERE statement = $${ASKED}$$")
            return bool(session.execute(found).scalar_one())


def test_what_is_asked_for_again_is_prepared_unless_a_setting_says_no(database_url: str) -> None:
    """Reads come between all writes: they must not make the driver forget."""
    assert prepared(database_url)
    assert not prepared(database_url, prepare=False)


def test_a_column_that_a_migration_widens_costs_one_attempt(database_url: str) -> None:
    """PostgreSQL refuses what was prepared for the narrow one. Then the driver prepares it anew."""
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as migration, opened(database_url) as database:
        migration.execute("CREATE TABLE narrow (id integer)")
        for _ in range(USES):
            ask(database, "SELECT id FROM narrow")
        migration.execute("ALTER TABLE narrow ALTER id TYPE bigint")
        with pytest.raises(DatabaseUnavailable, match="0A000"):
            ask(database, "SELECT id FROM narrow")
        ask(database, "SELECT id FROM narrow")
