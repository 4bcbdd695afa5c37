"""Cheap enough for every run: each mutation of `make mutants` still fits the code, and the tests that it names are there."""

import ast
from pathlib import Path

import pytest

from tests.mutants import MUTATIONS, ROOT, Result
from tests.mutation import Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_mutation_fits_parses_and_names_tests_that_are_there(mutation: Mutation) -> None:
    """One that no longer applies tests nothing, and no one would know until the next long run."""
    assert ast.dump(ast.parse(mutation.mutated(ROOT))) != ast.dump(ast.parse((ROOT / mutation.file).read_text()))
    assert mutation.tests
    for test in mutation.tests:
        file, _, name = test.partition("[")[0].partition("::")
        assert f"def {name}(" in (ROOT / file).read_text()


def test_a_mutation_that_does_not_stand_there_once_is_refused(tmp_path: Path) -> None:
    mutation = Mutation("twice", "code.py", "1", "2", ())
    for content in ("1 + 1", "0"):
        (tmp_path / "code.py").write_text(content)
        with pytest.raises(ValueError, match="times in"):
            mutation.mutated(tmp_path)


@pytest.mark.parametrize(
    ("code", "output", "caught", "catcher"),
    [
        (0, "1 passed", False, "SURVIVED"),
        (
            1,
            "E   AssertionError: orphaned: a key\nFAILED tests/a.py::b - AssertionError: …",
            True,
            "tests/a.py::b\n    orphaned: a key",
        ),
        (1, "ERROR tests/a.py::b - at set-up", False, "NOT TESTED (pytest ended with 1)"),
        (4, "no tests ran", False, "NOT TESTED (pytest ended with 4)"),
    ],
)
def test_only_a_test_that_failed_has_caught_anything(code: int, output: str, catcher: str, *, caught: bool) -> None:
    """Servers that do not start fail too."""
    result = Result(MUTATIONS[0], code, output, 0.0)
    assert (result.caught, result.catcher) == (caught, catcher)
