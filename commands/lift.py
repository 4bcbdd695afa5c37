"""`lift`: end holds, so that what they held goes on."""

from collections.abc import Sequence
from typing import Annotated

import typer

from activities.database import Database
from activities.ledger import held, holds
from activities.ledger.holds import On
from artifact_deletion.client import resume
from artifact_deletion.errors import TemporalUnreachable
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import DeletionRequest
from commands import options
from commands.connection import connect, open_ledger
from commands.display import at
from commands.exit_codes import AWAY, DONE, FAILED, BadUsage, explained
from commands.holds import on_what
from commands.output import say, warn

HoldIds = Annotated[
    list[options.Ids] | None, typer.Argument(parser=options.numbers, metavar="HOLD", help="ids, as `holds` lists them")
]
Everything = Annotated[bool, typer.Option("--everything", help="all holds on everything; those on less stay")]


async def lift(*, hold_ids: HoldIds = None, by: options.By, everything: Everything = False, utc: options.Utc = False) -> int:
    """Lift holds; what they held goes on within seconds.

    Deletions that have ended without what a hold kept run again for it.
    """
    wanted = {one for several in hold_ids or () for one in several}
    if bool(wanted) == everything:
        raise BadUsage("name holds by their ids, or --everything")
    with open_ledger() as database:
        with database.write() as session:
            if everything:
                wanted = {one.id for one in holds.placed(session) if one.on_what == On.EVERYTHING}
            lifted = holds.lift(session, wanted, by=by)
            left, kept_any = len(holds.placed(session)), holds.kept_any(session, wanted)
        again = _ask_again(database) if kept_any else []
    for one in lifted:
        say(f"lifted: hold {one.id} on {on_what(one)}, since {at(one.placed_at, utc=utc)}")
    if lifted:
        but = f", except where other holds are: `python starter.py holds` lists {left}" if left else ""
        say(f"deletions go on within seconds{but}")
    if everything and not lifted:
        say("nothing is on everything: there was no such hold")
    for missing in sorted(wanted - {one.id for one in lifted}):
        warn(f"there is no hold {missing} that is not lifted")
    await _start(again)
    return DONE if everything or len(lifted) == len(wanted) else FAILED


def _ask_again(database: Database) -> list[DeletionRequest]:
    """Ask for the deletions that have something to take now, after the commit: from then on none leaves it over unseen."""
    with database.write() as session:
        requests = held.let_go(session)
        for request in requests:
            accept_deletion(session, request)
    return requests


async def _start(requests: Sequence[DeletionRequest]) -> None:
    if not requests:
        return
    try:
        started = set(await resume(await connect(), requests))
        for request in requests:
            when = "runs" if request.workflow_id in started else "is at work, and asked for"
            say(f"{when} again for what was held: {request.workflow_id}")
    except (*AWAY, TemporalUnreachable) as error:
        warn(explained(error)[0])
        several = f"{len(requests):,} deletions are" if len(requests) > 1 else "1 deletion is"
        warn(f"{several} asked for again: `python starter.py resume`, or the relay, starts what is asked for")
