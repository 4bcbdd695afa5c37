"""The ledger's deletions as lists show them, those too that so far were only asked for."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import BigInteger, Select, String, and_, case, cast, exists, func, literal, null, select, type_coerce, union_all
from sqlalchemy.orm import Session

from activities.ledger.schema import Ask, Deletion, UtcDateTime
from artifact_deletion.outbox import DeletionState, Json
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest
from commands.display import NOTHING, at, in_utc, print_table
from commands.output import warn
from commands.which import shortened
from workflows.text import counted

ENDED = {DeletionState.FAILED, DeletionState.CLOSED}
"""The states whose receipt, if there is one, is of the last run."""
_COLUMNS = ("deletion", "organization", "accepted", "state", "artifacts", "left over", "reference")
_STYLES: dict[str, str] = {DeletionState.FAILED: "red", DeletionState.CLOSED: "green", DeletionState.RUNNING: "cyan"}


@dataclass(frozen=True)
class Listed:
    """A deletion as a line of the list has it."""

    request: DeletionRequest
    state: DeletionState
    accepted: datetime
    left_over: dict[str, int]

    @property
    def as_json(self) -> dict[str, Any]:
        """What scripts get."""
        return {
            "workflow_id": self.request.workflow_id,
            "organization_id": self.request.organization_id,
            "state": self.state,
            "artifacts": len(self.request.artifact_ids),
            "accepted": in_utc(self.accepted),
            "reference": self.request.reference,
            "left_over": self.left_over,
        }


def listed(
    session: Session,
    *,
    organization: int | None = None,
    state: DeletionState | None = None,
    limit: int | None = None,
) -> Iterator[Listed]:
    """Newest first. A row that this version cannot read is named on standard error, and left out."""
    every = union_all(_opened(organization), _asked(organization)).subquery()
    statement = select(every).order_by(every.c.accepted_at.desc(), every.c.id).limit(limit)
    if state is not None:
        statement = statement.where(every.c.state == state)
    for row in session.execute(statement):
        try:
            request = DeletionRequest.model_validate(row.request)
            ended = row.receipt if row.state in ENDED else None
            left_over = {} if ended is None else DeletionReceipt.model_validate(ended).left_over
        except ValidationError:
            warn(f"{_named(row.organization_id, row.id)}: its request or receipt is none that this version knows")
            continue
        yield Listed(request, DeletionState(row.state), row.accepted_at, left_over)


def _named(organization_id: int | None, deletion_id: str) -> str:
    return deletion_id if organization_id is None else f"delete-artifacts/{organization_id}/{deletion_id}"


def _opened(organization: int | None) -> Select[Any]:
    """Deletions that a run has begun, which may have been asked for anew since."""
    anew = exists().where(Ask.c.deletion_id == Deletion.id, Ask.c.served_at.is_(None))
    waits = and_(anew, Deletion.state != DeletionState.RUNNING)
    state = case((waits, literal(DeletionState.ACCEPTED.value, String())), else_=Deletion.state)
    found = select(
        Deletion.id, Deletion.organization_id, Deletion.request, state.label("state"), Deletion.receipt, Deletion.accepted_at
    )
    return found if organization is None else found.where(Deletion.organization_id == organization)


def _asked(organization: int | None) -> Select[Any]:
    """Deletions that no run has begun yet: the first ask of each."""
    begun = exists().where(Deletion.id == Ask.c.deletion_id)
    first = select(func.min(Ask.c.id)).where(~begun).group_by(Ask.c.deletion_id)
    found = select(
        Ask.c.deletion_id,
        cast(null(), BigInteger),
        Ask.c.request,
        literal(DeletionState.ACCEPTED.value, String()),
        cast(null(), Json),
        type_coerce(Ask.c.asked_at, UtcDateTime),
    ).where(Ask.c.id.in_(first))
    if organization is None:
        return found
    # As text: another language may have written anything there.
    return found.where(cast(Ask.c.request["organization_id"].as_string(), String) == str(organization))


def print_list(session: Session, found: Collection[Listed], *, utc: bool) -> None:
    """For a person."""
    digests = shortened(session, [one.request.deletion_id for one in found])
    print_table(
        _COLUMNS,
        (
            (
                digests[one.request.deletion_id],
                str(one.request.organization_id),
                at(one.accepted, utc=utc, seconds=False),
                one.state,
                f"{len(one.request.artifact_ids):,}",
                counted(one.left_over) or NOTHING,
                one.request.reference or NOTHING,
            )
            for one in found
        ),
        styles=_STYLES,
    )
