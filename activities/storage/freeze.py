"""Stop everything: while the ledger's freeze has its row, nothing is deleted anywhere.

Rows: whoever deletes them holds a lock shared until its COMMIT, and looks for the freeze once it has the lock. Whoever freezes
commits the freeze first, and then waits until it has the lock alone: from then on no transaction is left that did not see it.
SQLite has one writer at a time, which comes to the same.

Stores: every worker looks before each request that deletes. It asks the database at most once in `FRESH_S`, so a request can
begin so much later than the freeze, and no later; one that has begun is answered.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from activities.storage.database import Database
from activities.storage.ledger import Freeze
from workflows.errors import Frozen

if TYPE_CHECKING:  # the command line freezes without a store's packages
    from activities.storage.traces import TraceStore

FRESH_S = 1.0
"""Seconds after which a worker asks again whether deletions are frozen."""
_THE_ROW = 1
_LOCK = "pg_advisory_xact_lock{}(hashtext('artifact_deletion.freeze'))"
_SHARED_LOCK = text(f"SELECT {_LOCK.format('_shared')}")
_FROZEN_AT = select(Freeze.frozen_at)


def freeze(database: Database, reason: str) -> datetime:
    """Freeze all deletions, and return once no transaction of ours deletes rows any more. Frozen twice is frozen once.

    Returns since when. `reason` is free text for the ledger alone. It waits for transactions that are at work, however long.
    """
    insert = postgresql_insert if database.is_postgresql else sqlite_insert
    statement = insert(Freeze).values(id=_THE_ROW, reason=reason)
    with database.write() as session:
        session.execute(statement.on_conflict_do_update(index_elements=[Freeze.id], set_={"reason": reason}))
        since = session.execute(select(Freeze.frozen_at)).scalar_one()
    if database.is_postgresql:
        with database.write() as session:
            session.execute(text("SET LOCAL lock_timeout = 0"))
            session.execute(text("SET LOCAL statement_timeout = 0"))
            session.execute(text(f"SELECT {_LOCK.format('')}"))
    return since


def thaw(database: Database) -> datetime | None:
    """Let deletions go on. Returns since when they were frozen; None if they were not."""
    with database.write() as session:
        return session.execute(delete(Freeze).returning(Freeze.frozen_at)).scalar_one_or_none()


def frozen_since(database: Database) -> datetime | None:
    """Since when deletions are frozen; None if they are not."""
    with database.read() as session:
        return frozen_at(session)


def refuse_frozen(session: Session) -> None:
    """Raises Frozen. Otherwise nobody is told that deletions are frozen before this transaction has ended: call it first."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_SHARED_LOCK)
    _refuse(frozen_at(session))


@dataclass
class Switch:
    """What a process knows of the freeze, never older than `FRESH_S`."""

    database: Database
    _lock: Lock = field(default_factory=Lock)
    _since: datetime | None = None
    _asked_at: float | None = None

    def refuse_frozen(self) -> None:
        """Raises Frozen, DatabaseUnavailable."""
        with self._lock:
            now = time.monotonic()
            if self._asked_at is None or now - self._asked_at >= FRESH_S:
                self._since = frozen_since(self.database)
                self._asked_at = now
            since = self._since
        _refuse(since)


@dataclass(frozen=True)
class FreezableTraces:
    """A trace store that is asked for nothing while deletions are frozen."""

    store: "TraceStore"
    switch: Switch

    @property
    def deletes_at_once(self) -> bool:
        """See TraceStore."""
        return self.store.deletes_at_once

    def delete(self, organization_id: int, project_id: int, trace_ids: Sequence[str]) -> int:
        """See TraceStore. Raises Frozen."""
        self.switch.refuse_frozen()
        return self.store.delete(organization_id, project_id, trace_ids)


def frozen_at(session: Session) -> datetime | None:
    """The same within a transaction."""
    return session.execute(_FROZEN_AT).scalar_one_or_none()


def _refuse(since: datetime | None) -> None:
    if since is not None:
        raise Frozen(f"deletions are frozen since {since:%Y-%m-%d %H:%M:%S} UTC; they go on after `python starter.py thaw`")
