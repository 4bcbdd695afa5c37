"""What the model knows: the store's keys, the backend's snapshots, uploads, our rows, and what is on its way.

A *key* is one image in one usecase. A bucket with versions keeps a stack of data versions and delete markers. One without has
the object, and copies of it in quarantine, one a round.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

from activities.images.transitions import Image, ImageState

NONE, HIDING, HIDDEN, PURGING, PURGED, RESTORED = range(6)
ROWS = (None, ImageState.HIDING, ImageState.HIDDEN, ImageState.PURGING, ImageState.PURGED, ImageState.RESTORED)
IDLE, MUST_PUT, SKIPS, HAS_PUT, REFUSED, COMMITTING, DONE, DEAD = range(8)
AT_WORK = (MUST_PUT, SKIPS, HAS_PUT, REFUSED, COMMITTING)
LIVE, DELETED, GONE = 1, 2, 3
DATA, MARKER = 0, 1
BY_KEY = frozenset({"mark", "copy", "delete", "copy back"})
"""Requests that name a key and no version."""
OF_HIDING = frozenset({"checked", "mark", "marked", "copy", "copied", "nothing copied", "delete", "deleted"})
AFTER_LOOK = frozenset({"purge", "purged", "unmark", "unmarked", "drop", "dropped", "clear"})
OF_PURGING = AFTER_LOOK - {"clear"} | {"look", "again"}
Id = tuple[int, int]
"""(usecase, number of a version, or round of a copy)"""


@dataclass(frozen=True)
class Up:
    """An uploader with one image: it skips the PUT if the image exists, or it always puts."""

    skips: bool
    image: int = 0


@dataclass(frozen=True)
class Case:
    """What there is at first, what may happen, and how often."""

    name: str
    versioned: bool = True
    usecases: int = 1
    images: int = 1
    first: tuple[tuple[int, bool, bool], ...] = ((1, True, True),)
    """Snapshots that are there at first: images as a bit mask, already indexed, manifest readable."""
    ups: tuple[Up, ...] = ()
    deletable: tuple[int, ...] = (0,)
    by_others: tuple[int, ...] = ()
    """Snapshots whose rows others may delete, who tell us nothing."""
    crashes: int = 1
    extra: int = 1
    """Attempts beside one that is at work: another deletion's, the project's own, or a retry after a missed heartbeat."""
    bumps: int = 0
    """Readers for whom the store's front copies the image onto itself, to prolong its life."""
    expired: bool = False
    """The first snapshots' images had expired in the store: they need none."""
    gaps: bool = True
    """Whether anything may happen between the store's answer and the step that acts on it. A crash may, in any case."""
    reserved: bool = False
    """Each commit asks first, and is refused what is hidden: see artifact_deletion/images.py."""
    refusals: int = 1
    """After so many an upload gives up."""
    weak: str = ""
    """The one rule that the steps disobey."""

    @cached_property
    def masks(self) -> tuple[int, ...]:
        """By slot: the images that its snapshot names."""
        return (*(mask for mask, _, _ in self.first), *(1 << up.image for up in self.ups))


class Key(NamedTuple):
    stack: tuple[tuple[int, int], ...] = ()
    """(kind, number), the newest first. Without versions: one data version at most."""
    copies: tuple[int, ...] = ()
    """Rounds of the copies in quarantine."""


class Row(NamedTuple):
    state: int = NONE
    round: int = 0
    over: int = 0
    """Its time has passed: the grace, or the life of our last request by key."""
    marks: tuple[Id, ...] = ()


class Upload(NamedTuple):
    at: int = IDLE
    old: int = 0
    """Whether it began before the grace did."""
    refused: int = 0
    """The round in which its commit was refused."""
    refusals: int = 0


class Snap(NamedTuple):
    life: int = 0
    indexed: int = 0
    readable: int = 1


class Msg(NamedTuple):
    """A request or an answer that is on its way."""

    kind: str
    image: int
    round: int
    usecase: int = 0
    ids: tuple[Id, ...] = ()
    then: tuple[Id, ...] = ()
    """What the next request deletes."""
    alive: int = 1
    """Whether its sender waits for the answer."""
    old: int = 0
    """Whether it was sent before the grace began."""


class State(NamedTuple):
    keys: tuple[Key, ...]
    """By image and usecase."""
    snaps: tuple[Snap, ...]
    ups: tuple[Upload, ...]
    rows: tuple[Row, ...]
    owed: tuple[int, ...]
    """By image: how many deletions wait for it."""
    net: tuple[Msg, ...]
    bumps: tuple[tuple[int, int], ...]
    left: tuple[int, int]
    """Troubles (crashes, refusals) and second attempts that may still happen."""
    exempt: int
    """Images that lost their last owner after our last look, by an abandoned upload or by others: not ours to delete."""
    other: int
    """The same hash in another project is untouched."""


def first_state(case: Case) -> State:
    present = 0
    for mask, _, _ in case.first:
        present |= mask
    there = Key(((DATA, 1),))
    keys = tuple(
        there if present >> image & 1 and usecase == case.usecases - 1 and not case.expired else Key()
        for image in range(case.images)
        for usecase in range(case.usecases)
    )
    return State(
        keys=keys,
        snaps=(*(Snap(LIVE, int(indexed), int(readable)) for _, indexed, readable in case.first), *(Snap() for _ in case.ups)),
        ups=(Upload(),) * len(case.ups),
        rows=(Row(),) * case.images,
        owed=(0,) * case.images,
        net=(),
        bumps=((0, 0),) * case.bumps,
        left=(case.crashes, case.extra),
        exempt=0,
        other=1,
    )


