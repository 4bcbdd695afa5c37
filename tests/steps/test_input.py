"""Whatever rows and manifests hold, a deletion ends in words, takes what is the artifacts' own, and touches nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from activities.backend import tables
from demo.world import Snapshot, screen
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

UNREADABLE = {
    "empty": b"",
    "truncated": b'{"images": {"a": {"diff_mask_key": "x',
    "no JSON": b"<html>502 Bad Gateway</html>",
    "a list": b"[]",
    "images null": b'{"images": null}',
    "images a list": b'{"images": []}',
    "deeply nested": b'{"images":' * 50_000,
    "no UTF-8": b'{"images": {"\xff\xfe": {}}}',
}
EXTRAS: dict[str, Any] = {
    "null": None,
    "a list": ["manifest_key"],
    "text": "manifest_key",
    "a number": 7,
    "another shape": {"manifest_key": {"key": "x"}, "head_images_key": ["y"], "comparison_key": 7},
    "empty": {},
    "empty keys": {"manifest_key": "", "head_images_key": None},
}


@pytest.mark.thorough
async def test_manifests_that_are_none_cost_nothing_but_a_count(stack: Stack) -> None:
    """Each is a snapshot's manifest and its comparison's; their prefixes are emptied all the same, a base's neighbours stay."""
    heads = stack.snapshots(*UNREADABLE, "absent", "huge", "base")
    *heads, base = heads
    contents = [*UNREADABLE.values(), b"{}", b"{}"]
    made = [
        stack.world.comparison(head, base, manifest=content, masks=2) for head, content in zip(heads, contents, strict=True)
    ]
    keys = [stack.world.physical(one.usecase, one.head.organization_id, one.head.project_id, one.key) for one in made]
    own = [stack.world.physical(one.usecase, *_place(one), one.manifest_key) for one in heads]
    for key, content in zip(own, contents, strict=True):
        stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=content)
    for absent, huge in (keys[-2:], own[-2:]):
        stack.s3.delete_object(Bucket=stack.bucket, Key=absent)
        with sparse_file(stack.folder / "huge", 100 * 2**20).open("rb") as body:
            stack.s3.put_object(Bucket=stack.bucket, Key=huge, Body=body)
    before = Evidence.of(stack)
    async with stack.worker():
        receipt = await stack.delete(one.id for one in heads)
    assert receipt.complete
    assert (receipt.manifests.unreadable, receipt.manifests.evicted) == (2 * (len(UNREADABLE) + 1), 2)
    assert receipt.manifests.read == 0
    assert_promises_hold(stack, before, [stack.request(one.id for one in heads)])


def _place(one: Snapshot) -> tuple[int, int]:
    return one.artifact.organization_id, one.artifact.project_id


