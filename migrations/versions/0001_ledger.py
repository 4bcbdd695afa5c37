"""The ledger: deletions, their artifacts, chunks, pages and prefixes."""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects.postgresql import JSONB

from activities.storage.database import LEDGER_SCHEMA

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_json = sa.JSON().with_variant(JSONB(), "postgresql")
_time = sa.DateTime(timezone=True)


def _id() -> sa.Column[str]:
    return sa.Column("deletion_id", sa.String(32), primary_key=True)


def _number(name: str, *, key: bool = False, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=key, autoincrement=False, nullable=nullable)


def upgrade() -> None:
    schema = LEDGER_SCHEMA if context.get_context().dialect.name == "postgresql" else None
    chunk = f"{schema}.artifact_deletion_chunk" if schema else "artifact_deletion_chunk"

    def of_chunk() -> sa.ForeignKeyConstraint:
        return sa.ForeignKeyConstraint(["deletion_id", "chunk"], [f"{chunk}.deletion_id", f"{chunk}.chunk"])

    op.create_table(
        "artifact_deletion",
        sa.Column("id", sa.String(32), primary_key=True),
        _number("organization_id"),
        sa.Column("request", _json, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("receipt", _json),
        sa.Column("accepted_at", _time, nullable=False, server_default=sa.func.now()),
        sa.Column("closed_at", _time),
        sa.Column("cancelled_run", sa.String(64)),
        schema=schema,
    )
    op.create_index("artifact_deletion_open", "artifact_deletion", ["state", "accepted_at"], schema=schema)
    op.create_table(
        "artifact_deletion_artifact",
        _id(),
        _number("artifact_id", key=True),
        _number("chunk"),
        _number("project_id", nullable=True),
        sa.Column("rows_state", sa.String(16), nullable=False),
        _number("reopened_from", nullable=True),
        schema=schema,
    )
    op.create_index("artifact_deletion_artifact_by_artifact", "artifact_deletion_artifact", ["artifact_id"], schema=schema)
    op.create_table(
        "artifact_deletion_chunk",
        _id(),
        _number("chunk", key=True),
        _number("epoch"),
        sa.Column("state", sa.String(16), nullable=False),
        _number("pages"),
        sa.Column("digest", sa.String(64), nullable=False),
        _number("sealed"),
        _number("deleted"),
        _number("absent"),
        _number("kept"),
        sa.Column("collected", _json, nullable=False),
        sa.Column("rows", _json, nullable=False),
        sa.Column("files", _json, nullable=False),
        sa.Column("strays", sa.LargeBinary),
        _number("trace_items_matched"),
        sa.Column("trace_items_confirmed_at", _time),
        sa.Column("rows_deleted_at", _time),
        schema=schema,
    )
    op.create_table(
        "artifact_deletion_page",
        _id(),
        _number("chunk", key=True),
        _number("epoch", key=True),
        _number("seq", key=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("keys", sa.LargeBinary, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("codes", _json, nullable=False),
        of_chunk(),
        schema=schema,
    )
    op.create_table(
        "artifact_deletion_prefix",
        _id(),
        _number("chunk", key=True),
        _number("epoch", key=True),
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("prefix", sa.Text, primary_key=True),
        sa.Column("exact", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        _number("found"),
        sa.Column("codes", _json, nullable=False),
        sa.Column("noisy_sweep", sa.Integer, nullable=False),
        sa.Column("listed_empty_at", _time),
        of_chunk(),
        schema=schema,
    )
