"""A stand-in for Snuba, since no real one runs here: a local server that speaks its protocol, real protobuf both ways.

What it demands and answers was read in Snuba's source of August 2026 (getsentry/snuba, `snuba/web/rpc`). Of the table endpoint
it was also seen: that code was run by hand on ClickHouse in one process, and answered the client's own requests.
"""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from sentry_protos.snuba.v1.downsampled_storage_pb2 import DownsampledStorageConfig
from sentry_protos.snuba.v1.endpoint_delete_trace_items_pb2 import DeleteTraceItemsRequest, DeleteTraceItemsResponse
from sentry_protos.snuba.v1.endpoint_trace_item_table_pb2 import TraceItemTableRequest, TraceItemTableResponse
from sentry_protos.snuba.v1.error_pb2 import Error
from sentry_protos.snuba.v1.request_common_pb2 import TraceItemType
from sentry_protos.snuba.v1.trace_item_attribute_pb2 import (
    AttributeAggregation,
    AttributeKey,
    AttributeValue,
    ExtrapolationMode,
    Function,
)
from sentry_protos.snuba.v1.trace_item_filter_pb2 import ComparisonFilter

Answer = tuple[int, bytes]
Items = dict[tuple[int, int, str], int]
"""How many items (organization, project, trace id) has."""

MOST_SQL = 128 * 1024
"""Bytes (`MAX_QUERY_SIZE_BYTES`)."""
A_TRACE_IDS_SQL = 76
"""Bytes, as the SQL was that was seen: each trace id stands in it twice."""
SAMPLE = 8
DEFAULT_LIMIT = 10_000
NORMALIZED = {
    "sentry.trace_id": AttributeKey.TYPE_STRING,
    "sentry.project_id": AttributeKey.TYPE_INT,
    "sentry.timestamp": AttributeKey.TYPE_DOUBLE,
}
"""Some columns of a trace item, and a type of each; of all but the time the only one."""
GROUPED = [(Function.FUNCTION_COUNT, "sentry.project_id"), (Function.FUNCTION_MAX, "sentry.timestamp")]
NOT_EXTRAPOLATED = {ExtrapolationMode.EXTRAPOLATION_MODE_UNSPECIFIED, ExtrapolationMode.EXTRAPOLATION_MODE_NONE}


class _Refused(Exception):
    """What Snuba refuses, with the status and the message."""


def error(status: int, message: str) -> Answer:
    """What Snuba answers when it refuses: the status, and an Error as protobuf."""
    return status, Error(code=status, message=message).SerializeToString()


