"""`lift`: end holds, so that what they held goes on."""

from typing import Annotated

import typer

from activities.ledger import holds
from activities.ledger.holds import On
from commands import options
from commands.connection import open_ledger
from commands.display import at
from commands.exit_codes import DONE, FAILED, BadUsage
from commands.holds import on_what
from commands.output import say, warn

HoldIds = Annotated[
    list[options.Ids] | None, typer.Argument(parser=options.numbers, metavar="HOLD", help="ids, as `holds` lists them")
]
Everything = Annotated[bool, typer.Option("--everything", help="all holds on everything; those on less stay")]


def lift(*, hold_ids: HoldIds = None, by: options.By, everything: Everything = False, utc: options.Utc = False) -> int:
    """Lift holds; what they held goes on within seconds."""
    wanted = {one for several in hold_ids or () for one in several}
    if bool(wanted) == everything:
        raise BadUsage("name holds by their ids, or --everything")
    with open_ledger() as database, database.write() as session:
        if everything:
            wanted = {one.id for one in holds.placed(session) if one.on_what == On.EVERYTHING}
        lifted = holds.lift(session, wanted, by=by)
        left = len(holds.placed(session))
    for one in lifted:
        say(f"lifted: hold {one.id} on {on_what(one)}, since {at(one.placed_at, utc=utc)}")
    if lifted:
        but = f", except where other holds are: `python starter.py holds` lists {left}" if left else ""
        say(f"deletions go on within seconds{but}")
    if everything and not lifted:
        say("nothing is on everything: there was no such hold")
    for missing in sorted(wanted - {one.id for one in lifted}):
        warn(f"there is no hold {missing} that is not lifted")
    return DONE if everything or len(lifted) == len(wanted) else FAILED
