"""Shared images: which snapshots name them, those on their way, and what deletions owe of them."""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects.postgresql import JSONB

from artifact_deletion.outbox import LEDGER_SCHEMA

revision = "1.1"
down_revision = "1.0"
branch_labels = None
depends_on = None

_json = sa.JSON().with_variant(JSONB(), "postgresql")
_time = sa.DateTime(timezone=True)


def _number(name: str, *, key: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=key, autoincrement=False, nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def upgrade() -> None:
    schema = LEDGER_SCHEMA if context.get_context().dialect.name == "postgresql" else None
    _index(schema)
    _images(schema)
    _pages(schema)


def _index(schema: str | None) -> None:
    op.create_table(
        "artifact_deletion_snapshot",
        _number("project_id", key=True),
        _number("artifact_id", key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("images", sa.LargeBinary, nullable=False),
        sa.Column("read_at", _time, nullable=False),
        schema=schema,
    )
    op.create_index("artifact_deletion_snapshot_by_artifact", "artifact_deletion_snapshot", ["artifact_id"], schema=schema)


def _images(schema: str | None) -> None:
    op.create_table(
        "artifact_deletion_image",
        _number("project_id", key=True),
        sa.Column("hash", sa.String(64), primary_key=True),
        _number("organization_id"),
        sa.Column("state", sa.String(16), nullable=False),
        _number("round"),
        sa.Column("since", _time, nullable=False),
        sa.Column("places", _json, nullable=False),
        sa.Column("codes", _json, nullable=False),
        schema=schema,
    )
    op.create_index("artifact_deletion_image_by_state", "artifact_deletion_image", ["state", "since"], schema=schema)


def _pages(schema: str | None) -> None:
    chunk = f"{schema}.artifact_deletion_chunk" if schema else "artifact_deletion_chunk"
    op.create_table(
        "artifact_deletion_image_page",
        sa.Column("deletion_id", sa.String(32), primary_key=True),
        _number("chunk", key=True),
        _number("seq", key=True),
        _number("organization_id"),
        _number("project_id"),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
        _count("count"),
        _count("named"),
        sa.Column("decided_at", _time),
        _count("absent"),
        _count("kept"),
        _count("hidden"),
        sa.Column("left_over", _json, nullable=False),
        sa.Column("how", sa.String(16)),
        sa.Column("hidden_from", _time),
        _count("purged"),
        _count("restored"),
        sa.Column("settled_at", _time),
        sa.ForeignKeyConstraint(["deletion_id", "chunk"], [f"{chunk}.deletion_id", f"{chunk}.chunk"]),
        schema=schema,
    )
    by_project = ["project_id", "decided_at"]
    op.create_index("artifact_deletion_image_page_by_project", "artifact_deletion_image_page", by_project, schema=schema)
