"""A proxy in front of a real server, in which a test switches faults on and off.

HTTP, for the object store and the trace store: what a fault does not concern is forwarded byte for byte, Host header included,
since a request's signature covers it. All of it may be used from many threads.

    with FaultProxy(server.endpoint) as proxy:
        slow = proxy.begin(answering(503, "SlowDown"), only=operation("DeleteObjects"), times=3)
        ...
        slow.end()
"""

import base64
import contextlib
import hashlib
import http.client
import socket
import struct
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from demo.servers import reserved_port

_LOOK_UP_S = 0.02
_HOP_BY_HOP = frozenset({"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"})
_BY_QUERY = {
    ("POST", "delete"): "DeleteObjects",
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", "versions"): "ListObjectVersions",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "versioning"): "GetBucketVersioning",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
}
_BY_METHOD = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    target: str
    """Path and query, as they were sent."""
    headers: Sequence[tuple[str, str]]
    body: bytes

    @cached_property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @cached_property
    def operation(self) -> str:
        """The name that S3's reference has for it."""
        for (method, name), operation_name in _BY_QUERY.items():
            if method == self.method and name in self.query:
                return operation_name
        return _BY_METHOD.get(self.method, self.method)

    @cached_property
    def keys(self) -> Sequence[str]:
        """The keys that it asks for; for a listing, the prefix."""
        if self.operation == "DeleteObjects":
            return [one.text or "" for one in ET.fromstring(self.body).iter() if _local(one) == "Key"]
        if "prefix" in self.query:
            return self.query["prefix"]
        return [unquote(urlsplit(self.target).path).lstrip("/").partition("/")[2]]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


class ConnectionDropped(Exception):
    """A fault raises it to reset the connection, `sent` of the answer's bytes being on their way."""

    def __init__(self, sent: bytes = b"") -> None:
        super().__init__()
        self.sent = sent


@dataclass(frozen=True)
class Exchange:
    """A request that a fault is to strike."""

    request: Request
    forward: Callable[[Request], Answer]
    """Ask the real server."""
    over: threading.Event
    """Set when the fault ends."""
    gone: Callable[[], bool]
    """Whether the client waits no more."""


Kind = Callable[[Exchange], Answer]
"""What a fault does with a request: answer it, or raise ConnectionDropped."""
Matches = Callable[[Request], bool]


@dataclass(frozen=True)
class Fault:
    """A fault that strikes the requests it concerns, all or the first `times`, until its end."""

    kind: Kind
    only: Matches
    times: int | None
    struck: list[Request] = field(default_factory=list)
    """The requests that it struck."""
    has_struck: threading.Event = field(default_factory=threading.Event)
    """Set with the first of them."""
    over: threading.Event = field(default_factory=threading.Event)

    def end(self) -> None:
        self.over.set()


