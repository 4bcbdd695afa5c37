"""What `make test` leaves out: of each test one case stays, or a promise would go untried in silence."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tiers import left_to_test_all


def case(test: str, drawn: Mapping[str, int], *, thorough: bool = False) -> Any:
    """As pytest collects one; a stand-in, since a pytest within this one would collect for half a minute."""
    text = "-".join(f"{name}{place}" for name, place in drawn.items())
    return SimpleNamespace(
        nodeid=f"{test}[{text}]" if drawn else test,
        callspec=SimpleNamespace(indices=drawn),
        get_closest_marker=lambda _: pytest.mark.thorough if thorough else None,
    )


def stay(items: Sequence[Any]) -> Counter[str]:
    """How many cases of each test `make test` runs."""
    left = left_to_test_all(items)
    return Counter(item.nodeid.partition("[")[0] for item in items if item not in left)


CASES = [{"database_url": database, "row": row} for database in range(2) for row in range(3)]


@pytest.mark.parametrize(
    ("file", "cases"),
    [
        ("tests/steps/test_a.py", 1),
        ("tests/unit/test_a.py", 3),  # each row of a table
        ("tests/faults/test_deaths.py", 3),
        ("tests/workflow/test_promises.py", 6),  # in every world too
    ],
)
def test_so_many_cases_of_a_test_stay(file: str, cases: int) -> None:
    items = [case(f"{file}::test_{name}", drawn) for name in "abc" for drawn in CASES]
    assert stay(items) == dict.fromkeys((f"{file}::test_{name}" for name in "abc"), cases)


def test_a_test_without_cases_stays_and_a_thorough_one_does_not() -> None:
    alone, dear = case("tests/steps/test_a.py::test_a", {}), case("tests/steps/test_a.py::test_b", {}, thorough=True)
    assert left_to_test_all([alone, dear]) == [dear]


def test_each_database_has_its_share() -> None:
    """What chooses is a test's name, which is the same in each run."""
    items = [case(f"tests/steps/test_a.py::test_{number}", {"database_url": one}) for number in range(200) for one in (0, 1)]
    left = left_to_test_all(items)
    on_first = sum(item.callspec.indices["database_url"] == 0 for item in items if item not in left)
    assert 60 < on_first < 140
