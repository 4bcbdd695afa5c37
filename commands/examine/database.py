"""Looks whether the database is there, with ledger and tables as deletions know them, and a role that may do the work."""

from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from activities.backend.contract import Backend
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.backend.used import columns_used
from activities.database import Database, unavailable
from activities.ledger import holds
from activities.ledger.holds import On
from artifact_deletion.errors import DeletionError
from commands.examine.finding import ADAPTERS, BAD, OK, SETUP, SKIPPED, WARN, Finding, tried
from commands.examine.rights import Role, examine_rights
from commands.hold_text import hold_line
from migrations import check_version
from settings import DatabaseSettings, Settings

_LATER = ("ledger", "tables", "schema drift", "rights", "holds")


def examine_database(settings: DatabaseSettings, role: Role, *, utc: bool) -> list[Finding]:
    """In the order in which things need each other."""
    database = Database(settings.database_url.get_secret_value(), pool_size=1, lock_timeout_s=settings.database_lock_timeout_s)
    try:
        with database.read() as session:
            session.execute(text("SELECT 1"))
        return [Finding("database", OK, database.engine.dialect.name), *_examine(database, settings, role, utc=utc)]
    except DeletionError as error:
        later = (Finding(name, SKIPPED, "the database was not reached") for name in _LATER)
        return [Finding("database", BAD, str(error), "set ARTIFACT_DELETION_DATABASE_URL; is it up?"), *later]
    finally:
        database.dispose()


def _examine(database: Database, settings: DatabaseSettings, role: Role, *, utc: bool) -> list[Finding]:
    ledger = tried(
        "ledger", lambda: check_version(database), "at this code's version", f"run `{SETUP}`, unless this code is too old"
    )
    there = ledger.state == OK
    try:
        backend = _backend(database, settings)
    except DeletionError as error:
        unknown = [Finding(name, BAD, str(error), ADAPTERS) for name in ("tables", "schema drift")]
        rights = examine_rights(database, settings, role, ledger=there, backend=False)
        return [ledger, *unknown, rights, _holds(database, role, utc=utc) if there else _no_holds()]
    ours = isinstance(backend, SentryBackend)
    tables = _tables(database, settings) if ours else Finding("tables", SKIPPED, "the backend is an adapter's")
    drift = tried(
        "schema drift",
        backend.refuse_unknown_tables,
        "no foreign keys to artifacts but those that are known",
        "this version is too old for the backend's schema: no deletion begins until one that knows it is deployed",
    )
    rights = examine_rights(database, settings, role, ledger=there, backend=tables.state == OK)
    return [ledger, tables, drift, rights, _holds(database, role, utc=utc) if there else _no_holds()]


def _backend(database: Database, settings: DatabaseSettings) -> Backend:
    """Raises Misconfigured."""
    if not isinstance(settings, Settings):
        return SentryBackend(database, Scopes("", ()))
    from composition import open_backend  # noqa: PLC0415  slow to import, and not needed for the database alone

    return open_backend(settings, database)


def _tables(database: Database, settings: DatabaseSettings) -> Finding:
    """Whether the backend's tables have the columns that deletions read and write."""
    sql_traces = isinstance(settings, Settings) and settings.trace_store == "sql"
    try:
        there = inspect(database.engine)
        found = {table: {column["name"] for column in columns} for (_, table), columns in there.get_multi_columns().items()}
    except SQLAlchemyError as error:
        return Finding("tables", BAD, str(unavailable(error)), "may this user read the catalogue?")
    absent = [
        f"{table}.{column}" if table in found else table
        for table, columns in sorted(columns_used(sql_traces=sql_traces).items())
        for column in sorted(columns - found.get(table, set()))
    ]
    if absent:
        return Finding("tables", BAD, f"absent: {', '.join(dict.fromkeys(absent))}", "is this the backend's database?")
    return Finding("tables", OK, "the backend's tables have the columns that deletions use")


def _holds(database: Database, role: Role, *, utc: bool) -> Finding:
    if role is Role.BACKEND:
        return Finding("holds", SKIPPED, "not for a backend's role to read")
    try:
        with database.read() as session:
            placed = [one for one in holds.placed(session) if one.on_what == On.EVERYTHING]
    except DeletionError as error:
        return Finding("holds", BAD, str(error), "may this role read the table of holds?")
    if placed:
        return Finding(
            "holds", WARN, f"every deletion waits: {hold_line(placed[0], utc=utc)}", "`python starter.py holds` says why"
        )
    return Finding("holds", OK, "none is on everything")


def _no_holds() -> Finding:
    return Finding("holds", SKIPPED, "there is no ledger to look into")
