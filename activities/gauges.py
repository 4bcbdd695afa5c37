"""The ledger as it stands, for Prometheus.

Every worker reports the same ledger: take the maximum over them, never the sum. Labels are states and codes; ids, keys and
names are in none, since each value of a label is a time series for ever.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, type_coerce
from sqlalchemy.orm import Session
from temporalio.common import MetricMeter

from activities.backend.contract import Backend
from activities.database import Database
from activities.ledger import holds
from activities.ledger.schema import Ask, Deletion, DeletionPage, UtcDateTime, clock
from artifact_deletion.outbox import DeletionState

_OPEN = (DeletionState.ACCEPTED, DeletionState.RUNNING, DeletionState.FAILED)
_CODES_KEPT = 50
"""Codes are the store's own words: beyond these they are counted as one, whatever a store makes up."""
_OTHER_CODES = "Other"
_RECEIPT: Any = Deletion.receipt
_LEFT_OVER = {
    "Moved": _RECEIPT["artifacts"]["moved"]["count"],
    "RowsNotDeleted": _RECEIPT["artifacts"]["not_reached"]["count"],
    "Reappeared": _RECEIPT["artifacts"]["reappeared"]["count"],
    "NamedElsewhere": _RECEIPT["manifests"]["named_elsewhere"],
    "MasksUnknown": _RECEIPT["manifests"]["masks_unknown"],
    "TraceItemsUnconfirmed": _RECEIPT["trace_items"]["unconfirmed_artifacts"],
    "OwedByOthers": _RECEIPT["owed_by_others"],
}
"""Where a receipt has each count: parts of it are read, since its lists of ids are long."""


@dataclass
class LedgerGauges:
    """The ledger in a few numbers, read in one short transaction."""

    meter: MetricMeter
    database: Database
    backend: Backend
    _codes: set[str] = field(default_factory=set)

    def refresh(self) -> None:
        """Read and report. Raises DatabaseUnavailable; the numbers then stay as they are, and their time tells."""
        with self.database.read() as session:
            now = session.execute(select(clock())).scalar_one()
            by_state = _by_state(session)
            pages, keys = session.execute(select(func.count(), func.coalesce(func.sum(DeletionPage.count), 0))).one()
            left_over = sum(_left_over(session), Counter[str]())
            placed = holds.placed(session)
        for state in _OPEN:
            count, oldest = by_state.get(state, (0, now))
            self._set("artifact_deletion_open_deletions", "Deletions that are not complete, by state", count, state=state)
            age = max(0.0, (now - oldest).total_seconds())
            self._set(
                "artifact_deletion_oldest_open_seconds", "Age of the oldest of them; 0 if there is none", age, state=state
            )
        self._set("artifact_deletion_pages_outstanding", "Pages of keys in the ledger that the store still owes", pages)
        self._set("artifact_deletion_keys_outstanding", "Keys in those pages", int(keys))
        for code, count in self._of_known_codes(left_over).items():
            self._set("artifact_deletion_leftovers", "Leftovers of failed deletions, by code", count, code=code)
        for on in holds.On:
            since = min((hold.placed_at for hold in placed if hold.on_what == on), default=now)
            age = max(0.0, (now - since).total_seconds())
            self._set(
                "artifact_deletion_held_seconds", "Age of the oldest hold that is not lifted; 0 if there is none", age, on=on
            )
        drift = len(self.backend.unknown_references())
        self._set("artifact_deletion_schema_drift_references", "Foreign keys that this version does not know", drift)
        self._set("artifact_deletion_ledger_read_timestamp_seconds", "When the ledger was last read for these", time.time())

    def _of_known_codes(self, left_over: Counter[str]) -> dict[str, int]:
        """Every code that was ever reported, so that a mended one goes to zero."""
        for code, _ in left_over.most_common():
            if len(self._codes) < _CODES_KEPT:
                self._codes.add(code)
        counts = {code: left_over[code] for code in self._codes}
        other = left_over.total() - sum(counts.values())
        return counts | {_OTHER_CODES: other} if other or len(self._codes) == _CODES_KEPT else counts

    def _set(self, name: str, description: str, value: float, **labels: str) -> None:
        self.meter.create_gauge_float(name, description).set(value, labels)


def _by_state(session: Session) -> dict[str, tuple[int, datetime]]:
    rows = session.execute(
        select(Deletion.state, func.count(), type_coerce(func.min(Deletion.accepted_at), UtcDateTime))
        .where(Deletion.state.in_([DeletionState.RUNNING, DeletionState.FAILED]))
        .group_by(Deletion.state)
    )
    by_state = {state: (count, oldest) for state, count, oldest in rows}
    unserved = select(func.count(Ask.c.deletion_id.distinct()), type_coerce(func.min(Ask.c.asked_at), UtcDateTime))
    count, oldest = session.execute(unserved.where(Ask.c.served_at.is_(None))).one()
    return by_state | ({DeletionState.ACCEPTED: (count, oldest)} if count else {})


def _left_over(session: Session) -> Iterator[Counter[str]]:
    """The leftovers of each failed deletion, by code."""
    by_code = _RECEIPT["objects"]["left_over"], _RECEIPT["objects"]["found_left_over"]
    failed = Deletion.state == DeletionState.FAILED, Deletion.receipt.is_not(None)
    for sealed, found, *counts in session.execute(select(*by_code, *_LEFT_OVER.values()).where(*failed)):
        yield Counter(sealed) + Counter(found) + Counter(dict(zip(_LEFT_OVER, counts, strict=True)))
