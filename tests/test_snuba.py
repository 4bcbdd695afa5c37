"""Trace items through Snuba's protocol: every status that it answers with, and what a network does in between."""

import pytest

from activities.storage.keys import ArtifactRef
from activities.storage.snuba import SnubaTraces
from tests.snuba_server import SnubaServer, error
from workflows.errors import TraceStoreRefused, TraceStoreUnavailable

TRACES = [ArtifactRef(1, 2, number).trace_id for number in range(8)]
SECRET = "marker-of-a-customer"


def with_items(server: SnubaServer, each: int = 3) -> SnubaServer:
    server.items = {(1, 2, trace): each for trace in TRACES} | {(1, 3, TRACES[0]): 5, (9, 2, TRACES[0]): 5}
    return server


def test_accepted_is_not_gone_until_nothing_is_matched() -> None:
    """200 means queued: the consumer deletes later, and only counting again tells."""
    with with_items(SnubaServer()) as server:
        store = SnubaTraces(server.url)
        assert store.delete(1, 2, TRACES) == 24
        assert store.delete(1, 2, TRACES) == 24
        server.consume()
        assert store.delete(1, 2, TRACES) == 0
    assert server.items == {(1, 3, TRACES[0]): 5, (9, 2, TRACES[0]): 5}, "another project's and organization's stay"
    assert set(server.referers) == {"artifact-deletion"}


def test_too_many_rows_are_asked_for_in_halves() -> None:
    with with_items(SnubaServer(most_rows=7, consumes_at_once=True)) as server:
        assert SnubaTraces(server.url).delete(1, 2, TRACES) == 24
        assert max(len(request.trace_ids) for request in server.requests) == 8
        assert SnubaTraces(server.url).delete(1, 2, TRACES) == 0


def test_one_artifact_with_too_many_rows_is_a_final_answer() -> None:
    with with_items(SnubaServer(most_rows=2)) as server, pytest.raises(TraceStoreRefused, match="one artifact alone"):
        SnubaTraces(server.url).delete(1, 2, TRACES)


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


@pytest.mark.parametrize("status", [200, 502, 302])
def test_a_page_of_a_proxy_is_no_answer(status: int) -> None:
    page = b"<html><body>Bad gateway</body></html>"
    with SnubaServer(answers=[lambda: (status, page)]) as server, pytest.raises(TraceStoreUnavailable):
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
