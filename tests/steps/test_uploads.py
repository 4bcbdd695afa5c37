"""Multipart uploads that were begun and not completed: no listing of objects shows them, but their parts are data."""

import json
from typing import Any

import pytest

from activities.stores.objects import Outcome
from activities.stores.s3 import S3Objects
from demo.world import Snapshot
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack, steps_of

pytestmark = pytest.mark.ceph
USECASES = ("preprod", "snapshots")
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def begin_upload(stack: Stack, key: str) -> str:
    """Begin an upload of which one part is there."""
    upload = stack.s3.create_multipart_upload(Bucket=stack.bucket, Key=key)["UploadId"]
    stack.s3.upload_part(Bucket=stack.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"a customer's screen")
    return upload


def unfinished(stack: Stack) -> set[str]:
    store = S3Objects(stack.s3, stack.bucket, versioned=False)
    return {one.key for page in store.uploads_under("") for one in page}


def uploads_of(stack: Stack, one: Snapshot) -> set[str]:
    """Begin uploads wherever an artifact's own objects may lie, in two usecases."""
    place = one.artifact
    usecases = {usecase: stack.world.physical(usecase, place.organization_id, place.project_id, "") for usecase in USECASES}
    keys = {
        f"{usecases['preprod']}{place.prefix}manifest.json",
        f"{usecases['preprod']}{place.prefix}9/chunks/1.json",
        f"{usecases['snapshots']}{place.prefix}a name \u00fc.bin",
        f"{usecases['snapshots']}{place.archive_key}",
    }
    for key in keys:
        begin_upload(stack, key)
    return keys


@pytest.mark.thorough
@on_sqlite
async def test_unfinished_uploads_under_the_artifacts_own_prefixes_are_aborted_and_counted(stack: Stack) -> None:
    """A neighbour's uploads, and those of keys that only begin alike, go on."""
    head, kept = stack.snapshots("head", "kept")
    theirs = uploads_of(stack, kept)
    scope = stack.world.physical("snapshots", stack.organization_id, head.artifact.project_id, "")
    theirs |= {f"{scope}{head.artifact.archive_key}2", f"{scope}{head.artifact.prefix.removesuffix('/')}9/manifest.json"}
    for key in theirs - unfinished(stack):
        begin_upload(stack, key)
    ours = uploads_of(stack, head)
    before = Seen.of(stack.world)
    async with stack.worker():
        receipt = await stack.delete([head.id])
    assert receipt.complete
    assert (receipt.objects.uploads_aborted, receipt.objects.uploads_unchecked) == (len(ours), 0)
    assert unfinished(stack) == theirs
    stack.assert_only_these_are_gone([head.id], before)


