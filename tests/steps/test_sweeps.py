"""Many prefixes proven empty by few listings."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from sqlalchemy import insert

from activities.backend import tables
from activities.ledger import pages
from activities.stores.objects import Found, Outcome, Upload
from activities.stores.s3 import S3Objects
from artifact_deletion.client import wait_rows_deleted
from artifact_deletion.errors import StoreUnavailable
from tests.memory_store import MemoryStore
from tests.stack import Held, Stack, steps_of

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ARTIFACTS = range(4100, 4160)


@dataclass(frozen=True)
class Watched(MemoryStore):
    """Remembers what it was asked to list; may refuse to list more than an artifact's own."""

    listed: list[str] = field(default_factory=list)
    uploads: dict[str, str] = field(default_factory=dict)
    strict: bool = False
    meanwhile: dict[str, tuple[str, str]] = field(default_factory=dict)
    """An upload and its key, begun by a late writer while that prefix is listed."""

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        if self.strict and not prefix.endswith(("/", ".zip")):
            raise StoreUnavailable("AccessDenied")
        self.listed.append(prefix)
        self.uploads.update([self.meanwhile.pop(prefix)] if prefix in self.meanwhile else [])
        return super().list_under(prefix)

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:
        if found := [Upload(key, upload) for upload, key in list(self.uploads.items()) if key.startswith(prefix)]:
            yield found

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        return Outcome(deleted=[one.key for one in uploads if self.uploads.pop(one.id, None)])


def deleted_in(stack: Stack, store: Watched | None = None) -> None:
    """Delete sixty artifacts without any comparison. Raises AssertionError if the receipt is not complete.

    Without a store of its own from the stack's bucket.
    """
    project = stack.world.project(stack.world.organization("acme"), "shop")
    assert (project.organization_id, project.id) == (stack.organization_id, 1)
    with stack.database.write() as session:
        session.execute(insert(tables.Artifact), [{"id": one, "project_id": project.id} for one in ARTIFACTS])
    request = stack.request(list(ARTIFACTS))
    with steps_of(stack, store) as steps:
        assert steps.finish(request, steps.open_and_collect(request)).complete


def place(stack: Stack) -> str:
    """Where artifacts of the organization's first project have their keys, up to their ids."""
    return f"preprod/org.{stack.organization_id}/project.1/objects/{stack.organization_id}/1/"


@on_sqlite
def test_prefixes_with_nothing_under_them_are_proven_empty_together(stack: Stack) -> None:
    """Both looks at prefixes and that at archives, in four usecases: one listing each, and more only where something lies."""
    named_by_no_row = f"{place(stack)}4130/run/7.json"
    neighbours = {
        f"{place(stack)}41300/manifest.json",
        f"{place(stack)}413",
        f"{place(stack)}4160/a.json",
        f"{place(stack)}41ab",
    }
    store = Watched(dict.fromkeys({named_by_no_row, *neighbours}, b"."))
    deleted_in(stack, store)
    assert store.content.keys() == neighbours
    assert len(store.listed) == 3 * 4 + 1
    assert store.listed.count(f"{place(stack)}4130/") == 1, "emptied; that it stays so is seen together with the others"


@pytest.mark.thorough
@on_sqlite
def test_a_real_store_lists_what_prefixes_have_in_common_as_it_lists_each_of_them(stack: Stack) -> None:
    """Listings go by characters, not by folders, and what lies beside the prefixes is no part of them."""
    named_by_no_row = {f"{place(stack)}4130/run/7.json", f"{place(stack)}4159/late.bin"}
    neighbours = {f"{place(stack)}4199/manifest.json", f"{place(stack)}41300/manifest.json", f"{place(stack)}4160/a.json"}
    for key in named_by_no_row | neighbours:
        stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b".")
    upload = stack.s3.create_multipart_upload(Bucket=stack.bucket, Key=f"{place(stack)}4131/late.bin")["UploadId"]
    stack.s3.upload_part(Bucket=stack.bucket, Key=f"{place(stack)}4131/late.bin", UploadId=upload, PartNumber=1, Body=b".")
    listed: list[str] = []
    stack.s3.meta.events.register("before-call.s3.ListObjectsV2", lambda params, **_: listed.append(params["url_path"]), "seen")
    try:
        deleted_in(stack)
    finally:
        stack.s3.meta.events.unregister("before-call.s3.ListObjectsV2", unique_id="seen")
    assert set(stack.world.objects()) == neighbours
    assert not stack.world.uploads()
    assert len(listed) <= 3 * 4 + 2 * 3 + 1, "what was found is listed again, and an aborted upload looked for once more"


RESPONSE = "snapshot_comparison_response.json"


