"""What is not known of a project's snapshots keeps its images: no manifest that could not be read counts as naming none."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select

from activities.backend import tables
from activities.images import rows
from activities.images.decisions import new_round
from activities.images.index import closed, lock_project
from activities.images.transitions import Image, ImageState
from artifact_deletion.errors import NotYet, StoreUnavailable
from composition import open_backend
from demo.world import Snapshot, screen
from tests.fault_proxy import FaultProxy, answering, operation, truncated
from tests.image_steps import GRACE, ImageSteps, image_steps
from tests.stack import Stack, deletion_of, wait_for_waiters
from tests.uploader import Uploader, hash_of

HOME = {"home": screen("home")}
(IMAGE,) = HOME.values()
versioning_of_one_kind = pytest.mark.parametrize("versioning", ["never"], indirect=True)
pytestmark = versioning_of_one_kind


def manifest_of(uploader: Uploader, snapshot: Snapshot, key: str = "") -> str:
    at = snapshot.artifact
    return uploader.stack.world.physical(snapshot.usecase, at.organization_id, at.project_id, key or snapshot.manifest_key)


def evict(uploader: Uploader, snapshot: Snapshot, *, all_of_them: bool = True) -> None:
    keys = [snapshot.manifest_key, *([f"{snapshot.artifact.prefix}snapshot_head_images.json"] if all_of_them else [])]
    for key in keys:
        uploader.stack.s3.delete_object(Bucket=uploader.stack.bucket, Key=manifest_of(uploader, snapshot, key))


def write(uploader: Uploader, snapshot: Snapshot, content: bytes) -> None:
    uploader.stack.s3.put_object(Bucket=uploader.stack.bucket, Key=manifest_of(uploader, snapshot), Body=content)


def delete_by_hand(stack: Stack, snapshot: Snapshot) -> None:
    """As another program deletes rows."""
    with stack.database.write() as session:
        session.delete(session.get_one(tables.SnapshotMetrics, snapshot.metrics_id))
        session.flush()
        session.delete(session.get_one(tables.Artifact, snapshot.id))


def closed_projects(stack: Stack) -> int:
    with stack.database.read() as session:
        return closed(session, open_backend(stack.settings(), stack.database))


def move(stack: Stack, snapshot: Snapshot, project_id: int) -> None:
    with stack.database.write() as session:
        session.get_one(tables.Artifact, snapshot.id).project_id = project_id


def give(stack: Stack, project_id: int, organization_id: int) -> None:
    """Transfer a project to another organization."""
    with stack.database.write() as session:
        session.get_one(tables.Project, project_id).organization_id = organization_id


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"images": "all"}', b'{"images": [{"content_hash": 7}]}', b"\xff"])
def test_an_unreadable_manifest_keeps_the_images_of_its_project(images: ImageSteps, uploader: Uploader, content: bytes) -> None:
    one, other = uploader.uploads(HOME), uploader.uploads(HOME)
    write(uploader, other, content)
    deletion = images.hidden(one)
    assert uploader.reads(IMAGE)
    assert images.total(deletion).left_over == {"ManifestsUnreadable": 1}
    assert images.settle() == ""


def test_only_a_manifest_whose_artifact_is_there_keeps_its_project_closed(images: ImageSteps, uploader: Uploader) -> None:
    """The index still has one that another hand has deleted: there is nothing to mend."""
    one, unreadable, gone = uploader.uploads(HOME), uploader.uploads(HOME), uploader.uploads(HOME)
    for snapshot in (unreadable, gone):
        write(uploader, snapshot, b"{")
    deletion = images.hidden(one)
    delete_by_hand(uploader.stack, gone)
    receipt = images.steps.close(uploader.stack.request([one.id], images="delete"))
    assert (receipt.images.unreadable.ids, images.total(deletion).left_over) == ((unreadable.id,), {"ManifestsUnreadable": 1})
    assert closed_projects(uploader.stack) == 1
    delete_by_hand(uploader.stack, unreadable)
    assert closed_projects(uploader.stack) == 0


def test_a_manifest_that_comes_in_part_is_read_again(uploader: Uploader, faults: FaultProxy) -> None:
    """A proxy may cut an answer and say its new length. Taken for unreadable, it would leave its images for ever."""
    stack, gone = uploader.stack, uploader.uploads(HOME)
    with image_steps(stack, s3_endpoint=faults.endpoint) as images:
        request = stack.request([gone.id], images="delete")
        (chunk,) = images.steps.open(request)
        faults.begin(truncated, only=operation("GetObject"), times=1)
        with pytest.raises(StoreUnavailable, match="cut off"):
            images.steps.collect(chunk)
        images.hide(images.delete(gone))
        assert images.total(deletion_of(request)).named == 1


@pytest.mark.thorough
def test_a_manifest_that_becomes_unreadable_keeps_what_is_hidden_from_the_purge(images: ImageSteps, uploader: Uploader) -> None:
    """It may show any of them. Once it is gone or mended they go their way."""
    images.hidden(uploader.uploads(HOME))
    other = uploader.commits({"login": screen("login")})
    write(uploader, other, b"{")
    images.pass_time(GRACE)
    images.settle()
    assert images.states() == {hash_of(IMAGE): "hidden"}
    write(uploader, other, b'{"images": {"home": {"content_hash": "%s"}}}' % hash_of(IMAGE).encode())
    images.settle()
    assert uploader.reads(IMAGE)


@pytest.mark.thorough
def test_an_unreadable_manifest_that_is_mended_lets_a_later_run_go_on(images: ImageSteps, uploader: Uploader) -> None:
    one, other = uploader.uploads(HOME), uploader.uploads({"login": screen("login")})
    write(uploader, other, b"{")
    deletion = images.hidden(one)
    write(uploader, other, b'{"images": {}}')
    images.watch(deletion)
    images.hide(deletion)
    assert not uploader.reads(IMAGE)
    assert images.total(deletion).hidden == 1


@pytest.mark.thorough
def test_an_absent_manifest_is_waited_for_while_it_may_still_come(images: ImageSteps, uploader: Uploader) -> None:
    """A backend may write it after its row's commit."""
    one, other = uploader.uploads(HOME), uploader.uploads(HOME)
    evict(uploader, other)
    deletion = images.delete(one)
    with pytest.raises(NotYet, match=f"artifact {other.id} ") as waits:
        images.hide(deletion)
    assert waits.value.retry_in is None, "soon at first, and after a day not every second"
    assert uploader.reads(IMAGE)
    images.pass_time(GRACE - timedelta(minutes=30))
    with pytest.raises(NotYet):
        images.hide(deletion)
    images.pass_time(timedelta(minutes=30))
    images.hide(deletion)
    assert not uploader.reads(IMAGE)


