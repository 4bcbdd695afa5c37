"""Until when the limit of keys a second is used up: one row for all workers."""

import sqlalchemy as sa
from alembic import context, op

from activities.storage.database import LEDGER_SCHEMA

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema = LEDGER_SCHEMA if context.get_context().dialect.name == "postgresql" else None
    limit = op.create_table(
        "artifact_deletion_limit",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("used_until", sa.Double, nullable=False),
        schema=schema,
    )
    op.bulk_insert(limit, [{"id": 1, "used_until": 0.0}])
