"""PostgreSQL databases for one test after the other: to make one takes longer than many a test.

A database is emptied and handed to the next test, as long as its catalog is as it was when it was made. One in which a test has
changed a table, a grant or a setting goes.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from activities.ledger.schema import Limit
from artifact_deletion.outbox import LEDGER_SCHEMA
from demo.servers import PostgresServer
from migrations import VERSION_TABLE

TEMPLATE = "template_backend"
_VERSION = f"{LEDGER_SCHEMA}.{VERSION_TABLE}"
_LIMIT = f"{LEDGER_SCHEMA}.{Limit.__tablename__}"
"""With the version, the one table with a row when a database is made."""
_CATALOGS = (
    *("pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_trigger", "pg_proc", "pg_policy", "pg_rewrite"),
    *("pg_namespace", "pg_type", "pg_extension", "pg_default_acl", _VERSION),
)
_THIS = "(SELECT oid FROM pg_database WHERE datname = current_database())"
_STATE = " UNION ALL ".join(
    [f"SELECT '{name}', count(*), max(xmin::text::bigint) FROM {name}" for name in _CATALOGS]
    + [
        "SELECT 'pg_class', count(*), max(xmin::text::bigint) FROM pg_class WHERE relkind <> 'S'",  # a test restarts sequences
        f"SELECT 'database', 1, xmin::text::bigint FROM pg_database WHERE oid = {_THIS}",
        f"SELECT 'settings', count(*), 0 FROM pg_db_role_setting WHERE setdatabase = {_THIS}",
        # What ANALYZE has seen of one test's rows would choose the plans of the next.
        "SELECT 'statistics', count(*), 0 FROM pg_statistic WHERE starelid >= 16384",
    ]
)
_SYSTEM = "('pg_catalog', 'information_schema')"
_TABLES = f"""
    SELECT schemaname, tablename FROM pg_tables
    WHERE schemaname NOT IN {_SYSTEM} AND tablename NOT IN ('{VERSION_TABLE}', '{Limit.__tablename__}')
"""
_OTHERS = f"datid = {_THIS} AND pid <> pg_backend_pid()"
_END_SESSIONS = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {_OTHERS}"
_RESTART_SEQUENCES = "SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence"
State = list[tuple[str, int, int]]


@dataclass(frozen=True)
class Taken:
    """One database."""

    name: str
    url: str
    state: State
    """Its catalog when it was made."""


class Databases:
    """Copies of the template. Those that no test has any more go with their server."""

    def __init__(self, names: Iterator[str]) -> None:
        self._names = names
        self._free = defaultdict[str, list[Taken]](list)

    def take(self, server: PostgresServer) -> Taken:
        """An empty one."""
        if free := self._free[server.url]:
            return free.pop()
        url = server.create_database(name := next(self._names), template=TEMPLATE)
        with psycopg.connect(_plain(url)) as connection:
            return Taken(name, url, connection.execute(_STATE).fetchall())

    def give_back(self, server: PostgresServer, taken: Taken) -> None:
        """Empty it, or drop it."""
        try:
            with psycopg.connect(_plain(taken.url)) as connection:
                connection.execute(_END_SESSIONS)
                is_unchanged = connection.execute(_STATE).fetchall() == taken.state
                if is_unchanged:
                    _empty(connection)
        except psycopg.Error:
            is_unchanged = False
        if is_unchanged:
            self._free[server.url].append(taken)
        else:
            server.drop_database(taken.name)


def _empty(connection: psycopg.Connection) -> None:
    connection.execute("SET session_replication_role = replica")  # the order of tables does not matter then
    tables = [sql.Identifier(*one) for one in connection.execute(_TABLES).fetchall()]
    connection.execute(sql.SQL("; ").join([sql.SQL("DELETE FROM {}").format(table) for table in tables]))
    connection.execute(f"UPDATE {_LIMIT} SET used_until = 0")
    connection.execute(_RESTART_SEQUENCES)


def _plain(url: str) -> str:
    return url.replace("+psycopg", "", 1)
