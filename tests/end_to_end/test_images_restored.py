"""After a restore of the database, at the command line: hidden images that it has forgotten are settled after all."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus

from activities.receipts import Closed
from artifact_deletion.receipt import DeletionReceipt, Ids
from artifact_deletion.request import DeletionRequest
from commands.exit_codes import BAD_USAGE, DONE, FAILED, UNREACHABLE
from demo.world import Project, Snapshot, screen
from tests.backups import RestorePoint
from tests.stack import Stack
from tests.typed import NOWHERE, Run, assert_one_sentence, runner
from tests.workflow.test_images import AT_ONCE, all_of, is_readable, place

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
pytestmark = pytest.mark.parametrize("versioning", ["enabled", "never"], indirect=True)


@pytest.fixture
def run(stack: Stack, versioning: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """In a bucket of each kind."""
    assert versioning
    return runner(stack, monkeypatch, capsys)


def watch_of(stack: Stack, one: Snapshot) -> str:
    return f"project-images/{stack.organization_id}/{one.artifact.project_id}"


async def deleted_and_forgotten(stack: Stack, run: Run, one: Snapshot, restore_point: RestorePoint) -> DeletionReceipt:
    """The dump is of before the deletion, and what its images were named by had been read. No run is at work any more."""
    assert (await run("images", "index", "--project", one.artifact.project_id)).code == DONE
    restore: Callable[[], None] = restore_point()
    async with stack.worker():
        receipt = await stack.delete([one.id], images="delete")
    await stack.client.get_workflow_handle(watch_of(stack, one)).terminate()
    restore()
    return receipt


def kept(stack: Stack, one: Snapshot, receipt: DeletionReceipt, file: Path) -> DeletionRequest:
    """Write the receipt where a collector would. Returns the request."""
    request = stack.request([one.id], images="delete")
    file.write_text(Closed(request=request, receipt=receipt).line)
    return request


@pytest.mark.thorough
async def test_adopting_a_project_makes_readable_what_its_snapshots_show(
    stack: Stack, run: Run, restore_point: RestorePoint
) -> None:
    one, _ = stack.snapshots("one", "other")
    await deleted_and_forgotten(stack, run, one, restore_point)
    project = one.artifact.project_id
    assert not is_readable(stack, place(stack, one, "one"))
    done = await run("images", "adopt", "--project", project, "--json")
    assert (done.code, json.loads(done.out)) == (
        DONE,
        {
            "organization_id": stack.organization_id,
            "project_id": project,
            "workflow_id": watch_of(stack, one),
            "restored": 1,
            "hidden": 0,
            "known": 0,
        },
    )
    async with stack.worker(**AT_ONCE):
        await asyncio.wait_for(stack.client.get_workflow_handle(watch_of(stack, one)).result(), 40)
    assert is_readable(stack, place(stack, one, "one"))
    again = await run("images", "adopt", "--project", project)
    said = f"project {project}: 0 hidden images are to be restored, 0 to be purged after the grace, 0 were known\n"
    assert (again.code, again.out, again.err) == (DONE, said, "")


@pytest.mark.thorough
async def test_what_is_deleted_again_stays_hidden_and_is_purged(
    stack: Stack, run: Run, restore_point: RestorePoint, tmp_path: Path
) -> None:
    """Its receipt names the project. No one reads the image in between, though its snapshot is back."""
    one, other = stack.snapshots("one", "other")
    receipt = await deleted_and_forgotten(stack, run, one, restore_point)
    assert receipt.images.projects == Ids.of([one.artifact.project_id])
    file = tmp_path / "receipts.jsonl"
    request = kept(stack, one, receipt, file)
    reapply = ("reapply", "--since", "2000-01-01", "--receipts", file)
    dry = await run(*reapply, "--dry-run")
    assert (dry.code, dry.out.splitlines()[-1]) == (DONE, "hidden images of 1 projects may be forgotten")
    assert json.loads((await run("images", "status", "--project", one.artifact.project_id, "--json")).out)["images"] == {}
    async with stack.worker():
        done = await run(*reapply, "--yes")
        assert (done.code, done.err) == (DONE, "")
        assert "0 hidden images are to be restored, 1 to be purged after the grace, 0 were known" in done.out
        assert done.out.splitlines()[-2:] == [request.workflow_id, watch_of(stack, one)]
        again = stack.client.get_workflow_handle(request.workflow_id, result_type=DeletionReceipt)
        assert (await asyncio.wait_for(again.result(), 40)).complete
    assert not is_readable(stack, place(stack, one, "one"))
    status = json.loads((await run("images", "status", "--project", one.artifact.project_id, "--json")).out)
    assert status["images"]["hidden"]["count"] == 1
    repeated = await run(*reapply, "--yes")
    assert "0 to be purged after the grace, 1 were known" in repeated.out
    async with stack.worker(**AT_ONCE):
        await asyncio.wait_for(stack.client.get_workflow_handle(watch_of(stack, one)).result(), 40)
    image = place(stack, one, "one")
    assert not [left for left in all_of(stack, image) if image in left["Key"]]
    assert all(is_readable(stack, place(stack, other, name)) for name in other.images)


@pytest.mark.thorough
@on_sqlite
async def test_a_project_that_is_not_caught_up_is_looked_at_when_the_command_is_repeated(
    stack: Stack, run: Run, restore_point: RestorePoint, tmp_path: Path
) -> None:
    """The manifest of another snapshot may still come. What is back is deleted again all the same."""
    one, _ = stack.snapshots("one", "other")
    receipt = await deleted_and_forgotten(stack, run, one, restore_point)
    late = stack.world.snapshot(Project(one.artifact.project_id, stack.organization_id, "shop"), {"late": screen("late")})
    names = (late.manifest_key, f"{late.artifact.prefix}snapshot_head_images.json")
    keys = [stack.world.physical(late.usecase, stack.organization_id, one.artifact.project_id, name) for name in names]
    content = stack.s3.get_object(Bucket=stack.bucket, Key=keys[0])["Body"].read()
    for key in keys:
        stack.s3.delete_object(Bucket=stack.bucket, Key=key)
    file = tmp_path / "receipts.jsonl"
    request = kept(stack, one, receipt, file)
    done = await run("reapply", "--since", "2000-01-01", "--receipts", file, "--yes")
    assert (done.code, done.out.splitlines()[-1]) == (FAILED, request.workflow_id)
    assert done.err.endswith("no manifest that could be read yet: repeat this command later\n")
    stack.s3.put_object(Bucket=stack.bucket, Key=keys[0], Body=content)
    repeated = await run("reapply", "--since", "2000-01-01", "--receipts", file, "--yes")
    assert (repeated.code, "1 to be purged after the grace" in repeated.out) == (DONE, True)


@pytest.mark.thorough
@on_sqlite
async def test_receipts_of_before_images_and_without_them_ask_for_nothing(stack: Stack, run: Run, tmp_path: Path) -> None:
    """Neither a worker's settings nor Temporal are needed for those."""
    one, _ = stack.snapshots("one", "other")
    async with stack.worker():
        receipt = await stack.delete([one.id], images="delete")
    closed = json.loads(Closed(request=stack.request([one.id], images="delete"), receipt=receipt).line)
    del closed["receipt"]["images"]["projects"]
    without = json.loads(json.dumps(closed))
    del without["receipt"]["images"]
    for number, old in enumerate((closed, without)):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(f"{json.dumps(old)}\n")
        done = await run(
            *("reapply", "--since", "2000-01-01", "--receipts", file, "--yes"),
            ARTIFACT_DELETION_BUCKET="",
            TEMPORAL_ADDRESS=NOWHERE,
        )
        assert (done.code, done.err, "images" in done.out) == (DONE, "", False)


@on_sqlite
async def test_what_cannot_be_adopted_is_said_in_one_sentence(stack: Stack, run: Run, restore_point: RestorePoint) -> None:
    """Without Temporal the rows are written all the same, and the relay starts the watch."""
    assert_one_sentence(await run("images", "adopt", "--project", 10**9), BAD_USAGE)
    one, _ = stack.snapshots("one", "other")
    await deleted_and_forgotten(stack, run, one, restore_point)
    done = await run("images", "adopt", "--project", one.artifact.project_id, TEMPORAL_ADDRESS=NOWHERE)
    assert (done.code, "1 hidden images are to be restored" in done.out) == (UNREACHABLE, True)
    assert (await run("resume")).out == f"{watch_of(stack, one)}\n"
    run_ = await stack.client.get_workflow_handle(watch_of(stack, one)).describe()
    assert run_.status == WorkflowExecutionStatus.RUNNING
