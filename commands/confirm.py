"""`confirm`: say that a deletion is meant which is larger than may go unconfirmed."""

from activities.ledger import holds
from artifact_deletion.outbox import DeletionState
from commands import options
from commands.exit_codes import DONE, FAILED
from commands.ledger import open_ledger
from commands.output import say, warn
from commands.which import find

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
        meant = find(session, deletion)
        if (why := _NOTHING_TO_CONFIRM.get(meant.found.state)) is None:
            holds.confirm(session, meant.id, meant.fence, by=by)
            size = holds.size_of(session, meant.id)
    if why is not None:
        warn(f"{meant.workflow_id} {why}")
        return FAILED
    artifacts = size.artifacts or len(meant.found.request.artifact_ids)
    say(f"{meant.workflow_id} is confirmed: {artifacts:,} artifacts, {size.keys:,} keys collected so far")
    return DONE
