"""Sentry's event store: trace items deleted through Snuba's `EndpointDeleteTraceItems`, over HTTP with protobuf bodies.

The protocol is Snuba's (`snuba/web/rpc/v1/endpoint_delete_trace_items.py`, messages from `sentry-protos`). An answer 200 means
accepted: rows were matched and a consumer deletes them minutes later. Asking again until nothing is matched confirms it.
"""

import contextlib
import uuid
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import urllib3
from google.protobuf.message import DecodeError
from sentry_protos.snuba.v1.endpoint_delete_trace_items_pb2 import DeleteTraceItemsRequest, DeleteTraceItemsResponse
from sentry_protos.snuba.v1.error_pb2 import Error
from sentry_protos.snuba.v1.request_common_pb2 import RequestMeta, TraceItemType

from artifact_deletion.errors import TraceStoreRefused, TraceStoreUnavailable

_PATH = "/rpc/EndpointDeleteTraceItems/v1"
_REFERRER = "artifact-deletion"
_LARGEST_ANSWER = 1 << 20
"""Bytes. An answer is a count; whatever is longer is not Snuba's."""
_REFUSED = frozenset({400, 404})
_REFUSALS = ("No attribute-based deletions", "Invalid attributes", "Invalid value", "Invalid Columns")
"""How the messages of those 500s begin that mean: this will never be done."""
_TOO_MANY = "Too many rows to delete"


class _TooManyRows(Exception):
    """A reason to halve; it never leaves this file."""


class SnubaTraces:
    """A TraceStore on Snuba. Every call of the protocol is one attempt: Temporal retries."""

    def __init__(self, url: str, *, timeout_s: float = 60) -> None:
        """`url`: where Snuba's API listens, such as http://snuba-api:1218."""
        self._url = f"{url.rstrip('/')}{_PATH}"
        self._host = urlsplit(url).hostname or ""
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=min(timeout_s, 5), total=timeout_s), retries=False)

    def delete(
        self, organization_id: int, project_id: int, trace_ids: Sequence[str], before: Callable[[], None] = lambda: None
    ) -> tuple[int, int]:
        """See TraceStore. Raises TraceStoreRefused for an answer that asking again cannot change."""
        matched = self._delete(organization_id, project_id, trace_ids, before)
        return matched, matched

    def _delete(self, organization_id: int, project_id: int, trace_ids: Sequence[str], before: Callable[[], None]) -> int:
        before()
        try:
            return self._ask(organization_id, project_id, trace_ids)
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

    def _ask(self, organization_id: int, project_id: int, trace_ids: Sequence[str]) -> int:
        meta = RequestMeta(
            organization_id=organization_id,
            project_ids=[project_id],
            referrer=_REFERRER,
            cogs_category="preprod",
            trace_item_type=TraceItemType.TRACE_ITEM_TYPE_PREPROD,
            request_id=uuid.uuid4().hex,
        )
        body = DeleteTraceItemsRequest(meta=meta, trace_ids=trace_ids).SerializeToString()
        status, answer = self._post(body)
        if status == 200:  # noqa: PLR2004  HTTP
            return _matched(answer)
        message = _message(answer)
        if message.startswith(_TOO_MANY):
            raise _TooManyRows
        if status in _REFUSED or message.startswith(_REFUSALS):
            raise TraceStoreRefused(f"the trace store refuses the request for good (HTTP {status})")
        raise TraceStoreUnavailable(f"the trace store answered HTTP {status}")

    def _post(self, body: bytes) -> tuple[int, bytes]:
        headers = {"referer": _REFERRER, "content-type": "application/x-protobuf"}
        try:
            answer = self._http.request("POST", self._url, body=body, headers=headers, redirect=False, preload_content=False)
            try:
                return answer.status, answer.read(_LARGEST_ANSWER)
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TraceStoreUnavailable(f"the trace store could not be reached ({type(error).__name__})") from None


def _matched(answer: bytes) -> int:
    # A count of none is no bytes at all, and so is a gateway's empty answer: Snuba's has a meta with the request's id.
    with contextlib.suppress(DecodeError):
        response = DeleteTraceItemsResponse.FromString(answer)
        if response.HasField("meta"):
            return int(response.matching_items_count)
    raise TraceStoreUnavailable("the trace store's answer is not one of Snuba's")


def _message(answer: bytes) -> str:
    # A proxy in between answers with a page of its own.
    try:
        return str(Error.FromString(answer).message)
    except DecodeError:
        return ""
