"""Buckets as they really are: suspended versioning, retention, odd keys, no listing, wrong keys, no bucket."""

import contextlib
import socket
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from mypy_boto3_s3.literals import BucketVersioningStatusType
from temporalio.client import WorkflowFailureError

from activities.stores.s3 import S3Objects
from commands.receipt_text import receipt_lines
from demo.servers import S3Server
from demo.world import Project, sample_world
from tests.ceph import CephGateway
from tests.faults.test_faults import compared
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import PROCESS, Stack, eventually, pending_failures, s3_of
from tests.steps.test_uploads import begin_upload

pytestmark = [pytest.mark.ceph, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]


def scope_of(stack: Stack, snapshot: Any) -> str:
    return stack.world.physical(snapshot.usecase, snapshot.artifact.organization_id, snapshot.artifact.project_id, "")


KINDS: dict[str, tuple[BucketVersioningStatusType, ...]] = {
    "plain": (),
    "versioned": ("Enabled",),
    "suspended": ("Enabled", "Suspended"),
}
"""What a bucket's versioning was set to, one after the other."""


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
async def test_a_whole_deletion_leaves_nothing_in_any_kind_of_bucket(stack: Stack, kind: str) -> None:
    """No version, marker or upload of what it took, and of all else every one."""
    stack.s3.create_bucket(Bucket=(name := f"{kind}-{PROCESS}-{stack.organization_id}"))
    stack.use_bucket(name)
    sample = sample_world(stack.world)
    own = sorted(stack.world.objects_of(sample.to_delete))
    for status in KINDS[kind]:
        stack.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
        stack.s3.delete_object(Bucket=name, Key=own[0])
        for key in [*stack.world.objects(), own[0]]:
            stack.s3.put_object(Bucket=name, Key=key, Body=b"written again")
    begin_upload(stack, own[1])
    before = Evidence.of(stack)
    async with stack.worker():
        receipt = await stack.delete(sample.to_delete)
    assert receipt.complete
    assert receipt.objects.uploads_aborted == 1
    assert_promises_hold(stack, before, [stack.request(sample.to_delete)])
    after = Evidence.of(stack)
    assert not after.everything() & set(own)
    assert after.versions == {key: found for key, found in before.versions.items() if key not in own}


@pytest.mark.thorough
async def test_where_versioning_was_suspended_null_versions_go_too(stack: Stack, object_store: S3Server) -> None:
    """Old versions, markers, and the version called null that a suspended bucket writes: gone means none of them.

    A marker called null SeaweedFS says that it deletes, and goes on listing: what was accepted is not taken for gone. Ceph
    deletes it.
    """
    name = f"suspended-{PROCESS}-{stack.organization_id}"
    s3 = s3_of(object_store)
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    stack.use_bucket(name)
    head, base, _ = compared(stack)
    own = sorted(stack.world.objects_of([head.id]))
    s3.delete_object(Bucket=name, Key=own[0])
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    for key in own[:3]:
        s3.put_object(Bucket=name, Key=key, Body=b"written while suspended")
    versions = {one.id for key, found in stack.world.object_versions().items() if key in own for one in found}
    assert "null" in versions
    before = Evidence.of(stack)
    async with stack.worker():
        receipt = await stack.delete([head.id])
        assert receipt.complete
        assert_promises_hold(stack, before, [stack.request([head.id])])
        assert not set(own) & stack.world.object_versions().keys()

        marker = scope_of(stack, base) + base.manifest_key
        s3.delete_object(Bucket=name, Key=marker)
        handle = await stack.start([base.id])
        if isinstance(object_store, CephGateway):
            assert (await handle.result()).complete
        else:
            assert (await stack.failure(handle)).type == "ObjectsRemain"
            assert stack.receipt(handle.id).objects.found_left_over == {"DeletedButListed": 1}
    left = stack.world.object_versions().keys() & stack.world.objects_of([base.id])
    assert left == (set() if isinstance(object_store, CephGateway) else {marker})


