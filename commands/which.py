"""Which deletion a person means: its workflow id, the digest at its end, or the digits with which no other digest begins."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, String, func, select, union
from sqlalchemy.orm import Session

from activities.ledger.schema import Ask, Deletion
from activities.one_of import one_of
from artifact_deletion.outbox import NoSuchDeletion, Recorded, recorded

SHORTEST = 8
"""Hex digits of a digest that are shown, more only where another digest has the same."""
_WHOLE = 32
_DIGITS = re.compile(rf"[0-9a-f]{{{SHORTEST},{_WHOLE}}}", re.ASCII)
_NAMED = 10


class WhichDeletion(LookupError):
    """Several deletions begin like that, or the one that was meant cannot be read; the message says which."""


@dataclass(frozen=True)
class Meant:
    """The deletion that a person means."""

    id: str
    found: Recorded
    fence: int
    """How often it was cancelled. Its holds and confirmations are of this life of it."""

    @property
    def workflow_id(self) -> str:
        return self.found.request.workflow_id


def find(session: Session, given: str) -> Meant:
    """Raises NoSuchDeletion, WhichDeletion."""
    wanted = _whole_digest(session, given)
    try:
        found = recorded(session, wanted)
    except ValidationError:
        raise WhichDeletion(f"{given}: its request or receipt is none that this version knows") from None
    fence = session.execute(select(Deletion.fence).where(Deletion.id == wanted)).scalar_one_or_none()
    return Meant(wanted, found, fence or 0)


def _whole_digest(session: Session, given: str) -> str:
    digits = given.rpartition("/")[2].lower()
    if not _DIGITS.fullmatch(digits):
        return given
    if len(digits) == _WHOLE:
        return digits
    # As a range, which an index serves in any collation: “g” comes after all hex digits.
    alike = (select(id_.label("id")).where(id_ >= digits, id_ < f"{digits}g") for id_ in (Ask.c.deletion_id, Deletion.id))
    found = list(session.execute(union(*alike).order_by("id").limit(_NAMED + 1)).scalars())
    if not found:
        raise NoSuchDeletion(f"the ledger knows no deletion {given!r}")
    if len(found) > 1:
        named = ", ".join(short(one, found) for one in found[:_NAMED]) + (" …" if len(found) > _NAMED else "")
        raise WhichDeletion(f"several deletions begin with {digits}: {named}")
    return str(found[0])


def short(digest: str, others: Iterable[str]) -> str:
    """As few of the digest's digits as say which of these it is."""
    length = SHORTEST
    rivals = [other for other in others if other != digest]
    while any(other.startswith(digest[:length]) for other in rivals):
        length += 1
    return digest[:length]


def shortened(session: Session, digests: Collection[str]) -> dict[str, str]:
    """Each of these digests, in as few digits as no other of the ledger begins with."""
    beginnings = {digest[:SHORTEST] for digest in digests}

    def among(id_: Any) -> ColumnElement[bool]:
        return one_of(func.substr(id_, 1, SHORTEST, type_=String()), beginnings)

    alike = union(*(select(id_).where(among(id_)) for id_ in (Ask.c.deletion_id, Deletion.id)))
    known = set(session.execute(alike).scalars()) if digests else set()
    return {digest: short(digest, {one for one in known if one[:SHORTEST] == digest[:SHORTEST]}) for digest in digests}
