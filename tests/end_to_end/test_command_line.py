"""What a person types: every command does what it says, and every failure is one sentence and an exit code."""

import asyncio
import json
import re
from typing import Any

import pytest
from sqlalchemy import update

from activities.database import Database
from activities.ledger.schema import Ask, Deletion
from activities.stores.s3 import S3Objects
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from commands.exit_codes import BAD_USAGE, DONE, FAILED, UNREACHABLE
from demo.servers import TemporalServer
from demo.world import create_schema
from migrations import check_version
from tests.stack import Held, Seen, Stack, lines, steps_of
from tests.steps.test_reopened import restore
from tests.typed import NOWHERE, Done, Run, assert_one_sentence, runner

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(stack, monkeypatch, capsys)


@pytest.mark.thorough
async def test_a_deletion_can_be_asked_for_followed_and_looked_up(stack: Stack, run: Run) -> None:
    """From the first command to the last, as in the README; asked twice, it answers with the receipt."""
    one, two = stack.snapshots("one", "two")
    before = Seen.of(stack.world)
    asked = (
        "delete",
        one.id,
        "--organization",
        stack.organization_id,
        "--images",
        "keep",
        "--requested-by",
        "user:7",
        "--reason",
        "a wish",
    )
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

        as_json = await run("delete", two.id, "--organization", stack.organization_id, "--images", "keep", "--wait", "--json")
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
    assert (await run("list", "--organization", 0)).out == "", "no one's, and not everyone's"
    assert len(list(lines((await run("list", "--limit", 1)).out))) == 1
    assert "a wish" not in (await run("list")).out + shown.out


