"""Between two requests, a step says how far it is and hears whether it should stop."""

from temporalio import activity
from temporalio.exceptions import CancelledError


def between_requests(done: int, total: int) -> None:
    """Heartbeat with a cursor that an operator can read. Raises CancelledError if the step should stop here."""
    activity.heartbeat({"done": done, "total": total})
    if activity.is_cancelled():
        raise CancelledError("stopped between two requests; what was done is written down")
