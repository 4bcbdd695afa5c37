"""The ledger as it stands, for Prometheus.

Every worker reports the same ledger: take the maximum over them, never the sum. Labels are states and codes; ids, keys and
names are in none, since each value of a label is a time series for ever.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select, type_coerce, union
from sqlalchemy.orm import Session
from temporalio.common import MetricMeter

from activities.backend.contract import Backend
from activities.database import Database
from activities.images.index import closed
from activities.images.rows import standing_everywhere
from activities.images.transitions import ImageState
from activities.ledger import holds
from activities.ledger.deletions import UNFINISHED
from activities.ledger.held import IMAGES_HELD
from activities.ledger.overlaps import OPEN
from activities.ledger.schema import Ask, Deletion, DeletionPage, UtcDateTime, clock
from artifact_deletion.outbox import DeletionState

_CODES_KEPT = 50
"""Codes are the store's own words: beyond these they are counted as one, whatever a store makes up."""
_OTHER_CODES = "Other"
_RECEIPT: Any = Deletion.receipt
_LEFT_OVER = {
    "Held": _RECEIPT["artifacts"]["held"]["count"],
    "Moved": _RECEIPT["artifacts"]["moved"]["count"],
    "RowsNotDeleted": _RECEIPT["artifacts"]["not_reached"]["count"],
    "Reappeared": _RECEIPT["artifacts"]["reappeared"]["count"],
    "NamedElsewhere": _RECEIPT["manifests"]["named_elsewhere"],
    "MasksUnknown": _RECEIPT["manifests"]["masks_unknown"],
    "TraceItemsUnconfirmed": _RECEIPT["trace_items"]["unconfirmed_artifacts"],
    "OwedByOthers": _RECEIPT["owed_by_others"],
}
"""Where a receipt has each count: parts of it are read, since its lists of ids are long."""
_HELD = _LEFT_OVER["Held"].as_integer(), _RECEIPT["images"]["left_over"][IMAGES_HELD].as_integer()
_WAITS_FOR_A_COURT = and_(Deletion.state == DeletionState.FAILED, or_(*(func.coalesce(count, 0) > 0 for count in _HELD)))
"""A hold keeps some of it, for as long as it takes: its age is no trouble."""


@dataclass
class LedgerGauges:
    """The ledger in a few numbers, read in one short transaction."""

    meter: MetricMeter
    database: Database
    backend: Backend
    promised: timedelta
    """Within this time after it was asked for, a deletion is to be done."""
    images_within: timedelta = timedelta(0)
    """From the time when an image is hidden to its purge."""
    _codes: set[str] = field(default_factory=lambda: set(_LEFT_OVER))

    def refresh(self) -> None:
        """Read and report. Raises DatabaseUnavailable; the numbers then stay as they are, and their time tells."""
        with self.database.read() as session:
            now = session.execute(select(clock())).scalar_one()
            by_state = _by_state(session)
            overdue, since = _overdue(session, now - self.promised)
            pages, keys = session.execute(select(func.count(), func.coalesce(func.sum(DeletionPage.count), 0))).one()
            left_over = sum(_left_over(session), Counter[str]())
            placed = holds.placed(session)
            images, closed_projects = standing_everywhere(session), closed(session, self.backend)
        for state in UNFINISHED:
            count, oldest = by_state.get(state, (0, now))
            self._set("artifact_deletion_open_deletions", "Deletions that are not complete, by state", count, state=state)
            age = max(0.0, (now - oldest).total_seconds())
            self._set(
                "artifact_deletion_oldest_open_seconds", "Age of the oldest of them; 0 if there is none", age, state=state
            )
        beyond = now - self.promised - since if since else timedelta(0)
        description = "How long the oldest of them is beyond the days that were promised; 0 if none is"
        self._set("artifact_deletion_overdue_seconds", description, beyond.total_seconds())
        self._set("artifact_deletion_overdue_deletions", "How many of them are beyond the days that were promised", overdue)
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
        self._report_images(images, closed_projects, now)
        drift = len(self.backend.unknown_references())
        self._set("artifact_deletion_schema_drift_references", "Foreign keys that this version does not know", drift)
        self._set("artifact_deletion_ledger_read_timestamp_seconds", "When the ledger was last read for these", time.time())

    def _report_images(self, images: Mapping[str, tuple[int, datetime]], closed_projects: int, now: datetime) -> None:
        for state in ImageState:
            count, _ = images.get(state, (0, now))
            self._set("artifact_deletion_images_on_their_way", "Images hidden or watched, by state", count, state=state)
        _, hidden_since = images.get(ImageState.HIDDEN, (0, now))
        _, due_since = images.get(ImageState.PURGING, (0, now))
        overdue = max(now - hidden_since - self.images_within, now - due_since, timedelta(0)).total_seconds()
        name, description = (
            "artifact_deletion_images_overdue_seconds",
            "How long after its time the oldest hidden image is there",
        )
        self._set(name, description, overdue)
        self._set("artifact_deletion_images_closed_projects", "Projects with manifests that say nothing", closed_projects)

    def _of_known_codes(self, left_over: Counter[str]) -> dict[str, int]:
        """Every code of ours, and each that a store ever answered, so that a mended one goes to zero."""
        for code, _ in left_over.most_common():
            if len(self._codes) < _CODES_KEPT:
                self._codes.add(code)
        counts = {code: left_over[code] for code in self._codes}
        other = left_over.total() - sum(counts.values())
        return counts | {_OTHER_CODES: other} if other or len(self._codes) == _CODES_KEPT else counts

    def _set(self, name: str, description: str, value: float, **labels: str) -> None:
        self.meter.create_gauge_float(name, description).set(value, labels)


