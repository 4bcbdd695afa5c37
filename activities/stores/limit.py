"""A limit of deleted keys a second over all workers: one row of the ledger says until when it is used up.

Temporal limits the tasks a second of a queue, and a task is not a number of keys: a step with five keys would count as much as
one with four thousand, and so would one that only lists. It also deals the limit out to a queue's partitions in advance, of
which a few large steps at a time never keep all busy. Here each request takes its place in time by its number of keys.
"""

import time
from dataclasses import dataclass, field
from threading import Event, Lock

from sqlalchemy import case, func, literal, update

from activities.database import Database
from activities.ledger.schema import Limit
from artifact_deletion.errors import StoreUnavailable

_AIM = 0.95
"""Of the limit: a request reaches the store a little sooner or later than its place, and the limit is no more than that."""
_CATCH_UP_S = 0.5
"""Seconds by which late places are made up for, so that a worker's every hiccup does not lower the rate for good."""


@dataclass(frozen=True)
class KeyLimit:
    """Lets so many keys a second through, all workers together."""

    database: Database
    keys_per_second: float
    stopping: Event
    """Set when the worker is to stop: no thread waits any longer."""
    _turn: Lock = field(default_factory=Lock)

    def wait_for(self, keys: int) -> None:
        """Return when so many keys may be deleted. Raises StoreUnavailable if the worker stops before, DatabaseUnavailable."""
        with self._turn:  # a process takes one place ahead of its time, not one for each of its threads
            if self.stopping.is_set() or self.stopping.wait(self._away(keys / (_AIM * self.keys_per_second))):
                raise StoreUnavailable("the worker stops before the limit of keys a second lets it delete these")

    def _away(self, duration_s: float) -> float:
        """Take the next place that is free, of this length. Returns how many seconds it is away."""
        # All workers by one clock: the server's, and where there is no server all are on one machine.
        now = func.extract("epoch", func.clock_timestamp()) if self.database.is_postgresql else literal(time.time())
        free = case((Limit.used_until > now - _CATCH_UP_S, Limit.used_until), else_=now - _CATCH_UP_S)
        with self.database.write() as session:
            taken = update(Limit).values(used_until=free + duration_s).returning(Limit.used_until - now)
            return max(0.0, float(session.execute(taken).scalar_one()) - duration_s)
