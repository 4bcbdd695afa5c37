"""A local server that speaks Snuba's protocol: real protobuf both ways, and a consumer that deletes when it is told to."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from sentry_protos.snuba.v1.endpoint_delete_trace_items_pb2 import DeleteTraceItemsRequest, DeleteTraceItemsResponse
from sentry_protos.snuba.v1.error_pb2 import Error
from sentry_protos.snuba.v1.request_common_pb2 import TraceItemType

Answer = tuple[int, bytes]


def error(status: int, message: str) -> Answer:
    """What Snuba answers when it refuses: the status, and an Error as protobuf."""
    return status, Error(code=status, message=message).SerializeToString()


@dataclass
class SnubaServer:
    """A real server must be a ClickHouse with a consumer; this one keeps trace ids in a dict.

    A request that is accepted is queued; `consume` deletes what was queued, as the consumer does minutes later.
    """

    items: dict[tuple[int, int, str], int] = field(default_factory=dict)
    """How many items (organization, project, trace id) has."""
    answers: list[Callable[[], Answer]] = field(default_factory=list)
    """What to answer to the next requests instead."""
    most_rows: int | None = None
    """More than that in one request is "Too many rows"."""
    consumes_at_once: bool = False
    requests: list[DeleteTraceItemsRequest] = field(default_factory=list)
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
        self._queued.clear()

    def answer(self, path: str, body: bytes, referer: str | None) -> Answer:
        request = DeleteTraceItemsRequest.FromString(body)
        self.requests.append(request)
        self.referers.append(referer)
        if self.answers:
            return self.answers.pop(0)()
        if path != "/rpc/EndpointDeleteTraceItems/v1":
            return error(404, "no such endpoint")
        if request.filters or request.meta.trace_item_type != TraceItemType.TRACE_ITEM_TYPE_PREPROD:
            return error(500, "No attribute-based deletions configured for item_type preprod")
        keys = [
            (request.meta.organization_id, project, trace)
            for project in request.meta.project_ids
            for trace in request.trace_ids
        ]
        matched = sum(self.items.get(key, 0) for key in keys)
        if self.most_rows is not None and matched > self.most_rows:
            return error(500, f"Too many rows to delete ({matched}), maximum allowed is {self.most_rows}")
        self._queued |= {key for key in keys if key in self.items}
        if self.consumes_at_once:
            self.consume()
        response = DeleteTraceItemsResponse(matching_items_count=matched)
        response.meta.request_id = request.meta.request_id
        return 200, response.SerializeToString()

    def hanging(self) -> Answer:
        """A connection that never answers, until the test ends."""
        self.hang.wait()
        return error(503, "")
