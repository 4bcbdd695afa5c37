"""Trace items through Snuba's protocol: every status that it answers with, and what a network does in between."""

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sentry_protos.snuba.v1.downsampled_storage_pb2 import DownsampledStorageMeta
from sentry_protos.snuba.v1.endpoint_trace_item_table_pb2 import TraceItemTableResponse
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
from tests.snuba_server import Answer, SnubaServer, error, table
from tests.stack import Seen, Stack, eventually, pending_failures

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
TRACES = [trace_id(ArtifactRef(1, 2, number)) for number in range(8)]
SECRET = "marker-of-a-customer"
COUNTED = "3 trace items are still counted; they are counted again in a while"
either_way = pytest.mark.parametrize("asks", [SnubaTraces.delete, SnubaTraces.count])
Asks = Callable[..., Any]


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


@either_way
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
def test_what_will_never_be_done_is_final(status: int, message: str, asks: Asks) -> None:
    with SnubaServer(answers=[lambda: error(status, message)]) as server, pytest.raises(TraceStoreRefused) as refused:
        asks(SnubaTraces(server.url), 1, 2, TRACES)
    assert SECRET not in str(refused.value)


@either_way
@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_once_and_left_to_temporal(status: int, asks: Asks) -> None:
    with SnubaServer(answers=[lambda: error(status, SECRET)]) as server, pytest.raises(TraceStoreUnavailable) as unavailable:
        asks(SnubaTraces(server.url), 1, 2, TRACES)
    assert len(server.requests) + len(server.counts) == 1
    assert SECRET not in str(unavailable.value)
    assert str(status) in str(unavailable.value)


def answer_with(status: int, body: bytes) -> Answer:
    return status, body


@either_way
@pytest.mark.parametrize("status", [200, 502, 302])
def test_a_page_of_a_proxy_is_no_answer(status: int, asks: Asks) -> None:
    """Nor is an empty one: as protobuf it would say that nothing was matched, and so that all is gone."""
    for page in (b"<html><body>Bad gateway</body></html>", b""):
        with SnubaServer(answers=[partial(answer_with, status, page)]) as server, pytest.raises(TraceStoreUnavailable):
            asks(SnubaTraces(server.url), 1, 2, TRACES)


@either_way
def test_a_connection_that_hangs_ends_with_its_time_out(asks: Asks) -> None:
    with SnubaServer() as server:
        server.answers = [server.hanging]
        with pytest.raises(TraceStoreUnavailable, match="could not be reached"):
            asks(SnubaTraces(server.url, timeout_s=0.3), 1, 2, TRACES)


@either_way
def test_nobody_listening_is_unavailable(asks: Asks) -> None:
    with SnubaServer() as server:
        url = server.url
    with pytest.raises(TraceStoreUnavailable):
        asks(SnubaTraces(url, timeout_s=1), 1, 2, TRACES)


# Counting --------------------------------------------------------------------------------------------------------------


def test_these_preprod_items_are_counted_and_stay() -> None:
    """Not another project's or organization's, nor what is of another type in the same trace."""
    with with_items(SnubaServer(spans={(1, 2, TRACES[0]): 100})) as server:
        before, store = dict(server.items), SnubaTraces(server.url)
        assert store.count(1, 2, TRACES) == 24
        assert store.count(1, 2, TRACES[:2]) == 6
        assert (store.count(1, 3, TRACES), store.count(9, 2, TRACES)) == (5, 5)
        assert store.count(1, 2, [str(uuid.UUID(TRACES[0]))]) == 3, "with dashes it is the same trace"
        server.consume()
    assert (server.items, server.requests) == (before, []), "nothing was asked to be deleted"
    assert set(server.referers) == {"artifact-deletion"}


def test_of_what_is_not_there_none_is_counted() -> None:
    with with_items(SnubaServer()) as server:
        store = SnubaTraces(server.url)
        assert store.count(1, 2, [uuid.uuid4().hex]) == 0
        assert (store.count(1, 4, TRACES), store.count(2, 2, TRACES)) == (0, 0)
        assert store.count(1, 2, []) == 0


