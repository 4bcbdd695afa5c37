"""A small deletion, for which a person waits: some of its steps are tried at once, within the workflow task.

That saves their trips through Temporal, and two of five events. A step that fails or takes long is begun anew as a step of its
own, which waits, is tried again and is seen. So whatever goes wrong looks as it does for every other deletion.
"""

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, RetryState, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.bulk import BULK_PRIORITY
    from artifact_deletion.request import DeletionRequest
    from workflows.steps import CLOSE_DELETION, COLLECT_KEYS, DELETE_ROWS, OPEN_DELETION, In, Out, Step

SMALL = 10
"""Artifacts at most, in one chunk: a workflow task that works on one holds up the others."""
QUICK_STEPS = (OPEN_DELETION, COLLECT_KEYS, DELETE_ROWS, CLOSE_DELETION)
"""Those for which a person waits, and the last. The others take long, or wait for a quiet period."""
_WITHIN = timedelta(seconds=2)
"""The three up to the rows fit into a workflow task, of 10 s. If they are collected again, Temporal is told to wait."""
_ONCE = RetryPolicy(maximum_attempts=1)


def is_waited_for(step: Step[Any, Any], request: DeletionRequest) -> bool:
    """Whether it is one of the quick steps, of a small deletion that a person waits for.

    They wait for none of a bulk deletion's. A cancel is heard between workflow tasks: once there is one, no step may be over
    before it is.
    """
    small = len(request.artifact_ids) <= SMALL
    in_bulk = workflow.info().priority.priority_key == BULK_PRIORITY
    return step in QUICK_STEPS and small and not in_bulk and workflow.cancellation_reason() is None


async def at_once(step: Step[In, Out], given: In, summary: str) -> Out | None:
    """The step's result, or None if it is to be begun anew. Raises a cancellation, and ActivityError for what is final."""
    options: Any = {"start_to_close_timeout": _WITHIN, "retry_policy": _ONCE, "summary": summary}
    try:
        done: Out = await workflow.execute_local_activity(step.name, given, result_type=step.returns, **options)
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        if isinstance(error, ApplicationError) and error.non_retryable:
            raise _as_of_its_own(step, error) from error
        return None
    return done


def _as_of_its_own(step: Step[Any, Any], error: ApplicationError) -> ActivityError:
    """What Temporal puts around the failure of any other step."""
    return ActivityError(
        error.message,
        scheduled_event_id=0,
        started_event_id=0,
        identity="",
        activity_type=step.name,
        activity_id="",
        retry_state=RetryState.NON_RETRYABLE_FAILURE,
    )
