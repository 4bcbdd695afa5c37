"""What the documents name is there: commands, settings, fields, codes, links, and the sentences that operators look for."""

import ast
import functools
import hashlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from sqlalchemy import text

import starter
from activities.ledger import pages
from activities.ledger.schema import LedgerTable
from activities.receipts import Closed
from artifact_deletion import errors
from artifact_deletion.bulk import BulkReceipt
from artifact_deletion.errors import DeletionError
from artifact_deletion.receipt import DeletionReceipt, Ids
from migrations import VERSION_TABLE
from settings import PREFIX, Settings
from tests.stack import ROOT, Stack, steps_of
from workflows.text import LEFT_OVER

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ARCHITECTURE, OPERATIONS, BACKEND, RECEIPT, RELIABILITY, BULK = (
    ROOT / "docs" / f"{name}.md" for name in ("architecture", "operations", "backend", "receipt", "reliability", "bulk")
)
NOT_FOR_OPERATORS = {
    "DeletionError": "the root of the tree: nothing is raised as it",
}
NO_CLASS = {"StepTimedOut": "made where a step's time was over and no attempt said why"}
OTHER_WORDS = {
    "ATOMIC_REQUESTS",  # Django's
    "BUCKET",  # a setting, and the place of a bucket's name in deploy/iam-policy.json
    "COMMIT",
    "DELETE",
    "FILE",
    "HOLD",
    "ID",
    "REPORT",
    "REQUIREMENTS",  # a build argument of the Dockerfile
    "SQL",
    "WHO",
}
"""Code of capitals alone that names no setting."""
each_document = pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)


def code_of(document: Path) -> Iterator[str]:
    """Every span of code, and every line of a block, of which lines that go on are one."""
    for number, part in enumerate(re.split(r"^```.*$", document.read_text(), flags=re.MULTILINE)):
        if number % 2:
            yield from part.replace("\\\n", " ").splitlines()
        else:
            indented = r"^ {4,}.*$"
            yield from (line.strip() for line in re.findall(indented, part, re.MULTILINE))
            yield from (
                " ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(indented, "", part, flags=re.MULTILINE))
            )


def first_cells(document: Path, heading: str = "") -> list[str]:
    """The code in the first cells of tables, of the whole document or of a section."""
    section = document.read_text()
    if heading:
        section = re.split(r"^## ", section.partition(heading)[2], flags=re.MULTILINE)[0]
    return [cell for row in re.findall(r"^\| (`[^|]+?`) \|", section, re.MULTILINE) for cell in re.findall(r"`([^`]+)`", row)]


@functools.cache
def commands() -> dict[str, set[str]]:
    """The command line's commands, and the options of each, as its help has them."""
    every: Any = typer.main.get_command(starter._app())  # noqa: SLF001  which no one else need take apart
    found = dict(every.commands)
    for name, command in every.commands.items():
        found |= {f"{name} {second}": of_group for second, of_group in getattr(command, "commands", {}).items()}
    return {name: {"--help", *(word for one in command.params for word in one.opts)} for name, command in found.items()}


# What is named is there ---------------------------------------------------------------------------------------------------


@each_document
def test_every_command_and_option_that_is_named_exists(document: Path) -> None:
    """A person who types it at night has no time for a usage error."""
    options = commands()
    for code in code_of(document):
        line, _, _ = code.partition(" #")
        called = re.search(r"starter\.py (.*)", line)
        if called is None and line.split(" ")[0] not in options:
            continue
        words = shlex.split(called[1] if called else line)
        if not words or words[0].startswith("-"):
            continue
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in options), "")
        assert name, code
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options[name], code


def test_the_alerts_name_commands_that_exist() -> None:
    rules = (ROOT / "docs" / "alerts.yml").read_text()
    named = re.findall(r"`starter\.py (\w+)", rules)
    assert named
    assert set(named) <= commands().keys()
    assert {*re.findall(r"alert: (\w+)", rules)} == {*first_cells(OPERATIONS, "## Alerts")}


