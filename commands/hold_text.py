"""Holds in words. A person's own reason is for the command `holds` alone."""

from typing import Any

from sqlalchemy.orm import Session

from activities.ledger import holds
from activities.ledger.holds import On, Placed
from commands.display import at, in_utc
from commands.which import Meant


def on_what(hold: Placed) -> str:
    """As in: everything, organization 42, deletion 1a2b3c4d…."""
    return On.EVERYTHING if hold.on_what == On.EVERYTHING else f"{hold.on_what} {hold.on_id}"


def way_out(hold: Placed) -> str:
    """The command with which it ends."""
    command = f"confirm {hold.on_id}" if hold.is_ceiling else f"lift {hold.id}"
    return f"python starter.py {command} --by WHO"


def hold_line(hold: Placed, *, utc: bool) -> str:
    """What it is, since when, and how it ends."""
    why = f": {hold.reason}" if hold.is_ceiling else ""  # fixed words and counts
    return (
        f"held since {at(hold.placed_at, utc=utc)}, hold {hold.id} on {on_what(hold)}{why}; it goes on after: {way_out(hold)}"
    )


def hold_json(hold: Placed) -> dict[str, Any]:
    """For scripts, without the reason."""
    return {
        "id": hold.id,
        "on": hold.on_what,
        "on_id": hold.on_id or None,
        "ceiling": hold.is_ceiling,
        "by": hold.placed_by,
        "placed": in_utc(hold.placed_at),
    }


def holds_on(session: Session, meant: Meant) -> list[Placed]:
    """Those on a deletion that are not lifted."""
    return holds.placed_on(session, meant.found.request.organization_id, meant.id, meant.fence)
