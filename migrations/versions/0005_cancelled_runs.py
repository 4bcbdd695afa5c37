"""A deletion that was cancelled several times remembers each run."""

import sqlalchemy as sa
from alembic import context, op

from activities.storage.database import LEDGER_SCHEMA

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if context.get_context().dialect.name == "postgresql":  # SQLite holds nobody to a length, and could not alter it
        op.alter_column("artifact_deletion", "cancelled_run", type_=sa.Text, schema=LEDGER_SCHEMA)
