"""Whatever goes wrong between us and the object store, a deletion comes to its end, and nothing is taken for gone too early."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from artifact_deletion.receipt import DeletionReceipt
from demo.servers import Identity, ObjectStoreServer
from demo.world import Snapshot
from tests import fault_proxy
from tests.fault_proxy import Fault, FaultProxy, Kind, Matches, answering, operation, refusing_keys, under
from tests.faults.test_faults import compared
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack, eventually, pending_failures, s3_of

pytestmark = [pytest.mark.thorough, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

Handle = WorkflowHandle[Any, DeletionReceipt]
ONCE: Mapping[str, Kind] = {
    "reset before the store heard of it": fault_proxy.unreached,
    "reset after the store acted": fault_proxy.unheard,
    "reset in the middle of the answer": fault_proxy.cut,
    "no answer after the store acted": fault_proxy.withheld,
    "half an answer": fault_proxy.truncated,
    "an empty answer": answering(200, body=b""),
    "a gateway's page": answering(200, body=b"<html><body>Please log in</body></html>"),
    "a gateway's redirect": answering(302, body=b"<html><body>Please log in</body></html>"),
    "500": answering(500, "InternalError"),
    "503": answering(503, "SlowDown"),
    "200 that turns out to be an error": answering(200, "InternalError"),
}
REFUSALS = {"SlowDown": 503, "AccessDenied": 403, "RequestTimeTooSkewed": 403}
STEPS = {"GetObject": "collect_keys", "DeleteObjects": "delete_objects", "ListMultipartUploads": "sweep_prefixes"}


@pytest.fixture
def proxy(object_store: ObjectStoreServer) -> Iterator[FaultProxy]:
    with FaultProxy(object_store.endpoint) as running:
        yield running


def physical(stack: Stack, snapshot: Any, key: str) -> str:
    place = snapshot.artifact
    return stack.world.physical(snapshot.usecase, place.organization_id, place.project_id, key)


async def waiting(handle: Handle, step: str) -> str:
    """What an operator reads of a step that is to be tried again."""

    async def failure() -> str | None:
        return (await pending_failures(handle)).get(step)

    return await eventually(failure)


async def struck(*faults: Fault) -> None:
    async def all_of_them() -> bool:
        return all(fault.struck for fault in faults)

    await eventually(all_of_them)


async def complete(stack: Stack, handle: Handle, before: Evidence, artifact: int) -> None:
    await handle.result()
    assert stack.receipt(handle.id).complete
    assert_promises_hold(stack, before, [stack.request([artifact])])


def of(snapshot: Snapshot, *operations: str) -> Matches:
    """Requests about the snapshot's own keys. So many deletions can run at once, each with a fault of its own."""
    part = f"/{snapshot.artifact.prefix}"
    return lambda request: request.operation in operations and any(part in key for key in request.keys)


def compared_heads(stack: Stack, *names: str) -> dict[str, Snapshot]:
    """So many snapshots to be deleted, each compared to one that stays."""
    base, *heads = stack.snapshots("base", *names)
    for head in heads:
        stack.world.comparison(head, base, masks=3)
    return dict(zip(names, heads, strict=True))


async def all_complete(
    stack: Stack,
    before: Evidence,
    handles: Mapping[str, Handle],
    heads: Mapping[str, Snapshot],
    also_owned: Sequence[str] = (),
) -> None:
    for name, handle in handles.items():
        await handle.result()
        assert stack.receipt(handle.id).complete, name
    assert_promises_hold(stack, before, [stack.request([head.id]) for head in heads.values()], also_owned=also_owned)
    assert not {*also_owned} & Evidence.of(stack).everything()


async def test_a_fault_that_strikes_each_kind_of_request_once_costs_an_attempt_and_no_more(
    stack: Stack, proxy: FaultProxy
) -> None:
    """Reading a manifest, deleting a page or a single key, listing, aborting: each is tried again by itself."""
    heads = compared_heads(stack, *ONCE)
    not_for_xml, begun = (
        [physical(stack, head, head.artifact.prefix + name) for head in heads.values()] for name in ("\x01", "begun")
    )
    for key in not_for_xml:
        stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"deleted by a request of its own")
    listed = [key.replace("\x01", "\ufffd") for key in not_for_xml]  # so SeaweedFS lists their versions
    for key in begun:
        stack.s3.create_multipart_upload(Bucket=stack.bucket, Key=key)
    before = Evidence.of(stack)
    faults = {
        (fault, name): proxy.begin(ONCE[fault], only=of(head, name), times=1)
        for fault, head in heads.items()
        for name in (*STEPS, "DeleteObject", "ListObjectsV2", "AbortMultipartUpload")
    }
    async with stack.worker(s3_endpoint=proxy.endpoint, s3_read_timeout_s=2):
        handles = {fault: await stack.start([head.id]) for fault, head in heads.items()}
        await all_complete(stack, before, handles, heads, also_owned=[*not_for_xml, *listed, *begun])
    assert [what for what, fault in faults.items() if not fault.struck] == []


