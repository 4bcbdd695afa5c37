"""Which deletion a person means: by its workflow id, by the digest at its end, or by the first digits of the digest."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, CompoundSelect, String, func, select, union
from sqlalchemy.orm import Session

from activities.ledger.schema import Ask, Deletion
from activities.one_of import one_of
from artifact_deletion.outbox import DeletionState, NoSuchDeletion, Recorded, recorded
from commands.exit_codes import BadUsage

ENDED = {DeletionState.FAILED, DeletionState.CLOSED}
"""In these states a receipt, if there is one, is of the last run."""
NOTHING_DELETED = {DeletionState.REFUSED, DeletionState.CANCELLED}
"""In these states the last run has deleted nothing."""
_SHORTEST, _WHOLE = 8, 32
"""Hex digits of a digest. Tables show 8, and more only where another digest begins with the same."""
_DIGITS = re.compile(rf"[0-9a-f]{{{_SHORTEST},{_WHOLE}}}", re.ASCII)
_NAMED = 10


def find(session: Session, given: str) -> Recorded:
    """Find the deletion. Raises NoSuchDeletion, BadUsage."""
    wanted = _whole_digest(session, given)
    try:
        return recorded(session, wanted)
    except ValidationError:
        raise BadUsage(f"{given}: its request or receipt is none that this version knows") from None


def left_over(found: Recorded) -> dict[str, int]:
    """What the last run left over, by its receipt."""
    return found.receipt.left_over if found.receipt and found.state in ENDED else {}


def fence_of(session: Session, deletion_id: str) -> int:
    """How often the deletion was cancelled. Its ceiling and its confirmation end with a cancel."""
    return session.execute(select(Deletion.fence).where(Deletion.id == deletion_id)).scalar_one_or_none() or 0


def _whole_digest(session: Session, given: str) -> str:
    digits = given.rpartition("/")[2].lower()
    if not _DIGITS.fullmatch(digits):
        return given
    if len(digits) == _WHOLE:
        return digits
    # As a range, which an index serves in any collation: “g” comes after all hex digits.
    alike = _digests(lambda id_: (id_ >= digits) & (id_ < f"{digits}g"))
    found = session.execute(alike.order_by("id").limit(_NAMED + 1)).scalars().all()
    if not found:
        raise NoSuchDeletion(f"the ledger knows no deletion {given!r}")
    if len(found) > 1:
        named = ", ".join(_short(one, found) for one in found[:_NAMED]) + (" …" if len(found) > _NAMED else "")
        raise BadUsage(f"several deletions begin with {digits}: {named}")
    return str(found[0])


def shortened(session: Session, digests: Collection[str]) -> dict[str, str]:
    """Return each of these digests with as few digits as no other digest of the ledger begins with."""
    beginnings = {digest[:_SHORTEST] for digest in digests}
    statement = _digests(lambda id_: one_of(func.substr(id_, 1, _SHORTEST, type_=String()), beginnings))
    alike = defaultdict[str, list[str]](list)
    for digest in session.execute(statement).scalars() if digests else ():
        alike[digest[:_SHORTEST]].append(digest)
    return {digest: _short(digest, alike[digest[:_SHORTEST]]) for digest in digests}


def _short(digest: str, others: Collection[str]) -> str:
    length = _SHORTEST
    while any(other != digest and other.startswith(digest[:length]) for other in others):
        length += 1
    return digest[:length]


def _digests(where: Callable[[Any], ColumnElement[bool]]) -> CompoundSelect[Any]:
    """Select from all deletions, also from those that so far were only asked for."""
    return union(*(select(id_.label("id")).where(where(id_)) for id_ in (Ask.c.deletion_id, Deletion.id)))
