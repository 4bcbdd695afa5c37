"""Runs of workflows about images that are cancelled, terminated, reset or come together: the ledger says what is left to do."""

import asyncio
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.worker import Worker

import worker
from activities.hide_images import HideImages
from activities.images import owed
from activities.images.owed import Total
from activities.watch_images import watch
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import TASK_QUEUE
from demo.world import screen
from tests.stack import Held, Stack, connect
from tests.uploader import Uploader
from tests.workflow.test_reruns import reset
from workflows.steps import OBJECTS_TASK_QUEUE, SETTLE_IMAGES, ImageProject, ImagesSettled
from workflows.watch_project_images import WatchProjectImagesWorkflow

SOON = {"images_grace_s": 0.5, "images_late_s": 0.5, "images_catch_up_s": 0.2}
HOME = {"home": screen("home")}
(IMAGE,) = HOME.values()
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
in_a_bucket = pytest.mark.parametrize("versioning", ["enabled", "never"], indirect=True)


@pytest.fixture
def uploader(stack: Stack, versioning: str) -> Uploader:
    return Uploader(stack, stack.world.project(stack.world.organization("acme"), "shop"))


def watching(uploader: Uploader) -> WorkflowHandle[Any, None]:
    project = ImageProject(organization_id=uploader.project.organization_id, project_id=uploader.project.id)
    return uploader.stack.client.get_workflow_handle(project.workflow_id)


async def end(handle: WorkflowHandle[Any, Any]) -> Any:
    return await asyncio.wait_for(handle.result(), 60)


def total(stack: Stack, *ids: int) -> Total:
    with stack.database.read() as session:
        return owed.total(session, stack.request(ids, images="delete").deletion_id)


@on_sqlite
@in_a_bucket
async def test_a_cancel_before_the_rows_go_leaves_the_images(stack: Stack, uploader: Uploader) -> None:
    one = uploader.uploads(HOME)
    handle = await stack.start([one.id], images="delete")
    await handle.cancel()
    async with stack.worker(**SOON):
        with pytest.raises(WorkflowFailureError) as failed:
            await end(handle)
    assert isinstance(failed.value.cause, CancelledError)
    assert uploader.reads(IMAGE)
    assert total(stack, one.id) == Total()


@pytest.mark.thorough
@on_sqlite
@in_a_bucket
@pytest.mark.parametrize("ended", ["cancelled", "terminated", "reset"])
async def test_a_deletion_that_is_stopped_while_it_hides_comes_to_its_end(
    stack: Stack, uploader: Uploader, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are gone, so its images go too."""
    one = uploader.uploads(HOME)
    held = Held(monkeypatch, HideImages, "hide_images")
    async with stack.worker(**SOON):
        handle = await stack.start([one.id], images="delete")
        await held.reached()
        if ended == "cancelled":
            await handle.cancel()
        elif ended == "terminated":
            await handle.terminate()
            handle = await stack.start([one.id], images="delete")
        else:
            run = await reset(stack, handle, "watch_images")
            handle = stack.client.get_workflow_handle(handle.id, run_id=run, result_type=DeletionReceipt)
        held.let_go()
        assert (await end(handle)).complete
        await end(watching(uploader))
    assert uploader.left(IMAGE) == []
    assert total(stack, one.id).undecided == 0


@pytest.mark.thorough
@on_sqlite
@in_a_bucket
async def test_a_project_that_is_watched_no_more_is_watched_again_once_a_deletion_is_run_again(
    stack: Stack, uploader: Uploader
) -> None:
    one = uploader.uploads(HOME)
    async with stack.worker(images_catch_up_s=1000):
        assert (await stack.delete([one.id], images="delete")).complete
        await watching(uploader).terminate()
    async with stack.worker(**SOON):
        assert (await stack.delete([one.id], images="delete")).complete
        await end(watching(uploader))
    assert uploader.left(IMAGE) == []
    assert total(stack, one.id).purged == 1


@on_sqlite
@pytest.mark.parametrize("versioning", ["never"], indirect=True)
async def test_a_deletion_that_comes_while_a_project_s_workflow_ends_is_seen(stack: Stack, uploader: Uploader) -> None:
    """The last look has found nothing, and is about to say so. A real one cannot be stopped just there: it is made up."""
    project, looks = ImageProject(organization_id=stack.organization_id, project_id=uploader.project.id), []

    @activity.defn(name=SETTLE_IMAGES.name)
    async def settle(of: ImageProject) -> ImagesSettled:
        looks.append(of)
        if len(looks) == 1:
            await watch(stack.client, project)
        return ImagesSettled()

    async with (
        Worker(stack.client, task_queue=TASK_QUEUE, workflows=[WatchProjectImagesWorkflow]),
        Worker(stack.client, task_queue=OBJECTS_TASK_QUEUE, activities=[settle]),
    ):
        await watch(stack.client, project)
        await end(watching(uploader))
    assert looks == [project, project]


@pytest.mark.thorough
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@in_a_bucket
async def test_two_workers_see_to_several_deletions_of_one_project(stack: Stack, uploader: Uploader) -> None:
    """Their snapshots share images with each other, and with one that stays."""
    shown = {name: screen(name) for name in ("home", "login", "cart", "profile", "settings")}
    names = [("home", "login", "cart"), ("login", "cart", "profile"), ("cart", "profile", "home"), ("cart", "settings")]
    *going, staying = [uploader.uploads({name: shown[name] for name in of}) for of in names]
    settings = stack.settings(**SOON)
    async with worker.running(settings, stack.client), worker.running(settings, await connect(stack.temporal_address)):
        receipts = await asyncio.gather(*(stack.delete([one.id], images="delete") for one in going))
        assert all(one.complete for one in receipts)
        await end(watching(uploader))
    assert {name for name, content in shown.items() if uploader.left(content)} == {"cart", "settings"}
    assert uploader.asks(staying.images) == {"cart", "settings"}
    for one in going:
        ended = total(stack, one.id)
        assert (ended.named, ended.kept, ended.undecided, ended.hidden) == (3, ended.kept, 0, 0)
        assert ended.kept + ended.purged + ended.absent == 3
