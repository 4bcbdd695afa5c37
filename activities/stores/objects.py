"""What a deletion needs of an object store.

Every call is one attempt: Temporal alone retries, where an operator can see it. Refusals of single keys come back as outcomes,
so that one bad key harms no other; trouble with the request as a whole is raised as StoreUnavailable. A store's answer is input
like any other: one that cannot be true is no answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

MAX_KEYS = 1000
"""What one DeleteObjects request takes, and one listing returns."""


class ObjectAbsent(LookupError):
    """The store answered that there is no such key, and nothing less."""


class ObjectTooLarge(ValueError):
    """The object is larger than the caller is ready to read."""


@dataclass(frozen=True, slots=True)
class Found:
    """A thing that can be deleted: an object, or one version or delete marker of it."""

    key: str
    version: str | None = None
    mark: str = ""
    """Two listings show the very same thing if its key, version and mark are the same: of an object without a version of its
    own, its digest and the time when it was written."""
    size: int = field(default=0, compare=False)
    """Bytes; a delete marker has none."""
    written: datetime | None = field(default=None, compare=False)
    """When, as the store says; None: it says nothing of it."""
    is_marker: bool = field(default=False, compare=False)
    """A delete marker: no object."""
    is_latest: bool = field(default=True, compare=False)
    """False of a version over which another one or a marker lies."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and not completed: no object, but its parts are data."""

    key: str
    id: str


@dataclass(slots=True)
class Outcome:
    """What became of keys: each is in exactly one of these."""

    deleted: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Key to code: asking again would be answered the same."""
    not_yet: dict[str, str] = field(default_factory=dict)
    """Key to code: the store asks to try again."""

    @property
    def remaining(self) -> dict[str, str]:
        """Key to code of all that is still there."""
        return self.refused | self.not_yet


class Listings(Protocol):
    """What emptying a prefix needs of a store: what lies under it, and how to delete that."""

    @property
    def listable(self) -> bool:
        """False if the store cannot list: prefixes are then reported as unchecked."""

    @property
    def lists_uploads(self) -> bool:
        """False if the store has no multipart uploads, or cannot list them: then no unfinished ones are looked for."""

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        """All that lies under a prefix, by at most 1000: objects, or versions and delete markers. Raises StoreUnavailable.

        Every key begins with the prefix, and the last part is the last there is: a store that says otherwise gave no answer.
        A single key is looked for by taking it for the prefix, and passing over longer keys.
        """

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        """Delete at most 1000 listed things literally as they were listed; the outcome's keys may repeat."""

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:
        """The unfinished multipart uploads whose keys begin with a prefix. Raises StoreUnavailable."""

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        """Abort listed uploads; the outcome's keys may repeat. A part that was on its way can outlive it: list again."""


class ObjectStore(Listings, Protocol):
    """Keys are physical: scope and key. All methods may be called from many threads."""

    def read(self, key: str, limit: int) -> bytes:
        """The content of an object. Raises ObjectAbsent, ObjectTooLarge (more than `limit` bytes), StoreUnavailable."""

    def delete(self, keys: Sequence[str]) -> Outcome:
        """Delete at most 1000 keys with all their versions. Raises StoreUnavailable if the request as a whole failed."""
