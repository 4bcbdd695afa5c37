"""What a held step waits for: that no hold is on the deletion any more. Asked every few seconds, each time a short look.

The waiting is a step of its own, so that it costs the held step none of its time, an operator sees in the Web UI why it waits,
and however long that takes leaves a few events in the history.
"""

from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity

from activities.database import Database
from activities.ledger import holds
from artifact_deletion.errors import NotYet
from workflows.steps import WAIT_WHILE_HELD, Lifted, Waiting

_LOOK_AGAIN = timedelta(seconds=3)


@dataclass(frozen=True)
class WaitWhileHeld:
    """Needs the ledger alone."""

    database: Database

    @activity.defn(name=WAIT_WHILE_HELD.name, no_thread_cancel_exception=True)
    def wait_while_held(self, waiting: Waiting) -> Lifted:
        """Returns if no hold is on the deletion. Raises NotYet: then it is asked again."""
        with self.database.read() as session:
            placed = holds.placed_on(session, waiting.organization_id, waiting.deletion_id, waiting.fence)
        for hold in placed:
            if waiting.rows or not hold.is_ceiling:
                raise NotYet(hold.sentence, _LOOK_AGAIN)
        return Lifted()
