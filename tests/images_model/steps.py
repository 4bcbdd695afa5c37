"""What our steps decide of an image: a deletion's hiding, and the project's own settling. Each yields one transaction."""

from collections.abc import Iterator

from activities.images import transitions
from tests.images_model.outside import Step
from tests.images_model.rows import (
    begin,
    first_request,
    forgotten,
    hide_again,
    is_unnamed,
    time_is_over,
    turn,
    watched,
)
from tests.images_model.state import (
    DATA,
    HIDDEN,
    HIDING,
    NONE,
    OF_HIDING,
    OF_PURGING,
    PURGED,
    PURGING,
    RESTORED,
    Case,
    Id,
    Msg,
    Row,
    State,
    caught_up,
    has_data,
    image_of,
    is_visible,
    keys_of,
    locked,
    referenced,
    restored,
    send,
    set_owed,
    set_row,
    visible,
)


def work(case: Case, s: State, image: int) -> Iterator[Step]:
    row = s.rows[image]
    alive = {m.kind for m in s.net if m.image == image and m.alive}
    if row.state in {NONE, PURGED, RESTORED} and not locked(case, s):
        yield from _decide(case, s, image, alive)
    if row.state == HIDING and (s.left[1] or not alive & OF_HIDING):
        yield _attempt(s, first_request(case, image, row.round), beside=bool(alive & OF_HIDING))
    if row.state in {HIDDEN, PURGING}:
        yield from _settle(case, s, image)
        yield from _purge(case, s, image, beside=bool(alive & OF_PURGING))
    if row.state == PURGED and row.over and not locked(case, s):
        yield from _forget(case, s, image)
    if row.state not in {NONE, HIDING} and not row.over and time_is_over(case, s, image, row):
        yield f"the time is over for image {image}", True, set_row(s, image, row._replace(over=1))
    if row.state == RESTORED and referenced(case, s, image):
        yield from _restore(case, s, image, alive)


def _attempt(s: State, msg: Msg, *, beside: bool) -> Step:
    """By itself the system attempts a thing again when no attempt is at work; one beside another is bad luck, and counted."""
    left = s._replace(left=(s.left[0], s.left[1] - 1)) if beside else s
    what = "another attempt" if beside else "an attempt"
    return f"image {msg.image}: {what} begins ({msg.kind})", not beside, send(left, msg)


def _decide(case: Case, s: State, image: int, alive: set[str]) -> Iterator[Step]:
    is_referenced = referenced(case, s, image)
    if is_referenced and s.owed[image]:
        yield f"image {image} is referenced: kept", True, set_owed(s, image, 0)
    if is_referenced or not (s.owed[image] or s.rows[image].state == RESTORED):
        return
    if not (caught_up(case, s) or case.weak == "hide before catching up"):
        return
    if case.weak == "check and row in two transactions":
        if "checked" not in alive:
            checked = Msg("checked", image, s.rows[image].round)
            yield f"image {image}: caught up, no snapshot names it", True, send(s, checked)
        return
    yield f"image {image}: caught up, no snapshot names it; a round begins", True, begin(case, s, image)


def _settle(case: Case, s: State, image: int) -> Iterator[Step]:
    """A deletion says that an image is hidden once it is, and looks at what another one has hidden before."""
    row = s.rows[image]
    if not s.owed[image]:
        return
    if row.state == PURGING:
        if case.weak == "a deletion does not wait for a purge":
            yield f"image {image} is being purged: no deletion waits for it", True, set_owed(s, image, 0)
    elif not visible(case, s, image) or case.weak == "a deletion that joins does not look":
        yield f"image {image} is hidden: no deletion waits for it", True, set_owed(s, image, 0)
    else:
        after = hide_again(case, s, image, row.round)
        if after is not s:
            yield f"image {image} is readable, though hidden before: another round", True, after


def _purge(case: Case, s: State, image: int, *, beside: bool) -> Iterator[Step]:
    row, now = s.rows[image], image_of(s.rows[image])
    if now is None or (beside and not s.left[1]):
        return
    if not (row.over or case.weak == "decide before the grace is over"):
        return
    if locked(case, s) or not _may_purge(case, s, image):
        return
    decided = turn(case, s, image, transitions.due(now))
    yield _attempt(decided, Msg("look", image, row.round, ids=row.marks), beside=beside)


def _forget(case: Case, s: State, image: int) -> Iterator[Step]:
    """A grace after the purge. Without a commit that asked, only bytes that came since can be there."""
    if not any(has_data(key) for key in keys_of(case, s, image)):
        yield f"image {image} was purged a grace ago: its row goes", True, forgotten(case, s, image)
    elif is_unnamed(case, s, image):
        yield f"image {image} was purged a grace ago, and put since: a round begins", True, begin(case, s, image)


def _may_purge(case: Case, s: State, image: int) -> bool:
    if case.weak == "purge without looking at the ledger":
        return True
    if case.weak == "purge without catching up again":
        return not referenced(case, s, image)
    return is_unnamed(case, s, image)


def _restore(case: Case, s: State, image: int, alive: set[str]) -> Iterator[Step]:
    row = s.rows[image]
    looked_early = row.over and case.weak == "a look before the time was over ends the watch"
    if not (restored(case, s, image) or looked_early):
        if case.versioned and not alive & {"list", "unmark back"}:
            after = send(set_row(s, image, row._replace(over=0)), Msg("list", image, row.round))
            yield f"image {image}: restore, list it", True, after if case.gaps else _listed(case, s, image)
        elif not case.versioned and "copy back" not in alive:
            yield from _copy_back(case, s, image)
    elif case.weak == "a restored image is not watched":
        yield f"image {image} is readable again: its row goes", True, set_row(s, image, Row())
    elif row.over and "clear" not in alive:
        yield f"image {image}: no request of ours can hide it, it is readable; its row goes", True, _clear(case, s, image)


def _listed(case: Case, s: State, image: int) -> State:
    row = s.rows[image]
    ids = markers_on_top(case, s, image)
    return send(set_row(s, image, row._replace(over=0)), Msg("unmark back", image, row.round, ids=ids)) if ids else s


def markers_on_top(case: Case, s: State, image: int) -> tuple[Id, ...]:
    """Markers above the newest data, where there is data."""
    ids: list[Id] = []
    for usecase, key in enumerate(keys_of(case, s, image)):
        kinds = [kind for kind, _ in key.stack]
        newest = kinds.index(DATA) if DATA in kinds else 0
        ids += [(usecase, number) for _, number in key.stack[:newest]]
    return tuple(ids)


def _copy_back(case: Case, s: State, image: int) -> Iterator[Step]:
    row = s.rows[image]
    for usecase, key in enumerate(keys_of(case, s, image)):
        known = [one for one in key.copies if one == row.round or case.weak != "only this round's copy is known"]
        if known and not is_visible(key):
            msg = Msg("copy back", image, max(known), usecase)
            yield f"image {image}: restore, copy it back", True, send(set_row(s, image, row._replace(over=0)), msg)
            return


def _clear(case: Case, s: State, image: int) -> State:
    """Nothing of ours is left beside a restored image: no copy, and no marker over nothing."""
    ids: list[Id] = []
    for usecase, key in enumerate(keys_of(case, s, image)):
        ids += [(usecase, one) for one in key.copies]
        ids += [(usecase, number) for _, number in key.stack if not has_data(key)]
    round_ = s.rows[image].round
    if not ids:
        return watched(case, s, image, round_)
    return send(s, Msg("clear", image, round_, ids=tuple(ids)))