def test_an_absent_manifest_keeps_what_is_hidden_from_the_purge(images: ImageSteps, uploader: Uploader) -> None:
    images.hidden(uploader.uploads(HOME))
    images.pass_time(GRACE)
    other = uploader.commits({"login": screen("login")})
    evict(uploader, other)
    assert "no manifest" in images.settle()
    assert images.states() == {hash_of(IMAGE): "hidden"}
    write(uploader, other, b'{"images": {"home": {"content_hash": "%s"}}}' % hash_of(IMAGE).encode())
    images.settle()
    assert uploader.reads(IMAGE)


@pytest.mark.thorough
def test_an_evicted_manifest_shows_what_the_list_of_its_images_says(images: ImageSteps, uploader: Uploader) -> None:
    one, other = uploader.uploads(HOME), uploader.uploads(HOME)
    evict(uploader, other, all_of_them=False)
    images.pass_time(GRACE)
    deletion = images.hidden(one)
    assert uploader.reads(IMAGE)
    assert images.total(deletion).kept == 1


@pytest.mark.thorough
def test_a_store_that_does_not_answer_is_no_manifest_that_is_absent(stack: Stack, versioning: str) -> None:
    with FaultProxy(stack.server.endpoint) as proxy, image_steps(stack, s3_endpoint=proxy.endpoint) as images:
        uploader = Uploader(stack, images.project)
        one, _ = uploader.uploads(HOME), uploader.uploads(HOME)
        images.pass_time(GRACE)
        deletion = images.delete(one)
        for status, code in ((403, "AccessDenied"), (404, "NoSuchBucket"), (500, "InternalError"), (404, "")):
            fault = proxy.begin(answering(status, code), only=operation("GetObject"))
            with pytest.raises(StoreUnavailable):
                images.hide(deletion)
            fault.end()
        assert uploader.reads(IMAGE)


