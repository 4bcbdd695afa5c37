"""What the tests' own PostgreSQL databases are when the next test gets them."""

import itertools

import psycopg
import pytest

from demo.servers import PostgresServer
from tests.databases import Databases, Taken
from tests.stack import PROCESS

_names = (f"handed_on_{PROCESS}_{number}" for number in itertools.count(1))


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        ("INSERT INTO sentry_organization (slug) VALUES ('acme')", True),
        ("UPDATE artifact_deletion.artifact_deletion_limit SET used_until = 9e9", True),
        ("CREATE INDEX ON sentry_organization (slug)", False),
        ("GRANT SELECT ON sentry_organization TO PUBLIC", False),
        ("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC", False),
        ("ALTER DATABASE {name} SET default_transaction_read_only = on", False),
        ("UPDATE artifact_deletion.artifact_deletion_version SET version_num = '99.1'", False),
        ("INSERT INTO sentry_organization (slug) VALUES ('acme'); ANALYZE sentry_organization", False),
    ],
)
def test_a_database_is_handed_on_empty_or_not_at_all(postgres: PostgresServer, change: str, is_kept: bool) -> None:  # noqa: FBT001
    """What a test changed in it, be it a right or a setting, is no other test's."""
    databases = Databases(_names)
    taken = databases.take(postgres)
    rows = _rows(taken)
    with psycopg.connect(taken.url.replace("+psycopg", "")) as connection:
        connection.execute(change.format(name=taken.name))
    databases.give_back(postgres, taken)
    again = databases.take(postgres)
    assert (again.name == taken.name) is is_kept
    assert _rows(again) == rows
    with psycopg.connect(again.url.replace("+psycopg", "")) as connection:
        first = connection.execute("INSERT INTO sentry_organization (slug) VALUES ('acme') RETURNING id").fetchone()
    assert first == (1,)
    postgres.drop_database(again.name)


def _rows(taken: Taken) -> dict[str, list[tuple[object, ...]]]:
    """Of each table, its rows."""
    with psycopg.connect(taken.url.replace("+psycopg", "")) as connection:
        tables = connection.execute("SELECT relid::regclass::text FROM pg_stat_user_tables").fetchall()
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
