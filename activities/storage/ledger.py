"""The ledger: what every deletion was asked, has done and still owes, in tables of our own beside the backend's.

Sealing keys here and deleting the rows that named them is one transaction, so that no crash, of Temporal neither, can lose
what is owed. Three rules hold everywhere:

- **Fencing.** Whoever collects a chunk takes a new epoch of it; whoever writes to a chunk locks its row first and stops if the
  epoch or state it works under is no longer the chunk's.
- **Compare and swap.** A page changes only if it still holds the keys that were read, and the chunk's counts change with it in
  one transaction: sealed = deleted + absent + kept + the keys that are still in pages.
- **One order of locks**: the freeze, the deletion's row, the chunk's, the backend's rows, the pages, the files.

A statement stands beside the function that runs it, made once: SQLAlchemy takes longer to put one together than to run it. Its
parameters `of`, `of_chunk` and `of_epoch` say which deletion, chunk and attempt it is about.
"""

import hashlib
import json
import secrets
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    CursorResult,
    DateTime,
    Dialect,
    Double,
    ForeignKeyConstraint,
    Index,
    Insert,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    ScalarSelect,
    Select,
    String,
    Table,
    Text,
    TypeDecorator,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from activities.storage.database import LEDGER_SCHEMA, Several, ledger_schema, one_of, slices
from activities.storage.keys import ArtifactRef
from activities.storage.tables import Artifact, Json, Project
from workflows.errors import ArtifactReappeared, NotOpen, StaleAttempt, StaleSeal
from workflows.messages import DeletionReceipt, DeletionRequest, RowsDeleted, UnfinishedChunk, workflow_id

NOT_ATTEMPTED = "NotAttempted"
"""The code of sealed keys that no request was made for before the deletion's time was over."""
_BEFORE = "sealed_before"
"""Where a chunk keeps it while it is collected again."""
_COMPARED, _OTHERS = "compared", "bases"
_LAST_PAGE = 2**62
"""No page has so high a number."""
_STRAYS_KEPT = 1000


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time in UTC; SQLite keeps no zone, PostgreSQL answers in its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class DeletionState(StrEnum):
    """The life of a deletion. Whatever is accepted or running and has no workflow is what `resume` starts."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    CLOSED = "closed"


_OPEN = (DeletionState.ACCEPTED, DeletionState.RUNNING, DeletionState.FAILED)


class ChunkState(StrEnum):
    """The point of no return lies between the two."""

    OPEN = "open"
    ROWS_DELETED = "rows_deleted"


class RowsState(StrEnum):
    """What is known of an artifact's rows."""

    PENDING = "pending"
    SEALED = "sealed"
    DELETED = "deleted"
    GONE = "gone"
    MOVED = "moved"


class PageSource(StrEnum):
    """Who named a page's keys."""

    COLUMN = "column"
    MANIFEST = "manifest"
    DERIVED = "derived"
    ICON = "icon"
    ABSENT = "absent"
    """Named by a column, and proven absent when it was to be read."""


class PrefixState(StrEnum):
    """What is known of a prefix."""

    OWED = "owed"
    SWEPT = "swept"
    """Listed and emptied once; to be listed empty after a quiet period."""
    EMPTY = "empty"
    LEFT_OVER = "left_over"
    UNCHECKED = "unchecked"


_UNFINISHED = (PrefixState.OWED, PrefixState.SWEPT, PrefixState.LEFT_OVER)


class LedgerTable(DeclarativeBase):
    """A table of ours."""

    metadata = MetaData(schema=LEDGER_SCHEMA)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger,
        datetime: UtcDateTime,
        dict[str, Any]: Json,
        dict[str, int]: Json,
    }


class Deletion(LedgerTable):
    """One request. Its id is the digest in the workflow's id."""

    __tablename__ = "artifact_deletion"
    __table_args__ = (Index("artifact_deletion_open", "state", "accepted_at"),)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    organization_id: Mapped[int]
    request: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    """Free text of whoever asked. It is never sent to Temporal."""
    receipt: Mapped[dict[str, Any] | None]
    accepted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    closed_at: Mapped[datetime | None]
    cancelled_run: Mapped[str | None] = mapped_column(Text().with_variant(String(64), "sqlite"))
    """Temporal's ids of the runs that were cancelled: a step of one which comes late must not open the deletion again."""
    confirmed_at: Mapped[datetime | None]
    confirmed_by: Mapped[str | None] = mapped_column(String(128))
    """Opaque id of whoever said that so large a deletion is meant."""


class DeletionArtifact(LedgerTable):
    """One artifact of a request, and the project in which its keys were sealed."""

    __tablename__ = "artifact_deletion_artifact"
    __table_args__ = (Index("artifact_deletion_artifact_by_artifact", "artifact_id"),)
    deletion_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    artifact_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    chunk: Mapped[int]
    project_id: Mapped[int | None]
    rows_state: Mapped[str] = mapped_column(String(16), default=RowsState.PENDING)
    reopened_from: Mapped[int | None]
    """The chunk that it was in before its rows came back; that one may still owe objects of it."""


class DeletionChunk(LedgerTable):
    """The artifacts whose rows go in one transaction. Its row is the lock and the fence of all below it."""

    __tablename__ = "artifact_deletion_chunk"
    deletion_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    chunk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(16), default=ChunkState.OPEN)
    pages: Mapped[int] = mapped_column(default=0)
    digest: Mapped[str] = mapped_column(String(64), default="")
    sealed: Mapped[int] = mapped_column(default=0)
    deleted: Mapped[int] = mapped_column(default=0)
    absent: Mapped[int] = mapped_column(default=0)
    kept: Mapped[int] = mapped_column(default=0)
    collected: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What collecting counted: manifests, strays, images, and keys by kind; what was sealed before and is not again; and once
    the rows are gone, the bases of comparisons that went with their heads.
    """
    rows: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Deleted rows by table."""
    files: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{"deleted": n, "kept": {reason: [file ids]}, "blobs": [blob ids]}"""
    strays: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The first thousand strays as [why, key], compressed JSON: for a look, never to be acted on."""
    trace_items_matched: Mapped[int] = mapped_column(default=0)
    trace_items_confirmed_at: Mapped[datetime | None]
    rows_deleted_at: Mapped[datetime | None]


