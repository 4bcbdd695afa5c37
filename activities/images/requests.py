"""Requests for images on their way, and how the store's answers are written down.

Each request names images that the ledger had in some state and round. Its answer counts only if they still are.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy.orm import Session
from temporalio import activity

from activities.database import Database
from activities.images import owed, rows
from activities.images.index import lock_project
from activities.images.places import ImageProject
from activities.images.rows import Note, OnItsWay
from activities.images.transitions import Image, ImageState, answered, not_purged, purged, watched
from activities.metrics import count_images
from activities.one_of import slices
from activities.run_all import run_all
from activities.stores.images import Hidden, ImageStore, Restored, Seen
from artifact_deletion.errors import NotYet, StoreUnavailable

FRESH_S = 1.0
"""Seconds for which the ledger's word counts that a round is still at work."""
_AT_ONCE = timedelta(milliseconds=500)
_IMAGES_A_TRANSACTION = 5000
_PLACES_A_JOB = {"markers": 1000, "copies": 25}
"""Markers are put by one request for all of them; copies are made one by one."""
OnTheirWay = Mapping[str, OnItsWay]


@dataclass(frozen=True)
class ImageRequests:
    """Makes requests of one store for images of one project."""

    database: Database
    store: ImageStore
    requests: Executor
    project: ImageProject
    reserved: bool
    """What was purged is remembered for a grace: a client that was told before that it exists is refused."""

    def hide(self, hiding: OnTheirWay) -> set[str]:
        """Make images unreadable that are in HIDING. Returns those that were nowhere. Raises StoreUnavailable, NotYet."""
        absent: set[str] = set()
        for as_, images in _by_round(hiding).items():
            for part in slices(images, _IMAGES_A_TRANSACTION):
                absent |= self._hide(as_, {image: hiding[image] for image in part})
        return absent

    def _hide(self, as_: Image, hiding: OnTheirWay) -> set[str]:
        jobs: list[Callable[[], Hidden]] = []
        for images in slices(hiding, _PLACES_A_JOB[self.store.how]):
            still = self._still(images, as_)
            jobs += [
                partial(self.store.hide, [prefix + image for image in images], as_.round, still)
                for prefix in self.project.prefixes
            ]
        answers = run_all(self.requests, jobs)  # all usecases, before it counts as hidden
        ours = {place: left for answer in answers for place, left in answer.ours.items()}
        refused = {place: code for answer in answers for place, code in answer.refused.items()}
        with self.database.write() as session:
            current = {
                image: row
                for image, row in self._locked(session, hiding).items()
                if answered(row.image, as_.round) != row.image
            }
            notes, absent = [], set[str]()
            for image, row in current.items():
                places = _with(row, {place: ours[place] for place in self.project.of(image) if place in ours})
                codes = Counter(refused[place] for place in self.project.of(image) if place in refused)
                if places or codes:
                    state = row.image.state if codes else answered(row.image, as_.round).state
                    notes.append(Note(image, state, places, codes))
                else:
                    absent.add(image)
            rows.note(session, self.project.project_id, notes)
            rows.end(session, self.project.project_id, absent)
        count_images(activity.metric_meter(), hidden=sum(one.state is ImageState.HIDDEN for one in notes))
        return absent

    def restore(self, restoring: OnTheirWay) -> dict[str, bool]:
        """Make images readable that are in RESTORED, and look at those that are. Returns those that nothing refuses.

        False of one that has no bytes any more: a client's upload took longer than the grace, or the store lost them.
        """
        jobs: list[Callable[[], Restored]] = []
        for as_, every in _by_round(restoring).items():
            for images in slices(every, _PLACES_A_JOB["copies"]):
                places = self._places({image: restoring[image] for image in images})
                jobs.append(partial(self.store.restore, places, self._still(images, as_, fresh_s=0)))
        answers = run_all(self.requests, jobs)
        refused = {place for answer in answers for place in answer.refused}
        readable = {place for answer in answers for place in answer.readable}
        places_of = {image: self._places({image: row}).keys() for image, row in restoring.items()}
        return {image: not readable.isdisjoint(places) for image, places in places_of.items() if refused.isdisjoint(places)}

    def stop_watching(self, restored: OnTheirWay) -> None:
        """End the rows of restored images that no request of ours can hide any more. Copies beside them go first."""
        jobs = [
            partial(self.store.clear, self._places({image: restored[image] for image in images}))
            for images in slices(restored, _PLACES_A_JOB["copies"])
        ]
        _refuse_not_yet(code for outcome in run_all(self.requests, jobs) for code in outcome.not_yet.values())
        self._end(restored, watched, "restored")

    def purge(self, purging: OnTheirWay) -> OnTheirWay:
        """Delete the bytes of images in PURGING. Returns those that are readable at the last look: they stay as they are."""
        looked = self._looked(purging)
        newer = _newer(looked)
        going = {image: seen for image, seen in looked.items() if image not in newer}
        deleting = [partial(self._purge, part) for part in _parts(going, _PLACES_A_JOB["copies"])]
        refused: dict[str, Counter[str]] = {}
        for answer in run_all(self.requests, deleting):
            refused |= answer
        rule = partial(purged, remembered=self.reserved)
        self._end({image: purging[image] for image in going if image not in refused}, rule, "purged")
        self._hidden_still({image: purging[image] for image in refused}, refused)
        return {image: purging[image] for image in newer}

    def newer(self, purged: OnTheirWay) -> set[str]:
        """Those of purged images that have bytes again."""
        return _newer(self._looked(purged))

    def _looked(self, images: OnTheirWay) -> dict[str, dict[str, Seen]]:
        jobs = [
            partial(self._look, {image: images[image] for image in part}) for part in slices(images, _PLACES_A_JOB["copies"])
        ]
        return {image: seen for found in run_all(self.requests, jobs) for image, seen in found.items()}

    def _look(self, images: OnTheirWay) -> dict[str, dict[str, Seen]]:
        seen = self.store.look(self._places(images))
        return {
            image: {place: seen[place] for place in self.project.with_ours(image, row, self.store)}
            for image, row in images.items()
        }

    def _purge(self, images: Mapping[str, Mapping[str, Seen]]) -> dict[str, Counter[str]]:
        """Codes by image, of what the store refuses to delete."""
        outcome = self.store.purge([one for seen in images.values() for one in seen.values()])
        _refuse_not_yet(outcome.not_yet.values())
        refused: dict[str, Counter[str]] = {}
        for image, seen in images.items():
            keys = {key for one in seen.values() for key, _ in (*one.data, *one.markers)}
            if codes := Counter(outcome.refused[key] for key in keys if key in outcome.refused):
                refused[image] = codes
        return refused

    def _end(self, images: OnTheirWay, rule: Callable[[Image, int], Image | None], became: str) -> None:
        """End the way of images that are still in their round, and tell the deletions that named them."""
        with self.database.write() as session:
            now = self._locked(session, images)
            after = {image: rule(row.image, images[image].image.round) for image, row in now.items()}
            if ended := rows.move(session, self.project.project_id, now, after):
                owed.settle(session, self.project.project_id, **{became: ended})
        count_images(activity.metric_meter(), **{became: len(ended)})

    def _locked(self, session: Session, images: Iterable[str]) -> dict[str, OnItsWay]:
        lock_project(session, self.project.project_id)
        return rows.read(session, self.project.project_id, images)

    def _hidden_still(self, images: OnTheirWay, refused: Mapping[str, Counter[str]]) -> None:
        """The store refuses to delete them, as under object lock: they stay hidden, and are tried again after another grace."""
        with self.database.write() as session:
            now = self._locked(session, images)
            after = {image: not_purged(row.image, images[image].image.round) for image, row in now.items()}
            notes = [
                Note(image, after[image].state, row.places, refused[image])
                for image, row in now.items()
                if after[image] != row.image
            ]
            rows.note(session, self.project.project_id, notes)

    def _places(self, images: OnTheirWay) -> dict[str, list[str]]:
        return {
            place: list(ours)
            for image, row in images.items()
            for place, ours in self.project.with_ours(image, row, self.store).items()
        }

    def _still(self, images: Collection[str], as_: Image, fresh_s: float = FRESH_S) -> Callable[[], None]:
        """Raises NotYet if one of the images is no longer as it was. Asks the ledger at most once in `fresh_s` seconds."""
        asked_at: list[float] = []

        def still() -> None:
            # The clock that requests are signed by: where a machine slept, another one may not have gone on.
            now = time.time()
            if asked_at and 0 <= now - asked_at[-1] < fresh_s:
                return
            with self.database.read() as session:
                at_work = rows.at_work(session, self.project.project_id, images, as_)
            asked_at.append(now)
            if not at_work:
                raise NotYet("a snapshot was uploaded that names one of these images: it is looked at again", _AT_ONCE)

        return still


def _by_round(images: OnTheirWay) -> dict[Image, list[str]]:
    rounds: dict[Image, list[str]] = defaultdict(list)
    for image, row in images.items():
        rounds[row.image].append(image)
    return rounds


def _with(row: OnItsWay, ours: Mapping[str, str]) -> dict[str, list[str]]:
    """What was ours in each place, and what is now."""
    places = {place: list(before) for place, before in row.places.items()}
    for place, left in ours.items():
        places[place] = [*(one for one in places.get(place, ()) if one != left), left]
    return places


def _newer(looked: Mapping[str, Mapping[str, Seen]]) -> set[str]:
    return {image for image, seen in looked.items() if any(one.is_newer for one in seen.values())}


def _parts(seen: Mapping[str, Mapping[str, Seen]], size: int) -> Iterator[dict[str, Mapping[str, Seen]]]:
    return ({image: seen[image] for image in part} for part in slices(seen, size))


def _refuse_not_yet(codes: Iterable[str]) -> None:
    if found := Counter(codes):
        named = ", ".join(f"{code} {count}" for code, count in sorted(found.items()))
        raise StoreUnavailable(f"the object store asks to try {found.total()} keys again ({named})")
