"""What a deletion would do about shared images if it ran now: by the index, and by some manifests that it does not have yet."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.orm import Session

from activities.images.catch_up import CatchUp
from activities.images.index import UnreadSnapshot
from activities.images.owed import IMAGES_STAY, MANIFESTS_UNREADABLE
from activities.ledger.image_schema import SnapshotState
from activities.run_all import run_all
from artifact_deletion.images import head
from artifact_deletion.receipt import Ids, ImagesFound

MANIFESTS_READ = 200
"""Of all projects together: a person waits for the answer."""
_SNAPSHOTS_AT_A_TIME = 1000
_PROJECTS_SHOWN = 20


@dataclass
class _Found:
    """What was counted so far, and how many manifests may still be read."""

    may_read: int
    counts: Counter[str] = field(default_factory=Counter)
    """By the names of ImagesFound's fields."""
    left_over: Counter[str] = field(default_factory=Counter)
    closed: dict[int, set[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class PreviewImages:
    """Reads rows, the index and manifests, and writes nothing."""

    catching_up: CatchUp | None
    """None: the backend's artifacts share no images."""
    stay: bool
    """The worker is set to keep images, or its store cannot hide them."""

    def preview(self, named: Mapping[tuple[int, int], Iterable[bytes]], going: Collection[int]) -> ImagesFound:
        """Of the images that artifacts name, by organization and project, if these artifacts go. Raises StoreUnavailable."""
        found = _Found(MANIFESTS_READ)
        for (_, project_id), hashes in sorted(named.items()):
            images = {one.hex() for one in hashes}
            found.counts["named"] += len(images)
            if self.stay or self.catching_up is None:
                found.left_over[IMAGES_STAY] += len(images)
            else:
                self._preview_project(self.catching_up, project_id, images, going, found)
        return ImagesFound(
            policy="delete",
            **found.counts,
            left_over=dict(+found.left_over),
            closed={
                str(project): Ids.of(artifacts).for_history()
                for project, artifacts in sorted(found.closed.items())[:_PROJECTS_SHOWN]
            },
        )

    def _preview_project(
        self, catching_up: CatchUp, project_id: int, images: set[str], going: Collection[int], found: _Found
    ) -> None:
        index = catching_up.index
        with catching_up.database.read(snapshot=True) as session:
            unread, unknown = _unread(session, catching_up, project_id, going, found.may_read)
            unreadable = set(index.unreadable(session, project_id)).difference(going)
            kept = index.named(session, project_id, images, going)
        found.may_read -= len(unread)
        heads, shown = set(map(head, images)), set[int]()
        for read in run_all(catching_up.planner.reads, [partial(catching_up.read, one) for one in unread]):
            if read is None:
                unknown += 1
            elif read.state is SnapshotState.UNREADABLE:
                unreadable.add(read.artifact_id)
            else:
                unreadable.discard(read.artifact_id)
                shown |= heads & set(read.heads)
        kept |= {image for image in images if head(image) in shown}
        found.counts.update(named_by_others=len(kept), unknown=unknown)
        if unreadable:
            found.closed[project_id] = unreadable
            found.left_over[MANIFESTS_UNREADABLE] += len(images) - len(kept)
        else:
            found.counts["to_hide"] += len(images) - len(kept)


def _unread(
    session: Session, catching_up: CatchUp, project_id: int, going: Collection[int], may_read: int
) -> tuple[list[UnreadSnapshot], int]:
    """The first snapshots that the index does not have and that stay, and how many more there are."""
    first: list[UnreadSnapshot] = []
    others, after = 0, 0
    while unread := catching_up.index.unread(session, project_id, after=after, size=_SNAPSHOTS_AT_A_TIME):
        staying = [one for one in unread if one.artifact.id not in going]
        first += staying[: may_read - len(first)]
        others += len(staying)
        after = unread[-1].artifact.id
    return first, others - len(first)