@pytest.mark.thorough
@on_sqlite
async def test_an_upload_that_is_completed_before_the_confirming_listing_is_found_by_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completed after its prefix was emptied, before anyone looks for uploads: it is an object then, and goes as one."""
    (head,) = stack.snapshots("head")
    place = head.artifact
    key = stack.world.physical("preprod", place.organization_id, place.project_id, f"{place.prefix}late.bin")
    upload = begin_upload(stack, key)
    part = stack.s3.list_parts(Bucket=stack.bucket, Key=key, UploadId=upload)["Parts"][0]["ETag"]
    completed: Any = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    whole = S3Objects.uploads_under

    def complete_and_look(self: S3Objects, prefix: str) -> Any:
        if key.startswith(prefix) and key in {one.key for page in whole(self, prefix) for one in page}:
            stack.s3.complete_multipart_upload(Bucket=stack.bucket, Key=key, UploadId=upload, MultipartUpload=completed)
        return whole(self, prefix)

    monkeypatch.setattr(S3Objects, "uploads_under", complete_and_look)
    async with stack.worker():
        receipt = await stack.delete([head.id])
    assert receipt.complete
    assert receipt.objects.uploads_aborted == 0
    assert key not in stack.world.objects()


@on_sqlite
def test_an_upload_that_was_aborted_asks_for_one_more_look(stack: Stack) -> None:
    """A part that was on its way while its upload was aborted can outlive it (S3's AbortMultipartUpload says so)."""
    (head,) = stack.snapshots("head")
    place = head.artifact
    begin_upload(stack, stack.world.physical("preprod", place.organization_id, place.project_id, f"{place.prefix}x.bin"))
    request = stack.request([head.id])
    ended = []
    with steps_of(stack, quiet_period_s=3600) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_objects(sealed, steps.delete_rows(sealed))
        for _ in range(3):
            ended.append(steps.look(sealed))
            steps.pass_quiet_period()
    assert ended == [False, False, True]


@on_sqlite
def test_an_upload_that_begins_while_a_look_confirms_is_aborted_by_the_same_look(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins after the look for uploads, with an object: the listing finds that, and then all is looked for again."""
    (head,) = stack.snapshots("head")
    place = head.artifact
    home = stack.world.physical("preprod", place.organization_id, place.project_id, place.prefix)
    request = stack.request([head.id])
    whole = S3Objects.list_under
    late = [f"{home}late.bin"]

    def write_and_list(self: S3Objects, prefix: str) -> Any:
        if prefix == home and late:
            stack.s3.put_object(Bucket=stack.bucket, Key=f"{home}late.png", Body=b"late")
            begin_upload(stack, late.pop())
        return whole(self, prefix)

    with steps_of(stack, quiet_period_s=3600) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_objects(sealed, steps.delete_rows(sealed))
        assert not steps.look(sealed)
        steps.pass_quiet_period()
        monkeypatch.setattr(S3Objects, "list_under", write_and_list)
        assert not steps.look(sealed), "it was written to, and gets another quiet period"
    assert not late
    assert unfinished(stack) == set()


@on_sqlite
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "listed as before"])
def test_an_upload_that_the_store_does_not_know_is_left_over_only_where_it_is_still_listed(
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    ended: bool,  # noqa: FBT001
) -> None:
    """Aborted by its owner after it was listed: S3 answers NoSuchUpload then, which is put in place of SeaweedFS's 204."""
    (head,) = stack.snapshots("head")
    place = head.artifact
    key = stack.world.physical("preprod", place.organization_id, place.project_id, f"{place.prefix}ended.bin")
    begin_upload(stack, key)
    abort = S3Objects.abort_uploads

    def be_late(self: S3Objects, uploads: Any) -> Any:
        if ended:
            abort(self, uploads)
        return Outcome(refused={one.key: "NoSuchUpload" for one in uploads})

    monkeypatch.setattr(S3Objects, "abort_uploads", be_late)
    request = stack.request([head.id])
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    assert (receipt.left_over, receipt.objects.uploads_aborted) == ({} if ended else {"NoSuchUpload": 1}, 0)
    assert unfinished(stack) == (set() if ended else {key})


@pytest.mark.thorough
@on_sqlite
async def test_a_store_without_multipart_uploads_is_not_asked_and_the_receipt_says_so(stack: Stack) -> None:
    (head,) = stack.snapshots("head")
    ours = uploads_of(stack, head)
    async with stack.worker(bucket_multipart=False):
        receipt = await stack.delete([head.id])
    assert receipt.complete
    assert receipt.objects.uploads_unchecked == receipt.objects.prefixes > 0
    assert unfinished(stack) == ours


@pytest.mark.thorough
@on_sqlite
async def test_an_upload_that_may_not_be_aborted_is_left_over_with_its_code(stack: Stack) -> None:
    """A bucket policy forbids it: all else is done, and a re-run ends it once the policy is gone."""
    (head,) = stack.snapshots("head")
    ours = uploads_of(stack, head)
    before = Evidence.of(stack)
    everything = f"arn:aws:s3:::{stack.bucket}/*"
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:AbortMultipartUpload", "Resource": everything}
    stack.s3.put_bucket_policy(Bucket=stack.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [denied]}))
    async with stack.worker():
        try:
            handle = await stack.start([head.id])
            assert (await stack.failure(handle)).type == "ObjectsRemain"
            assert stack.receipt(handle.id).objects.found_left_over == {"AccessDenied": len(ours)}
            assert unfinished(stack) == ours
            assert_promises_hold(stack, before, [stack.request([head.id])], also_owned=ours)
        finally:
            stack.s3.delete_bucket_policy(Bucket=stack.bucket)
        receipt = await stack.delete([head.id])
    assert receipt.complete
    assert (receipt.objects.uploads_aborted, unfinished(stack)) == (len(ours), set())
    assert_promises_hold(stack, before, [stack.request([head.id])], also_owned=ours)