@pytest.mark.thorough
async def test_with_versions_too(stack: Stack, proxy: FaultProxy, locking_bucket: str) -> None:
    """There the listing says what is to be deleted, and no version in it would be no version at all."""
    stack.use_bucket(locking_bucket)
    heads = compared_heads(stack, "reset after the store acted", "half an answer", "a gateway's page")
    before = Evidence.of(stack)
    faults = {
        (fault, name): proxy.begin(ONCE[fault], only=of(head, name), times=2)
        for fault, head in heads.items()
        for name in ("GetObject", "DeleteObjects", "ListObjectVersions")
    }
    async with stack.worker(s3_endpoint=proxy.endpoint):
        handles = {fault: await stack.start([head.id]) for fault, head in heads.items()}
        await all_complete(stack, before, handles, heads)
    assert [what for what, fault in faults.items() if not fault.struck] == []


async def test_what_the_store_refuses_is_waited_for_in_plain_words_until_it_is_mended(stack: Stack, proxy: FaultProxy) -> None:
    """Whichever step it hits: an operator reads what is wrong, and no one has to do anything after it was mended.

    Rows of a chunk whose manifests cannot be read are not touched.
    """
    refusals = {f"{code} to {name}": (code, status, name) for code, status in REFUSALS.items() for name in STEPS}
    heads = compared_heads(stack, *refusals)
    before = Evidence.of(stack)
    faults = [
        proxy.begin(answering(status, code), only=of(heads[refusal], name))
        for refusal, (code, status, name) in refusals.items()
    ]
    async with stack.worker(s3_endpoint=proxy.endpoint):
        handles = {refusal: await stack.start([head.id]) for refusal, head in heads.items()}
        for refusal, (code, status, name) in refusals.items():
            said = await waiting(handles[refusal], STEPS[name])
            assert said == f"the object store answered {code} (HTTP {status}) to {name}"
            assert (heads[refusal].id in Evidence.of(stack).artifacts) == (name == "GetObject"), refusal
        for fault in faults:
            fault.end()
        await all_complete(stack, before, handles, heads)


async def test_a_gateway_that_answers_in_place_of_the_store_is_not_believed(stack: Stack, proxy: FaultProxy) -> None:
    """Every delete and every listing is answered 200: without a look at who answers, all would be deleted and listed empty."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    async with stack.worker(s3_endpoint=proxy.endpoint):
        fault = proxy.begin(ONCE["a gateway's page"], only=operation("DeleteObjects", "ListObjectsV2", "ListMultipartUploads"))
        handle = await stack.start([head.id])
        said = await waiting(handle, "delete_objects")
        assert said == "something else than the object store answered HTTP 200 to DeleteObjects"
        fault.end()
        await complete(stack, handle, before, head.id)


async def test_a_store_that_is_gone_in_the_middle_of_a_request_is_waited_for(stack: Stack, proxy: FaultProxy) -> None:
    """It acted, its answer never came, and then no one listened any more: keys that are gone already are no trouble."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    own = stack.world.objects_of([head.id])
    async with stack.worker(s3_endpoint=proxy.endpoint):
        # Of a request for keys that are there: those of other usecases are asked for too.
        there = lambda request: operation("DeleteObjects")(request) and bool({*request.keys} & own)  # noqa: E731
        fault = proxy.begin(fault_proxy.withheld, only=there)
        handle = await stack.start([head.id])
        await struck(fault)

        async def acted() -> bool:
            return bool(own - stack.world.objects().keys())

        await eventually(acted)
        with proxy.refusing_connections():
            said = "the object store could not be reached (EndpointConnectionError)"

            async def refused() -> bool:
                return (await pending_failures(handle)).get("delete_objects") == said

            await eventually(refused)
        fault.end()
        await complete(stack, handle, before, head.id)


async def test_keys_that_the_store_asks_to_try_again_are_and_the_others_need_not_be(stack: Stack, proxy: FaultProxy) -> None:
    """200, with SlowDown for some keys: the page shrinks to these, and the next request names no other."""
    head, _, comparison = compared(stack)
    before = Evidence.of(stack)
    slow = {physical(stack, head, key) for key in comparison.mask_keys[:2]}
    kind = refusing_keys("SlowDown", slow.__contains__, stack.server.access_key, stack.server.secret_key)
    async with stack.worker(s3_endpoint=proxy.endpoint):
        seen = proxy.begin(kind, only=lambda request: operation("DeleteObjects")(request) and bool({*request.keys} & slow))
        handle = await stack.start([head.id])
        said = await waiting(handle, "delete_objects")
        seen.end()
        again = proxy.begin(lambda exchange: exchange.forward(exchange.request), only=under(min(slow)))
        await complete(stack, handle, before, head.id)
    assert said == "2 keys are to be tried again (SlowDown 2)"
    first, *_ = seen.struck
    assert {*first.keys} > slow
    assert next({*request.keys} for request in again.struck if request.operation == "DeleteObjects") == slow


