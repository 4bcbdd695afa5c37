"""The handler and the client that commit a snapshot with reserve_images, on real servers."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from activities.backend import tables
from activities.images import owed
from demo.world import SNAPSHOTS, screen
from examples.fastapi_snapshot import AddRows, create_app, may_upload, rows_of
from examples.upload_snapshot import upload
from tests.image_steps import MOMENT, ImageSteps, image_steps
from tests.stack import Stack
from tests.uploader import Uploader, hash_of

HOME = screen("home")
SHOWN = {"home.png": HOME}


@pytest.fixture
def images(stack: Stack, image_buckets: dict[str, str]) -> Iterator[ImageSteps]:
    stack.use_bucket(image_buckets["enabled"])
    with image_steps(stack, images_reserved=True) as steps:
        yield steps


@pytest.fixture
def app(images: ImageSteps) -> FastAPI:
    """A backend that has rows of its own, and writes the manifest before it commits them."""
    stack, organization = images.stack, images.project.organization_id

    def add_rows(session: Session, project_id: int, shown: Mapping[str, str]) -> int:
        artifact = tables.Artifact(project_id=project_id, state=3, app_id="com.example.shop")
        session.add(artifact)
        session.flush()
        key = f"{organization}/{project_id}/{artifact.id}/manifest.json"
        manifest = {"images": {name: {"content_hash": one} for name, one in shown.items()}}
        place = stack.world.physical(SNAPSHOTS, organization, project_id, key)
        stack.s3.put_object(Bucket=stack.bucket, Key=place, Body=json.dumps(manifest).encode())
        extras = {"manifest_key": key}
        session.add(tables.SnapshotMetrics(preprod_artifact_id=artifact.id, image_count=len(shown), extras=extras))
        return artifact.id

    def own_rows() -> AddRows:
        return add_rows

    made = create_app(stack.database.engine)
    made.dependency_overrides = {may_upload: lambda: images.project.id, rows_of: own_rows}
    return made


@pytest.fixture
async def backend(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client:
        yield client


@dataclass
class Bucket:
    """The images of a project, for the example's client."""

    uploader: Uploader
    after_asking: Callable[[], object] = lambda: None
    puts: list[str] = field(default_factory=list)

    def exists(self, name: str) -> bool:
        assert name == hash_of(HOME)
        there = self.uploader.reads(HOME)
        self.after_asking()
        return there

    def put(self, name: str, content: bytes) -> None:
        assert name == hash_of(content)
        self.puts.append(name)
        self.uploader.puts({name: content})


def path_of(images: ImageSteps) -> str:
    return f"/organizations/{images.project.organization_id}/projects/{images.project.id}/snapshots"


async def test_what_is_hidden_after_the_client_asked_is_put_and_shown(
    images: ImageSteps, uploader: Uploader, backend: httpx.AsyncClient
) -> None:
    uploader.puts(SHOWN)
    one = uploader.reserves(SHOWN)
    bucket = Bucket(uploader, partial(images.hidden, one))
    artifact = await upload(backend, path_of(images), SHOWN, bucket)
    assert (bucket.puts, uploader.reads(HOME)) == ([hash_of(HOME)], True)
    images.to_the_end()
    assert uploader.reads(HOME)
    second = await upload(backend, path_of(images), SHOWN, bucket := Bucket(uploader))
    assert (second > artifact, bucket.puts) == (True, [])


async def test_a_client_waits_while_its_image_is_being_hidden(
    images: ImageSteps, uploader: Uploader, backend: httpx.AsyncClient
) -> None:
    uploader.puts(SHOWN)
    one = uploader.reserves(SHOWN)

    def begin_to_hide() -> None:
        deletion = images.delete(one)
        with images.stack.database.read() as session:
            pages = owed.undecided(session, deletion.deletion_id, images.project.id)
        images.at_work().decisions.begin(pages)

    async def hide() -> None:
        assert bucket.puts == []
        images.pass_time(MOMENT)
        images.settle()

    bucket = Bucket(uploader, begin_to_hide)
    await upload(backend, path_of(images), SHOWN, bucket, wait=hide)
    assert (bucket.puts, uploader.reads(HOME)) == ([hash_of(HOME)], True)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_only_those_who_may_upload_commit_a_snapshot(
    images: ImageSteps, app: FastAPI, backend: httpx.AsyncClient
) -> None:
    shown = {"images": {"home.png": hash_of(HOME)}}
    assert (await backend.post(path_of(images), json={"images": {"home.png": "../manifest.json"}})).status_code == 422
    del app.dependency_overrides[may_upload]
    assert (await backend.post(path_of(images), json=shown)).status_code == 403
    assert len(images.stack.world.rows()["sentry_preprodartifact"]) == 0
