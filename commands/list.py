"""`list`: the ledger's deletions, also those that so far were only asked for."""

import json
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy import BigInteger, Select, String, and_, case, cast, exists, func, literal, null, select, type_coerce, union_all
from sqlalchemy.orm import Session

from activities.ledger import deletions
from activities.ledger.deletions import UNFINISHED
from activities.ledger.schema import Ask, Deletion, UtcDateTime, clock
from artifact_deletion.outbox import DeletionState, Json, Recorded
from artifact_deletion.receipt import DeletionReceipt, Stage
from artifact_deletion.request import DELETE_WORKFLOW, DeletionRequest
from commands import options
from commands.connection import open_ledger
from commands.display import NOTHING, at, in_utc, print_table
from commands.exit_codes import DONE
from commands.output import say, warn
from commands.which import ENDED, left_over, shortened
from settings import DatabaseSettings, load
from workflows.text import NOTHING_DELETED, PAST_RETURN, counted


def _stages(stages: Iterable[Stage]) -> str:
    quoted = [f'"{stage}"' for stage in stages]
    return f"({', '.join(quoted)})"


LIST_FILTERS = {
    "all with leftovers": "Leftovers > 0",
    "all of organization 42": 'OrganizationId = "42"',
    "all that run, past the point of no return": f'ExecutionStatus = "Running" AND DeletionStage IN {_stages(PAST_RETURN)}',
    "nothing deleted in this run yet": f'ExecutionStatus = "Running" AND DeletionStage IN {_stages(NOTHING_DELETED)}',
    "all that wait for their time": f'ExecutionStatus = "Running" AND DeletionStage = "{Stage.WAITING}"',
    "all that failed": f'WorkflowType = "{DELETE_WORKFLOW}" AND ExecutionStatus = "Failed"',
}
"""For the Web UI's list of workflows, and for `temporal workflow list --query`."""
_COLUMNS = ("deletion", "organization", "accepted", "state", "artifacts", "left over", "reference")
_DAY = timedelta(days=1)
_STYLES: dict[str, str] = {DeletionState.FAILED: "red", DeletionState.CLOSED: "green", DeletionState.RUNNING: "cyan"}

State = Annotated[DeletionState | None, typer.Option(case_sensitive=False, help="those in this state")]
Overdue = Annotated[
    bool, typer.Option("--overdue", help="those beyond the days that were promised (PROMISED_DAYS), the oldest first")
]
Limit = Annotated[int, typer.Option(parser=options.positive, metavar="N", help="so many at most")]
Filters = Annotated[bool, typer.Option("--filters", help="print filters for the list in Temporal's Web UI instead")]


def list_deletions(
    *,
    organization: options.OneOrganization = None,
    state: State = None,
    overdue: Overdue = False,
    limit: Limit = 50,
    filters: Filters = False,
    as_json: options.Json = False,
    utc: options.Utc = False,
) -> int:
    """List deletions, newest first.

    A digest's first digits are enough wherever a deletion is asked for. The filters are for Temporal's Web UI, or for `temporal
    workflow list --query`. A line there is a run: one with leftovers keeps them there, also when a later run has dealt with
    them, and the deletion is closed here.
    """
    if filters:
        for what, query in LIST_FILTERS.items():
            say(f"{what}:\n  {query}")
        return DONE
    promised = load(DatabaseSettings).promised
    with open_ledger() as database, database.read() as session:
        now = session.execute(select(clock())).scalar_one()
        before = now - promised if overdue else None
        found = list(listed(session, organization=organization, state=state, limit=limit, asked_before=before))
        if not as_json:
            print_list(session, found, utc=utc, now=now if overdue else None)
            return DONE
        waiting = _waiting(session, found)
    for one in found:
        say(json.dumps(_as_json(one, now, promised, waiting.get(one.request.deletion_id))))
    return DONE