class DeletionPage(LedgerTable):
    """Up to a thousand keys of one scope, for one DeleteObjects request. It shrinks to what failed, and goes with the last."""

    __tablename__ = "artifact_deletion_page"
    __table_args__ = (
        ForeignKeyConstraint(
            ["deletion_id", "chunk"],
            [f"{LEDGER_SCHEMA}.artifact_deletion_chunk.deletion_id", f"{LEDGER_SCHEMA}.artifact_deletion_chunk.chunk"],
        ),
    )
    deletion_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    chunk: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(String(16))
    keys: Mapped[bytes] = mapped_column(LargeBinary)
    """zlib over the sorted keys, one a line."""
    count: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of `keys`' content before compression, hex: what a compare-and-swap compares."""
    codes: Mapped[dict[str, int]] = mapped_column(default=dict)
    """The store's codes for the keys that are still here."""


class DeletionPrefix(LedgerTable):
    """A prefix (or one exact key) that belongs to the chunk's artifacts alone, to be listed, emptied and listed empty."""

    __tablename__ = "artifact_deletion_prefix"
    __table_args__ = (
        ForeignKeyConstraint(
            ["deletion_id", "chunk"],
            [f"{LEDGER_SCHEMA}.artifact_deletion_chunk.deletion_id", f"{LEDGER_SCHEMA}.artifact_deletion_chunk.chunk"],
        ),
    )
    deletion_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    chunk: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(Text, primary_key=True)
    prefix: Mapped[str] = mapped_column(Text, primary_key=True)
    exact: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(16), default=PrefixState.OWED)
    found: Mapped[int] = mapped_column(default=0)
    """Objects that were found by listing and deleted."""
    codes: Mapped[dict[str, int]] = mapped_column(default=dict)
    uploads_aborted: Mapped[int | None]
    """Unfinished multipart uploads that were found and aborted; None while nobody has looked for any."""
    noisy_sweep: Mapped[int] = mapped_column(Integer, default=0)
    """The number of the last sweep that found something new here: it cannot confirm the prefix as quiet."""
    listed_empty_at: Mapped[datetime | None]


class Freeze(LedgerTable):
    """While its one row is there, nothing is deleted anywhere."""

    __tablename__ = "artifact_deletion_freeze"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    frozen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    reason: Mapped[str] = mapped_column(Text)
    """Free text of whoever froze. It is never sent to Temporal."""


class Limit(LedgerTable):
    """Its one row is what all workers take places from, where keys a second are limited."""

    __tablename__ = "artifact_deletion_limit"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    used_until: Mapped[float] = mapped_column(Double)
    """Seconds since 1970 by the database's clock: the end of the last place that was taken."""


def _of_chunk(table: type[DeletionArtifact | DeletionChunk | DeletionPage | DeletionPrefix]) -> tuple[ColumnElement[bool], ...]:
    return table.deletion_id == bindparam("of"), table.chunk == bindparam("of_chunk")


def _of_epoch(table: type[DeletionPage | DeletionPrefix]) -> tuple[ColumnElement[bool], ...]:
    return *_of_chunk(table), table.epoch == bindparam("of_epoch")


@dataclass(frozen=True)
class Page:
    """A page as it was read."""

    deletion_id: str
    chunk: int
    epoch: int
    seq: int
    scope: str
    source: PageSource
    keys: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Prefix:
    """A prefix as it was read."""

    epoch: int
    scope: str
    prefix: str
    exact: bool
    state: str
    found: int
    codes: dict[str, int]
    noisy_sweep: int

    @property
    def name(self) -> str:
        """The physical prefix or key."""
        return self.scope + self.prefix


@dataclass(frozen=True)
class ChunkArtifact:
    """An artifact of a chunk as the ledger knows it."""

    id: int
    project_id: int | None
    rows_state: RowsState


# Accepting ------------------------------------------------------------------------------------------------------------


def accept(session: Session, request: DeletionRequest, reason: str | None = None) -> DeletionState:
    """Write the deletion down, or open it again if it ended without being complete. Returns the state it was found in."""
    dialect = session.get_bind().dialect.name
    values = {
        "id": request.deletion_id,
        "organization_id": request.organization_id,
        "request": request.model_dump(mode="json"),
        "state": DeletionState.ACCEPTED,
        "reason": reason,
    }
    statement = (postgresql_insert if dialect == "postgresql" else sqlite_insert)(Deletion).values(values)
    options = ledger_schema(dialect)
    inserted = session.execute(statement.on_conflict_do_nothing().returning(Deletion.id), execution_options=options).all()
    if inserted:
        return DeletionState.ACCEPTED
    # No lock unless something changes: a running deletion holds its row while it deletes others, and a backend would wait.
    state = select(Deletion.state).where(Deletion.id == request.deletion_id)
    found = session.execute(state, execution_options=options).scalar_one()
    if found == DeletionState.RUNNING and living_artifacts(session, request):
        # If rows came back, it must not be closed as complete without having seen them.
        found = session.execute(state.with_for_update(read=True), execution_options=options).scalar_one()
    ended = {DeletionState.FAILED, DeletionState.REFUSED, DeletionState.CANCELLED}
    if found in ended or (found == DeletionState.CLOSED and living_artifacts(session, request)):
        reopened = (
            update(Deletion)
            .where(Deletion.id == request.deletion_id, Deletion.state.in_([*ended, DeletionState.CLOSED]))
            .values(state=DeletionState.ACCEPTED)
        )
        session.execute(reopened, execution_options=options)
    return DeletionState(found)


def living_artifacts(session: Session, request: DeletionRequest) -> dict[int, int]:
    """Project by artifact, of those of the request's artifacts that have rows in its organization.

    A backend's session may have a driver that takes no text for an array.
    """
    living: dict[int, int] = {}
    for ids in slices(request.artifact_ids):
        rows = session.execute(
            select(Artifact.id, Artifact.project_id)
            .join(Project, Project.id == Artifact.project_id)
            .where(Artifact.id.in_(ids), Project.organization_id == request.organization_id)
        )
        living |= {row.id: row.project_id for row in rows}
    return living


_REAPPEARED = (
    select(DeletionArtifact.artifact_id)
    .join(Artifact, Artifact.id == DeletionArtifact.artifact_id)
    .join(Project, Project.id == Artifact.project_id)
    .where(
        DeletionArtifact.deletion_id == bindparam("of"),
        DeletionArtifact.rows_state.in_([RowsState.DELETED, RowsState.GONE]),
        Project.organization_id == bindparam("organization"),
    )
)


def reappeared_artifacts(session: Session, deletion_id: str, organization_id: int) -> set[int]:
    """The artifacts whose rows were deleted, or gone, and that have rows in the organization again."""
    return set(session.execute(_REAPPEARED, {"of": deletion_id, "organization": organization_id}).scalars())