def sparse_file(path: Path, size: int) -> Path:
    """Many zeros that take no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.thorough
async def test_columns_that_name_nothing_leave_the_rest_to_the_listing(stack: Stack) -> None:
    """JSON columns of any shape, in snapshots and comparisons."""
    heads = stack.snapshots(*EXTRAS, "base")
    *heads, base = heads
    comparisons = [stack.world.comparison(head, base, masks=1) for head in heads]
    metrics, compared = tables.SnapshotMetrics, tables.SnapshotComparison
    with stack.database.write() as session:
        for head, comparison, extras in zip(heads, comparisons, EXTRAS.values(), strict=True):
            session.execute(update(metrics).where(metrics.id == head.metrics_id).values(extras=extras))
            session.execute(update(compared).where(compared.id == comparison.id).values(extras=extras))
    before = Evidence.of(stack)
    async with stack.worker():
        receipt = await stack.delete(one.id for one in heads)
    assert receipt.complete
    assert receipt.manifests.strays == 3, "those of another shape"
    assert_promises_hold(stack, before, [stack.request(one.id for one in heads)])


def strange_keys(stack: Stack, own: Snapshot, neighbour: Snapshot, theirs: Snapshot) -> dict[str, Any]:
    place = own.artifact
    prefix = f"{place.organization_id}/{place.project_id}/{own.id}/{neighbour.id}"
    return {
        "absolute": f"/{prefix}/diff/a.png",
        "another artifact's": neighbour.manifest_key,
        "another organization's": theirs.manifest_key,
        "upwards": f"{prefix}/../../{neighbour.id}/manifest.json",
        "control characters": f"{prefix}/diff/\x00\x1b[2J.png",
        "2,000 characters": f"{prefix}/{'x' * 2000}",
        "no text": 7,
        "lone surrogate": f"{prefix}/diff/\ud800.png",
    }


async def test_keys_that_are_not_the_artifacts_own_are_left_alone_and_counted(stack: Stack) -> None:
    """In a manifest and in columns: strays, neither read nor deleted; a page of them does not reach history or receipt."""
    own, neighbour = stack.snapshots("own", "neighbour")
    project = stack.world.project(stack.world.organization("globex"), "app")
    theirs = stack.world.snapshot(project, {"login": screen("login", 3)})
    strange = strange_keys(stack, own, neighbour, theirs)
    manifest = json.dumps({"images": {name: {"diff_mask_key": key} for name, key in strange.items()}}).encode()
    stack.world.comparison(own, neighbour, manifest=manifest, masks=1)
    metrics = tables.SnapshotMetrics
    with stack.database.write() as session:
        changed = {"manifest_key": neighbour.manifest_key, "head_images_key": theirs.manifest_key}
        session.execute(update(metrics).where(metrics.id == own.metrics_id).values(extras=changed))
    before = Evidence.of(stack)
    async with stack.worker():
        handle = await stack.start([own.id])
        await handle.result()
    receipt = stack.receipt(handle.id)
    assert (receipt.complete, receipt.manifests.strays) == (True, len(strange) + 2)
    assert_promises_hold(stack, before, [stack.request([own.id])])
    seen = (await handle.fetch_history()).to_json() + receipt.model_dump_json()
    assert not [part for part in ("manifest.json", "diff/", "xxxx") if part in seen]


@pytest.mark.thorough
async def test_an_icon_id_that_is_neither_file_nor_icon_names_nothing(stack: Stack) -> None:
    """Text of any kind in the column: a stray, and the build goes whole."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    icons = ["../42/manifest.json", "icn_a/b", "icn_", "-7", "9" * 25, "icn_\n", "an icon"]
    builds = [stack.world.mobile_build(project, icon=None, app_name=f"app {number}") for number, _ in enumerate(icons)]
    info = tables.MobileAppInfo
    with stack.database.write() as session:
        for build, icon in zip(builds, icons, strict=True):
            session.execute(update(info).where(info.preprod_artifact_id == build.id).values(app_icon_id=icon))
    stack.world.mobile_build(project, icon="icn_kept", app_name="kept")
    before = Evidence.of(stack)
    async with stack.worker():
        receipt = await stack.delete(one.id for one in builds)
    assert receipt.complete
    assert receipt.manifests.strays == len(icons)
    assert_promises_hold(stack, before, [stack.request(one.id for one in builds)])


@pytest.mark.thorough
async def test_an_unknown_artifact_is_said_to_be_unchecked_and_the_others_go(stack: Stack) -> None:
    """An id that never was, beside one that is: no error, and no claim."""
    (head,) = stack.snapshots("head")
    unknown = 2**63 - 1
    before = Evidence.of(stack)
    async with stack.worker():
        receipt = await stack.delete([head.id, unknown, head.id])
    assert receipt.complete
    assert receipt.artifacts.gone_before.objects_unchecked.ids == (unknown,)
    assert receipt.artifacts.deleted.ids == (head.id,)
    assert (receipt.trace_items.state, receipt.trace_items.unchecked_artifacts) == ("confirmed", 1)
    assert_promises_hold(stack, before, [stack.request([head.id, unknown])])
