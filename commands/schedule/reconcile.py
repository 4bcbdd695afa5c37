"""`schedule reconcile`: let the look for what is left behind run by itself."""

from datetime import timedelta

from temporalio.client import ScheduleActionStartWorkflow

from artifact_deletion.request import TASK_QUEUE
from commands import options
from commands.reconcile import Implausible, OlderThan, Usable
from commands.schedule.which import Every, Jitter, Project, id_of, write
from workflows.reconcile_steps import RECONCILE_WORKFLOW, Reconcile


async def set_reconcile(
    *,
    every: Every,
    by: options.By,
    organization: options.Organization,
    project: Project = None,
    jitter: Jitter = timedelta(minutes=10),
    older_than: OlderThan = timedelta(days=7),
    implausible: Implausible = 50,
    usable_for: Usable = timedelta(days=7),
) -> int:
    """Let `reconcile` run by itself, of each project of an organization or of one. It writes reports, and deletes nothing.

    Set again, it takes the place of the one before. One that is paused stays so.
    """
    request = Reconcile(
        organization_id=organization,
        project_id=project,
        older_than=older_than,
        implausible=implausible,
        usable_for=usable_for,
        requested_by=by,
    )
    name = id_of(organization, project, reconcile=True)
    action = ScheduleActionStartWorkflow(
        RECONCILE_WORKFLOW,
        request,
        id=name,
        task_queue=TASK_QUEUE,
        static_summary=f"Look for what is left behind: {request.of}",
    )
    return await write(name, action, every, jitter)
