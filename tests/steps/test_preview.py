"""A dry run says what the deletion then does, and leaves no trace of itself."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text, update
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

import composition
from activities.backend import tables
from activities.database import Database
from activities.preview_deletion import PreviewDeletion
from activities.stores.s3 import S3Objects
from artifact_deletion.client import preview_deletion
from artifact_deletion.receipt import Ids, ImagesFound, Preview
from artifact_deletion.request import PREVIEW_WORKFLOW, TASK_QUEUE, DeletionRequest
from demo.world import Sample, sample_world, screen
from tests.oracle import Evidence
from tests.stack import Held, Stack, steps_of
from workflows.steps import PREVIEW_DELETION

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def preview_of(stack: Stack, request: DeletionRequest, **changes: Any) -> Preview:
    with steps_of(stack, **changes) as steps:
        return steps.run(PREVIEW_DELETION, request)


def objects_total(preview: Preview) -> tuple[int, int]:
    """How many, and how many bytes."""
    found = preview.objects.values()
    return sum(one.count for one in found), sum(one.size or 0 for one in found)


def spoiled(stack: Stack) -> Sample:
    """The sample world, with strays, an upload, an unreadable manifest and a file that another build names too."""
    world, sample = stack.world, sample_world(stack.world)
    first, second, third, *_ = sample.snapshots
    strange = {"a": {"diff_mask_key": first.manifest_key}, "b": {"diff_mask_key": "../up"}, "c": {"diff_mask_key": 7}}
    world.comparison(second, third, manifest=json.dumps({"images": strange}).encode(), masks=2)
    world.comparison(first, second, manifest=b"{", masks=1)
    build, next_build, _ = sample.builds
    with stack.database.write() as session:
        shared = update(tables.Artifact).where(tables.Artifact.id == next_build.id)
        session.execute(shared.values(installable_app_file_id=build.file_ids[1]))
    place = second.artifact
    key = world.physical("preprod", place.organization_id, place.project_id, f"{place.prefix}part.bin")
    stack.s3.create_multipart_upload(Bucket=stack.bucket, Key=key)
    return sample


@pytest.mark.thorough
async def test_what_a_preview_counts_is_what_the_deletion_then_takes(stack: Stack) -> None:
    """Row by row and byte by byte, comparisons of two artifacts in different chunks once, and nothing changed before."""
    sample = spoiled(stack)
    request = stack.request(sample.to_delete)
    before = Evidence.of(stack)
    async with stack.worker(chunk_artifacts=1):
        preview = await preview_deletion(stack.client, request)
        assert Evidence.of(stack) == before, "nothing was changed, and nothing is left"
        receipt = await stack.delete(sample.to_delete)
    after = Evidence.of(stack)
    gone = [before.objects[key] for key in before.objects.keys() - after.objects.keys()]
    assert objects_total(preview) == (len(gone), sum(size for _, size in gone))
    assert preview.objects["diff_mask"].count > 0 < preview.objects["found by listing"].count
    assert preview.rows == receipt.rows
    assert preview.files_kept == receipt.files.kept
    assert preview.unfinished_uploads == receipt.objects.uploads_aborted == 1
    assert (preview.artifacts, preview.refused, preview.overlapping) == (receipt.artifacts.deleted, (), ())
    assert preview.manifests.unreadable == 1
    assert preview.strays == {"another artifact's": 1, "no text": 1, "no well-formed key": 1}


@pytest.mark.thorough
@on_sqlite
def test_a_preview_counts_versions_and_markers(stack: Stack, locking_bucket: str) -> None:
    """What holds data, or says that it did, goes: each of them counts."""
    stack.use_bucket(locking_bucket)
    (head,) = stack.snapshots("head")
    key = stack.world.physical("preprod", head.artifact.organization_id, head.artifact.project_id, head.manifest_key)
    stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"12345")
    stack.s3.delete_object(Bucket=stack.bucket, Key=key)
    store = S3Objects(stack.s3, stack.bucket, versioned=True)
    with steps_of(stack, store) as steps:
        preview = steps.run(PREVIEW_DELETION, stack.request([head.id]))
    own = stack.world.objects_of([head.id])
    assert objects_total(preview)[0] == sum(
        len(versions) for key, versions in stack.world.object_versions().items() if key in own
    )
    assert preview.objects["manifest"].count == 3


@on_sqlite
def test_where_a_store_cannot_list_a_preview_counts_what_is_named_and_knows_no_size(stack: Stack) -> None:
    (head,) = stack.snapshots("head")
    preview = preview_of(stack, stack.request([head.id]), bucket_listable=False)
    assert {kind: found.size for kind, found in preview.objects.items()} == {
        "archive": None,
        "head_images": None,
        "manifest": None,
    }


@on_sqlite
def test_every_reason_for_a_refusal_is_told_at_once(stack: Stack) -> None:
    """Foreign artifact, foreign project, an unknown table: the rest is previewed all the same."""
    (head,) = stack.snapshots("head")
    project = stack.world.project(stack.world.organization("globex"), "app")
    stranger = stack.world.snapshot(project, {"login": screen("login")})
    with stack.database.write() as session:
        session.execute(
            text("CREATE TABLE novelty (id INTEGER PRIMARY KEY, artifact INTEGER REFERENCES sentry_preprodartifact (id))")
        )
    preview = preview_of(stack, stack.request([head.id, stranger.id, 10**9], project_id=project.id))
    drift, foreign_project, foreign = preview.refused
    assert "novelty.artifact" in drift
    assert f"project {project.id} is not one of organization" in foreign_project
    assert f"1 of 3 artifacts do not belong to organization {stack.organization_id} ({stranger.id})" in foreign
    assert preview.artifacts.ids == (head.id,)


@on_sqlite
def test_what_is_gone_or_taken_is_told(stack: Stack) -> None:
    """An unknown artifact, with and without a project; one that another open deletion has taken."""
    one, two = stack.snapshots("one", "two")
    gone = 10**9
    assert preview_of(stack, stack.request([gone])).gone_unchecked.ids == (gone,)
    assert preview_of(stack, stack.request([gone], project_id=one.artifact.project_id)).gone_swept.ids == (gone,)
    other = stack.request([one.id])
    with steps_of(stack) as steps:
        steps.open(other)
    assert preview_of(stack, stack.request([one.id, two.id])).overlapping == (other.workflow_id,)


def test_snapshots_that_would_show_less_are_counted(stack: Stack) -> None:
    """Those that stay, and inherit images from one that would go."""
    sample = sample_world(stack.world)
    third, fourth = sample.snapshots[2:4]
    assert preview_of(stack, stack.request(sample.to_delete)).heirs.ids == (fourth.id,)
    assert preview_of(stack, stack.request([third.id, fourth.id])).heirs.ids == ()
    assert preview_of(stack, stack.request([fourth.id])).heirs.ids == ()


@pytest.mark.thorough
@on_sqlite
def test_an_icon_that_another_build_names_is_kept(stack: Stack) -> None:
    """With the last build that names it, it would go."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    one, two = (stack.world.mobile_build(project, icon="icn_shared", version=version) for version in ("1", "2"))
    assert (alone := preview_of(stack, stack.request([one.id]))).icons_kept == 1
    assert "icon" not in alone.objects
    both = preview_of(stack, stack.request([one.id, two.id]), chunk_artifacts=1)
    assert (both.icons_kept, both.objects["icon"].count) == (0, 1)


