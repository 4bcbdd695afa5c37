"""What deletions owe of images: pages of hashes that their snapshots named, by project, until each is purged or restored."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import bindparam, case, delete, exists, func, insert, or_, select, tuple_, union, update
from sqlalchemy.orm import Session, defer

from activities.images import rows
from activities.images.rows import OnItsWay
from activities.images.transitions import ImageState
from activities.ledger.held import IMAGES_HELD
from activities.ledger.holds import On
from activities.ledger.image_schema import ImagePage, ImageRow, Snapshot, SnapshotState
from activities.ledger.schema import ChunkState, DeletionChunk, Hold, clock, of_chunk
from workflows.steps import PAGE_KEYS

HASH_BYTES = 32
IMAGES_STAY = "ImagesStay"
"""The code of images that a worker is set to keep, or cannot hide."""
MANIFESTS_UNREADABLE = "ManifestsUnreadable"
"""The code of images that stay, since a snapshot of the project has a manifest that says nothing."""
Key = tuple[str, int, int]
"""Deletion, chunk and number of a page."""


@dataclass(frozen=True)
class OwedImages:
    """A page as it was read."""

    key: Key
    organization_id: int
    project_id: int
    images: frozenset[str]
    rows_deleted_at: datetime
    """Since when no row of the deletion names them."""
    left_over: Mapping[str, int]
    """Those that were not hidden when it was decided, by reason."""


@dataclass(frozen=True)
class Fates:
    """What became of the images of a page, for a deletion that closes: each that is not kept or absent is in one of these."""

    hidden: int
    left_over: Mapping[str, int]
    how: str | None


# Sealing --------------------------------------------------------------------------------------------------------------


def seal(session: Session, found: DeletionChunk, by_project: Mapping[tuple[int, int], Collection[bytes]]) -> None:
    """Write down the images of a locked chunk, by (organization, project)."""
    made: list[dict[str, Any]] = []
    for (organization, project), images in sorted(by_project.items()):
        waiting = iter(sorted(images))
        while part := list(islice(waiting, PAGE_KEYS)):
            of_page = {
                "deletion_id": found.deletion_id,
                "chunk": found.chunk,
                "seq": len(made),
                "named": len(part),
                "left_over": {},
            }
            where = {"organization_id": organization, "project_id": project}
            made.append(of_page | where | {"hashes": b"".join(part), "count": len(part)})
    if made:
        session.execute(insert(ImagePage), made)


_DROP = delete(ImagePage).where(*of_chunk(ImagePage)).execution_options(synchronize_session=False)


def drop(session: Session, found: DeletionChunk) -> None:
    """Forget what was sealed of a locked chunk: its keys are collected anew."""
    session.execute(_DROP, {"of": found.deletion_id, "of_chunk": found.chunk})


# Deciding -------------------------------------------------------------------------------------------------------------

_KEY = (ImagePage.deletion_id, ImagePage.chunk, ImagePage.seq)
_RELEASED = (
    (DeletionChunk.deletion_id == ImagePage.deletion_id)
    & (DeletionChunk.chunk == ImagePage.chunk)
    & (DeletionChunk.state == ChunkState.ROWS_DELETED)
)
_OF_PAGE = (ImagePage.organization_id, ImagePage.project_id, ImagePage.hashes, ImagePage.left_over)
_PAGES = select(*_KEY, DeletionChunk.rows_deleted_at, *_OF_PAGE).join(DeletionChunk, _RELEASED)
_UNDECIDED = _PAGES.where(ImagePage.decided_at.is_(None))
_PAGES_AT_A_TIME = 20
_UNDECIDED_OF = (
    _UNDECIDED.where(
        ImagePage.deletion_id == bindparam("of"),
        ImagePage.project_id == bindparam("project"),
        tuple_(ImagePage.chunk, ImagePage.seq) > tuple_(bindparam("after_chunk"), bindparam("after_page")),
    )
    .order_by(*_KEY)
    .limit(_PAGES_AT_A_TIME)
)
_PROJECTS = (
    select(ImagePage.organization_id, ImagePage.project_id)
    .join(DeletionChunk, _RELEASED)
    # One of which all images are kept may wait to be decided, after a crash.
    .where(ImagePage.deletion_id == bindparam("of"), or_(ImagePage.count > 0, ImagePage.decided_at.is_(None)))
    .distinct()
    .order_by(ImagePage.organization_id, ImagePage.project_id)
)
_REOPEN = (
    update(ImagePage)
    .where(ImagePage.deletion_id == bindparam("of"), ImagePage.decided_at.is_not(None), ImagePage.count > ImagePage.hidden)
    .values(decided_at=None, hidden=0, left_over={})
    .execution_options(synchronize_session=False)
)


def reopen(session: Session, deletion_id: str) -> None:
    """Let pages that have leftovers be decided anew: a later run tries them again."""
    session.execute(_REOPEN, {"of": deletion_id})


def projects(session: Session, deletion_id: str) -> list[tuple[int, int]]:
    """(organization, project) of the images that a deletion still has, whose rows are gone."""
    return [(organization, project) for organization, project in session.execute(_PROJECTS, {"of": deletion_id})]


def undecided(session: Session, deletion_id: str, project_id: int, after: Key | None = None) -> list[OwedImages]:
    """The next pages of a deletion in a project of which some image is neither hidden, kept, absent nor left over."""
    _, chunk, page = after or ("", -1, -1)
    place = {"after_chunk": chunk, "after_page": page}
    return _read(session.execute(_UNDECIDED_OF, {"of": deletion_id, "project": project_id, **place}))


_THESE = _UNDECIDED.where(
    ImagePage.deletion_id == bindparam("of"), ImagePage.chunk == bindparam("of_chunk"), ImagePage.seq == bindparam("of_page")
)


def still_undecided(session: Session, pages: Iterable[OwedImages]) -> list[OwedImages]:
    """Those of these pages, as they are now."""
    return [page for one in pages for page in _read(session.execute(_THESE, _of(one)))]


_IS_UNDECIDED = _UNDECIDED.where(ImagePage.project_id == bindparam("project")).limit(1)


def is_undecided(session: Session, project_id: int) -> bool:
    """Whether any deletion has yet to see to images of the project."""
    return session.execute(_IS_UNDECIDED, {"project": project_id}).first() is not None


# A ceiling keeps rows alone, as in stores/guards.py.
_IS_HELD = exists(Hold.id).where(
    Hold.on_what == On.DELETION, Hold.on_id == ImagePage.deletion_id, Hold.ceiling_of.is_(None), Hold.lifted_at.is_(None)
)
_HELD = select(ImagePage.hashes).where(
    ImagePage.project_id == bindparam("project"), ImagePage.count > ImagePage.hidden, _IS_HELD
)


def held(session: Session, project_id: int, images: Collection[str]) -> set[str]:
    """Those of these images that are on a page of a held deletion of which it has not hidden every image."""
    pages = session.execute(_HELD, {"project": project_id}).scalars()
    return {image for packed in pages for image in _unpacked(packed) if image in images}


def _read(found: Iterable[Any]) -> list[OwedImages]:
    return [
        OwedImages((deletion, chunk, seq), organization, project, frozenset(_unpacked(packed)), rows_deleted_at, left_over)
        for deletion, chunk, seq, rows_deleted_at, organization, project, packed, left_over in found
    ]


_THIS = (
    ImagePage.deletion_id == bindparam("of"),
    ImagePage.chunk == bindparam("of_chunk"),
    ImagePage.seq == bindparam("of_page"),
)
_LEAVE = (
    update(ImagePage)
    .where(*_THIS)
    .values(
        hashes=bindparam("hashes_now"),
        count=bindparam("count_now"),
        kept=ImagePage.kept + bindparam("kept_more"),
        absent=ImagePage.absent + bindparam("absent_more"),
    )
    .execution_options(synchronize_session=False)
)


def leave(session: Session, page: OwedImages, *, kept: Collection[str] = (), absent: Collection[str] = ()) -> OwedImages:
    """Take images out of a page: other snapshots name them, or they were not there. Returns the page with what is left."""
    left = page.images.difference(kept, absent)
    values = {"kept_more": len(page.images.intersection(kept)), "absent_more": len(page.images.intersection(absent))}
    if len(left) < len(page.images):
        session.execute(_LEAVE, {**_of(page), "hashes_now": _packed(left), "count_now": len(left), **values})
    return replace(page, images=left)


_DECIDE = (
    update(ImagePage)
    .where(*_THIS)
    .values(
        decided_at=clock(),
        hidden=bindparam("hidden_now"),
        left_over=bindparam("left_over_now"),
        how=bindparam("how_now"),
        hidden_from=case((bindparam("hidden_now") > 0, clock())),
    )
    .execution_options(synchronize_session=False)
)


def decide(session: Session, page: OwedImages, fates: Fates) -> None:
    """Each image of the page has its fate for now."""
    values = {"hidden_now": fates.hidden, "left_over_now": dict(fates.left_over), "how_now": fates.how}
    session.execute(_DECIDE, {**_of(page), **values})


def leave_over(session: Session, deletion_id: str, projects: Iterable[tuple[int, int]], reason: str) -> None:
    """Decide all pages that a deletion has of these projects: their images stay."""
    for _, project in projects:
        after: Key | None = None
        while pages := undecided(session, deletion_id, project, after):
            for page in pages:
                decide(session, page, Fates(0, {reason: len(page.images)} if page.images else {}, None))
            after = pages[-1].key


# Settling -------------------------------------------------------------------------------------------------------------

_DECIDED = _PAGES.where(ImagePage.project_id == bindparam("project"), ImagePage.decided_at.is_not(None), ImagePage.count > 0)
_SETTLE = (
    update(ImagePage)
    .where(*_THIS)
    .values(
        hashes=bindparam("hashes_now"),
        count=bindparam("count_now"),
        hidden=bindparam("count_now") - bindparam("left_over_count"),
        left_over=bindparam("left_over_now"),
        purged=ImagePage.purged + bindparam("purged_more"),
        restored=ImagePage.restored + bindparam("restored_more"),
        settled_at=clock(),
    )
    .execution_options(synchronize_session=False)
)


def settle(session: Session, project_id: int, *, purged: Collection[str] = (), restored: Collection[str] = ()) -> None:
    """Tell every deletion that waits for these images, and was decided, what became of them."""
    for page in _read(session.execute(_DECIDED, {"project": project_id})):
        left = page.images.difference(purged, restored)
        if len(left) < len(page.images):
            more: dict[str, Any] = {
                "purged_more": len(page.images.intersection(purged)),
                "restored_more": len(page.images.intersection(restored)),
            }
            left_over = _left_over(session, page, left)
            more |= {"left_over_now": dict(left_over), "left_over_count": left_over.total()}
            session.execute(_SETTLE, {**_of(page), "hashes_now": _packed(left), "count_now": len(left), **more})


def _left_over(session: Session, page: OwedImages, left: Collection[str]) -> Counter[str]:
    """A page stays as a whole, or the store refuses some of its images: these may be hidden by now."""
    for reason in (IMAGES_STAY, IMAGES_HELD, MANIFESTS_UNREADABLE):
        if reason in page.left_over:
            return +Counter({reason: len(left)})
    return refused_of(rows.read(session, page.project_id, left).values())


def refused_of(found: Iterable[OnItsWay]) -> Counter[str]:
    """The codes of images that the store refuses to hide, one of each."""
    return Counter(code for row in found if row.image.state is ImageState.HIDING for code in list(row.codes)[:1])


_SETTLED = select(func.coalesce(func.sum(ImagePage.purged), 0), func.coalesce(func.sum(ImagePage.restored), 0)).where(
    ImagePage.project_id == bindparam("project")
)


def settled(session: Session, project_id: int) -> tuple[int, int]:
    """How many images of the project were purged for deletions so far, and how many restored."""
    purged, restored = session.execute(_SETTLED, {"project": project_id}).one()
    return int(purged), int(restored)


_TO_WATCH = union(
    select(ImageRow.organization_id, ImageRow.project_id),
    select(ImagePage.organization_id, ImagePage.project_id)
    .join(DeletionChunk, _RELEASED)
    .where(ImagePage.decided_at.is_(None)),
).order_by("project_id")


def to_watch(session: Session) -> list[tuple[int, int]]:
    """(organization, project) of each project that has an image on its way, or one that a deletion has yet to see to."""
    return [(organization, project) for organization, project in session.execute(_TO_WATCH)]


# The receipt ----------------------------------------------------------------------------------------------------------


@dataclass
class Total:
    """All pages of a deletion added up. named = absent + kept + hidden + purged + restored + left over + undecided."""

    named: int = 0
    projects: set[int] = field(default_factory=set)
    absent: int = 0
    kept: int = 0
    hidden: int = 0
    purged: int = 0
    restored: int = 0
    undecided: int = 0
    left_over: Counter[str] = field(default_factory=Counter)
    how: str | None = None
    hidden_from: datetime | None = None
    settled_at: datetime | None = None

    def add(self, page: ImagePage) -> None:
        """One of them."""
        self.projects.add(page.project_id)
        for name in ("named", "absent", "kept", "hidden", "purged", "restored"):
            setattr(self, name, getattr(self, name) + getattr(page, name))
        self.undecided += page.count if page.decided_at is None else 0
        self.left_over.update(page.left_over)
        self.how = page.how or self.how
        self.hidden_from = max((at for at in (self.hidden_from, page.hidden_from) if at), default=None)
        self.settled_at = max((at for at in (self.settled_at, page.settled_at) if at), default=None)


_OF_DELETION = select(ImagePage).where(ImagePage.deletion_id == bindparam("of")).options(defer(ImagePage.hashes))


def total(session: Session, deletion_id: str) -> Total:
    """What became of all images that a deletion's snapshots named."""
    added = Total()
    for page in session.execute(_OF_DELETION, {"of": deletion_id}).scalars():
        added.add(page)
    return added


_UNREADABLE = (
    select(Snapshot.artifact_id)
    .join(ImagePage, ImagePage.project_id == Snapshot.project_id)
    .where(ImagePage.deletion_id == bindparam("of"), Snapshot.state == SnapshotState.UNREADABLE)
    .distinct()
)


def unreadable(session: Session, deletion_id: str) -> list[int]:
    """The artifacts whose manifests keep the projects of a deletion closed."""
    return list(session.execute(_UNREADABLE, {"of": deletion_id}).scalars())


def _packed(images: Iterable[str]) -> bytes:
    return bytes.fromhex("".join(sorted(images)))


def _unpacked(packed: bytes) -> Iterator[str]:
    text = packed.hex()
    return (text[start : start + 2 * HASH_BYTES] for start in range(0, len(text), 2 * HASH_BYTES))


def _of(page: OwedImages) -> dict[str, Any]:
    deletion, chunk, seq = page.key
    return {"of": deletion, "of_chunk": chunk, "of_page": seq}
