"""Sentry's event store: trace items deleted and counted through Snuba, over HTTP with protobuf bodies.

The protocol is Snuba's (`snuba/web/rpc/v1`, messages from `sentry-protos`). `EndpointDeleteTraceItems` answers 200 when it has
accepted: rows were matched and a consumer deletes them minutes later. Asking again until nothing is matched confirms it.

`EndpointTraceItemTable` only reads. What a request must say so that zero means none was read in Snuba's source of August 2026:

- the times, since an unset end is 1970, and nothing is before it (`snuba/web/rpc/common/common.py`);
- the item type, which chooses the routing too: only some types, preprod among them, are read in full from the beginning on
  (`ITEM_TYPE_FULL_RETENTION` in `snuba/web/rpc/storage_routing`). The answer says whether it was read from a sample;
- a trace id as text, with or without dashes (`UUIDColumnProcessor`);
- a count that is not extrapolated. Of no row it is null, in one result (`countIfOrNull` without groups).

The traces of a project are its groups by trace id: ids, counts and last times, each a column. Pages begin at an offset, so a
trace that goes meanwhile may hide another, which the next look finds.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import urllib3
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from sentry_protos.snuba.v1.downsampled_storage_pb2 import DownsampledStorageConfig, DownsampledStorageMeta
from sentry_protos.snuba.v1.endpoint_delete_trace_items_pb2 import DeleteTraceItemsRequest, DeleteTraceItemsResponse
from sentry_protos.snuba.v1.endpoint_trace_item_table_pb2 import Column, TraceItemTableRequest, TraceItemTableResponse
from sentry_protos.snuba.v1.error_pb2 import Error
from sentry_protos.snuba.v1.request_common_pb2 import PageToken, RequestMeta, TraceItemType
from sentry_protos.snuba.v1.trace_item_attribute_pb2 import (
    AttributeAggregation,
    AttributeKey,
    AttributeValue,
    ExtrapolationMode,
    Function,
    StrArray,
)
from sentry_protos.snuba.v1.trace_item_filter_pb2 import ComparisonFilter, TraceItemFilter

from activities.one_of import slices
from activities.stores.traces import StoredTrace
from artifact_deletion.errors import TraceStoreRefused, TraceStoreUnavailable

_DELETE = "/rpc/EndpointDeleteTraceItems/v1"
_TABLE = "/rpc/EndpointTraceItemTable/v1"
_REFERRER = "artifact-deletion"
_LARGEST_ANSWER = 1 << 20
"""Bytes. An answer is a count or a page of traces; whatever is longer is not Snuba's."""
_IDS_A_COUNT = 500
"""Snuba answers 500 if its SQL is over 128 KiB (`MAX_QUERY_SIZE_BYTES`), and a trace id is 76 bytes of it."""
_SINCE, _UNTIL = Timestamp(seconds=86_400), Timestamp(seconds=4_291_747_200)
"""1970 and 2106: all that a ClickHouse DateTime holds, but for a margin in which no server's time zone matters."""
_TRACES_A_PAGE = 5000
"""Their answer stays below the largest."""
_COUNT, _TRACE, _WRITTEN = "count", "trace", "written"
_MOST = 2**53
"""A count comes as a double, which is exact below."""
_IN_FULL: Final = frozenset({DownsampledStorageMeta.SELECTED_TIER_UNSPECIFIED, DownsampledStorageMeta.SELECTED_TIER_1})
"""Older Snubas name the tier; newer ones say only whether there is a better one, which there is of every other tier."""
_TRACE_ID = AttributeKey(type=AttributeKey.TYPE_STRING, name="sentry.trace_id")
_COUNTED = AttributeAggregation(
    aggregate=Function.FUNCTION_COUNT,
    key=AttributeKey(type=AttributeKey.TYPE_INT, name="sentry.project_id"),  # no row is without it
    label=_COUNT,
    extrapolation_mode=ExtrapolationMode.EXTRAPOLATION_MODE_NONE,
)
_LAST = AttributeAggregation(
    aggregate=Function.FUNCTION_MAX,
    key=AttributeKey(type=AttributeKey.TYPE_DOUBLE, name="sentry.timestamp"),
    label=_WRITTEN,
    extrapolation_mode=ExtrapolationMode.EXTRAPOLATION_MODE_NONE,
)
_REFUSED = frozenset({400, 404})
_REFUSALS = ("No attribute-based deletions", "Invalid attributes", "Invalid value", "Invalid Columns")
"""How the messages of those 500s begin that mean: this will never be done."""
_TOO_MANY = "Too many rows to delete"
_NOT_SNUBAS = "the trace store's answer is not one of Snuba's"


