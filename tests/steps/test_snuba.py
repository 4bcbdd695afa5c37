"""Trace items through Snuba's protocol: every status that it answers with, and what a network does in between."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import delete, update

from activities.backend.contract import ArtifactRef
from activities.backend.keys import trace_id
from activities.backend.trace_items import TraceItem
from activities.ledger import holds
from activities.ledger.schema import DeletionChunk
from activities.stores import guards
from activities.stores.snuba import SnubaTraces
from artifact_deletion.client import progress
from artifact_deletion.errors import TraceStoreRefused, TraceStoreUnavailable
from demo.world import Snapshot
from tests import fault_proxy
from tests.fault_proxy import Kind, Matches, answering
from tests.faults.test_faults import attempts
from tests.oracle import Evidence, assert_promises_hold
from tests.snuba_server import Answer, SnubaServer, error
from tests.stack import Seen, Stack, eventually, pending_failures

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
TRACES = [trace_id(ArtifactRef(1, 2, number)) for number in range(8)]
SECRET = "marker-of-a-customer"
COUNTED = "3 trace items are still counted; they are counted again in a while"


def with_items(server: SnubaServer, each: int = 3) -> SnubaServer:
    server.items = {(1, 2, trace): each for trace in TRACES} | {(1, 3, TRACES[0]): 5, (9, 2, TRACES[0]): 5}
    return server


def test_accepted_is_not_gone_until_nothing_is_matched() -> None:
    """200 means queued: the consumer deletes later, and only counting again tells."""
    with with_items(SnubaServer()) as server:
        store = SnubaTraces(server.url)
        assert store.delete(1, 2, TRACES) == (24, 24)
        assert store.delete(1, 2, TRACES) == (24, 24)
        server.consume()
        assert store.delete(1, 2, TRACES) == (0, 0)
    assert server.items == {(1, 3, TRACES[0]): 5, (9, 2, TRACES[0]): 5}, "another project's and organization's stay"
    assert set(server.referers) == {"artifact-deletion"}


def test_too_many_rows_are_asked_for_in_halves() -> None:
    with with_items(SnubaServer(most_rows=7, consumes_at_once=True)) as server:
        assert SnubaTraces(server.url).delete(1, 2, TRACES) == (24, 24)
        assert max(len(request.trace_ids) for request in server.requests) == 8
        assert SnubaTraces(server.url).delete(1, 2, TRACES) == (0, 0)


def test_one_artifact_with_too_many_rows_is_a_final_answer_and_the_others_go() -> None:
    with with_items(SnubaServer(most_rows=7, consumes_at_once=True)) as server:
        server.items[1, 2, TRACES[2]] = 8
        with pytest.raises(TraceStoreRefused, match="one artifact alone"):
            SnubaTraces(server.url).delete(1, 2, TRACES)
    assert {trace for _, project, trace in server.items if project == 2} == {TRACES[0], TRACES[2]}, "of organization 9, and it"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, SECRET),
        (404, SECRET),
        (500, f"No attribute-based deletions configured for item_type {SECRET}"),
        (500, f"Invalid attributes {SECRET}"),
        (500, f"Invalid value {SECRET}"),
        (500, f"Invalid Columns {SECRET}"),
    ],
)
def test_what_will_never_be_done_is_final(status: int, message: str) -> None:
    with SnubaServer(answers=[lambda: error(status, message)]) as server, pytest.raises(TraceStoreRefused) as refused:
        SnubaTraces(server.url).delete(1, 2, TRACES)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_once_and_left_to_temporal(status: int) -> None:
    with SnubaServer(answers=[lambda: error(status, SECRET)]) as server, pytest.raises(TraceStoreUnavailable) as unavailable:
        SnubaTraces(server.url).delete(1, 2, TRACES)
    assert len(server.requests) == 1
    assert SECRET not in str(unavailable.value)
    assert str(status) in str(unavailable.value)


def answer_with(status: int, body: bytes) -> Answer:
    return status, body


@pytest.mark.parametrize("status", [200, 502, 302])
def test_a_page_of_a_proxy_is_no_answer(status: int) -> None:
    """Nor is an empty one: as protobuf it would say that nothing was matched, and so that all is gone."""
    for page in (b"<html><body>Bad gateway</body></html>", b""):
        with SnubaServer(answers=[partial(answer_with, status, page)]) as server, pytest.raises(TraceStoreUnavailable):
            SnubaTraces(server.url).delete(1, 2, TRACES)


def test_a_connection_that_hangs_ends_with_its_time_out() -> None:
    with SnubaServer() as server:
        server.answers = [server.hanging]
        with pytest.raises(TraceStoreUnavailable, match="could not be reached"):
            SnubaTraces(server.url, timeout_s=0.3).delete(1, 2, TRACES)


def test_nobody_listening_is_unavailable() -> None:
    with SnubaServer() as server:
        url = server.url
    with pytest.raises(TraceStoreUnavailable):
        SnubaTraces(url, timeout_s=1).delete(1, 2, TRACES)


# The whole path --------------------------------------------------------------------------------------------------------


@pytest.fixture
def snuba() -> Iterator[SnubaServer]:
    with SnubaServer() as server:
        yield server


def counted(server: SnubaServer, snapshots: list[Snapshot]) -> None:
    """Three trace items of each snapshot, and as many of the same ones in another project."""
    for one in snapshots:
        place = one.artifact
        server.items[place.organization_id, place.project_id, place.trace_id] = 3
        server.items[place.organization_id, place.project_id + 1, place.trace_id] = 3


def asked_of(server: SnubaServer, one: Snapshot) -> int:
    """How many requests named the snapshot's trace id."""
    return sum(one.artifact.trace_id in request.trace_ids for request in server.requests)


