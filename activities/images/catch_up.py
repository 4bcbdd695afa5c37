"""Catching up: the manifests of a project's snapshots are read, each once in its life, and their images written down."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from activities.backend.contract import Backend, UnreadableManifest
from activities.backend.shared_images import SharedImages, is_image
from activities.database import Database
from activities.images import index, rows
from activities.images.index import Index, ReadSnapshot, UnreadSnapshot
from activities.images.transitions import ON_THE_WAY, named
from activities.ledger.image_schema import SnapshotState
from activities.plan import Planner
from activities.run_all import run_all
from activities.stores.objects import ObjectAbsent, ObjectTooLarge
from artifact_deletion.images import head, packed

_SNAPSHOTS_AT_A_TIME = 1000


@dataclass(frozen=True)
class CatchUp:
    """Reads rows and manifests, and writes to the index alone."""

    database: Database
    index: Index
    planner: Planner
    """It has the store, and who reads of it at a time."""
    grace: timedelta
    """A manifest that is absent for so long after its row was written never comes."""

    @property
    def backend(self) -> Backend:
        """The planner's."""
        return self.planner.backend

    @property
    def shared(self) -> SharedImages:
        """The backend's."""
        assert self.backend.shared_images is not None  # noqa: S101  there is no index without
        return self.backend.shared_images

    def parts(self, project_id: int) -> Iterator[tuple[int, int]]:
        """Read all that the index does not have, one part after the other. What ends in between goes on there later.

        Yields how many snapshots a part was about, and how many of them the index has now. What cannot be known yet stays
        unread. Raises StoreUnavailable.
        """
        after = 0
        while True:
            with self.database.read() as session:
                unread = self.index.unread(session, project_id, after=after, size=_SNAPSHOTS_AT_A_TIME)
            if not unread:
                return
            readings = [partial(self.read, one) for one in unread]
            read = run_all(self.planner.reads, readings, partial(self._record, project_id))
            after = unread[-1].artifact.id
            yield len(unread), sum(one is not None and one.state is SnapshotState.READ for one in read)

    def read(self, one: UnreadSnapshot) -> ReadSnapshot | None:
        """Of one snapshot, and written down nowhere. None: a backend may write the manifest after the row's commit."""
        names = self.shared.manifests(one.artifact, one.naming)
        if any(not stray.is_elsewhere for stray in names.strays):
            return ReadSnapshot(one.artifact.id, SnapshotState.UNREADABLE)
        for key in (scope + manifest.key for manifest in names.keys for scope in self.backend.scopes(one.artifact)):
            try:
                content = self.planner.store.read(key, self.planner.manifest_limit_bytes)
                with self.planner.parsing:
                    images = packed(filter(is_image, self.shared.read(content)))
                return ReadSnapshot(one.artifact.id, SnapshotState.READ, images)
            except ObjectAbsent:
                continue
            except (ObjectTooLarge, UnreadableManifest):
                return ReadSnapshot(one.artifact.id, SnapshotState.UNREADABLE)
        if one.now - one.added < self.grace:
            return None
        return ReadSnapshot(one.artifact.id, SnapshotState.READ)  # evicted: nothing can show an image of it

    def _record(self, project_id: int, read: Sequence[ReadSnapshot | None]) -> None:
        """A snapshot that is known from here on keeps its images: those on their way are to be restored."""
        known = [one for one in read if one is not None]
        if not known:
            return
        with self.database.write() as session:
            index.lock_project(session, project_id)
            index.record(session, project_id, known)
            on_the_way = rows.hashes_in(session, project_id, ON_THE_WAY)
            heads = set(map(head, on_the_way))
            shown = {found for one in known for found in heads & set(one.heads)}
            again = rows.read(session, project_id, [image for image in on_the_way if head(image) in shown])
            rows.move(session, project_id, again, {image: named(row.image) for image, row in again.items()})
