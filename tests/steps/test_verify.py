"""`verify` looks again for all that a deletion has deleted, and finds whatever has come back."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update

import composition
from activities.backend import tables
from activities.backend.contract import ArtifactRef
from activities.backend.keys import trace_id
from activities.backend.trace_items import PREPROD, TraceItem
from artifact_deletion.request import DeletionRequest
from commands.exit_codes import DONE, FAILED, UNREACHABLE
from demo.world import Build, Project, Snapshot, screen
from tests.conftest import Command
from tests.image_steps import ImageSteps
from tests.oracle import Evidence
from tests.snuba_server import SnubaServer
from tests.stack import ROOT, Stack, steps_of

ICON = "icn_only"


@dataclass
class Deleted:
    """A deletion that is complete, and whose blobs the backend has cleaned up."""

    stack: Stack
    request: DeletionRequest
    snapshot: Snapshot
    build: Build
    project: Project
    folder: str
    blobs: set[int]

    def put(self, key: str, usecase: str = "preprod") -> None:
        place = self.snapshot.artifact
        physical = self.stack.world.physical(usecase, place.organization_id, place.project_id, key)
        self.stack.s3.put_object(Bucket=self.stack.bucket, Key=physical, Body=b"some bytes")


@pytest.fixture
def deleted(stack: Stack) -> Deleted:
    world = stack.world
    (one,) = stack.snapshots("one")
    place = one.artifact
    project = Project(place.project_id, place.organization_id, "shop")
    build = world.mobile_build(project, icon=ICON)
    request = stack.request([one.id, build.id])
    before = world.rows()["sentry_fileblob"].keys()
    with steps_of(stack, bucket=stack.bucket) as steps:
        steps.finish(request, steps.open_and_collect(request))
    assert stack.verify(request).blobs_waiting == len(before) > 0
    with stack.database.write() as session:
        session.execute(delete(tables.FileBlobOwner))
        session.execute(delete(tables.FileBlob))
    folder = f"{place.organization_id}/{place.project_id}"
    return Deleted(stack, request, one, build, project, folder, set(before))


@pytest.mark.thorough
def test_nothing_is_there_after_a_deletion_and_the_backends_own_clean_up(deleted: Deleted) -> None:
    before = Evidence.of(deleted.stack)
    found = deleted.stack.verify(deleted.request)
    assert found.is_gone, found
    assert found.prefixes > 0
    assert Evidence.of(deleted.stack) == before, "it only looks"


def a_row(deleted: Deleted) -> dict[str, Any]:
    deleted.stack.world.snapshot(deleted.project, {}, id=deleted.snapshot.id)
    return {"with_rows": deleted.snapshot.id}


def an_object(deleted: Deleted) -> dict[str, Any]:
    deleted.put(f"{deleted.folder}/{deleted.snapshot.id}/late.json", usecase="preprod_size")
    return {"objects": 1, "bytes": 10, "with_objects": deleted.snapshot.id}


def an_archive(deleted: Deleted) -> dict[str, Any]:
    deleted.put(f"snapshot_archives/{deleted.build.id}.zip", usecase="snapshots")
    deleted.put(f"snapshot_archives/{deleted.build.id}.zip.of-another", usecase="snapshots")
    return {"objects": 1, "bytes": 10, "with_objects": deleted.build.id}


def an_unfinished_upload(deleted: Deleted) -> dict[str, Any]:
    place, world = deleted.snapshot.artifact, deleted.stack.world
    key = world.physical("preprod", place.organization_id, place.project_id, f"{place.prefix}/manifest.json")
    deleted.stack.s3.create_multipart_upload(Bucket=deleted.stack.bucket, Key=key)
    return {"uploads": 1, "with_objects": deleted.snapshot.id}


def a_blob(deleted: Deleted) -> dict[str, Any]:
    with deleted.stack.database.write() as session:
        session.execute(insert(tables.FileBlob).values(id=min(deleted.blobs), checksum="a" * 40))
    return {"blobs_waiting": 1}


def a_trace_item(deleted: Deleted) -> dict[str, Any]:
    organization, project = deleted.project.organization_id, deleted.project.id
    with deleted.stack.database.write() as session:
        for id_ in (deleted.snapshot.id, 10**6):
            trace = trace_id(ArtifactRef(organization, project, id_))
            session.add(TraceItem(organization_id=organization, project_id=project, item_type=PREPROD, trace_id=trace))
    return {"trace_items": 1}


@pytest.mark.thorough
@pytest.mark.parametrize("comes_back", [a_row, an_object, an_archive, an_unfinished_upload, a_blob, a_trace_item])
def test_whatever_has_come_back_is_found(
    deleted: Deleted, command: Command, comes_back: Callable[[Deleted], dict[str, Any]]
) -> None:
    expected = comes_back(deleted)
    code, said = command("verify", deleted.request.workflow_id, "--json")
    answer = json.loads(said)
    assert (code, answer["gone"]) == (1, False)
    for name, value in expected.items():
        found = answer[name]
        assert (found["ids"] if isinstance(found, dict) else found) == ([value] if isinstance(found, dict) else value), name
    code, said = command("verify", deleted.request.workflow_id)
    assert code == 1
    assert "STILL THERE" in said


def by_its_index(blob: int) -> list[Any]:
    file = {"id": 7, "name": "x", "type": "x"}
    return [insert(tables.File).values(**file), insert(tables.FileBlobIndex).values(file_id=7, blob_id=blob, offset=0)]


def by_the_file_itself(blob: int) -> list[Any]:
    return [insert(tables.File).values(id=7, name="x", type="x", blob_id=blob)]


@pytest.mark.thorough
@pytest.mark.parametrize("named", [by_its_index, by_the_file_itself])
def test_a_blob_that_another_file_names_is_that_files(deleted: Deleted, named: Callable[[int], list[Any]]) -> None:
    a_blob(deleted)
    with deleted.stack.database.write() as session:
        for statement in named(min(deleted.blobs)):
            session.execute(statement)
    assert deleted.stack.verify(deleted.request).is_gone


@pytest.mark.thorough
def test_a_trace_store_that_cannot_count_is_not_asked(
    deleted: Deleted, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose only request deletes, and where there is none. Null says that nothing was looked for."""
    a_trace_item(deleted)
    asked = []

    class DeletesOnly:
        def delete(self, *given: object) -> tuple[int, int]:
            asked.append(given)
            return 0, 0

    found = deleted.stack.verify(deleted.request, trace_store="none")
    assert (found.trace_items, found.is_gone) == (None, True)
    with monkeypatch.context() as patch:
        patch.setattr(composition, "open_traces", lambda *_: DeletesOnly())
        found = deleted.stack.verify(deleted.request)
    assert (found.trace_items, found.is_gone, asked) == (None, True, [])
    code, said = command("verify", deleted.request.workflow_id)
    assert code == 1
    assert re.search(r"^Trace items +1$", said, re.MULTILINE)


