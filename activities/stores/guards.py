"""Guards around the stores: no request that deletes is made while a hold is on the deletion, nor beyond the limit of keys.

A worker asks the database for holds at most once a second, so a request can begin that much later than a hold is placed, and no
later; one that has begun is answered.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

from activities.database import Database
from activities.ledger import holds
from activities.stores.objects import Found, ObjectStore, Outcome, Upload
from activities.stores.s3 import S3Objects

FRESH_S = 1.0
"""Seconds after which a worker asks again which holds there are."""
BeforeDeleting = Callable[[int], None]
"""Called before each request that deletes, with the number of keys; it may wait, and the caller raises what it raises."""


@dataclass
class HoldWatch:
    """What a process knows of holds, never older than `FRESH_S`."""

    database: Database
    _lock: Lock = field(default_factory=Lock)
    _placed: list[holds.Placed] = field(default_factory=list)
    _asked_at: float | None = None

    def refuse_held(self, organization_id: int, deletion_id: str, images_of: int | None = None) -> None:
        """Raises Held, DatabaseUnavailable. A ceiling keeps rows; objects whose rows are gone go on."""
        found = (one for one in self._fresh() if one.is_on(organization_id, deletion_id, images_of))
        holds.refuse_held([one for one in found if not one.is_ceiling])

    def _fresh(self) -> list[holds.Placed]:
        with self._lock:
            now = time.monotonic()
            if self._asked_at is None or now - self._asked_at >= FRESH_S:
                with self.database.read() as session:
                    self._placed = holds.placed_but_on_artifacts(session)
                self._asked_at = now
            return self._placed


@dataclass(frozen=True)
class Guard:
    """What must be asked before each request that deletes anything for a deletion."""

    watch: HoldWatch
    limit: BeforeDeleting = lambda _keys: None

    def before(self, organization_id: int, deletion_id: str, images_of: int | None = None) -> BeforeDeleting:
        """The limit first, since a hold may be placed while a request waits for its turn. `images_of`: a project."""

        def before_deleting(keys: int) -> None:
            self.limit(keys)
            self.watch.refuse_held(organization_id, deletion_id, images_of)

        return before_deleting


def guarded(store: ObjectStore, before: BeforeDeleting) -> ObjectStore:
    """The store, with `before` called before each request that deletes. It reads and lists as ever."""
    if isinstance(store, S3Objects):
        return replace(store, before_deleting=before)  # which knows of each single request
    return GuardedObjects(store, before)


@dataclass(frozen=True)
class GuardedObjects:
    """A store of a backend's own: asked about before each call, since its requests are its own affair."""

    store: ObjectStore
    before: BeforeDeleting

    @property
    def listable(self) -> bool:
        """See ObjectStore."""
        return self.store.listable

    @property
    def lists_uploads(self) -> bool:
        """See ObjectStore."""
        return self.store.lists_uploads

    def read(self, key: str, limit: int) -> bytes:
        """See ObjectStore."""
        return self.store.read(key, limit)

    def delete(self, keys: Sequence[str]) -> Outcome:
        """See ObjectStore."""
        self.before(len(keys))
        return self.store.delete(keys)

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        """See ObjectStore."""
        return self.store.list_under(prefix)

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        """See ObjectStore."""
        self.before(len(found))
        return self.store.delete_found(found)

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:
        """See ObjectStore."""
        return self.store.uploads_under(prefix)

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        """See ObjectStore."""
        self.before(len(uploads))
        return self.store.abort_uploads(uploads)
