"""A deletion on its way to its end: bars on a terminal, plain lines into a pipe, JSON lines for scripts."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
)
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from artifact_deletion.client import progress, trying_again
from artifact_deletion.receipt import DeletionReceipt
from commands.display import on_terminal
from commands.exit_codes import DONE, FAILED, INTERRUPTED
from commands.explained import AWAY, explained
from commands.followers import Bars, Follower, JsonLines, Lines, Now, Silence
from commands.output import warn
from workflows.text import rerun_command

_PASSING = {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.RESOURCE_EXHAUSTED}
_OUTLIVED_S, _ANSWERED_S, _AGAIN_S = 300.0, 60.0, 1.0
"""A call that has lasted a minute was answered in between: Temporal is away since less than that."""
_NO_ANSWER = (*AWAY, WorkflowQueryFailedError, WorkflowQueryRejectedError)


@dataclass(frozen=True)
class How:
    """What the one who follows wants to see."""

    as_json: bool = False
    quiet: bool = False
    utc: bool = False
    every_s: float = 0.5


async def follow(client: Client, workflow: str, how: How) -> int:
    """Show a running deletion's progress until it ends. Returns the exit code."""
    handle = client.get_workflow_handle(workflow, result_type=DeletionReceipt)
    ended = asyncio.create_task(_result(handle))
    try:
        with _follower(workflow, how) as shown:
            while not ended.done():
                if not how.quiet:
                    shown.show(await now(client, workflow))
                await asyncio.wait([ended], timeout=how.every_s)
    finally:
        ended.cancel()
    try:
        await ended
    except WorkflowFailureError as error:
        warn(end_of(error, workflow))
        return FAILED
    return DONE


async def _result(handle: WorkflowHandle[Any, DeletionReceipt]) -> DeletionReceipt:
    """The deletion's end. The SDK gives up after seconds; here an outage of minutes is outlived."""
    away_since: float | None = None
    while True:
        asked_at = time.monotonic()
        try:
            return await handle.result()
        except RPCError as error:
            if away_since is None or time.monotonic() - asked_at > _ANSWERED_S:
                away_since = asked_at
            if error.status not in _PASSING or time.monotonic() - away_since > _OUTLIVED_S:
                raise
        await asyncio.sleep(_AGAIN_S)


async def follow_from_here(client: Client, workflow: str, how: How) -> int:
    """The same for a person who may press Ctrl-C."""
    try:
        return await follow(client, workflow, how)
    except asyncio.CancelledError:
        warn(f"The deletion goes on without you. To see it again: python starter.py status {workflow} --follow")
        return INTERRUPTED
    except AWAY as error:
        sentence, code = explained(error)
        warn(f"{sentence}. The deletion goes on. To see it again: python starter.py status {workflow} --follow")
        return code


async def now(client: Client, workflow: str) -> Now:
    """A running deletion's progress, if a worker answers, and the steps that are tried again."""
    try:
        again = await trying_again(client, workflow)
    except AWAY:
        return Now(None, (), temporal_answers=False)
    try:
        return Now(await progress(client, workflow), again)
    except _NO_ANSWER:
        return Now(None, again)


def end_of(error: WorkflowFailureError, workflow: str) -> str:
    """Why a deletion did not come to its end, and what to do."""
    match error.cause:
        case ApplicationError() as cause:
            return cause.message
        case CancelledError():
            return "cancelled: nothing was deleted; asked for anew, it begins anew"
        case TerminatedError():
            return f"terminated: what it had begun is still owed; to finish it: {rerun_command(workflow)}"
    return f"it ended otherwise ({type(error.cause).__name__}); to finish it: {rerun_command(workflow)}"


@contextmanager
def _follower(workflow: str, how: How) -> Iterator[Follower]:
    """The right one for where the output goes."""
    if how.quiet:
        yield Silence()
    elif how.as_json:
        yield JsonLines(workflow)
    elif on_terminal():
        with Bars(utc=how.utc) as bars:
            yield bars
    else:
        yield Lines()
