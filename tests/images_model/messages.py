"""What the store makes of a request, at once or long after, and what a step makes of the answer."""

from collections.abc import Callable, Iterator

from tests.images_model.outside import Step
from tests.images_model.rows import answered, begin, first_request, hide_again, not_purged, purged, time_begins, watched
from tests.images_model.state import (
    BY_KEY,
    HIDDEN,
    HIDING,
    MARKER,
    NONE,
    RESTORED,
    Case,
    Id,
    Key,
    Msg,
    State,
    is_visible,
    keys_of,
    push,
    remove,
    send,
    set_key,
    take,
    visible,
)
from tests.images_model.steps import markers_on_top

ANSWERS = frozenset({"marked", "copied", "nothing copied", "deleted", "purged", "unmarked", "dropped"})
OURS = ANSWERS | {"checked", "list", "look", "again"}
"""They are between our steps; the others are on their way to the store."""
LATE = ("the grace does not wait for late requests", "the grace runs from the request, not from its answer")
TAKES_ALL = frozenset({"purge all that is listed", "purge by key", "nothing is hidden"})


def arrivals(case: Case, s: State) -> Iterator[Step]:
    for msg in dict.fromkeys(s.net):
        rest = take(s, msg)
        if msg.alive and s.left[0]:
            yield from _trouble(case, rest._replace(left=(s.left[0] - 1, s.left[1])), msg)
        yield from _arrival(case, rest, msg)


def _trouble(case: Case, s: State, msg: Msg) -> Iterator[Step]:
    yield f"image {msg.image}: the attempt crashes, nothing is sent ({msg.kind})", False, s
    if msg.kind not in OURS:
        yield f"image {msg.image}: the attempt crashes, its request goes on ({msg.kind})", False, send(s, msg._replace(alive=0))
    if msg.kind in {"purge", "unmark", "drop"}:
        yield f"image {msg.image}: the store refuses ({msg.kind})", False, not_purged(case, s, msg)


def _arrival(case: Case, s: State, msg: Msg) -> Iterator[Step]:
    if msg.kind in BY_KEY and s.rows[msg.image].state == HIDDEN and case.weak not in LATE:
        s = time_begins(case, s, msg.image, uploads=True)  # it ends when the last of them can have arrived
    if msg.kind == "look" and case.weak == "decide before the grace is over" and not s.rows[msg.image].over:
        return
    yield f"image {msg.image}: {msg.kind}{'' if msg.alive else ', late'}", True, EFFECTS[msg.kind](case, s, msg)


def _answer(case: Case, s: State, msg: Msg, kind: str, ids: tuple[Id, ...] | None = None) -> State:
    """The store has done it. Without gaps the step acts on it at once."""
    if not msg.alive:
        return s
    answer = msg._replace(kind=kind, ids=msg.ids if ids is None else ids, old=0)
    return send(s, answer) if case.gaps else EFFECTS[kind](case, s, answer)


def _checked(case: Case, s: State, msg: Msg) -> State:
    return begin(case, s, msg.image) if s.rows[msg.image].state in {NONE, RESTORED} else s


def _still_at_work(case: Case, s: State, msg: Msg) -> bool:
    """What a step asks the ledger before each request that names a key and no version."""
    row = s.rows[msg.image]
    if case.weak == "no look at the ledger before the delete":
        return True
    return (row.state, row.round) == (HIDING, msg.round)


def _mark(case: Case, s: State, msg: Msg) -> State:
    s = push(case, s, msg.image, msg.usecase, MARKER)
    if case.weak == "hide in every project":
        s = s._replace(other=0)
    number = keys_of(case, s, msg.image)[msg.usecase].stack[0][1]
    return _answer(case, s, msg, "marked", (*msg.ids, (msg.usecase, number)))


def _copy(case: Case, s: State, msg: Msg) -> State:
    key = keys_of(case, s, msg.image)[msg.usecase]
    if not is_visible(key):
        return _answer(case, s, msg, "nothing copied")
    copied = key._replace(copies=tuple(sorted({*key.copies, msg.round})))
    return _answer(case, set_key(case, s, msg.image, msg.usecase, copied), msg, "copied")


def _copied(case: Case, s: State, msg: Msg) -> State:
    return send(s, Msg("delete", msg.image, msg.round, msg.usecase)) if _still_at_work(case, s, msg) else s


def _nothing_copied(case: Case, s: State, msg: Msg) -> State:
    if case.weak == "delete though there was nothing to copy":
        return _copied(case, s, msg)
    return _next_usecase(case, s, msg)


def _delete(case: Case, s: State, msg: Msg) -> State:
    key = keys_of(case, s, msg.image)[msg.usecase]
    return _answer(case, set_key(case, s, msg.image, msg.usecase, key._replace(stack=())), msg, "deleted")


