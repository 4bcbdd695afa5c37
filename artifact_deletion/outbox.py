"""The outbox: a backend asks for a deletion in its own transaction, and reads back how it went.

An ask is one INSERT, without any lock. From its commit on the deletion will happen, Temporal up or down: `resume` starts every
deletion that has an ask which no run has served. Other languages do the same INSERT (docs/backend.md).

The table of asks is the contract's own. Of the service's table of deletions only the columns are read that stand here, by
processes that may be older or newer than the service: a column that is new is used a release after it exists.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    select,
    union,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest

LEDGER_SCHEMA = "artifact_deletion"
"""The schema of the service's tables. SQLite has no schemas: there they stand beside the backend's."""
Json = JSON().with_variant(JSONB(), "postgresql")
_log = logging.getLogger("artifact_deletion.outbox")
_contract = MetaData(schema=LEDGER_SCHEMA)


class DeletionState(StrEnum):
    """The life of a deletion."""

    ACCEPTED = "accepted"
    """It was asked for, and no run has served that ask yet."""
    RUNNING = "running"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    CLOSED = "closed"


ask_table = Table(
    "artifact_deletion_ask",
    _contract,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("deletion_id", String(32), nullable=False),
    Column("request", Json, nullable=False),
    Column("reason", Text),
    Column("run_id", String(64)),
    Column("asked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("served_at", DateTime(timezone=True)),
    UniqueConstraint("deletion_id", "run_id"),
)
"""Append-only. `reason` is free text that never leaves the database; `run_id` is Temporal's, of a run that asked by itself."""
_UNSERVED = ask_table.c.served_at.is_(None)
Index("artifact_deletion_ask_unserved", ask_table.c.deletion_id, postgresql_where=_UNSERVED, sqlite_where=_UNSERVED)

_deletion = Table(
    "artifact_deletion",
    _contract,
    Column("id", String(32), primary_key=True),
    Column("request", Json),
    Column("state", String(16)),
    Column("receipt", Json),
    Column("accepted_at", DateTime(timezone=True)),
)


class NoSuchDeletion(LookupError):
    """The ledger knows no deletion of that id, or none that this version can read."""


@dataclass(frozen=True)
class Recorded:
    """A deletion as the ledger has it."""

    request: DeletionRequest
    state: DeletionState
    accepted_at: datetime
    receipt: DeletionReceipt | None


def accept_deletion(session: Session | Connection, request: DeletionRequest, *, reason: str | None = None) -> str:
    """Ask for a deletion in the caller's own transaction, and return its workflow id. Asking twice is asking once.

    With an AsyncSession: `await session.run_sync(accept_deletion, request)`. `reason` is free text for the ledger alone; it
    never reaches Temporal. Once the caller has committed, the deletion will happen.
    """
    values = {"deletion_id": request.deletion_id, "request": request.model_dump(mode="json"), "reason": reason}
    execute(session, ask_table.insert().values(values))
    return request.workflow_id


def recorded(session: Session | Connection, workflow: str) -> Recorded:
    """A deletion by its workflow id, or by the digest at its end. Raises NoSuchDeletion."""
    wanted = workflow.rpartition("/")[2]
    asks = execute(
        session,
        select(ask_table.c.request, ask_table.c.asked_at, ask_table.c.served_at)
        .where(ask_table.c.deletion_id == wanted)
        .order_by(ask_table.c.id),
    ).all()
    found = execute(session, select(_deletion).where(_deletion.c.id == wanted)).one_or_none()
    if found is None and not asks:
        raise NoSuchDeletion(f"the ledger knows no deletion {workflow!r}")
    requests = [ask.request for ask in asks] if found is None else [found.request]
    request = next(filter(None, (_readable(wanted, one) for one in requests)), None)
    if request is None:
        raise NoSuchDeletion(f"this version cannot read the request of deletion {wanted} in the ledger")
    anew = [ask.asked_at for ask in asks if ask.served_at is None]
    waits = found is None or (anew and found.state != DeletionState.RUNNING)
    if found is None:
        accepted_at = asks[0].asked_at
    elif waits and found.state != DeletionState.FAILED:  # it had ended: its time counts from the ask that is not served
        accepted_at = anew[0]
    else:
        accepted_at = found.accepted_at
    receipt = None if found is None or found.receipt is None else DeletionReceipt.model_validate(found.receipt)
    return Recorded(
        request=request,
        state=DeletionState.ACCEPTED if found is None or waits else DeletionState(found.state),
        accepted_at=_in_utc(accepted_at),
        receipt=receipt,
    )


def deletions_to_start(session: Session | Connection) -> Iterator[DeletionRequest]:
    """Each deletion that is running by the ledger, or has an ask that no run has served: `resume` looks whether one runs it."""
    unserved = select(ask_table.c.deletion_id.label("id")).where(_UNSERVED)
    running = select(_deletion.c.id).where(_deletion.c.state == DeletionState.RUNNING)
    wanted = union(unserved, running).subquery()
    each = select(func.min(ask_table.c.id)).join(wanted, wanted.c.id == ask_table.c.deletion_id)
    each = each.group_by(ask_table.c.deletion_id, ask_table.c.request)
    asks = select(ask_table.c.deletion_id, ask_table.c.request).where(ask_table.c.id.in_(each)).order_by(ask_table.c.id)
    found = set[str]()
    for deletion_id, asked in execute(session, asks).all():
        if deletion_id not in found and (request := _readable(deletion_id, asked)) is not None:
            found.add(deletion_id)
            yield request


def _readable(deletion_id: str, asked: object) -> DeletionRequest | None:
    """The request of an ask that other hands may have written. One that is none keeps no other from being served."""
    try:
        request = DeletionRequest.model_validate(asked)
    except ValidationError:
        _log.error("deletion %s: this version cannot read its request in the ledger", deletion_id)
        return None
    if request.deletion_id != deletion_id:
        _log.error("deletion %s: its request's own id is %s", deletion_id, request.deletion_id)
        return None
    return request


def execute(session: Session | Connection, statement: Any) -> Any:
    """Run a statement about the service's tables, wherever they stand."""
    bind = session if isinstance(session, Connection) else session.get_bind()
    names = {} if bind.dialect.name == "postgresql" else {"schema_translate_map": {LEDGER_SCHEMA: None}}
    return session.execute(statement, execution_options=names)


def _in_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