@on_sqlite
async def test_a_deletion_asks_until_no_trace_item_is_counted_any_more(stack: Stack, snuba: SnubaServer) -> None:
    """The consumer deletes only after the second request: accepted twice, the deletion goes on asking, and confirms.

    The pauses are Temporal's, so that no worker need live through them, and they leave nothing in the history.
    """
    head, kept = stack.snapshots("head", "kept")
    counted(snuba, [head, kept])
    before = dict(snuba.items)
    async with stack.worker(trace_store="snuba", snuba_url=snuba.url, trace_items_pause_s=0.1):
        handle = await stack.start([head.id])

        async def asked_twice() -> bool:
            return asked_of(snuba, head) >= 2

        await eventually(asked_twice)
        assert (await pending_failures(handle))["delete_trace_items"] == COUNTED
        snuba.consume()
        await handle.result()
        assert (await progress(stack.client, handle.id)).trace_items_matched == 3
    receipt = stack.receipt(handle.id)
    assert receipt.complete
    assert (receipt.trace_items.state, receipt.trace_items.matched) == ("confirmed", 3)
    assert receipt.trace_items.confirmed_at is not None
    place = head.artifact
    assert before.keys() - snuba.items.keys() == {(place.organization_id, place.project_id, place.trace_id)}
    assert [attempt > 2 for attempt, _ in await attempts(handle, "delete_trace_items")] == [True]


@on_sqlite
async def test_trace_items_that_are_counted_to_the_end_are_left_over_until_a_rerun_confirms_them(
    stack: Stack, snuba: SnubaServer
) -> None:
    """A consumer that stands still: all else is done, the receipt says "unconfirmed", and no one calls it complete."""
    (head,) = stack.snapshots("head")
    counted(snuba, [head])
    before = Seen.of(stack.world)
    async with stack.worker(trace_store="snuba", snuba_url=snuba.url, trace_items_pause_s=0.1, trace_items_within_s=1):
        handle = await stack.start([head.id])
        failure = await stack.failure(handle)
        assert failure.type == "ObjectsRemain"
        assert "TraceItemsUnconfirmed 1" in failure.message
        receipt = stack.receipt(handle.id)
        assert (receipt.trace_items.state, receipt.trace_items.unconfirmed_artifacts) == ("unconfirmed", 1)
        assert receipt.left_over == {"TraceItemsUnconfirmed": 1}
        assert Seen.of(stack.world).objects.keys() == before.objects.keys() - stack.world.objects_of([head.id])
        assert 2 <= asked_of(snuba, head) <= 6, "each pause is as long as it was asked for so far: 0.1, 0.2, 0.4, … seconds"

        snuba.consume()
        receipt = await stack.delete([head.id])
    assert receipt.complete
    assert receipt.trace_items.state == "confirmed"


