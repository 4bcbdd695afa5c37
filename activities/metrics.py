"""What Prometheus is told of keys as they go, and of the ledger as it stands.

Every worker reports the same ledger: take the maximum over them, never the sum. Labels are states and codes; ids, keys and
names are in none, since each value of a label is a time series for ever.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, type_coerce
from sqlalchemy.orm import Session
from temporalio.common import MetricMeter

from activities.storage.database import Database
from activities.storage.drift import Schema
from activities.storage.freeze import frozen_at
from activities.storage.ledger import Deletion, DeletionPage, DeletionState, UtcDateTime

_OPEN = (DeletionState.ACCEPTED, DeletionState.RUNNING, DeletionState.FAILED)
_CODES_KEPT = 50
"""Codes are the store's own words: beyond these they are counted as one, whatever a store makes up."""
_OTHER_CODES = "Other"
_log = logging.getLogger("artifact_deletion.metrics")


def count_keys(meter: MetricMeter, named_by: str, **outcomes: int) -> None:
    """Count keys that the ledger has settled: `named_by` is `ledger` for sealed keys, `listing` for what nobody had named."""
    counter = meter.create_counter("artifact_deletion_keys", "Object keys that were settled, by outcome")
    for outcome, count in outcomes.items():
        if count:
            counter.add(count, {"named_by": named_by, "outcome": outcome})


def count_listed_bytes(meter: MetricMeter, size: int) -> None:
    """Count bytes that a listing saw before they were deleted. Of keys that were not listed nobody knows the size."""
    if size:
        meter.create_counter("artifact_deletion_listed_bytes", "Bytes of the objects that were listed and deleted").add(size)


@dataclass
class LedgerGauges:
    """The ledger in a few numbers, read in one short transaction."""

    meter: MetricMeter
    database: Database
    schema: Schema
    _codes: set[str] = field(default_factory=set)

    def refresh(self) -> None:
        """Read and report. Raises DatabaseUnavailable; the numbers then stay what they were, and their time tells."""
        with self.database.read() as session:
            now = session.execute(select(type_coerce(func.now(), UtcDateTime))).scalar_one()
            by_state = _by_state(session)
            pages, keys = session.execute(select(func.count(), func.coalesce(func.sum(DeletionPage.count), 0))).one()
            left_over = sum(_left_over(session), Counter[str]())
            frozen = frozen_at(session)
        for state in _OPEN:
            count, oldest = by_state.get(state, (0, now))
            self._set("artifact_deletion_open_deletions", "Deletions that are not complete, by state", count, state=state)
            self._set(
                "artifact_deletion_oldest_open_seconds",
                "Seconds since the oldest of them was accepted; 0 where there is none",
                max(0.0, (now - oldest).total_seconds()),
                state=state,
            )
        self._set("artifact_deletion_pages_outstanding", "Pages of keys in the ledger that the store still owes", pages)
        self._set("artifact_deletion_keys_outstanding", "Keys in those pages", int(keys))
        for code, count in self._of_known_codes(left_over).items():
            self._set("artifact_deletion_leftovers", "What failed deletions left over, by code", count, code=code)
        since_freeze = max(0.0, (now - frozen).total_seconds()) if frozen else 0
        self._set(
            "artifact_deletion_frozen_seconds", "Seconds since all deletions were stopped; 0 where they are not", since_freeze
        )
        drift = len(self.schema.unknown_references())
        self._set("artifact_deletion_schema_drift_references", "Foreign keys that this version does not know", drift)
        self._set("artifact_deletion_ledger_read_timestamp_seconds", "When the ledger was last read for these", time.time())

    def _of_known_codes(self, left_over: Counter[str]) -> dict[str, int]:
        """Every code that was ever reported, so that what is mended goes to zero."""
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
        .where(Deletion.state.in_(_OPEN))
        .group_by(Deletion.state)
    )
    return {state: (count, oldest) for state, count, oldest in rows}


def _left_over(session: Session) -> Iterator[Counter[str]]:
    """What each failed deletion left over, by code, out of its receipt: a part of it, since its lists of ids are long."""
    receipt: Any = Deletion.receipt
    rows = session.execute(
        select(
            receipt["objects"]["left_over"],
            receipt["objects"]["found_left_over"],
            receipt["artifacts"]["moved"]["count"],
            receipt["artifacts"]["not_reached"]["count"],
            receipt["manifests"]["named_elsewhere"],
            receipt["trace_items"]["unconfirmed_artifacts"],
            receipt["owed_by_others"],
            receipt["artifacts"]["reappeared"]["count"],
            receipt["manifests"]["masks_unknown"],
        ).where(Deletion.state == DeletionState.FAILED, Deletion.receipt.is_not(None))
    )
    for sealed, found, moved, not_reached, named_elsewhere, unconfirmed, owed, reappeared, masks_unknown in rows:
        of_artifacts = {
            "Moved": moved,
            "NamedElsewhere": named_elsewhere,
            "RowsNotDeleted": not_reached,
            "TraceItemsUnconfirmed": unconfirmed,
            "OwedByOthers": owed,
            "Reappeared": reappeared or 0,  # receipts from before say nothing of these two
            "MasksUnknown": masks_unknown or 0,
        }
        yield Counter(sealed) + Counter(found) + Counter(of_artifacts)
