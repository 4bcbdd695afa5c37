"""`schedule list`: what runs by itself, and when."""

import json

from commands import options
from commands.connection import connect
from commands.display import NOTHING, at, in_utc, print_table
from commands.exit_codes import DONE
from commands.output import say, warn
from commands.schedule.which import RECONCILE, RETENTION


async def list_schedules(*, as_json: options.Json = False, utc: options.Utc = False) -> int:
    """List the schedules, and when each runs next."""
    client = await connect()
    rows = []
    async for one in await client.list_schedules():
        if one.id.partition("/")[0] not in {RETENTION, RECONCILE}:
            continue
        found = await client.get_schedule_handle(one.id).describe()
        paused, following = found.schedule.state.paused, next(iter(found.info.next_action_times), None)
        if as_json:
            say(json.dumps({"id": one.id, "paused": paused, "next": None if following is None else in_utc(following)}))
        rows.append([one.id, "paused" if paused else "active", NOTHING if following is None else at(following, utc=utc)])
    if not rows:
        warn("there is no schedule")
    elif not as_json:
        print_table(("schedule", "state", "next run"), rows)
    return DONE