class _TooManyRows(Exception):
    """A reason to halve; it never leaves this file."""


class SnubaTraces:
    """A TraceStore on Snuba that counts and lists too. Every request is one attempt: Temporal retries."""

    def __init__(self, url: str, *, timeout_s: float = 60) -> None:
        """`url`: where Snuba's API listens, such as http://snuba-api:1218."""
        self._url = url.rstrip("/")
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=min(timeout_s, 5), total=timeout_s), retries=False)

    def delete(
        self, organization_id: int, project_id: int, trace_ids: Sequence[str], before: Callable[[], None] = lambda: None
    ) -> tuple[int, int]:
        """See TraceStore. Raises TraceStoreRefused for an answer that asking again cannot change."""
        matched = self._delete(organization_id, project_id, trace_ids, before)
        return matched, matched

    def count(self, organization_id: int, project_id: int, trace_ids: Sequence[str]) -> int:
        """See CountsTraceItems. A row that is stored twice, and not merged yet, counts twice."""
        parts = slices(dict.fromkeys(trace_ids), _IDS_A_COUNT)
        return sum(self._count(_meta(organization_id, project_id), part) for part in parts)

    def list_traces(self, organization_id: int, project_id: int) -> Iterator[Sequence[StoredTrace]]:
        """See ListsTraces."""
        offset, before = 0, list[StoredTrace]()
        while page := self._list_traces(_meta(organization_id, project_id), offset):
            if page == before:
                raise TraceStoreRefused("the trace store answers the same page of traces again")
            yield page
            offset, before = offset + len(page), page

    def _delete(self, organization_id: int, project_id: int, trace_ids: Sequence[str], before: Callable[[], None]) -> int:
        before()
        meta = _meta(organization_id, project_id)
        try:
            return _matched(self._ask(_DELETE, DeleteTraceItemsRequest(meta=meta, trace_ids=trace_ids).SerializeToString()))
        except _TooManyRows:
            if len(trace_ids) == 1:
                raise TraceStoreRefused("the trace store says that one artifact alone has too many trace items") from None
        half, matched, refusal = len(trace_ids) // 2, 0, None
        for part in (trace_ids[:half], trace_ids[half:]):
            try:
                matched += self._delete(organization_id, project_id, part, before)
            except TraceStoreRefused as refused:  # the others are asked for all the same
                refusal = refused
        if refusal is not None:
            raise refusal
        return matched

    def _count(self, meta: RequestMeta, trace_ids: Sequence[str]) -> int:
        these = ComparisonFilter(
            key=_TRACE_ID, op=ComparisonFilter.OP_IN, value=AttributeValue(val_str_array=StrArray(values=trace_ids))
        )
        request = TraceItemTableRequest(
            meta=_in_full(meta),
            columns=[Column(label=_COUNT, aggregation=_COUNTED)],
            filter=TraceItemFilter(comparison_filter=these),
            limit=1,
        )
        return _counted(self._table(request))

    def _list_traces(self, meta: RequestMeta, offset: int) -> list[StoredTrace]:
        trace = Column(label=_TRACE, key=_TRACE_ID)
        request = TraceItemTableRequest(
            meta=_in_full(meta),
            columns=[trace, Column(label=_COUNT, aggregation=_COUNTED), Column(label=_WRITTEN, aggregation=_LAST)],
            group_by=[_TRACE_ID],
            order_by=[TraceItemTableRequest.OrderBy(column=trace)],
            page_token=PageToken(offset=offset),
            limit=_TRACES_A_PAGE,
        )
        return _listed(self._table(request))

    def _table(self, request: TraceItemTableRequest) -> TraceItemTableResponse:
        """An answer to this request, from the whole table. Nothing that is missing may read as none."""
        with contextlib.suppress(DecodeError):
            response = TraceItemTableResponse.FromString(self._ask(_TABLE, request.SerializeToString()))
            meta = response.meta
            if meta.request_id == request.meta.request_id and meta.HasField("downsampled_storage_meta"):
                read = meta.downsampled_storage_meta
                if read.can_go_to_higher_accuracy_tier or read.tier not in _IN_FULL:
                    raise TraceStoreRefused("the trace store counts trace items in a sample only")
                return response
        raise TraceStoreUnavailable(_NOT_SNUBAS)

    def _ask(self, path: str, body: bytes) -> bytes:
        """The answer, if it is one. Too many rows are a matter of deletions alone."""
        status, answer = self._post(path, body)
        if status == 200:  # noqa: PLR2004  HTTP
            return answer
        message = _message(answer)
        if path == _DELETE and message.startswith(_TOO_MANY):
            raise _TooManyRows
        if status in _REFUSED or message.startswith(_REFUSALS):
            raise TraceStoreRefused(f"the trace store refuses the request for good (HTTP {status})")
        raise TraceStoreUnavailable(f"the trace store answered HTTP {status}")

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        headers, url = {"referer": _REFERRER, "content-type": "application/x-protobuf"}, self._url + path
        try:
            answer = self._http.request("POST", url, body=body, headers=headers, redirect=False, preload_content=False)
            try:
                return answer.status, answer.read(_LARGEST_ANSWER)
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TraceStoreUnavailable(f"the trace store could not be reached ({type(error).__name__})") from None