@pytest.mark.thorough
@on_sqlite
async def test_a_hold_takes_no_time_from_what_trace_items_are_waited_for(
    stack: Stack, snuba: SnubaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held for ten days between two questions: let go, the trace store has all its time once more."""
    (head,) = stack.snapshots("head")
    counted(snuba, [head])
    monkeypatch.setattr(guards, "FRESH_S", 0.0)
    async with stack.worker(trace_store="snuba", snuba_url=snuba.url, trace_items_pause_s=0.1):
        handle = await stack.start([head.id])

        async def counts() -> bool:
            return (await pending_failures(handle)).get("delete_trace_items") == COUNTED

        async def held() -> bool:
            return bool((await progress(stack.client, handle.id)).held)

        await eventually(counts)
        placed = holds.place(stack.database, holds.On.EVERYTHING, "", reason="a test", by="user:7")
        await eventually(held)
        with stack.database.write() as session:
            ten_days_ago = datetime.now(UTC) - timedelta(days=10)
            session.execute(update(DeletionChunk).values(trace_items_asked_at=ten_days_ago))
            holds.lift(session, [placed.id], by="user:7")
        await eventually(counts)
        snuba.consume()
        await handle.result()
    assert stack.receipt(handle.id).trace_items.state == "confirmed"


@on_sqlite
async def test_a_trace_store_that_is_down_is_waited_for_in_plain_sight(stack: Stack, snuba: SnubaServer) -> None:
    """An operator reads why nothing moves; the answers come back, and no one has to do anything after."""
    (head,) = stack.snapshots("head")
    counted(snuba, [head])
    snuba.consumes_at_once = True
    snuba.answers = [lambda: error(503, SECRET)] * 1000
    async with stack.worker(trace_store="snuba", snuba_url=snuba.url, trace_items_pause_s=0.1):
        handle = await stack.start([head.id])

        async def failure() -> str | None:
            return (await pending_failures(handle)).get("delete_trace_items")

        assert await eventually(failure) == "the trace store answered HTTP 503"
        snuba.answers.clear()
        await handle.result()
    assert stack.receipt(handle.id).trace_items.state == "confirmed"


@on_sqlite
async def test_what_the_trace_store_refuses_for_good_is_left_over_at_once(stack: Stack, snuba: SnubaServer) -> None:
    """A final answer is not asked for again: it is reported, after all else has been done."""
    (head,) = stack.snapshots("head")
    counted(snuba, [head])
    snuba.answers = [lambda: error(400, SECRET)]
    async with stack.worker(trace_store="snuba", snuba_url=snuba.url):
        handle = await stack.start([head.id])
        assert (await stack.failure(handle)).type == "ObjectsRemain"
    assert len(snuba.requests) == 1
    assert stack.receipt(handle.id).left_over == {"TraceItemsUnconfirmed": 1}


def without_sql_items(stack: Stack, *names: str) -> dict[str, Snapshot]:
    """Snapshots whose trace items are Snuba's alone."""
    snapshots = dict(zip(names, stack.snapshots(*names), strict=True))
    with stack.database.write() as session:
        session.execute(delete(TraceItem))
    return snapshots


def about(snapshot: Snapshot) -> Matches:
    return lambda request: snapshot.artifact.trace_id.encode() in request.body


@pytest.mark.thorough
@on_sqlite
async def test_whatever_may_pass_costs_an_attempt_and_no_more(stack: Stack, snuba: SnubaServer) -> None:
    """Each status and each way in which a connection breaks, once: asked again, and then the count is none."""
    kinds: dict[str, Kind] = {
        str(status): answering(status, body=error(status, SECRET)[1]) for status in (401, 403, 408, 429, 500, 502, 503, 504)
    } | {
        "a gateway's page": answering(200, body=b"<html><body>Please log in</body></html>"),
        "an empty answer": answering(200, body=b""),
        "reset before Snuba heard of it": fault_proxy.unreached,
        "reset after Snuba accepted": fault_proxy.unheard,
        "reset in the middle of the answer": fault_proxy.cut,
        "half an answer": fault_proxy.truncated,
        "no answer after Snuba accepted": fault_proxy.withheld,
    }
    snapshots = without_sql_items(stack, *kinds)
    counted(snuba, list(snapshots.values()))
    snuba.consumes_at_once = True
    before = Evidence.of(stack)
    with fault_proxy.FaultProxy(snuba.url) as proxy:
        faults = {name: proxy.begin(kind, only=about(snapshots[name]), times=1) for name, kind in kinds.items()}
        settings = {"snuba_url": proxy.endpoint, "snuba_timeout_s": 2, "trace_items_pause_s": 0.1}
        async with stack.worker(trace_store="snuba", **settings):
            handles = {name: await stack.start([one.id]) for name, one in snapshots.items()}
            for name, handle in handles.items():
                await handle.result()
                assert stack.receipt(handle.id).trace_items.state == "confirmed", name
    assert [name for name, fault in faults.items() if not fault.struck] == []
    assert not {one.artifact.trace_id for one in snapshots.values()} & {
        trace for (_, project, trace) in snuba.items if project == next(iter(snapshots.values())).artifact.project_id
    }
    assert_promises_hold(stack, before, [stack.request([one.id]) for one in snapshots.values()])


@pytest.mark.thorough
@on_sqlite
async def test_whatever_is_refused_for_good_is_left_over_and_confirmed_by_a_rerun_once_it_is_not(
    stack: Stack, snuba: SnubaServer
) -> None:
    """Asked once, reported after all else is done; when Snuba has been mended, the same deletion ends complete."""
    refusals = {"400": SECRET, "404": SECRET} | {
        f"500 {begins}": f"{begins} {SECRET}"
        for begins in ("No attribute-based deletions", "Invalid attributes", "Invalid value", "Invalid Columns")
    }
    snapshots = without_sql_items(stack, *refusals)
    counted(snuba, list(snapshots.values()))
    snuba.consumes_at_once = True
    before = Evidence.of(stack)
    requests = [stack.request([one.id]) for one in snapshots.values()]
    with fault_proxy.FaultProxy(snuba.url) as proxy:
        faults = [
            proxy.begin(answering(int(name[:3]), body=error(int(name[:3]), message)[1]), only=about(snapshots[name]))
            for name, message in refusals.items()
        ]
        async with stack.worker(trace_store="snuba", snuba_url=proxy.endpoint, trace_items_pause_s=0.1):
            handles = [await stack.start([one.id]) for one in snapshots.values()]
            for handle in handles:
                assert (await stack.failure(handle)).type == "ObjectsRemain"
                assert stack.receipt(handle.id).left_over == {"TraceItemsUnconfirmed": 1}
            assert [len(fault.struck) for fault in faults] == [1] * len(faults)
            assert_promises_hold(stack, before, requests)
            proxy.clear()
            for one in snapshots.values():
                assert (await stack.delete([one.id])).trace_items.state == "confirmed"
    assert_promises_hold(stack, before, requests)


@on_sqlite
async def test_what_is_refused_for_one_project_keeps_no_other_from_its_end(stack: Stack, snuba: SnubaServer) -> None:
    """A chunk of two projects: the first is answered for good that it will never be done, the second is done."""
    (head,) = stack.snapshots("head")
    other = stack.world.snapshot(stack.world.project(stack.organization_id, "site"), head.images)
    snuba.items = {(one.organization_id, one.project_id, one.trace_id): 3 for one in (head.artifact, other.artifact)}
    snuba.consumes_at_once = True
    snuba.answers = [lambda: error(400, SECRET)]
    async with stack.worker(trace_store="snuba", snuba_url=snuba.url):
        handle = await stack.start([head.id, other.id])
        assert (await stack.failure(handle)).type == "ObjectsRemain"
    assert [trace for _, _, trace in snuba.items] == [head.artifact.trace_id]
    assert stack.receipt(handle.id).left_over == {"TraceItemsUnconfirmed": 2}


@on_sqlite
async def test_without_a_trace_store_the_receipt_says_unchecked(stack: Stack) -> None:
    (head,) = stack.snapshots("head")
    async with stack.worker(trace_store="none"):
        receipt = await stack.delete([head.id])
    assert receipt.complete
    assert (receipt.trace_items.state, receipt.trace_items.confirmed_at) == ("unchecked", None)
    assert head.artifact.trace_id in {item["trace_id"] for item in stack.world.rows()["trace_items"].values()}
