"""Chunks: the artifacts whose rows go in one transaction. A chunk's row is the lock and the fence of its pages and prefixes."""

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Select, Update, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from activities.ledger.holds import KEEPS_ANY
from activities.ledger.insert import insert_many
from activities.ledger.overlaps import owes
from activities.ledger.schema import (
    STAYING,
    ChunkState,
    DeletionArtifact,
    DeletionChunk,
    DeletionPage,
    RowsState,
    of_chunk,
)
from activities.one_of import one_of
from artifact_deletion.errors import NotOpen, StaleAttempt, StaleSeal
from workflows.steps import MAX_CHUNKS, Chunk, Released, UnfinishedChunk

_STRAYS_KEPT = 1000
IN_CHUNKS = (RowsState.PENDING, RowsState.DELETED, RowsState.GONE, RowsState.MOVED, *STAYING)
"""The states of a chunk's own artifacts."""


@dataclass(frozen=True)
class ChunkArtifact:
    """An artifact of a chunk as the ledger knows it."""

    id: int
    project_id: int | None
    rows_state: RowsState


def make_chunks(
    session: Session,
    deletion_id: str,
    fence: int,
    artifacts: Sequence[tuple[int, int | None]],
    chunk_size: int,
    *,
    first: int = 0,
) -> range:
    """Cut (artifact id, project id) pairs into chunks from number `first` on, at most MAX_CHUNKS; return their numbers.

    Artifacts of one project lie next to each other. One that came back is in its earlier chunk too, which may owe its objects.
    """
    if not artifacts:
        return range(first, first)
    size = max(chunk_size, -(-len(artifacts) // MAX_CHUNKS))
    ordered = sorted(artifacts, key=lambda pair: (pair[1] or 0, pair[0]))
    made = range(first, first - (-len(ordered) // size))
    session.execute(insert(DeletionChunk), [{"deletion_id": deletion_id, "chunk": number, "fence": fence} for number in made])
    rows = [(artifact, first + place // size, project) for place, (artifact, project) in enumerate(ordered)]
    same = {"deletion_id": deletion_id, "rows_state": RowsState.PENDING}
    insert_many(session, DeletionArtifact, same, ("artifact_id", "chunk", "project_id"), rows)
    return made


_NEXT_CHUNK = select(func.coalesce(func.max(DeletionChunk.chunk) + 1, 0)).where(DeletionChunk.deletion_id == bindparam("of"))


def next_chunk(session: Session, deletion_id: str) -> int:
    """The number of the next chunk to be made; 0 if there is none yet."""
    return int(session.execute(_NEXT_CHUNK, {"of": deletion_id}).scalar_one())


_OPEN_ARTIFACTS = (
    select(DeletionArtifact.artifact_id)
    .join(
        DeletionChunk,
        (DeletionChunk.deletion_id == DeletionArtifact.deletion_id) & (DeletionChunk.chunk == DeletionArtifact.chunk),
    )
    .where(
        DeletionArtifact.deletion_id == bindparam("of"),
        DeletionArtifact.rows_state != RowsState.COMPARED,
        DeletionChunk.state == ChunkState.OPEN,
    )
)


def artifacts_in_open_chunks(session: Session, deletion_id: str) -> set[int]:
    """The artifacts whose rows are still to be deleted."""
    return set(session.execute(_OPEN_ARTIFACTS, {"of": deletion_id}).scalars())


def artifacts_left_alone(session: Session, deletion_id: str) -> set[int]:
    """Of a report's deletion: the artifacts that had a row when they were last looked at."""
    moved = DeletionArtifact.deletion_id == deletion_id, DeletionArtifact.rows_state == RowsState.MOVED
    return set(session.execute(select(DeletionArtifact.artifact_id).where(*moved)).scalars())


# What is unfinished ---------------------------------------------------------------------------------------------------


@cache
def _unfinished(*, traces_configured: bool) -> Select[DeletionChunk]:
    unfinished = select(DeletionChunk).where(
        DeletionChunk.deletion_id == bindparam("of"), owes(traces_configured=traces_configured)
    )
    return unfinished.order_by(DeletionChunk.state, DeletionChunk.chunk).limit(MAX_CHUNKS)  # those with rows come first


_FIRST_PAGES = (
    select(DeletionPage.chunk, func.min(DeletionPage.seq))
    .where(DeletionPage.deletion_id == bindparam("of"))
    .group_by(DeletionPage.chunk)
)


def unfinished_chunks(session: Session, deletion_id: str, *, traces_configured: bool) -> list[UnfinishedChunk]:
    """The chunks that owe anything: rows, pages, prefixes or trace items. At most as many as a run has room for."""
    chunks = session.execute(_unfinished(traces_configured=traces_configured), {"of": deletion_id}).scalars().all()
    if not chunks:
        return []
    first_page = {row[0]: row[1] for row in session.execute(_FIRST_PAGES, {"of": deletion_id})}
    chunks = sorted(chunks, key=lambda found: found.chunk)
    return [
        UnfinishedChunk(
            chunk=found.chunk,
            released=None if found.state == ChunkState.OPEN else released(found, first_page.get(found.chunk)),
        )
        for found in chunks
    ]


def released(found: DeletionChunk, first_page: int | None, held: int = 0) -> Released:
    """What a chunk whose rows are gone has deleted and still owes. Without a first page it owes none."""
    return Released(
        rows=sum(found.rows.values()),
        first_page=found.pages if first_page is None else first_page,
        end_page=found.pages,
        keys=found.sealed,
        trace_items_owed=found.trace_items_confirmed_at is None,
        held=held,
    )


def rows_deleted(session: Session, deletion_id: str) -> int:
    """How many rows the deletion has deleted so far."""
    chunks = session.execute(select(DeletionChunk.rows).where(DeletionChunk.deletion_id == deletion_id)).scalars()
    return sum(sum(rows.values()) for rows in chunks)


# Locks and fences -----------------------------------------------------------------------------------------------------

_A_CHUNK = select(DeletionChunk).where(*of_chunk(DeletionChunk), DeletionChunk.fence == bindparam("of_fence"))
_LOCKED_CHUNK = _A_CHUNK.with_for_update()


def lock_chunk(session: Session, chunk: Chunk) -> DeletionChunk:
    """Lock the chunk's row: every write below begins so. Raises NotOpen for a step from before a cancel."""
    return _chunk(session, _LOCKED_CHUNK, chunk)


def read_chunk(session: Session, chunk: Chunk) -> DeletionChunk:
    """The chunk without a lock. Raises NotOpen for a step from before a cancel."""
    return _chunk(session, _A_CHUNK, chunk)


def _chunk(session: Session, statement: Select[DeletionChunk], chunk: Chunk) -> DeletionChunk:
    values = {"of": chunk.deletion_id, "of_chunk": chunk.chunk, "of_fence": chunk.fence}
    found = session.execute(statement, values).scalar_one_or_none()
    if found is None:
        raise NotOpen("this deletion was cancelled since; nothing of this step was done")
    return found


def lock_sealing(session: Session, chunk: Chunk, epoch: int) -> DeletionChunk:
    """Lock the chunk for the attempt that holds `epoch`; raises StaleSeal for any other.

    Temporal may have given up on the one that took over: then the other is the current one, and must collect again.
    """
    found = lock_chunk(session, chunk)
    if found.epoch != epoch or found.state != ChunkState.OPEN:
        raise StaleSeal(f"chunk {chunk.chunk}: another attempt has taken over; keys are to be collected again")
    return found


_BEGIN_EPOCH = (
    update(DeletionChunk)
    .where(*of_chunk(DeletionChunk), DeletionChunk.fence == bindparam("of_fence"), DeletionChunk.state == ChunkState.OPEN)
    .values(epoch=DeletionChunk.epoch + 1)
    .returning(DeletionChunk)
    .execution_options(synchronize_session=False)
)


def begin_epoch(session: Session, chunk: Chunk) -> DeletionChunk:
    """Lock the chunk and take it over: earlier attempts can seal nothing more. One whose rows are gone stays as it is."""
    values = {"of": chunk.deletion_id, "of_chunk": chunk.chunk, "of_fence": chunk.fence}
    found = session.execute(_BEGIN_EPOCH, values).scalar_one_or_none()
    return read_chunk(session, chunk) if found is None else found


def lock_released(session: Session, chunk: Chunk) -> DeletionChunk:
    """Lock a chunk whose rows are deleted. Raises StaleAttempt while rows may still name its keys."""
    found = lock_chunk(session, chunk)
    if found.state != ChunkState.ROWS_DELETED:
        raise StaleAttempt(f"chunk {chunk.chunk}: its rows are not deleted")
    return found


# Its artifacts --------------------------------------------------------------------------------------------------------

_ARTIFACTS = (
    select(DeletionArtifact.artifact_id, DeletionArtifact.project_id, DeletionArtifact.rows_state, KEEPS_ANY)
    .where(*of_chunk(DeletionArtifact), DeletionArtifact.rows_state.in_(IN_CHUNKS))
    .order_by(DeletionArtifact.artifact_id)
)


def artifacts_of(session: Session, chunk: Chunk) -> list[ChunkArtifact]:
    """The chunk's artifacts, by id."""
    return artifacts_and_holds(session, chunk)[0]


def artifacts_and_holds(session: Session, chunk: Chunk) -> tuple[list[ChunkArtifact], bool]:
    """And whether there is any hold that may keep one of them (held.py)."""
    rows = session.execute(_ARTIFACTS, {"of": chunk.deletion_id, "of_chunk": chunk.chunk}).all()
    found = [ChunkArtifact(artifact, project, RowsState(state)) for artifact, project, state, _ in rows]
    return found, any(row[3] for row in rows)


@cache
def _set_artifacts(*names: str) -> Update:
    return (
        update(DeletionArtifact)
        .where(*of_chunk(DeletionArtifact), one_of(DeletionArtifact.artifact_id, "ids"))
        .values({name: bindparam(f"{name}_now") for name in names})
        .execution_options(synchronize_session=False)
    )


def set_artifacts(session: Session, chunk: Chunk, ids: Iterable[int], **values: Any) -> None:
    """Write down what is known of these artifacts. Their chunk is locked by the caller."""
    ids = list(ids)
    if ids:
        now = {f"{name}_now": value for name, value in values.items()}
        session.execute(_set_artifacts(*values), {"of": chunk.deletion_id, "of_chunk": chunk.chunk, "ids": ids, **now})


def note_compared(session: Session, chunk: Chunk, ids: Iterable[int]) -> None:
    """Write down artifacts whose comparisons have objects that are sealed here: their own deletion waits for these."""
    same = {"deletion_id": chunk.deletion_id, "chunk": chunk.chunk, "rows_state": RowsState.COMPARED, "project_id": None}
    insert_many(session, DeletionArtifact, same, ("artifact_id",), [(one,) for one in sorted(ids)])


def pack_strays(strays: Sequence[tuple[str, str]]) -> bytes | None:
    """The first thousand, compressed."""
    return zlib.compress(json.dumps(strays[:_STRAYS_KEPT]).encode()) if strays else None
