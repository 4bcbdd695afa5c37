"""Every failure that a command can end with, as one sentence and an exit code."""

from pydantic import ValidationError
from temporalio.client import RPCTimeoutOrCancelledError
from temporalio.service import RPCError

from artifact_deletion.converter import unreachable
from artifact_deletion.errors import DeletionError, Misconfigured
from artifact_deletion.outbox import NoSuchDeletion
from artifact_deletion.request import refused_fields
from commands.exit_codes import BAD_USAGE, INTERRUPTED, UNREACHABLE
from commands.which import WhichDeletion

AWAY = (RPCError, RPCTimeoutOrCancelledError)
"""What the SDK raises when a call to Temporal fails."""
EXPECTED = (ValidationError, NoSuchDeletion, WhichDeletion, DeletionError, *AWAY, KeyboardInterrupt)


def explained(error: BaseException) -> tuple[str, int]:
    """Of one that is expected."""
    match error:
        case ValidationError():
            return refused_fields(error), BAD_USAGE
        case NoSuchDeletion() | WhichDeletion() | Misconfigured():
            return str(error), BAD_USAGE
        case DeletionError():
            return str(error), UNREACHABLE
        case RPCError() | RPCTimeoutOrCancelledError():
            return str(unreachable(error)), UNREACHABLE
    return "interrupted; a deletion that was started goes on", INTERRUPTED