@pytest.mark.thorough
async def test_what_retention_keeps_is_left_over_until_it_may_go(stack: Stack, locking_bucket: str) -> None:
    """Governance mode: refused with its code, all else gone; when the retention is lifted a re-run ends it."""
    stack.use_bucket(locking_bucket)
    head, _, comparison = compared(stack)
    key = scope_of(stack, head) + comparison.mask_keys[0]
    until = datetime.now(UTC) + timedelta(hours=1)
    stack.s3.put_object_retention(Bucket=stack.bucket, Key=key, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until})
    before = Evidence.of(stack)
    async with stack.worker():
        handle = await stack.start([head.id])
        assert (await stack.failure(handle)).type == "ObjectsRemain"
        assert stack.receipt(handle.id).objects.left_over == {"AccessDenied": 1}
        assert_promises_hold(stack, before, [stack.request([head.id])])
        assert stack.world.objects().keys() & stack.world.objects_of([head.id]) == {key}
        soon: Any = {"Mode": "GOVERNANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=1)}
        stack.s3.put_object_retention(Bucket=stack.bucket, Key=key, Retention=soon, BypassGovernanceRetention=True)

        async def complete() -> bool:
            with contextlib.suppress(WorkflowFailureError):
                return (await stack.delete([head.id])).complete
            return False

        await eventually(complete)
    assert_promises_hold(stack, before, [stack.request([head.id])])


@pytest.mark.thorough
async def test_odd_keys_that_nobody_names_are_found_and_go_literally(stack: Stack, object_store: S3Server) -> None:
    """Both normal forms of a letter, what XML cannot carry, 1024 bytes: what the store lists is deleted.

    A neighbour's that look alike stay. SeaweedFS takes no part of a path over 255 bytes and no key over 1024, a backslash for a
    slash, and two slashes for one; Ceph holds all of them as keys of their own.
    """
    head, _, _ = compared(stack)
    project = Project(head.artifact.project_id, head.artifact.organization_id, "shop")
    kept = stack.world.snapshot(project, head.images)
    odd = [
        unicodedata.normalize("NFC", "écran.png"),
        unicodedata.normalize("NFD", "écran.png"),
        "two  spaces/ +&=%20?#.png",
        "日本語/🙂.png",
        "tab\t, line\n, delete\x7f.png",
        "/".join(["long" * 25] * 9),
    ]
    if isinstance(object_store, CephGateway):
        odd += [
            "back\\slash.png",
            "back/slash.png",
            "two//slashes.png",
            "two/slashes.png",
            "./here/../there",
            "end/",
            "s" * 300,
        ]
    prefixes = [scope_of(stack, one) + one.artifact.prefix for one in (head, kept)]
    longest = 1024 - len(prefixes[0].encode())
    odd.append(("x" * 99 + "/") * (longest // 100) + "y" * (longest % 100))
    assert len((prefixes[0] + odd[-1]).encode()) == 1024
    also = []
    for prefix in prefixes:
        for name in odd:
            if len((prefix + name).encode()) <= 1024:
                stack.s3.put_object(Bucket=stack.bucket, Key=prefix + name, Body=b"odd")
                also += [prefix + name] if prefix == prefixes[0] else []
    before = Evidence.of(stack)
    assert before.objects.keys() >= set(also)
    unspeakable = prefixes[0] + "no XML carries \x01.png"  # put down now: SeaweedFS lists its versions under another name
    stack.s3.put_object(Bucket=stack.bucket, Key=unspeakable, Body=b"odd")
    assert unspeakable in stack.world.objects()
    async with stack.worker():
        receipt = await stack.delete([head.id])
    assert receipt.complete
    assert_promises_hold(stack, before, [stack.request([head.id])], also_owned=also)
    assert not set(also) & Evidence.of(stack).everything()


async def test_objects_are_found_in_each_usecase_and_one_that_holds_nothing_is_empty(stack: Stack) -> None:
    """An older snapshot, a newer one, icons, and a usecase that is configured for some day: each is looked at, none missed."""
    (old,) = stack.snapshots("old")
    place = old.artifact
    project = Project(place.project_id, place.organization_id, "shop")
    new = stack.world.snapshot(project, old.images, usecase="snapshots")
    stack.world.comparison(new, old, masks=1, usecase="snapshots")
    build = stack.world.mobile_build(project, icon="icn_a")
    late = stack.world.physical("preprod_size", place.organization_id, place.project_id, f"{place.prefix}late.json")
    stack.s3.put_object(Bucket=stack.bucket, Key=late, Body=b"no row names it")
    going = [old.id, new.id, build.id]
    before = Evidence.of(stack)
    async with stack.worker(usecases=("preprod", "snapshots", "preprod_size", "some_day")):
        receipt = await stack.delete(going)
    assert receipt.complete
    assert receipt.objects.prefixes == receipt.objects.prefixes_listed_empty == 4 * len(going)
    assert_promises_hold(stack, before, [stack.request(going)], also_owned=[late])


async def test_a_store_is_deleted_from_by_virtual_hosted_addresses(
    stack: Stack, object_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some stores take no others. No name server knows the test's domain."""
    look_up, asked = socket.getaddrinfo, set[str]()

    def here(host: Any, *more: Any, **named: Any) -> Any:
        if not str(host).endswith(object_store.DOMAIN):
            return look_up(host, *more, **named)
        asked.add(host)
        return look_up("127.0.0.1", *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    endpoint = object_store.endpoint.replace("127.0.0.1", object_store.DOMAIN)
    async with stack.worker(s3_endpoint=endpoint, s3_addressing_style="virtual"):
        receipt = await stack.delete([head.id])
    assert receipt.complete
    assert asked == {f"{stack.bucket}.{object_store.DOMAIN}"}
    assert_promises_hold(stack, before, [stack.request([head.id])])


async def test_where_a_store_cannot_list_prefixes_are_unchecked_and_what_is_named_goes(stack: Stack) -> None:
    """The receipt does not claim what it could not look at: plans and chunks stay, and nothing says that they went.

    Keys that a manifest names go as it spells them: in either normal form, and as long as a key may be.
    """
    head, base = stack.snapshots("head", "base")
    folder = scope_of(stack, head) + f"{head.artifact.prefix}{base.id}/diff/"
    long = (200 * "x" + "/") * 5
    names = [
        *(unicodedata.normalize(form, "écran") for form in ("NFC", "NFD")),
        long[: 1024 - len(f"{folder}.png")],
    ]
    comparison = stack.world.comparison(head, base, masks=dict.fromkeys(names, b"mask"))
    assert max(len((scope_of(stack, head) + key).encode()) for key in comparison.mask_keys) == 1024
    before = Evidence.of(stack)
    async with stack.worker(bucket_listable=False):
        receipt = await stack.delete([head.id])
    assert receipt.complete
    objects = receipt.objects
    assert (objects.prefixes_unchecked, objects.prefixes_listed_empty) == (objects.prefixes, 0)
    assert ("  prefixes unchecked: the store cannot list", objects.prefixes) in receipt_lines(receipt, utc=True)
    assert (objects.uploads_unchecked, objects.found_by_listing) == (objects.prefixes, 0)
    gone = before.objects.keys() - stack.world.objects().keys()
    named = {comparison.key, *comparison.mask_keys, head.manifest_key}
    assert gone >= {scope_of(stack, head) + key for key in named}
    assert gone <= stack.world.objects_of([head.id])


@pytest.mark.thorough
@pytest.mark.parametrize("missing", ["keys", "bucket", "endpoint"])
async def test_a_store_that_is_not_usable_yet_is_waited_for_in_plain_words(
    stack: Stack, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker comes up all the same: nothing is taken for absent, an operator reads why, and it happens when mended."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    name = f"late-{PROCESS}-{stack.organization_id}"
    wrong: dict[str, Any]
    wrong, said = {
        "keys": ({"s3_access_key": "UNKNOWN", "s3_secret_key": "nothing"}, "answered InvalidAccessKeyId (HTTP 403) to {}"),
        "bucket": ({"bucket": name}, "answered NoSuchBucket (HTTP 404) to {}"),
        "endpoint": ({"s3_endpoint": "http://127.0.0.1:1"}, "could not be reached (EndpointConnectionError)"),
    }[missing]

    async def failure() -> str | None:
        return (await pending_failures(handle)).get("collect_keys")

    async with stack.worker(**wrong):
        handle = await stack.start([head.id])
        assert await eventually(failure) == f"the object store {said.format('GetObject')}"
        assert f"the object store {said.format('GetBucketVersioning')}: the steps that need it are tried again" in caplog.text
        assert Evidence.of(stack).rows == before.rows
        if missing == "bucket":
            stack.s3.create_bucket(Bucket=name)
            _copy(stack, stack.bucket, name)
            await handle.result()
    if missing == "bucket":
        stack.use_bucket(name)
    else:
        async with stack.worker():
            await handle.result()
    assert stack.receipt(handle.id).complete
    assert not stack.world.objects().keys() & before.objects.keys() & stack.world.objects_of([head.id])


def _copy(stack: Stack, source: str, target: str) -> None:
    for page in S3Objects(stack.s3, source, versioned=False).list_under(""):
        for one in page:
            stack.s3.copy_object(Bucket=target, Key=one.key, CopySource={"Bucket": source, "Key": one.key})