@pytest.mark.parametrize(("evicted", "listable", "sealed"), [(False, True, 1), (True, True, 0), (True, False, 4)])
@on_sqlite
def test_a_response_is_sealed_where_its_manifest_was_found_or_nobody_can_list(
    stack: Stack,
    evicted: bool,  # noqa: FBT001
    listable: bool,  # noqa: FBT001
    sealed: int,
) -> None:
    """Sealed in each usecase or left to the listing, it is gone in the end."""
    base, head = stack.snapshots("base", "head")
    comparison = stack.world.comparison(head, base)
    if evicted:
        for key in (head.manifest_key, comparison.key):
            physical = stack.world.physical(head.usecase, head.artifact.organization_id, head.artifact.project_id, str(key))
            stack.s3.delete_object(Bucket=stack.bucket, Key=physical)
    request = stack.request([head.id])
    with steps_of(stack, bucket_listable=listable) as steps:
        chunk = steps.open_and_collect(request)
        with stack.database.read() as session:
            found = list(pages.read_pages(session, chunk))
        assert sum(key.endswith(RESPONSE) for page in found for key in page.keys) == sealed
        steps.delete_what_was_released(chunk, steps.delete_rows(chunk))
    assert not [key for key in stack.world.objects() if key.endswith(RESPONSE)]


@dataclass(frozen=True)
class Unlistable(S3Objects):
    """May not list, whatever the settings say."""

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:  # noqa: ARG002  the protocol's
        raise StoreUnavailable("AccessDenied")
        yield

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:  # noqa: ARG002  the protocol's
        raise StoreUnavailable("AccessDenied")
        yield


@pytest.mark.thorough
@on_sqlite
def test_a_store_that_turns_out_not_to_list_is_done_with_once_the_settings_say_so(stack: Stack) -> None:
    """Its prefixes are unchecked then, as if that had been known from the beginning."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    with steps_of(stack, Unlistable(stack.s3, stack.bucket, versioned=False)) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        steps.delete_objects(sealed, released)
        steps.delete_trace_items(sealed)
        with pytest.raises(StoreUnavailable):
            steps.sweep(sealed)
        assert steps.close(request).left_over.keys() == {"PrefixNotListed"}
    stack.accept(request)
    store = Unlistable(stack.s3, stack.bucket, versioned=False, listable=False, lists_uploads=False)
    with steps_of(stack, store, bucket_listable=False) as steps:
        steps.open(request)
        steps.sweep(sealed)
        receipt = steps.close(request)
    assert (receipt.complete, receipt.objects.prefixes_unchecked) == (True, receipt.objects.prefixes)


@pytest.mark.parametrize("strict", [False, True])
@on_sqlite
def test_where_others_have_much_between_them_each_prefix_is_listed_for_itself(stack: Stack, strict: bool) -> None:  # noqa: FBT001
    """A listing that was not read to its end, or was refused, proves nothing."""
    neighbours = {f"{place(stack)}41{number:05}" for number in range(0 if strict else 2000)}
    named_by_no_row = f"{place(stack)}4159/run/7.json"
    store = Watched(dict.fromkeys([*sorted(neighbours), named_by_no_row], b"."), strict=strict)
    deleted_in(stack, store)
    assert store.content.keys() == neighbours
    assert {f"{place(stack)}{one}/" for one in ARTIFACTS} <= set(store.listed)


@on_sqlite
def test_an_unfinished_upload_keeps_its_prefix_from_being_proven_with_the_others(stack: Stack) -> None:
    """It is no object, so only the listing of uploads shows it."""
    archives = f"preprod/org.{stack.organization_id}/project.1/objects/snapshot_archives"
    store = Watched(uploads={"u1": f"{place(stack)}4130/late.bin", "u2": f"{archives}/4131.zip"})
    deleted_in(stack, store)
    assert store.uploads == {}


@on_sqlite
def test_an_upload_that_begins_while_another_prefix_is_listed_is_not_missed(stack: Stack) -> None:
    """Each prefix is looked at right before its own listing: one look for all of them would be old by the time of the last."""
    first, second = ARTIFACTS[:2]
    store = Watched()
    project = stack.world.project(stack.world.organization("acme"), "shop")
    with stack.database.write() as session:
        session.execute(insert(tables.Artifact), [{"id": one, "project_id": project.id} for one in (first, second)])
    request = stack.request([first, second])
    with steps_of(stack, store, store_requests=1, quiet_period_s=3600) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_objects(sealed, steps.delete_rows(sealed))
        steps.look(sealed)
        steps.pass_quiet_period()
        store.meanwhile[f"{place(stack)}{first}/"] = ("late", f"{place(stack)}{second}/late.bin")
        steps.look(sealed)
    assert (store.meanwhile, store.uploads) == ({}, {})


@pytest.mark.thorough
@on_sqlite
async def test_rows_do_not_wait_for_listings_of_other_deletions(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person waits for the rows, and they for a few manifests; no one waits for a thousand listings."""
    one, two = stack.snapshots("one", "two")
    held = Held(monkeypatch, S3Objects, "list_under")
    async with stack.worker(store_requests=1):
        sweeping = await stack.start([one.id])
        await held.reached()
        try:
            request = stack.request([two.id])
            stack.accept(request)
            assert (await asyncio.wait_for(wait_rows_deleted(stack.client, request), 30)).rows
        finally:
            held.let_go()
        await sweeping.result()
        await stack.client.get_workflow_handle(request.workflow_id).result()