@dataclass
class SnubaServer:
    """A real server must be a ClickHouse with a consumer; this one keeps trace ids in a dict.

    A request that is accepted is queued; `consume` deletes what was queued, as the consumer does minutes later.
    """

    items: Items = field(default_factory=dict)
    """Of the type of preprod artifacts."""
    spans: Items = field(default_factory=dict)
    """Of another type. A count tells them apart, a deletion by trace ids takes all types."""
    written: int = field(default_factory=lambda: int(time.time()))
    """The timestamp of every item."""
    samples: bool = False
    """Whether it reads from a sample whatever it is asked for: by its setting `default_tier`, or in a version that does not yet
    know that this type is to be read in full."""
    answers: list[Callable[[], Answer]] = field(default_factory=list)
    """What to answer to the next requests instead."""
    most_rows: int | None = None
    """More than that in one request is "Too many rows"."""
    consumes_at_once: bool = False
    requests: list[DeleteTraceItemsRequest] = field(default_factory=list)
    counts: list[TraceItemTableRequest] = field(default_factory=list)
    referers: list[str | None] = field(default_factory=list)
    hang: threading.Event = field(default_factory=threading.Event)
    _queued: set[tuple[int, int, str]] = field(default_factory=set)

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, answer = outer.answer(self.path, body, self.headers.get("referer"))
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def consume(self) -> None:
        """Do what the consumer does."""
        for key in self._queued:
            self.items.pop(key, None)
            self.spans.pop(key, None)
        self._queued.clear()

    def answer(self, path: str, body: bytes, referer: str | None) -> Answer:
        self.referers.append(referer)
        endpoints = {"/rpc/EndpointDeleteTraceItems/v1": self._delete, "/rpc/EndpointTraceItemTable/v1": self._table}
        if path not in endpoints:
            return error(404, "no such endpoint")
        return endpoints[path](body)

    def _delete(self, body: bytes) -> Answer:
        request = DeleteTraceItemsRequest.FromString(body)
        self.requests.append(request)
        if self.answers:
            return self.answers.pop(0)()
        if request.filters or request.meta.trace_item_type != TraceItemType.TRACE_ITEM_TYPE_PREPROD:
            return error(500, "No attribute-based deletions configured for item_type preprod")
        keys = [
            (request.meta.organization_id, project, trace)
            for project in request.meta.project_ids
            for trace in request.trace_ids
        ]
        matched = sum(self.items.get(key, 0) + self.spans.get(key, 0) for key in keys)
        if self.most_rows is not None and matched > self.most_rows:
            return error(500, f"Too many rows to delete ({matched}), maximum allowed is {self.most_rows}")
        self._queued |= {key for key in keys if key in self.items or key in self.spans}
        if self.consumes_at_once:
            self.consume()
        response = DeleteTraceItemsResponse(matching_items_count=matched)
        response.meta.request_id = request.meta.request_id
        return 200, response.SerializeToString()

    def _table(self, body: bytes) -> Answer:
        request = TraceItemTableRequest.FromString(body)
        self.counts.append(request)
        if self.answers:
            return self.answers.pop(0)()
        try:
            if request.group_by:
                return 200, self.grouped(request).SerializeToString()
            weight, traces = _weight_of(request), _traces_of(request)
        except _Refused as refused:
            return error(*refused.args)
        found, sampled = self._found(request)
        counted = sum(items for trace, items in found.items() if traces is None or trace in traces)
        rows = (counted // SAMPLE if sampled else counted) * weight
        return 200, table(request, rows, sampled=sampled).SerializeToString()

    def _found(self, request: TraceItemTableRequest) -> tuple[dict[str, int], bool]:
        """How many items each trace has, and whether only a sample is read."""
        meta = request.meta
        # The types that are not preprod's fall to a sample when the time begins before their retention: here all of them.
        preprod = meta.trace_item_type == TraceItemType.TRACE_ITEM_TYPE_PREPROD
        highest = meta.downsampled_storage_config.mode == DownsampledStorageConfig.MODE_HIGHEST_ACCURACY
        in_time = meta.start_timestamp.seconds <= self.written < meta.end_timestamp.seconds
        found = {
            trace: items
            for (organization, project, trace), items in (self.items if preprod else self.spans).items()
            if (organization, project in meta.project_ids) == (meta.organization_id, True) and in_time
        }
        return found, self.samples or not preprod or not highest

    def grouped(self, request: TraceItemTableRequest) -> TraceItemTableResponse:
        """A page of traces. Of no row there is no column: each is made by the first row."""
        labels = _labels_of_groups(request)
        found, sampled = self._found(request)
        rows = sorted(found.items())[request.page_token.offset :][: request.limit or DEFAULT_LIMIT]
        response = TraceItemTableResponse()
        for label, values in zip(labels, _columns(rows, self.written), strict=True):
            if values:
                response.column_values.add(attribute_name=label, results=values)
        response.page_token.offset = request.page_token.offset + len(rows)
        _say_how_read(response, request, sampled=sampled)
        return response

    def hanging(self) -> Answer:
        """A connection that never answers, until the test ends."""
        self.hang.wait()
        return error(503, "")


def table(request: TraceItemTableRequest, rows: int, *, sampled: bool = False) -> TraceItemTableResponse:
    """The answer to a count. Of no row it is null: ClickHouse counts with `countIfOrNull`, and there are no groups."""
    response = TraceItemTableResponse()
    column = response.column_values.add(attribute_name=request.columns[0].label)
    if rows:
        column.results.add(val_double=rows)
    else:
        column.results.add(is_null=True)
    response.page_token.offset = 1
    _say_how_read(response, request, sampled=sampled)
    return response


def _say_how_read(response: TraceItemTableResponse, request: TraceItemTableRequest, *, sampled: bool) -> None:
    response.meta.request_id = request.meta.request_id
    response.meta.query_info.add()
    response.meta.downsampled_storage_meta.can_go_to_higher_accuracy_tier = sampled


def _columns(rows: list[tuple[str, int]], written: int) -> tuple[list[AttributeValue], ...]:
    return (
        [AttributeValue(val_str=trace) for trace, _ in rows],
        [AttributeValue(val_double=items) for _, items in rows],
        [AttributeValue(val_double=written) for _ in rows],
    )


def _labels_of_groups(request: TraceItemTableRequest) -> list[str]:
    """Of the trace id, the count and the last time. Refuses all other columns, groups and orders."""
    labels = [one.label for one in request.columns]
    keys = {one.key.name for one in request.columns if one.HasField("key")}
    if keys != (groups := {one.name for one in request.group_by}):
        raise _Refused(400, f"Non aggregated columns should be in group_by. {keys}, {groups}")
    if not {one.column.label for one in request.order_by} <= set(labels):
        raise _Refused(400, "Ordered by columns not selected")
    trace, *aggregated = request.columns
    asked = [(one.aggregation.aggregate, one.aggregation.key.name) for one in aggregated]
    if groups != {"sentry.trace_id"} or asked != GROUPED or [one.column.key.name for one in request.order_by] != [*groups]:
        raise _Refused(400, "this stand-in groups by nothing but trace ids, in their order, for counts and last times")
    for key in (trace.key, *(one.aggregation.key for one in aggregated)):
        _demand_type(key)
    return labels


def _weight_of(request: TraceItemTableRequest) -> int:
    """How many items each row is said to stand for. Refuses all but one count of rows, without groups."""
    if not request.columns:
        raise _Refused(400, "At least one column must be specified in the request")
    if request.meta.trace_item_type == TraceItemType.TRACE_ITEM_TYPE_UNSPECIFIED:
        raise _Refused(400, "This endpoint requires meta.trace_item_type to be set")
    _uuid(request.meta.request_id, "badly formed hexadecimal UUID string")
    (column,) = request.columns
    counted: AttributeAggregation = column.aggregation
    if counted.aggregate != Function.FUNCTION_COUNT:
        raise _Refused(400, "this stand-in only counts where there are no groups")
    _demand_type(counted.key)
    return 1 if counted.extrapolation_mode in NOT_EXTRAPOLATED else 10


def _traces_of(request: TraceItemTableRequest) -> set[str] | None:
    """Which trace ids are asked for; all, without a filter."""
    if not request.HasField("filter"):
        return None
    these = request.filter.comparison_filter
    if these.key.name != "sentry.trace_id" or these.op != ComparisonFilter.OP_IN:
        raise _Refused(400, "this stand-in filters by nothing but trace ids")
    _demand_type(these.key)
    if these.value.WhichOneof("value") is None:
        raise _Refused(400, "comparison does not have a right hand side")
    traces = these.value.val_str_array.values
    if (size := 300 + A_TRACE_IDS_SQL * len(traces)) > MOST_SQL:
        too_long = f"After processing, query is {size} bytes, which is too long for ClickHouse to process."
        raise _Refused(500, f"{too_long} Max size is {MOST_SQL} bytes.")
    return {_uuid(trace, "Not a valid UUID string").hex for trace in traces}


def _demand_type(key: AttributeKey) -> None:
    if key.type != NORMALIZED[key.name]:
        expected, given = AttributeKey.Type.Name(NORMALIZED[key.name]), AttributeKey.Type.Name(key.type)
        raise _Refused(400, f"Attribute {key.name} must be one of [{expected}], got {given}")


def _uuid(text: str, message: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise _Refused(500, f"internal error occurred while executing this RPC call: {message}") from None
