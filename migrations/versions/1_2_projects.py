"""Whole projects: reports of what is left behind in one, retention, and deletions that wait for their time."""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects.postgresql import JSONB

from artifact_deletion.outbox import LEDGER_SCHEMA

revision = "1.2"
down_revision = "1.1"
branch_labels = None
depends_on = None

_json = sa.JSON().with_variant(JSONB(), "postgresql")
_time = sa.DateTime(timezone=True)
_by_itself = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _number(name: str, *, key: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=key, autoincrement=False, nullable=False)


def upgrade() -> None:
    schema = LEDGER_SCHEMA if context.get_context().dialect.name == "postgresql" else None
    _reports(schema)
    _begins_at(schema)
    _policies(schema)


def _reports(schema: str | None) -> None:
    op.create_table(
        "artifact_deletion_report",
        sa.Column("id", sa.String(32), primary_key=True),
        _number("organization_id"),
        _number("project_id"),
        sa.Column("looked_at", _time, nullable=False),
        sa.Column("written_before", _time, nullable=False),
        sa.Column("expires_at", _time, nullable=False),
        sa.Column("implausible", sa.Boolean, nullable=False),
        sa.Column("totals", _json, nullable=False),
        schema=schema,
    )
    report = f"{schema}.artifact_deletion_report" if schema else "artifact_deletion_report"
    op.create_table(
        "artifact_deletion_orphan",
        sa.Column("report_id", sa.String(32), primary_key=True),
        _number("artifact_id", key=True),
        _number("base_id", key=True),
        sa.ForeignKeyConstraint(["report_id"], [f"{report}.id"]),
        schema=schema,
    )


def _begins_at(schema: str | None) -> None:
    op.add_column("artifact_deletion", sa.Column("begins_at", _time), schema=schema)


def _policies(schema: str | None) -> None:
    op.create_table(
        "artifact_deletion_policy",
        sa.Column("id", _by_itself, sa.Identity(), primary_key=True),
        sa.Column("organization_id", sa.BigInteger),
        sa.Column("project_id", sa.BigInteger),
        sa.Column("kind", sa.String(64)),
        sa.Column("days", sa.Integer),
        sa.Column("set_by", sa.String(128), nullable=False),
        sa.Column("set_at", _time, nullable=False, server_default=sa.func.now()),
        schema=schema,
    )
