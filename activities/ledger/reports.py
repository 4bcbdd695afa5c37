"""Reports of what is left behind in a project, for as long as they may be acted on: whose objects no row names any more."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String, bindparam, delete, func, insert, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from activities.ledger.insert import insert_many
from activities.ledger.overlaps import OPEN
from activities.ledger.schema import Deletion, LedgerTable, clock
from activities.one_of import one_of, slices
from artifact_deletion.errors import InvalidRequest
from artifact_deletion.request import DeletionRequest

YOUNGEST = timedelta(days=1)
"""By no report goes an object that was written so shortly before it."""
_ORPHANS_A_STATEMENT = 5000


class Report(LedgerTable):
    """One look at a project. It stays; its list of what may go by it is forgotten once it has expired."""

    __tablename__ = "artifact_deletion_report"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    organization_id: Mapped[int]
    project_id: Mapped[int]
    looked_at: Mapped[datetime]
    written_before: Mapped[datetime]
    """Only what was written before that is an orphan."""
    expires_at: Mapped[datetime]
    implausible: Mapped[bool]
    """So large a share of the objects or traces may go by it that a person has to look first."""
    totals: Mapped[dict[str, Any]]
    """The report's counts, by class."""


class Orphan(LedgerTable):
    """An artifact, or a comparison under an artifact that has a row: itself without a row, with old objects or trace items."""

    __tablename__ = "artifact_deletion_orphan"
    report_id: Mapped[str] = mapped_column(String(32), ForeignKey(Report.id), primary_key=True)
    artifact_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    base_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """Of a comparison, whose head is the artifact. 0: all of the artifact."""


@dataclass(frozen=True)
class Recorded:
    """A report as the ledger has it."""

    id: str
    organization_id: int
    project_id: int
    looked_at: datetime
    written_before: datetime
    expires_at: datetime
    implausible: bool
    totals: dict[str, Any]
    now: datetime
    """The database's clock when it was read."""

    @property
    def why_unusable(self) -> str | None:
        """Why nothing may be deleted by it, in words that may go to Temporal."""
        if self.now >= self.expires_at:
            return f"it has expired at {self.expires_at:%Y-%m-%d %H:%M:%S} UTC; look again"
        return why_never_usable(self.looked_at - self.written_before, implausible=self.implausible)


def why_never_usable(older_than: timedelta, *, implausible: bool) -> str | None:
    """Why nothing may be deleted by a report, from its first moment on."""
    if older_than < YOUNGEST:
        return "it counts as orphans what was hardly a day old, whose row may not be committed yet; look again"
    if implausible:
        return "so many objects or traces are orphans that a person has to look first, and look again with a higher share"
    return None


_COLUMNS = (
    Report.id,
    Report.organization_id,
    Report.project_id,
    Report.looked_at,
    Report.written_before,
    Report.expires_at,
    Report.implausible,
    Report.totals,
)
_ONE = select(*_COLUMNS, clock()).where(Report.id == bindparam("of"))
_AT_WORK = select(Deletion.request["report"].as_string()).where(
    Deletion.state.in_(OPEN), Deletion.request["report"].as_string().is_not(None)
)
_EXPIRED = select(Report.id).where(Report.expires_at <= clock(), Report.id.not_in(_AT_WORK))
_FORGET = delete(Orphan).where(Orphan.report_id.in_(_EXPIRED)).execution_options(synchronize_session=False)


def write(session: Session, report: Report, orphans: Iterable[int], leftovers: Iterable[tuple[int, int]] = ()) -> None:
    """Write a report down, and forget the lists of expired ones by which no deletion is at work.

    `leftovers`: (head, base) of comparisons.
    """
    session.execute(_FORGET)
    values = {column.key: getattr(report, column.key) for column in _COLUMNS}
    session.execute(insert(Report).values(values))
    waiting = chain(((one, 0) for one in orphans), leftovers)
    while part := list(islice(waiting, _ORPHANS_A_STATEMENT)):
        insert_many(session, Orphan, {"report_id": report.id}, ("artifact_id", "base_id"), part)


def find(session: Session, report_id: str) -> Recorded | None:
    """A report by its id."""
    row = session.execute(_ONE, {"of": report_id}).one_or_none()
    return None if row is None else Recorded(*row)


def get(session: Session, report_id: str) -> Recorded:
    """A report by the id that a deletion has: it stays."""
    return Recorded(*session.execute(_ONE, {"of": report_id}).one())


def listed(session: Session, report_id: str) -> Iterator[int]:
    """The artifacts of which anything may go by it, by id."""
    of_it = select(Orphan.artifact_id).where(Orphan.report_id == report_id)
    return session.execute(of_it.distinct().order_by(Orphan.artifact_id)).scalars()


def leftovers_of(session: Session, report_id: str, artifact_ids: Collection[int]) -> set[tuple[int, int]]:
    """(head, base) of the comparisons that may go by it, of these heads."""
    of_it = select(Orphan.artifact_id, Orphan.base_id).where(Orphan.report_id == report_id, Orphan.base_id != 0)
    return {(head, base) for head, base in session.execute(of_it.where(one_of(Orphan.artifact_id, artifact_ids)))}


def refuse_unlisted(session: Session, request: DeletionRequest) -> None:
    """Raises InvalidRequest unless the request's report may be acted on and lists all of its artifacts."""
    if request.report is None:
        return
    report = find(session, request.report)
    place = (request.organization_id, request.project_id)
    if report is None or (report.organization_id, report.project_id) != place:
        raise InvalidRequest("report: the ledger has no such report of this organization and project; nothing was deleted")
    if why := report.why_unusable:
        raise InvalidRequest(f"report: {why}; nothing was deleted")
    unlisted = len(request.artifact_ids)
    for part in slices(request.artifact_ids):
        of_part = Orphan.report_id == report.id, one_of(Orphan.artifact_id, part)
        unlisted -= session.execute(select(func.count(Orphan.artifact_id.distinct())).where(*of_part)).scalar_one()
    if unlisted:
        raise InvalidRequest(f"report: it does not list {unlisted} of the artifacts; nothing was deleted")