@on_postgresql
def test_a_preview_could_not_write_if_it_wanted_to(database: Database) -> None:
    """PostgreSQL itself refuses."""
    with pytest.raises(Exception, match="25006"), database.read(snapshot=True) as session:
        session.execute(text("DELETE FROM sentry_preprodartifact"))


@pytest.mark.thorough
@on_sqlite
async def test_no_key_reaches_the_history_and_the_command_line_names_the_strays(stack: Stack) -> None:
    """Counts by reason go through Temporal; keys are read where they are, by those who may."""
    first, second = stack.snapshots("first", "second")
    hostile = "PRIVATE\u001b[2J../up"
    strange = {"a": {"diff_mask_key": hostile}, "b": {"diff_mask_key": first.manifest_key}}
    stack.world.comparison(second, first, manifest=json.dumps({"images": strange}).encode(), masks=0)
    asked = [second.id, "--organization", stack.organization_id]
    before = Evidence.of(stack)
    async with stack.worker():
        shown = await stack.run_command("preview", *asked)
        as_json = await stack.run_command("preview", *asked, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "another artifact's" in shown.stdout
    assert json.loads(as_json.stdout)["strays"] == {"another artifact's": 1, "no well-formed key": 1}
    history = await stack.client.get_workflow_handle(stack.request([second.id], images="delete").preview_id).fetch_history()
    for secret in ("PRIVATE", "manifest.json", "login"):
        assert secret not in history.to_json() + shown.stdout + as_json.stdout

    named = await stack.run_command("preview", *asked, "--strays", TEMPORAL_ADDRESS="127.0.0.1:1")
    assert named.returncode == 0, named.stderr
    assert f"stray, another artifact's: {json.dumps(first.manifest_key)}" in named.stdout.splitlines()
    assert f"stray, no well-formed key: {json.dumps(hostile)}" in named.stdout.splitlines()
    assert "\u001b" not in named.stdout
    assert Evidence.of(stack) == before


@on_sqlite
async def test_a_preview_is_asked_for_in_the_words_of_a_deletion(stack: Stack) -> None:
    """Bad input fails once, in words; one id for each request, which is not that of the deletion."""
    request = stack.request([1])
    assert request.preview_id != request.workflow_id
    async with stack.worker():
        for given, own_id, said in (
            ({"organization_id": 1}, "preview-artifacts/1/x", "artifact_ids: Field required"),
            (request.model_dump(mode="json"), "another-id", f"this deletion's workflow id is {request.preview_id}"),
        ):
            with pytest.raises(WorkflowFailureError) as failed:
                await stack.client.execute_workflow(PREVIEW_WORKFLOW, given, id=own_id, task_queue=TASK_QUEUE)
            cause = failed.value.cause
            assert isinstance(cause, ApplicationError)
            assert (cause.type, cause.message) == ("InvalidRequest", said)


@on_sqlite
async def test_a_preview_that_was_cancelled_ends_as_cancelled(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert on failures must not hear of it."""
    request = stack.request([one.id for one in stack.snapshots("one")])
    held = Held(monkeypatch, PreviewDeletion, "preview_deletion")
    async with stack.worker():
        waiting = asyncio.create_task(preview_deletion(stack.client, request))
        try:
            await held.reached()
            await stack.client.get_workflow_handle(request.preview_id).cancel()
            with pytest.raises(WorkflowFailureError) as ended:
                await waiting
        finally:
            held.let_go()
    assert isinstance(ended.value.cause, CancelledError)


def images_of(stack: Stack, request: DeletionRequest, **changes: Any) -> ImagesFound:
    before = Evidence.of(stack)
    found = preview_of(stack, request, **changes).images
    assert Evidence.of(stack) == before, "nothing was written, not even into the index"
    return found


@pytest.mark.thorough
async def test_images_are_counted_as_the_deletion_then_hides_them(stack: Stack) -> None:
    """By manifests where the index has none, and by the index where it has all; a snapshot of the request keeps nothing."""
    one, two, three = stack.snapshots("one", "two", "three")
    request = stack.request([one.id, two.id], images="delete")
    preview = images_of(stack, request)
    assert preview == ImagesFound(policy="delete", named=4, named_by_others=2, to_hide=2)
    async with stack.worker():
        receipt = await stack.delete([one.id, two.id], images="delete")
    assert (receipt.images.named, receipt.images.kept, receipt.images.hidden) == (4, 2, 2)
    assert images_of(stack, stack.request([three.id], images="delete")).to_hide == 3
    assert images_of(stack, stack.request([three.id])) == ImagesFound()


@on_sqlite
def test_of_snapshots_that_it_may_not_read_a_preview_says_how_many_are_unknown(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project of a hundred thousand snapshots is no reason to let a person wait for an hour."""
    one, *others = stack.snapshots("one", "two", "three", "four")
    monkeypatch.setattr("activities.images.preview.MANIFESTS_READ", 2)
    found = images_of(stack, stack.request([one.id], images="delete"))
    assert (found.unknown, found.named_by_others, found.to_hide) == (len(others) - 2, 2, 1)


@pytest.mark.thorough
@on_sqlite
@pytest.mark.parametrize("indexed", [True, False])
def test_a_manifest_that_says_nothing_is_named_with_its_project(stack: Stack, *, indexed: bool) -> None:
    """While it is there no image goes, so the deletion would end with them left over."""
    one, bad = stack.snapshots("one", "bad")
    place = bad.artifact
    key = stack.world.physical(bad.usecase, place.organization_id, place.project_id, bad.manifest_key)
    stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"{")
    if indexed:
        parts = composition.open_parts(stack.settings(), stack.database)
        with ThreadPoolExecutor(2) as reads:
            catching_up = parts.catching_up(parts.planner(reads))
            assert catching_up is not None
            list(catching_up.parts(place.project_id))
    found = images_of(stack, stack.request([one.id], images="delete"))
    assert (found.to_hide, found.left_over) == (0, {"ManifestsUnreadable": 3})
    assert found.closed == {str(place.project_id): Ids.of([bad.id])}
    # It goes with the rest, and keeps nothing closed then.
    together = images_of(stack, stack.request([one.id, bad.id], images="delete"))
    assert (together.to_hide, together.closed) == (3, {})
    assert images_of(stack, stack.request([one.id], images="delete"), images="keep").left_over == {"ImagesStay": 3}
