"""`holds`: those that are not lifted, each with its reason, which no other command shows and Temporal never gets."""

import json

from activities.ledger import holds
from activities.ledger.holds import On
from commands import options
from commands.display import NOTHING, at, one_line, print_table
from commands.exit_codes import DONE
from commands.hold_text import hold_json
from commands.ledger import open_ledger
from commands.output import say, warn
from commands.which import shortened


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
    print_table(
        ("hold", "on", "since", "by", "reason"),
        (
            (
                str(one.id),
                f"{one.on_what} {digests.get(one.on_id, one.on_id)}".strip(),
                at(one.placed_at, utc=utc, seconds=False),
                one.placed_by or NOTHING,
                one_line(one.reason),
            )
            for one in placed
        ),
    )
    return DONE
