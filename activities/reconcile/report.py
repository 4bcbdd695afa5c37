"""What one look at a project came to, and its row in the ledger. A person's command and a schedule's step write the same."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from activities.ledger import reports
from activities.reconcile.judge import Class
from activities.reconcile.reconcile import DANGLING, Reconciliation
from activities.reconcile.stored import AGES
from activities.reconcile.tally import Total

_OWNED = ("living", "owed", "orphan", "comparison_leftover", "recent", "moved")
"""Classes of keys that lie under an artifact."""
DELETABLE = (Class.ORPHAN, Class.LEFTOVER)


@dataclass(frozen=True)
class Report:
    """What one look came to."""

    look: Reconciliation
    classes: Mapping[str, Total]
    dangling: Mapping[str, int]
    """How many artifacts, by kind of the key that their rows name in vain."""
    id: str
    """In the ledger."""
    expires_at: datetime
    plausible_percent: int

    @property
    def deletable(self) -> int:
        """Objects and trace items that may go by this report."""
        return self._count(DELETABLE) + self._count([Class.TRACE_ORPHAN])

    @property
    def is_implausible(self) -> bool:
        """So large a share may go that a person has to look before anything does."""
        return self.deletable_percent > self.plausible_percent

    @property
    def deletable_percent(self) -> float:
        """Of the listed objects that are some artifact's own; of artifacts with a row or orphaned traces, if that is more."""
        orphaned = self.classes[Class.TRACE_ORPHAN].artifacts
        objects = _percent(self._count(DELETABLE), self._count(_OWNED))
        return max(objects, _percent(orphaned, orphaned + self.look.rows.artifacts))

    def _count(self, classes: Iterable[str]) -> int:
        return sum(self.classes[name].sum.objects for name in classes)

    def dangling_artifacts(self, kind: str) -> list[int]:
        """Of which a row names an object of that kind in vain."""
        return [line.artifact for line in self.look.tally.lines(DANGLING + kind)]

    @property
    def totals(self) -> dict[str, Any]:
        """Its counts, as the ledger keeps them."""
        return {
            "classes": {name: _as_json(one) for name, one in self.classes.items()},
            "rows_of_artifacts": self.look.rows.artifacts,
            "why_no_traces": self.look.why_no_traces,
            "deletable_percent": round(self.deletable_percent, 1),
        }


def report_of(look: Reconciliation, usable_for: timedelta, plausible_percent: int) -> Report:
    """Of a look that has come to its end."""
    totals = look.tally.by_class()
    classes = {str(one): totals.get(one, Total()) for one in Class}
    dangling = {name.removeprefix(DANGLING): one.artifacts for name, one in totals.items() if name.startswith(DANGLING)}
    return Report(look, classes, dangling, uuid.uuid4().hex, look.now + usable_for, plausible_percent)


def write(report: Report) -> None:
    """Into the ledger, with what may go by it."""
    look = report.look
    written = reports.Report(
        id=report.id,
        organization_id=look.project.organization_id,
        project_id=look.project.id,
        looked_at=look.now,
        written_before=look.now - look.older_than,
        expires_at=report.expires_at,
        implausible=report.is_implausible,
        totals=report.totals,
    )
    with look.database.write() as session:
        orphans = look.tally.artifacts(Class.ORPHAN, Class.TRACE_ORPHAN)
        reports.write(session, written, orphans, look.tally.leftovers())


def moment(written: int | None) -> str | None:
    """UTC, from seconds since 1970."""
    return None if written is None else datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")


def _percent(some: int, of: int) -> float:
    return 100 * some / of if of else 0


def _as_json(of: Total) -> dict[str, Any]:
    return {
        "artifacts": of.artifacts,
        "objects": of.sum.objects,
        "bytes": of.sum.size,
        "oldest": moment(of.sum.oldest),
        "newest": moment(of.sum.newest),
        "ages": dict(zip(AGES, of.sum.ages, strict=True)),
    }
