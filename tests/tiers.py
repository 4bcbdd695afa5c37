"""Which tests `make test` leaves to `make test-all`: those marked thorough, and all cases of a test but one.

A case is a database, a kind of bucket, or a row of the test's own table. Which one it is, the test's name decides: each
database has about as many tests, the same ones in each run. What one test shows in one case, the next one shows in another.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

import pytest

_WORLD = ("database_url", "versioning")
_IN_EVERY_WORLD = ("workflow/test_promises.py", "steps/test_migrations.py")
_EVERY_ROW = ("tests/unit/", "faults/test_crashes.py", "faults/test_deaths.py", "workflow/test_replay.py")


def left_to_test_all(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Those of the collected tests."""
    left, by_test = [], defaultdict[tuple[str, ...], list[pytest.Item]](list)
    for item in items:
        if item.get_closest_marker("thorough"):
            left.append(item)
        elif not _is_in(item, _IN_EVERY_WORLD):
            by_test[_test_of(item)].append(item)
    return left + [case for test, cases in by_test.items() for case in _all_but_one(test, cases)]


def _test_of(item: pytest.Item) -> tuple[str, ...]:
    function = item.nodeid.partition("[")[0]
    if not _is_in(item, _EVERY_ROW):
        return (function,)
    # By their places, since the text of a function or of a time is another one in each process.
    drawn: Mapping[str, int] = getattr(getattr(item, "callspec", None), "indices", {})
    return function, *sorted(f"{name}={place}" for name, place in drawn.items() if name not in _WORLD)


def _all_but_one(test: tuple[str, ...], cases: list[pytest.Item]) -> list[pytest.Item]:
    chosen = zlib.crc32(" ".join(test).encode()) % len(cases)
    return cases[:chosen] + cases[chosen + 1 :]


def _is_in(item: pytest.Item, places: Iterable[str]) -> bool:
    return any(place in item.nodeid.partition("::")[0] for place in places)
