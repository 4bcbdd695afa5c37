"""How a step's failure becomes the workflow's: its own words, and what to do."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.errors import ObjectsRemain, RowsNotDeleted
    from artifact_deletion.receipt import DeletionReceipt
    from artifact_deletion.request import DeletionRequest
    from workflows import text


def named(error: ActivityError, request: DeletionRequest | None = None) -> ApplicationError:
    """The step's own error, as the workflow's. With a request it says what to do, if the step's time was over."""
    cause = error.cause
    final = error.retry_state is RetryState.NON_RETRYABLE_FAILURE
    again = "" if request is None or final else f". When the cause is mended: {text.rerun_command(request.workflow_id)}"
    if isinstance(cause, ApplicationError):
        return ApplicationError(f"{cause.message}{again}", type=cause.type, non_retryable=True)
    return ApplicationError(f"{error.activity_type}: its time is over{again}", type="StepTimedOut", non_retryable=True)


def log_failure(what: str, error: ActivityError) -> None:
    """Raises a cancellation. Of anything else the ledger knows, and the receipt will say."""
    if is_cancelled_exception(error):
        raise error
    workflow.logger.error("%s: %s", what, named(error).message)


def leftovers(receipt: DeletionReceipt) -> ApplicationError:
    """The end of a deletion that is not complete."""
    message = text.left_over_message(receipt.left_over, receipt.workflow_id)
    kind = RowsNotDeleted if receipt.artifacts.not_reached.count else ObjectsRemain
    return ApplicationError(message, receipt, type=kind.__name__, non_retryable=True)
