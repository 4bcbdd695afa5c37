"""The ledger as commands open it, and what its database's refusals mean to a person."""

import contextlib
from collections.abc import Iterator

from sqlalchemy import make_url

from activities.database import Database
from artifact_deletion.errors import DatabaseUnavailable
from migrations import check_version
from settings import DatabaseSettings, load

_NO_RIGHT = " 42501)"
"""SQLSTATE of a statement that a role may not run."""
_NOT_THERE = (" 42P01)", " 42703)", " 3F000)", " SQLITE_ERROR)")
"""SQLSTATE where a table, a column or the schema is absent; SQLite has one word for all of that."""


@contextlib.contextmanager
def open_ledger() -> Iterator[Database]:
    """The ledger in the backend's database. Raises LedgerOutdated where it is absent, DatabaseUnavailable."""
    settings = load(DatabaseSettings)
    database = Database(
        settings.database_url.get_secret_value(),
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
            check_version(database)  # which says so, if `setup` has not been run
        if _NO_RIGHT in said:
            role = make_url(settings.database_url.get_secret_value()).username
            raise DatabaseUnavailable(f"the database lets {role or 'this role'} do no such thing: {said}") from None
        raise
    finally:
        database.dispose()
