"""Which artifacts a bulk deletion is about. A preview of retention looks at the same, and so does each step before rows go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from activities.backend.contract import Backend
from activities.ledger.deletions import in_one_that_waits
from activities.ledger.policies import days_since, grace_s, kept_days
from activities.ledger.schema import clock
from activities.one_of import one_of
from artifact_deletion.bulk import BulkRequest

AGES = (30, 90, 180, 365)
"""Days: the limits between the columns of a preview's histogram."""
_JUDGED_AT_ONCE = 1000
"""Artifacts."""


@dataclass(frozen=True)
class Expired:
    """Expired artifacts of one kind in one project."""

    organization_id: int
    project_id: int
    kind: str
    by_age: tuple[int, ...]
    """How many are younger than each of AGES, and how many are older."""
    grace_s: int = 0
    """For so long their deletion will wait."""


def selected(backend: Backend, request: BulkRequest) -> Select[*tuple[Any, ...]]:
    """(artifact id, project id, organization id, …) of each of them that has a row."""
    return _asked_for(expired(backend) if request.expired else backend.living, request)


def _asked_for(found: Select[*tuple[Any, ...]], request: BulkRequest) -> Select[*tuple[Any, ...]]:
    _, project, organization, *_ = found.selected_columns
    found = found.where(organization == request.organization_id)
    return found if request.project_id is None else found.where(project == request.project_id)


def expired(backend: Backend) -> Select[*tuple[Any, ...]]:
    """(artifact id, project id, organization id, when it was added, kind, since when it is not needed, grace) of expired ones.

    Those are left out that a deletion has already which waits for its time.
    """
    found = _past_their_days(backend)
    artifact, project, organization, _, kind, _ = found.selected_columns
    found = found.where(~in_one_that_waits(artifact))
    return found.add_columns(grace_s(organization, project, kind).label("grace_s"))


def not_expired(
    session: Session, backend: Backend, places: Mapping[int, tuple[int, int]], organization_id: int
) -> dict[int, int]:
    """The projects of those artifacts of the organization that have not expired, given where all of them are."""
    found = _past_their_days(backend)
    artifact = next(iter(found.selected_columns))
    found = found.with_only_columns(artifact).where(one_of(artifact, places.keys()))
    gone_by = set(session.execute(found).scalars())
    return {one: project for one, (project, of) in places.items() if of == organization_id and one not in gone_by}


def _past_their_days(backend: Backend) -> Select[*tuple[Any, ...]]:
    aged = backend.bulk.aged(backend.artifacts)
    _, project, organization, added, kind, since = aged.selected_columns
    days = kept_days(organization, project, kind)
    # A base is at least as old as its head needs it to be. The first condition alone spares most artifacts the second.
    return aged.where(days_since(added) >= days, days_since(since) >= days)


def count(session: Session, backend: Backend, request: BulkRequest) -> int:
    """How many there are now."""
    of = selected(backend, request).order_by(None).subquery()
    return session.execute(select(func.count()).select_from(of)).scalar_one()


def next_page(
    session: Session, backend: Backend, request: BulkRequest, after: int, at_most: int
) -> tuple[tuple[int, ...], datetime | None]:
    """The next of them by their ids, and until when their deletion waits: as long as the longest of their policies says."""
    if not request.expired:
        return tuple(_next_ids(session, backend, request, after, at_most)), None
    found = expired(backend)
    artifact, *_, waits = found.selected_columns
    found = found.with_only_columns(artifact, waits).order_by(artifact)
    rows: list[Any] = []
    # PostgreSQL would judge all that follow to take the first of them.
    while len(rows) < at_most and (ids := _next_ids(session, backend, request, after, _JUDGED_AT_ONCE)):
        rows += session.execute(found.where(one_of(artifact, ids)).limit(at_most - len(rows))).all()
        after = ids[-1]
    grace = max((row[-1] for row in rows), default=0)
    begins = session.execute(select(clock())).scalar_one() + timedelta(seconds=grace) if grace else None
    return tuple(row[0] for row in rows), begins


def _next_ids(session: Session, backend: Backend, request: BulkRequest, after: int, at_most: int) -> Sequence[int]:
    living = _asked_for(backend.living, request)
    artifact = next(iter(living.selected_columns))
    living = living.with_only_columns(artifact).where(artifact > after).order_by(artifact).limit(at_most)
    return session.execute(living).scalars().all()


def organizations_with_expired(session: Session, backend: Backend) -> Sequence[int]:
    """Those of which artifacts have expired, in order."""
    organization = expired(backend).subquery().columns[2]
    return session.execute(select(organization).distinct().order_by(organization)).scalars().all()


def expired_by_project(session: Session, backend: Backend) -> Sequence[Expired]:
    """How many artifacts have expired."""
    of = expired(backend).subquery()
    _, project, organization, added, kind, _, grace = of.columns
    bounds = zip((0, *AGES), (*AGES, None), strict=True)
    ages = [func.count(case((_between(days_since(added), *bound), 1))) for bound in bounds]
    each = organization, project, kind, grace
    rows = session.execute(select(*each, *ages).group_by(*each).order_by(*each))
    return [Expired(row[0], row[1], row[2], tuple(row[4:]), row[3]) for row in rows]


def _between(days: Any, least: int, below: int | None) -> Any:
    return days >= least if below is None else (days >= least) & (days < below)
