"""The index: which images each committed snapshot names, read once from its manifest.

A project is *caught up* when each of its snapshots that has a row is in the index. Only then is anything known of an image that
no snapshot names. Never is it "all ids above the last": ids do not commit in order.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, bindparam, delete, exists, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from activities.backend.contract import ArtifactRef, Backend
from activities.ledger.image_schema import Snapshot, SnapshotState
from activities.ledger.schema import clock
from activities.one_of import one_of
from artifact_deletion.images import head, lock_name, unpacked

_SNAPSHOTS_AT_A_TIME = 1000
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


@dataclass(frozen=True)
class UnreadSnapshot:
    """A snapshot that the index does not have."""

    artifact: ArtifactRef
    added: datetime
    naming: Any
    """What names its manifests."""
    now: datetime
    """The database's clock when it was found."""


@dataclass(frozen=True)
class ReadSnapshot:
    """What a snapshot's manifest said."""

    artifact_id: int
    state: SnapshotState
    images: bytes = b""
    """As the index has them: a project may name more than fits into memory."""

    @property
    def heads(self) -> tuple[int, ...]:
        """What the index keeps of each image's hash."""
        return unpacked(self.images)


def lock_project(session: Session, project_id: int) -> None:
    """Decide alone about a project's images until this transaction ends: the last lock in the order of locks.

    SQLite has one writer at a time, which comes to the same.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_LOCK, {"name": lock_name(project_id)})


class Index:
    """Statements that join the index with the backend's snapshots, made once."""

    def __init__(self, backend: Backend) -> None:
        """Of a backend without shared images there is no index."""
        if backend.shared_images is None:
            raise NotImplementedError("a backend without shared images has no index of them")
        snapshots = backend.shared_images.snapshots.subquery()
        artifact, project, organization, added, naming = snapshots.columns
        of_project = project == bindparam("project")
        read = exists().where(
            Snapshot.project_id == project, Snapshot.artifact_id == artifact, Snapshot.state == SnapshotState.READ
        )
        unreadable = exists().where(
            Snapshot.project_id == project, Snapshot.artifact_id == artifact, Snapshot.state == SnapshotState.UNREADABLE
        )
        self._unread = (
            select(artifact, organization, added, naming, clock())
            # Said of both tables: else what was read before is gone through each time.
            .where(of_project, ~read.where(Snapshot.artifact_id > bindparam("after")), artifact > bindparam("after"))
            .order_by(artifact)
            .limit(bindparam("size", type_=Integer()))
        )
        self._unreadable = select(artifact).where(of_project, unreadable).order_by(artifact)
        self._counts = select(func.count(), func.count().filter(read), func.count().filter(unreadable)).where(of_project)
        alive = exists().where(artifact == Snapshot.artifact_id)
        self._prune = (
            delete(Snapshot)
            .where(Snapshot.project_id == bindparam("project"), ~alive)
            .execution_options(synchronize_session=False)
        )
        # One that was moved to another project counts in both: its images did not move.
        self._named = (
            select(Snapshot.artifact_id, Snapshot.images)
            .join(snapshots, artifact == Snapshot.artifact_id)
            .where(
                Snapshot.project_id == bindparam("project"),
                Snapshot.state == SnapshotState.READ,
            )
            .order_by(Snapshot.artifact_id.desc())
            .execution_options(yield_per=_SNAPSHOTS_AT_A_TIME)
        )

    def prune(self, session: Session, project_id: int) -> None:
        """Drop what the index has of artifacts without a row, which other hands have deleted."""
        session.execute(self._prune, {"project": project_id})

    def unread(self, session: Session, project_id: int, *, after: int = 0, size: int = 1) -> list[UnreadSnapshot]:
        """The next snapshots of the project, by id, whose images are not known."""
        rows = session.execute(self._unread, {"project": project_id, "after": after, "size": size})
        return [
            UnreadSnapshot(ArtifactRef(organization, project_id, artifact), _utc(added, now), naming, now)
            for artifact, organization, added, naming, now in rows
        ]

    def unreadable(self, session: Session, project_id: int) -> list[int]:
        """The artifacts whose manifests keep the project closed."""
        return list(session.execute(self._unreadable, {"project": project_id}).scalars())

    def counts(self, session: Session, project_id: int) -> tuple[int, int, int]:
        """How many snapshots the project has, how many of them are read, and how many unreadable."""
        total, read, unreadable = session.execute(self._counts, {"project": project_id}).one()
        return total, read, unreadable

    def named(self, session: Session, project_id: int, images: Iterable[str], going: Collection[int] = ()) -> set[str]:
        """Of these images, those that a snapshot of the project with a row names, unless its artifact is `going`.

        The project must be caught up, or some are missing.
        """
        every = list(images)
        if not (missing := {head(image) for image in every}):
            return set()
        with session.execute(self._named, {"project": project_id}) as found:
            for part in found.partitions():
                heads = b"".join(heads for artifact, heads in part if artifact not in going)
                missing.difference_update(unpacked(heads))
                if not missing:
                    break
        return {image for image in every if head(image) not in missing}


def closed(session: Session, backend: Backend) -> int:
    """How many projects have a snapshot with a row whose manifest says nothing."""
    living = backend.living.subquery()
    projects = select(func.count(Snapshot.project_id.distinct())).join(living, living.columns[0] == Snapshot.artifact_id)
    return int(session.execute(projects.where(Snapshot.state == SnapshotState.UNREADABLE)).scalar_one())


def record(session: Session, project_id: int, read: Sequence[ReadSnapshot]) -> None:
    """Write down what manifests said. The caller holds the project's lock."""
    dialect: Any = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    rows = [
        {
            "project_id": project_id,
            "artifact_id": one.artifact_id,
            "state": one.state,
            "images": one.images,
        }
        for one in read
    ]
    adding = dialect.insert(Snapshot).values(read_at=clock())
    again = {name: adding.excluded[name] for name in ("state", "images", "read_at")}
    session.execute(adding.on_conflict_do_update(index_elements=["project_id", "artifact_id"], set_=again), rows)


_FORGET = delete(Snapshot).where(one_of(Snapshot.artifact_id, "artifacts")).execution_options(synchronize_session=False)


def forget(session: Session, artifact_ids: Collection[int]) -> None:
    """Drop what the index has of artifacts whose rows go."""
    session.execute(_FORGET, {"artifacts": list(artifact_ids)})


def _utc(moment: datetime, now: datetime) -> datetime:
    return moment.replace(tzinfo=now.tzinfo) if moment.tzinfo is None else moment
