"""The ledger's schema, from its first day: Alembic migrations that run from code, and print as SQL."""

from io import StringIO
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from activities.storage.database import LEDGER_SCHEMA, Database, unavailable
from workflows.errors import LedgerOutdated

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
    """The same as SQL, for whoever may not run it from here. Needs no database."""
    printed = StringIO()
    command.upgrade(_config(dialect=dialect, output=printed), "head", sql=True)
    return printed.getvalue()


def check_version(database: Database) -> None:
    """Raises LedgerOutdated if the ledger is absent or not at this code's version."""
    wanted = _SCRIPTS.get_current_head()
    with database.read() as session:
        found = _version(session.connection())
    if found != wanted:
        state = "is absent" if found is None else f"is at version {found}, this code needs {wanted}"
        raise LedgerOutdated(f"the ledger {state}: run `python starter.py setup`")


def _version(connection: Connection) -> str | None:
    """The ledger's; None if it is absent. Raises LedgerOutdated if this code does not know it."""
    schema = LEDGER_SCHEMA if connection.dialect.name == "postgresql" else None
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "version_table_schema": schema})
    found = context.get_current_revision()
    if found is not None and found not in {one.revision for one in _SCRIPTS.walk_revisions()}:
        raise LedgerOutdated(f"this code is too old for the ledger, which is at version {found}")
    return found


def _config(connection: Connection | None = None, dialect: str | None = None, output: StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, dialect=dialect)
    return config


_SCRIPTS = ScriptDirectory.from_config(_config())