@pytest.mark.thorough
def test_trace_items_that_snuba_has_are_said(deleted: Deleted, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    place, words = deleted.snapshot.artifact, ("verify", deleted.request.workflow_id)
    with SnubaServer({(place.organization_id, place.project_id, place.trace_id): 1204}) as server:
        monkeypatch.setenv("ARTIFACT_DELETION_TRACE_STORE", "snuba")
        monkeypatch.setenv("ARTIFACT_DELETION_SNUBA_URL", server.url)
        code, said = command(*words)
        assert code == FAILED
        assert re.search(r"^State +STILL THERE$", said, re.MULTILINE)
        assert re.search(r"^Trace items +1,204$", said, re.MULTILINE)
        server.items.clear()
        code, said = command(*words)
        assert code == DONE
        assert re.search(r"^Trace items +0$", said, re.MULTILINE)
    code, said = command(*words)
    assert code == UNREACHABLE, "it does not know"
    assert "the trace store could not be reached" in said


@pytest.mark.thorough
def test_before_it_ran_all_is_there(stack: Stack, command: Command) -> None:
    """By the request alone."""
    one, other = stack.snapshots("one", "other")
    request = stack.request([one.id, other.id])
    stack.accept(request)
    code, said = command("verify", request.workflow_id, "--json")
    answer = json.loads(said)
    assert (code, answer["state"]) == (1, "accepted")
    assert answer["with_rows"]["ids"] == [one.id, other.id]
    explained = (ROOT / "docs" / "receipt.md").read_text().partition("## Look again")[2]
    assert [name for name in answer if f"`{name}`" not in explained] == []
    assert answer["objects"] == len(stack.world.objects_of([one.id, other.id]))
    with stack.database.read() as session:
        assert answer["trace_items"] == session.execute(select(func.count()).select_from(TraceItem)).scalar_one() > 0


def test_versions_and_markers_are_found(images: ImageSteps, versioning: str) -> None:
    """An object under a delete marker is still stored."""
    stack = images.stack
    one = stack.world.snapshot(images.project, {"a": screen("a")})
    request = stack.request([one.id])
    images.steps.finish(request, images.steps.open_and_collect(request))
    place = one.artifact
    key = stack.world.physical("preprod", place.organization_id, place.project_id, f"{place.prefix}/late.json")
    stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"late")
    stack.s3.delete_object(Bucket=stack.bucket, Key=key)
    found = stack.verify(request, bucket=stack.bucket)
    assert found.objects == {"enabled": 2, "suspended": 1, "never": 0}[versioning]


