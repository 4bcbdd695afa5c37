"""The connections of a command: to the ledger in the backend's database, to the backend's rows beside it, and to Temporal."""

import contextlib
import functools
from collections.abc import Iterator

from sqlalchemy import make_url
from temporalio.client import Client
from temporalio.runtime import Runtime

import temporal_client
from activities.backend.contract import Backend
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.database import Database
from adapters import adapters
from artifact_deletion.errors import DatabaseUnavailable
from migrations import check_version
from settings import DatabaseSettings, Settings, load
from telemetry import runtime

_NO_RIGHT = " 42501)"
"""SQLSTATE of a statement that a role may not run."""
_NOT_THERE = (" 42P01)", " 42703)", " 3F000)", " SQLITE_ERROR)")
"""SQLSTATE where a table, a column or the schema is absent. SQLite has one word for all of that."""


@contextlib.contextmanager
def open_ledger() -> Iterator[Database]:
    """Open the backend's database. Raises LedgerOutdated where the ledger is absent, DatabaseUnavailable."""
    settings = load(DatabaseSettings)
    url = settings.database_url.get_secret_value()
    database = Database(
        url,
        pool_size=1,
        lock_timeout_s=settings.database_lock_timeout_s,
        statement_timeout_s=settings.database_statement_timeout_s,
        prepare=settings.database_prepare,
    )
    try:
        yield database
    except DatabaseUnavailable as error:
        said = str(error)
        if said.partition(";")[0].endswith(_NOT_THERE):
            check_version(database)  # says so if `setup` has not been run
        if _NO_RIGHT in said:
            raise DatabaseUnavailable(
                f"the database lets {make_url(url).username or 'this role'} do no such thing: {said}"
            ) from None
        raise
    finally:
        database.dispose()


def open_rows(database: Database) -> Backend:
    """Open the backend, of which only rows are asked for. Only an adapter needs more settings than the database's."""
    adapter = adapters().backend
    return SentryBackend(database, Scopes("", ())) if adapter is None else adapter(load(Settings), database)


async def connect(metrics_address: str | None = None) -> Client:
    """Connect to Temporal, and serve metrics where an address is given. Raises TemporalUnreachable, Misconfigured."""
    return await temporal_client.connect(sdk(metrics_address))


@functools.cache
def sdk(metrics_address: str | None = None) -> Runtime:
    """Make the SDK's threads. Raises Misconfigured.

    A process keeps one runtime to its end. It cannot wait for threads of the SDK that wait to log.
    """
    return runtime(metrics_address, log_fields=False)
