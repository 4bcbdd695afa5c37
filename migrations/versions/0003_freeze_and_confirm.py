"""A switch that stops all deletions, and who confirmed a large one."""

import sqlalchemy as sa
from alembic import context, op

from activities.storage.database import LEDGER_SCHEMA

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_time = sa.DateTime(timezone=True)


def upgrade() -> None:
    schema = LEDGER_SCHEMA if context.get_context().dialect.name == "postgresql" else None
    op.create_table(
        "artifact_deletion_freeze",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("frozen_at", _time, nullable=False, server_default=sa.func.now()),
        sa.Column("reason", sa.Text, nullable=False),
        schema=schema,
    )
    op.add_column("artifact_deletion", sa.Column("confirmed_at", _time), schema=schema)
    op.add_column("artifact_deletion", sa.Column("confirmed_by", sa.String(128)), schema=schema)
