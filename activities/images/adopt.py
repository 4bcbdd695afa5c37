"""After a restore of the database: what the store hides and the ledger has forgotten is put on its way again.

Otherwise an image that a snapshot shows again would stay hidden for ever, and one that none shows would never be purged.
"""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.orm import Session

from activities.backend.shared_images import is_image
from activities.images import rows
from activities.images.decisions import new_round
from activities.images.index import lock_project
from activities.images.rows import Note, OnItsWay, Places
from activities.images.transitions import Image, ImageState, found_hidden
from activities.images.work import ImageWork, ProjectWork
from activities.one_of import slices

_IMAGES_A_TRANSACTION = 1000
Forgotten = dict[str, tuple[OnItsWay | None, dict[str, list[str]]]]
"""By image: its row if there is one, and all that is ours by place, the newest last."""


@dataclass(frozen=True)
class Adopted:
    """The images of a project that the store hides, by what became of them."""

    restored: int
    """A snapshot names them: the project's workflow makes them readable."""
    hidden: int
    """None does: they are purged after a whole grace."""
    known: int
    """The ledger knows all of it, and they stay as they are."""


def adopt(work: ImageWork, organization_id: int, project_id: int, going: Collection[int] = ()) -> Adopted:
    """Give each hidden image of a project a row, and one that has a row what was forgotten of it. Done twice it is done once.

    `going`: artifacts that are about to be deleted again: what they name is not made readable for them. Raises NotYet while it
    is not known what all other snapshots name, and StoreUnavailable.
    """
    project = work.on(organization_id, project_id)
    hidden = _hidden(project)
    states = Counter[ImageState]()
    for images in slices(hidden, _IMAGES_A_TRANSACTION):
        work.catch_up(project_id)
        with work.database.write() as session:
            lock_project(session, project_id)
            project.decisions.refuse_unread(session, going)
            found = _forgotten(session, project, {image: hidden[image] for image in images})
            named = work.catching_up.index.named(session, project_id, found, going)
            states.update(_adopt(session, project, found, named))
    restored = states[ImageState.RESTORED]
    return Adopted(restored=restored, hidden=states.total() - restored, known=len(hidden) - states.total())


def _hidden(project: ProjectWork) -> dict[str, dict[str, list[str]]]:
    """What the store hides in the project's places. It may change while it is listed: nothing here relies on it."""
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for prefix in project.requests.project.prefixes:
        for place, ours in project.requests.store.hidden_under(prefix):
            if is_image(image := place.removeprefix(prefix)):
                found[image].setdefault(place, []).append(ours)
    return found


def _forgotten(session: Session, project: ProjectWork, found: Places) -> Forgotten:
    """Images without a row, or with one that lacks what was found."""
    on_their_way = rows.read(session, project.decisions.project_id, found)
    forgotten: Forgotten = {}
    for image, places in found.items():
        row = on_their_way.get(image)
        known = project.requests.project.with_ours(image, row, project.requests.store) if row is not None else {}
        lacking = {place: [one for one in ours if one not in known.get(place, ())] for place, ours in places.items()}
        if any(lacking.values()):
            written = {} if row is None else row.places
            every = dict.fromkeys([*written, *lacking])
            forgotten[image] = row, {place: [*lacking.get(place, ()), *written.get(place, ())] for place in every}
    return forgotten


def _adopt(session: Session, project: ProjectWork, found: Forgotten, named: Collection[str]) -> list[ImageState]:
    organization_id, project_id = project.decisions.organization_id, project.decisions.project_id
    round_ = new_round()
    new: dict[Image, dict[str, dict[str, list[str]]]] = defaultdict(dict)
    notes = []
    for image, (row, places) in found.items():
        now = found_hidden(row.image if row else None, round_, is_named=image in named)
        if row is None:
            new[now][image] = places
        else:
            notes.append(Note(image, now.state, places, row.codes))
    for as_, images in new.items():
        rows.begin(session, organization_id, project_id, images, as_, places=images)
    rows.note(session, project_id, notes)
    return [as_.state for as_, images in new.items() for _ in images] + [one.state for one in notes]