def _by_state(session: Session) -> dict[str, tuple[int, datetime]]:
    """How many there are, and since when the oldest could be at work: later than it was asked for, if it was to begin later."""
    since = func.coalesce(Deletion.begins_at, Deletion.accepted_at)
    oldest_of = func.coalesce(func.min(since).filter(~_WAITS_FOR_A_COURT), clock())
    rows = session.execute(
        select(Deletion.state, func.count(), type_coerce(oldest_of, UtcDateTime))
        .where(Deletion.state.in_(OPEN))
        .group_by(Deletion.state)
    )
    by_state = {state: (count, oldest) for state, count, oldest in rows}
    unserved = select(func.count(Ask.c.deletion_id.distinct()), type_coerce(func.min(Ask.c.asked_at), UtcDateTime))
    count, oldest = session.execute(unserved.where(Ask.c.served_at.is_(None))).one()
    return by_state | ({DeletionState.ACCEPTED: (count, oldest)} if count else {})


def _overdue(session: Session, before: datetime) -> tuple[int, datetime | None]:
    """How many deletions that were asked for before that could be complete and are not, and when the oldest was."""
    opened = Deletion.state.in_(OPEN), Deletion.accepted_at < before, ~_WAITS_FOR_A_COURT
    asked = Ask.c.served_at.is_(None), Ask.c.asked_at < before
    late = union(
        select(Deletion.id, Deletion.accepted_at.label("at")).where(*opened),
        select(Ask.c.deletion_id, type_coerce(Ask.c.asked_at, UtcDateTime)).where(*asked),
    ).subquery()
    oldest = type_coerce(func.min(late.c.at), UtcDateTime)
    count, since = session.execute(select(func.count(late.c.id.distinct()), oldest)).one()
    return count, since


def _left_over(session: Session) -> Iterator[Counter[str]]:
    """The leftovers of each failed deletion, by code."""
    by_code = _RECEIPT["objects"]["left_over"], _RECEIPT["objects"]["found_left_over"]
    failed = Deletion.state == DeletionState.FAILED, Deletion.receipt.is_not(None)
    for sealed, found, *counts in session.execute(select(*by_code, *_LEFT_OVER.values()).where(*failed)):
        yield (
            Counter(sealed)
            + Counter(found)
            + Counter({code: count or 0 for code, count in zip(_LEFT_OVER, counts, strict=True)})
        )