def settled_artifacts(session: Session, deletion_id: str) -> set[int]:
    """The artifacts whose chunks are past the point of no return."""
    rows = session.execute(
        select(DeletionArtifact.artifact_id)
        .join(
            DeletionChunk,
            and_(DeletionChunk.deletion_id == DeletionArtifact.deletion_id, DeletionChunk.chunk == DeletionArtifact.chunk),
        )
        .where(DeletionArtifact.deletion_id == deletion_id, DeletionChunk.state == ChunkState.ROWS_DELETED)
    )
    return set(rows.scalars())


_LIVING = (
    select(func.count())
    .select_from(DeletionArtifact)
    .join(Artifact, Artifact.id == DeletionArtifact.artifact_id)
    .where(
        DeletionArtifact.deletion_id == bindparam("of"),
        # One that came from a later chunk may have been in this one before that.
        or_(DeletionArtifact.chunk == bindparam("of_chunk"), DeletionArtifact.reopened_from >= bindparam("of_chunk")),
        DeletionArtifact.rows_state != RowsState.MOVED,
    )
)


def refuse_living(session: Session, deletion_id: str, chunk: int) -> None:
    """Raises ArtifactReappeared if an artifact that is or was in the chunk has a row: its objects are not ours to delete."""
    living = session.execute(_LIVING, {"of": deletion_id, "of_chunk": chunk}).scalar_one()
    if living:
        raise ArtifactReappeared(
            f"{living} artifacts whose rows were gone have rows again; objects are left alone until a re-run deletes these, "
            "or, where they are another organization's, until they are deleted there"
        )


def rows_deleted(session: Session, deletion_id: str) -> int:
    """How many rows the deletion has deleted so far."""
    chunks = session.execute(select(DeletionChunk.rows).where(DeletionChunk.deletion_id == deletion_id)).scalars()
    return sum(sum(rows.values()) for rows in chunks)


_STATE = select(Deletion.state).where(Deletion.id == bindparam("of"))
_LOCKED_STATE, _SHARED_STATE = _STATE.with_for_update(), _STATE.with_for_update(read=True)
_SET_STATE = (
    update(Deletion)
    .where(Deletion.id == bindparam("of"))
    .values(state=bindparam("state_now"))
    .execution_options(synchronize_session=False)
)


def lock_deletion(session: Session, deletion_id: str, *, shared: bool = False) -> DeletionState | None:
    """Lock the deletion's row and tell its state; None if there is no such deletion."""
    locked = session.execute(_SHARED_STATE if shared else _LOCKED_STATE, {"of": deletion_id}).scalar_one_or_none()
    return None if locked is None else DeletionState(locked)


def set_state(session: Session, deletion_id: str, state: DeletionState) -> None:
    """Move the deletion on. Its row is locked by the caller."""
    session.execute(_SET_STATE, {"of": deletion_id, "state_now": state})


def cancel(session: Session, request: DeletionRequest, run_id: str) -> bool:
    """Undo an open deletion of which no row is deleted; False, and nothing is changed, if it is past that."""
    if lock_deletion(session, request.deletion_id) is None:
        accept(session, request)
    state = lock_deletion(session, request.deletion_id)
    if was_cancelled(session, request.deletion_id, run_id):
        return True  # a late try of the same cancel: what has been asked for since is not its business
    if state is DeletionState.CLOSED or has_deleted_rows(session, request.deletion_id):
        return False
    of_deletion = select(DeletionChunk.chunk).where(DeletionChunk.deletion_id == request.deletion_id)
    session.execute(of_deletion.order_by(DeletionChunk.chunk).with_for_update()).all()
    drop_work(session, request.deletion_id, everything=True)
    session.execute(
        update(Deletion)
        .where(Deletion.id == request.deletion_id)
        .values(
            state=DeletionState.CANCELLED,
            cancelled_run=" ".join([*_cancelled_runs(session, request.deletion_id), run_id]),
            confirmed_at=None,
            confirmed_by=None,
        )
    )
    return True


@dataclass(frozen=True)
class Size:
    """How much a deletion is about, as far as that is known, and whether that is meant."""

    workflow_id: str
    artifacts: int
    keys: int
    """Collected so far, over all chunks, deleted already or not."""
    chunks: int
    collected: int
    """Chunks of which keys are collected."""
    confirmed_at: datetime | None


def size_of(session: Session, deletion_id: str) -> Size:
    """Raises NotOpen if there is no such deletion."""
    found = session.execute(
        select(Deletion.organization_id, Deletion.request, Deletion.confirmed_at).where(Deletion.id == deletion_id)
    ).one_or_none()
    if found is None:
        raise NotOpen("the ledger knows no such deletion")
    chunks, collected, keys = session.execute(
        select(func.count(), func.count().filter(DeletionChunk.digest != ""), func.coalesce(func.sum(DeletionChunk.sealed), 0))
        .select_from(DeletionChunk)
        .where(DeletionChunk.deletion_id == deletion_id)
    ).one()
    return Size(
        workflow_id=workflow_id(found.organization_id, deletion_id),
        artifacts=len(found.request["artifact_ids"]),
        keys=int(keys),
        chunks=chunks,
        collected=collected,
        confirmed_at=found.confirmed_at,
    )


def confirm(session: Session, deletion_id: str, by: str) -> None:
    """Write down that so large a deletion is meant. It holds for re-runs too, and ends with a cancel."""
    session.execute(update(Deletion).where(Deletion.id == deletion_id).values(confirmed_at=func.now(), confirmed_by=by))


def refuse_cancelled_run(session: Session, deletion_id: str, run_id: str) -> None:
    """Raises NotOpen for a late step of a run that was cancelled."""
    if was_cancelled(session, deletion_id, run_id):
        raise NotOpen("this run was cancelled; nothing was deleted")


_CANCELLED_RUN = select(Deletion.cancelled_run).where(Deletion.id == bindparam("of"))


def was_cancelled(session: Session, deletion_id: str, run_id: str) -> bool:
    """True if this run was cancelled."""
    return run_id in _cancelled_runs(session, deletion_id)


def _cancelled_runs(session: Session, deletion_id: str) -> list[str]:
    return (session.execute(_CANCELLED_RUN, {"of": deletion_id}).scalar_one() or "").split()


def request_of(session: Session, deletion_id: str) -> DeletionRequest:
    """The request as it was accepted."""
    return DeletionRequest.model_validate(
        session.execute(select(Deletion.request).where(Deletion.id == deletion_id)).scalar_one()
    )


_ORGANIZATION = select(Deletion.organization_id).where(Deletion.id == bindparam("of"))


def organization_of(session: Session, deletion_id: str) -> int:
    """The request's organization, without its thousands of ids."""
    return session.execute(_ORGANIZATION, {"of": deletion_id}).scalar_one()


