"""Holds: a person stops everything, one organization, or one deletion; the service itself stops one that is over a ceiling.

A hold on an artifact or a project stops no deletion: it keeps what it is on out of them (held.py).

Rows: delete_rows takes an advisory lock, shared, until its COMMIT, and looks for holds once it has it. Placing a hold commits
its row first, and then waits until it has the lock alone: from then on no transaction is left that did not see it. A row could
not be locked here, since it is not there yet. SQLite has one writer at a time, which comes to the same.

Stores: every worker looks before each request that deletes (activities/stores/guards.py), at most a second late.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, String, and_, bindparam, cast, exists, func, insert, or_, select, text, update
from sqlalchemy.orm import Session

from activities.database import Database
from activities.ledger.insert import insert_once
from activities.ledger.schema import Deletion, DeletionArtifact, DeletionChunk, Hold, RowsState, clock
from artifact_deletion.errors import Held

_LOCK = "pg_advisory_xact_lock{}(hashtext('artifact_deletion.holds'))"
_SHARED_LOCK = text(f"SELECT {_LOCK.format('_shared')}")


class On(StrEnum):
    """What a hold may be on."""

    EVERYTHING = "everything"
    ORGANIZATION = "organization"
    DELETION = "deletion"
    PROJECT = "project"
    ARTIFACT = "artifact"


@dataclass(frozen=True)
class Placed:
    """A hold that is not lifted."""

    id: int
    on_what: str
    on_id: str
    is_ceiling: bool
    reason: str
    placed_by: str | None
    placed_at: datetime

    def is_on(self, organization_id: int, deletion_id: str, images_of: int | None = None) -> bool:
        """True if it is on this deletion of this organization, or on the project whose images are the matter."""
        return (self.on_what, self.on_id) in {
            (On.EVERYTHING, ""),
            (On.ORGANIZATION, str(organization_id)),
            (On.DELETION, deletion_id),
            (On.PROJECT, str(images_of)),
        }

    @property
    def sentence(self) -> str:
        """Why a step waits, in words that may go to Temporal: a person's own reason may not."""
        since = f"held since {self.placed_at:%Y-%m-%d %H:%M:%S} UTC"
        if self.is_ceiling:
            return f"{since}: {self.reason}; it goes on after `python starter.py confirm {self.on_id} --by WHO`"
        what = "every deletion" if self.on_what == On.EVERYTHING else f"{self.on_what} {self.on_id}"
        return f"{what} is {since}; it goes on after `python starter.py lift {self.id} --by WHO`"


_COLUMNS = (Hold.id, Hold.on_what, Hold.on_id, Hold.ceiling_of, Hold.reason, Hold.placed_by, Hold.placed_at)
_PLACED = select(*_COLUMNS).where(Hold.lifted_at.is_(None)).order_by(Hold.id)


def _is_on(organization: Any, deletion_id: Any, fence: Any) -> ColumnElement[bool]:
    """Of ceilings those of this life of the deletion: a cancel begins another."""
    of_this_life = or_(Hold.ceiling_of.is_(None), Hold.ceiling_of == fence)
    return or_(
        Hold.on_what == On.EVERYTHING,
        and_(Hold.on_what == On.ORGANIZATION, Hold.on_id == organization),
        and_(Hold.on_what == On.DELETION, Hold.on_id == deletion_id, of_this_life),
    )


_PLACED_ON = _PLACED.where(_is_on(bindparam("organization"), bindparam("of"), bindparam("of_fence")))
IS_HELD = exists(Hold.id).where(
    Hold.lifted_at.is_(None), _is_on(cast(Deletion.organization_id, String), Deletion.id, Deletion.fence)
)
"""A column of a deletion."""
KEEPS_ANY = exists(Hold.id).where(Hold.lifted_at.is_(None), Hold.on_what.in_([On.ARTIFACT, On.PROJECT]))
"""Whether anything at all is kept (held.py), as a column of any statement."""


def placed(session: Session) -> list[Placed]:
    """All that are not lifted."""
    return _read(session.execute(_PLACED))


def placed_but_on_artifacts(session: Session) -> list[Placed]:
    """Those of them that may stop a request to a store. Of the others there may be many."""
    return _read(session.execute(_PLACED.where(Hold.on_what != On.ARTIFACT)))


def placed_on_project(session: Session, project_id: int) -> list[Placed]:
    """Those of them that are on this project."""
    return _read(session.execute(_PLACED.where(Hold.on_what == On.PROJECT, Hold.on_id == str(project_id))))


def placed_on(session: Session, organization_id: int, deletion_id: str, fence: int) -> list[Placed]:
    """Those of them that are on this deletion."""
    values = {"organization": str(organization_id), "of": deletion_id, "of_fence": fence}
    return _read(session.execute(_PLACED_ON, values))


def _read(rows: Iterable[Row[*tuple[Any, ...]]]) -> list[Placed]:
    return [Placed(one, what, id_, ceiling is not None, why, by, at) for one, what, id_, ceiling, why, by, at in rows]