def keys_of(case: Case, s: State, image: int) -> tuple[Key, ...]:
    return s.keys[image * case.usecases : (image + 1) * case.usecases]


def is_visible(key: Key) -> bool:
    return bool(key.stack) and key.stack[0][0] == DATA


def has_data(key: Key) -> bool:
    return any(kind == DATA for kind, _ in key.stack)


def visible(case: Case, s: State, image: int) -> bool:
    return any(is_visible(key) for key in keys_of(case, s, image))


def exists(case: Case, s: State, image: int) -> bool:
    return any(key.copies or has_data(key) for key in keys_of(case, s, image))


def restored(case: Case, s: State, image: int) -> bool:
    """Readable in each usecase that has bytes of it, and in one at least."""
    with_bytes = [key for key in keys_of(case, s, image) if key.copies or has_data(key)]
    return bool(with_bytes) and all(is_visible(key) for key in with_bytes)


def needed(case: Case, s: State, image: int) -> bool:
    from_slot = len(case.first) if case.expired else 0
    slots = range(from_slot, len(s.snaps))
    return any(s.snaps[slot].life == LIVE and case.masks[slot] >> image & 1 for slot in slots)


def referenced(case: Case, s: State, image: int) -> bool:
    """The ledger's index says that a live snapshot names it."""
    return any(
        snap.life == LIVE and snap.indexed == 1 and mask >> image & 1 for snap, mask in zip(s.snaps, case.masks, strict=True)
    )


def caught_up(case: Case, s: State) -> bool:
    """Every committed snapshot of the project is indexed."""
    snaps = s.snaps
    if case.weak == "catch up from the highest id":
        highest = max((slot for slot, snap in enumerate(snaps) if snap.indexed), default=-1)
        snaps = snaps[highest + 1 :]
    return not any(snap.life == LIVE and not snap.indexed for snap in snaps)


def locked(case: Case, s: State) -> bool:
    """A commit has asked, and has not ended: nothing is decided about the project's images."""
    return case.weak != "reserved: without the lock" and any(up.at == COMMITTING for up in s.ups)


def nothing_will_look(s: State, image: int) -> bool:
    """No step of ours will look at the image again."""
    ended = s.rows[image].state == NONE or any(m.image == image and m.kind in AFTER_LOOK for m in s.net)
    return ended and not s.owed[image]


def set_key(case: Case, s: State, image: int, usecase: int, key: Key) -> State:
    place = image * case.usecases + usecase
    return s._replace(keys=(*s.keys[:place], key, *s.keys[place + 1 :]))


def set_row(s: State, image: int, row: Row) -> State:
    return s._replace(rows=(*s.rows[:image], row, *s.rows[image + 1 :]))


def set_owed(s: State, image: int, owed: int) -> State:
    return s._replace(owed=(*s.owed[:image], owed, *s.owed[image + 1 :]))


def set_up(s: State, number: int, up: Upload) -> State:
    return s._replace(ups=(*s.ups[:number], up, *s.ups[number + 1 :]))


def set_snap(s: State, slot: int, snap: Snap) -> State:
    return s._replace(snaps=(*s.snaps[:slot], snap, *s.snaps[slot + 1 :]))


def send(s: State, msg: Msg) -> State:
    return s._replace(net=tuple(sorted((*s.net, msg))))


def take(s: State, msg: Msg) -> State:
    at = s.net.index(msg)
    return s._replace(net=s.net[:at] + s.net[at + 1 :])


def push(case: Case, s: State, image: int, usecase: int, kind: int = DATA) -> State:
    """A new version or marker on top; without versions, the object is there."""
    key = s.keys[image * case.usecases + usecase]
    below = key.stack if case.versioned else ()
    return set_key(case, s, image, usecase, key._replace(stack=((kind, below[0][1] + 1 if below else 1), *below)))


def remove(case: Case, s: State, image: int, ids: tuple[Id, ...]) -> State:
    """Delete by version; without versions, delete copies."""
    for usecase, key in enumerate(keys_of(case, s, image)):
        if case.versioned:
            left = key._replace(stack=tuple(entry for entry in key.stack if (usecase, entry[1]) not in ids))
        else:
            left = key._replace(copies=tuple(one for one in key.copies if (usecase, one) not in ids))
        s = set_key(case, s, image, usecase, left)
    return s


@cache
def _image(state: int, round_: int) -> Image | None:
    known = ROWS[state]
    return None if known is None else Image(known, round_)


def image_of(row: Row) -> Image | None:
    """As the rules of activities/images/transitions.py see it."""
    return _image(row.state, row.round)


def new_round(case: Case, s: State, image: int) -> int:
    """A number that no round had which anything still tells of."""
    if case.weak == "quarantine key without a round":
        return 1
    used = {s.rows[image].round, *(m.round for m in s.net if m.image == image), *(up.refused for up in s.ups)}
    return 1 + max(used.union(*(key.copies for key in keys_of(case, s, image))))
