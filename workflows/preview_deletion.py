"""A dry run of a deletion, for a person who waits for the answer: one step that reads, and a result of counts."""

from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.receipt import Preview
    from artifact_deletion.request import PREVIEW_WORKFLOW
    from workflows.budgets import PREVIEWS, fair
    from workflows.failures import named
    from workflows.inputs import NO_REQUEST, validated
    from workflows.steps import PREVIEW_DELETION


@workflow.defn(name=PREVIEW_WORKFLOW)
class PreviewDeletionWorkflow:
    """Its input is JSON of a DeletionRequest from any client, its id the request's `preview_id`."""

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> Preview:
        """Returns what the deletion would do. Changes nothing, and leaves nothing."""
        request = validated(raw, lambda asked: asked.preview_id)
        budget: Any = fair(PREVIEWS, request.organization_id)
        try:
            preview: Preview = await workflow.execute_activity(
                PREVIEW_DELETION.name,
                request,
                result_type=Preview,
                summary="look at what would go",
                **budget,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise named(error) from None
        return preview
