"""A deletion as a whole: opened once it is asked for, cancelled, closed. Its row is locked by each function that changes it."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, case, delete, select, type_coerce, update
from sqlalchemy.orm import Session

from activities.ledger.holds import IS_HELD, lift_ceiling
from activities.ledger.image_schema import ImagePage
from activities.ledger.insert import insert_once
from activities.ledger.schema import (
    STAYING,
    Ask,
    ChunkState,
    Deletion,
    DeletionArtifact,
    DeletionChunk,
    DeletionPage,
    DeletionPrefix,
    UtcDateTime,
    clock,
)
from activities.one_of import one_of
from artifact_deletion.errors import NotOpen
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest, utc_time


@dataclass(frozen=True)
class Locked:
    """A deletion whose row this transaction has locked."""

    id: str
    state: DeletionState
    fence: int
    begins_at: datetime | None


@dataclass(frozen=True)
class Asked:
    """An ask that no run had served."""

    at: datetime
    not_before: str | None
    """As its hand wrote it; None: at once."""


@dataclass(frozen=True)
class Closing:
    """A deletion that this transaction has locked to close it."""

    id: str
    state: DeletionState
    request: DeletionRequest
    accepted_at: datetime
    waits_since: datetime | None
    now: datetime
    """The database's clock, at the beginning of the transaction."""


UNFINISHED = (DeletionState.ACCEPTED, DeletionState.RUNNING, DeletionState.FAILED)
"""A deletion in one of these is owed to the person who asked for it."""
_OF_IT = Deletion.id == bindparam("of")
_ALONE = select(Deletion.state, Deletion.fence, Deletion.begins_at).where(_OF_IT).with_for_update()
_SHARED = select(Deletion.state, Deletion.fence, IS_HELD).where(_OF_IT).with_for_update(of=Deletion, read=True)
_TO_CLOSE = (
    select(Deletion.state, Deletion.fence, Deletion.request, Deletion.accepted_at, Deletion.waits_since, clock())
    .where(_OF_IT)
    .with_for_update()
)


def find_locked(session: Session, deletion_id: str) -> Locked | None:
    """Lock the deletion's row; None if there is no such deletion."""
    row = session.execute(_ALONE, {"of": deletion_id}).one_or_none()
    return None if row is None else Locked(deletion_id, DeletionState(row[0]), *row[1:])


def lock_shared(session: Session, deletion_id: str, fence: int) -> tuple[DeletionState, bool]:
    """Lock the deletion's row, together with others that only read it. Returns its state, and whether a hold is on it.

    Raises NotOpen for a step from before a cancel.
    """
    state, _, is_held = _of_this_life(session.execute(_SHARED, {"of": deletion_id}).one_or_none(), fence)
    return DeletionState(state), is_held


def lock_to_close(session: Session, deletion_id: str, fence: int) -> Closing:
    """Lock the deletion's row. Raises NotOpen for a step from before a cancel."""
    state, _, request, *row = _of_this_life(session.execute(_TO_CLOSE, {"of": deletion_id}).one_or_none(), fence)
    return Closing(deletion_id, DeletionState(state), DeletionRequest.model_validate(request), *row)


def _of_this_life(row: Row[*tuple[Any, ...]] | None, fence: int) -> Row[*tuple[Any, ...]]:
    if row is None or row[1] != fence:
        raise NotOpen("this deletion was cancelled since; nothing of this step was done")
    return row


# Asks -----------------------------------------------------------------------------------------------------------------

_UNSERVED = Ask.c.deletion_id == bindparam("of"), Ask.c.served_at.is_(None)
_FIND_ASKS = select(Ask.c.id).where(*_UNSERVED)
_NOT_BEFORE = Ask.c.request["not_before"].as_string()
_SERVE_ALL = (
    update(Ask).where(*_UNSERVED).values(served_at=clock()).returning(type_coerce(Ask.c.asked_at, UtcDateTime), _NOT_BEFORE)
)
_SERVE = update(Ask).where(Ask.c.id.in_(bindparam("asks", expanding=True))).values(served_at=clock())