@each_document
def test_every_setting_that_is_named_exists(document: Path) -> None:
    """With its prefix or, in running text, without; those of Temporal, OpenTelemetry and make are not ours to know."""
    settings = {name.upper() for name in Settings.model_fields}
    named = set(re.findall(rf"{PREFIX}([A-Z0-9_]*[A-Z0-9])", document.read_text()))
    for code in code_of(document):
        if found := re.fullmatch(r"(?:…_)?([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)(?:=\S*)?", code):
            named.add(found[1].removeprefix(PREFIX))
    assert {name for name in named - settings - OTHER_WORDS if not name.startswith(("TEMPORAL_", "OTEL_"))} == set()


@each_document
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    """To a file, and to a heading of it where it names one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_the_architecture_has_every_folder_and_every_table() -> None:
    """A folder that is not in there is not found. Files of the top level have a row of their own, or one with others."""
    said = ARCHITECTURE.read_text()
    ours = [one for one in ROOT.iterdir() if one.name[0] != "." and (one.suffix == ".py" or any(one.glob("*.py")))]
    tops = {f"{one.name}/" if one.is_dir() else one.name for one in ours}
    assert {top for top in tops if f"[`{top}`](../{top.rstrip('/')})" not in said} == set()
    assert set(first_cells(ARCHITECTURE, "## The ledger")) == {
        *(table.name for table in LedgerTable.metadata.tables.values()),
        VERSION_TABLE,
    }


def test_one_deletion_is_followed_through_few_files_and_functions_that_are_there() -> None:
    """What a new maintainer reads first, in fifteen minutes: it may not grow unseen."""
    path = re.findall(r"^\| \[`([\w/.]+)`\]\([^)]*\): (.+?) \|", ARCHITECTURE.read_text(), re.MULTILINE)
    functions = [(file, name) for file, names in path for name in re.findall(r"`(\w+)`", names)]
    for file, name in functions:
        assert re.search(rf"^ *(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (file, name)
    assert (len(path) < 12, len(functions) < 40) == (True, True), (len(path), len(functions))


def test_every_promise_has_a_test_in_each_run() -> None:
    """One that is marked thorough is in `make test-all` alone, and `make test` would go on without it."""
    page = RELIABILITY.read_text()
    rows = re.findall(r"^\| (\d\. .+?) \| (.+?) \| ", page, re.MULTILINE)
    assert [promise for promise, _ in rows] == re.findall(r"^## (\d\. .+)$", page, re.MULTILINE)
    for _, tests in rows:
        trees = [ast.parse((ROOT / file).read_text()) for file in re.findall(r"\(\.\./(tests/.+?)\)", tests)]
        marks = {
            one.name: [ast.unparse(decorator) for decorator in one.decorator_list]
            for tree in trees
            for one in tree.body
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        named = re.findall(r"`(test_\w+)`", tests)
        assert named
        assert not [name for name in named if "pytest.mark.thorough" in marks[name]]


def test_there_are_no_more_concepts_than_a_maintainer_can_hold() -> None:
    section = re.split(r"^## ", ARCHITECTURE.read_text().partition("## What a maintainer must know")[2], flags=re.MULTILINE)[0]
    assert 0 < len(re.findall(r"^\| \*\*", section, re.MULTILINE)) <= 15


def test_sentences_have_an_actor_with_a_name() -> None:
    """In documents, code and tests: words that hide who acts crept in before. Reading `what …` aloud is up to the reviewer."""
    hidden = re.compile(r"\b(who(so|m)?ever|(no|some|any|every)body)\b", re.IGNORECASE)
    allowed = re.compile(r"`nobody`|\"nobody\"")  # a user of the operating system
    folders = [one for one in ROOT.iterdir() if one.is_dir() and one.name[0] != "."]
    files = [*ROOT.glob("*.*"), *(file for folder in folders for file in folder.rglob("*"))]
    written = [file for file in files if file.suffix in {".md", ".py", ".ts", ".yaml", ".yml"} and file != Path(__file__)]
    assert len(written) > 200
    assert [file for file in written if hidden.search(allowed.sub("", file.read_text()))] == []


# The runbook --------------------------------------------------------------------------------------------------------------


def test_the_runbook_knows_every_code_of_what_is_left_over() -> None:
    """In the words in which the Web UI says what each means."""
    section = OPERATIONS.read_text().partition("## Failed")[2].partition("### ")[0]
    said = dict(re.findall(r"^\| `(\w+)` \| “(.+?)” \|", section, re.MULTILINE))
    assert said == LEFT_OVER


def test_the_runbook_knows_every_error_that_an_operator_can_see() -> None:
    """By the name that Temporal shows as its type."""
    classes = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, DeletionError)}
    assert NOT_FOR_OPERATORS.keys() <= classes
    assert set(first_cells(OPERATIONS, "## Every error")) == (classes - NOT_FOR_OPERATORS.keys()) | NO_CLASS.keys()


@pytest.mark.thorough
def test_the_runbook_quotes_what_is_really_said() -> None:
    """An operator searches the runbook for the sentence on the screen: each one in “…” is one that the code can say."""
    patterns, constants = sentences()
    quotes = re.findall("“(.+?)”", re.sub(r"\s+", " ", OPERATIONS.read_text()))
    assert len(quotes) > 40
    for quote in quotes:
        in_full = any(pattern.fullmatch(quote) for pattern in patterns)
        assert in_full or any(quote in constant for constant in constants), quote


def sentences() -> tuple[list[re.Pattern[str]], set[str]]:
    """What the service can say: patterns of texts with something filled in, and the fixed parts of all."""
    patterns, constants = [], set()
    folders = [ROOT / name for name in ("activities", "artifact_deletion", "commands", "workflows", "migrations")]
    for file in [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                constants.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else None for part in node.values]
                if len("".join(part or "" for part in parts)) > len("{} is {}, {}"):  # less says nothing
                    whole = "".join(".*" if part is None else re.escape(part) for part in parts)
                    patterns.append(re.compile(whole.removeprefix(re.escape(", "))))
    return patterns, constants


# Receipts -----------------------------------------------------------------------------------------------------------------


def test_every_field_of_a_receipt_is_explained_and_nothing_else() -> None:
    """An auditor must not have to guess, nor look for what is not there."""
    explained = [cell for cell in first_cells(RECEIPT) if not cell.startswith("RECEIPT")]
    assert sorted(explained) == sorted(fields_of(DeletionReceipt))
    assert all(f"`{name}`" in RECEIPT.read_text() for model in (Ids, Closed) for name in model.model_fields)


def test_every_field_of_a_bulk_deletions_result_is_explained() -> None:
    assert {*first_cells(BULK, "## What it did")} == BulkReceipt.model_fields.keys() - {"version"}


def fields_of(model: type[BaseModel], within: str = "") -> Iterator[str]:
    """Fields by their path in JSON. Lists of ids are explained once for all."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not Ids:
            yield from fields_of(kind, f"{within}{name}.")
        else:
            yield f"{within}{name}"