def test_what_is_queued_is_counted_until_it_is_gone() -> None:
    with with_items(SnubaServer()) as server:
        store = SnubaTraces(server.url)
        store.delete(1, 2, TRACES)
        assert store.count(1, 2, TRACES) == 24
        server.consume()
        assert store.count(1, 2, TRACES) == 0


def test_many_traces_are_counted_in_parts_and_each_trace_once() -> None:
    """In one part Snuba's SQL would be longer than it lets through."""
    many = [uuid.uuid4().hex for _ in range(2000)]
    with SnubaServer({(1, 2, trace): 2 for trace in many[::100]}) as server:
        assert SnubaTraces(server.url).count(1, 2, many + many[:300]) == 40
    asked = [list(request.filter.comparison_filter.value.val_str_array.values) for request in server.counts]
    assert [len(traces) for traces in asked] == [500] * 4
    assert [trace for traces in asked for trace in traces] == many


@pytest.mark.parametrize("age", [timedelta(days=-2), timedelta(0), timedelta(days=4000)])
def test_an_item_of_any_age_is_counted(age: timedelta) -> None:
    """A clock that is ahead of ours may have written it."""
    with with_items(SnubaServer(written=int(time.time() - age.total_seconds()))) as server:
        assert SnubaTraces(server.url).count(1, 2, TRACES) == 24
    assert server.counts[0].meta.start_timestamp.seconds >= 86_400, "in no server's time zone is it before 1970"


def test_a_count_in_a_sample_is_none() -> None:
    """One item of eight is in it: none may be there, and seven are."""
    with with_items(SnubaServer(samples=True), each=1) as server, pytest.raises(TraceStoreRefused, match="sample"):
        SnubaTraces(server.url).count(1, 2, TRACES[:7])


def answering_with(change: Callable[[TraceItemTableResponse], Any]) -> int:
    """What is made of Snuba's answer that five were counted, after this change."""
    with SnubaServer() as server:

        def answer() -> Answer:
            response = table(server.counts[-1], 5)
            change(response)
            return 200, response.SerializeToString()

        server.answers = [answer]
        return SnubaTraces(server.url).count(1, 2, TRACES)


def test_what_an_older_snuba_says_of_a_sample_is_heard() -> None:
    """It names the tier."""

    def names(tier: DownsampledStorageMeta.SelectedTier.ValueType) -> Callable[[TraceItemTableResponse], Any]:
        return lambda response: setattr(response.meta.downsampled_storage_meta, "tier", tier)

    assert answering_with(names(DownsampledStorageMeta.SELECTED_TIER_1)) == 5
    with pytest.raises(TraceStoreRefused, match="sample"):
        answering_with(names(DownsampledStorageMeta.SELECTED_TIER_8))


def of_result(**values: Any) -> Callable[[TraceItemTableResponse], Any]:
    """Another value in the only result; without any, a result that says nothing."""

    def change(response: TraceItemTableResponse) -> None:
        result = response.column_values[0].results[0]
        result.Clear()
        for name, value in values.items():
            setattr(result, name, value)

    return change


def test_a_count_of_none_is_null_or_zero() -> None:
    assert answering_with(lambda _: None) == 5
    assert answering_with(of_result(is_null=True)) == 0
    assert answering_with(of_result(val_double=0.0)) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda response: response.Clear(),
        lambda response: response.ClearField("meta"),
        lambda response: setattr(response.meta, "request_id", uuid.uuid4().hex),
        lambda response: response.meta.ClearField("downsampled_storage_meta"),
        lambda response: response.ClearField("column_values"),
        lambda response: response.column_values.add(attribute_name="count"),
        lambda response: setattr(response.column_values[0], "attribute_name", "max"),
        lambda response: response.column_values[0].ClearField("results"),
        lambda response: response.column_values[0].results.add(val_double=1),
        of_result(),
        of_result(val_str="0"),
        of_result(val_int=0),
        of_result(val_double=5, is_null=True),
        of_result(val_double=-1),
        of_result(val_double=0.5),
        of_result(val_double=float("nan")),
        of_result(val_double=float("inf")),
        of_result(val_double=2.0**53),
    ],
)
def test_what_is_no_count_is_no_answer(change: Callable[[TraceItemTableResponse], Any]) -> None:
    """Above all it is not none."""
    with pytest.raises(TraceStoreUnavailable, match="not one of Snuba's"):
        answering_with(change)


