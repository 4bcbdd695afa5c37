"""Looks whether the database is there, with ledger and tables as deletions know them, and a role that may do the work."""

from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from activities.backend.contract import Backend
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.backend.used import columns_used
from activities.database import Database, unavailable
from activities.ledger import holds
from activities.ledger.holds import On, Placed
from adapters import adapters
from artifact_deletion.errors import DeletionError
from commands.examine.finding import ADAPTERS, BAD, OK, SETUP, SKIPPED, WARN, Finding, tried
from commands.examine.rights import Role, examine_rights
from commands.holds import hold_line
from migrations import check_version
from settings import DatabaseSettings, Settings, load

_LATER = ("ledger", "tables", "schema drift", "rights", "holds")


def examine_database(settings: DatabaseSettings, role: Role, *, utc: bool) -> list[Finding]:
    """Look at the database, in the order in which things need each other."""
    database = Database(settings.database_url.get_secret_value(), pool_size=1, lock_timeout_s=settings.database_lock_timeout_s)
    try:
        with database.read() as session:
            session.execute(text("SELECT 1"))
        do = f"run `{SETUP}`, unless this code is too old"
        ledger = tried("ledger", lambda: check_version(database), "at this code's version", do)
        there = ledger.state == OK
        tables, drift = _schema(database, settings)
        rights = examine_rights(database, settings, role, ledger=there, backend=tables.state == OK)
        no_holds = Finding("holds", SKIPPED, "there is no ledger to look into")
        held = _holds(database, role, utc=utc) if there else no_holds
    except DeletionError as error:
        later = (Finding(name, SKIPPED, "the database was not reached") for name in _LATER)
        return [Finding("database", BAD, str(error), "set ARTIFACT_DELETION_DATABASE_URL; is it up?"), *later]
    finally:
        database.dispose()
    return [Finding("database", OK, database.engine.dialect.name), ledger, tables, drift, rights, held]


def _schema(database: Database, settings: DatabaseSettings) -> tuple[Finding, Finding]:
    """Look whether the backend's tables are there, and whether other tables refer to artifacts."""
    try:
        backend = _backend(database, settings)
    except DeletionError as error:
        return Finding("tables", BAD, str(error), ADAPTERS), Finding("schema drift", BAD, str(error), ADAPTERS)
    ours = isinstance(backend, SentryBackend)
    drift = tried(
        "schema drift",
        backend.refuse_unknown_tables,
        "no foreign keys to artifacts but those that are known",
        "this version is too old for the backend's schema: no deletion begins until one that knows it is deployed",
    )
    return _tables(database, settings) if ours else Finding("tables", SKIPPED, "the backend is an adapter's"), drift


def _backend(database: Database, settings: DatabaseSettings) -> Backend:
    """Of which the schema alone is asked for. Raises Misconfigured."""
    adapter = adapters().backend
    if adapter is None:
        return SentryBackend(database, Scopes("", ()))
    return adapter(settings if isinstance(settings, Settings) else load(Settings), database)


def _tables(database: Database, settings: DatabaseSettings) -> Finding:
    """Look whether the backend's tables have the columns that deletions read and write."""
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
        held = hold_on_everything(database)
    except DeletionError as error:
        return Finding("holds", BAD, str(error), "may this role read the table of holds?")
    if held:
        said = f"every deletion waits: {hold_line(held, utc=utc)}"
        return Finding("holds", WARN, said, "`python starter.py holds` says why")
    return Finding("holds", OK, "none is on everything")


def hold_on_everything(database: Database) -> Placed | None:
    """Return the first hold on everything."""
    with database.read() as session:
        return next((one for one in holds.placed(session) if one.on_what == On.EVERYTHING), None)
