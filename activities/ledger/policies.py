"""How long artifacts are kept: the most specific policy counts, and without any policy an artifact is kept for ever."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Double, FunctionElement, ScalarSelect, and_, delete, func, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler

from activities.ledger.schema import Policy


@dataclass(frozen=True)
class Scope:
    """What a policy is about. None: every one."""

    organization_id: int | None
    project_id: int | None
    kind: str | None

    def __str__(self) -> str:
        named = (("organization", self.organization_id), ("project", self.project_id), ("kind", self.kind))
        return ", ".join(f"{name} {value}" for name, value in named if value is not None) or "everything"


@dataclass(frozen=True)
class Kept:
    """A policy."""

    scope: Scope
    days: int | None
    """None: for ever."""
    grace_s: int
    """For so long the deletion of what has expired waits."""
    set_by: str
    set_at: datetime


class days_since(FunctionElement[float]):  # noqa: N801  it is used as a function
    """How many days ago a time was, by the database's clock."""

    type = Double()
    inherit_cache = True


@compiles(days_since, "postgresql")
def _days_of_postgresql(element: days_since, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXTRACT(EPOCH FROM now() - {compiler.process(element.clauses, **options)}) / 86400"


@compiles(days_since, "sqlite")
def _days_of_sqlite(element: days_since, compiler: SQLCompiler, **options: Any) -> str:
    return f"(julianday('now') - julianday({compiler.process(element.clauses, **options)}))"


def set_policy(session: Session, scope: Scope, days: int | None, *, by: str, grace_s: int = 0) -> None:
    """Set how long artifacts of the scope are kept, in place of what was set before."""
    remove(session, scope)
    of = {"organization_id": scope.organization_id, "project_id": scope.project_id, "kind": scope.kind}
    session.add(Policy(**of, days=days, grace_s=grace_s or None, set_by=by))
    session.flush()


def remove(session: Session, scope: Scope) -> bool:
    """Remove the policy of this very scope. False if there is none."""
    of = (
        Policy.organization_id.is_not_distinct_from(scope.organization_id),
        Policy.project_id.is_not_distinct_from(scope.project_id),
        Policy.kind.is_not_distinct_from(scope.kind),
    )
    return bool(session.execute(delete(Policy).where(*of).returning(Policy.id)).all())


def policies(session: Session) -> Sequence[Kept]:
    """All of them, the most general first."""
    by_scope = (Policy.organization_id, Policy.project_id, Policy.kind)
    found = select(*by_scope, Policy.days, func.coalesce(Policy.grace_s, 0), Policy.set_by, Policy.set_at)
    found = found.order_by(*(column.nulls_first() for column in by_scope), Policy.id)
    return [Kept(Scope(*row[:3]), *row[3:]) for row in session.execute(found)]


def kept_days(organization: Any, project: Any, kind: Any) -> ScalarSelect[Any]:
    """A column: the days of the policy that counts for an artifact, null without one and where it is kept for ever."""
    return _of_policy(Policy.days, organization, project, kind)


def grace_s(organization: Any, project: Any, kind: Any) -> Any:
    """A column: for how long the deletion waits by the policy that counts for an artifact."""
    return func.coalesce(_of_policy(Policy.grace_s, organization, project, kind), 0)


def _of_policy(column: Any, organization: Any, project: Any, kind: Any) -> ScalarSelect[Any]:
    of_all_projects, of_all = Policy.project_id.is_(None), Policy.organization_id.is_(None)
    return (
        select(column)
        .where(_is(Policy.organization_id, organization), _is(Policy.project_id, project), _is(Policy.kind, kind))
        # False comes first: a project's before an organization's, and of the same one that of a kind.
        .order_by(of_all_projects, and_(of_all_projects, of_all), Policy.kind.is_(None), Policy.id.desc())
        .limit(1)
        .correlate_except(Policy)
        .scalar_subquery()
    )


def _is(column: Any, value: Any) -> ColumnElement[bool]:
    return or_(column.is_(None), column == value)
