"""Shared images of a deletion: hidden at once unless another snapshot names them, restored for an upload, purged after all."""

import asyncio
from typing import Any

import pytest

from artifact_deletion.receipt import Progress, Stage
from demo.world import Snapshot
from tests.stack import Stack, eventually, pending_failures
from workflows import text

AT_ONCE = {"images_grace_s": 0.5, "images_late_s": 0.5, "images_catch_up_s": 0.2}


@pytest.fixture(params=["never versioned", "Enabled", "Suspended"])
def kind(request: pytest.FixtureRequest, stack: Stack) -> str:
    """The bucket's versioning."""
    if request.param != "never versioned":
        bucket = f"images-{request.param.lower()}-{stack.organization_id}"
        stack.s3.create_bucket(Bucket=bucket)
        stack.use_bucket(bucket)
        for status in dict.fromkeys(["Enabled", request.param]):
            stack.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
    return str(request.param)


def place(stack: Stack, snapshot: Snapshot, name: str) -> str:
    """The physical key of an image."""
    return stack.image_keys(snapshot)[name]


def is_readable(stack: Stack, key: str) -> bool:
    try:
        stack.s3.get_object(Bucket=stack.bucket, Key=key)
    except stack.s3.exceptions.NoSuchKey:
        return False
    return True


def all_of(stack: Stack, key: str) -> list[Any]:
    """Versions, markers and copies of an image, wherever they are."""
    listed = stack.s3.list_object_versions(Bucket=stack.bucket)
    found = [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]
    return [one for one in found if key.rpartition("/")[2] in one["Key"]]


@pytest.mark.thorough
@pytest.mark.ceph
async def test_an_image_that_no_other_snapshot_names_is_hidden_and_then_purged(stack: Stack, kind: str) -> None:
    one, other = stack.snapshots("one", "other")
    async with stack.worker(**AT_ONCE):
        receipt = await stack.delete([one.id], images="delete")
        assert receipt.complete
        images = receipt.images
        assert (images.named, images.kept, images.hidden + images.purged) == (3, 2, 1)
        assert images.how == ("markers" if kind == "Enabled" else "copies")
        assert not is_readable(stack, place(stack, one, "one"))
        assert all(is_readable(stack, place(stack, other, name)) for name in other.images)
        project = f"project-images/{stack.organization_id}/{one.artifact.project_id}"
        await asyncio.wait_for(stack.client.get_workflow_handle(project).result(), 40)
    assert not all_of(stack, place(stack, one, "one"))
    assert all(is_readable(stack, place(stack, other, name)) for name in other.images)


def test_the_page_of_a_deletion_says_how_many_images_are_hidden_if_it_asks_for_them() -> None:
    asked = Progress(stage=Stage.DELETING_OBJECTS, images=True)
    assert ("Images", "now", "none hidden yet, 0 kept, which other snapshots show") in text.part_lines(asked)
    hidden = asked.model_copy(update={"images_hidden": 1200, "images_kept": 3})
    assert "- **Images** (now): 1,200 hidden, 3 kept, which other snapshots show" in text.details(hidden)
    assert "Images" not in [part for part, _, _ in text.part_lines(Progress(stage=Stage.DELETING_OBJECTS))]


@pytest.mark.thorough
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_page_of_a_project_leads_to_where_its_images_are_told_of(stack: Stack) -> None:
    """The workflow cannot see what its step says while it is tried again; Temporal shows that, and so does the command."""
    one, _ = stack.snapshots("one", "other")
    async with stack.worker(images_catch_up_s=0.2):
        handle = await stack.start([one.id], images="delete")
        asked = await handle.query("progress", result_type=Progress)
        await handle.result()
        project = stack.client.get_workflow_handle(f"project-images/{stack.organization_id}/{one.artifact.project_id}")

        async def is_said() -> bool:
            said = (await pending_failures(project)).get("settle_images", "")
            return said.startswith("images of the project: 1 hidden, purged from ")

        await eventually(is_said)
    described = await project.describe()
    details = await described.static_details()
    assert details is not None
    assert "*Pending Activities*" in details
    assert f"`python starter.py images status --project {one.artifact.project_id}`" in details
    assert asked.images
