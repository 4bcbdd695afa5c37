"""`status`: where a deletion is, by the ledger and by Temporal."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from temporalio.client import Client

from activities.database import Database
from activities.ledger.holds import Placed
from artifact_deletion.client import is_running
from artifact_deletion.errors import TemporalUnreachable, WorkflowIdTaken
from artifact_deletion.outbox import DeletionState
from commands import options
from commands.connection import connect
from commands.exit_codes import DONE, FAILED, INTERRUPTED
from commands.explained import AWAY, explained
from commands.followers import Now, now_lines
from commands.following import How, follow_from_here, now
from commands.hold_text import hold_json, hold_line, holds_on
from commands.ledger import open_ledger
from commands.listed import ENDED
from commands.output import say, warn
from commands.which import Meant, find
from workflows.text import rerun_command, why_left_over

Follow = Annotated[bool, typer.Option("--follow", help="until it ends")]


@dataclass(frozen=True)
class _Known:
    """What the ledger knows of a deletion."""

    meant: Meant
    holds: list[Placed]

    @property
    def state(self) -> DeletionState:
        return self.meant.found.state

    @property
    def left_over(self) -> dict[str, int]:
        """By the last run's receipt."""
        receipt = self.meant.found.receipt
        return receipt.left_over if receipt and self.state in ENDED else {}


def _look(database: Database, deletion: str) -> _Known:
    with database.read() as session:
        meant = find(session, deletion)
        return _Known(meant, holds_on(session, meant))


async def status(
    *, deletion: options.Deletion, follow: Follow = False, as_json: options.Json = False, utc: options.Utc = False
) -> int:
    """Say where a deletion is.

    While Temporal is away it says what the ledger knows.
    """
    with open_ledger() as database:
        known = _look(database, deletion)
        workflow = known.meant.workflow_id
        client: Client | None = None
        try:
            client = await connect()
            running = await is_running(client, known.meant.found.request)
        except (*AWAY, TemporalUnreachable, WorkflowIdTaken) as error:
            sentence, code = explained(error)
            _print(known, None, None, as_json=as_json, utc=utc)
            warn(sentence)
            return code
        if follow and running:
            code = await follow_from_here(client, workflow, How(as_json=as_json, utc=utc))
            if code == INTERRUPTED or not as_json:
                return code
            known, running = _look(database, workflow), False
        _print(known, await now(client, workflow) if running else None, running, as_json=as_json, utc=utc)
    return FAILED if known.state in {DeletionState.FAILED, DeletionState.REFUSED} and not running else DONE


def _print(known: _Known, at_work: Now | None, running: bool | None, *, as_json: bool, utc: bool) -> None:  # noqa: FBT001
    """`running`: None if there is no telling."""
    workflow, left_over = known.meant.workflow_id, {} if running else known.left_over
    if as_json:
        answer: dict[str, Any] = {"workflow_id": workflow, "state": known.state, "running": running, "left_over": left_over}
        answer |= {"holds": [hold_json(one) for one in known.holds]} if known.holds else {}
        say(json.dumps(answer | (at_work.as_json if at_work else {})))
        return
    taken_up = ", running again" if known.state is DeletionState.FAILED else ""
    what = {None: ", by the ledger", True: taken_up, False: ", not running"}[running]
    say(f"{workflow}: {known.state}{what}")
    for hold in known.holds:
        say(f"  {hold_line(hold, utc=utc)}")
    for line in now_lines(at_work, with_hold=not known.holds, utc=utc) if at_work else ():
        say(line)
    for code, count in sorted(left_over.items()):
        say(f"  {count:,} left over: {code}: {why_left_over(code)}")
    if left_over:
        say(f"  then: {rerun_command(workflow)}")
