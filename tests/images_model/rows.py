"""Transactions on our rows. What becomes of a row is decided by the service's own rules, activities/images/transitions.py."""

from activities.images import transitions
from activities.images.transitions import Image
from tests.images_model.state import (
    AT_WORK,
    BY_KEY,
    HIDDEN,
    HIDING,
    PURGED,
    PURGING,
    ROWS,
    Case,
    Id,
    Msg,
    Row,
    State,
    caught_up,
    image_of,
    locked,
    new_round,
    referenced,
    send,
    set_row,
)

TOO_SOON = ("the grace runs from the request, not from its answer", "the grace runs from the first usecase")


def is_unnamed(case: Case, s: State, image: int) -> bool:
    """With the project's lock: caught up, and no snapshot names it."""
    return caught_up(case, s) and not referenced(case, s, image)


def turn(case: Case, s: State, number: int, after: Image | None) -> State:
    """Write what a rule made of a row: a round begins with its first request, and time runs from being hidden or restored."""
    row = s.rows[number]
    if after == image_of(row):
        return s
    if after is None:
        return set_row(s, number, Row())
    state = ROWS.index(after.state)
    fresh = row._replace(state=state) if state == PURGING else Row(state, after.round)
    s = set_row(s, number, fresh)
    if state == HIDING:
        return send(s, first_request(case, number, after.round))
    return s if state == PURGING else time_begins(case, s, number, uploads=state in {HIDDEN, PURGED})


def begin(case: Case, s: State, image: int) -> State:
    """A deletion owes it, or it was restored and is named no more: hiding begins."""
    s = turn(case, s, image, transitions.unnamed(image_of(s.rows[image]), new_round(case, s, image)))
    if case.weak == TOO_SOON[0]:
        return turn(case, s, image, Image(transitions.ImageState.HIDDEN, s.rows[image].round))
    return s


def hide_again(case: Case, s: State, image: int, round_: int) -> State:
    """A look found it readable."""
    now = image_of(s.rows[image])
    if now is None or locked(case, s):
        return s
    if not (is_unnamed(case, s, image) or case.weak == "another round without asking who names it"):
        return s
    return turn(case, s, image, transitions.readable_again(now, round_, new_round(case, s, image)))


def named(case: Case, s: State, images: int) -> State:
    """References were written down, in this transaction: what they name is to be restored."""
    for number, row in enumerate(s.rows):
        image = image_of(row)
        if image is not None and images >> number & 1:
            s = turn(case, s, number, transitions.named(image))
    return s


def answered(case: Case, s: State, msg: Msg, marks: tuple[Id, ...]) -> State:
    """All usecases have answered."""
    row = s.rows[msg.image]
    now = image_of(row)
    if now is None:
        return s
    if case.weak in TOO_SOON and (row.state, row.round) == (HIDDEN, msg.round):
        return set_row(s, msg.image, row._replace(marks=marks))
    after = turn(case, s, msg.image, transitions.answered(now, msg.round))
    return after if after is s else set_row(after, msg.image, after.rows[msg.image]._replace(marks=marks))


def purged(case: Case, s: State, msg: Msg) -> State:
    now = image_of(s.rows[msg.image])
    return s if now is None else turn(case, s, msg.image, transitions.purged(now, msg.round, remembered=case.reserved))


def forgotten(case: Case, s: State, image: int) -> State:
    now = image_of(s.rows[image])
    return s if now is None else turn(case, s, image, transitions.forgotten(now, now.round))


def not_purged(case: Case, s: State, msg: Msg) -> State:
    now, marks = image_of(s.rows[msg.image]), s.rows[msg.image].marks
    after = s if now is None else turn(case, s, msg.image, transitions.not_purged(now, msg.round))
    return after if after is s else set_row(after, msg.image, after.rows[msg.image]._replace(marks=marks))


def watched(case: Case, s: State, image: int, round_: int) -> State:
    now = image_of(s.rows[image])
    return s if now is None else turn(case, s, image, transitions.watched(now, round_))


def first_request(case: Case, image: int, round_: int, usecase: int = 0, marks: tuple[Id, ...] = ()) -> Msg:
    if case.versioned:
        return Msg("mark", image, round_, usecase, marks)
    return Msg("delete" if case.weak == "delete before copying" else "copy", image, round_, usecase)


def time_begins(case: Case, s: State, image: int, *, uploads: bool) -> State:
    """What was begun before is old: the time does not pass before it has ended."""
    net = tuple(sorted(m._replace(old=1) if m.image == image and m.kind in BY_KEY else m for m in s.net))
    s = s._replace(net=net, bumps=tuple((at, 1) if at == 1 else (at, old) for at, old in s.bumps))
    if not uploads:
        return s
    ups = tuple(
        up._replace(old=int(up.at in AT_WORK)) if of.image == image else up for of, up in zip(case.ups, s.ups, strict=True)
    )
    return s._replace(ups=ups)


def time_is_over(case: Case, s: State, image: int, row: Row) -> bool:
    """The assumption: within the grace each upload ended that began before, and each request arrived or is refused."""
    uploads = any(of.image == image and up.old and up.at in AT_WORK for of, up in zip(case.ups, s.ups, strict=True))
    restored = ROWS[row.state] is transitions.ImageState.RESTORED
    late = any(m.image == image and m.kind in BY_KEY and (m.old or restored) for m in s.net)
    late = late or any(at == 1 and old for at, old in s.bumps)
    if case.weak == "requests may be later than the grace":
        late = False
    remembered = row.state == PURGED and case.weak != "reserved: what was purged is remembered for no grace"
    if restored or case.weak == "no grace" or (case.reserved and not remembered):
        uploads = False
    return not uploads and not late