def _meta(organization_id: int, project_id: int) -> RequestMeta:
    return RequestMeta(
        organization_id=organization_id,
        project_ids=[project_id],
        referrer=_REFERRER,
        cogs_category="preprod",
        trace_item_type=TraceItemType.TRACE_ITEM_TYPE_PREPROD,
        request_id=uuid.uuid4().hex,
    )


def _matched(answer: bytes) -> int:
    # A count of none is no bytes at all, and so is a gateway's empty answer: Snuba's has a meta with the request's id.
    with contextlib.suppress(DecodeError):
        response = DeleteTraceItemsResponse.FromString(answer)
        if response.HasField("meta"):
            return int(response.matching_items_count)
    raise TraceStoreUnavailable(_NOT_SNUBAS)


def _in_full(meta: RequestMeta) -> RequestMeta:
    """Of items of any age, and no sample."""
    meta.start_timestamp.CopyFrom(_SINCE)
    meta.end_timestamp.CopyFrom(_UNTIL)
    meta.downsampled_storage_config.mode = DownsampledStorageConfig.MODE_HIGHEST_ACCURACY
    return meta


def _counted(response: TraceItemTableResponse) -> int:
    columns = response.column_values
    if len(columns) == 1 and columns[0].attribute_name == _COUNT and len(columns[0].results) == 1:
        result = columns[0].results[0]
        return 0 if result.is_null and result.WhichOneof("value") is None else _count_of(result)
    raise TraceStoreUnavailable(_NOT_SNUBAS)


def _listed(response: TraceItemTableResponse) -> list[StoredTrace]:
    columns = {one.attribute_name: one.results for one in response.column_values}
    if not columns:
        return []
    sizes = {len(results) for results in columns.values()}
    if columns.keys() != {_TRACE, _COUNT, _WRITTEN} or len(sizes) != 1 or max(sizes) > _TRACES_A_PAGE:
        raise TraceStoreUnavailable(_NOT_SNUBAS)
    rows = zip(columns[_TRACE], columns[_COUNT], columns[_WRITTEN], strict=True)
    return [StoredTrace(_trace_id(trace), _count_of(items), _moment(written)) for trace, items, written in rows]


def _count_of(result: AttributeValue) -> int:
    value = result.val_double
    if result.WhichOneof("value") == "val_double" and not result.is_null and value.is_integer() and 0 <= value < _MOST:
        return int(value)
    raise TraceStoreUnavailable(_NOT_SNUBAS)


def _trace_id(result: AttributeValue) -> str:
    try:
        return uuid.UUID(result.val_str).hex
    except ValueError:
        raise TraceStoreUnavailable(_NOT_SNUBAS) from None


def _moment(result: AttributeValue) -> datetime:
    seconds = result.val_double
    if result.WhichOneof("value") == "val_double" and _SINCE.seconds <= seconds <= _UNTIL.seconds:
        return datetime.fromtimestamp(seconds, UTC)
    raise TraceStoreUnavailable(_NOT_SNUBAS)


def _message(answer: bytes) -> str:
    # A proxy in between answers with a page of its own.
    try:
        return str(Error.FromString(answer).message)
    except DecodeError:
        return ""
