"""`confirm`: say that a deletion is meant which is larger than may go unconfirmed."""

from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from activities.ledger import holds
from artifact_deletion.bulk import CONFIRM_UPDATE, is_bulk
from artifact_deletion.outbox import DeletionState
from commands import options
from commands.connection import connect, open_ledger
from commands.exit_codes import DONE, FAILED
from commands.output import say, warn
from commands.which import fence_of, find

_NOTHING_TO_CONFIRM = {
    DeletionState.CLOSED: "is closed: it is done, and there is nothing to confirm",
    DeletionState.CANCELLED: "is cancelled: there is nothing to confirm unless it is asked for anew",
    DeletionState.REFUSED: "was refused: nothing of it is deleted, and there is nothing to confirm",
}


async def confirm(*, deletion: options.Deletion, by: options.By) -> int:
    """Let a deletion go on that is larger than may go unconfirmed.

    Also beforehand. A cancel ends it: asked for anew, the deletion needs to be confirmed anew. One of a whole project or
    organization has to be confirmed by another person than the one who asked.
    """
    return await _confirm_bulk(deletion, by) if is_bulk(deletion) else _confirm(deletion, by)


async def _confirm_bulk(workflow: str, by: str) -> int:
    client = await connect()
    try:
        await client.get_workflow_handle(workflow).execute_update(CONFIRM_UPDATE, by)
    except WorkflowUpdateFailedError as error:
        warn(error.cause.message if isinstance(error.cause, ApplicationError) else "it has ended: there is nothing to confirm")
        return FAILED
    say(f"{workflow} is confirmed")
    return DONE


def _confirm(deletion: str, by: str) -> int:
    with open_ledger() as database, database.write() as session:
        found = find(session, deletion)
        request = found.request
        if (why := _NOTHING_TO_CONFIRM.get(found.state)) is not None:
            warn(f"{request.workflow_id} {why}")
            return FAILED
        holds.confirm(session, request.deletion_id, fence_of(session, request.deletion_id), by=by)
        size = holds.size_of(session, request.deletion_id)
    artifacts = size.artifacts or len(request.artifact_ids)
    say(f"{request.workflow_id} is confirmed: {artifacts:,} artifacts, {size.keys:,} keys collected so far")
    return DONE
