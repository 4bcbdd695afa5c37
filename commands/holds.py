"""`holds`, and holds in words. A person's own reason is for this command alone: Temporal never gets it."""

import json
from typing import Any

from sqlalchemy.orm import Session

from activities.ledger import holds
from activities.ledger.holds import On, Placed
from artifact_deletion.request import DeletionRequest
from commands import options
from commands.connection import open_ledger
from commands.display import NOTHING, at, in_utc, one_line, print_table
from commands.exit_codes import DONE
from commands.output import say, warn
from commands.which import fence_of, shortened


def list_holds(*, as_json: options.Json = False, utc: options.Utc = False) -> int:
    """List the holds that are not lifted, and why they were placed."""
    with open_ledger() as database, database.read() as session:
        placed = holds.placed(session)
        digests = shortened(session, [one.on_id for one in placed if one.on_what == On.DELETION])
    if as_json:
        for one in placed:
            say(json.dumps(hold_json(one) | {"reason": one.reason}))
        return DONE
    if not placed:
        warn("nothing is held")
    rows = [
        (
            str(one.id),
            f"{one.on_what} {digests.get(one.on_id, one.on_id)}".strip(),
            at(one.placed_at, utc=utc, seconds=False),
            one.placed_by or NOTHING,
            one_line(one.reason),
        )
        for one in placed
    ]
    print_table(("hold", "on", "since", "by", "reason"), rows)
    return DONE


def holds_on(session: Session, request: DeletionRequest) -> list[Placed]:
    """Return the holds on a deletion that are not lifted."""
    fence = fence_of(session, request.deletion_id)
    return holds.placed_on(session, request.organization_id, request.deletion_id, fence)


def on_what(hold: Placed) -> str:
    """As in: everything, organization 42, deletion 1a2b3c4d…."""
    return f"{hold.on_what} {hold.on_id}".strip()


def hold_command(deletion_id: str) -> str:
    """The command that holds a deletion."""
    return f"python starter.py hold --deletion {deletion_id} --reason WHY --by WHO"


def way_out(hold: Placed) -> str:
    """The command that ends the hold."""
    command = f"confirm {hold.on_id}" if hold.is_ceiling else f"lift {hold.id}"
    return f"python starter.py {command} --by WHO"


def hold_line(hold: Placed, *, ended: bool = False, utc: bool) -> str:
    """The hold on a deletion, since when, and how it ends. Of one that has ended nothing goes on then."""
    why = f": {hold.reason}" if hold.is_ceiling else ""  # fixed words and counts
    since = at(hold.placed_at, utc=utc)
    then = "the hold ends with" if ended else "it goes on after"
    return f"held since {since}, hold {hold.id} on {on_what(hold)}{why}; {then}: {way_out(hold)}"


def hold_json(hold: Placed) -> dict[str, Any]:
    """The hold for scripts, without its reason."""
    return {
        "id": hold.id,
        "on": hold.on_what,
        "on_id": hold.on_id or None,
        "ceiling": hold.is_ceiling,
        "by": hold.placed_by,
        "placed": in_utc(hold.placed_at),
    }
