"""docs/performance.md is made of the figures beside it, and holds none that were typed."""

import copy
import json
import re
from typing import Any

import pytest

from benchmarks.tables import FIGURES, PAGE, PARTS, PLOT, NotOneRun, as_json, page_of, plot_of
from benchmarks.targets import Target

OLDER_RUNS = "## Older runs"


@pytest.fixture
def figures() -> Any:
    return json.loads(FIGURES.read_text())


def test_the_page_is_what_the_generator_makes_of_the_figures(figures: Any) -> None:
    """`make bench-tables` makes it again."""
    page = PAGE.read_text()
    assert page_of(page, figures) == page
    assert plot_of(figures) == PLOT.read_text()
    assert as_json(figures) == FIGURES.read_text()


def test_each_figure_of_a_run_changes_the_page(figures: Any) -> None:
    """Or the test above would hold whatever the run measured."""
    page = PAGE.read_text()
    for part in PARTS:
        changed = copy.deepcopy(figures)
        changed["parts"][part]["figures"] = _doubled(changed["parts"][part]["figures"])
        assert page_of(page, changed) != page, part


def test_the_page_has_a_place_for_each_part() -> None:
    """One without would be measured in vain."""
    regions = re.findall(r"<!-- table: ([\w ]+) -->", PAGE.read_text())
    assert sorted(regions) == sorted([*PARTS, "run", "targets", "sizing", "duration"])


def test_no_figure_is_typed_by_hand() -> None:
    """Beside the section of older runs, and code."""
    prose, _, _ = PAGE.read_text().partition(OLDER_RUNS)
    prose = re.sub(r"<!-- table: .*?<!-- end -->", "", prose, flags=re.DOTALL)
    prose = re.sub(r"^ {4}.*$|`[^`]*`|\]\([^)]*\)", "", prose, flags=re.MULTILINE)
    assert re.findall(r"(?<![\w.])\d[\d.,]*", prose) == []


def test_figures_of_single_parts_are_refused(figures: Any) -> None:
    """They would be of several runs, on a machine that is faster in some hours than in others."""
    del figures["parts"]["bulk"]
    with pytest.raises(NotOneRun, match="bulk"):
        page_of(PAGE.read_text(), figures)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target("", 0.6, 0.6), "met"),
        (Target("", 0.604, 0.6), "met"),  # as it is shown
        (Target("", 0.9, 0.6), "**missed** by 50 %"),
        (Target("", 3, 3, at_least=True), "met"),
        (Target("", 1.5, 3, at_least=True), "**missed** by 50 %"),
        (Target("", 1, 0), "**missed**"),
        (Target("", 0, 0), "met"),
    ],
)
def test_a_target_is_met_or_missed_by_so_much(target: Target, said: str) -> None:
    assert target.met() == said


def _doubled(value: Any) -> Any:
    match value:
        case bool() | str() | None:
            return value
        case int() | float():
            return 2 * value + 1
        case dict():
            return {name: _doubled(one) for name, one in value.items()}
        case list():
            return [_doubled(one) for one in value]
    raise TypeError(value)
