"""`rerun`: run a deletion again that failed or was cancelled; it does the rest."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer
from temporalio.client import Client, WorkflowFailureError

from activities.database import Database
from artifact_deletion.client import is_running, start_deletion
from artifact_deletion.errors import TemporalUnreachable, WorkflowIdTaken
from artifact_deletion.outbox import DeletionState, Recorded, accept_deletion, recorded
from artifact_deletion.request import DeletionRequest
from commands import options
from commands.connection import connect, open_ledger
from commands.exit_codes import AWAY, BAD_USAGE, DONE, FAILED, BadUsage
from commands.following import start_and_follow
from commands.list import listed, print_list
from commands.output import confirmed, say, warn
from commands.which import find, left_over
from workflows.text import counted

AllFailed = Annotated[bool, typer.Option("--all-failed", help="all that failed, as after an outage; shows them and asks")]
Some = Annotated[int | None, typer.Option(parser=options.number, metavar="N", help="of all that failed, one organization's")]
Yes = Annotated[bool, typer.Option("--yes", help="of all that failed, ask no question")]


async def rerun(
    *,
    deletion: options.AnyDeletion = None,
    all_failed: AllFailed = False,
    organization: Some = None,
    yes: Yes = False,
    wait: options.Wait = False,
    as_json: options.Json = False,
    utc: options.Utc = False,
) -> int:
    """Run a failed or cancelled deletion again: it does the rest.

    One that a run is at work on already is left to it.
    """
    if (deletion is None) != all_failed:
        raise BadUsage("name one deletion, or --all-failed")
    with open_ledger() as database:
        if deletion is None:
            return await _rerun_all(database, organization, yes=yes, wait=wait, as_json=as_json, utc=utc)
        with database.read() as session:
            request = find(session, deletion).request
        running = False
        with contextlib.suppress(*AWAY, TemporalUnreachable, WorkflowIdTaken):
            running = await is_running(await connect(), request)
        if not running:  # one that Reset took up must be left to close what it found failed
            _ask(database, request)
        return await start_and_follow(database, request, wait=wait, as_json=as_json, utc=utc)


def _ask(database: Database, request: DeletionRequest) -> None:
    with database.write() as session:
        accept_deletion(session, request)


async def _rerun_all(database: Database, organization: int | None, *, yes: bool, wait: bool, as_json: bool, utc: bool) -> int:
    """Run every failed deletion again, after a person has seen which those are."""
    with database.read() as session:
        failed = list(listed(session, organization=organization, state=DeletionState.FAILED))
        if not as_json:
            print_list(session, failed, utc=utc)
    if not failed:
        warn("no deletion has failed")
        return DONE
    if not yes and (refused := await _refused(failed)) is not None:
        return refused
    client = await connect()
    for request in (requests := [one.request for one in failed]):
        if not await is_running(client, request):
            _ask(database, request)
            await start_deletion(client, request)
        if not wait:
            say(json.dumps({"workflow_id": request.workflow_id}) if as_json else request.workflow_id)
    if not wait:
        return DONE
    codes = [await _end_of(client, database, request, as_json=as_json) for request in requests]
    return FAILED if FAILED in codes else DONE


async def _refused(failed: Sequence[Recorded]) -> int | None:
    """Ask whether they are to run. Returns None for a yes, else the exit code."""
    total = sum((Counter(left_over(one)) for one in failed), Counter[str]())
    what = f"{len(failed):,} failed deletion{'s' * (len(failed) != 1)} with {counted(total)} left over"
    if not sys.stdin.isatty():
        warn(f"{what}: nothing was started; without a terminal to ask at, --yes says that they are to run again")
        return BAD_USAGE
    if not await confirmed(f"Run {what} again?"):
        warn("nothing was started")
        return FAILED
    return None


async def _end_of(client: Client, database: Database, request: DeletionRequest, *, as_json: bool) -> int:
    """Wait for one of many, and say in a line how it ended."""
    with contextlib.suppress(WorkflowFailureError):
        await client.get_workflow_handle(request.workflow_id).result()
    with database.read() as session:
        found = recorded(session, request.workflow_id)
    still_there = left_over(found)
    if as_json:
        say(json.dumps({"workflow_id": request.workflow_id, "state": found.state, "left_over": still_there}))
    else:
        say(f"{request.workflow_id}: {found.state}{f', {counted(still_there)} left over' if still_there else ''}")
    return DONE if found.state is DeletionState.CLOSED else FAILED