def serve_asks(session: Session, deletion_id: str) -> list[Asked]:
    """Mark the asks that this transaction sees, and no run has served, as served. Returns them.

    It comes before any look at rows: those that came back were committed with their asks at the latest.
    """
    return [Asked(*row) for row in session.execute(_SERVE_ALL, {"of": deletion_id})]


def unserved_asks(session: Session, deletion_id: str) -> Sequence[int]:
    """Those asks, which may be served later in this transaction. The same holds of when it comes."""
    return session.execute(_FIND_ASKS, {"of": deletion_id}).scalars().all()


def serve(session: Session, asks: Sequence[int]) -> None:
    """Mark these very asks as served: never by a highest number, which commits out of order."""
    if asks:
        session.execute(_SERVE, {"asks": list(asks)})


def ask_for_run(session: Session, request: DeletionRequest, run_id: str) -> bool:
    """Let a fresh run ask in its own name. False if an attempt of it has done so before."""
    values = {
        "deletion_id": request.deletion_id,
        "request": request.model_dump(mode="json"),
        "run_id": run_id,
        "served_at": clock(),
    }
    return insert_once(session, Ask, values, Ask.c.id)


# When it may begin ----------------------------------------------------------------------------------------------------


def wishes(asked: Iterable[str | None]) -> list[datetime | None]:
    """The times from which asks want their deletion to run; None: at once. What another hand wrote and is no time says none."""
    found = list[datetime | None]()
    for one in asked:
        with suppress(ValueError):
            found.append(None if one is None else utc_time(one))
    return found


def earliest(times: Iterable[datetime | None]) -> datetime | None:
    """The earliest of some times; None, which is at once, is earlier than any."""
    found = set(times)
    return None if None in found else min(filter(None, found))


_TO_BEGIN = select(Deletion.state, Deletion.fence, Deletion.begins_at, clock()).where(_OF_IT).with_for_update()
_WISHES = select(_NOT_BEFORE).where(*_UNSERVED)
_BEGIN_AT = update(Deletion).where(_OF_IT).values(begins_at=bindparam("time")).execution_options(synchronize_session=False)


def time_to_begin(session: Session, deletion_id: str, fence: int) -> tuple[datetime | None, datetime]:
    """When the deletion begins, and the database's clock: sooner, if it was asked for since by one who will not wait so long.

    Raises NotOpen for a step from before a cancel.
    """
    *_, planned, now = _of_this_life(session.execute(_TO_BEGIN, {"of": deletion_id}).one_or_none(), fence)
    sooner = earliest([planned, *wishes(session.execute(_WISHES, {"of": deletion_id}).scalars())])
    if sooner != planned:
        session.execute(_BEGIN_AT, {"of": deletion_id, "time": sooner})
    return sooner, now


def waiting(session: Session, deletion_ids: Collection[str]) -> dict[str, datetime]:
    """Those of these deletions that wait for their time, and until when."""
    later = Deletion.state == DeletionState.RUNNING, Deletion.begins_at > clock()
    found = session.execute(select(Deletion.id, Deletion.begins_at).where(one_of(Deletion.id, deletion_ids), *later))
    return {id_: time for id_, time in found if time is not None}


# Opening --------------------------------------------------------------------------------------------------------------


def make(
    session: Session,
    request: DeletionRequest,
    state: DeletionState,
    asked_at: datetime | None,
    begins_at: datetime | None = None,
) -> bool:
    """Write a deletion down that is not there yet. False if another transaction was sooner."""
    values = {
        "id": request.deletion_id,
        "organization_id": request.organization_id,
        "request": request.model_dump(mode="json"),
        "state": state,
        "fence": 0,
        "accepted_at": asked_at or clock(),
        "begins_at": begins_at,
    }
    return insert_once(session, Deletion, values, Deletion.id)


_SET_STATE = (
    update(Deletion)
    .where(_OF_IT)
    .values(state=bindparam("state_now"), begins_at=bindparam("time"), waits_since=None)
    .execution_options(synchronize_session=False)
)


