"""What a person types: every command does what it says, and every failure is one sentence and an exit code."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import update

import starter
from activities.storage.database import Database
from activities.storage.ledger import Deletion, DeletionState
from activities.storage.objects import S3Objects
from demo.servers import TemporalServer
from demo.world import create_schema
from migrations import check_version
from tests.stack import Held, Seen, Stack, lines
from tests.test_reopened import restore
from workflows.messages import DeletionReceipt

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

DONE, FAILED, BAD_USAGE, UNREACHABLE = range(4)
NOBODY = "127.0.0.1:1"


@dataclass(frozen=True)
class Done:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


Run = Callable[..., Any]


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: one of its own takes seconds, most of them for imports."""

    async def command(*arguments: object, **environment: str) -> Done:
        with monkeypatch.context() as changed:
            for name, value in (stack.environment() | environment).items():
                changed.setenv(name, value)
            capsys.readouterr()
            try:
                code = await asyncio.to_thread(starter.main, [str(argument) for argument in arguments])
            except SystemExit as error:  # what argparse refuses, and settings
                code = int(str(error.code))
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return command


def assert_one_sentence(done: Done, code: int) -> None:
    assert done.code == code, done
    assert "Traceback" not in done.err
    assert len(list(lines(done.err))) == 1, done.err


async def test_a_deletion_can_be_asked_for_followed_and_looked_up(stack: Stack, run: Run) -> None:
    """From the first command to the last, as in the README; asked twice, it answers with the receipt."""
    one, two = stack.snapshots("one", "two")
    before = Seen.of(stack.world)
    asked = ("delete", one.id, "--organization", stack.organization_id, "--requested-by", "user:7", "--reason", "a wish")
    workflow = stack.request([one.id]).workflow_id
    async with stack.worker():
        first = await run(*asked, "--wait")
        assert (first.code, first.err) == (DONE, "")
        assert workflow in first.out
        assert "complete: nothing is left over" in first.out
        assert "user:7" in first.out
        stack.assert_only_these_are_gone([one.id], before)

        again = await run(*asked, "--wait", "--json")
        receipt = DeletionReceipt.model_validate_json(again.out)
        assert (again.code, receipt) == (DONE, stack.receipt(workflow))

        as_json = await run("delete", two.id, "--organization", stack.organization_id, "--wait", "--json")
        assert (as_json.code, DeletionReceipt.model_validate_json(as_json.out).complete) == (DONE, True)

    shown = await run("receipt", workflow)
    assert (shown.code, shown.err) == (DONE, "")
    assert "complete: nothing is left over" in shown.out
    digest = await run("receipt", workflow.rpartition("/")[2], "--json")
    assert DeletionReceipt.model_validate_json(digest.out) == receipt
    status = await run("status", workflow)
    assert (status.code, status.out) == (DONE, f"{workflow}: closed, not running\n")
    listed = await run("list", "--json", "--organization", stack.organization_id)
    found = [json.loads(line) for line in lines(listed.out)]
    assert {(row["workflow_id"], row["state"], row["artifacts"]) for row in found} == {
        (workflow, "closed", 1),
        (stack.request([two.id]).workflow_id, "closed", 1),
    }
    assert (await run("list", "--state", "failed")).out == ""
    assert (await run("list", "--organization", 0)).out == "", "nobody's, and not everybody's"
    assert len(list(lines((await run("list", "--limit", 1)).out))) == 1


