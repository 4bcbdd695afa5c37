"""Which images go, and when: decided alone about a project, once it is caught up, and written down before any request.

No request in between changes this: each transaction decides anew from the rows that it reads.
"""

import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from activities.database import Database
from activities.images import owed, rows
from activities.images.index import Index, lock_project
from activities.images.owed import MANIFESTS_UNREADABLE, Fates, OwedImages, refused_of
from activities.images.rows import OnItsWay, Ours
from activities.images.transitions import Image, ImageState, due, forgotten, named, readable_again, unnamed
from activities.ledger.schema import clock
from artifact_deletion.errors import NotYet


@dataclass(frozen=True)
class Times:
    """What has to be assumed of clients and of the store."""

    grace: timedelta
    """T: a client's first look for an image and the commit of its snapshot are less than this apart."""
    late: timedelta
    """L: a request arrives within this time of being signed, or the store refuses it."""
    reserved: bool = False
    """No snapshot is committed that shows a hidden image: each commit asks (artifact_deletion/images.py)."""

    @property
    def until_purged(self) -> timedelta:
        """From the time when an image is hidden."""
        return self.late if self.reserved else self.grace + self.late


def new_round() -> int:
    """The number of a round: no two are the same."""
    return secrets.randbits(62)


@dataclass(frozen=True)
class Decisions:
    """Of one project. `how` is the store's way of hiding, for the receipt; `ours` says what a round may have left."""

    database: Database
    index: Index
    times: Times
    organization_id: int
    project_id: int
    how: str
    ours: Ours

    def begin(self, pages: Iterable[OwedImages]) -> dict[str, OnItsWay]:
        """Begin to hide what these pages name and no snapshot does. Returns what is to be hidden now.

        Raises NotYet while the project is not caught up.
        """
        with self.database.write() as session:
            lock_project(session, self.project_id)
            left = self._without_kept(session, owed.still_undecided(session, pages))
            if self.index.unreadable(session, self.project_id):
                self._leave_over(session, left)
                return {}
            wanted = {image: page.rows_deleted_at for page in sorted(left, key=_rows_deleted_at) for image in page.images}
            self._move_unnamed(session, wanted)
            found = rows.read(session, self.project_id, wanted)
        return {image: row for image, row in found.items() if row.image.state is ImageState.HIDING}

    def end(self, pages: Iterable[OwedImages], absent: Collection[str]) -> bool:
        """Decide each page whose images all have their fate. False if one has to wait, as for a purge that is at work."""
        every = True
        with self.database.write() as session:
            lock_project(session, self.project_id)
            undecided = [owed.leave(session, page, absent=absent) for page in owed.still_undecided(session, pages)]
            for page in self._without_kept(session, undecided):
                found = rows.read(session, self.project_id, page.images)
                states = Counter(row.image.state for row in found.values())
                codes = refused_of(found.values())
                if states[ImageState.HIDDEN] + codes.total() == len(page.images):
                    owed.decide(session, page, Fates(states[ImageState.HIDDEN], codes, self.how))
                else:
                    every = False
        return every

    def _without_kept(self, session: Session, pages: Collection[OwedImages]) -> list[OwedImages]:
        """The pages without the images that a snapshot names. Raises NotYet."""
        self.refuse_unread(session)
        kept = self.index.named(session, self.project_id, {image for page in pages for image in page.images})
        return [owed.leave(session, page, kept=kept) for page in pages]

    def refuse_unread(self, session: Session, going: Collection[int] = ()) -> None:
        """Raises NotYet if a snapshot has a row, and it is neither read nor unreadable, nor about to be deleted (`going`)."""
        if not self.index.unread(session, self.project_id):
            return
        passed_over = {*going, *self.index.unreadable(session, self.project_id)}
        unread = self.index.unread(session, self.project_id, size=len(passed_over) + 1)
        if waits := [one.artifact.id for one in unread if one.artifact.id not in passed_over]:
            raise NotYet(f"artifact {waits[0]} of project {self.project_id} has no manifest that could be read yet")

    def _leave_over(self, session: Session, pages: Iterable[OwedImages]) -> None:
        for page in pages:
            owed.decide(session, page, Fates(0, {MANIFESTS_UNREADABLE: len(page.images)} if page.images else {}, None))

    def _move_unnamed(self, session: Session, unnamed_since: Mapping[str, datetime]) -> None:
        round_ = new_round()
        before = rows.read(session, self.project_id, unnamed_since)
        new = [image for image in unnamed_since if image not in before]
        rows.begin(session, self.organization_id, self.project_id, new, unnamed(None, round_))
        after = {image: _unnamed(row, round_, unnamed_since[image]) for image, row in before.items()}
        rows.begin_anew(session, self.project_id, before, after, self.ours)

    # What comes after

    def take_due(self) -> None:
        """Images whose grace is over are to be purged, unless a snapshot names one: that is to be restored.

        Raises NotYet while the project is not caught up.
        """
        with self.database.write() as session:
            lock_project(session, self.project_id)
            if not self._is_known(session):
                return
            until = session.execute(select(clock())).scalar_one() - self.times.until_purged
            while hidden := rows.in_state(session, self.project_id, ImageState.HIDDEN, until):
                kept = self.index.named(session, self.project_id, hidden)
                after = {image: named(row.image) if image in kept else due(row.image) for image, row in hidden.items()}
                rows.move(session, self.project_id, hidden, after)

    def hide_anew(self, images: Mapping[str, OnItsWay]) -> None:
        """Images that are readable though they are to be purged: another round hides what no snapshot names.

        Raises NotYet while the project is not caught up: one that was put again may be named by a snapshot since.
        """
        if not images:
            return
        round_ = new_round()
        with self.database.write() as session:
            lock_project(session, self.project_id)
            if not self._is_known(session):
                return
            found = rows.read(session, self.project_id, images)
            kept = self.index.named(session, self.project_id, found)
            after = {
                image: named(row.image) if image in kept else readable_again(row.image, images[image].image.round, round_)
                for image, row in found.items()
            }
            rows.begin_anew(session, self.project_id, found, after, self.ours)

    def forget(self, over: Mapping[str, OnItsWay], newer: Collection[str]) -> None:
        """Images that were purged a grace ago: no client names one that asked before. One that was put since is hidden anew.

        Raises NotYet while the project is not caught up.
        """
        round_ = new_round()
        with self.database.write() as session:
            lock_project(session, self.project_id)
            if not self._is_known(session):
                return
            found = rows.read(session, self.project_id, over)
            found = {image: row for image, row in found.items() if row.image == over[image].image}
            anew = set(newer).difference(self.index.named(session, self.project_id, newer))
            after = {
                image: unnamed(row.image, round_) if image in anew else forgotten(row.image, row.image.round)
                for image, row in found.items()
            }
            rows.begin_anew(session, self.project_id, found, after, self.ours)

    def watched(self, images: Collection[str], looked_at: datetime) -> dict[str, OnItsWay]:
        """Those restored images that no request of ours can hide any more. One that no snapshot names is to be hidden anew.

        `looked_at`: when the look at them began, by the database's clock. What came after it may have hidden them.
        """
        with self.database.write() as session:
            lock_project(session, self.project_id)
            found = rows.read(session, self.project_id, images)
            restored = {
                image: row
                for image, row in found.items()
                if row.image.state is ImageState.RESTORED and row.since <= looked_at - self.times.late
            }
            if restored and self._is_known(session):
                kept = self.index.named(session, self.project_id, restored)
                self._move_unnamed(session, {image: row.since for image, row in restored.items() if image not in kept})
                restored = {image: row for image, row in restored.items() if image in kept}
        return restored

    def _is_known(self, session: Session) -> bool:
        """Whether it is known of every snapshot what it names. Raises NotYet if that takes another catch-up."""
        self.refuse_unread(session)
        return not self.index.unreadable(session, self.project_id)


def _unnamed(row: OnItsWay, new_round: int, since: datetime) -> Image:
    """What was hidden before the rows went that named it may have been put again for them."""
    if row.image.state is ImageState.HIDDEN and row.since < since:
        return readable_again(row.image, row.image.round, new_round)
    return unnamed(row.image, new_round)


def _rows_deleted_at(page: OwedImages) -> datetime:
    return page.rows_deleted_at
