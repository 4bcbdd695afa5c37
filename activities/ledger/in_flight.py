"""Keys in flight: what an organization's running deletions have sealed and the store still owes.

A deletion that has failed owes keys that nothing is at work on, and so does one that a person holds: they do not count, or a
bulk deletion could wait for ever.
"""

from datetime import timedelta

from sqlalchemy import bindparam, exists, func, or_, select
from sqlalchemy.orm import Session

from activities.ledger.holds import IS_HELD
from activities.ledger.schema import ChunkState, Deletion, DeletionChunk, DeletionPage
from artifact_deletion.errors import NotYet
from artifact_deletion.outbox import DeletionState

LOOK_AGAIN = timedelta(seconds=3)

KEYS = (
    select(func.coalesce(func.sum(DeletionPage.count), 0))
    .join(Deletion, Deletion.id == DeletionPage.deletion_id)
    .where(Deletion.state == DeletionState.RUNNING, Deletion.organization_id == bindparam("organization"), ~IS_HELD)
)
_UNCOLLECTED = exists(DeletionChunk.chunk).where(
    DeletionChunk.deletion_id == Deletion.id, DeletionChunk.state == ChunkState.OPEN, DeletionChunk.names_digest == ""
)
_COLLECTED = select(Deletion.id).where(
    Deletion.id == bindparam("of"), or_(Deletion.state != DeletionState.RUNNING, ~_UNCOLLECTED)
)


def keys_of(session: Session, organization_id: int) -> int:
    """How many there are."""
    return int(session.execute(KEYS, {"organization": organization_id}).scalar_one())


def refuse_too_many(session: Session, organization_id: int, at_once: int) -> None:
    """Raises NotYet while there are more than that."""
    if (owed := keys_of(session, organization_id)) > at_once:
        raise NotYet(
            f"running deletions of the organization owe {owed:,} keys: the next one begins when these are {at_once:,} or fewer",
            LOOK_AGAIN,
        )


def is_collected(session: Session, deletion_id: str) -> bool:
    """Whether all keys of a deletion are known, or it has ended. False if it is not in the ledger yet."""
    return session.execute(_COLLECTED, {"of": deletion_id}).first() is not None
