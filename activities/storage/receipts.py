"""Receipts outside the database, written as deletions are closed: what a restored database no longer knows was deleted.

One JSON line a receipt: the request and the receipt, which hold ids, counts, codes and digests, and no keys.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError
from sqlalchemy import select, type_coerce
from sqlalchemy.orm import Session

from activities.storage.database import slices
from activities.storage.ledger import UtcDateTime
from activities.storage.tables import Artifact, Project
from workflows.messages import DeletionReceipt, DeletionRequest, Message

if TYPE_CHECKING:
    from activities.storage.objects import S3Documents


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
    """For whoever collects what workers print. A retry may print a receipt again."""

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


@dataclass(frozen=True)
class CameBack:
    """A deletion of which artifacts have rows again."""

    closed: Closed
    artifacts: tuple[int, ...]
    """Deleted by it, and there as they were before it."""
    younger: tuple[int, ...]
    """Have the id of one that was deleted, and were added after that: a restored database counts on from where it was."""


def came_back(session: Session, all_closed: Iterable[Closed]) -> Iterator[CameBack]:
    """Of these deletions, those of which artifacts have rows again, in whatever project of their organization."""
    for closed in all_closed:
        request, receipt = closed.request, closed.receipt
        gone_at = receipt.times.rows_deleted or receipt.times.closed
        asked = set(request.artifact_ids) - set(receipt.artifacts.not_reached.ids)
        older: list[int] = []
        younger: list[int] = []
        for ids in slices(sorted(asked)):
            living = session.execute(
                select(Artifact.id, type_coerce(Artifact.date_added, UtcDateTime))
                .join(Project, Project.id == Artifact.project_id)
                .where(Artifact.id.in_(ids), Project.organization_id == request.organization_id)
                .order_by(Artifact.id)
            )
            for artifact, added in living:
                (younger if added > gone_at else older).append(artifact)
        if older or younger:
            yield CameBack(closed, tuple(older), tuple(younger))