async def test_a_prefix_that_is_refused_is_left_over_by_code_and_gone_when_it_no_longer_is(
    stack: Stack, proxy: FaultProxy
) -> None:
    """200, with AccessDenied for all keys of a comparison, named ones and such as only a listing finds."""
    head, _, comparison = compared(stack)
    before = Evidence.of(stack)
    prefix = physical(stack, head, comparison.key.removesuffix("comparison.json"))
    refused = {key for key in stack.world.objects_of([head.id]) if key.startswith(prefix)}
    kind = refusing_keys("AccessDenied", refused.__contains__, stack.server.access_key, stack.server.secret_key)
    async with stack.worker(s3_endpoint=proxy.endpoint):
        fault = proxy.begin(kind, only=operation("DeleteObjects"))
        handle = await stack.start([head.id])
        assert f"{len(refused)} left over (AccessDenied {len(refused)})" in (await stack.failure(handle)).message
        assert stack.world.objects().keys() & stack.world.objects_of([head.id]) == refused
        assert stack.receipt(handle.id).left_over == {"AccessDenied": len(refused)}
        assert_promises_hold(stack, before, [stack.request([head.id])])
        fault.end()
        assert (await stack.delete([head.id])).complete
    assert_promises_hold(stack, before, [stack.request([head.id])])


# Refusals of a real server ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shut_in() -> Identity:
    return Identity("shut-in", ("Read", "List", "Write:shared/preprod/*/objects/*/manifest.json"))


@pytest.fixture(scope="module")
def limiting_server(tmp_path_factory: pytest.TempPathFactory, shut_in: Identity) -> Iterator[ObjectStoreServer]:
    with ObjectStoreServer(tmp_path_factory.mktemp("limiting"), identities=[shut_in]) as server:
        yield server


@pytest.mark.thorough
async def test_a_user_who_may_delete_under_some_prefixes_alone_leaves_the_others_over(
    stack: Stack, limiting_server: ObjectStoreServer, shut_in: Identity
) -> None:
    """The store's own AccessDenied, key by key: what may go is gone, and another user's worker ends it."""
    s3_of(limiting_server).create_bucket(Bucket="shared")
    stack.use_bucket("shared", limiting_server)
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    async with stack.worker(s3_access_key=shut_in.access_key, s3_secret_key=shut_in.secret_key):
        handle = await stack.start([head.id])
        assert (await stack.failure(handle)).type == "ObjectsRemain"
    left = stack.world.objects().keys() & stack.world.objects_of([head.id])
    assert physical(stack, head, head.manifest_key) not in left
    # Sealed for another usecase, a key is refused there too, where it never was.
    assert stack.receipt(handle.id).left_over.keys() == {"AccessDenied"}
    assert sum(stack.receipt(handle.id).left_over.values()) >= len(left) > 0
    assert_promises_hold(stack, before, [stack.request([head.id])])
    async with stack.worker():
        assert (await stack.delete([head.id])).complete
    assert_promises_hold(stack, before, [stack.request([head.id])])


@pytest.mark.thorough
async def test_a_manifest_that_a_policy_keeps_from_being_read_is_waited_for_before_any_row_goes(stack: Stack) -> None:
    """Forbidden is not absent: taken for it, what the manifest names would be orphaned. Without the policy it goes on."""
    head, _, comparison = compared(stack)
    before = Evidence.of(stack)
    async with stack.worker():
        with denied(stack, "s3:GetObject", physical(stack, head, comparison.key)):
            handle = await stack.start([head.id])
            assert await waiting(handle, "collect_keys") == "the object store answered AccessDenied (HTTP 403) to GetObject"
            assert stack.world.rows() == before.rows
        await complete(stack, handle, before, head.id)


@contextlib.contextmanager
def denied(stack: Stack, action: str, key: str) -> Iterator[None]:
    """A bucket policy, for as long as the context lasts. SeaweedFS's DeleteObjects asks none, so no delete is denied by one."""
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": f"arn:aws:s3:::{stack.bucket}/{key}"}
    stack.s3.put_bucket_policy(Bucket=stack.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    try:
        yield
    finally:
        stack.s3.delete_bucket_policy(Bucket=stack.bucket)
