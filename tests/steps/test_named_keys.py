"""What manifests and columns name: evicted, unreadable, repeated, or another's. Nothing is missed, and nothing trespassed."""

import contextlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

import composition
from activities.backend import tables
from activities.database import Database
from activities.ledger import pages
from activities.ledger.schema import DeletionChunk
from activities.stores.objects import Found, ObjectStore, Outcome, Upload
from artifact_deletion.errors import StaleSeal, StoreUnavailable
from demo.world import screen
from tests.shop import ONE_DATABASE, USECASES, move, put, set_extras, shop_of
from tests.stack import Seen, Stack, steps_of
from workflows.steps import Seal, SealedChunk

UNREADABLE = {
    "empty": b"",
    "truncated": b'{"images": {"login": {"diff_mask_key": "1/2',
    "a list": b"[]",
    "null": b'{"images": null}',
    "deep": b'{"images": ' * 50_000,
    "not text": b"\x89PNG\r\n\x1a\n",
    "too large": b'{"images": {}}' + b" " * 5000,
}


@pytest.mark.thorough
@ONE_DATABASE
def test_an_unreadable_manifest_is_said_to_be_one_and_its_masks_go_all_the_same(stack: Stack) -> None:
    """The prefix that it stands for is the comparison's alone, so nothing has to be known of it."""
    world = stack.world
    project = world.project(world.organization("acme"), "shop")
    images = {"login": screen("login")}
    base, readable = (world.snapshot(project, images) for _ in range(2))
    world.comparison(readable, base, masks=1)
    for content in UNREADABLE.values():
        world.comparison(world.snapshot(project, images), base, manifest=content, masks=1, chunks=0)
    request, before = stack.request([base.id]), Seen.of(world)
    with steps_of(stack, manifest_limit_bytes=4096) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    stack.assert_only_these_are_gone([base.id], before)
    assert (receipt.complete, receipt.manifests.unreadable, receipt.manifests.evicted) == (True, len(UNREADABLE), 0)
    assert (receipt.manifests.read, receipt.objects.sealed_by_kind["diff_mask"]) == (2, 1)


