"""`hold`: stop deletions within seconds, or keep an artifact or a project out of all of them."""

from typing import Annotated

import typer

from activities.database import Database
from activities.ledger import held, holds
from activities.ledger.holds import On
from artifact_deletion.outbox import DeletionState
from commands import options
from commands.connection import open_ledger
from commands.display import at
from commands.exit_codes import DONE, INTERRUPTED, BadUsage
from commands.holds import hold_command, on_what, way_out
from commands.output import say, warn
from commands.which import NOTHING_DELETED, find

Reason = Annotated[
    str, typer.Option(parser=options.some_text, metavar="TEXT", help="free text; stays in the ledger, where `holds` shows it")
]
Everything = Annotated[bool, typer.Option("--everything", help="all deletions, everywhere")]
OfDeletion = Annotated[
    str | None, typer.Option(parser=options.text, metavar="ID", help="one deletion: its workflow id, digest, or first 8 digits")
]
OfOrganization = Annotated[
    int | None, typer.Option("--organization", parser=options.positive, metavar="N", help="those of one organization")
]
OfArtifact = Annotated[
    int | None, typer.Option(parser=options.positive, metavar="N", help="keep one artifact; the rest goes on")
]
OfProject = Annotated[
    int | None,
    typer.Option(parser=options.positive, metavar="N", help="keep a project's artifacts and images; the rest goes on"),
]

_OVER = {DeletionState.CLOSED} | NOTHING_DELETED
"""A failed deletion may be running again."""


def hold(
    *,
    reason: Reason,
    by: options.By,
    everything: Everything = False,
    organization: OfOrganization = None,
    deletion: OfDeletion = None,
    artifact: OfArtifact = None,
    project: OfProject = None,
    utc: options.Utc = False,
) -> int:
    """Stop all deletions, one organization's or one within seconds. They wait, and none fails.

    On an artifact or a project it stops none: what it is on is kept, and the rest of each deletion goes on.

    It waits for transactions that delete rows at this moment.
    """
    given = {
        On.EVERYTHING: "" if everything else None,
        On.ORGANIZATION: organization,
        On.DELETION: deletion,
        On.ARTIFACT: artifact,
        On.PROJECT: project,
    }
    if len(named := [(on, str(one)) for on, one in given.items() if one is not None]) != 1:
        raise BadUsage("name one of --everything, --organization, --deletion, --artifact and --project")
    return _hold(*named[0], reason=reason, by=by, utc=utc)


def _hold(on: On, on_id: str, *, reason: str, by: str, utc: bool) -> int:
    found = None
    with open_ledger() as database:
        if on is On.DELETION:
            with database.read() as session:
                found = find(session, on_id)
            on_id = found.request.deletion_id
        warn("placing it, and waiting for transactions that delete rows at this moment")
        try:
            placed = holds.place(database, on, on_id, reason=reason, by=by)
        except KeyboardInterrupt:
            warn("interrupted: `python starter.py holds` says whether it is placed, which it is once that wait has begun")
            return INTERRUPTED
        late = _came_too_late(database, on, on_id)
    say(f"hold {placed.id} on {on_what(placed)} since {at(placed.placed_at, utc=utc)}; it ends with: {way_out(placed)}")
    if found is not None and found.state in _OVER:
        warn(f"{found.request.workflow_id} is {found.state}: the hold stops it only if it is asked for again")
    for digest in late:
        warn(
            f"too late for rows that deletion {digest} has deleted; "
            f"to keep their objects from being deleted: {hold_command(digest)}"
        )
    return DONE


def _came_too_late(database: Database, on: On, on_id: str) -> list[str]:
    """Return the deletions that have deleted rows of what is held, and still owe its objects."""
    if on not in {On.ARTIFACT, On.PROJECT}:
        return []
    with database.read() as session:
        return held.came_too_late(session, on, int(on_id))