class FaultProxy:
    """A server on 127.0.0.1 that forwards to another, a thread a connection."""

    def __init__(self, upstream: str) -> None:
        """`upstream`: the real server's URL, such as http://127.0.0.1:8333."""
        self.upstream = urlsplit(upstream).netloc
        self._resources = contextlib.ExitStack()
        self._faults: list[Fault] = []
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listening: tuple[ThreadingHTTPServer, threading.Thread] | None = None

    def __enter__(self) -> Self:
        self._port = self._resources.enter_context(reserved_port())
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._hang_up()
        self._resources.close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def begin(self, kind: Kind, *, only: Matches = lambda _: True, times: int | None = None) -> Fault:
        """Switch a fault on. Where several concern a request, the one that began first strikes."""
        fault = Fault(kind, only, times)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """End every fault."""
        with self._lock:
            for fault in self._faults:
                fault.end()
            self._faults.clear()

    @contextlib.contextmanager
    def refusing_connections(self) -> Iterator[None]:
        """No one listens, and each that was connected is reset."""
        self._hang_up()
        try:
            yield
        finally:
            self._listen()

    def _listen(self) -> None:
        server = _Server(self, self._port)
        thread = threading.Thread(target=server.serve_forever, args=(_LOOK_UP_S,), name="fault-proxy")
        thread.start()
        self._listening = server, thread

    def _hang_up(self) -> None:
        if self._listening is None:
            return
        server, thread = self._listening
        self._listening = None
        server.shutdown()
        thread.join()
        server.socket.close()
        with self._lock:
            for connection in self._connections:
                reset_when_closed(connection)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads from it, and tells no one else
        server.server_close()  # waits for the threads of its connections

    def answer(self, request: Request, forward: Callable[[Request], Answer], gone: Callable[[], bool]) -> Answer:
        """Called by the threads of connections."""
        fault = self._striking(request)
        return forward(request) if fault is None else fault.kind(Exchange(request, forward, fault.over, gone))

    def _striking(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                spent = fault.times is not None and len(fault.struck) >= fault.times
                if not fault.over.is_set() and not spent and fault.only(request):
                    fault.struck.append(request)
                    fault.has_struck.set()
                    return fault
        return None

    def connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, port: int) -> None:
        self.proxy = proxy
        self.daemon_threads = False  # so that server_close waits for them
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.proxy.connected(request)  # before its thread is: to hang up is to know all of them
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.proxy.disconnected(request)
        # Only closed, for a FIN before it would make a reset look like an orderly end.
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def exchange(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        request = Request(self.command, self.path, self.headers.items(), body)
        try:
            answer = self.server.proxy.answer(request, self._forward, self._gone)
        except ConnectionDropped as dropped:
            self.wfile.write(dropped.sent)
            self._drop()
        except (OSError, http.client.HTTPException):  # the real server is down
            self._drop()
        else:
            self.wfile.write(_encoded(answer, request))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = exchange  # noqa: N815  the names that http.server looks for

    def _drop(self) -> None:
        reset_when_closed(self.connection)
        self.close_connection = True

    def _forward(self, request: Request) -> Answer:
        # A server may close a connection between two requests: each has one of its own, and none is sent twice.
        connection = http.client.HTTPConnection(self.server.proxy.upstream, timeout=60)
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in {"connection", "expect"}:
                    connection.putheader(name, value)
            connection.endheaders(request.body)
            found = connection.getresponse()
            return Answer(found.status, found.getheaders(), found.read())
        finally:
            connection.close()

    def _gone(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def _encoded(answer: Answer, request: Request) -> bytes:
    headers = [(name, value) for name, value in answer.headers if name.lower() not in _HOP_BY_HOP]
    length = next((value for name, value in answer.headers if name.lower() == "content-length"), "0")
    headers.append(("Content-Length", length if request.method == "HEAD" else str(len(answer.body))))
    head = f"HTTP/1.1 {answer.status} {http.client.responses.get(answer.status, '')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{head}\r\n".encode("latin-1") + (b"" if request.method == "HEAD" else answer.body)


def reset_when_closed(connection: socket.socket) -> None:
    """Have a connection end as in a crash: no FIN, but RST."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


# Which requests -----------------------------------------------------------------------------------------------------------


def operation(*names: str) -> Matches:
    """Requests of these operations of S3."""
    return lambda request: request.operation in names


def under(prefix: str) -> Matches:
    """Requests for a key, or the listing of a prefix, under this one."""
    return lambda request: any(key.startswith(prefix) for key in request.keys)


# What happens to them -----------------------------------------------------------------------------------------------------


def answering(status: int, code: str = "", *, body: bytes | None = None) -> Kind:
    """An error of S3's, or any body, without asking the real server."""
    if body is None:
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>made up</Message></Error>'.encode()
    answer = Answer(status, [("Content-Type", "application/xml")], body)
    return lambda _: answer


def unreached(exchange: Exchange) -> Answer:
    """The connection is reset, and the server never hears of the request."""
    raise ConnectionDropped


def unheard(exchange: Exchange) -> Answer:
    """The server acts, and the connection is reset before a byte of its answer."""
    exchange.forward(exchange.request)
    raise ConnectionDropped


def cut(exchange: Exchange) -> Answer:
    """The server acts, and the connection is reset in the middle of its answer's body."""
    whole = exchange.forward(exchange.request)
    sent = _encoded(whole, exchange.request)
    raise ConnectionDropped(sent[: len(sent) - (len(whole.body) + 1) // 2])


def withheld(exchange: Exchange) -> Answer:
    """The server acts, and its answer does not come: the client's own time-out ends it, or the fault's end."""
    exchange.forward(exchange.request)
    while not exchange.over.wait(_LOOK_UP_S) and not exchange.gone():
        pass
    raise ConnectionDropped


def truncated(exchange: Exchange) -> Answer:
    """The server acts; half of its answer comes, as if that were all."""
    whole = exchange.forward(exchange.request)
    return Answer(whole.status, whole.headers, whole.body[: len(whole.body) // 2])


def refusing_keys(code: str, chosen: Callable[[str], bool], access_key: str, secret_key: str) -> Kind:
    """DeleteObjects answers 200, with this error for each chosen key; the real server is asked for the others alone.

    The credentials sign that smaller request.
    """

    def refuse(exchange: Exchange) -> Answer:
        asked = ET.fromstring(exchange.request.body)
        refused = {one: key for one in asked for part in one if _local(part) == "Key" and chosen(key := part.text or "")}
        for one in refused:
            asked.remove(one)
        errors = "".join(
            f"<Error><Key>{escape(key)}</Key><Code>{code}</Code><Message>made up</Message></Error>" for key in refused.values()
        )
        answer = Answer(200, [("Content-Type", "application/xml")], b"<DeleteResult/>")
        if any(_local(one) == "Object" for one in asked):
            answer = exchange.forward(_signed_anew(exchange.request, ET.tostring(asked), access_key, secret_key))
            assert answer.status == 200, answer
        result = ET.fromstring(answer.body)
        result.extend(ET.fromstring(f"<Errors>{errors}</Errors>"))
        return Answer(200, answer.headers, ET.tostring(result))

    return refuse


def _signed_anew(request: Request, body: bytes, access_key: str, secret_key: str) -> Request:
    kept = {name: value for name, value in request.headers if name.lower() in {"host", "content-type"}}
    kept["Content-MD5"] = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    anew = AWSRequest(request.method, f"http://{kept.pop('Host')}{request.target}", kept, body)
    S3SigV4Auth(Credentials(access_key, secret_key), "s3", "us-east-1").add_auth(anew)
    host = [("Host", value) for name, value in request.headers if name.lower() == "host"]
    return Request(request.method, request.target, [*host, *anew.headers.items(), ("Content-Length", str(len(body)))], body)