def test_half_an_answer_is_no_answer() -> None:
    """Wherever it is cut off: in protobuf, what is absent is zero."""
    with SnubaServer() as server:
        store = SnubaTraces(server.url)
        store.count(1, 2, TRACES)

        def answer(length: int) -> Answer:
            return 200, table(server.counts[-1], 5).SerializeToString()[:length]

        for length in range(len(answer(1000)[1])):
            server.answers = [partial(answer, length)]
            with pytest.raises(TraceStoreUnavailable):
                store.count(1, 2, TRACES)
    assert len(server.counts) > 50


def test_too_many_rows_is_no_answer_to_a_count() -> None:
    """Only a deletion can be halved."""
    with SnubaServer(answers=[lambda: error(500, "Too many rows to delete")]) as server, pytest.raises(TraceStoreUnavailable):
        SnubaTraces(server.url).count(1, 2, TRACES)


def test_half_a_page_of_traces_is_no_page() -> None:
    with SnubaServer(items={(1, 2, one): 1 for one in TRACES}) as server:
        store = SnubaTraces(server.url)
        assert [len(page) for page in store.list_traces(1, 2)] == [len(TRACES)]

        def answer(length: int) -> Answer:
            server.counts[-1].page_token.offset = 0
            return 200, server.grouped(server.counts[-1]).SerializeToString()[:length]

        for length in range(len(answer(10_000)[1])):
            server.answers = [partial(answer, length)]
            with pytest.raises(TraceStoreUnavailable):
                list(store.list_traces(1, 2))
    assert len(server.counts) > 100


def test_a_page_that_comes_again_is_the_last_one() -> None:
    """From a server that passes over the place where a page begins there would be no end of them."""
    with SnubaServer(items={(1, 2, one): 1 for one in TRACES}) as server:

        def first_page() -> Answer:
            server.counts[-1].page_token.offset = 0
            return 200, server.grouped(server.counts[-1]).SerializeToString()

        server.answers = [first_page] * 3
        with pytest.raises(TraceStoreRefused, match="the same page"):
            list(SnubaTraces(server.url).list_traces(1, 2))
        assert len(server.answers) == 1


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
async def test_verify_counts_trace_items_before_a_deletion_and_none_after(stack: Stack, snuba: SnubaServer) -> None:
    """Until the consumer has deleted them, they are there: a receipt without them is not enough."""
    head, kept = stack.snapshots("head", "kept")
    counted(snuba, [head, kept])
    settings: dict[str, Any] = {"trace_store": "snuba", "snuba_url": snuba.url, "trace_items_pause_s": 0.1}
    request = stack.request([head.id])
    assert stack.verify(request, **settings).trace_items == 3
    async with stack.worker(**settings):
        handle = await stack.start([head.id])

        async def asked() -> bool:
            return asked_of(snuba, head) >= 1

        await eventually(asked)
        assert stack.verify(request, **settings).trace_items == 3
        snuba.consume()
        await handle.result()
    asked_to_delete, stay = len(snuba.requests), dict(snuba.items)
    found = stack.verify(request, **settings)
    assert (found.trace_items, found.places.present) == (0, [])
    assert (len(snuba.requests), snuba.items) == (asked_to_delete, stay), "it only counts"
    place = kept.artifact
    assert stay[place.organization_id, place.project_id, place.trace_id] == 3


@pytest.mark.thorough
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


@pytest.mark.thorough
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
