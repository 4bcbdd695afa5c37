"""Deletions of whole projects and organizations, as a person or a script starts and follows them."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
)
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError

from artifact_deletion.bulk import BulkCounts, BulkReceipt, BulkRequest
from artifact_deletion.client import Trying, bulk_progress, start_bulk, trying_again
from commands import options
from commands.connection import connect
from commands.display import print_columns
from commands.exit_codes import AWAY, DONE, FAILED, UNREACHABLE
from commands.followers import as_objects
from commands.output import confirmed, say, warn
from workflows import bulk_text

_NO_ANSWER = (*AWAY, WorkflowQueryFailedError, WorkflowQueryRejectedError)
AskedBy = Annotated[
    str | None,
    typer.Option("--by", parser=options.opaque_id, metavar="ID", help="your opaque id, such as user:7; stays in Temporal"),
]
Rate = Annotated[
    int | None, typer.Option("--rate", parser=options.positive, metavar="N", help="at most so many artifacts an hour")
]


async def ask_and_start(request: BulkRequest, *, yes: bool, wait: bool, as_json: bool) -> int:
    """Start it, and wait for its end if that is wanted. Returns the exit code."""
    images = {"delete": "with images that no other snapshot shows", "keep": "and keep their images"}[request.images]
    if not yes and sys.stdin.isatty() and not await confirmed(f"{request.summary} for good, {images}?"):
        warn("nothing was asked for")
        return FAILED
    client = await connect()
    handle = await start_bulk(client, request)
    if (before := _how(await _asked_for(client, handle.id))) != _how(request):
        warn(f"{handle.id} runs already, and goes on as it was asked for: {before}; nothing of this request counts")
        return FAILED
    if not wait:
        say(json.dumps({"workflow_id": handle.id}) if as_json else handle.id)
        return DONE
    receipt: BulkReceipt | None
    try:
        receipt = await handle.result()
    except WorkflowFailureError as error:
        receipt = _receipt_in(error)
        warn(_end_of(error))
    if receipt is not None:
        _print(handle.id, None, receipt, as_json=as_json)
    return DONE if receipt is not None and receipt.complete else FAILED


async def _asked_for(client: Client, workflow: str) -> BulkRequest:
    """The request that its run began with."""
    async for event in client.get_workflow_handle(workflow).fetch_history_events(page_size=1):
        given = event.workflow_execution_started_event_attributes.input.payloads
        (values,) = await client.data_converter.decode(given, [dict])
        return BulkRequest(**{name: values[name] for name in BulkRequest.model_fields if name in values})
    raise AssertionError("each history has a first event")


def _how(request: BulkRequest) -> str:
    """What two requests with the same id can differ in, beside who asked."""
    rate = "no --rate" if request.artifacts_an_hour is None else f"--rate {request.artifacts_an_hour}"
    return f"--images {request.images}, {rate}"


async def print_status(workflow: str, *, as_json: bool) -> int:
    """Say how far it is. Returns the exit code."""
    client = await connect()
    described = await client.get_workflow_handle(workflow).describe()
    state = (described.status or WorkflowExecutionStatus.RUNNING).name.lower()
    try:
        counts, again = await bulk_progress(client, workflow), await trying_again(client, workflow)
    except _NO_ANSWER:
        say(json.dumps({"workflow_id": workflow, "state": state}) if as_json else f"{workflow}: {state}")
        warn("no worker answers; one of them knows the rest")
        return UNREACHABLE
    _print(workflow, state, counts, again, as_json=as_json)
    if described.status not in {WorkflowExecutionStatus.FAILED, WorkflowExecutionStatus.TERMINATED}:
        return DONE
    try:
        await client.get_workflow_handle(workflow).result()
    except WorkflowFailureError as error:
        warn(_end_of(error))
    return FAILED


async def call_off(workflow: str, by: str) -> int:
    """Ask it to end. Returns the exit code. Raises RPCError if there is none."""
    handle = (await connect()).get_workflow_handle(workflow)
    status = (await handle.describe()).status or WorkflowExecutionStatus.RUNNING
    if status is not WorkflowExecutionStatus.RUNNING:
        warn(f"{workflow}: {status.name.lower()}; it does not run")
        return FAILED
    await handle.cancel(reason=by)
    say(f"{workflow}: {bulk_text.CANCELLED}")
    return DONE


def _print(workflow: str, state: str | None, counts: BulkCounts, again: Sequence[Trying] = (), *, as_json: bool) -> None:
    """`state` is None for a receipt, which says all by itself."""
    if as_json:
        of = {} if state is None else {"workflow_id": workflow, "state": state}
        waits = as_objects(again) if again else {}
        say(json.dumps(of | counts.model_dump(mode="json") | waits, indent=None if state else 2))
        return
    tried = [("Tried again", str(one)) for one in again]
    print_columns([("Bulk deletion", workflow), *([("State", state)] if state else []), *bulk_text.count_lines(counts), *tried])


def _receipt_in(error: WorkflowFailureError) -> BulkReceipt | None:
    cause = error.cause
    return BulkReceipt.model_validate(cause.details[0]) if isinstance(cause, ApplicationError) and cause.details else None


def _end_of(error: WorkflowFailureError) -> str:
    match error.cause:
        case ApplicationError() as cause:
            return cause.message
        case CancelledError():
            return bulk_text.CANCELLED
        case TerminatedError():
            return "terminated: no further deletion begins, and those that run come to their end"
    return f"it ended otherwise ({type(error.cause).__name__}); asked for again, it does the rest"