async def test_without_wait_a_command_leaves_once_the_deletion_is_started(
    stack: Stack, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person who does not wait asks later where it is."""
    (one,) = stack.snapshots("one")
    held = Held(monkeypatch, S3Objects, "delete")
    started = await run("delete", one.id, "--organization", stack.organization_id)
    workflow = stack.request([one.id]).workflow_id
    assert started == Done(DONE, f"{workflow}\n", "")
    assert await run("receipt", workflow) == Done(FAILED, "", "there is no receipt yet: the deletion has not come to its end\n")
    async with stack.worker():
        await held.reached()
        status = await run("status", workflow, "--json")
        held.let_go()
        answer = json.loads(status.out)
        assert (status.code, answer["state"], answer["running"]) == (DONE, "running", True)
        assert (answer["progress"]["artifacts"], answer["progress"]["chunks_rows_deleted"]) == (1, 1)
        followed = await run("status", workflow, "--follow")
    assert (followed.code, followed.err) == (DONE, "")


async def test_leftovers_are_a_failure_until_a_rerun_has_dealt_with_them(stack: Stack, run: Run, locking_bucket: str) -> None:
    """Scripts go by exit codes: what is left over is no success, neither now nor when it is looked up."""
    stack.use_bucket(locking_bucket)
    (one,) = stack.snapshots("one")
    key = min(stack.world.objects_of([one.id]))
    stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": "ON"})
    workflow = stack.request([one.id]).workflow_id
    async with stack.worker():
        failed = await run("delete", one.id, "--organization", stack.organization_id, "--wait")
        assert_one_sentence(failed, FAILED)
        assert f"python starter.py rerun {workflow}" in failed.err
        assert "LEFT OVER: AccessDenied 1" in failed.out
        for command in ("receipt", "status"):
            assert (await run(command, workflow)).code == FAILED
        stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": "OFF"})
        assert_one_sentence(await run("rerun", workflow, TEMPORAL_ADDRESS=NOBODY), UNREACHABLE)
        assert starter.recorded(stack.database, workflow).state == DeletionState.ACCEPTED
        again = await run("rerun", workflow, "--wait")
    assert (again.code, again.err) == (DONE, "")
    assert "complete: nothing is left over" in again.out


async def test_a_deletion_that_is_refused_says_why(stack: Stack, run: Run) -> None:
    (one,) = stack.snapshots("one")
    stranger = stack.world.organization("globex")
    async with stack.worker():
        refused = await run("delete", one.id, "--organization", stranger, "--wait")
    assert_one_sentence(refused, FAILED)
    assert "do not belong to organization" in refused.err
    assert (await run("status", stack.request([one.id], organization_id=stranger).workflow_id)).code == FAILED


async def test_with_temporal_down_a_deletion_is_accepted_and_resume_starts_it(stack: Stack, run: Run) -> None:
    """A user's wish is not lost because a server is: the ledger has it."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    request = stack.request([one.id])
    accepted = await run("delete", one.id, "--organization", stack.organization_id, "--wait", TEMPORAL_ADDRESS=NOBODY)
    assert_one_sentence(accepted, UNREACHABLE)
    assert accepted.err.startswith(
        f"{request.workflow_id} is accepted, and `starter.py resume` starts it later: Temporal cannot"
    )
    assert starter.recorded(stack.database, request.workflow_id).state == DeletionState.ACCEPTED
    for command in ("resume", f"status {request.workflow_id}"):
        assert_one_sentence(await run(*command.split(), TEMPORAL_ADDRESS=NOBODY), UNREACHABLE)
    assert Seen.of(stack.world) == before

    assert await run("resume") == Done(DONE, f"{request.workflow_id}\n", "1 started\n")
    assert await run("resume") == Done(DONE, "", "0 started\n")
    async with stack.worker():
        await stack.client.get_workflow_handle(request.workflow_id).result()
    stack.assert_only_these_are_gone([one.id], before)


@pytest.mark.parametrize("unusable", [{"ARTIFACT_DELETION_ADAPTERS": "nowhere:adapters"}, {"TEMPORAL_PROFILE": "nowhere"}])
async def test_a_deletion_that_was_accepted_is_no_bad_usage(stack: Stack, run: Run, unusable: dict[str, str]) -> None:
    """Whoever reads 2 takes it for refused, and the relay starts it."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    accepted = await run("delete", one.id, "--organization", stack.organization_id, **unusable)
    assert_one_sentence(accepted, UNREACHABLE)
    assert accepted.err.startswith(f"{request.workflow_id} is accepted, and `starter.py resume` starts it later: ")
    assert starter.recorded(stack.database, request.workflow_id).state == DeletionState.ACCEPTED


async def test_a_receipt_of_a_deletion_that_was_opened_again_is_called_an_earlier_one(stack: Stack, run: Run) -> None:
    """A restore brought rows back: what was complete is so no more."""
    (one,) = stack.snapshots("one")
    async with stack.worker():
        first = await stack.delete([one.id])
    restore(stack, one)
    stack.accept(stack.request([one.id]))
    shown = await run("receipt", first.workflow_id, "--json")
    assert_one_sentence(shown, FAILED)
    assert shown.err == f"{first.workflow_id} is accepted: its receipt is of an earlier run\n"
    assert DeletionReceipt.model_validate_json(shown.out) == first


async def test_a_row_that_cannot_be_read_is_named_and_the_others_go_on(stack: Stack, run: Run) -> None:
    """Another language wrote it, or another version: whoever looks into an outage sees the rest all the same."""
    good, *spoilt = (stack.request([one.id]) for one in stack.snapshots("good", "request", "receipt"))
    for request in (good, *spoilt):
        stack.accept(request)
    changes: list[dict[str, Any]] = [{"request": {"organization_id": 1}}, {"receipt": {}}]
    with stack.database.write() as session:
        session.execute(update(Deletion).values(state=DeletionState.FAILED))
        for request, values in zip(spoilt, changes, strict=True):
            session.execute(update(Deletion).where(Deletion.id == request.deletion_id).values(values))
    for command in ("list --json", "rerun --all-failed --yes --json"):
        done = await run(*command.split())
        assert done.code == DONE
        assert [json.loads(line)["workflow_id"] for line in lines(done.out)] == [good.workflow_id]
        assert set(lines(done.err)) == {
            f"{request.workflow_id}: its request or receipt is none that this version knows" for request in spoilt
        }


async def test_a_database_that_cannot_be_used_is_one_sentence(stack: Stack, run: Run) -> None:
    """Neither its address nor its password is in it."""
    url = "postgresql+psycopg://backend:private@127.0.0.1:1/backend"
    for command in ("list", "resume", "setup", "receipt x", "status x", "rerun x", "delete 1 --organization 1"):
        done = await run(*command.split(), ARTIFACT_DELETION_DATABASE_URL=url)
        assert_one_sentence(done, UNREACHABLE)
        assert "private" not in done.err


async def test_a_database_without_a_ledger_is_one_sentence(stack: Stack, run: Run) -> None:
    """Whoever forgets `setup` must not get a page of SQL."""
    url = f"sqlite:///{stack.folder / 'new.db'}"
    for command in ("list", "resume", "receipt x", "status x", "rerun x", "delete 1 --organization 1"):
        assert_one_sentence(await run(*command.split(), ARTIFACT_DELETION_DATABASE_URL=url), UNREACHABLE)


async def test_a_status_needs_no_worker(stack: Stack, run: Run) -> None:
    """What is known without one is said at once: that there is none is what its reader wants to find out."""
    (one,) = stack.snapshots("one")
    handle = await stack.start([one.id])
    status = await asyncio.wait_for(run("status", handle.id), 15)
    assert status.code == DONE
    assert f"{handle.id}: accepted" in status.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("delete 0 --organization 1", "artifact_ids"),
        ("delete -1 --organization 1", "artifact_ids"),
        ("delete 1 --organization 0", "organization_id"),
        ("delete 1 --organization 1 --project 0", "project_id"),
        ("delete 1 --organization 1 --requested-by someone@example.com", "requested_by"),
        ("receipt delete-artifacts/1/0", "the ledger knows no deletion"),
        ("status nothing", "the ledger knows no deletion"),
        ("rerun nothing", "the ledger knows no deletion"),
    ],
)
async def test_what_cannot_be_meant_is_refused_in_one_sentence(run: Run, arguments: str, named: str) -> None:
    """Before anything is written down."""
    done = await run(*arguments.split())
    assert_one_sentence(done, BAD_USAGE)
    assert named in done.err
    assert (await run("list")).out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "undo",
        "delete",
        "delete 1",
        "delete x --organization 1",
        "delete 1.5 --organization 1",
        "delete ٣ --organization 1",
        "delete 9223372036854775808 --organization 1",
        "list --organization 9223372036854775808",
        "list --limit 9223372036854775808",
        "freeze --reason gel\udcf6scht",
        "delete 1 --organization 1 --reason gel\udcf6scht",
        "status gel\udcf6scht",
        "rerun gel\udcf6scht",
        "list --limit 0",
        "list --limit -1",
    ],
)
async def test_a_command_that_was_mistyped_is_bad_usage(run: Run, arguments: str) -> None:
    done = await run(*arguments.split())
    assert done.code == BAD_USAGE
    assert "Traceback" not in done.err
    assert done.err.startswith("usage: ")


async def test_a_setting_that_is_missing_is_named(run: Run) -> None:
    done = await run("list", ARTIFACT_DELETION_DATABASE_URL="mysql://private/private")
    assert_one_sentence(done, BAD_USAGE)
    assert done.err.startswith("ARTIFACT_DELETION_DATABASE_URL: ")
    assert "private" not in done.err


async def test_setup_makes_what_is_missing_and_may_be_repeated(stack: Stack, run: Run) -> None:
    """On a backend's database without a ledger, and a namespace without our search attributes."""
    url = f"sqlite:///{stack.folder / 'new.db'}"
    database = Database(url)
    create_schema(database.engine)
    with TemporalServer(stack.folder / "temporal", in_memory=True, ui=False) as server:
        new = {"ARTIFACT_DELETION_DATABASE_URL": url, "TEMPORAL_ADDRESS": server.address}
        first = await run("setup", **new)
        assert (first.code, first.err) == (DONE, "")
        assert "DeletionStage, Leftovers, OrganizationId" in first.out
        check_version(database)
        again = await run("setup", **new)
        assert (again.code, again.err) == (DONE, "")
        assert "all there already" in again.out
    database.dispose()
    for dialect in ("postgresql", "sqlite"):
        assert "CREATE TABLE" in (await run("setup", "--sql", dialect)).out


async def test_commands_are_programs_with_exit_codes(stack: Stack) -> None:
    """The other tests call them as functions; a shell gets the same."""
    done = stack.command("receipt", "nothing")
    assert (done.returncode, done.stdout) == (BAD_USAGE, "")
    assert done.stderr == "the ledger knows no deletion 'nothing'\n"