@pytest.mark.thorough
@on_postgresql
def test_the_digest_can_be_computed_again_as_the_auditor_is_told(stack: Stack) -> None:
    """From pages while there are pages, and from the chunks for good, by the very SQL that stands there."""
    head, base, other = stack.snapshots("head", "base", "other")
    stack.world.comparison(head, base, masks=3)
    request = stack.request([head.id, base.id, other.id])
    digests = []
    with steps_of(stack, chunk_artifacts=2) as steps:
        for chunk in steps.open(request):
            sealed = steps.collect(chunk)
            deleted = steps.delete_rows(sealed)
            with stack.database.read() as session:
                of_chunk = list(pages.read_pages(session, chunk))
            digest = ""
            for page in of_chunk:
                content = "\n".join(sorted(page.keys))
                digest = sha256(f"{digest}\n{page.scope}\n{sha256(content)}")
            digests.append(digest)
            steps.delete_what_was_released(sealed, deleted)
        receipt = steps.close(request)
    assert receipt.complete
    assert receipt.objects.digest == sha256("".join(digests))
    (statement,) = blocks(RECEIPT, "sql")
    with stack.database.read() as session:
        answer = session.execute(text(statement.replace("the deletion_id", request.deletion_id))).scalar_one()
    assert answer == receipt.objects.digest


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def blocks(document: Path, language: str) -> list[str]:
    """The blocks of code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
