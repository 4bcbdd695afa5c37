"""The ledger's tables of shared images. docs/images.md says how a row of each comes and goes."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from activities.ledger.schema import LedgerTable, OfChunk, chunks_own


class SnapshotState(StrEnum):
    """What is known of a snapshot's images."""

    READ = "read"
    UNREADABLE = "unreadable"
    """Its manifest has another shape, or is too large: nothing of its project may be hidden."""


class Snapshot(LedgerTable):
    """The images that a committed snapshot names in a project. It counts as long as the artifact has a row."""

    __tablename__ = "artifact_deletion_snapshot"
    __table_args__ = (Index("artifact_deletion_snapshot_by_artifact", "artifact_id"),)
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    artifact_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String(16))
    images: Mapped[bytes] = mapped_column(LargeBinary)
    """The first 8 bytes of each hash, sorted. Two hashes that share them keep one image too many, and never one too few."""
    read_at: Mapped[datetime]


class ImageRow(LedgerTable):
    """An image that is being hidden, is hidden, purged or watched: see transitions.py. All others have no row."""

    __tablename__ = "artifact_deletion_image"
    __table_args__ = (Index("artifact_deletion_image_by_state", "state", "since"),)
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    organization_id: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    round: Mapped[int]
    since: Mapped[datetime]
    """When it came into this state, by the database's clock."""
    places: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{physical key: [what each round left there, the newest last]}"""
    codes: Mapped[dict[str, int]] = mapped_column(default=dict)
    """The store's codes for places that it refuses."""


class ImagePage(OfChunk, LedgerTable):
    """Up to a thousand images of one project that a chunk's snapshots named, and what became of them.

    named = absent + kept + purged + restored + the hashes that are still here, which are hidden or left over.
    """

    __tablename__ = "artifact_deletion_image_page"
    __table_args__ = (chunks_own(), Index("artifact_deletion_image_page_by_project", "project_id", "decided_at"))
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    organization_id: Mapped[int]
    project_id: Mapped[int]
    hashes: Mapped[bytes] = mapped_column(LargeBinary)
    """32 bytes each, sorted."""
    count: Mapped[int] = mapped_column(Integer)
    """How many there are in `hashes`."""
    named: Mapped[int] = mapped_column(Integer)
    decided_at: Mapped[datetime | None]
    """When each hash was hidden, kept, absent or left over for the first time; null: a deletion still has to see to it."""
    absent: Mapped[int] = mapped_column(Integer, default=0)
    kept: Mapped[int] = mapped_column(Integer, default=0)
    hidden: Mapped[int] = mapped_column(Integer, default=0)
    left_over: Mapped[dict[str, int]] = mapped_column(default=dict)
    """Those that are not hidden, by reason."""
    how: Mapped[str | None] = mapped_column(String(16))
    hidden_from: Mapped[datetime | None]
    """Since when all hidden ones are unreadable."""
    purged: Mapped[int] = mapped_column(Integer, default=0)
    restored: Mapped[int] = mapped_column(Integer, default=0)
    settled_at: Mapped[datetime | None]
    """When the last of them was purged or restored."""
