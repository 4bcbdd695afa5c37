"""Looks whether this role of the database may do its work: by statements that do nothing, and are undone all the same."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import Table, cast, column, delete, false, func, insert, null, select, table, update
from sqlalchemy.exc import DBAPIError

from activities.backend.used import Use, operator_uses, worker_uses
from activities.database import Database
from activities.ledger.image_schema import ImagePage, ImageRow, Snapshot
from activities.ledger.schema import (
    Ask,
    Deletion,
    DeletionArtifact,
    DeletionChunk,
    DeletionPage,
    DeletionPrefix,
    Hold,
    Limit,
    Policy,
)
from artifact_deletion.errors import DeletionError
from artifact_deletion.outbox import LEDGER_SCHEMA
from commands.examine.finding import BAD, OK, SKIPPED, Finding
from migrations import VERSION_TABLE
from settings import DatabaseSettings, Settings


class Role(StrEnum):
    """Whose role of the database it is."""

    WORKER = "worker"
    BACKEND = "backend"
    """Accepts deletions; the relay."""
    OPERATOR = "operator"


_WORK = "SELECT INSERT UPDATE DELETE"
_LEDGER: dict[Role, dict[Any, str]] = {
    Role.WORKER: {
        Ask: "SELECT INSERT UPDATE",
        Deletion: "SELECT INSERT UPDATE",
        DeletionArtifact: _WORK,
        DeletionChunk: _WORK,
        DeletionPage: _WORK,
        DeletionPrefix: _WORK,
        ImagePage: _WORK,
        ImageRow: _WORK,
        Snapshot: _WORK,
        Hold: "SELECT INSERT",
        Limit: "SELECT UPDATE",
        Policy: "SELECT",
    },
    Role.BACKEND: {
        Ask: "SELECT INSERT",
        Deletion: "SELECT",
        DeletionChunk: "SELECT",
        ImagePage: "SELECT",
        ImageRow: "SELECT",
    },
    Role.OPERATOR: {
        Ask: "SELECT INSERT",
        Deletion: "SELECT",
        DeletionArtifact: "SELECT",
        DeletionChunk: "SELECT",
        ImagePage: "SELECT",
        ImageRow: "SELECT",
        Snapshot: "SELECT",
        Hold: "SELECT INSERT UPDATE",
        Policy: "SELECT INSERT DELETE",
    },
}
_COLUMNS: dict[tuple[Role, Any], tuple[str, ...]] = {
    (Role.BACKEND, Deletion): ("id", "request", "state", "receipt", "accepted_at"),
    (Role.BACKEND, DeletionChunk): ("deletion_id", "chunk", "state"),
    (Role.BACKEND, ImagePage): ("deletion_id", "chunk", "organization_id", "project_id", "decided_at"),
    (Role.BACKEND, ImageRow): ("organization_id", "project_id"),
    (Role.WORKER, Limit): ("id", "used_until"),
}
"""Those that a role needs, where it needs not all."""
_WRITTEN: dict[tuple[Any, str], tuple[str, ...]] = {
    (Ask, "INSERT"): ("deletion_id", "request"),
    (Ask, "UPDATE"): ("served_at",),
    (Limit, "UPDATE"): ("used_until",),
}
_NO_RIGHT, _READ_ONLY = "42501", ("25006", "SQLITE_READONLY")
_NOT_THERE = {"42P01", "42703", "3F000", "SQLITE_ERROR"}
"""A table or column that is absent is another finding's business."""


def examine_rights(database: Database, settings: DatabaseSettings, role: Role, *, ledger: bool, backend: bool) -> Finding:
    """`ledger`, `backend`: whether these tables are there to be looked at."""
    uses = [*(_ledger_uses(role) if ledger else ()), *(_backend_uses(settings, role) if backend else ())]
    if not uses:
        return Finding("rights", SKIPPED, "there are no tables to try them on")
    try:
        user, lacking = _try_all(database, uses)
    except DeletionError as error:
        if any(state in str(error) for state in _READ_ONLY):
            return Finding(
                "rights", BAD, "the database takes no writes: it is read-only", "is it a replica, or in maintenance?"
            )
        return Finding("rights", BAD, str(error), "is the database busy, or about to stop?")
    if lacking:
        said = "; ".join(f"{', '.join(rights)} on {name}" for name, rights in sorted(lacking.items()))
        return Finding("rights", BAD, f"{user} lacks {said}", f"grant what the {role}'s role needs, as deploy/grants.sql does")
    return Finding("rights", OK, f"{user} may do what {'an' if role is Role.OPERATOR else 'a'} {role} does")


def _try_all(database: Database, uses: Iterable[Use]) -> tuple[str, Mapping[str, list[str]]]:
    """Return who tried, and the rights that are lacking by table. Raises DatabaseUnavailable."""
    user, lacking = "this user", defaultdict[str, list[str]](list)
    with database.write() as session:
        if database.is_postgresql:
            user = f"role {session.execute(select(func.current_user())).scalar_one()}"
        for use in uses:
            try:
                with session.begin_nested():
                    session.execute(use.statement)
            except DBAPIError as error:
                state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
                if state == _NO_RIGHT:
                    lacking[use.table].append(use.right)
                elif state not in _NOT_THERE:
                    raise
        session.rollback()
    return user, lacking


def _ledger_uses(role: Role) -> Iterator[Use]:
    """A statement for each right on each table of ours."""
    versions = table(VERSION_TABLE, schema=LEDGER_SCHEMA)
    yield Use(VERSION_TABLE, "SELECT", select(column("version_num")).select_from(versions).where(false()))
    for mapped, rights in _LEDGER[role].items():
        of: Table = mapped if isinstance(mapped, Table) else mapped.__table__
        names = _COLUMNS.get((role, mapped), tuple(of.columns.keys()))
        for right in rights.split():
            yield Use(of.name, right, _statement(of, right, _WRITTEN.get((mapped, right), names)))


def _statement(of: Table, right: str, names: Iterable[str]) -> Any:
    columns = [of.columns[name] for name in names]
    if right == "SELECT":
        return select(*columns).where(false())
    if right == "INSERT":
        return insert(of).from_select(columns, select(*(cast(null(), one.type) for one in columns)).where(false()))
    if right == "UPDATE":
        return update(of).where(false()).values({one: one for one in columns if not one.primary_key})
    return delete(of).where(false())


def _backend_uses(settings: DatabaseSettings, role: Role) -> Iterator[Use]:
    if role is Role.OPERATOR:
        yield from operator_uses()
    elif role is Role.WORKER and isinstance(settings, Settings):
        yield from worker_uses(deletes=settings.serves != "objects", sql_traces=settings.trace_store == "sql")
    elif role is Role.WORKER:
        yield from worker_uses(deletes=True, sql_traces=False)
