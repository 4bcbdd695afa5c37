"""What a cancel comes to: the ledger knows whether rows were deleted, whatever the cancelled step says of itself."""

from dataclasses import dataclass

from temporalio import activity

from activities.database import Database
from activities.ledger import deletions
from workflows.steps import CANCEL_DELETION, Cancelled, Deletion


@dataclass(frozen=True)
class CancelDeletion:
    """Needs the ledger alone."""

    database: Database

    @activity.defn(name=CANCEL_DELETION.name, no_thread_cancel_exception=True)
    def cancel_deletion(self, deletion: Deletion) -> Cancelled:
        """Undo everything if no row is deleted yet; from then on this run can delete none. Otherwise change nothing."""
        with self.database.write() as session:
            return Cancelled(nothing_deleted=deletions.cancel(session, deletion.deletion_id, deletion.fence))
