"""`status`: where a deletion is, by the ledger and by Temporal."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from activities.database import Database
from activities.ledger import deletions
from activities.ledger.holds import Placed
from artifact_deletion.bulk import is_bulk
from artifact_deletion.client import is_running
from artifact_deletion.errors import TemporalUnreachable, WorkflowIdTaken
from artifact_deletion.outbox import DeletionState, Recorded
from commands import options
from commands.bulk import print_status
from commands.connection import connect, open_ledger
from commands.display import at, in_utc
from commands.exit_codes import AWAY, DONE, FAILED, INTERRUPTED, UNREACHABLE, explained
from commands.followers import Now, now_lines
from commands.following import How, follow_from_here, now
from commands.holds import hold_json, hold_line, holds_on
from commands.output import say, warn
from commands.which import ENDED, NOTHING_DELETED, find, left_over
from workflows.text import rerun_command, why_left_over


@dataclass(frozen=True)
class _Looked:
    """A deletion by the ledger."""

    found: Recorded
    holds: list[Placed]
    waits_until: datetime | None


Follow = Annotated[bool, typer.Option("--follow", help="until it ends")]


async def status(
    *, deletion: options.Deletion, follow: Follow = False, as_json: options.Json = False, utc: options.Utc = False
) -> int:
    """Say where a deletion is.

    While Temporal is away it says what the ledger knows.
    """
    if is_bulk(deletion):
        return await print_status(deletion, as_json=as_json)
    with open_ledger() as database:
        looked = _look(database, deletion)
        request, workflow = looked.found.request, looked.found.request.workflow_id
        try:
            client = await connect()
            running = await is_running(client, request)
        except (*AWAY, TemporalUnreachable, WorkflowIdTaken) as error:
            sentence, code = explained(error)
            _print(looked, None, running=None, as_json=as_json, utc=utc)
            warn(sentence)
            return code
        if follow and running:
            code = await follow_from_here(client, workflow, How(as_json=as_json, utc=utc))
            if code in {INTERRUPTED, UNREACHABLE}:  # it goes on
                return code
            looked, running = _look(database, workflow), False
            _print(looked, None, running=False, as_json=as_json, utc=utc)
            return code
        at_work = await now(client, workflow) if running else None
        _print(looked, at_work, running=running, as_json=as_json, utc=utc)
    return FAILED if looked.found.state in {DeletionState.FAILED, DeletionState.REFUSED} and not running else DONE


def _look(database: Database, deletion: str) -> _Looked:
    with database.read() as session:
        found = find(session, deletion)
        of = found.request.deletion_id
        return _Looked(found, holds_on(session, found.request), deletions.waiting(session, [of]).get(of))


def _print(looked: _Looked, at_work: Now | None, *, running: bool | None, as_json: bool, utc: bool) -> None:
    """`running`: None if Temporal does not say."""
    found, holds, until = looked.found, looked.holds, looked.waits_until
    workflow, state, still_there = found.request.workflow_id, found.state, {} if running else left_over(found)
    if as_json:
        answer: dict[str, Any] = {"workflow_id": workflow, "state": state, "running": running, "left_over": still_there}
        answer |= {"waits_until": in_utc(until)} if until else {}
        answer |= {"holds": [hold_json(one) for one in holds]} if holds else {}
        say(json.dumps(answer | (at_work.as_json if at_work else {})))
        return
    taken_up = ", running again" if state is DeletionState.FAILED else ""
    what = {None: ", by the ledger", True: taken_up, False: ", not running"}[running]
    say(f"{workflow}: {state}{what}")
    if until:
        say(f"  waits until {at(until, utc=utc)}; to call it off: python starter.py cancel {workflow}")
    for hold in holds:
        say(f"  {hold_line(hold, ended=not running and state in ENDED | NOTHING_DELETED, utc=utc)}")
    for line in now_lines(at_work, with_hold=not holds, utc=utc) if at_work else ():
        say(line)
    for code, count in sorted(still_there.items()):
        say(f"  {count:,} left over: {code}: {why_left_over(code)}")
    if still_there:
        say(f"  then: {rerun_command(workflow)}")
