"""A small HTTP server that answers as object stores of public reports did, and notes what it was asked.

A fake: no real store can be made to answer like this whenever a test wants it to.
"""

import contextlib
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from xml.sax.saxutils import escape

from mypy_boto3_s3 import S3Client

from activities.stores.s3 import S3Objects
from activities.stores.s3_wire import s3_client
from tests.fault_proxy import Request

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
Version = tuple[str, str]


class Reply(NamedTuple):
    """An answer; without a status the connection is closed in its place."""

    body: bytes
    status: int | None = 200
    length: int | None = None
    headers: Mapping[str, str] = {}


def client_of(endpoint: str) -> S3Client:
    return s3_client(
        endpoint=endpoint,
        region="us-east-1",
        access_key="private-access-key",
        secret_key="private-secret",
        connections=2,
        connect_timeout_s=2,
        read_timeout_s=2,
    )


class Answers(ThreadingHTTPServer):
    """Answers all requests in one way, which a test chooses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.client = client_of(f"http://127.0.0.1:{self.server_port}")
        self.asked: list[Request] = []

    def give(self, *replies: Reply | bytes, versioned: bool | None = False) -> S3Objects:
        """Answer so from now on, one after the other, and on with the last. Returns a store that gets the answers."""
        left = [one if isinstance(one, Reply) else Reply(one) for one in replies]
        return self.by(lambda _: left.pop(0) if len(left) > 1 else left[0], versioned=versioned)

    def by(self, answer: Callable[[Request], Reply], *, versioned: bool | None = False) -> S3Objects:
        """The same, with an answer for each request."""
        self.answer, self.asked = answer, []
        return S3Objects(self.client, "private-bucket", versioned)

    @property
    def operations(self) -> list[str]:
        return [request.operation for request in self.asked]


class _Answer(BaseHTTPRequestHandler):
    server: Answers

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, self.headers.items(), body)
        self.server.asked.append(request)
        reply = self.server.answer(request)
        self.close_connection = True
        if reply.status is None:
            return
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
        for name, text in reply.headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT = answer  # noqa: N815  the base class's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def answering() -> Iterator[Answers]:
    with Answers() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# What stores say -------------------------------------------------------------------------------------------------------


def refusal(code: str, status: int) -> Reply:
    return Reply(f"<Error><Code>{code}</Code><Message>private</Message><Key>private</Key></Error>".encode(), status)


def element(name: str, *inside: str, **texts: object) -> str:
    of_texts = "".join(f"<{one}>{escape(str(text))}</{one}>" for one, text in texts.items())
    return f"<{name}>{''.join(inside)}{of_texts}</{name}>"


def deleted(*errors: dict[str, str]) -> bytes:
    entries = "".join(element("Error", **one) for one in errors)
    return f"<DeleteResult {NAMESPACE}>{entries}</DeleteResult>".encode()


def objects(*keys: str, **said: object) -> bytes:
    """A page of ListObjectsV2."""
    entries = [element("Contents", Key=key, Size=1, ETag='"e"', LastModified="2026-11-27T21:00:00Z") for key in keys]
    return f"<ListBucketResult {NAMESPACE}>{''.join(entries)}{element('x', **said)[3:-4]}</ListBucketResult>".encode()


def versions(*found: Version | Mapping[str, object], **said: object) -> bytes:
    """A page of ListObjectVersions."""
    written = "2026-11-27T21:00:00Z"
    whole = [
        one if isinstance(one, Mapping) else {"Key": one[0], "VersionId": one[1], "LastModified": written} for one in found
    ]
    entries = [element("Version", **one) for one in whole]
    return f"<ListVersionsResult {NAMESPACE}>{''.join(entries)}{element('x', **said)[3:-4]}</ListVersionsResult>".encode()


def uploads(*found: Version | Mapping[str, object], **said: object) -> bytes:
    """A page of ListMultipartUploads."""
    whole = [one if isinstance(one, Mapping) else {"Key": one[0], "UploadId": one[1]} for one in found]
    entries = [element("Upload", **one) for one in whole]
    name = "ListMultipartUploadsResult"
    return f"<{name} {NAMESPACE}>{''.join(entries)}{element('x', **said)[3:-4]}</{name}>".encode()


def asked_for(request: Request) -> list[Version]:
    """The keys and versions of a DeleteObjects request."""
    found = []
    for one in ET.fromstring(request.body):
        parts = {part.tag.rpartition("}")[2]: part.text or "" for part in one}
        if "Key" in parts:
            found.append((parts["Key"], parts.get("VersionId", "")))
    return found


@dataclass
class FakeVersions:
    """A bucket with versions: an index that is listed, and data that are read. They can differ."""

    index: set[Version]
    page: int = 1000
    refuses_markers_outside: bool = False
    """As MinIO did before September 2023."""
    drops_after_missing: bool = False
    """As moto 5.2.5 does: the first version after a marker that is no key is passed over."""
    data: set[Version] = field(init=False)

    def __post_init__(self) -> None:
        self.data = set(self.index)

    def __call__(self, request: Request) -> Reply:
        if request.operation == "DeleteObjects":
            gone = asked_for(request)
            self.index.difference_update(gone)
            self.data.difference_update(gone)
            return Reply(deleted())
        assert request.operation == "ListObjectVersions", request.operation
        return self._list({name: values[0] for name, values in request.query.items()})

    def _list(self, asked: dict[str, str]) -> Reply:
        prefix, marker = asked.get("prefix", ""), asked.get("key-marker", "")
        if self.refuses_markers_outside and not marker.startswith(prefix) and marker:
            return refusal("NotImplemented", 501)
        after = (marker, asked.get("version-id-marker", "\U0010ffff"))
        found = sorted(one for one in self.index if one[0].startswith(prefix) and one > after)
        if self.drops_after_missing and marker and marker not in {key for key, _ in self.index}:
            found = found[1:]
        shown, rest = found[: self.page], found[self.page :]
        said = {"NextKeyMarker": shown[-1][0], "NextVersionIdMarker": shown[-1][1]} if rest else {}
        return Reply(versions(*shown, IsTruncated=str(bool(rest)).lower(), **said))


def keys_of(parts: Sequence[Sequence[object]]) -> list[str]:
    """The keys of what a store listed."""
    return [getattr(one, "key") for part in parts for one in part]  # noqa: B009
