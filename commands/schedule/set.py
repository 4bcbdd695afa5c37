"""`schedule set`: let retention run by itself."""

from datetime import timedelta

from temporalio.client import ScheduleActionStartWorkflow

from artifact_deletion.request import TASK_QUEUE
from commands import bulk, options
from commands.schedule.which import Every, Jitter, id_of, write
from workflows.bulk_steps import RETENTION_WORKFLOW, Retention


async def set_schedule(
    *,
    every: Every,
    by: options.By,
    jitter: Jitter = timedelta(minutes=10),
    organization: options.OneOrganization = None,
    images: options.Images = "delete",
    rate: bulk.Rate = None,
) -> int:
    """Let `retention run` begin by itself, of all organizations or of one. Set again, it takes the place of the one before.

    One that is paused stays so.
    """
    retention = Retention(organization_id=organization, images=images, requested_by=by, artifacts_an_hour=rate)
    name = id_of(organization)
    action = ScheduleActionStartWorkflow(RETENTION_WORKFLOW, retention, id=name, task_queue=TASK_QUEUE)
    return await write(name, action, every, jitter)
