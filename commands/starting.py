"""What `delete` and `rerun` do once a deletion is asked for: start it, and wait for its end if that is wanted."""

import json

from temporalio.client import Client

from activities.database import Database
from artifact_deletion.client import is_running, start_deletion
from artifact_deletion.errors import DeletionError
from artifact_deletion.outbox import recorded
from artifact_deletion.request import DeletionRequest
from commands.connection import connect
from commands.exit_codes import DONE, INTERRUPTED, UNREACHABLE
from commands.explained import AWAY, explained
from commands.following import How, follow_from_here
from commands.output import say, warn
from commands.receipt_text import print_receipt


async def start(client: Client, request: DeletionRequest) -> None:
    """Unless a run is at work on it. Raises WorkflowIdTaken if something else runs in its place."""
    if not await is_running(client, request):
        await start_deletion(client, request)


async def start_and_follow(database: Database, request: DeletionRequest, *, wait: bool, as_json: bool, utc: bool) -> int:
    """Of a deletion that is asked for. Returns the exit code."""
    workflow = request.workflow_id
    try:
        client = await connect()
        await start(client, request)
    except (*AWAY, DeletionError) as error:
        sentence, _ = explained(error)
        warn(f"{workflow} is accepted, and `python starter.py resume` starts it later: {sentence}")
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
