"""`receipt`: what a deletion did."""

from artifact_deletion.outbox import DeletionState
from commands import options
from commands.connection import open_ledger
from commands.exit_codes import DONE, FAILED
from commands.output import warn
from commands.receipt_text import print_receipt
from commands.which import ENDED, find


def receipt(*, deletion: options.Deletion, as_json: options.Json = False, utc: options.Utc = False) -> int:
    """Print what a deletion did, and when each of it was checked."""
    with open_ledger() as database, database.read() as session:
        found = find(session, deletion)
    if found.receipt is None:
        warn("there is no receipt yet: the deletion has not come to its end")
        return FAILED
    if found.state not in ENDED:
        warn(f"{found.request.workflow_id} is {found.state}: its receipt is of an earlier run")
    print_receipt(found.receipt, as_json=as_json, utc=utc)
    return DONE if found.state is DeletionState.CLOSED else FAILED