def test_a_manifest_that_the_store_does_not_give_leaves_no_other_snapshot_without_its_images(
    stack: Stack, versioning: str
) -> None:
    """What was read says that an image is shown again: it need not wait for what was not."""
    with FaultProxy(stack.server.endpoint) as proxy, image_steps(stack, s3_endpoint=proxy.endpoint) as images:
        uploader = Uploader(stack, images.project)
        images.hidden(uploader.uploads(HOME))
        uploader.commits(HOME)
        unread = uploader.commits({"login": screen("login")})
        proxy.begin(answering(500, "InternalError"), only=lambda asked: f"/{unread.id}/manifest.json" in asked.target)
        with pytest.raises(StoreUnavailable):
            images.settle()
        assert uploader.reads(IMAGE)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_project_is_not_done_while_a_deletion_decides(images: ImageSteps, uploader: Uploader) -> None:
    """Its workflow would end, and hidden images would wait for the relay."""
    database, at = images.stack.database, images.project
    with ThreadPoolExecutor(1) as thread:
        with database.write() as session:
            lock_project(session, at.id)
            settling = thread.submit(images.settle)
            wait_for_waiters(database)
            rows.begin(session, at.organization_id, at.id, [hash_of(IMAGE)], Image(ImageState.HIDING, new_round()))
        assert settling.result() != ""


def test_a_snapshot_that_was_moved_away_keeps_the_images_where_they_lie(images: ImageSteps, uploader: Uploader) -> None:
    """Images do not move. It was known here before."""
    one, other = uploader.uploads(HOME), uploader.uploads(HOME)
    images.catch_up()
    move(images.stack, other, images.stack.world.project(images.project.organization_id, "other").id)
    deletion = images.hidden(one)
    assert uploader.reads(IMAGE)
    assert images.total(deletion).kept == 1


def test_a_snapshot_that_was_moved_here_names_nothing_here(images: ImageSteps, uploader: Uploader) -> None:
    stack = images.stack
    there = Uploader(stack, stack.world.project(images.project.organization_id, "other"))
    one, moved = uploader.uploads(HOME), there.uploads(HOME)
    move(stack, moved, images.project.id)
    images.pass_time(GRACE)
    images.hidden(one)
    assert (uploader.reads(IMAGE), there.reads(IMAGE)) == (False, True)


def test_a_project_that_comes_back_from_another_organization_has_its_images(images: ImageSteps, uploader: Uploader) -> None:
    """There its snapshots could not be read, and here they show what they showed before."""
    stack, home = images.stack, images.project.organization_id
    one, other = uploader.uploads(HOME), uploader.uploads(HOME)
    images.pass_time(GRACE)
    give(stack, images.project.id, stack.world.organization("another"))
    images.catch_up()
    give(stack, images.project.id, home)
    images.hidden(one)
    images.pass_time(GRACE)
    images.to_the_end()
    assert uploader.reads(IMAGE)
    with stack.database.read() as session:
        assert session.execute(select(tables.Artifact.id).where(tables.Artifact.id == other.id)).scalar_one()


@pytest.mark.thorough
@pytest.mark.parametrize("hostile", ["../x", "7/7/7/manifest.json", 7, "a" * 2000])
def test_a_manifest_of_which_a_row_names_no_key_of_its_own_keeps_the_images(
    images: ImageSteps, uploader: Uploader, hostile: object
) -> None:
    one, other = uploader.uploads(HOME), uploader.uploads(HOME)
    with images.stack.database.write() as session:
        session.get_one(tables.SnapshotMetrics, other.metrics_id).extras = {"manifest_key": hostile}
    images.pass_time(GRACE)
    deletion = images.hidden(one)
    assert uploader.reads(IMAGE)
    assert images.total(deletion).left_over == {"ManifestsUnreadable": 1}
