"""The rules of activities/images/transitions.py in every interleaving of uploads, deletions, crashes and late requests.

The store is a model here, because no server can be made to try every order. Larger cases: python -m tests.images_model --deep.
"""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.images_model.cases import CASES, WEAKENINGS, Weakening
from tests.images_model.check import check
from tests.images_model.state import Case


def _in_its_tier(case: Case) -> Any:
    """Most cases with two clients beside each other, or with reserved images, take longer than all others together."""
    large = case.reserved or (len(case.ups) > 1 and (case.versioned or len(case.deletable) > 1))
    return pytest.param(case, id=case.name, marks=pytest.mark.thorough if large else ())


@pytest.fixture(autouse=True)
def _no_garbage() -> Iterator[None]:
    """Nothing of a search is garbage before it ends, and looking for some takes a third of the time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("case", [_in_its_tier(case) for case in CASES])
def test_no_needed_image_is_lost_and_no_other_one_stays(case: Case) -> None:
    found = check(case)
    assert (found.wrong, found.trace) == (None, ())
    assert found.states > 500, "or next to nothing was tried"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "weakening", WEAKENINGS, ids=lambda one: f"{one.name}, {'versioned' if one.case.versioned else 'unversioned'}"
)
def test_a_rule_left_out_is_noticed(weakening: Weakening) -> None:
    """A model that notices nothing would prove nothing."""
    assert weakening.check().wrong
