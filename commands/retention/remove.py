"""`retention remove`: remove a policy, so that the next more general one counts."""

from activities.ledger import policies
from commands import options
from commands.connection import open_ledger, open_rows
from commands.exit_codes import DONE, FAILED
from commands.output import say, warn
from commands.retention.scope import Kind, Project, scope_of


def remove(*, organization: options.OneOrganization = None, project: Project = None, kind: Kind = None) -> int:
    """Remove the policy that was set with these options. Then the next more general one counts."""
    with open_ledger() as database:
        scope = scope_of(open_rows(database), organization, project, kind)
        with database.write() as session:
            removed = policies.remove(session, scope)
    if not removed:
        warn(f"{scope}: there is no such policy")
        return FAILED
    say(f"{scope}: removed")
    return DONE
