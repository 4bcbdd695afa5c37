"""What a person types who is not sure yet, or was not careful: `delete --after`, and `cancel`."""

import asyncio
import json
import re
from datetime import datetime, timedelta

import pytest

from activities.stores.s3 import S3Objects
from artifact_deletion.outbox import DeletionState
from commands import cancel as command
from commands.exit_codes import BAD_USAGE, DONE, FAILED, UNREACHABLE
from tests.stack import Held, Seen, Stack, eventually, lines
from tests.steps.test_reopened import restore
from tests.typed import NOWHERE, Done, Run, assert_one_sentence, runner
from tests.workflow.test_undo_window import from_now, waits

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
DAY = timedelta(days=1)
CANCELLED = "cancelled: nothing was deleted"
TOO_LATE = "rows are deleted already: the rest is finished all the same"
HOLD = "python starter.py hold --deletion {} --reason WHY --by WHO"


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(stack, monkeypatch, capsys)


async def test_a_deletion_that_is_asked_for_with_a_delay_is_seen_to_wait_and_can_be_called_off(stack: Stack, run: Run) -> None:
    """From the command that asks for it to the one that calls it off, as in docs/operations.md."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    workflow = stack.request([one.id]).workflow_id
    handle = stack.client.get_workflow_handle(workflow)
    earliest = from_now(stack.database, DAY)
    asked = await run("delete", one.id, "--organization", stack.organization_id, "--images", "keep", "--after", "24h", "--utc")
    latest = from_now(stack.database, DAY)
    assert (asked.code, asked.out) == (DONE, f"{workflow}\n")
    said = re.fullmatch(
        rf"unless it runs already, is complete or refused, or is asked for sooner, it waits until (.+) UTC; to call it off: "
        rf"python starter.py cancel {workflow}\n",
        asked.err,
    )
    assert said, asked.err
    until = datetime.fromisoformat(f"{said[1]}+00:00")
    assert earliest.replace(microsecond=0) <= until <= latest

    async with stack.worker():
        await waits(stack, handle)
        listed = await run("list", "--utc", "--organization", stack.organization_id)
        assert f"  waits until {until:%Y-%m-%d %H:%M} UTC  " in listed.out
        as_json = json.loads((await run("list", "--json", "--organization", stack.organization_id)).out)
        assert (as_json["state"], as_json["waits_until"]) == ("running", until.isoformat())
        status = await run("status", workflow, "--utc")
        assert (status.code, status.err) == (DONE, "")
        assert f"  waits until {until:%Y-%m-%d %H:%M:%S} UTC; to call it off: python starter.py cancel {workflow}" in status.out
        assert f"waiting until {until:%Y-%m-%d %H:%M:%S} UTC: 0 rows" in status.out
        as_json = json.loads((await run("status", workflow, "--json")).out)
        assert as_json["waits_until"] == until.isoformat()
        assert datetime.fromisoformat(as_json["progress"]["waits_until"]).replace(microsecond=0) == until

        cancelled = await run("cancel", workflow[-32:-24], "--by", "user:7")
        assert cancelled == Done(DONE, f"{workflow}: {CANCELLED}\n", "")
        assert await run("cancel", workflow) == cancelled, "asking twice is asking once"
    assert stack.recorded(workflow).state is DeletionState.CANCELLED
    assert Seen.of(stack.world) == before
    assert await run("receipt", workflow) == Done(
        FAILED, "", f"{workflow} is cancelled: nothing of it was deleted, so there is no receipt\n"
    )
    assert "waits until" not in (await run("list")).out + (await run("status", workflow)).out
    requested = [
        event.workflow_execution_cancel_requested_event_attributes.cause
        async for event in handle.fetch_history_events()
        if event.HasField("workflow_execution_cancel_requested_event_attributes")
    ]
    assert requested == ["user:7"]


async def test_what_no_run_has_begun_yet_can_be_called_off_too(stack: Stack, run: Run) -> None:
    """A backend asked, and its relay has not started it: the ask must not come back to life an hour later."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    request = stack.request([one.id], not_before=from_now(stack.database, DAY))
    stack.accept(request)
    async with stack.worker():
        assert await run("cancel", request.workflow_id) == Done(DONE, f"{request.workflow_id}: {CANCELLED}\n", "")
    assert await run("resume") == Done(DONE, "", "0 started\n")
    assert Seen.of(stack.world) == before


