"""`retention preview`: what has expired."""

import json

from activities.selection import AGES, expired_by_project
from commands import options
from commands.connection import open_ledger, open_rows
from commands.display import print_table
from commands.exit_codes import DONE
from commands.output import say, warn
from commands.retention.set import grace

_AGES = (*(f"under {days} days" for days in AGES), "older")


def preview(*, organization: options.OneOrganization = None, as_json: options.Json = False) -> int:
    """Count what has expired, by project, kind and age; changes nothing.

    `retention run` deletes the same artifacts, but for those that a hold keeps. Those that wait for their time already are not
    counted again.
    """
    with open_ledger() as database:
        backend = open_rows(database)
        with database.read() as session:
            found = [one for one in expired_by_project(session, backend) if organization in {None, one.organization_id}]
    if as_json:
        for one in found:
            of = {"organization": one.organization_id, "project": one.project_id, "kind": one.kind}
            say(
                json.dumps(
                    of
                    | {
                        "artifacts": sum(one.by_age),
                        "grace_s": one.grace_s,
                        "by_age": dict(zip(_AGES, one.by_age, strict=True)),
                    }
                )
            )
        return DONE
    if not found:
        warn("nothing has expired")
    rows = [
        [
            str(one.organization_id),
            str(one.project_id),
            one.kind,
            f"{sum(one.by_age):,}",
            *(f"{n:,}" for n in one.by_age),
            grace(one.grace_s),
        ]
        for one in found
    ]
    print_table(("organization", "project", "kind", "expired", *_AGES, "grace"), rows)
    return DONE
