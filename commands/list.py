"""`list`: the ledger's deletions."""

import json
from collections.abc import Iterable
from typing import Annotated

import typer

from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import Stage
from artifact_deletion.request import DELETE_WORKFLOW
from commands import options
from commands.exit_codes import DONE
from commands.ledger import open_ledger
from commands.listed import listed, print_list
from commands.output import say
from workflows.text import NOTHING_DELETED, PAST_RETURN


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
        say(json.dumps(one.as_json))
    return DONE
