"""The ledger's rows of images on their way. A transaction that changes them holds the project's lock (index.lock_project)."""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Executable,
    FromClause,
    String,
    Table,
    bindparam,
    column,
    delete,
    func,
    insert,
    literal,
    select,
    type_coerce,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from activities.database import Database
from activities.images.transitions import Image, ImageState
from activities.ledger.held import is_on
from activities.ledger.holds import On
from activities.ledger.image_schema import ImageRow
from activities.ledger.schema import UtcDateTime, clock
from activities.one_of import one_of

_IMAGES_AT_A_TIME = 1000
_EVER = datetime(9000, 1, 1, tzinfo=UTC)
_IN_PROJECT = ImageRow.project_id == bindparam("project")
_THESE = one_of(ImageRow.hash, "images")
_COLUMNS = (ImageRow.hash, ImageRow.state, ImageRow.round, ImageRow.since, ImageRow.places, ImageRow.codes)


@dataclass(frozen=True)
class OnItsWay:
    """An image's row as it was read."""

    image: Image
    since: datetime
    places: Mapping[str, list[str]]
    codes: Mapping[str, int]
    """The store's codes for places that it refuses."""


_READ = select(*_COLUMNS).where(_IN_PROJECT, _THESE)
_IN_STATE = (
    select(*_COLUMNS)
    .where(
        _IN_PROJECT,
        ImageRow.state == bindparam("state"),
        ImageRow.since <= bindparam("until", type_=ImageRow.since.type),
        ImageRow.hash > bindparam("after"),
    )
    .order_by(ImageRow.hash)
    .limit(_IMAGES_AT_A_TIME)
)


def read(session: Session, project_id: int, images: Iterable[str]) -> dict[str, OnItsWay]:
    """Those of these images that have a row."""
    return _read(session.execute(_READ, {"project": project_id, "images": list(images)}))


def in_state(
    session: Session, project_id: int, state: ImageState, until: datetime | None = None, after: str = ""
) -> dict[str, OnItsWay]:
    """The next thousand of the project's images, by hash, that are in this state since then or before."""
    values = {"project": project_id, "state": state, "until": until or _EVER, "after": after}
    return _read(session.execute(_IN_STATE, values))


def _read(rows: Iterable[Any]) -> dict[str, OnItsWay]:
    return {
        name: OnItsWay(Image(ImageState(state), round_), since, places, codes)
        for name, state, round_, since, places, codes in rows
    }


def batches(database: Database, project_id: int, state: ImageState, age: timedelta) -> Iterator[dict[str, OnItsWay]]:
    """All of the project's images that have been in this state for so long, a thousand at a time."""
    after = ""
    while True:
        with database.read() as session:
            until = session.execute(select(clock())).scalar_one() - age
            found = in_state(session, project_id, state, until, after)
        if not found:
            return
        after = max(found)
        yield found


_HASHES_IN_STATES = select(ImageRow.hash).where(_IN_PROJECT, ImageRow.state.in_(bindparam("states", expanding=True)))


def hashes_in(session: Session, project_id: int, states: Collection[ImageState]) -> list[str]:
    """The project's images that are in one of these states."""
    return list(session.execute(_HASHES_IN_STATES, {"project": project_id, "states": list(states)}).scalars())


Places = Mapping[str, Mapping[str, list[str]]]
"""By image: what is ours in each of its places."""
_NOWHERE: Places = {}


def begin(
    session: Session, organization_id: int, project_id: int, images: Iterable[str], as_: Image, *, places: Places = _NOWHERE
) -> None:
    """Add rows for images that have none."""
    same = {"organization": organization_id, "state_now": as_.state, "round_now": as_.round}
    _write(session, "begin", project_id, {image: {"places": places.get(image, {})} for image in images}, **same)


_MOVE = (
    update(ImageRow)
    .where(_IN_PROJECT, _THESE)
    .values(
        state=bindparam("state_now"),
        round=func.coalesce(bindparam("round_now", type_=BigInteger()), ImageRow.round),
        since=clock(),
        codes={},
    )
    .execution_options(synchronize_session=False)
)
_END = delete(ImageRow).where(_IN_PROJECT, _THESE).execution_options(synchronize_session=False)


def end(session: Session, project_id: int, images: Collection[str]) -> None:
    """Drop rows."""
    if images:
        session.execute(_END, {"project": project_id, "images": list(images)})


def move(session: Session, project_id: int, found: Mapping[str, OnItsWay], after: Mapping[str, Image | None]) -> list[str]:
    """Bring rows into the states that rules of transitions.py say, from now on; None: no row. Returns the images that moved."""
    groups: dict[tuple[ImageState, int | None] | None, list[str]] = defaultdict(list)
    for image, now in after.items():
        before = found[image].image
        if now is None:
            groups[None].append(image)
        elif now != before:
            groups[now.state, None if now.round == before.round else now.round].append(image)
    for to, images in groups.items():
        if to is None:
            end(session, project_id, images)
        else:
            values = {"state_now": to[0], "round_now": to[1]}
            session.execute(_MOVE, {"project": project_id, "images": images, **values})
    return [image for images in groups.values() for image in images]


Ours = Callable[[str, OnItsWay], Mapping[str, list[str]]]
"""All that may be ours in each place of an image."""


