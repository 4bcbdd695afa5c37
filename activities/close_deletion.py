"""Step 6: wait for the objects that other deletions owe, add up the receipt, and forget the work if all of it is done."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session
from temporalio import activity

from activities.database import Database
from activities.ledger import deletions, holds, overlaps
from activities.ledger.deletions import Closing
from activities.ledger.held import let_go
from activities.ledger.overlaps import OtherDeletion
from activities.living import Living
from activities.receipt_of import receipt_of
from activities.receipts import Closed, Receipts
from artifact_deletion.errors import NotOpen, NotYet
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from workflows.steps import CLOSE_DELETION, Deletion

OTHERS_WITHIN = timedelta(days=1)
"""So long the end of a deletion waits for objects that others owe; time in which those are held does not count."""
_SOONEST, _LATEST = timedelta(seconds=1), timedelta(minutes=5)
_AGE_TO_PAUSE = 4
_NAMED = 3


@dataclass(frozen=True)
class CloseDeletion:
    """Needs the database, and the store if receipts are kept there too."""

    database: Database
    living: Living
    traces_configured: bool
    promised_days: int
    receipts: Receipts | None = None
    grace: timedelta = timedelta(0)
    """From the time when an image is hidden to its purge."""

    @activity.defn(name=CLOSE_DELETION.name, no_thread_cancel_exception=True)
    def close_deletion(self, deletion: Deletion) -> DeletionReceipt:
        """Returns the receipt, with id lists short enough for history; the ledger's copy has them whole.

        Where receipts are kept outside the database too, they are before the deletion counts as closed: after a crash in
        between it is closed again, and its receipt kept again. Raises NotYet, StoreUnavailable.
        """
        kept: DeletionReceipt | None = None
        while True:
            with self.database.write() as session:
                found = deletions.lock_to_close(session, deletion.deletion_id, deletion.fence)
                if found.state is DeletionState.CLOSED:
                    closed = deletions.stored_receipt(session, found.id)
                    break
                # Failed: closed before, by an attempt whose answer was lost, a late step or the run that a Reset took up again.
                if found.state not in {DeletionState.RUNNING, DeletionState.FAILED}:
                    raise NotOpen(f"the deletion is {found.state}; nothing was closed")
                # Before any look at rows: those that came back were committed with their asks at the latest.
                asks = deletions.unserved_asks(session, found.id)
                receipt, waits = self._add_up(session, found)
                if waits is None and (self.receipts is None or _same_but_for_the_time(receipt, kept)):
                    deletions.close(session, kept or receipt)
                    if asks and not receipt.artifacts.reappeared.count and not let_go(session, found.id):
                        deletions.serve(session, asks)  # this receipt is their answer
                    return (kept or receipt).for_history()
            if waits is not None:
                raise waits
            # No lock is held while a store is asked. What is closed is what was kept, or it is kept once more.
            if self.receipts is not None:
                self.receipts.write(Closed(request=found.request, receipt=receipt))
            kept = receipt
        if self.receipts is not None and kept is not None and kept != closed:
            # Another attempt closed it, and may have kept its receipt before this one kept its own.
            self.receipts.write(Closed(request=found.request, receipt=closed))
        return closed.for_history()

    def _add_up(self, session: Session, found: Closing) -> tuple[DeletionReceipt, NotYet | None]:
        """The receipt, and why it is not closed yet if it waits for others.

        A deletion with leftovers of its own waits for no other: so no two ever wait for each other.
        """
        receipt = receipt_of(
            session,
            self.living,
            found,
            traces_configured=self.traces_configured,
            grace=self.grace,
            promised_days=self.promised_days,
        )
        others = (
            overlaps.deletions_owing(session, found.id, traces_configured=self.traces_configured) if receipt.complete else []
        )
        if not others:
            return receipt, None
        owed = sum(other.artifacts for other in others)
        return receipt.model_copy(update={"complete": False, "owed_by_others": owed}), self._wait(session, found, others)

    def _wait(self, session: Session, found: Closing, others: list[OtherDeletion]) -> NotYet | None:
        """Why to try again later; None if no other runs, or it has waited long enough. While one is held, time begins anew."""
        running = [other for other in others if other.state == DeletionState.RUNNING]
        if not running:
            return None
        held = any(holds.placed_on(session, other.organization_id, other.id, other.fence) for other in running)
        since = found.now if held or found.waits_since is None else found.waits_since
        waited = found.now - since
        if waited >= OTHERS_WITHIN:
            return None
        deletions.wait_for_others(session, found.id, since)
        names = ", ".join(other.workflow_id for other in running[:_NAMED]) + (" …" if len(running) > _NAMED else "")
        pause = min(max(waited / _AGE_TO_PAUSE, _SOONEST), _LATEST)
        return NotYet(
            f"{len(running)} other deletions still owe objects of these artifacts: {names}. "
            "`python starter.py resume` starts one that does not run",
            pause,
        )


def _same_but_for_the_time(one: DeletionReceipt, other: DeletionReceipt | None) -> bool:
    now = {"closed": one.times.closed, "days": one.times.days}
    return other is not None and one == other.model_copy(update={"times": other.times.model_copy(update=now)})
