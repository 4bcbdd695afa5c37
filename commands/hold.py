"""`hold`: stop deletions within seconds. They wait, and none fails."""

from typing import Annotated

import typer

from activities.ledger import holds
from activities.ledger.holds import On
from commands import options
from commands.connection import open_ledger
from commands.display import at
from commands.exit_codes import DONE, INTERRUPTED, BadUsage
from commands.holds import on_what, way_out
from commands.output import say, warn
from commands.which import find

Reason = Annotated[
    str, typer.Option(parser=options.text, metavar="TEXT", help="free text; stays in the ledger, where `holds` shows it")
]
Everything = Annotated[bool, typer.Option("--everything", help="all deletions, everywhere")]
OfDeletion = Annotated[
    str | None, typer.Option(parser=options.text, metavar="ID", help="one deletion: its workflow id, digest, or first 8 digits")
]


def hold(
    *,
    reason: Reason,
    by: options.By,
    everything: Everything = False,
    organization: options.OneOrganization = None,
    deletion: OfDeletion = None,
    utc: options.Utc = False,
) -> int:
    """Stop all deletions, one organization's or one within seconds.

    They wait, and none fails. It waits for transactions that delete rows at this moment.
    """
    if [everything, organization is not None, deletion is not None].count(True) != 1:
        raise BadUsage("name one of --everything, --organization and --deletion")
    with open_ledger() as database:
        on, on_id = On.EVERYTHING, ""
        if organization is not None:
            on, on_id = On.ORGANIZATION, str(organization)
        if deletion is not None:
            with database.read() as session:
                on, on_id = On.DELETION, find(session, deletion).request.deletion_id
        warn("placing it, and waiting for transactions that delete rows at this moment")
        try:
            placed = holds.place(database, on, on_id, reason=reason, by=by)
        except KeyboardInterrupt:
            warn("interrupted: `python starter.py holds` says whether it is placed, which it is once that wait has begun")
            return INTERRUPTED
    say(f"hold {placed.id} on {on_what(placed)} since {at(placed.placed_at, utc=utc)}; it ends with: {way_out(placed)}")
    return DONE
