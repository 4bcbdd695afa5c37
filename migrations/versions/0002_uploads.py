"""Unfinished multipart uploads that were aborted, by prefix."""

import sqlalchemy as sa
from alembic import context, op

from activities.storage.database import LEDGER_SCHEMA

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema = LEDGER_SCHEMA if context.get_context().dialect.name == "postgresql" else None
    op.add_column("artifact_deletion_prefix", sa.Column("uploads_aborted", sa.BigInteger), schema=schema)
