"""Whose a key is that a store listed, by its shape alone: pure rules, without rows."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

_NUMBER = re.compile(r"(?<![0-9])[1-9][0-9]{0,18}(?![0-9])", re.ASCII)
_IDS_END = 2**63


class KeyKind(StrEnum):
    """What a key's shape says."""

    OWN = "own"
    """One artifact's."""
    COMPARISON = "comparison"
    """Under one artifact's prefix, and another's too as its base: it lives while the two are compared."""
    SHARED = "shared"
    """Several artifacts' rows may name it."""
    FOREIGN = "foreign"
    """No shape of this backend's."""


class Owner(NamedTuple):
    """Whose a key is."""

    kind: KeyKind
    artifact: int = 0
    """0: none's alone."""
    base: int = 0
    """Of a comparison."""


FOREIGN = Owner(KeyKind.FOREIGN)


def owner_by_number(key: str, prefix_of: Callable[[int], str]) -> Owner:
    """The artifact among the key's numbers under whose prefix it lies. None is found if prefixes have no ids in them."""
    for number in map(int, _NUMBER.findall(key)):
        if number < _IDS_END and key.startswith(prefix_of(number)):
            return Owner(KeyKind.OWN, number)
    return FOREIGN
