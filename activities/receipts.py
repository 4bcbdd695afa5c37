"""Receipts outside the database, written as deletions are closed: a restored database does not know what was deleted since.

One JSON line a receipt: the request and the receipt, which hold ids, counts, codes and digests, and no keys.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest, Message

if TYPE_CHECKING:
    from activities.stores.documents import S3Documents


_CLOCKS_DIFFER = timedelta(days=1)
"""The database's and the store's."""


class Closed(Message):
    """A deletion as it was closed, complete or with leftovers."""

    version: int = 1
    request: DeletionRequest
    receipt: DeletionReceipt

    @property
    def line(self) -> str:
        """One JSON line."""
        return f"{self.model_dump_json()}\n"


class Receipts(Protocol):
    """Where receipts are written. Written twice is written once, or said twice."""

    def write(self, closed: Closed) -> None:
        """Returns once it is kept. Raises StoreUnavailable: then the deletion is not closed yet, and tries again."""


class StandardOutput:
    """For a collector of the lines that workers print. A retry may print a receipt again."""

    def write(self, closed: Closed) -> None:
        """See Receipts."""
        sys.stdout.write(closed.line)
        sys.stdout.flush()


@dataclass(frozen=True)
class StoredReceipts:
    """One object a deletion: a later receipt of the same one takes the earlier one's place."""

    documents: "S3Documents"

    def write(self, closed: Closed) -> None:
        """See Receipts."""
        self.documents.put(f"{closed.request.organization_id}/{closed.request.deletion_id}.json", closed.line.encode())

    def lines(self, since: datetime) -> Iterator[str]:
        """All that can be of deletions that were closed since then. Raises StoreUnavailable."""
        for content in self.documents.read_since(since - _CLOCKS_DIFFER):
            yield from content.decode(errors="replace").splitlines()


def receipts_of(lines: Iterable[str], since: datetime) -> tuple[list[Closed], int]:
    """The last receipt of each deletion that was closed since then, and how many lines are none that this version knows."""
    found: dict[str, Closed] = {}
    unreadable = 0
    for line in lines:
        try:
            closed = Closed.model_validate_json(line)
        except ValidationError:
            unreadable += bool(line.strip())
            continue
        if closed.receipt.times.closed >= since:
            last = found.get(closed.request.deletion_id)
            if last is None or last.receipt.times.closed <= closed.receipt.times.closed:
                found[closed.request.deletion_id] = closed
    return list(found.values()), unreadable