@pytest.mark.thorough
def test_images_are_there_until_they_are_purged(images: ImageSteps) -> None:
    stack = images.stack
    one = stack.world.snapshot(images.project, {"a": screen("a")})
    deletion = images.delete(one)
    request = stack.request([one.id], images="delete")
    assert stack.verify(request, bucket=stack.bucket).images.undecided == 1
    images.hide(deletion)
    hidden = stack.verify(request, bucket=stack.bucket)
    assert (hidden.images.hidden, hidden.is_gone) == (1, False)
    images.to_the_end()
    assert stack.verify(request, bucket=stack.bucket).is_gone


@pytest.mark.thorough
def test_what_only_rows_named_is_looked_for_while_the_ledger_owes_it(stack: Stack) -> None:
    """An icon, and a comparison under a head that stays."""
    head, base = stack.snapshots("head", "base")
    stack.world.comparison(head, base)
    place = head.artifact
    build = stack.world.mobile_build(Project(place.project_id, place.organization_id, "shop"), icon=ICON)
    request = stack.request([base.id, build.id])
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(request))
    assert stack.verify(request).objects == len(stack.world.objects_of([base.id, build.id]))


@pytest.mark.thorough
def test_of_an_unknown_project_nothing_is_looked_for(deleted: Deleted) -> None:
    lost = deleted.stack.request([deleted.snapshot.id + 1_000])
    found = deleted.stack.verify(lost)
    assert (found.places.lost, found.prefixes) == (list(lost.artifact_ids), 0)
    known = deleted.stack.verify(deleted.stack.request(lost.artifact_ids, project_id=deleted.project.id))
    assert known.prefixes > 0


@pytest.mark.thorough
def test_an_artifact_that_has_a_row_elsewhere_is_there(deleted: Deleted) -> None:
    world, stack = deleted.stack.world, deleted.stack
    world.snapshot(deleted.project, {}, id=deleted.snapshot.id)
    other = world.organization("other")
    there = world.project(other, "there")
    with stack.database.write() as session:
        session.execute(update(tables.Artifact).where(tables.Artifact.id == deleted.snapshot.id).values(project_id=there.id))
    found = stack.verify(deleted.request)
    assert (found.places.moved, found.is_gone) == ([deleted.snapshot.id], False)


@pytest.mark.thorough
def test_a_store_that_cannot_list_is_not_asked(deleted: Deleted, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    an_object(deleted)
    monkeypatch.setenv("ARTIFACT_DELETION_BUCKET_LISTABLE", "false")
    code, said = command("verify", deleted.request.workflow_id)
    assert code == 0
    assert "the store cannot list" in said


@pytest.mark.parametrize("chunk_artifacts", [7, 1000])
def test_one_object_among_many_artifacts_is_found(stack: Stack, chunk_artifacts: int) -> None:
    """They are listed together, with living neighbours between them."""
    organization = stack.world.organization("acme")
    project = stack.world.project(organization, "shop")
    living = stack.world.snapshot(project, {"a": screen("a")}, id=50)
    many = stack.request([one for one in range(1, 100) if one != living.id], project_id=project.id)
    assert stack.verify(many, chunk_artifacts=chunk_artifacts).is_gone
    key = stack.world.physical("preprod", organization, project.id, f"{organization}/{project.id}/51/late.json")
    stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"late")
    found = stack.verify(many, chunk_artifacts=chunk_artifacts)
    assert [(one.artifact, one.objects, one.size) for one in found.lying] == [(51, 1, 4)]
