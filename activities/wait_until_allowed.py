"""What a step waits for that was held up: a thaw, or a confirmation. Asked every few seconds, each time a short look.

The waiting is a step of its own, so that it costs the held step none of its time, an operator sees in the Web UI what is
waited for, and however long that takes leaves two events in the history.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session
from temporalio import activity

from activities.storage import ledger
from activities.storage.database import Database
from activities.storage.freeze import Switch
from workflows.errors import Unconfirmed
from workflows.messages import WAIT_UNTIL_CONFIRMED, WAIT_UNTIL_THAWED, Allowed, Deletion


@dataclass(frozen=True)
class Ceilings:
    """What may be deleted unconfirmed. None: as much as anybody asks for."""

    artifacts: int | None = None
    keys: int | None = None

    def refuse_unconfirmed(self, session: Session, deletion_id: str) -> None:
        """Raises Unconfirmed if the deletion is over a ceiling and nobody has confirmed it.

        Keys count as soon as they are collected, in whichever chunk. So of a deletion that turns out to be too large, no more
        keys than the ceiling are released before somebody confirms it.
        """
        if self.artifacts is None and self.keys is None:
            return
        size = ledger.size_of(session, deletion_id)
        over = [
            f"{count:,} {what} are more than {ceiling:,}"
            for what, count, ceiling in (("artifacts", size.artifacts, self.artifacts), ("keys", size.keys, self.keys))
            if ceiling is not None and count > ceiling
        ]
        if over and size.confirmed_at is None:
            raise Unconfirmed(
                f"too large to go unconfirmed: {', '.join(over)} ({size.artifacts:,} artifacts, {size.keys:,} keys collected "
                f"in {size.collected:,} of {size.chunks:,} chunks); it goes on after "
                f"`python starter.py confirm {size.workflow_id} --by WHO`"
            )


@dataclass(frozen=True)
class WaitUntilAllowed:
    """Needs the ledger alone."""

    database: Database
    ceilings: Ceilings

    @activity.defn(name=WAIT_UNTIL_THAWED.name, no_thread_cancel_exception=True)
    def wait_until_thawed(self, _deletion: Deletion) -> Allowed:
        """Returns if deletions are not frozen. Raises Frozen: then it is asked again."""
        Switch(self.database).refuse_frozen()
        return Allowed()

    @activity.defn(name=WAIT_UNTIL_CONFIRMED.name, no_thread_cancel_exception=True)
    def wait_until_confirmed(self, deletion: Deletion) -> Allowed:
        """Returns if the deletion is confirmed or small enough. Raises Unconfirmed: then it is asked again."""
        with self.database.read() as session:
            self.ceilings.refuse_unconfirmed(session, deletion.deletion_id)
        return Allowed()
