"""What is checked: small cases in each run, larger ones with --deep. And weakenings: a rule left out must be noticed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from unittest.mock import patch

from activities.images import transitions
from activities.images.transitions import Image, ImageState
from tests.images_model.check import Found, check
from tests.images_model.state import Case, Up

_UNNAMED, _PURGED = transitions.unnamed, transitions.purged
SKIP, PUT = Up(skips=True), Up(skips=False)
V = Case("versioned: one skips", ups=(SKIP,), gaps=False, extra=0)
U = Case("unversioned: one skips", versioned=False, ups=(SKIP,), gaps=False, extra=0)


def of(base: Case, name: str, **changed: object) -> Case:
    kind = "versioned" if base.versioned else "unversioned"
    return replace(base, name=f"{kind}: {name}", **changed)  # type: ignore[arg-type]


V_PUTS, U_PUTS = (of(one, "one skips, one puts", ups=(SKIP, PUT)) for one in (V, U))
V_AGAIN, U_AGAIN = (of(one, "uploaded and deleted again", deletable=(0, 1)) for one in (V, U))
V_BESIDE, U_BESIDE = (of(one, "another attempt", extra=1) for one in (V, U))
V_AGAIN_BESIDE, U_AGAIN_BESIDE = (of(one, "deleted again, another attempt", extra=1) for one in (V_AGAIN, U_AGAIN))
V_PLACES, U_PLACES = (of(one, "two usecases", usecases=2) for one in (V, U))
V_READER, U_READER = (of(one, "a reader prolongs", bumps=1) for one in (V, U))
V_EXPIRED, U_EXPIRED = (of(one, "the image had expired", expired=True) for one in (V, U))
V_OTHERS, U_OTHERS = (of(one, "others delete rows", by_others=(1,)) for one in (V, U))
V_ORDER = of(V, "two images, caught up in any order", images=2, ups=(SKIP, Up(skips=False, image=1)), crashes=0)
V_UNREADABLE = of(V, "not indexed, unreadable", first=((1, True, True), (1, False, False)), deletable=(0, 1))
V_GAPS, U_GAPS = (of(one, "any gap", gaps=True) for one in (V, U))
U_PUTS_STEADY = of(U_PUTS, "one skips, one puts, another attempt, no crash", extra=1, crashes=0)
U_PUTS_BESIDE = of(U_PUTS, "one skips, one puts, another attempt", extra=1)
U_TWO = of(U, "two skip, deleted again", ups=(SKIP, SKIP), deletable=(0, 1), crashes=0)
V_RESERVED = of(V, "reserved, one skips", reserved=True)
V_RESERVED_AGAIN = of(V_AGAIN, "reserved, uploaded and deleted again", reserved=True)
V_RESERVED_PUTS = of(V_PUTS, "reserved, one skips, one puts, no crash", reserved=True, crashes=0)

CASES = (
    *(V, U, V_PUTS, U_PUTS, V_AGAIN, U_AGAIN, V_BESIDE, U_BESIDE, V_PLACES, U_PLACES, V_READER, U_READER, V_EXPIRED, U_EXPIRED),
    *(V_OTHERS, U_OTHERS, V_ORDER, V_UNREADABLE, V_GAPS, U_GAPS, U_TWO),
    *(V_RESERVED_AGAIN, V_RESERVED_PUTS),
)


@dataclass(frozen=True)
class Weakening:
    """One rule is left out: of the steps, by its name in the model, or of the service's code, by a function in its place."""

    case: Case
    name: str
    rules: Mapping[str, Callable[..., Image | None]] = field(default_factory=dict)

    def check(self) -> Found:
        with patch.dict(vars(transitions), self.rules):
            return check(replace(self.case, weak=self.name))


def _hidden_at_once(image: Image | None, new_round: int) -> Image:
    return Image(ImageState.HIDDEN, new_round) if image is None or image.state is ImageState.RESTORED else image


def _same_round(image: Image | None, new_round: int) -> Image:
    begun = image is None or image.state is ImageState.RESTORED
    return Image(ImageState.HIDING, image.round if image else new_round) if begun else image  # type: ignore[return-value]


def _never_restored_hides_again(image: Image | None, new_round: int) -> Image:
    return Image(ImageState.HIDING, new_round) if image is None else image


def _never_purged_hides_again(image: Image | None, new_round: int) -> Image:
    return image if image is not None and image.state is ImageState.PURGED else _UNNAMED(image, new_round)


def _named_but(*states: ImageState) -> Callable[[Image], Image]:
    return lambda image: image if image.state in states else replace(image, state=ImageState.RESTORED)


def _of_any_round(rule: Callable[..., Image | None]) -> Callable[..., Image | None]:
    return lambda image, _, **more: rule(image, image.round, **more)


def _ends(_image: Image, _round: int, **_more: bool) -> None:
    return None


def _not_remembered(image: Image, round_: int, *, remembered: bool) -> Image | None:
    return _PURGED(image, round_)


def _never(image: Image, _round: int, _new: int) -> Image:
    return image


def _in_the_same_round(image: Image, round_: int, new_round: int) -> Image:
    return replace(image, state=ImageState.HIDING)


def _answered_in_any_state(image: Image, round_: int) -> Image:
    return replace(image, state=ImageState.HIDDEN) if image.round == round_ else image


