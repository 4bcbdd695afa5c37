"""The ledger's schema, from its first day: Alembic migrations that run from code, and print as SQL.

A version is two numbers. A step that only adds raises the second: code of an earlier second number goes on with it.
"""

from io import StringIO
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from activities.database import Database, unavailable
from artifact_deletion.errors import LedgerOutdated
from artifact_deletion.outbox import LEDGER_SCHEMA

VERSION_TABLE = "artifact_deletion_version"


def migrate(database: Database, version: str = "head") -> None:
    """Bring the ledger's tables to this code's version, or up to an earlier one. Safe to repeat. Raises LedgerOutdated."""
    try:
        with database.write() as session:
            _version(session.connection())
            command.upgrade(_config(connection=session.connection()), version)
    except SQLAlchemyError as error:
        raise unavailable(error) from None


def as_sql(dialect: str) -> str:
    """The same as SQL, to be run by another hand. Needs no database."""
    printed = StringIO()
    command.upgrade(_config(dialect=dialect, output=printed), "head", sql=True)
    return printed.getvalue()


def check_version(database: Database) -> None:
    """Raises LedgerOutdated if the ledger is absent, or of a version that this code cannot work with."""
    wanted = str(_SCRIPTS.get_current_head())
    with database.read() as session:
        found = _found(session.connection())
    if found is None or _numbers(found) < _numbers(wanted):
        state = "is absent" if found is None else f"is at version {found}, this code needs {wanted}"
        raise LedgerOutdated(f"the ledger {state}: run `python starter.py setup`")
    _refuse_newer(found, wanted)


def _version(connection: Connection) -> str | None:
    """The ledger's; None if it is absent. Raises LedgerOutdated if this code does not know it."""
    found = _found(connection)
    if found is not None and found not in {one.revision for one in _SCRIPTS.walk_revisions()}:
        raise LedgerOutdated(f"this code is too old to set up the ledger, which is at version {found}")
    return found


def _refuse_newer(found: str, wanted: str) -> None:
    if _numbers(found)[0] != _numbers(wanted)[0]:
        raise LedgerOutdated(f"this code is too old for the ledger, which is at version {found}")


def _found(connection: Connection) -> str | None:
    schema = LEDGER_SCHEMA if connection.dialect.name == "postgresql" else None
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "version_table_schema": schema})
    return context.get_current_revision()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def _config(connection: Connection | None = None, dialect: str | None = None, output: StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, dialect=dialect)
    return config


_SCRIPTS = ScriptDirectory.from_config(_config())