@pytest.mark.thorough
@ONE_DATABASE
def test_an_evicted_manifest_is_said_to_be_one_and_its_masks_go_all_the_same(stack: Stack) -> None:
    """Objects expire after thirty idle days, a report perhaps before its masks."""
    shop = shop_of(stack.world, masks=3)
    absent = [
        stack.world.physical("preprod", shop.organization_id, shop.project.id, key)
        for key in (shop.comparison.key, shop.base.manifest_key)
    ]
    for key in absent:
        stack.s3.delete_object(Bucket=stack.bucket, Key=key)
    request, before = stack.request([shop.base.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    stack.assert_only_these_are_gone([shop.base.id], before)
    assert (receipt.complete, receipt.manifests.evicted, receipt.manifests.read, receipt.objects.absent) == (True, 2, 0, 2)


@pytest.mark.thorough
@ONE_DATABASE
def test_a_manifest_that_could_not_be_fetched_is_neither_evicted_nor_empty(stack: Stack) -> None:
    """NoSuchBucket is a 404 too. Nothing is sealed, and no row goes, on anything less than NoSuchKey."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.head.id]), Seen.of(stack.world)
    ways: list[dict[str, Any]] = [{"s3_endpoint": "http://127.0.0.1:1"}, {"bucket": "no-such-bucket"}, {"s3_secret_key": "no"}]
    for broken in ways:
        with steps_of(stack, **broken) as steps:
            (chunk,) = steps.open(request)
            with pytest.raises(StoreUnavailable):
                steps.collect(chunk)
            for epoch in range(len(ways) + 1):
                with pytest.raises(StaleSeal):
                    steps.delete_rows(SealedChunk(**chunk.model_dump(), seal=Seal(epoch=epoch, pages=0, digest="")))
        assert Seen.of(stack.world) == before
    with steps_of(stack) as steps:
        assert steps.finish(request, steps.collect(chunk)).complete
    stack.assert_only_these_are_gone([shop.head.id], before)


@dataclass
class Watched:
    """The real store, with a record of every key that it is asked about."""

    store: ObjectStore
    touched: list[str] = field(default_factory=list)

    @property
    def listable(self) -> bool:
        return self.store.listable

    def read(self, key: str, limit: int) -> bytes:
        self.touched.append(key)
        return self.store.read(key, limit)

    def delete(self, keys: Sequence[str]) -> Outcome:
        self.touched += keys
        return self.store.delete(keys)

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        self.touched.append(prefix)
        return self.store.list_under(prefix)

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        self.touched += [one.key for one in found]
        return self.store.delete_found(found)

    @property
    def lists_uploads(self) -> bool:
        return self.store.lists_uploads

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:
        self.touched.append(prefix)
        return self.store.uploads_under(prefix)

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        self.touched += [one.key for one in uploads]
        return self.store.abort_uploads(uploads)


@pytest.mark.thorough
@ONE_DATABASE
def test_what_a_manifest_or_a_column_names_of_others_is_left_alone_and_counted(stack: Stack) -> None:
    """A manifest is an upload and may name whatever it likes. A stray is neither read nor deleted, and kept for a look."""
    world = stack.world
    shop = shop_of(world)
    org, here = shop.organization_id, shop.project
    neighbour = world.snapshot(here, {"login": screen("login", 7)})
    theirs = world.snapshot(world.project(world.organization("globex"), "intranet"), {"login": screen("login", 8)})
    going = world.snapshot(here, {"login": screen("login", 9)})
    others = {
        "neighbour": neighbour.manifest_key,
        "base": shop.base.manifest_key,
        "organization": theirs.manifest_key,
        "mask": shop.comparison.mask_keys[0],
        "image": f"{org}/{here.id}/{'a' * 64}",
        "up": f"{org}/{here.id}/{going.id}/{shop.base.id}/../../{neighbour.id}/manifest.json",
        "double": f"{org}/{here.id}/{going.id}/{shop.base.id}//diff/a.png",
        "absolute": f"/{org}/{here.id}/{going.id}/{shop.base.id}/diff/a.png",
        "backslash": f"{org}/{here.id}/{going.id}/{shop.base.id}/..\\{neighbour.id}\\manifest.json",
        "line": f"{org}/{here.id}/{going.id}/{shop.base.id}/diff/a\n{neighbour.manifest_key}",
        "physical": world.physical("preprod", org, here.id, neighbour.manifest_key),
        "archive": f"snapshot_archives/{neighbour.id}.zip",
        "icon": f"{org}/{here.id}/icn_first",
        "everything": "",
    }
    odd = {"number": 7, "list": [neighbour.manifest_key], "object": {"key": neighbour.manifest_key}}
    manifest = json.dumps({"images": {name: {"diff_mask_key": key} for name, key in (others | odd).items()}}).encode()
    comparison = world.comparison(going, shop.base, manifest=manifest, masks=1)
    build = world.mobile_build(here, icon=f"../{here.id}/{neighbour.id}/manifest.json")
    second = world.snapshot(here, {"login": screen("login", 10)})
    backwards = world.comparison(second, shop.base)
    reversed_key = f"{org}/{here.id}/{shop.base.id}/{second.id}/comparison.json"
    with stack.database.write() as session:
        set_extras(session, tables.SnapshotMetrics, going.metrics_id, head_images_key=neighbour.manifest_key)
        set_extras(session, tables.SnapshotComparison, backwards.id, comparison_key=reversed_key)
        set_extras(session, tables.SnapshotMetrics, second.metrics_id, manifest_key=[second.manifest_key])

    request, before = stack.request([going.id, build.id, second.id]), Seen.of(world)
    strange = [(org, here.id, key) for key in (*others.values(), reversed_key)]
    with steps_of(stack, watched := Watched(composition.open_store(stack.settings()))) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    stack.assert_only_these_are_gone(request.artifact_ids, before)
    assert comparison.id not in world.rows()["sentry_preprodsnapshotcomparison"]
    named = len(others) + len(odd)
    assert (receipt.complete, receipt.manifests.strays) == (
        True,
        named + len(["head_images", "icon", "comparison", "manifest"]),
    )
    physical = {world.physical(usecase, o, p, key) for o, p, key in strange for usecase in USECASES if key}
    assert physical.isdisjoint(watched.touched)
    with stack.database.read() as session:
        packed = session.execute(select(DeletionChunk.strays)).scalar_one()
    assert packed, "kept for a look"
    kept = {key for _, key in json.loads(zlib.decompress(packed))}
    assert kept >= set(others.values()) | {"(int)", "(list)", "(dict)"}


@ONE_DATABASE
def test_images_that_snapshots_share_are_counted_and_kept(stack: Stack) -> None:
    """Another snapshot's upload may rely on an image being there without any row that says so."""
    one, two = stack.snapshots("home", "search")
    request = stack.request([one.id])
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    images = {key for key in stack.world.objects() if key.count("/") == 6 and not key.endswith((".zip", ".json"))}
    assert (receipt.manifests.images_kept, len(images)) == (3, 4)
    assert two.id in stack.world.rows()["sentry_preprodartifact"]


@pytest.mark.thorough
@ONE_DATABASE
def test_a_key_that_a_manifest_names_twice_is_sealed_and_counted_once(stack: Stack) -> None:
    """The receipt's kinds add up to its keys, whatever a manifest repeats."""
    shop = shop_of(stack.world)
    prefix = shop.key(f"{shop.base.id}/")
    names = [f"{prefix}diff/a.png"] * 3 + [f"{prefix}comparison.json"]
    manifest = json.dumps({"images": {str(n): {"diff_mask_key": key} for n, key in enumerate(names)}}).encode()
    put(stack, "preprod", shop.project, shop.comparison.key, manifest)
    request = stack.request([shop.head.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.read() as session:
            keys = [(page.scope, key) for page in pages.read_pages(session, sealed) for key in page.keys]
        receipt = steps.finish(request, sealed)
    assert len(keys) == len(set(keys))
    assert sum(receipt.objects.sealed_by_kind.values()) == receipt.objects.sealed


@ONE_DATABASE
def test_a_column_that_names_anothers_mask_does_not_hide_it(stack: Stack) -> None:
    """A stray of one artifact may be another's own key, and where nothing can be listed only the manifest names it."""
    shop = shop_of(stack.world, masks=1)
    (mask,) = shop.comparison.mask_keys
    with stack.database.write() as session:
        set_extras(session, tables.SnapshotMetrics, shop.base.metrics_id, head_images_key=mask)
    request = stack.request([shop.head.id, shop.base.id])
    with steps_of(stack, bucket_listable=False) as steps:
        steps.finish(request, steps.open_and_collect(request))
    assert not [key for key in stack.world.objects() if key.endswith(mask)]


def test_kinds_add_up_where_two_builds_name_one_icon_at_the_last_moment(stack: Stack) -> None:
    """It is sealed once."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    builds = [stack.world.mobile_build(project, icon=f"icn_{name}") for name in "ab"]
    request = stack.request([build.id for build in builds])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as session:
            session.execute(update(tables.MobileAppInfo).values(app_icon_id="icn_new"))
        receipt = steps.finish(request, sealed)
    assert sum(receipt.objects.sealed_by_kind.values()) == receipt.objects.sealed


@ONE_DATABASE
def test_what_a_column_names_elsewhere_at_the_last_moment_is_left_over(stack: Stack) -> None:
    """Collected, nothing named the objects that the artifact left behind in its other project."""
    shop = shop_of(stack.world)
    site = stack.world.project(shop.organization_id, "site")
    request, of_head = stack.request([shop.head.id]), tables.SnapshotMetrics.preprod_artifact_id == shop.head.id
    with stack.database.write() as session:
        move(session, shop.head.id, site)
        extras = session.execute(select(tables.SnapshotMetrics.extras).where(of_head)).scalar_one()
        session.execute(update(tables.SnapshotMetrics).where(of_head).values(extras={}))
        session.execute(update(tables.SnapshotComparison).values(extras={}))
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as session:
            session.execute(update(tables.SnapshotMetrics).where(of_head).values(extras=extras))
        receipt = steps.finish(request, sealed)
    assert receipt.left_over == {"NamedElsewhere": 2}


@ONE_DATABASE
def test_a_session_that_does_not_flush_by_itself_seals_what_is_named_at_the_last_moment(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a backend's own may be made, whose ORM deletes the rows."""
    shop = shop_of(stack.world)
    request = stack.request([shop.build.id])
    icon = put(stack, "preprod", shop.project, f"{shop.organization_id}/{shop.project.id}/icn_new")
    whole = Database.write

    @contextlib.contextmanager
    def without_autoflush(self: Database) -> Iterator[Session]:
        with whole(self) as session:
            session.autoflush = False
            yield session

    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as session:
            of_build = update(tables.MobileAppInfo).where(tables.MobileAppInfo.preprod_artifact_id == shop.build.id)
            session.execute(of_build.values(app_icon_id="icn_new"))
        with monkeypatch.context() as patched:
            patched.setattr(Database, "write", without_autoflush)
            released = steps.delete_rows(sealed)
        steps.delete_what_was_released(sealed, released)
        receipt = steps.close(request)
    assert receipt.complete
    assert receipt.objects.sealed == receipt.objects.deleted + receipt.objects.absent
    assert icon not in stack.world.objects()


@ONE_DATABASE
def test_masks_that_an_unreadable_manifest_names_are_left_over_where_no_store_lists(stack: Stack) -> None:
    """No one knows which they are."""
    shop = shop_of(stack.world, masks=2, manifest=b"[]")
    request = stack.request([shop.head.id])
    with steps_of(stack, bucket_listable=False) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    assert (receipt.complete, receipt.left_over) == (False, {"MasksUnknown": 1})
