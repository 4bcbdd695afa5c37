"""The ledger: asks, deletions, their artifacts, chunks, pages and prefixes, holds, and the limit of keys."""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects.postgresql import JSONB

from artifact_deletion.outbox import LEDGER_SCHEMA

revision = "1.0"
down_revision = None
branch_labels = None
depends_on = None

_json = sa.JSON().with_variant(JSONB(), "postgresql")
_time = sa.DateTime(timezone=True)
_by_itself = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _id() -> sa.Column[str]:
    return sa.Column("deletion_id", sa.String(32), primary_key=True)


def _number(name: str, *, key: bool = False, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=key, autoincrement=False, nullable=nullable)


def _counts(name: str) -> sa.Column[object]:
    return sa.Column(name, _json, nullable=False)


def upgrade() -> None:
    schema = LEDGER_SCHEMA if context.get_context().dialect.name == "postgresql" else None
    _asks(schema)
    _deletions(schema)
    _chunks(schema)
    _pages_and_prefixes(schema)
    _holds_and_limit(schema)


def _asks(schema: str | None) -> None:
    op.create_table(
        "artifact_deletion_ask",
        sa.Column("id", _by_itself, sa.Identity(), primary_key=True),
        sa.Column("deletion_id", sa.String(32), nullable=False),
        sa.Column("request", _json, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("run_id", sa.String(64)),
        sa.Column("asked_at", _time, nullable=False, server_default=sa.func.now()),
        sa.Column("served_at", _time),
        sa.UniqueConstraint("deletion_id", "run_id"),
        schema=schema,
    )
    unserved = sa.text("served_at IS NULL")
    op.create_index(
        "artifact_deletion_ask_unserved",
        "artifact_deletion_ask",
        ["deletion_id"],
        schema=schema,
        postgresql_where=unserved,
        sqlite_where=unserved,
    )


def _deletions(schema: str | None) -> None:
    op.create_table(
        "artifact_deletion",
        sa.Column("id", sa.String(32), primary_key=True),
        _number("organization_id"),
        sa.Column("request", _json, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        _number("fence"),
        sa.Column("receipt", _json),
        sa.Column("accepted_at", _time, nullable=False),
        sa.Column("waits_since", _time),
        sa.Column("closed_at", _time),
        schema=schema,
    )
    op.create_index("artifact_deletion_by_state", "artifact_deletion", ["state", "accepted_at"], schema=schema)
    op.create_table(
        "artifact_deletion_artifact",
        _id(),
        _number("chunk", key=True),
        _number("artifact_id", key=True),
        _number("project_id", nullable=True),
        sa.Column("rows_state", sa.String(16), nullable=False),
        schema=schema,
    )
    op.create_index("artifact_deletion_artifact_by_artifact", "artifact_deletion_artifact", ["artifact_id"], schema=schema)


def _chunks(schema: str | None) -> None:
    op.create_table(
        "artifact_deletion_chunk",
        _id(),
        _number("chunk", key=True),
        _number("fence"),
        _number("epoch"),
        sa.Column("state", sa.String(16), nullable=False),
        _number("pages"),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("names_digest", sa.String(64), nullable=False),
        _counts("kinds"),
        _counts("manifests"),
        sa.Column("strays", sa.LargeBinary),
        _number("sealed"),
        _number("deleted"),
        _number("absent"),
        _number("kept"),
        _counts("rows"),
        _counts("files"),
        sa.Column("rows_deleted_at", _time),
        _counts("listed"),
        sa.Column("listed_empty_from", _time),
        _number("trace_items_matched"),
        sa.Column("trace_items_asked_at", _time),
        sa.Column("trace_items_asked_by", sa.String(64)),
        sa.Column("trace_items_confirmed_at", _time),
        schema=schema,
    )


def _pages_and_prefixes(schema: str | None) -> None:
    chunk = f"{schema}.artifact_deletion_chunk" if schema else "artifact_deletion_chunk"

    def of_chunk() -> sa.ForeignKeyConstraint:
        return sa.ForeignKeyConstraint(["deletion_id", "chunk"], [f"{chunk}.deletion_id", f"{chunk}.chunk"])

    op.create_table(
        "artifact_deletion_page",
        _id(),
        _number("chunk", key=True),
        _number("seq", key=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("keys", sa.LargeBinary, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        _counts("codes"),
        of_chunk(),
        schema=schema,
    )
    op.create_table(
        "artifact_deletion_prefix",
        _id(),
        _number("chunk", key=True),
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("prefix", sa.Text, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        _number("artifact_id"),
        sa.Column("state", sa.String(16), nullable=False),
        _counts("codes"),
        sa.Column("looks", sa.Integer, nullable=False),
        sa.Column("quiet_since", _time),
        sa.Column("noisy_rounds", sa.Integer, nullable=False),
        sa.Column("looked_by", sa.String(64)),
        of_chunk(),
        schema=schema,
    )


def _holds_and_limit(schema: str | None) -> None:
    op.create_table(
        "artifact_deletion_hold",
        sa.Column("id", _by_itself, sa.Identity(), primary_key=True),
        sa.Column("on_what", sa.String(16), nullable=False),
        sa.Column("on_id", sa.String(64), nullable=False),
        _number("ceiling_of", nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("placed_by", sa.String(128)),
        sa.Column("placed_at", _time, nullable=False, server_default=sa.func.now()),
        sa.Column("lifted_by", sa.String(128)),
        sa.Column("lifted_at", _time),
        schema=schema,
    )
    on = ["on_what", "on_id", "lifted_at"]
    op.create_index("artifact_deletion_hold_on", "artifact_deletion_hold", on, schema=schema)
    of = ["on_id", "ceiling_of"]
    op.create_index("artifact_deletion_hold_ceiling", "artifact_deletion_hold", of, unique=True, schema=schema)
    limit = op.create_table(
        "artifact_deletion_limit",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("used_until", sa.Double, nullable=False),
        schema=schema,
    )
    op.bulk_insert(limit, [{"id": 1, "used_until": 0.0}])
