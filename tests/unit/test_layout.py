"""Who may import whom, and how long a file and a function may be: the layout of docs/architecture.md, as the code has it."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

import starter
from tests.stack import ROOT
from workflows.bulk_steps import BULK_STEPS
from workflows.reconcile_steps import RECONCILE_STEPS
from workflows.steps import STEPS

PACKAGES = ("artifact_deletion", "workflows", "activities", "commands", "migrations", "conformance")
STANDARD = set(sys.stdlib_module_names)
SERVICE = {
    *("workflows", "activities", "commands", "migrations", "conformance", "demo"),
    *(file.stem for file in ROOT.glob("*.py")),
}
"""What a backend that installs the contract does not have."""
MAX_LINES_OF_A_FILE, MAX_LINES_OF_A_FUNCTION = 400, 40


def product_files() -> list[Path]:
    """All that is shipped: tests, demo, examples and benchmarks are not."""
    found = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return sorted([*found, *ROOT.glob("*.py")])


def files_of(folder: str) -> list[Path]:
    found = [file for file in product_files() if file.is_relative_to(ROOT / folder)]
    assert found, folder
    return found


def step_files() -> dict[str, Path]:
    return {step.name: ROOT / "activities" / f"{step.name}.py" for step in (*STEPS, *BULK_STEPS, *RECONCILE_STEPS)}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imported(file: Path) -> Iterator[str]:
    """Dotted names, wherever in the file: of `from a import b` it is `a.b`."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_beyond(file: Path, allowed: set[str]) -> list[str]:
    """Imports of a file that are none of these modules, nor within them."""
    where = file.relative_to(ROOT)
    return [f"{where} imports {name}" for name in imported(file) if not any(is_within(name, one) for one in allowed)]


def imports_of(file: Path, forbidden: set[str]) -> list[str]:
    """Imports of a file that are one of these modules, or within them."""
    where = file.relative_to(ROOT)
    return [f"{where} imports {name}" for name in imported(file) if any(is_within(name, one) for one in forbidden)]


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def test_the_contract_needs_nothing_of_the_service_and_few_packages() -> None:
    """A backend installs it alone: what it imported beside that would be absent there."""
    allowed = STANDARD | {"annotated_types", "pydantic", "sqlalchemy", "temporalio", "artifact_deletion"}
    assert not allowed & SERVICE
    assert [broken for file in files_of("artifact_deletion") for broken in imports_beyond(file, allowed)] == []


def test_the_workflow_knows_the_contract_and_nothing_that_could_change_between_two_replays() -> None:
    """No database, store, environment, clock or chance; of the contract nothing that needs SQLAlchemy or a network."""
    contract = {f"artifact_deletion.{name}" for name in ("bulk", "errors", "receipt", "request")}
    outside = {"os", "random", "secrets", "socket", "subprocess", "sys", "threading", "time", "uuid"}
    allowed = STANDARD - outside | {"pydantic", "temporalio", "workflows"} | contract
    assert [broken for file in files_of("workflows") for broken in imports_beyond(file, allowed)] == []


def test_no_step_imports_another() -> None:
    """What two of them need stands in a file of its own. Only composition.py, and a command, put steps together."""
    steps = step_files()
    assert [name for name, file in steps.items() if not file.is_file()] == [], "each has a file of its name"
    every = {f"activities.{name}" for name in steps}
    broken = [
        found
        for file in files_of("activities")
        for found in imports_of(file, every - {f"activities.{file.stem}"} if file in steps.values() else every)
    ]
    assert broken == []


def test_the_ledger_knows_no_store_and_of_the_backend_the_contract_alone() -> None:
    own = {f"activities.{name}" for name in ("ledger", "database", "one_of", "backend.contract")}
    allowed = STANDARD | {"sqlalchemy", "artifact_deletion", "workflows.steps"} | own
    assert [broken for file in files_of("activities/ledger") for broken in imports_beyond(file, allowed)] == []


def test_the_backend_knows_neither_ledger_nor_stores() -> None:
    forbidden = {"activities.ledger", "activities.stores", "boto3", "botocore", "workflows"}
    assert [broken for file in files_of("activities/backend") for broken in imports_of(file, forbidden)] == []


def test_only_the_backend_s_folder_names_its_tables() -> None:
    """Another backend is another folder: a table's name elsewhere would have to be found and changed there too."""
    inside = [text for file in files_of("activities/backend") for text in texts_of(file) if "sentry_" in text]
    assert len(inside) > 10, "or this would look for nothing"
    outside = [file for file in product_files() if not file.is_relative_to(ROOT / "activities" / "backend")]
    assert [(file.name, text) for file in outside for text in texts_of(file) if "sentry_" in text] == []


def texts_of(file: Path) -> Iterator[str]:
    """Every text of the code; docstrings, of modules, functions and fields, are for people."""
    tree = tree_of(file)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def test_commands_are_imported_by_the_command_line_alone() -> None:
    """They may import anything, so what imported them would hang from everything."""
    others = [file for file in product_files() if file.name != "starter.py" and not file.is_relative_to(ROOT / "commands")]
    assert [broken for file in others for broken in imports_of(file, {"commands", "starter"})] == []
    assert [name for name in imported(ROOT / "starter.py") if is_within(name, "commands")]


@pytest.mark.parametrize("first", ["reconcile", "images"])
def test_a_command_is_imported_without_the_others(first: str) -> None:
    """Most of a short command's time is imports. Where the first word names none, the help needs all of them."""
    every = {name for commands in starter.COMMANDS.values() for name in commands}
    made = {word: commands_of(starter._app(word)) for word in (first, "recon", "--help", "")}  # noqa: SLF001  no one else makes it
    assert made == {first: {first}, "recon": every, "--help": every, "": every}


def commands_of(app: typer.Typer) -> set[str]:
    return {str(one.name) for one in app.registered_commands} | {str(one.name) for one in app.registered_groups}


@pytest.mark.parametrize("file", product_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file: Path) -> None:
    """A person reads a function on one screen, and a file in one sitting."""
    assert len(file.read_text().splitlines()) <= MAX_LINES_OF_A_FILE
    functions = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    assert [(name, length) for name, length in lengths if length > MAX_LINES_OF_A_FUNCTION] == []