def lock_out_new_holds(session: Session) -> None:
    """From here to the end of this transaction a person who places a hold waits: look for holds after this."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_SHARED_LOCK)


def refuse_held(found: list[Placed]) -> None:
    """Raises Held, which says of the first hold what it is and how it ends."""
    if found:
        raise Held(found[0].sentence)


def place(database: Database, on_what: On, on_id: str, *, reason: str, by: str | None) -> Placed:
    """Place a hold, and return once no transaction of ours deletes rows that did not see it.

    `reason` is free text for the ledger alone. It waits for transactions that are at work, however long.
    """
    values = {"on_what": on_what, "on_id": on_id, "reason": reason, "placed_by": by}
    with database.write() as session:
        (made,) = _read(session.execute(insert(Hold).values(values).returning(*_COLUMNS)))
    if database.is_postgresql:
        with database.write() as session:
            session.execute(text("SET LOCAL lock_timeout = 0"))
            session.execute(text("SET LOCAL statement_timeout = 0"))
            session.execute(text(f"SELECT {_LOCK.format('')}"))
    return made


def lift(session: Session, ids: Iterable[int], *, by: str | None) -> list[Placed]:
    """Lift these holds. Returns those that were not lifted before."""
    lifting = update(Hold).where(Hold.id.in_(list(ids)), Hold.lifted_at.is_(None)).values(lifted_at=clock(), lifted_by=by)
    return _read(session.execute(lifting.returning(*_COLUMNS)))


def kept_any(session: Session, ids: Iterable[int]) -> bool:
    """Whether any of these holds, lifted or not, is on an artifact or a project: an earlier lift may have died on its way."""
    of_these = Hold.id.in_(list(ids)), Hold.on_what.in_([On.ARTIFACT, On.PROJECT])
    return session.execute(select(Hold.id).where(*of_these).limit(1)).first() is not None


@dataclass(frozen=True)
class Size:
    """How much a deletion is about, as far as that is known."""

    artifacts: int
    keys: int
    """Collected so far, over all chunks, deleted already or not."""
    chunks: int
    collected: int
    """Chunks of which keys are collected."""


def size_of(session: Session, deletion_id: str) -> Size:
    """As it stands now."""
    of = DeletionChunk.deletion_id == deletion_id
    collected = func.count().filter(DeletionChunk.names_digest != "")
    chunks, sealed, keys = session.execute(select(func.count(), collected, func.sum(DeletionChunk.sealed)).where(of)).one()
    asked = select(func.count(DeletionArtifact.artifact_id.distinct())).where(
        DeletionArtifact.deletion_id == deletion_id, DeletionArtifact.rows_state != RowsState.COMPARED
    )
    return Size(session.execute(asked).scalar_one(), int(keys or 0), chunks, sealed)


@dataclass(frozen=True)
class Ceilings:
    """How much may be deleted unconfirmed. None: any number."""

    artifacts: int | None = None
    keys: int | None = None

    def exceeded_by(self, session: Session, deletion_id: str, fence: int) -> str | None:
        """Why the deletion needs to be confirmed, unless it was.

        Keys count as soon as they are collected, in any of its chunks. So of a deletion that turns out to be too large, no
        more keys than the ceiling are released before a person confirms it.
        """
        if self.artifacts is None and self.keys is None:
            return None
        size = size_of(session, deletion_id)
        over = [
            f"{count:,} {name} are more than {ceiling:,}"
            for name, count, ceiling in (("artifacts", size.artifacts, self.artifacts), ("keys", size.keys, self.keys))
            if ceiling is not None and count > ceiling
        ]
        if not over or _was_confirmed(session, deletion_id, fence):
            return None
        return (
            f"too large to go unconfirmed: {', '.join(over)} ({size.artifacts:,} artifacts, {size.keys:,} keys collected "
            f"in {size.collected:,} of {size.chunks:,} chunks)"
        )


def place_ceiling(session: Session, deletion_id: str, fence: int, why: str) -> None:
    """Hold a deletion that exceeds a ceiling. Once it is lifted, no ceiling holds this life of the deletion again."""
    values = {"on_what": On.DELETION, "on_id": deletion_id, "ceiling_of": fence, "reason": why}
    insert_once(session, Hold, values, Hold.id)


def confirm(session: Session, deletion_id: str, fence: int, *, by: str) -> None:
    """Write down that so large a deletion is meant, also before any ceiling holds it. It ends with a cancel."""
    place_ceiling(session, deletion_id, fence, "confirmed beforehand")
    lift_ceiling(session, deletion_id, fence, by=by)


def lift_ceiling(session: Session, deletion_id: str, fence: int, *, by: str | None) -> None:
    """End the hold of a ceiling, if there is one: it was confirmed, or the deletion was cancelled."""
    of_it = Hold.on_what == On.DELETION, Hold.on_id == deletion_id, Hold.ceiling_of == fence, Hold.lifted_at.is_(None)
    session.execute(update(Hold).where(*of_it).values(lifted_at=clock(), lifted_by=by))


def _was_confirmed(session: Session, deletion_id: str, fence: int) -> bool:
    """A ceiling that is not lifted does not count: another chunk may have placed it since this transaction looked for holds."""
    of_it = Hold.on_what == On.DELETION, Hold.on_id == deletion_id, Hold.ceiling_of == fence, Hold.lifted_at.is_not(None)
    return session.execute(select(Hold.id).where(*of_it).limit(1)).first() is not None
