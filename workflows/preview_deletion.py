"""A dry run of a deletion, for a person who waits for the answer: one step that reads, and a result of counts."""

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.receipt import Preview
    from artifact_deletion.request import PREVIEW_WORKFLOW, DeletionRequest
    from workflows.budgets import PREVIEWS, fair
    from workflows.failures import alone
    from workflows.inputs import NO_REQUEST, validated
    from workflows.steps import PREVIEW_DELETION


@workflow.defn(name=PREVIEW_WORKFLOW)
class PreviewDeletionWorkflow:
    """Its input is JSON of a DeletionRequest from any client, its id the request's `preview_id`."""

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> Preview:
        """Returns what the deletion would do. Changes nothing, and leaves nothing."""
        request = validated(raw, DeletionRequest, lambda asked: asked.preview_id)
        return await alone(PREVIEW_DELETION, request, fair(PREVIEWS, request.organization_id), "look at what would go")
