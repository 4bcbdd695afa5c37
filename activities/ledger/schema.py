"""The ledger's tables. docs/architecture.md says what a row of each is; migrations/ makes them."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    ForeignKeyConstraint,
    FunctionElement,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    bindparam,
    func,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler

from artifact_deletion.outbox import LEDGER_SCHEMA, Json, ask_table

_BY_ITSELF = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself for INTEGER PRIMARY KEY only


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time in UTC; SQLite keeps no zone, PostgreSQL answers in its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class clock(FunctionElement[datetime]):  # noqa: N801  it is used as a function
    """The database's clock at the beginning of the transaction, on SQLite of the statement."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(clock, "postgresql")
def _clock_of_postgresql(_element: clock, _compiler: SQLCompiler, **_options: Any) -> str:
    return "now()"


@compiles(clock, "sqlite")
def _clock_of_sqlite(_element: clock, _compiler: SQLCompiler, **_options: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"  # CURRENT_TIMESTAMP has whole seconds


class ChunkState(StrEnum):
    """The point of no return lies between the two."""

    OPEN = "open"
    ROWS_DELETED = "rows_deleted"


class RowsState(StrEnum):
    """What is known of an artifact's rows."""

    PENDING = "pending"
    """They are there, in the project that is written down."""
    DELETED = "deleted"
    GONE = "gone"
    MOVED = "moved"
    """To another organization. Of a report's deletion: it has a row by now, wherever."""
    HELD = "held"
    """A hold on the artifact, on its project or on one that it was compared with keeps them, and nothing of it is sealed."""
    NOT_EXPIRED = "not_expired"
    """Only what has expired is to go, and it has not: its rows stay, and nothing of it is sealed."""
    COMPARED = "compared"
    """Not to be deleted here: the other side of a comparison whose objects this chunk deletes."""


STAYING = (RowsState.HELD, RowsState.NOT_EXPIRED)
"""The states of a chunk's own artifacts that stay as they are."""


class PageSource(StrEnum):
    """Who named a page's keys."""

    COLUMN = "column"
    MANIFEST = "manifest"
    DERIVED = "derived"
    SHARED = "shared"
    """Named by a column; other artifacts' columns may name them too."""


class PrefixState(StrEnum):
    """What is known of a prefix that is still in the ledger."""

    OWED = "owed"
    SWEPT = "swept"
    """Listed and emptied once; to be listed empty after a quiet period."""
    LEFT_OVER = "left_over"


class LedgerTable(DeclarativeBase):
    """A table of ours."""

    metadata = MetaData(schema=LEDGER_SCHEMA)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger,
        datetime: UtcDateTime,
        dict[str, Any]: Json,
        dict[str, int]: Json,
    }


Ask = ask_table.to_metadata(LedgerTable.metadata)
"""The outbox: the contract's table, made with the others."""


class Deletion(LedgerTable):
    """One request. Its id is the digest in the workflow's id."""

    __tablename__ = "artifact_deletion"
    __table_args__ = (Index("artifact_deletion_by_state", "state", "accepted_at"),)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    organization_id: Mapped[int]
    request: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    """A DeletionState other than `accepted`, which only asks say."""
    fence: Mapped[int] = mapped_column(default=0)
    """How often it was cancelled."""
    receipt: Mapped[dict[str, Any] | None]
    accepted_at: Mapped[datetime]
    """When it was first asked for; of one that had ended, when it was asked for anew."""
    begins_at: Mapped[datetime | None]
    """Until then it waits; None: it begins at once."""
    waits_since: Mapped[datetime | None]
    """Since when its end waits for objects that other deletions owe."""
    closed_at: Mapped[datetime | None]


class DeletionArtifact(LedgerTable):
    """One artifact of a chunk, and the project in which its keys were sealed. One that came back is in several chunks."""

    __tablename__ = "artifact_deletion_artifact"
    __table_args__ = (Index("artifact_deletion_artifact_by_artifact", "artifact_id"),)
    deletion_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    chunk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    artifact_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project_id: Mapped[int | None]
    rows_state: Mapped[str] = mapped_column(String(16), default=RowsState.PENDING)


class DeletionChunk(LedgerTable):
    """The artifacts whose rows go in one transaction. Its row is the lock and the fence of all below it."""

    __tablename__ = "artifact_deletion_chunk"
    deletion_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    chunk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fence: Mapped[int]
    """The deletion's, when the chunk was made."""
    epoch: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(16), default=ChunkState.OPEN)
    # The seal.
    pages: Mapped[int] = mapped_column(default=0)
    digest: Mapped[str] = mapped_column(String(64), default="")
    """SHA-256, carried on from page to page."""
    names_digest: Mapped[str] = mapped_column(String(64), default="")
    """Of what the rows named when the keys were sealed; empty until all are."""
    kinds: Mapped[dict[str, int]] = mapped_column(default=dict)
    """Sealed keys by kind."""
    manifests: Mapped[dict[str, int]] = mapped_column(default=dict)
    """Counts, by the names of ManifestsReceipt's fields."""
    strays: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The first thousand strays as [why, key], compressed JSON: for a look, never to be acted on."""
    # What became of its keys.
    sealed: Mapped[int] = mapped_column(default=0)
    deleted: Mapped[int] = mapped_column(default=0)
    absent: Mapped[int] = mapped_column(default=0)
    kept: Mapped[int] = mapped_column(default=0)
    # What became of its rows.
    rows: Mapped[dict[str, int]] = mapped_column(default=dict)
    """Deleted rows by table."""
    files: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{"deleted": n, "kept": {reason: [file ids]}, "blobs": [blob ids]}"""
    rows_deleted_at: Mapped[datetime | None]
    # What listing its prefixes showed. Counted as it is seen, since a complete deletion forgets its prefixes.
    listed: Mapped[dict[str, int]] = mapped_column(default=dict)
    """Counts, by the names of ObjectsReceipt's fields."""
    listed_empty_from: Mapped[datetime | None]
    # What the trace store answered.
    trace_items_matched: Mapped[int] = mapped_column(default=0)
    trace_items_asked_at: Mapped[datetime | None]
    trace_items_asked_by: Mapped[str | None] = mapped_column(String(64))
    """Temporal's ids of the run and step that asked first at that time: another gives the trace store its time once more."""
    trace_items_confirmed_at: Mapped[datetime | None]