def _deleted(case: Case, s: State, msg: Msg) -> State:
    if case.weak == "delete before copying":
        return send(s, Msg("copy", msg.image, msg.round, msg.usecase))
    return _next_usecase(case, s, msg)


def _next_usecase(case: Case, s: State, msg: Msg) -> State:
    """The next one is asked. After the last: the transaction that says hidden."""
    if msg.usecase + 1 == case.usecases:
        return answered(case, s, msg, msg.ids)
    go_on = _still_at_work(case, s, msg)
    if case.weak == "the grace runs from the first usecase":
        s, go_on = answered(case, s, msg, msg.ids), True
    return send(s, first_request(case, msg.image, msg.round, msg.usecase + 1, msg.ids)) if go_on else s


def _list(case: Case, s: State, msg: Msg) -> State:
    ids = markers_on_top(case, s, msg.image)
    return send(s, Msg("unmark back", msg.image, msg.round, ids=ids)) if ids else s


def _copy_back(case: Case, s: State, msg: Msg) -> State:
    key = keys_of(case, s, msg.image)[msg.usecase]
    return push(case, s, msg.image, msg.usecase) if msg.round in key.copies else s


def _unmark_back(case: Case, s: State, msg: Msg) -> State:
    return remove(case, s, msg.image, msg.ids)


def _look(case: Case, s: State, msg: Msg) -> State:
    """Read what is there now. What came after our marker is not this round's; what lies below it is."""
    keys = keys_of(case, s, msg.image)
    if not case.versioned:
        return _look_at_copies(case, s, msg, keys)
    ours, data, markers, newer = dict(msg.ids), list[Id](), list[Id](), False
    for usecase, key in enumerate(keys):
        for kind, number in key.stack:
            if kind == MARKER:
                markers.append((usecase, number))
            elif number < ours.get(usecase, 0) or case.weak in TAKES_ALL:
                data.append((usecase, number))
            else:
                newer = True
    if newer and case.weak != "no further round":
        return send(s, Msg("again", msg.image, msg.round))
    first, second = (markers, data) if case.weak == "markers before versions" else (data, markers)
    return send(s, Msg("purge", msg.image, msg.round, ids=tuple(first), then=tuple(second)))


def _look_at_copies(case: Case, s: State, msg: Msg, keys: tuple[Key, ...]) -> State:
    if visible(case, s, msg.image) and case.weak not in TAKES_ALL | {"no further round"}:
        return send(s, Msg("again", msg.image, msg.round))
    ids = [(usecase, one) for usecase, key in enumerate(keys) for one in key.copies if one <= msg.round]
    if case.weak == "only this round's copy is known":
        ids = [one for one in ids if one[1] == msg.round]
    return send(s, Msg("drop", msg.image, msg.round, ids=tuple(ids)))


def _again(case: Case, s: State, msg: Msg) -> State:
    return hide_again(case, s, msg.image, msg.round)


def _purge(case: Case, s: State, msg: Msg) -> State:
    if case.weak != "purge by key":
        return _answer(case, remove(case, s, msg.image, msg.ids), msg, "purged")
    for usecase in range(case.usecases):
        s = set_key(case, s, msg.image, usecase, Key())
    return _answer(case, s, msg, "purged")


def _purged(_: Case, s: State, msg: Msg) -> State:
    return send(s, msg._replace(kind="unmark", ids=msg.then, then=()))


def _unmark(case: Case, s: State, msg: Msg) -> State:
    return _answer(case, remove(case, s, msg.image, msg.ids), msg, "unmarked")


def _drop(case: Case, s: State, msg: Msg) -> State:
    s = remove(case, s, msg.image, msg.ids)
    for usecase, key in enumerate(keys_of(case, s, msg.image)):
        if case.weak in TAKES_ALL:
            s = set_key(case, s, msg.image, usecase, key._replace(stack=()))
    return _answer(case, s, msg, "dropped", ())


def _clear(case: Case, s: State, msg: Msg) -> State:
    s = remove(case, s, msg.image, msg.ids)
    return watched(case, s, msg.image, msg.round) if msg.alive else s


EFFECTS: dict[str, Callable[[Case, State, Msg], State]] = {
    "checked": _checked,
    "mark": _mark,
    "marked": _next_usecase,
    "copy": _copy,
    "copied": _copied,
    "nothing copied": _nothing_copied,
    "delete": _delete,
    "deleted": _deleted,
    "list": _list,
    "copy back": _copy_back,
    "unmark back": _unmark_back,
    "look": _look,
    "again": _again,
    "purge": _purge,
    "purged": _purged,
    "unmark": _unmark,
    "unmarked": purged,
    "drop": _drop,
    "dropped": purged,
    "clear": _clear,
}
