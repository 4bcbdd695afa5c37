"""The two connections of a command: to the ledger in the backend's database, and to Temporal."""

import contextlib
import functools
import logging
from collections.abc import Iterator

from sqlalchemy import make_url
from temporalio.client import Client
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

import temporal_client
from activities.database import Database
from artifact_deletion.errors import DatabaseUnavailable
from migrations import check_version
from settings import DatabaseSettings, load

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


async def connect() -> Client:
    """Connect to Temporal. Raises TemporalUnreachable, Misconfigured."""
    return await temporal_client.connect(_runtime())


@functools.cache
def _runtime() -> Runtime:
    """Make the SDK log through `logging`: by itself it writes to standard output, where JSON and receipts go.

    A process keeps one runtime to its end. It cannot wait for threads of the SDK that wait to log.
    """
    forwarding = LogForwardingConfig(
        logging.getLogger("temporalio.core"),
        append_target_to_name=False,
        prepend_target_on_message=False,
        append_log_fields_to_message=False,  # they hold addresses
    )
    logs = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding)
    return Runtime(telemetry=TelemetryConfig(logging=logs))
