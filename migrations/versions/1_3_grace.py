"""Retention: for how long the deletion of what has expired waits, so that a person can undo it."""

import sqlalchemy as sa
from alembic import context, op

from artifact_deletion.outbox import LEDGER_SCHEMA

revision = "1.3"
down_revision = "1.2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema = LEDGER_SCHEMA if context.get_context().dialect.name == "postgresql" else None
    op.add_column("artifact_deletion_policy", sa.Column("grace_s", sa.Integer), schema=schema)
