"""Step 6: find what other deletions still owe of this one's artifacts.

An artifact whose rows another deletion took is not gone before that one has deleted its objects too.
"""

from dataclasses import dataclass

from temporalio import activity

from activities.storage import ledger
from activities.storage.database import Database
from workflows.messages import FIND_OWED_ELSEWHERE, READ_REQUEST, Deletion, DeletionRequest, Owed, OwedElsewhere


@dataclass(frozen=True)
class FindOwedElsewhere:
    """Needs the ledger alone."""

    database: Database
    traces_configured: bool

    @activity.defn(name=FIND_OWED_ELSEWHERE.name, no_thread_cancel_exception=True)
    def find_owed_elsewhere(self, deletion: Deletion) -> Owed:
        """Returns the other deletions. None are looked for while this one has leftovers of its own: it fails in any case.

        So nobody waits for a deletion that waits, and no two can wait for each other.
        """
        with self.database.read() as session:
            if ledger.unfinished_chunks(session, deletion.deletion_id, traces_configured=self.traces_configured):
                return Owed()
            owing = ledger.deletions_owing(session, deletion.deletion_id, traces_configured=self.traces_configured)
            return Owed(
                deletions=tuple(
                    OwedElsewhere(deletion_id=other.id, workflow_id=other.workflow_id, artifacts=other.artifacts)
                    for other in owing
                )
            )

    @activity.defn(name=READ_REQUEST.name, no_thread_cancel_exception=True)
    def read_request(self, deletion: Deletion) -> DeletionRequest:
        """The request of another deletion, to run it again."""
        with self.database.read() as session:
            return ledger.request_of(session, deletion.deletion_id)
