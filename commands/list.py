"""`list`: the ledger's deletions, also those that so far were only asked for."""

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy import BigInteger, Select, String, and_, case, cast, exists, func, literal, null, select, type_coerce, union_all
from sqlalchemy.orm import Session

from activities.ledger.schema import Ask, Deletion, UtcDateTime
from artifact_deletion.outbox import DeletionState, Json, Recorded
from artifact_deletion.receipt import DeletionReceipt, Stage
from artifact_deletion.request import DELETE_WORKFLOW, DeletionRequest
from commands import options
from commands.connection import open_ledger
from commands.display import NOTHING, at, in_utc, print_table
from commands.exit_codes import DONE
from commands.output import say, warn
from commands.which import ENDED, left_over, shortened
from workflows.text import NOTHING_DELETED, PAST_RETURN, counted


def _stages(stages: Iterable[Stage]) -> str:
    quoted = [f'"{stage}"' for stage in stages]
    return f"({', '.join(quoted)})"


LIST_FILTERS = {
    "all with leftovers": "Leftovers > 0",
    "all of organization 42": 'OrganizationId = "42"',
    "all that run, past the point of no return": f'ExecutionStatus = "Running" AND DeletionStage IN {_stages(PAST_RETURN)}',
    "nothing deleted in this run yet": f'ExecutionStatus = "Running" AND DeletionStage IN {_stages(NOTHING_DELETED)}',
    "all that failed": f'WorkflowType = "{DELETE_WORKFLOW}" AND ExecutionStatus = "Failed"',
}
"""For the Web UI's list of workflows, and for `temporal workflow list --query`."""
_COLUMNS = ("deletion", "organization", "accepted", "state", "artifacts", "left over", "reference")
_STYLES: dict[str, str] = {DeletionState.FAILED: "red", DeletionState.CLOSED: "green", DeletionState.RUNNING: "cyan"}

State = Annotated[DeletionState | None, typer.Option(case_sensitive=False, help="those in this state")]
Limit = Annotated[int, typer.Option(parser=options.positive, metavar="N", help="so many at most")]
Filters = Annotated[bool, typer.Option("--filters", help="print filters for the list in Temporal's Web UI instead")]


def list_deletions(
    *,
    organization: options.OneOrganization = None,
    state: State = None,
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
    with open_ledger() as database, database.read() as session:
        found = list(listed(session, organization=organization, state=state, limit=limit))
        if not as_json:
            print_list(session, found, utc=utc)
            return DONE
    for one in found:
        answer = {
            "workflow_id": one.request.workflow_id,
            "organization_id": one.request.organization_id,
            "state": one.state,
            "artifacts": len(one.request.artifact_ids),
            "accepted": in_utc(one.accepted_at),
            "reference": one.request.reference,
            "left_over": left_over(one),
        }
        say(json.dumps(answer))
    return DONE


def listed(
    session: Session, *, organization: int | None = None, state: DeletionState | None = None, limit: int | None = None
) -> Iterator[Recorded]:
    """Read deletions, newest first. A row that this version cannot read is named on standard error, and left out."""
    every = union_all(_opened(organization), _asked(organization)).subquery()
    statement = select(every).order_by(every.c.accepted_at.desc(), every.c.id).limit(limit)
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
    """Select the deletions that a run has begun. They may have been asked for anew since."""
    anew = exists().where(Ask.c.deletion_id == Deletion.id, Ask.c.served_at.is_(None))
    waits = and_(anew, Deletion.state != DeletionState.RUNNING)
    state = case((waits, literal(DeletionState.ACCEPTED.value, String())), else_=Deletion.state)
    found = select(
        Deletion.id, Deletion.organization_id, Deletion.request, state.label("state"), Deletion.receipt, Deletion.accepted_at
    )
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


def print_list(session: Session, found: Collection[Recorded], *, utc: bool) -> None:
    """Print deletions for a person."""
    digests = shortened(session, [one.request.deletion_id for one in found])
    rows = [
        (
            digests[one.request.deletion_id],
            str(one.request.organization_id),
            at(one.accepted_at, utc=utc, seconds=False),
            one.state,
            f"{len(one.request.artifact_ids):,}",
            counted(left_over(one)) or NOTHING,
            one.request.reference or NOTHING,
        )
        for one in found
    ]
    print_table(_COLUMNS, rows, styles=_STYLES)
