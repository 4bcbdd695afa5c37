"""What a person sees and does of shared images at the command line."""

import asyncio
import json
import re

import pytest
from temporalio.client import WorkflowExecutionStatus

from activities.images import rows
from activities.images.transitions import Image, ImageState
from artifact_deletion.receipt import DeletionReceipt
from commands.exit_codes import BAD_USAGE, DONE, FAILED
from demo.world import Project, Snapshot
from tests.stack import Stack, eventually
from tests.typed import Done, Run, runner
from tests.workflow.test_images import AT_ONCE, is_readable, place

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(stack, monkeypatch, capsys)


def spoil(stack: Stack, snapshot: Snapshot) -> None:
    """Make the snapshot's manifest say nothing."""
    at = snapshot.artifact
    key = stack.world.physical(snapshot.usecase, at.organization_id, at.project_id, snapshot.manifest_key)
    stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"{")


async def status_of(run: Run, project: int) -> dict[str, object]:
    done = await run("images", "status", "--project", project, "--json")
    assert done.code == DONE, done.err
    answer: dict[str, object] = json.loads(done.out)
    return answer


@pytest.mark.thorough
async def test_the_command_line_deletes_images_and_says_what_is_hidden_until_when(stack: Stack, run: Run) -> None:
    """A person who deletes means all of it, and can see that it is on its way."""
    one, other = stack.snapshots("one", "other")
    project = one.artifact.project_id
    async with stack.worker():
        done = await run("delete", one.id, "--organization", stack.organization_id, "--wait", "--utc")
    assert (done.code, done.err) == (DONE, "")
    assert not is_readable(stack, place(stack, one, "one"))
    assert all(is_readable(stack, place(stack, other, name)) for name in other.images)
    answer = await status_of(run, project)
    hidden = answer["images"]["hidden"]  # type: ignore[index]
    watch = f"project-images/{stack.organization_id}/{project}"
    assert (answer["workflow_id"], answer["snapshots"], answer["read"], answer["unreadable"]) == (watch, 1, 1, [])
    assert (hidden["count"], hidden["first"]) == (1, hidden["last"])
    assert hidden["first"] < answer["purge_from"] == answer["purge_until"]
    shown = await run("images", "status", "--project", project, "--utc")
    assert "1 of 1 are in the index" in shown.out
    assert "Hidden         1 since " in shown.out
    assert "UTC, unless a snapshot names them by then" in shown.out
    assert shown.out.endswith(f"Workflow       {watch}\n")


async def test_images_that_were_purged_are_said_to_be_remembered(stack: Stack, run: Run) -> None:
    """As where commits ask first: no client that skipped one before may commit it."""
    (one,) = stack.snapshots("one")
    project = one.artifact.project_id
    with stack.database.write() as session:
        rows.begin(session, stack.organization_id, project, ["a" * 64], Image(ImageState.PURGED, 7))
    shown = await run("images", "status", "--project", project, "--utc")
    assert re.search(r"^Purged, and remembered +1 since 20", shown.out, re.MULTILINE)
    assert (await status_of(run, project))["purge_from"] is None


@pytest.mark.thorough
async def test_below_a_receipt_stands_what_has_become_of_its_images_since(stack: Stack, run: Run) -> None:
    """The receipt is of the hour of its closing; what was hidden then is gone a day later, and an auditor asks then."""
    one, _ = stack.snapshots("one", "other")
    async with stack.worker():
        closed = await stack.delete([one.id], images="delete")
    workflow = closed.workflow_id
    shown = await run("receipt", workflow, "--utc")
    assert re.search(r"^Images +3 named, hidden by copies\n  hidden +1, all of them unreadable from ", shown.out, re.MULTILINE)
    assert re.search(r"^  to be purged by +20.* UTC, unless a snapshot", shown.out, re.MULTILINE)
    assert re.search(r"^  kept, other snapshots show them +2$", shown.out, re.MULTILINE)
    assert re.search(r"^Images by now +1 hidden, 0 purged, 0 restored$", shown.out, re.MULTILINE)
    async with stack.worker(**AT_ONCE):
        watch = f"project-images/{stack.organization_id}/{one.artifact.project_id}"
        await asyncio.wait_for(stack.client.get_workflow_handle(watch).result(), 40)
    shown = await run("receipt", workflow, "--utc")
    assert re.search(r"^Images by now +0 hidden, 1 purged, 0 restored, the last at .* UTC$", shown.out, re.MULTILINE)
    as_json = await run("receipt", workflow, "--json")
    assert DeletionReceipt.model_validate_json(as_json.out) == closed
    now = json.loads(as_json.out)["images_now"]
    assert {**now, "settled_at": None} == {
        "hidden": 0,
        "purged": 1,
        "restored": 0,
        "overdue": 0,
        "undecided": 0,
        "settled_at": None,
    }
    status = await status_of(run, one.artifact.project_id)
    assert (status["images"], status["purged"], status["purge_from"]) == ({}, 1, None)


async def test_the_index_is_made_ahead_and_goes_on_where_it_was(stack: Stack, run: Run) -> None:
    """A manifest is read once; one that says nothing keeps the project closed, and a person is told which."""
    one, two, _ = stack.snapshots("one", "two", "three")
    project = one.artifact.project_id
    assert (await status_of(run, project))["read"] == 0
    assert await run("images", "index", "--project", project) == Done(
        DONE, "3 of 3 snapshots are in the index, 0 are unreadable\n", "3 of 3 manifests looked at\n"
    )
    again = await run("images", "index", "--project", project)
    assert again == Done(DONE, "3 of 3 snapshots are in the index, 0 are unreadable\n", "")
    late = stack.world.snapshot(Project(project, stack.organization_id, "shop"), dict(two.images))
    spoil(stack, late)
    closed = await run("images", "index", "--project", project)
    assert (closed.code, closed.out) == (FAILED, "3 of 4 snapshots are in the index, 1 are unreadable\n")
    assert (await status_of(run, project))["unreadable"] == [late.id]
    shown = await run("images", "status", "--project", project)
    assert "no image goes: the manifests of 1 artifacts say nothing" in shown.out
    assert f"  artifacts  {late.id}\n" in shown.out


async def test_a_project_that_is_not_there_is_bad_usage(run: Run) -> None:
    for command in ("status", "index"):
        done = await run("images", command, "--project", 10**9)
        assert done == Done(BAD_USAGE, "", f"there is no project {10**9}, and no image of it is hidden\n")


@pytest.mark.thorough
async def test_resume_starts_the_watch_over_hidden_images_that_no_run_watches(stack: Stack, run: Run) -> None:
    """Terminated, or lost with Temporal: what is hidden must be restored for an upload, and purged in the end."""
    one, _ = stack.snapshots("one", "other")
    watch = f"project-images/{stack.organization_id}/{one.artifact.project_id}"
    async with stack.worker():
        receipt = await stack.delete([one.id], images="delete")
    assert receipt.images.hidden == 1
    handle = stack.client.get_workflow_handle(watch)

    async def is_listed() -> bool:
        found = [one.id async for one in stack.client.list_workflows("ExecutionStatus = 'Running'")]
        return watch in found

    await eventually(is_listed)
    assert await run("resume") == Done(DONE, "", "0 started\n")
    await handle.terminate()

    async def is_gone() -> bool:
        return not await is_listed()

    await eventually(is_gone)
    assert await run("resume") == Done(DONE, f"{watch}\n", "1 started\n")
    assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
