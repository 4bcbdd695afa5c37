"""States that differ in numbers alone, or in flags that say nothing now, are one."""

from collections.abc import Sequence

from tests.images_model.state import HIDDEN, PURGED, PURGING, Case, Id, Key, Msg, Row, State, keys_of, set_key, set_row

OF_VERSIONS = frozenset({"mark", "marked", "look", "purge", "purged", "unmark", "unmark back", "clear"})
OF_COPIES = frozenset({"drop", "clear"})
BY_ID = frozenset({"purge", "unmark", "unmark back", "drop", "clear"})
_Numbers = tuple[tuple[Key, ...], tuple[Row, ...], tuple[Msg, ...]]


class Sameness:
    """What it found once it looks up."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.known: dict[_Numbers, _Numbers] = {}

    def canonical(self, s: State) -> State:
        for image, row in enumerate(s.rows):
            if row.over or row.state not in {HIDDEN, PURGING, PURGED}:
                s = _without_age(self.case, s, image)
        refused = [up.refused and up.refused == s.rows[of.image].round for of, up in zip(self.case.ups, s.ups, strict=True)]
        numbers = (s.keys, s.rows, s.net)
        known = self.known.get(numbers)
        if known is None:
            after = s
            for image in range(self.case.images):
                after = _versions_by_age(self.case, after, image) if self.case.versioned else after
                after = _rounds_by_order(self.case, after, image)
            known = self.known[numbers] = (after.keys, after.rows, after.net)
        s = s._replace(keys=known[0], rows=known[1], net=known[2])
        return _with_refused(self.case, s, refused) if self.case.reserved else s


def _with_refused(case: Case, s: State, now: Sequence[int]) -> State:
    """Of the rounds in which commits were refused, the image's own alone says anything."""
    of_ups = zip(case.ups, s.ups, now, strict=True)
    ups = tuple(up._replace(refused=s.rows[of.image].round if is_now else 0) for of, up, is_now in of_ups)
    return s._replace(ups=ups)


def _without_age(case: Case, s: State, image: int) -> State:
    """No time runs that would have to wait for what is old."""
    if any(m.old and m.image == image for m in s.net):
        s = s._replace(net=tuple(sorted(m._replace(old=0) if m.image == image else m for m in s.net)))
    if any(up.old and of.image == image for of, up in zip(case.ups, s.ups, strict=True)):
        ups = tuple(up._replace(old=0) if of.image == image else up for of, up in zip(case.ups, s.ups, strict=True))
        s = s._replace(ups=ups)
    if image == 0 and any(old for _, old in s.bumps):
        s = s._replace(bumps=tuple((at, 0) for at, _ in s.bumps))
    return s


def _versions_by_age(case: Case, s: State, image: int) -> State:
    fresh: dict[Id, Id] = {}
    for usecase, key in enumerate(keys_of(case, s, image)):
        count = len(key.stack)
        fresh.update({(usecase, number): (usecase, count - place) for place, (_, number) in enumerate(key.stack)})
        stack = tuple((kind, count - place) for place, (kind, _) in enumerate(key.stack))
        if stack != key.stack:
            s = set_key(case, s, image, usecase, key._replace(stack=stack))

    def many(ids: tuple[Id, ...]) -> tuple[Id, ...]:
        return tuple(fresh[one] for one in ids if one in fresh)

    s = _net(s, [m._replace(ids=many(m.ids), then=many(m.then)) if _is(m, image, OF_VERSIONS) else m for m in s.net], case)
    row = s.rows[image]
    return set_row(s, image, row._replace(marks=many(row.marks))) if row.marks else s


def _rounds_by_order(case: Case, s: State, image: int) -> State:
    row, of_copies = s.rows[image], frozenset() if case.versioned else OF_COPIES
    used = {row.round, *(m.round for m in s.net if m.image == image)}
    used.update(one for m in s.net if _is(m, image, of_copies) for _, one in m.ids)
    used.update(one for key in keys_of(case, s, image) for one in key.copies)
    fresh = {0: 0} | {old: new for new, old in enumerate(sorted(used - {0}), 1)}
    if all(old == new for old, new in fresh.items()):
        return s if case.versioned else _net(s, list(s.net), case)

    def renumbered(m: Msg) -> Msg:
        if m.image != image:
            return m
        ids = tuple((usecase, fresh[one]) for usecase, one in m.ids) if m.kind in of_copies else m.ids
        return m._replace(round=fresh[m.round], ids=ids)

    s = set_row(s, image, row._replace(round=fresh[row.round]))
    s = _net(s, [renumbered(m) for m in s.net], case)
    for usecase, key in enumerate(keys_of(case, s, image)):
        if key.copies:
            s = set_key(case, s, image, usecase, key._replace(copies=tuple(fresh[one] for one in key.copies)))
    return s


def _is(m: Msg, image: int, kinds: frozenset[str]) -> bool:
    return m.image == image and m.kind in kinds


def _net(s: State, net: list[Msg], case: Case) -> State:
    """A request changes nothing if no step waits for it, and what it names is gone."""
    if case.weak != "purge by key":
        net = [m for m in net if m.alive or m.ids or m.kind not in BY_ID]
    return s._replace(net=tuple(sorted(net)))
