"""`retention list`: the policies."""

import json

from activities.ledger.policies import policies
from commands import options
from commands.connection import open_ledger
from commands.display import NOTHING, at, in_utc, print_table
from commands.exit_codes import DONE
from commands.output import say, warn
from commands.retention.set import grace, kept


def list_policies(*, as_json: options.Json = False, utc: options.Utc = False) -> int:
    """List the policies, the most general first."""
    with open_ledger() as database, database.read() as session:
        found = policies(session)
    if as_json:
        for one in found:
            of = {"organization": one.scope.organization_id, "project": one.scope.project_id, "kind": one.scope.kind}
            say(json.dumps(of | {"days": one.days, "grace_s": one.grace_s, "set_by": one.set_by, "set_at": in_utc(one.set_at)}))
        return DONE
    if not found:
        warn("there is no policy: nothing expires")
    rows = [
        [
            *_named(of.organization_id, of.project_id, of.kind),
            kept(one.days),
            grace(one.grace_s),
            one.set_by,
            at(one.set_at, utc=utc),
        ]
        for one, of in ((one, one.scope) for one in found)
    ]
    print_table(("organization", "project", "kind", "kept", "grace", "set by", "since"), rows)
    return DONE


def _named(*values: object) -> list[str]:
    return [NOTHING if value is None else str(value) for value in values]