async def test_without_wait_a_command_leaves_once_the_deletion_is_started(
    stack: Stack, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person who does not wait asks later where it is."""
    (one,) = stack.snapshots("one")
    held = Held(monkeypatch, S3Objects, "delete")
    started = await run("delete", one.id, "--organization", stack.organization_id, "--images", "keep")
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
    assert followed.out.endswith(f"\n{workflow}: closed, not running\n"), "how it ended"


@pytest.mark.thorough
async def test_leftovers_are_a_failure_until_a_rerun_has_dealt_with_them(stack: Stack, run: Run, locking_bucket: str) -> None:
    """Scripts go by exit codes: a leftover is no success, neither now nor when it is looked up."""
    stack.use_bucket(locking_bucket)
    (one,) = stack.snapshots("one")
    key = min(stack.world.objects_of([one.id]))
    stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": "ON"})
    workflow = stack.request([one.id]).workflow_id
    async with stack.worker():
        failed = await run("delete", one.id, "--organization", stack.organization_id, "--images", "keep", "--wait")
        assert_one_sentence(failed, FAILED)
        assert f"python starter.py rerun {workflow}" in failed.err
        assert "LEFT OVER: AccessDenied 1" in failed.out
        for command in ("receipt", "status"):
            assert (await run(command, workflow)).code == FAILED
        stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": "OFF"})
        assert_one_sentence(await run("rerun", workflow, TEMPORAL_ADDRESS=NOWHERE), UNREACHABLE)
        assert stack.recorded(workflow).state == DeletionState.ACCEPTED
        again = await run("rerun", workflow, "--wait")
    assert (again.code, again.err) == (DONE, "")
    assert "complete: nothing is left over" in again.out


async def test_a_deletion_that_is_refused_says_why(stack: Stack, run: Run) -> None:
    (one,) = stack.snapshots("one")
    stranger = stack.world.organization("globex")
    async with stack.worker():
        refused = await run("delete", one.id, "--organization", stranger, "--images", "keep", "--wait")
    assert_one_sentence(refused, FAILED)
    assert "do not belong to organization" in refused.err
    workflow = stack.request([one.id], organization_id=stranger).workflow_id
    assert (await run("status", workflow)).code == FAILED
    assert await run("receipt", workflow) == Done(
        FAILED, "", f"{workflow} is refused: nothing of it was deleted, so there is no receipt\n"
    )


async def test_with_temporal_down_a_deletion_is_accepted_and_resume_starts_it(stack: Stack, run: Run) -> None:
    """A user's wish is not lost because a server is: the ledger has it."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    request = stack.request([one.id])
    of = ("--organization", stack.organization_id, "--images", "keep")
    accepted = await run("delete", one.id, *of, "--wait", TEMPORAL_ADDRESS=NOWHERE)
    assert_one_sentence(accepted, UNREACHABLE)
    assert accepted.err.startswith(
        f"{request.workflow_id} is accepted, and `python starter.py resume` starts it later: Temporal cannot"
    )
    assert stack.recorded(request.workflow_id).state == DeletionState.ACCEPTED
    script = await run("delete", one.id, *of, "--wait", "--json", TEMPORAL_ADDRESS=NOWHERE)
    assert (script.code, script.err, accepted.out) == (UNREACHABLE, accepted.err, "")
    assert json.loads(script.out) == {"workflow_id": request.workflow_id}
    assert_one_sentence(await run("resume", TEMPORAL_ADDRESS=NOWHERE), UNREACHABLE)
    status = await run("status", request.workflow_id, TEMPORAL_ADDRESS=NOWHERE)
    assert_one_sentence(status, UNREACHABLE)
    assert status.out == f"{request.workflow_id}: accepted, by the ledger\n"
    as_json = await run("status", request.workflow_id, "--json", TEMPORAL_ADDRESS=NOWHERE)
    answer: dict[str, Any] = {"workflow_id": request.workflow_id, "state": "accepted", "running": None, "left_over": {}}
    assert (as_json.code, json.loads(as_json.out)) == (UNREACHABLE, answer)
    assert Seen.of(stack.world) == before

    assert await run("resume") == Done(DONE, f"{request.workflow_id}\n", "1 started\n")
    assert await run("resume") == Done(DONE, "", "0 started\n")
    async with stack.worker():
        await stack.client.get_workflow_handle(request.workflow_id).result()
    stack.assert_only_these_are_gone([one.id], before)


@pytest.mark.parametrize("unusable", [{"ARTIFACT_DELETION_ADAPTERS": "nowhere:adapters"}, {"TEMPORAL_PROFILE": "nowhere"}])
async def test_a_deletion_that_was_accepted_is_no_bad_usage(stack: Stack, run: Run, unusable: dict[str, str]) -> None:
    """A script that reads 2 takes it for refused, and the relay starts it."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    accepted = await run("delete", one.id, "--organization", stack.organization_id, "--images", "keep", **unusable)
    assert_one_sentence(accepted, UNREACHABLE)
    assert accepted.err.startswith(f"{request.workflow_id} is accepted, and `python starter.py resume` starts it later: ")
    assert stack.recorded(request.workflow_id).state == DeletionState.ACCEPTED


async def test_a_receipt_of_a_deletion_that_was_opened_again_is_called_an_earlier_one(stack: Stack, run: Run) -> None:
    """A restore brought rows back: the deletion is complete no more."""
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
    """Another language wrote it, or another version: a person who looks into an outage sees the rest all the same."""
    good, *spoilt = (stack.request([one.id]) for one in stack.snapshots("good", "request", "receipt"))
    with steps_of(stack) as steps:
        for request in (good, *spoilt):
            stack.accept(request)
            steps.open(request)
    asked = stack.request([999])
    stack.accept(asked)
    changes: list[dict[str, Any]] = [{"request": {"organization_id": 1}}, {"receipt": {}}]
    with stack.database.write() as session:
        session.execute(update(Deletion).values(state=DeletionState.FAILED))
        for request, values in zip(spoilt, changes, strict=True):
            session.execute(update(Deletion).where(Deletion.id == request.deletion_id).values(values))
        session.execute(update(Ask).where(Ask.c.deletion_id == asked.deletion_id).values(request={"organization_id": "one"}))
    unreadable = "its request or receipt is none that this version knows"
    named = {f"{request.workflow_id}: {unreadable}" for request in spoilt}
    for command, more in (("list --json", {f"{asked.deletion_id}: {unreadable}"}), ("rerun --all-failed --yes --json", set())):
        done = await run(*command.split())
        assert done.code == DONE
        assert [json.loads(line)["workflow_id"] for line in lines(done.out)] == [good.workflow_id]
        assert set(lines(done.err)) == named | more
    for request in (spoilt[1], asked):
        assert_one_sentence(await run("status", request.deletion_id), BAD_USAGE)


async def test_a_database_that_cannot_be_used_is_one_sentence(stack: Stack, run: Run) -> None:
    """Neither its address nor its password is in it."""
    url = "postgresql+psycopg://backend:private@127.0.0.1:1/backend"
    for command in ("list", "resume", "setup", "receipt x", "status x", "rerun x", "delete 1 --organization 1"):
        done = await run(*command.split(), ARTIFACT_DELETION_DATABASE_URL=url)
        assert_one_sentence(done, UNREACHABLE)
        assert "private" not in done.err


async def test_a_database_without_a_ledger_is_one_sentence(stack: Stack, run: Run) -> None:
    """A person who forgets `setup` must not get a page of SQL, but be told of it."""
    url = f"sqlite:///{stack.folder / 'new.db'}"
    for command in (
        "list",
        "resume",
        "receipt x",
        "status x",
        "rerun x",
        "delete 1 --organization 1",
        "holds",
        "lift 1 --by user:7",
        "confirm x --by user:7",
    ):
        done = await run(*command.split(), ARTIFACT_DELETION_DATABASE_URL=url)
        assert_one_sentence(done, UNREACHABLE)
        assert done.err == "the ledger is absent: run `python starter.py setup`\n"


@pytest.mark.thorough
async def test_a_status_needs_no_worker(stack: Stack, run: Run) -> None:
    """All that is known without one is said at once: its reader wants to find out that there is none."""
    (one,) = stack.snapshots("one")
    handle = await stack.start([one.id])
    status = await asyncio.wait_for(run("status", handle.id), 15)
    assert status.code == DONE
    assert f"{handle.id}: accepted" in status.out


async def test_a_setting_that_is_missing_is_named(run: Run) -> None:
    done = await run("list", ARTIFACT_DELETION_DATABASE_URL="mysql://private/private")
    assert_one_sentence(done, BAD_USAGE)
    assert done.err.startswith("ARTIFACT_DELETION_DATABASE_URL: ")
    assert "private" not in done.err


@pytest.mark.thorough
async def test_setup_makes_what_is_missing_and_may_be_repeated(stack: Stack, run: Run) -> None:
    """On a backend's database without a ledger, and a namespace without our search attributes."""
    url = f"sqlite:///{stack.folder / 'new.db'}"
    database = Database(url)
    create_schema(database.engine)
    with TemporalServer(stack.folder / "temporal", in_memory=True, ui=False) as server:
        new = {"ARTIFACT_DELETION_DATABASE_URL": url, "TEMPORAL_ADDRESS": server.address, "TEMPORAL_NAMESPACE": "default"}
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


@pytest.mark.thorough
async def test_commands_are_programs_with_exit_codes(stack: Stack) -> None:
    """The other tests call them as functions; a shell gets the same."""
    done = stack.command("receipt", "nothing")
    assert (done.returncode, done.stdout) == (BAD_USAGE, "")
    assert done.stderr == "the ledger knows no deletion 'nothing'\n"


# Holds, and deletions that something else stands in the way of --------------------------------------------------------


async def test_holds_are_placed_shown_with_their_reasons_and_lifted_one_by_one(stack: Stack, run: Run) -> None:
    """A reason is for the table of holds alone, and moves no one's cursor there."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    on: tuple[list[object], ...] = (
        ["--everything"],
        ["--organization", stack.organization_id],
        ["--deletion", request.deletion_id[:8]],
    )
    for number, where in enumerate(on, 1):
        placed = await run("hold", *where, "--reason", f"PRIVATE {number}\x1b[31m", "--by", "user:7")
        assert placed.code == DONE
        assert f"hold {number} on " in placed.out
        assert f"python starter.py lift {number} --by WHO" in placed.out
    await run("hold", "--organization", stack.organization_id + 1, "--reason", "PRIVATE", "--by", "user:7")
    status = await run("status", request.deletion_id)
    assert re.findall(r"held since .* hold (\d) on", status.out) == ["1", "2", "3"]
    as_json = json.loads((await run("status", request.deletion_id, "--json")).out)
    assert [(hold["id"], hold["on"]) for hold in as_json["holds"]] == [(1, "everything"), (2, "organization"), (3, "deletion")]
    listed = await run("holds")
    assert [line.split()[0] for line in lines(listed.out)] == ["1", "2", "3", "4"]
    assert f"deletion {request.deletion_id[:8]} " in listed.out
    assert ("PRIVATE 3" in listed.out, "\x1b" in listed.out) == (True, False)
    found = [json.loads(line) for line in lines((await run("holds", "--json")).out)]
    assert (found[2]["on_id"], found[2]["reason"], found[2]["by"]) == (request.deletion_id, "PRIVATE 3\x1b[31m", "user:7")
    assert "PRIVATE" not in status.out + json.dumps(as_json) + (await run("list")).out

    lifted = await run("lift", "3,2", "--by", "user:8")
    assert (lifted.code, lifted.err) == (DONE, "")
    assert re.findall(r"lifted: hold (\d)", lifted.out) == ["2", "3"]
    again = await run("lift", 3, 1, "--by", "user:8")
    assert_one_sentence(again, FAILED)
    assert "no hold 3" in again.err
    assert await run("lift", "--everything", "--by", "user:8") == Done(
        DONE, "nothing is on everything: there was no such hold\n", ""
    )
    assert (await run("holds")).out.split()[:2] == ["4", "organization"]


async def test_a_hold_on_a_deletion_that_has_ended_is_said_to_stop_nothing_now(stack: Stack, run: Run) -> None:
    """Nothing goes on when it is lifted. It stops the deletion if that is asked for once more."""
    (one,) = stack.snapshots("one")
    async with stack.worker():
        workflow = (await stack.delete([one.id])).workflow_id
    held = await run("hold", "--deletion", workflow, "--reason", "late", "--by", "user:7")
    assert (held.code, "hold 1 on deletion" in held.out) == (DONE, True)
    assert list(lines(held.err))[-1] == f"{workflow} is closed: the hold stops it only if it is asked for again"
    status = await run("status", workflow)
    assert status.out.startswith(f"{workflow}: closed, not running\n  held since ")
    assert "goes on" not in status.out
    assert "; the hold ends with: python starter.py lift 1 --by WHO\n" in status.out


async def test_a_deletion_that_cannot_be_confirmed_any_more_is_not_called_confirmed(stack: Stack, run: Run) -> None:
    """It is closed, or was cancelled; one that is asked for can be, before any run of it, and says of how much."""
    one, two = stack.snapshots("one", "two")
    large = stack.request([one.id, two.id])
    stack.accept(large)
    confirmed = await run("confirm", large.deletion_id, "--by", "user:7")
    assert confirmed == Done(DONE, f"{large.workflow_id} is confirmed: 2 artifacts, 0 keys collected so far\n", "")
    async with stack.worker(max_artifacts_unconfirmed=1):
        assert (await stack.delete(large.artifact_ids)).complete
    for state in (DeletionState.CLOSED, DeletionState.CANCELLED, DeletionState.REFUSED):
        with stack.database.write() as session:
            session.execute(update(Deletion).values(state=state))
        refused = await run("confirm", large.deletion_id, "--by", "user:7")
        assert_one_sentence(refused, FAILED)
        assert ("is confirmed" in refused.err, state in refused.err) == (False, True)


async def test_a_strangers_workflow_in_the_deletions_place_is_named(stack: Stack, run: Run) -> None:
    """It has the right id, and will never delete anything: the deletion is accepted, and a person has to end the other."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    await stack.client.start_workflow("Other", id=request.workflow_id, task_queue="elsewhere")
    asked = await run("delete", one.id, "--organization", stack.organization_id, "--images", "keep")
    assert_one_sentence(asked, UNREACHABLE)
    assert asked.err.startswith(f"{request.workflow_id} is accepted")
    status = await run("status", request.workflow_id)
    assert_one_sentence(status, UNREACHABLE)
    assert status.out == f"{request.workflow_id}: accepted, by the ledger\n"
    for said in (asked.err, status.err):
        assert "is taken by a workflow that is not ours" in said
