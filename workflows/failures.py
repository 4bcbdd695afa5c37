"""How a step's failure becomes the workflow's: its own words, and what to do."""

from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, RetryState, is_cancelled_exception
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.errors import ObjectsRemain, RowsNotDeleted
    from artifact_deletion.receipt import DeletionReceipt
    from artifact_deletion.request import DeletionRequest
    from workflows import text
    from workflows.steps import In, Out, Step


def named(error: ActivityError, request: DeletionRequest | None = None) -> ApplicationError:
    """The step's own error, as the workflow's. With a request it says what to do, if the step's time was over."""
    cause = error.cause
    final = error.retry_state is RetryState.NON_RETRYABLE_FAILURE
    again = "" if request is None or final else f". When the cause is mended: {text.rerun_command(request.workflow_id)}"
    if isinstance(cause, ApplicationError):
        return ApplicationError(f"{cause.message}{again}", type=cause.type, non_retryable=True)
    return ApplicationError(f"{error.activity_type}: its time is over{again}", type="StepTimedOut", non_retryable=True)


async def alone(step: Step[In, Out], given: In, budget: ActivityConfig, summary: str) -> Out:
    """A step whose failure could be the workflow's: it has the step's own words. A cancel stays one."""
    options: Any = budget
    try:
        done: Out = await workflow.execute_activity(step.name, given, result_type=step.returns, summary=summary, **options)
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        raise named(error) from None
    return done


def log_failure(what: str, error: ActivityError) -> None:
    """Raises a cancellation. Of anything else the ledger knows, and the receipt will say."""
    if is_cancelled_exception(error):
        raise error
    workflow.logger.error("%s: %s", what, named(error).message)


def leftovers(receipt: DeletionReceipt) -> ApplicationError:
    """The end of a deletion that is not complete."""
    message = text.left_over_message(receipt.left_over, receipt.workflow_id)
    kind = RowsNotDeleted if receipt.artifacts.not_reached.count or receipt.artifacts.held.count else ObjectsRemain
    return ApplicationError(message, receipt, type=kind.__name__, non_retryable=True)


def of_deletion(error: ChildWorkflowError) -> tuple[str, DeletionReceipt | None]:
    """The name of the error with which another deletion ended, and its receipt if it has one."""
    cause = error.cause
    if not isinstance(cause, ApplicationError):
        return type(cause or error).__name__, None
    receipt = DeletionReceipt.model_validate(cause.details[0]) if cause.details else None
    return cause.type or type(cause).__name__, receipt
