"""`cancel`: call a deletion off of which no row is deleted yet."""

import asyncio
import time
from typing import Annotated, Any

import typer
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError, RPCStatusCode

from activities.ledger import deletions
from artifact_deletion.bulk import is_bulk
from artifact_deletion.client import is_running, start_deletion
from artifact_deletion.errors import TemporalUnreachable
from artifact_deletion.outbox import DeletionState, Recorded
from commands import options
from commands.bulk import call_off
from commands.connection import connect, open_ledger
from commands.exit_codes import AWAY, DONE, FAILED, UNREACHABLE, explained
from commands.following import end_of, now
from commands.holds import hold_command
from commands.output import say, warn
from commands.which import find

By = Annotated[
    str | None, typer.Option(parser=options.opaque_id, metavar="ID", help="your opaque id; stays in Temporal's history")
]
_ENDED = {DeletionState.CLOSED, DeletionState.FAILED, DeletionState.REFUSED}
_CANCELLED = "cancelled: nothing was deleted"
_TOO_LATE = "rows are deleted already: the rest is finished all the same"
_ANSWERED_WITHIN_S, _LOOK_AGAIN_S = 15.0, 0.2


async def cancel(*, deletion: options.Deletion, by: By = None) -> int:
    """Call a deletion off of which no row is deleted yet, as one that waits for its time.

    Once rows are deleted the rest is finished all the same, and it says so.

    A deletion of a whole project or organization begins no further deletion, and those that run come to their end.
    """
    if is_bulk(deletion):
        return await call_off(deletion, by or "")
    with open_ledger() as database, database.read() as session:
        found = find(session, deletion)
        too_late = deletions.has_deleted_rows(session, found.request.deletion_id)
    try:
        return await _cancel(await connect(), found, by or "", too_late=too_late)
    except (*AWAY, TemporalUnreachable) as error:
        sentence, code = explained(error)
        warn(f"{sentence}; it is not cancelled. A hold needs no Temporal: {hold_command(found.request.deletion_id)}")
        return code


async def _cancel(client: Client, found: Recorded, by: str, *, too_late: bool) -> int:
    workflow = found.request.workflow_id
    if not await is_running(client, found.request):
        if found.state is DeletionState.CANCELLED:
            say(f"{workflow}: {_CANCELLED}")
            return DONE
        if found.state in _ENDED or too_late:
            rest = too_late and found.state is not DeletionState.CLOSED
            hold = hold_command(found.request.deletion_id)
            rows = f", and rows of it are deleted. A hold keeps the rest: {hold}" if rest else ""
            warn(f"{workflow}: {found.state}; no run is at work on it{rows}")
            return FAILED
        await start_deletion(client, found.request)  # a run alone knows how to undo it
    handle = client.get_workflow_handle(workflow)
    try:
        await handle.cancel(reason=by)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # it has ended meanwhile
            raise
    ended = asyncio.ensure_future(handle.result())
    try:
        return await _outcome(client, workflow, ended)
    finally:
        ended.cancel()


async def _outcome(client: Client, workflow: str, ended: asyncio.Future[Any]) -> int:
    until = time.monotonic() + _ANSWERED_WITHIN_S
    while not ended.done():
        progress = (await now(client, workflow)).progress
        if progress is not None and progress.cancel_refused:
            warn(f"{workflow}: {_TOO_LATE}")
            return FAILED
        if time.monotonic() > until:
            warn(f"{workflow} is asked to end, and has not yet: `python starter.py status {workflow}` says what became of it")
            return UNREACHABLE
        await asyncio.wait([ended], timeout=_LOOK_AGAIN_S)
    try:
        await ended
    except WorkflowFailureError as error:
        if isinstance(error.cause, CancelledError):
            say(f"{workflow}: {_CANCELLED}")
            return DONE
        warn(end_of(error, workflow))
        return FAILED
    warn(f"{workflow}: {_TOO_LATE}")
    return FAILED
