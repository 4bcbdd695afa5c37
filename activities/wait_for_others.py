"""What a bulk deletion waits for where a person, or its own last run, has begun one of its deletions before it."""

from dataclasses import dataclass

from temporalio import activity

from artifact_deletion.client import is_running
from artifact_deletion.errors import NotYet
from artifact_deletion.request import DeletionRequest
from workflows.bulk_steps import WAIT_FOR_OTHERS, OthersEnded


@dataclass(frozen=True)
class WaitForOthers:
    """Needs Temporal alone."""

    @activity.defn(name=WAIT_FOR_OTHERS.name, no_thread_cancel_exception=True)
    async def wait_for_others(self, request: DeletionRequest) -> OthersEnded:
        """Returns if no run is at work on it. Raises NotYet, and then it is asked again; WorkflowIdTaken."""
        if await is_running(activity.client(), request):
            raise NotYet(f"{request.workflow_id} runs already: its end is waited for")
        return OthersEnded()
