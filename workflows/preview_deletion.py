"""A dry run of a deletion, for somebody who waits for the answer: one step that reads, and a result of counts."""

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RawValue
from temporalio.exceptions import ActivityError, is_cancelled_exception
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from workflows.delete_artifacts import AGAIN, LOST_AFTER, NO_REQUEST, named, validated
    from workflows.messages import OBJECTS_TASK_QUEUE, PREVIEW_DELETION, PREVIEW_WORKFLOW_NAME, Preview

# Somebody waits: a store that does not come back within hours is reported.
PREVIEW = ActivityConfig(
    task_queue=OBJECTS_TASK_QUEUE,
    start_to_close_timeout=timedelta(hours=2),
    schedule_to_close_timeout=timedelta(hours=4),
    heartbeat_timeout=LOST_AFTER,
    retry_policy=AGAIN,
)


@workflow.defn(name=PREVIEW_WORKFLOW_NAME)
class PreviewDeletionWorkflow:
    """Its input is JSON of a DeletionRequest from any client, its id the request's `preview_id`."""

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> Preview:
        """Returns what the deletion would do. Changes nothing, and leaves nothing."""
        request = validated(raw, lambda asked: asked.preview_id)
        options: Any = {"priority": Priority(fairness_key=str(request.organization_id)), **PREVIEW}
        try:
            preview: Preview = await workflow.execute_activity(
                PREVIEW_DELETION.name,
                request,
                result_type=PREVIEW_DELETION.returns,
                summary="look at what would go",
                **options,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise named(error) from None
        return preview