class OfChunk:
    """What belongs to a chunk, and cannot outlive it."""

    deletion_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    chunk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


def chunks_own() -> ForeignKeyConstraint:
    """The constraint that says so."""
    chunk = f"{LEDGER_SCHEMA}.artifact_deletion_chunk"
    return ForeignKeyConstraint(["deletion_id", "chunk"], [f"{chunk}.deletion_id", f"{chunk}.chunk"])


class DeletionPage(OfChunk, LedgerTable):
    """Up to a thousand keys of one scope, for one DeleteObjects request. It shrinks to what failed, and goes with the last."""

    __tablename__ = "artifact_deletion_page"
    __table_args__ = (chunks_own(),)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    scope: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(String(16))
    keys: Mapped[bytes] = mapped_column(LargeBinary)
    """zlib over the sorted keys, one a line."""
    count: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of `keys`' content before compression, hex: what a compare-and-swap compares."""
    codes: Mapped[dict[str, int]] = mapped_column(default=dict)
    """The store's codes for the keys that are still here."""


class DeletionPrefix(OfChunk, LedgerTable):
    """A prefix, or one exact key, that belongs to the chunk's artifacts: it goes when it was listed empty."""

    __tablename__ = "artifact_deletion_prefix"
    __table_args__ = (chunks_own(),)
    scope: Mapped[str] = mapped_column(Text, primary_key=True)
    prefix: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    artifact_id: Mapped[int]
    """The artifact of the chunk that it belongs to."""
    state: Mapped[str] = mapped_column(String(16), default=PrefixState.OWED)
    codes: Mapped[dict[str, int]] = mapped_column(default=dict)
    looks: Mapped[int] = mapped_column(Integer, default=0)
    """How often it was written down: what a compare-and-swap compares."""
    quiet_since: Mapped[datetime | None]
    noisy_rounds: Mapped[int] = mapped_column(Integer, default=0)
    """Quiet periods after which something new was there."""
    looked_by: Mapped[str | None] = mapped_column(String(64))
    """Temporal's id of the run that looked last: another run looks again at what was left over."""


class Hold(LedgerTable):
    """Nothing of what it is on is deleted while it is not lifted."""

    __tablename__ = "artifact_deletion_hold"
    __table_args__ = (
        Index("artifact_deletion_hold_on", "on_what", "on_id", "lifted_at"),
        Index("artifact_deletion_hold_ceiling", "on_id", "ceiling_of", unique=True),
    )
    id: Mapped[int] = mapped_column(_BY_ITSELF, Identity(), primary_key=True)
    on_what: Mapped[str] = mapped_column(String(16))
    on_id: Mapped[str] = mapped_column(String(64))
    """The id of what it is on; empty for everything."""
    ceiling_of: Mapped[int | None]
    """The deletion's fence, where the service itself placed the hold, since the deletion is larger than may go unconfirmed."""
    reason: Mapped[str] = mapped_column(Text)
    """Free text, which never goes to Temporal, or for a ceiling fixed words and counts."""
    placed_by: Mapped[str | None] = mapped_column(String(128))
    placed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    lifted_by: Mapped[str | None] = mapped_column(String(128))
    lifted_at: Mapped[datetime | None]


class Policy(LedgerTable):
    """How long artifacts of an organization, a project, a kind are kept. Null: of every one."""

    __tablename__ = "artifact_deletion_policy"
    id: Mapped[int] = mapped_column(_BY_ITSELF, Identity(), primary_key=True)
    organization_id: Mapped[int | None]
    project_id: Mapped[int | None]
    kind: Mapped[str | None] = mapped_column(String(64))
    days: Mapped[int | None] = mapped_column(Integer)
    """Null: for ever."""
    grace_s: Mapped[int | None] = mapped_column(Integer)
    """For so long the deletion of what has expired waits, and can be cancelled. Null: it does not wait."""
    set_by: Mapped[str] = mapped_column(String(128))
    set_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Limit(LedgerTable):
    """Its one row is what all workers take places from, where keys a second are limited."""

    __tablename__ = "artifact_deletion_limit"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    used_until: Mapped[float] = mapped_column(Double)
    """Seconds since 1970 by the database's clock: the end of the last place that was taken."""


def of_chunk(table: type[DeletionArtifact | DeletionChunk | OfChunk]) -> tuple[ColumnElement[bool], ...]:
    """The rows of one chunk, by the parameters `of` and `of_chunk`."""
    return table.deletion_id == bindparam("of"), table.chunk == bindparam("of_chunk")
