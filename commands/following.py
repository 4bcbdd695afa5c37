"""A deletion from its start to its end, as a person or a script follows it."""

import asyncio
import json
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from activities.database import Database
from artifact_deletion.client import is_running, progress, start_deletion, trying_again
from artifact_deletion.errors import DeletionError
from artifact_deletion.outbox import recorded
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest
from commands.connection import connect
from commands.display import on_terminal
from commands.exit_codes import AWAY, DONE, FAILED, INTERRUPTED, UNREACHABLE, explained
from commands.followers import Bars, Follower, JsonLines, Lines, Now
from commands.output import say, warn
from commands.receipt_text import print_receipt
from workflows.text import rerun_command

_PASSING = {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.RESOURCE_EXHAUSTED}
_OUTLIVED_S, _ANSWERED_S, _AGAIN_S = 300.0, 60.0, 1.0
"""A call that has lasted a minute was answered in between: Temporal is away since less than that."""
_NO_ANSWER = (*AWAY, WorkflowQueryFailedError, WorkflowQueryRejectedError)


@dataclass(frozen=True)
class How:
    """How a deletion is to be shown."""

    as_json: bool = False
    quiet: bool = False
    utc: bool = False
    every_s: float = 0.5


async def start(client: Client, request: DeletionRequest) -> None:
    """Start a deletion that no run is at work on. Raises WorkflowIdTaken if something else runs in its place."""
    if not await is_running(client, request):
        await start_deletion(client, request)


async def start_and_follow(database: Database, request: DeletionRequest, *, wait: bool, as_json: bool, utc: bool) -> int:
    """Start a deletion that was accepted, and wait for its end if that is wanted. Returns the exit code."""
    workflow = request.workflow_id
    try:
        client = await connect()
        await start(client, request)
    except (*AWAY, DeletionError) as error:
        sentence, _ = explained(error)
        warn(f"{workflow} is accepted, and `python starter.py resume` starts it later: {sentence}")
        if as_json:
            say(json.dumps({"workflow_id": workflow}))
        return UNREACHABLE
    if not (wait and as_json):
        say(json.dumps({"workflow_id": workflow}) if as_json else workflow)
    if not wait:
        return DONE
    code = await follow_from_here(client, workflow, How(quiet=as_json, utc=utc))
    if code != INTERRUPTED:
        with database.read() as session:
            receipt = recorded(session, workflow).receipt
        if receipt is not None:
            print_receipt(receipt, as_json=as_json, utc=utc)
    return code


async def follow_from_here(client: Client, workflow: str, how: How) -> int:
    """Follow a deletion for a person who may press Ctrl-C. Returns the exit code."""
    again = f"To see it again: python starter.py status {workflow} --follow"
    try:
        return await follow(client, workflow, how)
    except asyncio.CancelledError:
        warn(f"The deletion goes on without you. {again}")
        return INTERRUPTED
    except AWAY as error:
        sentence, code = explained(error)
        warn(f"{sentence}. The deletion goes on. {again}")
        return code


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


def _follower(workflow: str, how: How) -> AbstractContextManager[Follower]:
    if how.as_json:
        return nullcontext(JsonLines(workflow))
    return Bars(utc=how.utc) if on_terminal() and not how.quiet else nullcontext(Lines())


async def _result(handle: WorkflowHandle[Any, DeletionReceipt]) -> DeletionReceipt:
    """Wait for the deletion's end. The SDK gives up after seconds; here an outage of minutes is outlived."""
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


async def now(client: Client, workflow: str) -> Now:
    """Ask for a running deletion's progress, which only a worker knows, and for its steps that are tried again."""
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
