"""A store's listings as they were at some time: what was written since, or does not say when, is not there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from activities.stores.objects import Found, Listings, Outcome, Upload


@dataclass(frozen=True)
class WrittenBefore:
    """Of an object that has versions each is as old as it is. Unfinished uploads are not looked for: one may go on now."""

    store: Listings
    before: datetime

    @property
    def listable(self) -> bool:
        """See Listings."""
        return self.store.listable

    @property
    def lists_uploads(self) -> bool:
        """See Listings."""
        return False

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        """See Listings."""
        for page in self.store.list_under(prefix):
            yield [one for one in page if one.written is not None and one.written <= self.before]

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        """See Listings."""
        return self.store.delete_found(found)

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:  # noqa: ARG002
        """See Listings."""
        return iter(())

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        """See Listings."""
        return self.store.abort_uploads(uploads)