def make_chunks(
    session: Session, deletion_id: str, artifacts: Sequence[tuple[int, int | None]], chunk_size: int, *, again: bool = True
) -> range:
    """Cut (artifact id, project id) pairs into further chunks, artifacts of one project next to each other; return these.

    An artifact that was in a chunk before leaves it: what that one still owes of it stays owed. Unless `again` there was none.
    """
    if not artifacts:
        return range(0)
    ordered = sorted(artifacts, key=lambda pair: (pair[1] or 0, pair[0]))
    first = 0
    came_from: dict[int, int] = {}
    if again:
        last = session.execute(select(func.max(DeletionChunk.chunk)).where(DeletionChunk.deletion_id == deletion_id)).scalar()
        first = 0 if last is None else last + 1
        before = DeletionArtifact.deletion_id == deletion_id, one_of(DeletionArtifact.artifact_id, [one for one, _ in ordered])
        left = session.execute(
            delete(DeletionArtifact).where(*before).returning(DeletionArtifact.artifact_id, DeletionArtifact.chunk)
        )
        came_from = {row.artifact_id: row.chunk for row in left}
    made = range(first, first - (-len(ordered) // chunk_size))
    session.execute(
        insert(DeletionChunk),
        [
            # Epochs begin anywhere: a step that is left from before a cancel must not meet its own number again.
            {"deletion_id": deletion_id, "chunk": number, "epoch": secrets.randbelow(2**40)}
            for number in made
        ],
    )
    rows = [
        (artifact, first + place // chunk_size, project, came_from.get(artifact))
        for place, (artifact, project) in enumerate(ordered)
    ]
    same = {"deletion_id": deletion_id, "rows_state": RowsState.PENDING}
    _insert_many(session, DeletionArtifact, same, ("artifact_id", "chunk", "project_id", "reopened_from"), rows)
    return made


_HAS_CHUNKS = select(exists().where(DeletionChunk.deletion_id == bindparam("of")))


def has_chunks(session: Session, deletion_id: str) -> bool:
    """True once the deletion was opened."""
    return bool(session.execute(_HAS_CHUNKS, {"of": deletion_id}).scalar())


@cache
def _unfinished(*, traces_configured: bool) -> Select[DeletionChunk]:
    owes = _owes(traces_configured=traces_configured)
    return select(DeletionChunk).where(DeletionChunk.deletion_id == bindparam("of"), owes).order_by(DeletionChunk.chunk)


_FIRST_PAGES = (
    select(DeletionPage.chunk, func.min(DeletionPage.seq))
    .where(DeletionPage.deletion_id == bindparam("of"))
    .group_by(DeletionPage.chunk)
)
_UNSWEPT = (
    select(DeletionPrefix.chunk)
    .where(
        DeletionPrefix.deletion_id == bindparam("of"),
        DeletionPrefix.state == PrefixState.OWED,
        DeletionPrefix.exact.is_(False),
    )
    .distinct()
)


def unfinished_chunks(session: Session, deletion_id: str, *, traces_configured: bool) -> list[UnfinishedChunk]:
    """Every chunk that owes anything: rows, pages, prefixes or trace items."""
    rows = session.execute(_unfinished(traces_configured=traces_configured), {"of": deletion_id}).scalars().all()
    if not rows:
        return []
    first_page = {row[0]: row[1] for row in session.execute(_FIRST_PAGES, {"of": deletion_id})}
    to_sweep = set(session.execute(_UNSWEPT, {"of": deletion_id}).scalars())
    return [
        UnfinishedChunk(
            chunk=found.chunk,
            released=None if found.state == ChunkState.OPEN else released(found, first_page.get(found.chunk)),
            swept=found.state != ChunkState.OPEN and found.chunk not in to_sweep,
        )
        for found in rows
    ]


def released(found: DeletionChunk, first_page: int | None) -> RowsDeleted:
    """What a chunk whose rows are gone has deleted and still owes. Without a first page it owes none."""
    return RowsDeleted(
        rows=sum(found.rows.values()),
        first_page=found.pages if first_page is None else first_page,
        pages=found.pages,
        sealed=found.sealed,
        trace_items_owed=found.trace_items_confirmed_at is None,
    )


def has_deleted_rows(session: Session, deletion_id: str) -> bool:
    """True once any chunk is past the point of no return."""
    past = exists().where(DeletionChunk.deletion_id == deletion_id, DeletionChunk.state == ChunkState.ROWS_DELETED)
    return bool(session.execute(select(past)).scalar())


@dataclass(frozen=True)
class OtherDeletion:
    """A deletion that took rows of ours or their comparisons, and still owes objects or trace items of those artifacts."""

    id: str
    workflow_id: str
    artifacts: int


@cache
def _owing(*, traces_configured: bool) -> Select[str, int, int]:
    ours, theirs = aliased(DeletionArtifact), aliased(DeletionArtifact)
    of_theirs = or_(DeletionChunk.chunk == theirs.chunk, DeletionChunk.chunk <= theirs.reopened_from)
    return (
        select(Deletion.id, Deletion.organization_id, func.count(ours.artifact_id.distinct()))
        .select_from(ours)
        .join(theirs, and_(theirs.artifact_id == ours.artifact_id, theirs.deletion_id != ours.deletion_id))
        .join(Deletion, Deletion.id == theirs.deletion_id)
        .join(DeletionChunk, and_(DeletionChunk.deletion_id == theirs.deletion_id, of_theirs))
        .where(
            ours.deletion_id == bindparam("of"),
            ours.rows_state.in_([RowsState.DELETED, RowsState.GONE]),  # it may have come back, and they took it then
            theirs.rows_state == RowsState.DELETED,
            Deletion.state != DeletionState.CLOSED,
            Deletion.organization_id == _own_organization(),
            _owes(traces_configured=traces_configured),
        )
        .group_by(Deletion.id, Deletion.organization_id)
        .order_by(Deletion.id)
    )


@cache
def _owing_comparisons(dialect: str) -> Select[str, int, int]:
    ours = aliased(DeletionArtifact)
    if dialect == "postgresql":
        others = func.jsonb_array_elements(DeletionChunk.collected[_COMPARED, _OTHERS]).table_valued("value")
    else:
        others = func.json_each(DeletionChunk.collected, f"$.{_COMPARED}.{_OTHERS}").table_valued("value")
    return (
        select(Deletion.id, Deletion.organization_id, func.count(ours.artifact_id.distinct()))
        .select_from(Deletion)
        .join(DeletionChunk, DeletionChunk.deletion_id == Deletion.id)
        .join(others, true())
        .join(ours, ours.artifact_id == sql_cast(others.c.value, BigInteger))
        .where(
            ours.deletion_id == bindparam("of"),
            ours.rows_state.in_([RowsState.DELETED, RowsState.GONE]),
            Deletion.id != bindparam("of"),
            Deletion.state.in_(_OPEN),  # which has an index: of closed ones there may be millions
            Deletion.organization_id == _own_organization(),
            DeletionChunk.state == ChunkState.ROWS_DELETED,
            _owes_objects(),
        )
        .group_by(Deletion.id, Deletion.organization_id)
        .order_by(Deletion.id)
    )


def deletions_owing(session: Session, deletion_id: str, *, traces_configured: bool) -> list[OtherDeletion]:
    """The other deletions whose chunk still owes anything of artifacts that this one found gone, or objects of comparisons.

    A comparison's objects are its head's and its base's: where another deletion took the head, no row tells us of them.
    """
    artifacts: dict[tuple[str, int], int] = {}
    for statement in (
        _owing(traces_configured=traces_configured),
        _owing_comparisons(session.get_bind().dialect.name),
    ):
        for other, organization, count in session.execute(statement, {"of": deletion_id}):
            artifacts[other, organization] = max(count, artifacts.get((other, organization), 0))
    return [OtherDeletion(other, workflow_id(org, other), count) for (other, org), count in sorted(artifacts.items())]


def open_deletions_of(session: Session, request: DeletionRequest) -> list[str]:
    """Workflow ids of the organization's other open or failed deletions that have artifacts of this request, at most twenty."""
    others = (
        select(Deletion.id)
        .join(DeletionArtifact, DeletionArtifact.deletion_id == Deletion.id)
        .where(
            one_of(DeletionArtifact.artifact_id, request.artifact_ids),
            Deletion.organization_id == request.organization_id,
            Deletion.id != request.deletion_id,
            Deletion.state.in_(_OPEN),
        )
        .distinct()
    )
    found = session.execute(others).scalars()
    return [workflow_id(request.organization_id, one) for one in sorted(found)][:20]


def known_places(session: Session, request: DeletionRequest) -> dict[int, int]:
    """Project by artifact, where an earlier run of the same deletion wrote it down."""
    rows = session.execute(
        select(DeletionArtifact.artifact_id, DeletionArtifact.project_id).where(
            DeletionArtifact.deletion_id == request.deletion_id, DeletionArtifact.project_id.is_not(None)
        )
    )
    return {row.artifact_id: row.project_id for row in rows}


def deleted_by_others(session: Session, deletion_id: str) -> list[tuple[int, str]]:
    """(artifact, workflow id) for artifacts that this deletion found gone and another one of the organization had deleted."""
    ours, theirs = aliased(DeletionArtifact), aliased(DeletionArtifact)
    rows = session.execute(
        select(ours.artifact_id, Deletion.organization_id, Deletion.id)
        .select_from(ours)
        .join(theirs, and_(theirs.artifact_id == ours.artifact_id, theirs.deletion_id != ours.deletion_id))
        .join(Deletion, Deletion.id == theirs.deletion_id)
        .where(
            ours.deletion_id == bindparam("of"),
            ours.rows_state == RowsState.GONE,
            theirs.rows_state == RowsState.DELETED,
            Deletion.organization_id == _own_organization(),
        ),
        {"of": deletion_id},
    )
    return [(artifact, workflow_id(organization, other)) for artifact, organization, other in rows]


_CLOSE = (
    update(Deletion)
    .where(Deletion.id == bindparam("of"))
    .values(
        receipt=bindparam("receipt_now"),
        state=bindparam("state_now"),
        closed_at=case((bindparam("complete", type_=Boolean()), func.now())),
    )
    .execution_options(synchronize_session=False)
)


def close(session: Session, receipt: DeletionReceipt) -> None:
    """Store the receipt. A complete deletion's pages and prefixes go; the others stay until a re-run has dealt with them."""
    values = {
        "of": receipt.deletion_id,
        "receipt_now": receipt.model_dump(mode="json"),
        "state_now": DeletionState.CLOSED if receipt.complete else DeletionState.FAILED,
        "complete": receipt.complete,
    }
    session.execute(_CLOSE, values)
    if receipt.complete:
        drop_work(session, receipt.deletion_id)


def _own_organization() -> ScalarSelect[int]:
    own = aliased(Deletion)
    return select(own.organization_id).where(own.id == bindparam("of")).scalar_subquery()


def _owes(*, traces_configured: bool) -> ColumnElement[bool]:
    """True for a chunk that owes anything: rows, pages, prefixes or trace items."""
    owes = [DeletionChunk.state == ChunkState.OPEN, _owes_objects()]
    if traces_configured:
        owes.append(DeletionChunk.trace_items_confirmed_at.is_(None))
    return or_(*owes)


def _owes_objects() -> ColumnElement[bool]:
    page = and_(DeletionPage.deletion_id == DeletionChunk.deletion_id, DeletionPage.chunk == DeletionChunk.chunk)
    prefix = and_(
        DeletionPrefix.deletion_id == DeletionChunk.deletion_id,
        DeletionPrefix.chunk == DeletionChunk.chunk,
        DeletionPrefix.state.in_(_UNFINISHED),
    )
    return or_(exists().where(page), exists().where(prefix))


def note_collected(found: DeletionChunk, counted: Mapping[str, Any], before: "SealedBefore", compared: Iterable[int]) -> None:
    """Write down what collecting counted, what was sealed before and is not now, and with whom the artifacts were compared."""
    found.collected = {**counted, **before.note, **_compared(found)}
    note_compared(found, compared)


def note_compared(found: DeletionChunk, artifacts: Iterable[int]) -> None:
    """Write down, beside what is written already, artifacts whose comparisons have objects that are sealed here.

    These objects are theirs too, and their own deletion does not end while they are owed.
    """
    known = _compared(found).get(_COMPARED, {}).get(_OTHERS, [])
    if ids := sorted({*known, *artifacts}):
        found.collected = {**found.collected, _COMPARED: {_OTHERS: ids}}


def _compared(found: DeletionChunk) -> dict[str, Any]:
    return {name: noted for name, noted in found.collected.items() if name == _COMPARED}


# Sealing --------------------------------------------------------------------------------------------------------------


def lock_chunk(session: Session, deletion_id: str, chunk: int) -> DeletionChunk:
    """Lock the chunk's row. Every write below begins so, after the deletion's row where that is locked too."""
    return _chunk(session, _LOCKED_CHUNK, deletion_id, chunk)


def read_chunk(session: Session, deletion_id: str, chunk: int) -> DeletionChunk:
    """The chunk without a lock."""
    return _chunk(session, _A_CHUNK, deletion_id, chunk)


_A_CHUNK = select(DeletionChunk).where(*_of_chunk(DeletionChunk))
_LOCKED_CHUNK = _A_CHUNK.with_for_update()


def _chunk(session: Session, statement: Select[DeletionChunk], deletion_id: str, chunk: int) -> DeletionChunk:
    found = session.execute(statement, {"of": deletion_id, "of_chunk": chunk}).scalar_one_or_none()
    if found is None:
        raise NotOpen("the ledger knows no such chunk: the deletion was cancelled")
    return found


def lock_sealing(session: Session, deletion_id: str, chunk: int, epoch: int) -> DeletionChunk:
    """Lock the chunk for the attempt that holds `epoch`; raises StaleSeal for any other.

    Temporal may have given up on the one that took over: then the other is the current one, and must collect again.
    """
    found = lock_chunk(session, deletion_id, chunk)
    if found.epoch != epoch or found.state != ChunkState.OPEN:
        raise StaleSeal(f"chunk {chunk}: another attempt has taken over; keys are to be collected again")
    return found


Pairs = frozenset[tuple[str, str]]
"""(scope, key or prefix)"""


@dataclass(frozen=True)
class SealedBefore:
    """What earlier attempts sealed, and no row may name any more."""

    icons: Pairs = frozenset()
    comparisons: Pairs = frozenset()
    """Prefixes of comparisons with heads that are not the chunk's own: those lie under no prefix of its artifacts."""

    @classmethod
    def noted_in(cls, found: DeletionChunk) -> "SealedBefore":
        """What stays with a chunk until it is sealed again."""
        noted = found.collected.get(_BEFORE, {})
        return cls(**{name: frozenset((scope, key) for scope, key in pairs) for name, pairs in noted.items()})

    @property
    def note(self) -> dict[str, Any]:
        """For a chunk's `collected`."""
        kept = {name: sorted(pairs) for name, pairs in vars(self).items() if pairs}
        return {_BEFORE: kept} if kept else {}

    def __or__(self, other: "SealedBefore") -> "SealedBefore":
        return SealedBefore(self.icons | other.icons, self.comparisons | other.comparisons)

    def __sub__(self, other: "SealedBefore") -> "SealedBefore":
        return SealedBefore(self.icons - other.icons, self.comparisons - other.comparisons)


_COMPARISON_PREFIXES = select(DeletionPrefix.scope, DeletionPrefix.prefix).where(
    *_of_chunk(DeletionPrefix), DeletionPrefix.prefix.like("%/%/%/%/")
)


def begin_epoch(session: Session, found: DeletionChunk) -> SealedBefore:
    """Take over an open chunk: whatever earlier attempts sealed is forgotten, and they can seal nothing more.

    But not what only rows name, which somebody else may have deleted since: that is returned, and stays with the chunk until it
    is sealed again, whatever becomes of the attempts in between.
    """
    found.epoch += 1
    before = SealedBefore.noted_in(found)
    if not found.pages and not found.digest:
        return before  # nobody has sealed anything since
    pages = read_pages(session, found.deletion_id, found.chunk, sources=[PageSource.ICON])
    comparisons = session.execute(_COMPARISON_PREFIXES, {"of": found.deletion_id, "of_chunk": found.chunk})
    before |= SealedBefore(
        icons=frozenset((page.scope, key) for page in pages for key in page.keys),
        comparisons=frozenset((scope, prefix) for scope, prefix in comparisons),
    )
    found.pages = found.sealed = 0
    found.digest, found.strays = "", None
    note_collected(found, {}, before, ())
    for table in (DeletionPage, DeletionPrefix):
        session.execute(delete(table).where(table.deletion_id == found.deletion_id, table.chunk == found.chunk))
    return before


def seal_page(session: Session, found: DeletionChunk, scope: str, source: PageSource, keys: Iterable[str]) -> None:
    """Add a page to a locked chunk. It is written with the others of its transaction, at the next flush or query."""
    content = _joined(keys)
    count = content.count(b"\n") + 1
    session.add(
        DeletionPage(
            deletion_id=found.deletion_id,
            chunk=found.chunk,
            epoch=found.epoch,
            seq=found.pages,
            scope=scope,
            source=source,
            keys=zlib.compress(content, 6),
            count=count,
            digest=hashlib.sha256(content).hexdigest(),
            codes={},
        )
    )
    found.pages += 1
    found.sealed += count


_HELD_PREFIXES = select(DeletionPrefix.scope, DeletionPrefix.prefix, DeletionPrefix.exact).where(
    *_of_epoch(DeletionPrefix),
)


def seal_prefixes(
    session: Session, found: DeletionChunk, prefixes: Iterable[tuple[str, str, bool]], state: PrefixState
) -> None:
    """Add (scope, prefix, exact) triples that a locked chunk does not hold yet."""
    held = session.execute(_HELD_PREFIXES, _epoch_of(found))
    rows = sorted(set(prefixes).difference(map(tuple, held)))
    same = {
        "deletion_id": found.deletion_id,
        "chunk": found.chunk,
        "epoch": found.epoch,
        "state": state,
        "found": 0,
        "codes": {},
        "noisy_sweep": 0,
    }
    _insert_many(session, DeletionPrefix, same, ("scope", "prefix", "exact"), rows)


_PAGE_DIGESTS = (
    select(DeletionPage.seq, DeletionPage.scope, DeletionPage.digest, DeletionPage.count)
    .where(
        *_of_epoch(DeletionPage),
        DeletionPage.seq >= bindparam("first"),
    )
    .order_by(DeletionPage.seq)
    .limit(bindparam("size", type_=Integer()))
)


def seal_digest(session: Session, found: DeletionChunk) -> tuple[int, int, str]:
    """(pages, keys, SHA-256 over the pages' digests in order) of the chunk's epoch as they stand in the ledger."""
    digest = hashlib.sha256()
    pages = keys = 0
    session.flush()  # a backend's own session may not do so before a query
    for _, scope, page_digest, count in _in_parts(session, _PAGE_DIGESTS, _epoch_of(found), 1000):
        digest.update(f"{scope}\n{page_digest}\n".encode())
        pages += 1
        keys += count
    return pages, keys, digest.hexdigest()


def pack_strays(strays: Sequence[tuple[str, str]]) -> bytes | None:
    """The first thousand, compressed."""
    return zlib.compress(json.dumps(strays[:_STRAYS_KEPT]).encode()) if strays else None


_ARTIFACTS = (
    select(DeletionArtifact.artifact_id, DeletionArtifact.project_id, DeletionArtifact.rows_state)
    .where(*_of_chunk(DeletionArtifact))
    .order_by(DeletionArtifact.artifact_id)
)


def chunk_artifacts(session: Session, deletion_id: str, chunk: int) -> list[ChunkArtifact]:
    """The chunk's artifacts, by id."""
    rows = session.execute(_ARTIFACTS, {"of": deletion_id, "of_chunk": chunk})
    return [ChunkArtifact(artifact, project, RowsState(state)) for artifact, project, state in rows]


@cache
def _set_artifacts(*names: str) -> Update:
    return (
        update(DeletionArtifact)
        .where(DeletionArtifact.deletion_id == bindparam("of"), one_of(DeletionArtifact.artifact_id, "ids"))
        .values({name: bindparam(f"{name}_now") for name in names})
        .execution_options(synchronize_session=False)
    )


def set_artifacts(session: Session, deletion_id: str, ids: Iterable[int], **values: Any) -> None:
    """Write down what is known of these artifacts. Their chunk is locked by the caller."""
    ids = list(ids)
    if ids:
        now = {f"{name}_now": value for name, value in values.items()}
        session.execute(_set_artifacts(*values), {"of": deletion_id, "ids": ids, **now})


# Releasing ------------------------------------------------------------------------------------------------------------


def owned_artifacts(session: Session, deletion_id: str, chunk: int, organization_id: int) -> list[ArtifactRef]:
    """The artifacts whose objects and trace items the chunk deletes: rows deleted by it, or gone with a known project."""
    return [
        ArtifactRef(organization_id, artifact.project_id, artifact.id)
        for artifact in chunk_artifacts(session, deletion_id, chunk)
        if artifact.project_id is not None and artifact.rows_state in {RowsState.DELETED, RowsState.GONE}
    ]


_PAGES = (
    select(
        DeletionPage.epoch, DeletionPage.seq, DeletionPage.scope, DeletionPage.source, DeletionPage.keys, DeletionPage.digest
    )
    .where(
        *_of_chunk(DeletionPage),
        DeletionPage.seq.between(bindparam("first"), bindparam("last")),
        DeletionPage.source.in_(bindparam("sources", expanding=True)),
    )
    .order_by(DeletionPage.seq)
    .limit(bindparam("size", type_=Integer()))
)


def read_pages(
    session: Session,
    deletion_id: str,
    chunk: int,
    *,
    first: int = 0,
    last: int = _LAST_PAGE,
    sources: Sequence[PageSource] = tuple(PageSource),
) -> Iterator[Page]:
    """The chunk's pages that still hold keys, one at a time, in order; with `sources` those of these sources alone."""
    values = {"of": deletion_id, "of_chunk": chunk, "last": last, "sources": list(sources)}
    for row in _in_parts(session, _PAGES, values, 10, first):
        keys = tuple(zlib.decompress(row.keys).decode().split("\n"))
        yield Page(deletion_id, chunk, row.epoch, row.seq, row.scope, PageSource(row.source), keys, row.digest)


def lock_released(session: Session, deletion_id: str, chunk: int, epoch: int) -> DeletionChunk:
    """Lock a chunk whose rows are deleted; raises StaleAttempt if `epoch` is not the one that was released."""
    found = lock_chunk(session, deletion_id, chunk)
    if found.epoch != epoch or found.state != ChunkState.ROWS_DELETED:
        raise StaleAttempt(f"chunk {chunk}: these keys were never released, or belong to an earlier attempt")
    return found


@dataclass(frozen=True)
class Settlement:
    """What became of the keys of a page."""

    page: Page
    remaining: Mapping[str, str]
    """Key to code: what is still there."""
    deleted: int = 0
    absent: int = 0
    kept: int = 0


_SHRINK_PAGE = (
    update(DeletionPage)
    .where(
        *_of_epoch(DeletionPage),
        DeletionPage.seq == bindparam("number"),
        DeletionPage.digest == bindparam("was"),
    )
    .values(
        keys=bindparam("keys_now"),
        count=bindparam("count_now"),
        digest=bindparam("digest_now"),
        codes=bindparam("codes_now"),
    )
    .returning(DeletionPage.seq)
    .execution_options(synchronize_session=False)
)
_DROP_PAGES = (
    delete(DeletionPage)
    .where(
        *_of_epoch(DeletionPage),
        tuple_(DeletionPage.seq, DeletionPage.digest).in_(bindparam("settled", expanding=True)),
    )
    .returning(DeletionPage.seq)
    .execution_options(synchronize_session=False)
)


def settle_pages(session: Session, found: DeletionChunk, settlements: Iterable[Settlement]) -> set[int]:
    """Shrink pages of a locked chunk to what remains of them, and count the rest. Returns the numbers of those that shrank.

    Nothing is changed of a page that no longer holds the keys that were read: another attempt has settled it.
    """
    by_seq: dict[int, Settlement] = {}
    for one in settlements:
        if len(one.page.keys) != len(one.remaining) + one.deleted + one.absent + one.kept:
            gone = one.deleted + one.absent + one.kept
            raise ValueError(
                f"page {one.page.seq}: {len(one.page.keys)} keys cannot settle into {len(one.remaining)} and {gone}"
            )
        by_seq[one.page.seq] = one
    empty = [(seq, one.page.digest) for seq, one in by_seq.items() if not one.remaining]
    settled = set[int]()
    if empty:
        settled.update(session.execute(_DROP_PAGES, {**_epoch_of(found), "settled": empty}).scalars())
    for seq, one in by_seq.items():
        if one.remaining:
            content = _joined(one.remaining)
            values = {
                **_epoch_of(found),
                "number": seq,
                "was": one.page.digest,
                "keys_now": zlib.compress(content, 6),
                "count_now": len(one.remaining),
                "digest_now": hashlib.sha256(content).hexdigest(),
                "codes_now": dict(Counter(one.remaining.values())),
            }
            settled.update(session.execute(_SHRINK_PAGE, values).scalars())
    found.deleted += sum(by_seq[seq].deleted for seq in settled)
    found.absent += sum(by_seq[seq].absent for seq in settled)
    found.kept += sum(by_seq[seq].kept for seq in settled)
    session.flush()
    return settled


_FIRST_PAGE = select(func.min(DeletionPage.seq)).where(
    *_of_epoch(DeletionPage),
)


def first_page(session: Session, found: DeletionChunk) -> int | None:
    """The first page that still holds keys."""
    first: int | None = session.execute(_FIRST_PAGE, _epoch_of(found)).scalar()
    return first


def update_chunk(found: DeletionChunk) -> Update:
    """An update of this chunk, for values that the database computes."""
    return update(DeletionChunk).where(DeletionChunk.deletion_id == found.deletion_id, DeletionChunk.chunk == found.chunk)


_KEYS_OWED = select(func.coalesce(func.sum(DeletionPage.count), 0)).where(
    *_of_chunk(DeletionPage),
    DeletionPage.seq.between(bindparam("first"), bindparam("last")),
)


def keys_owed(session: Session, deletion_id: str, chunk: int, *, first: int = 0, last: int = _LAST_PAGE) -> int:
    """How many keys are still in these pages."""
    values = {"of": deletion_id, "of_chunk": chunk, "first": first, "last": last}
    return int(session.execute(_KEYS_OWED, values).scalar_one())


_TO_SWEEP = (
    select(
        DeletionPrefix.epoch,
        DeletionPrefix.scope,
        DeletionPrefix.prefix,
        DeletionPrefix.exact,
        DeletionPrefix.state,
        DeletionPrefix.found,
        func.nullif(DeletionPrefix.codes, literal({}, Json), type_=Json).label("codes"),  # most have none: nothing to parse
        DeletionPrefix.noisy_sweep,
    )
    .where(
        *_of_chunk(DeletionPrefix),
        DeletionPrefix.state.in_(_UNFINISHED),
    )
    .order_by(DeletionPrefix.scope, DeletionPrefix.prefix)
)


def prefixes_to_sweep(session: Session, deletion_id: str, chunk: int) -> list[Prefix]:
    """The prefixes that are not known to be empty."""
    return [
        Prefix(*row[:6], codes=row.codes or {}, noisy_sweep=row.noisy_sweep)
        for row in session.execute(_TO_SWEEP, {"of": deletion_id, "of_chunk": chunk})
    ]


_SETTLE_PREFIXES = (
    update(DeletionPrefix)
    .where(
        *_of_epoch(DeletionPrefix),
        DeletionPrefix.scope.in_(bindparam("scopes", expanding=True)),
        one_of(DeletionPrefix.prefix, "prefixes"),
        DeletionPrefix.state == bindparam("was"),
        DeletionPrefix.found == bindparam("found_before"),
        DeletionPrefix.codes == bindparam("codes_before"),
        DeletionPrefix.noisy_sweep == bindparam("noisy_before"),
    )
    .values(
        state=bindparam("state_now"),
        found=bindparam("found_now"),
        codes=bindparam("codes_now"),
        uploads_aborted=case(
            (
                bindparam("looked", type_=Boolean()),
                func.coalesce(DeletionPrefix.uploads_aborted, 0) + bindparam("aborted", type_=BigInteger()),
            ),
            else_=DeletionPrefix.uploads_aborted,
        ),
        noisy_sweep=bindparam("noisy_now"),
        listed_empty_at=case((bindparam("listed_empty", type_=Boolean()), func.now())),
    )
    .execution_options(synchronize_session=False)
)


def settle_prefixes(
    session: Session,
    found: DeletionChunk,
    prefixes: Sequence[Prefix],
    state: PrefixState,
    *,
    deleted: int,
    codes: dict[str, int],
    sweep: int,
    aborted: int | None = None,
) -> bool:
    """Write down what sweep number `sweep` found under each, unfinished uploads too if it looked. The chunk is locked.

    False if one is no longer as it was read, and stays as it is: another attempt has looked, perhaps later.
    """
    of_scope: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for one in prefixes:
        codes_before = json.dumps(one.codes) if one.codes else "{}"
        of_scope[one.scope, one.exact, one.state, one.found, codes_before, one.noisy_sweep].append(one.prefix)
    # Scopes mostly hold the same prefixes, in the same state: one statement settles all of these.
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for (scope, *state_before), names in of_scope.items():
        alike[tuple(sorted(names)), *state_before].append(scope)
    changed = 0
    for (names, exact, was, found_before, codes_before, noisy_sweep), scopes in alike.items():
        for part in slices(names):
            values = {
                **_epoch_of(found),
                "scopes": scopes,
                "prefixes": part,
                "was": was,
                "found_before": found_before,
                "codes_before": json.loads(codes_before),
                "noisy_before": noisy_sweep,
                "state_now": state,
                "found_now": found_before + deleted,
                "codes_now": codes,
                "looked": aborted is not None,
                "aborted": aborted or 0,
                "noisy_now": sweep if deleted or aborted else noisy_sweep,
                "listed_empty": state == PrefixState.EMPTY and not exact,
            }
            changed += cast("CursorResult[Any]", session.execute(_SETTLE_PREFIXES, values)).rowcount
    return changed == len(prefixes)


_WORK = (DeletionPage, DeletionPrefix)
_DROP = {
    table: delete(table).where(table.deletion_id == bindparam("of")).execution_options(synchronize_session=False)
    for table in (*_WORK, DeletionChunk, DeletionArtifact)
}


def drop_work(session: Session, deletion_id: str, *, everything: bool = False) -> None:
    """Forget pages and prefixes; with `everything` the chunks and artifacts too, as if the deletion had not been opened."""
    for table in _DROP if everything else _WORK:
        session.execute(_DROP[table], {"of": deletion_id})


def _in_parts(
    session: Session, pages: Select[*tuple[Any, ...]], values: dict[str, Any], size: int, first: int = 0
) -> Iterator[Row[*tuple[Any, ...]]]:
    """Rows of pages by their numbers, so many a query: a cursor of the server's costs the few that most have three."""
    while True:
        part = session.execute(pages, {**values, "first": first, "size": size}).all()
        yield from part
        if len(part) < size:
            return
        first = part[-1].seq + 1


def _insert_many(
    session: Session,
    ledger_table: type[LedgerTable],
    same: dict[str, Any],
    names: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Add rows: `same` is in each of them, `names` are the columns in which they differ."""
    if not rows:
        return
    if session.get_bind().dialect.name != "postgresql":
        session.execute(insert(ledger_table), [same | dict(zip(names, row, strict=True)) for row in rows])
        return
    # One statement with an array a column: sent row by row, a chunk's prefixes cost more than all else in its transaction.
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    session.execute(_insert_columns(ledger_table, tuple(same), tuple(names)), same | columns)


@cache
def _insert_columns(ledger_table: type[LedgerTable], same: tuple[str, ...], names: tuple[str, ...]) -> Insert:
    table = cast("Table", ledger_table.__table__)
    arrays = (sql_cast(bindparam(name, type_=Several()), ARRAY(table.c[name].type)) for name in names)
    each = func.unnest(*arrays).table_valued(*names).render_derived("each")
    chosen = [*(bindparam(name, type_=table.c[name].type) for name in same), *(each.c[name] for name in names)]
    return insert(table).from_select([*same, *names], select(*chosen), include_defaults=False)


def _joined(keys: Iterable[str]) -> bytes:
    return "\n".join(sorted(keys)).encode()


def _epoch_of(found: DeletionChunk) -> dict[str, Any]:
    return {"of": found.deletion_id, "of_chunk": found.chunk, "of_epoch": found.epoch}
