"""How a command ends: with an exit code for scripts and, where something is wrong, with one sentence for a person."""

import typer
from pydantic import ValidationError
from temporalio.client import RPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from artifact_deletion.converter import unreachable
from artifact_deletion.errors import DeletionError, Misconfigured
from artifact_deletion.outbox import NoSuchDeletion
from artifact_deletion.request import refused_fields

DONE, FAILED, BAD_USAGE, UNREACHABLE = range(4)
"""FAILED: failed or left over. UNREACHABLE: Temporal or the database cannot be used now."""
OUTPUT_LOST = 74
"""The output could not be written, as into a closed pipe or onto a full disk: EX_IOERR of sysexits.h."""
INTERRUPTED = 130
"""Ctrl-C, as shells say it."""

AWAY = (RPCError, RPCTimeoutOrCancelledError)
"""The SDK raises these when a call to Temporal fails."""
EXPECTED = (ValidationError, NoSuchDeletion, DeletionError, *AWAY, KeyboardInterrupt)
"""Each failure with which a command can end, but for words that it cannot take."""


class BadUsage(typer.TyperException):
    """A command cannot take these words. The message says why."""

    exit_code = BAD_USAGE


def is_absent(error: BaseException) -> bool:
    """True if Temporal has nothing of the name that was asked for. A namespace that it has not is another matter."""
    return isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND and "amespace" not in error.message


def explained(error: BaseException) -> tuple[str, int]:
    """Return the sentence and the exit code of an expected failure."""
    match error:
        case ValidationError():
            return refused_fields(error), BAD_USAGE
        case NoSuchDeletion() | Misconfigured():
            return str(error), BAD_USAGE
        case DeletionError():
            return str(error), UNREACHABLE
        case RPCError() if is_absent(error):
            return "Temporal has nothing of that name at work: it has ended, or was never begun", BAD_USAGE
        case RPCError() | RPCTimeoutOrCancelledError():
            return str(unreachable(error)), UNREACHABLE
    return "interrupted; a deletion that was started goes on", INTERRUPTED
