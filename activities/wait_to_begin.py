"""What a deletion waits for that is to begin later: its time, or an ask that wants it sooner.

Temporal could delay the start itself, but the first update ends such a delay, also one that comes with a start, as
`Deletions.rows_deleted` sends it (https://docs.temporal.io/workflow-execution/timers-delays, and tried). A timer would not see
who asks since. So this is a wait like others: a look at the ledger every few minutes, by the database's clock.

What has expired begins by itself, after a policy's grace. Then it waits for its turn too, as a bulk deletion's next one does.
"""

from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity

from activities.database import Database
from activities.ledger import deletions, in_flight
from artifact_deletion.errors import NotYet
from workflows.steps import WAIT_TO_BEGIN, Deletion, Due

_LOOK_AGAIN = timedelta(minutes=5)


@dataclass(frozen=True)
class WaitToBegin:
    """Needs the ledger alone."""

    database: Database
    keys_at_once: int

    @activity.defn(name=WAIT_TO_BEGIN.name, no_thread_cancel_exception=True)
    def wait_to_begin(self, deletion: Deletion) -> Due:
        """Returns once the deletion may begin. Raises NotYet before, and NotOpen if it was cancelled since."""
        with self.database.write() as session:
            time, now = deletions.time_to_begin(session, deletion.deletion_id, deletion.fence)
        if time is not None and time > now:
            said = f"begins at {time:%Y-%m-%d %H:%M:%S} UTC, unless it is cancelled before"
            raise NotYet(said, min(time - now, _LOOK_AGAIN))
        if deletion.expired:
            with self.database.read() as session:
                in_flight.refuse_too_many(session, deletion.organization_id, self.keys_at_once)
        return Due()