def begin_anew(
    session: Session, project_id: int, found: Mapping[str, OnItsWay], after: Mapping[str, Image | None], ours: Ours
) -> None:
    """Move rows, some into another round. What the round before has left is written down, or no one would know of it any more.

    Its step may have died before it wrote that down itself.
    """
    move(session, project_id, found, after)
    places = {
        image: {"places": {place: left for place, left in ours(image, row).items() if left}}
        for image, row in found.items()
        if (now := after[image]) is not None and now.round != row.image.round
    }
    _write(session, "remember", project_id, places)


@dataclass(frozen=True)
class Note:
    """What is known of an image as of now."""

    image: str
    state: ImageState
    places: Mapping[str, list[str]]
    """What is ours in each place."""
    codes: Mapping[str, int]


def note(session: Session, project_id: int, notes: Iterable[Note]) -> None:
    """Write down what requests came to."""
    known = {one.image: {"state": one.state, "places": dict(one.places), "codes": dict(one.codes)} for one in notes}
    _write(session, "note", project_id, known)


_TABLE = cast("Table", ImageRow.__table__)
_COLUMNS_OF_EACH = ("project_id", "hash", "state", "places", "codes")
"""The project too: were it a parameter, a plan could go through all of these for each image of the project."""


@cache
def _writes(dialect: str) -> Mapping[str, Executable]:
    """Statements on rows that come as one text: sent row by row, they cost several times as much."""
    each = _each(dialect)
    these = _TABLE.c.project_id == each.c.project_id, _TABLE.c.hash == each.c.hash
    values: dict[str, Any] = {
        "project_id": each.c.project_id,
        "organization_id": bindparam("organization", type_=BigInteger()),
        "state": bindparam("state_now", type_=String()),
        "round": bindparam("round_now", type_=BigInteger()),
        "since": clock(),
        "hash": each.c.hash,
        "places": each.c.places,
        "codes": literal({}, _TABLE.c.codes.type),
    }
    return {
        "begin": insert(_TABLE).from_select([*values], select(*values.values()), include_defaults=False),
        "remember": update(_TABLE).where(*these).values(places=each.c.places),
        "note": update(_TABLE)
        .where(*these)
        .values(state=each.c.state, places=each.c.places, codes=each.c.codes, since=clock()),
    }


def _each(dialect: str) -> FromClause:
    columns = [column(name, _TABLE.c[name].type) for name in _COLUMNS_OF_EACH]
    if dialect == "postgresql":
        given = sql_cast(bindparam("each"), JSONB)
        return func.jsonb_to_recordset(given).table_valued(*columns).render_derived("each", with_types=True)
    found = func.json_each(bindparam("each")).table_valued("value", name="each")
    return select(
        *(type_coerce(func.json_extract(found.c.value, f"$.{one.name}"), one.type).label(one.name) for one in columns)
    ).subquery()


def _write(session: Session, what: str, project_id: int, each: Mapping[str, Mapping[str, Any]], **values: object) -> None:
    """`each`: what is to be written, by image."""
    if each:
        known = json.dumps([{"project_id": project_id, "hash": image, **one} for image, one in each.items()])
        session.connection().execute(_writes(session.get_bind().dialect.name)[what], {"each": known, **values})


_AT_WORK = select(func.count()).where(
    _IN_PROJECT, _THESE, ImageRow.state == bindparam("state"), ImageRow.round == bindparam("round")
)


def at_work(session: Session, project_id: int, images: Collection[str], as_: Image) -> bool:
    """Whether each of these images is still in this state and round."""
    values = {"project": project_id, "images": list(images), "state": as_.state, "round": as_.round}
    return session.execute(_AT_WORK, values).scalar_one() == len(set(images))


@dataclass(frozen=True)
class Standing:
    """The images of a project that are in one state."""

    state: ImageState
    count: int
    oldest: datetime
    newest: datetime


_OLDEST = func.coalesce(func.min(ImageRow.since).filter(~is_on(On.PROJECT, ImageRow.project_id)), clock())
_EVERYWHERE = select(ImageRow.state, func.count(), type_coerce(_OLDEST, UtcDateTime)).group_by(ImageRow.state)


def standing_everywhere(session: Session) -> dict[str, tuple[int, datetime]]:
    """How many images of all projects are in each state, and since when the oldest in a project that is not held."""
    return {state: (count, oldest) for state, count, oldest in session.execute(_EVERYWHERE)}


_STANDING = (
    select(
        ImageRow.state,
        func.count(),
        type_coerce(func.min(ImageRow.since), UtcDateTime),
        type_coerce(func.max(ImageRow.since), UtcDateTime),
    )
    .where(_IN_PROJECT)
    .group_by(ImageRow.state)
)


def standing(session: Session, project_id: int) -> list[Standing]:
    """How many images are in each state, and since when."""
    rows = session.execute(_STANDING, {"project": project_id})
    return [Standing(ImageState(state), count, oldest, newest) for state, count, oldest, newest in rows]


_ORGANIZATION = select(ImageRow.organization_id).where(_IN_PROJECT).limit(1)


def organization_of(session: Session, project_id: int) -> int | None:
    """The organization whose images they are, also of a project that has no row any more."""
    return session.execute(_ORGANIZATION, {"project": project_id}).scalar_one_or_none()
