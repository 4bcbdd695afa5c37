"""What others do: clients upload, deletions delete rows, others delete rows too. And catch-up, which follows them."""

from collections.abc import Iterator

from tests.images_model.rows import named
from tests.images_model.state import (
    AT_WORK,
    COMMITTING,
    DEAD,
    DELETED,
    DONE,
    GONE,
    HAS_PUT,
    HIDDEN,
    HIDING,
    IDLE,
    LIVE,
    MUST_PUT,
    PURGED,
    PURGING,
    REFUSED,
    SKIPS,
    Case,
    Snap,
    State,
    Upload,
    is_visible,
    keys_of,
    nothing_will_look,
    push,
    set_owed,
    set_snap,
    set_up,
    visible,
)

Step = tuple[str, bool, State]
"""(what happens, whether the system does it by itself, the state after)"""


def uploads(case: Case, s: State) -> Iterator[Step]:
    for number, (of, up) in enumerate(zip(case.ups, s.ups, strict=True)):
        name = f"uploader {number + 1}"
        if up.at == IDLE and of.skips:
            if visible(case, s, of.image):
                yield f"{name} asks: the image exists, no need to put it", False, set_up(s, number, Upload(SKIPS))
            else:
                yield f"{name} asks: the image does not exist", False, set_up(s, number, Upload(MUST_PUT))
        elif up.at in {IDLE, MUST_PUT, REFUSED}:
            put = set_up(push(case, s, of.image, 0), number, up._replace(at=HAS_PUT))
            yield f"{name} puts the image", up.at != IDLE, put
        elif up.at in {SKIPS, HAS_PUT} and case.reserved:
            yield from _reserve(case, s, number)
        elif up.at in {SKIPS, HAS_PUT, COMMITTING}:
            yield f"{name}'s snapshot is committed", True, _commit(case, s, number)
        if up.at in AT_WORK:
            yield f"{name} dies", False, _die(s, number, of.image)


def _reserve(case: Case, s: State, number: int) -> Iterator[Step]:
    """With the lock, which it keeps until the commit. What is being hidden is waited for."""
    name, up, row = f"uploader {number + 1}", s.ups[number], s.rows[case.ups[number].image]
    counts = up.at == HAS_PUT and (up.refused == row.round or case.weak == "reserved: what was put in any round counts")
    counts = counts or case.weak == "reserved: nothing is refused"
    if row.state == HIDING and case.weak != "reserved: nothing is refused":
        return
    if row.state in {HIDDEN, PURGING, PURGED} and not counts:
        if up.refusals == case.refusals:
            yield f"{name}'s commit is refused once more: it gives up", True, _die(s, number, case.ups[number].image)
        else:
            refused = Upload(REFUSED, up.old, row.round, up.refusals + 1)
            yield f"{name}'s commit is refused: put the image", True, set_up(s, number, refused)
    else:
        yield f"{name}'s commit may go on", True, set_up(s, number, up._replace(at=COMMITTING))


def _commit(case: Case, s: State, number: int) -> State:
    """With reserve_images the index has it, and what it names is to be restored."""
    slot = len(case.first) + number
    after = set_snap(s, slot, s.snaps[slot]._replace(life=LIVE, indexed=int(case.reserved)))
    after = set_up(after, number, Upload(DONE))
    is_named = case.reserved and case.weak != "reserved: a commit restores nothing"
    return named(case, after, case.masks[slot]) if is_named else after


def _die(s: State, number: int, image: int) -> State:
    dead = set_up(s, number, Upload(DEAD))
    if s.ups[number].at in {HAS_PUT, COMMITTING} and nothing_will_look(s, image):
        return dead._replace(exempt=s.exempt | 1 << image)
    return dead


def readers(case: Case, s: State) -> Iterator[Step]:
    """The store's front prolongs an object by copying it onto itself."""
    for number, (at, _) in enumerate(s.bumps):
        if at == 0 and is_visible(keys_of(case, s, 0)[0]):
            yield "a reader's front begins to copy the image onto itself", False, _bump(s, number, (1, 0))
        elif at == 1:
            yield "the front's copy onto itself is written", True, _bump(push(case, s, 0, 0), number, (2, 0))


def _bump(s: State, number: int, bump: tuple[int, int]) -> State:
    return s._replace(bumps=(*s.bumps[:number], bump, *s.bumps[number + 1 :]))


def deletions(case: Case, s: State) -> Iterator[Step]:
    for slot in case.deletable:
        if s.snaps[slot].life == LIVE:
            after = set_snap(s, slot, s.snaps[slot]._replace(life=DELETED))
            for image in _images(case, slot):
                after = set_owed(after, image, after.owed[image] + 1)
            yield f"snapshot {slot} is deleted, its images are owed", False, after
    for slot in case.by_others:
        if s.snaps[slot].life == LIVE:
            after = set_snap(s, slot, s.snaps[slot]._replace(life=GONE))
            for image in _images(case, slot):
                if nothing_will_look(s, image):
                    after = after._replace(exempt=after.exempt | 1 << image)
            yield f"others delete snapshot {slot}'s rows", False, after


def _images(case: Case, slot: int) -> list[int]:
    return [image for image in range(case.images) if case.masks[slot] >> image & 1]


def catch_up(case: Case, s: State) -> Iterator[Step]:
    for slot, snap in enumerate(s.snaps):
        if snap.life != LIVE or snap.indexed:
            continue
        if case.weak == "catch up from the highest id" and any(other.indexed for other in s.snaps[slot + 1 :]):
            continue
        if snap.readable:
            after = set_snap(s, slot, snap._replace(indexed=1))
            yield f"catch-up reads snapshot {slot}'s manifest", True, named(case, after, case.masks[slot])
        else:
            yield from _unreadable(case, s, slot, snap)


def _unreadable(case: Case, s: State, slot: int, snap: Snap) -> Iterator[Step]:
    if case.weak == "an unreadable manifest names nothing":
        yield f"snapshot {slot}'s manifest is unreadable: it names nothing", True, set_snap(s, slot, snap._replace(indexed=2))
    yield f"snapshot {slot}'s manifest is mended", True, set_snap(s, slot, snap._replace(readable=1))