def _as_json(one: Recorded, now: datetime, promised: timedelta, waits_until: datetime | None) -> dict[str, Any]:
    age = now - one.accepted_at if one.state in UNFINISHED else None
    return {
        "workflow_id": one.request.workflow_id,
        "organization_id": one.request.organization_id,
        "state": one.state,
        "waits_until": waits_until and in_utc(waits_until),
        "artifacts": len(one.request.artifact_ids),
        "accepted": in_utc(one.accepted_at),
        "age_days": None if age is None else round(age / _DAY, 2),
        "overdue": age is not None and age > promised,
        "reference": one.request.reference,
        "left_over": left_over(one),
    }


def listed(
    session: Session,
    *,
    organization: int | None = None,
    state: DeletionState | None = None,
    limit: int | None = None,
    asked_before: datetime | None = None,
) -> Iterator[Recorded]:
    """Read deletions, newest first; `asked_before`: unfinished ones that were asked for before that, oldest first.

    A row that this version cannot read is named on standard error, and left out.
    """
    every = union_all(_opened(organization), _asked(organization)).subquery()
    first = every.c.accepted_at.desc() if asked_before is None else every.c.accepted_at
    statement = select(every).order_by(first, every.c.id).limit(limit)
    if asked_before is not None:
        statement = statement.where(every.c.accepted_at < asked_before, every.c.state.in_(UNFINISHED))
    if state is not None:
        statement = statement.where(every.c.state == state)
    for row in session.execute(statement):
        try:
            request = DeletionRequest.model_validate(row.request)
            ended = row.receipt if row.state in ENDED else None
            receipt = None if ended is None else DeletionReceipt.model_validate(ended)
        except ValidationError:
            named = row.id if row.organization_id is None else f"delete-artifacts/{row.organization_id}/{row.id}"
            warn(f"{named}: its request or receipt is none that this version knows")
            continue
        yield Recorded(request, DeletionState(row.state), row.accepted_at, receipt)


def _opened(organization: int | None) -> Select[Any]:
    """Select the deletions that a run has begun. They may have been asked for anew since; then the time is that of the ask."""
    asks = Ask.c.deletion_id == Deletion.id, Ask.c.served_at.is_(None)
    waits = and_(exists().where(*asks), Deletion.state != DeletionState.RUNNING)
    state = case((waits, literal(DeletionState.ACCEPTED.value, String())), else_=Deletion.state)
    anew = select(type_coerce(func.min(Ask.c.asked_at), UtcDateTime)).where(*asks).scalar_subquery()
    accepted_at = case((and_(waits, Deletion.state != DeletionState.FAILED), anew), else_=Deletion.accepted_at)
    columns = Deletion.id, Deletion.organization_id, Deletion.request, state.label("state"), Deletion.receipt
    found = select(*columns, accepted_at.label("accepted_at"))
    return found if organization is None else found.where(Deletion.organization_id == organization)


def _asked(organization: int | None) -> Select[Any]:
    """Select the deletions that no run has begun yet: the first ask of each."""
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


def _waiting(session: Session, found: Iterable[Recorded]) -> dict[str, datetime]:
    return deletions.waiting(session, [one.request.deletion_id for one in found])


def print_list(session: Session, found: Collection[Recorded], *, utc: bool, now: datetime | None = None) -> None:
    """Print deletions for a person; `now`: with the days since each was asked for."""
    digests = shortened(session, [one.request.deletion_id for one in found])
    until = {id_: f"waits until {at(time, utc=utc, seconds=False)}" for id_, time in _waiting(session, found).items()}
    rows = [
        (
            digests[one.request.deletion_id],
            str(one.request.organization_id),
            at(one.accepted_at, utc=utc, seconds=False),
            *(() if now is None else (f"{(now - one.accepted_at) / _DAY:.1f}",)),
            until.get(one.request.deletion_id, one.state),
            f"{len(one.request.artifact_ids):,}",
            counted(left_over(one)) or NOTHING,
            one.request.reference or NOTHING,
        )
        for one in found
    ]
    columns = _COLUMNS if now is None else (*_COLUMNS[:3], "days", *_COLUMNS[3:])
    print_table(columns, rows, styles=_STYLES)
