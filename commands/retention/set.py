"""`retention set`: say how long artifacts are kept."""

from datetime import timedelta
from typing import Annotated

import typer

from activities.ledger import policies
from commands import options
from commands.connection import open_ledger, open_rows
from commands.display import NOTHING
from commands.exit_codes import DONE, BadUsage
from commands.output import say
from commands.retention.scope import Kind, Project, scope_of

Days = Annotated[int | None, typer.Option(parser=options.positive, metavar="N", help="then they expire")]
Grace = Annotated[
    timedelta | None,
    typer.Option(
        parser=options.delay, metavar="TIME", help="for so long each deletion waits, and `cancel` undoes it, such as 7d"
    ),
]
ForEver = Annotated[bool, typer.Option("--for-ever", help="they never expire")]
_LONGEST = 365_000
"""Days."""


def set_policy(
    *,
    by: options.By,
    organization: options.OneOrganization = None,
    project: Project = None,
    kind: Kind = None,
    days: Days = None,
    for_ever: ForEver = False,
    grace: Grace = None,
) -> int:
    """Say how long artifacts are kept; nothing is deleted by this.

    The most specific policy counts: of a project, then of an organization, then of all; each time first that of the kind. Look
    with `retention preview` before the next `retention run`.
    """
    if (days is None) != for_ever:
        raise BadUsage("name one of --days and --for-ever")
    if grace is not None and for_ever:
        raise BadUsage("what is kept for ever needs no --grace")
    if days is not None and days > _LONGEST:
        raise BadUsage("that is more than a thousand years: --for-ever")
    grace_s = int((grace or timedelta()).total_seconds())
    with open_ledger() as database:
        backend = open_rows(database)
        scope = scope_of(backend, organization, project, kind)
        with database.write() as session:
            if project is not None:
                _refuse_elsewhere(backend.organization_of(session, project), organization, project)
            policies.set_policy(session, scope, days, by=by, grace_s=grace_s)
    say(f"{scope}: kept {kept(days)}{waits(grace_s)}")
    return DONE


def _refuse_elsewhere(found: int | None, organization: int | None, project: int) -> None:
    """Such a policy would count for no artifact."""
    if found is None:
        raise BadUsage(f"there is no project {project}")
    if organization not in {None, found}:
        raise BadUsage(f"project {project} is not one of organization {organization}")


def kept(days: int | None) -> str:
    """For how long."""
    return "for ever" if days is None else f"for {days:,} day{'s' * (days != 1)}"


def waits(grace_s: int) -> str:
    """What becomes of it then."""
    return f"; then each deletion waits for {grace(grace_s)}" if grace_s else ""


def grace(seconds: int) -> str:
    """For how long."""
    return f"{timedelta(seconds=seconds)}" if seconds else NOTHING
