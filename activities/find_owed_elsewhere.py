"""Step 6: find what other deletions still owe of this one's artifacts.

An artifact whose rows another deletion took is not gone before that one has deleted its objects too.
"""

from dataclasses import dataclass

from temporalio import activity

from activities.storage import ledger
from activities.storage.database import Database
from activities.storage.ledger import DeletionState
from workflows.messages import FIND_OWED_ELSEWHERE, Owed, OwedElsewhere
from workflows.messages import Deletion as DeletionRef


@dataclass(frozen=True)
class FindOwedElsewhere:
    """Needs the ledger alone."""

    database: Database
    traces_configured: bool

    @activity.defn(name=FIND_OWED_ELSEWHERE.name, no_thread_cancel_exception=True)
    def find_owed_elsewhere(self, deletion: DeletionRef) -> Owed:
        """Returns the other deletions. None are looked for while this one has leftovers of its own: it fails in any case.

        So nobody waits for a deletion that waits, and no two can wait for each other.
        """
        with self.database.read() as session:
            if ledger.unfinished_chunks(session, deletion.deletion_id, traces_configured=self.traces_configured):
                return Owed()
            others = []
            for other in ledger.deletions_owing(session, deletion.deletion_id, traces_configured=self.traces_configured):
                failed = other.state is DeletionState.FAILED
                others.append(OwedElsewhere(artifacts=other.artifacts, failed=failed, request=other.request))
            return Owed(deletions=tuple(others))