def set_state(session: Session, deletion_id: str, state: DeletionState, begins_at: datetime | None = None) -> None:
    """Move a locked deletion on. It waits for no other yet."""
    session.execute(_SET_STATE, {"of": deletion_id, "state_now": state, "time": begins_at})


def accept_anew(session: Session, deletion_id: str, asked_at: datetime | None) -> None:
    """Let the time of a locked deletion that had ended count from this ask, and not from its first."""
    session.execute(update(Deletion).where(Deletion.id == deletion_id).values(accepted_at=asked_at or clock()))


# The end --------------------------------------------------------------------------------------------------------------


def in_one_that_waits(artifact_id: Any) -> ColumnElement[bool]:
    """True for an artifact of a deletion that was to begin later and has not ended."""
    waits = Deletion.state == DeletionState.RUNNING, Deletion.begins_at.is_not(None)
    of_it = DeletionArtifact.deletion_id == Deletion.id, DeletionArtifact.artifact_id == artifact_id
    return select(DeletionArtifact.artifact_id).where(*of_it, *waits).correlate_except(Deletion, DeletionArtifact).exists()


def has_deleted_rows(session: Session, deletion_id: str) -> bool:
    """True once any chunk is past the point of no return. One whose artifacts all stay has none."""
    goes = DeletionArtifact.deletion_id == deletion_id, DeletionArtifact.rows_state.not_in(STAYING)
    past = (
        DeletionChunk.deletion_id == deletion_id,
        DeletionChunk.state == ChunkState.ROWS_DELETED,
        DeletionChunk.chunk.in_(select(DeletionArtifact.chunk).where(*goes)),
    )
    return session.execute(select(DeletionChunk.chunk).where(*past).limit(1)).first() is not None


_DROP = [
    delete(table).where(table.deletion_id == bindparam("of")).execution_options(synchronize_session=False)
    for table in (DeletionPage, DeletionPrefix, ImagePage, DeletionChunk, DeletionArtifact)
]


def cancel(session: Session, deletion_id: str, fence: int) -> bool:
    """Undo an open deletion of which no row is deleted; False, and nothing is changed, if it is past that."""
    found = find_locked(session, deletion_id)
    if found is None or found.fence != fence:
        return True  # a late try of the same cancel: an ask that came since is not its business
    if found.state is DeletionState.CLOSED or has_deleted_rows(session, deletion_id):
        return False
    chunks = select(DeletionChunk.chunk).where(DeletionChunk.deletion_id == deletion_id).order_by(DeletionChunk.chunk)
    session.execute(chunks.with_for_update()).all()
    for dropping in _DROP:
        session.execute(dropping, {"of": deletion_id})
    serve_asks(session, deletion_id)
    lift_ceiling(session, deletion_id, fence, by=None)
    cancelled = {"state": DeletionState.CANCELLED, "fence": fence + 1, "waits_since": None}
    session.execute(update(Deletion).where(Deletion.id == deletion_id).values(cancelled))
    return True


def wait_for_others(session: Session, deletion_id: str, since: datetime) -> None:
    """Write down since when the end waits for objects that others owe."""
    session.execute(update(Deletion).where(Deletion.id == deletion_id).values(waits_since=since))


_CLOSE = (
    update(Deletion)
    .where(_OF_IT)
    .values(
        receipt=bindparam("receipt_now"),
        state=bindparam("state_now"),
        waits_since=None,
        closed_at=case((bindparam("state_now") == DeletionState.CLOSED, clock())),
    )
    .execution_options(synchronize_session=False)
)


def close(session: Session, receipt: DeletionReceipt) -> None:
    """Store the receipt. A complete deletion has no pages and prefixes any more; those of others wait for a re-run."""
    state = DeletionState.CLOSED if receipt.complete else DeletionState.FAILED
    values = {"of": receipt.deletion_id, "receipt_now": receipt.model_dump(mode="json"), "state_now": state}
    session.execute(_CLOSE, values)


def stored_receipt(session: Session, deletion_id: str) -> DeletionReceipt:
    """The receipt as it was closed."""
    stored = session.execute(select(Deletion.receipt).where(Deletion.id == deletion_id)).scalar_one()
    return DeletionReceipt.model_validate(stored)