@pytest.mark.thorough
async def test_a_cancel_that_comes_too_late_says_so(stack: Stack, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person must not believe that there is time, and must not be told that something is wrong."""
    (one,) = stack.snapshots("one")
    held = Held(monkeypatch, S3Objects, "delete")
    async with stack.worker():
        handle = await stack.start([one.id])
        await held.reached()
        late = await run("cancel", handle.id)
        held.let_go()
        assert late == Done(FAILED, "", f"{handle.id}: {TOO_LATE}\n")
        await asyncio.wait_for(handle.result(), 40)
    ended = await run("cancel", handle.id)
    assert ended == Done(FAILED, "", f"{handle.id}: closed; no run is at work on it\n")


async def test_a_cancel_begins_nothing_that_it_could_not_undo(stack: Stack, run: Run) -> None:
    """Rows went in an earlier life, came back, and were asked for again: a run would delete them, cancelled or not."""
    (one,) = stack.snapshots("one")
    async with stack.worker():
        workflow = (await stack.delete([one.id])).workflow_id
        restore(stack, one)
        stack.accept(stack.request([one.id]))
        refused = await run("cancel", workflow)
    assert_one_sentence(refused, FAILED)
    assert refused.err.startswith(f"{workflow}: accepted; no run is at work on it, and rows of it are deleted. A hold keeps")
    assert refused.err.endswith(f"A hold keeps the rest: {HOLD.format(workflow.rpartition('/')[2])}\n")
    assert one.id in stack.world.rows()["sentry_preprodartifact"]
    assert stack.recorded(workflow).state is DeletionState.ACCEPTED


@pytest.mark.thorough
async def test_a_cancel_says_when_there_is_no_one_to_do_it(stack: Stack, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporal is away: a hold does not need it. No worker answers: it is cancelled once one does."""
    (one,) = stack.snapshots("one")
    before = Seen.of(stack.world)
    request = stack.request([one.id], not_before=from_now(stack.database, DAY))
    stack.accept(request)
    away = await run("cancel", request.workflow_id, TEMPORAL_ADDRESS=NOWHERE)
    assert_one_sentence(away, UNREACHABLE)
    assert away.err.endswith(f"it is not cancelled. A hold needs no Temporal: {HOLD.format(request.deletion_id)}\n")
    typed = HOLD.format(request.deletion_id).replace("WHY", "mistake").replace("WHO", "user:7").split()[2:]
    assert (await run(*typed)).code == DONE
    assert (await run("lift", 1, "--by", "user:7")).code == DONE
    monkeypatch.setattr(command, "_ANSWERED_WITHIN_S", 0.0)
    asked = await run("cancel", request.workflow_id)
    assert_one_sentence(asked, UNREACHABLE)
    assert f"`python starter.py status {request.workflow_id}` says what became of it" in asked.err
    async with stack.worker():

        async def is_cancelled() -> bool:
            return stack.recorded(request.workflow_id).state is DeletionState.CANCELLED

        await eventually(is_cancelled)
    assert Seen.of(stack.world) == before


@pytest.mark.parametrize(
    ("after", "said"),
    [("91d", "must be 90d at most"), ("24", "must be a time such as 30s"), ("-1h", "must be a time such as 30s")],
)
async def test_a_delay_that_cannot_be_meant_is_refused(run: Run, after: str, said: str) -> None:
    """A mistyped one would be a deletion at once, or never."""
    done = await run("delete", 1, "--organization", 1, f"--after={after}")
    assert (done.code, done.out) == (BAD_USAGE, "")
    assert said in list(lines(done.err))[-1]
    assert (await run("list")).out == ""
