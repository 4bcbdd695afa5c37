"""`confirm`: say that a deletion is meant which is larger than may go unconfirmed."""

from activities.ledger import holds
from artifact_deletion.outbox import DeletionState
from commands import options
from commands.connection import open_ledger
from commands.exit_codes import DONE, FAILED
from commands.output import say, warn
from commands.which import fence_of, find

_NOTHING_TO_CONFIRM = {
    DeletionState.CLOSED: "is closed: it is done, and there is nothing to confirm",
    DeletionState.CANCELLED: "is cancelled: there is nothing to confirm unless it is asked for anew",
    DeletionState.REFUSED: "was refused: nothing of it is deleted, and there is nothing to confirm",
}


def confirm(*, deletion: options.Deletion, by: options.By) -> int:
    """Let a deletion go on that is larger than may go unconfirmed.

    Also beforehand. A cancel ends it: asked for anew, the deletion needs to be confirmed anew.
    """
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