_OF_RULES = (
    (V, "nothing is hidden", "unnamed", _hidden_at_once),
    (U, "nothing is hidden", "unnamed", _hidden_at_once),
    (V_AGAIN, "what was restored is never hidden again", "unnamed", _never_restored_hides_again),
    (V, "what is being hidden is not restored", "named", _named_but(ImageState.HIDING)),
    (V, "what is hidden is not restored", "named", _named_but(ImageState.HIDDEN)),
    (V, "what is being purged is not restored", "named", _named_but(ImageState.PURGING)),
    (V_BESIDE, "an answer says hidden in any state", "answered", _answered_in_any_state),
    (V_BESIDE, "any purge ends a row", "purged", _ends),
    (U_BESIDE, "any purge ends a row", "purged", _ends),
    (U_AGAIN, "any watch ends a row", "watched", _ends),
    (V, "what is readable is never hidden again", "readable_again", _never),
    (V_RESERVED_AGAIN, "reserved: the row goes with the image", "purged", _not_remembered),
    (V_RESERVED_AGAIN, "reserved: what is purged is not hidden again", "unnamed", _never_purged_hides_again),
    (V_RESERVED_AGAIN, "reserved: what is purged is not restored", "named", _named_but(ImageState.PURGED)),
    (U_BESIDE, "what is readable is hidden in the same round", "readable_again", _in_the_same_round),
)

_OF_STEPS = tuple(
    Weakening(case, name)
    for case, name in (
        (V, "no grace"),
        (U, "no grace"),
        (V, "hide before catching up"),
        (V, "check and row in two transactions"),
        (V_ORDER, "catch up from the highest id"),
        (V, "purge without looking at the ledger"),
        (V, "purge without catching up again"),
        (V, "decide before the grace is over"),
        (V, "another round without asking who names it"),
        (V, "purge by key"),
        (U, "purge by key"),
        (V, "purge all that is listed"),
        (V, "markers before versions"),
        (V, "the grace runs from the request, not from its answer"),
        (V_PLACES, "the grace runs from the first usecase"),
        (V, "requests may be later than the grace"),
        (U, "the grace does not wait for late requests"),
        (V, "a restored image is not watched"),
        (V, "a look before the time was over ends the watch"),
        (U, "a look before the time was over ends the watch"),
        (V, "no further round"),
        (U, "no further round"),
        (V_READER, "no further round"),
        (U_READER, "no further round"),
        (V_AGAIN, "a deletion does not wait for a purge"),
        (U_AGAIN, "a deletion does not wait for a purge"),
        (V_AGAIN, "a deletion that joins does not look"),
        (U_AGAIN, "a deletion that joins does not look"),
        (U_AGAIN, "quarantine key without a round"),
        (U_AGAIN, "only this round's copy is known"),
        (U_PUTS_STEADY, "no look at the ledger before the delete"),
        (U, "delete before copying"),
        (U_EXPIRED, "delete though there was nothing to copy"),
        (V_UNREADABLE, "an unreadable manifest names nothing"),
        (V, "hide in every project"),
        (V_RESERVED, "reserved: nothing is refused"),
        (V_RESERVED_PUTS, "reserved: without the lock"),
        (V_RESERVED_PUTS, "reserved: what was put in any round counts"),
        (V_RESERVED, "reserved: a commit restores nothing"),
        (V_RESERVED, "reserved: what was purged is remembered for no grace"),
    )
)
WEAKENINGS = (*(Weakening(case, name, {rule: broken}) for case, name, rule, broken in _OF_RULES), *_OF_STEPS)

DEEP = (
    *(V_AGAIN_BESIDE, U_AGAIN_BESIDE),
    of(V_PUTS, "one skips, one puts, another attempt", extra=1),
    of(V_PUTS, "one skips, one puts, any gap", gaps=True),
    of(V, "three uploaders", ups=(SKIP, SKIP, PUT), crashes=0),
    of(V, "two skip, deleted again", ups=(SKIP, SKIP), deletable=(0, 1)),
    of(V_AGAIN_BESIDE, "deleted again, two crashes", crashes=2),
    of(V_AGAIN_BESIDE, "deleted again, two more attempts", extra=2),
    of(V_AGAIN_BESIDE, "deleted again, any gap", gaps=True),
    of(V_AGAIN_BESIDE, "deleted again, two usecases", usecases=2),
    of(V_BESIDE, "two usecases, any gap", usecases=2, gaps=True),
    of(V_AGAIN, "deleted again, a reader prolongs", bumps=1),
    U_PUTS_BESIDE,
    of(U_PUTS_BESIDE, "one skips, one puts, two crashes", crashes=2),
    of(U_PUTS_BESIDE, "three uploaders", ups=(SKIP, SKIP, PUT), extra=0),
    of(U_PUTS_BESIDE, "three uploaders, another attempt", ups=(SKIP, SKIP, PUT)),
    of(U_AGAIN_BESIDE, "two skip, deleted again", ups=(SKIP, SKIP)),
    of(U_AGAIN_BESIDE, "deleted again, two more attempts", extra=2),
    of(U_AGAIN_BESIDE, "deleted again, any gap", gaps=True),
    of(U_AGAIN_BESIDE, "deleted again, two usecases", usecases=2),
    of(U_BESIDE, "two usecases, any gap", usecases=2, gaps=True),
    of(U_AGAIN_BESIDE, "deleted again, a reader prolongs", bumps=1),
    of(V_RESERVED_AGAIN, "reserved, deleted again, another attempt, refused twice", extra=1, refusals=2),
    of(V_RESERVED_PUTS, "reserved, one skips, one puts", crashes=1),
)
DEEP_WEAKENINGS = (
    Weakening(V_AGAIN_BESIDE, "hidden again in the same round", {"unnamed": _same_round}),
    Weakening(U_AGAIN_BESIDE, "hidden again in the same round", {"unnamed": _same_round}),
    Weakening(V_AGAIN_BESIDE, "a purge of any round ends a row", {"purged": _of_any_round(transitions.purged)}),
    Weakening(U_AGAIN_BESIDE, "a purge of any round ends a row", {"purged": _of_any_round(transitions.purged)}),
)
"""They need a second attempt beside a second round."""
