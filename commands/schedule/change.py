"""`schedule pause`, `unpause`, `run` and `remove`."""

from commands import options
from commands.exit_codes import DONE
from commands.output import say
from commands.schedule.which import Project, Reconcile, find


async def pause(
    *, by: options.By, organization: options.OneOrganization = None, project: Project = None, reconcile: Reconcile = False
) -> int:
    """Let no run begin by itself. Those that run go on."""
    handle = await find(organization, project, reconcile=reconcile)
    await handle.pause(note=f"by {by}")
    say(f"{handle.id} is paused")
    return DONE


async def unpause(
    *, by: options.By, organization: options.OneOrganization = None, project: Project = None, reconcile: Reconcile = False
) -> int:
    """Let runs begin again."""
    handle = await find(organization, project, reconcile=reconcile)
    await handle.unpause(note=f"by {by}")
    say(f"{handle.id} is active")
    return DONE


async def run(*, organization: options.OneOrganization = None, project: Project = None, reconcile: Reconcile = False) -> int:
    """Let one run begin now, also of a schedule that is paused."""
    handle = await find(organization, project, reconcile=reconcile)
    await handle.trigger()
    say(f"{handle.id} runs now")
    return DONE


async def remove(*, organization: options.OneOrganization = None, project: Project = None, reconcile: Reconcile = False) -> int:
    """Remove the schedule. Policies and reports stay, and runs that have begun go on."""
    handle = await find(organization, project, reconcile=reconcile)
    await handle.delete()
    say(f"{handle.id} is removed")
    return DONE
