"""Which schedule a person means: of retention or of reconcile, of all organizations, one, or one project."""

from datetime import timedelta
from typing import Annotated

import typer
from temporalio.client import (
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError

from commands import options
from commands.connection import connect
from commands.exit_codes import DONE, BadUsage, is_absent
from commands.output import say

RETENTION, RECONCILE = "artifact-retention", "artifact-reconcile"
Every = Annotated[timedelta, typer.Option(parser=options.age, metavar="TIME", help="such as 24h")]
Jitter = Annotated[timedelta, typer.Option(parser=options.age, metavar="TIME", help="each run begins up to so much later")]
Reconcile = Annotated[bool, typer.Option("--reconcile", help="that of `schedule reconcile`, in place of retention's")]
Project = Annotated[
    int | None, typer.Option(parser=options.positive, metavar="N", help="with --reconcile: that of one project")
]


def id_of(organization: int | None, project: int | None = None, *, reconcile: bool = False) -> str:
    """The schedule's id in Temporal. Raises BadUsage where there can be none."""
    if reconcile and organization is None:
        raise BadUsage("name the --organization: each has a schedule of its own")
    if project is not None and not reconcile:
        raise BadUsage("a --project has a schedule of --reconcile alone")
    named = [str(one) for one in (organization, project) if one is not None]
    return "/".join([RECONCILE if reconcile else RETENTION, *named])


async def find(organization: int | None, project: int | None, *, reconcile: bool) -> ScheduleHandle:
    """The schedule. Raises BadUsage if there is none."""
    handle = (await connect()).get_schedule_handle(id_of(organization, project, reconcile=reconcile))
    try:
        await handle.describe()
    except RPCError as error:
        if is_absent(error):
            raise BadUsage(f"there is no schedule {handle.id}") from None
        raise
    return handle


async def write(name: str, action: ScheduleActionStartWorkflow, every: timedelta, jitter: timedelta) -> int:
    """Make it, or put it in the place of the one before, which stays paused if it was. Returns the exit code."""
    schedule = Schedule(
        action=action,
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)], jitter=jitter),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )
    client = await connect()
    try:
        await client.create_schedule(name, schedule)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(name).update(lambda found: _in_place_of(found, schedule))
    say(f"{name}: every {every}, up to {jitter} later")
    return DONE


def _in_place_of(found: ScheduleUpdateInput, schedule: Schedule) -> ScheduleUpdate:
    schedule.state = found.description.schedule.state
    return ScheduleUpdate(schedule)
