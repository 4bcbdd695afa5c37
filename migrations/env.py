"""Alembic's entry: runs the migrations on the connection that it is given, or prints them."""

from typing import Any

from alembic import context
from sqlalchemy import text

from activities.database import ledger_schema
from activities.ledger.schema import LedgerTable
from artifact_deletion.outbox import LEDGER_SCHEMA
from migrations import VERSION_TABLE

connection, dialect = context.config.attributes["connection"], context.config.attributes["dialect"]
name = dialect or connection.dialect.name
on_postgresql = name == "postgresql"
options: dict[str, Any] = {
    "target_metadata": LedgerTable.metadata,
    "version_table": VERSION_TABLE,
    "version_table_schema": LEDGER_SCHEMA if on_postgresql else None,
}
if connection is None:
    context.configure(dialect_name=name, literal_binds=True, **options)
    with context.begin_transaction():
        if on_postgresql:
            context.execute(f"CREATE SCHEMA IF NOT EXISTS {LEDGER_SCHEMA}")
        context.run_migrations()
else:
    if on_postgresql:
        # Another process that migrates at the same time waits for this transaction, and then finds nothing to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('artifact_deletion.migrations'))"))
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {LEDGER_SCHEMA}"))
    context.configure(connection=connection.execution_options(**ledger_schema(name)), **options)
    with context.begin_transaction():
        context.run_migrations()
