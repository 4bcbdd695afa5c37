"""Manifests come from strangers: whatever stands in one, reading it ends in words, in time, and in bounded memory.

`EXAMPLES=100000 python -m pytest --all tests/unit/test_hostile_manifests.py` tries more, drawn anew.
"""

import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from activities.backend.contract import ArtifactRef, Names, Places, Stray, UnreadableManifest
from activities.backend.keys import Scopes, WhyStray, comparison_prefix
from activities.backend.manifests import (
    MAX_MANIFEST_VALUES,
    comparison_manifest,
    diff_mask_keys,
    image_hashes,
    parse_manifest,
)
from activities.backend.own_keys import MAX_KEY_BYTES
from activities.backend.sentry import SentryBackend
from activities.database import Database
from activities.ledger.chunks import pack_strays
from activities.plan import Plan, Planner, Seen
from tests.memory_store import MemoryStore
from tests.stack import ROOT

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
many = settings(
    max_examples=EXAMPLES or 3000,
    deadline=None,
    database=None,
    derandomize=not EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
HEAD = ArtifactRef(1, 11, 4)
MINE = comparison_prefix(HEAD, 42)
PLANNER = Planner(
    SentryBackend(Database("sqlite://"), Scopes("{usecase}/{organization_id}/{project_id}/", ("preprod",))),
    MemoryStore(),
    manifest_limit_bytes=1,
    reads=ThreadPoolExecutor(1),
    readers=1,
    parsing=threading.BoundedSemaphore(),
)
"""Of which nothing is asked here but what it makes of strays."""
KEYS = (f"{MINE}diff/a.png", f"{MINE}../a", f"{MINE}\ud800", "1/11/42/4/diff/a.png", f"{MINE}{'é' * 600}", "", "/", "\x00")
TOKENS = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b'"',
        b"\\",
        b"\\ud800",
        b"\\u0000",
        b'"images"',
        b'"diff_mask_key"',
        b'"content_hash"',
    ),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"7" * 4301, b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b" ", b"\x00", json.dumps(KEYS[0]).encode(), b'{"images": {"a": {"diff_mask_key": '),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(KEYS), st.text(st.characters(codec=None), max_size=8)
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=8,
)
images = st.dictionaries(
    st.one_of(st.sampled_from(KEYS), st.text(st.characters(codec=None), max_size=4)),
    st.one_of(anything, st.fixed_dictionaries({}, optional={"diff_mask_key": anything, "content_hash": anything})),
    max_size=6,
)
manifests = st.one_of(
    anything, st.fixed_dictionaries({"images": st.one_of(images, images, anything)}, optional={"images ": images})
)


def encoded(manifest: Any, encoding: str, *, plain: bool) -> bytes:
    return json.dumps(manifest, ensure_ascii=plain).encode(encoding, "surrogatepass")


texts = st.builds(
    encoded, manifests, st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32")), plain=st.booleans()
)
spoiled = st.builds(
    lambda whole, at, junk: whole[: at % (len(whole) + 1)] + junk + whole[at:],
    texts,
    st.integers(0, 200),
    st.binary(max_size=3),
)


@pytest.mark.thorough
@many
@given(st.one_of(texts, texts, spoiled, st.lists(st.sampled_from(TOKENS), max_size=24).map(b"".join), st.binary(max_size=64)))
@example(b'{"images": {"a": 1, "a": {"diff_mask_key": "\xed\xa0\x80"}}}')
def test_whatever_stands_in_a_manifest_it_is_read_or_unreadable_and_names_nothing_of_others(content: bytes) -> None:
    """No other error, and of all keys that it names only the comparison's own are ever taken for it."""
    try:
        found = parse_manifest(content)
    except UnreadableManifest:
        event("unreadable")
        return
    event("read")
    assert all(isinstance(one, str) for one in image_hashes(found))
    masks = comparison_manifest(content, MINE)
    assert len(masks.owned) + len(masks.strays) <= len(list(diff_mask_keys(found)))
    for owned in masks.owned:
        event("names a mask of its own")
        assert owned.startswith(MINE)
        assert len(owned.encode()) <= MAX_KEY_BYTES
        assert not {"", ".", ".."} & set(owned.split("/"))
        assert owned.isprintable() or not set(owned) & set(map(chr, range(32)))
    if masks.strays:
        event("names strays")
    kept = strays_as_kept(masks.strays)
    packed = pack_strays(kept)
    assert packed is None or [tuple(one) for one in json.loads(zlib.decompress(packed))] == kept
    assert len(kept) == len(masks.strays)
    assert {why for why, _ in kept} <= set(WhyStray)


def strays_as_kept(keys: Sequence[object]) -> list[tuple[str, str]]:
    """As a plan that meets them writes them down."""
    seen = Seen()
    assert not list(PLANNER.keys(Plan(Places(), Names(strays=[Stray(HEAD, key) for key in keys]), ()), seen))
    return seen.strays


def image(inside: bytes) -> bytes:
    return b'{"images": {"a": ' + inside + b"}}"


SIZE = 2**19
WORST: dict[str, Callable[[], bytes]] = {
    "empty objects": lambda: image(b"[" + b"{}," * (SIZE // 3) + b"0]"),
    "empty lists": lambda: image(b"[" + b"[]," * (SIZE // 3) + b"0]"),
    "objects of one": lambda: image(b"[" + b'{"":0},' * (SIZE // 7) + b"0]"),
    "nested for ever": lambda: b'{"images":' * (SIZE // 10),
    "lists for ever": lambda: image(b"[" * (SIZE // 2)),
    "nested as deep as is read": lambda: image(b"[" + (b"[" * 900 + b"]" * 900 + b",") * (SIZE // 1801) + b"0]"),
    "one name a million times": lambda: b'{"images": {' + b'"a":{},' * (SIZE // 7) + b'"a":{}}}',
    "many names": lambda: b'{"images": {' + b",".join(b'"%x":0' % n for n in range(SIZE // 9)) + b"}}",
    "long numbers": lambda: image(b"[" + (b"7" * 4300 + b",") * (SIZE // 4301) + b"0]"),
    "too long a number": lambda: image(b"7" * SIZE),
    "long fractions": lambda: image(b"[" + (b"0." + b"7" * 4300 + b",") * (SIZE // 4303) + b"0]"),
    "a long exponent": lambda: image(b"1e" + b"9" * SIZE),
    "escapes": lambda: image(b'"' + b"\\u00e9" * (SIZE // 6) + b'"'),
    "spaces": lambda: image(b" " * SIZE + b"0"),
    "one wide character": lambda: image(b'"' + b"a" * SIZE + '🙂"'.encode()),
    "backslashes": lambda: image(b'"' + b"\\" * SIZE),
    "UTF-32": lambda: ('{"images": {"a": "' + "a" * (SIZE // 4) + '"}}').encode("utf-32"),
}
BYTES_A_BYTE, BYTES_A_VALUE = 12, 160
"""What a manifest may take while it is parsed, for each of its bytes and for each of its values."""


@pytest.mark.parametrize("shape", WORST)
def test_a_manifest_costs_memory_and_time_by_its_bytes_and_values(shape: str) -> None:
    """Both are limited, and so is how many are parsed at a time: that bounds what strangers can make of a worker."""
    content = WORST[shape]()
    began = time.process_time()
    tracemalloc.start()
    try:
        with_images = parse_manifest(content)
        assert len(image_hashes(with_images)) <= len(with_images)
        assert not list(diff_mask_keys(with_images))
    except UnreadableManifest:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    values = sum(map(content.count, (b"[", b"{", b",")))
    assert peak < BYTES_A_BYTE * len(content) + BYTES_A_VALUE * values
    assert time.process_time() - began < 20, "a second or two, or else its time grows faster than its size"


def test_a_manifest_of_too_many_values_is_not_parsed_at_all() -> None:
    """As many empty lists as fit into the default limit would take a gigabyte and a half."""
    content = image(b"[" + b"[]," * (MAX_MANIFEST_VALUES // 2) + b"0]")
    tracemalloc.start()
    with pytest.raises(UnreadableManifest):
        parse_manifest(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**16
    assert parse_manifest(image(b"[" + b"0," * 2**18 + b"0]")).keys() == {"a"}


# A gigabyte -------------------------------------------------------------------------------------------------------------

GIGABYTE = 2**30
LIMIT = 8 * 2**20


class Gigabytes(ThreadingHTTPServer):
    """An S3 server that has a gigabyte under every key, generated as it is sent, and can lie about it.

    No real store lies about lengths, and one would have to hold the gigabyte first.
    """

    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class SendGigabyte(BaseHTTPRequestHandler):
    server: Gigabytes
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        said = self.path.rpartition("/")[2]
        self.send_response(200)
        self.send_header("ETag", '"a-store-sends-one"')
        if said == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif said != "none":
            self.send_header("Content-Length", said)
        self.end_headers()
        self.close_connection = True
        block = b" " * 2**20
        with_frame = b"%x\r\n%s\r\n" % (len(block), block) if said == "chunked" else block
        try:
            for _ in range(GIGABYTE // len(block)):
                self.wfile.write(with_frame)
        except OSError:
            return  # the reader has had enough

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def gigabytes() -> Iterator[Gigabytes]:
    with Gigabytes(("127.0.0.1", 0), SendGigabyte) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield server
        server.shutdown()
        serving.join()


# In a process of its own, since what a process once had does not show again. A first read brings in whatever is loaded late.
READ_A_GIGABYTE = """
import resource, sys
from activities.stores.objects import ObjectTooLarge
from activities.stores.s3 import S3Objects
from activities.stores.s3_wire import s3_client
from artifact_deletion.errors import StoreUnavailable

url, limit, lengths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
store = S3Objects(s3_client(endpoint=url, region="us-east-1", access_key="a", secret_key="b", connections=1,
                            connect_timeout_s=5, read_timeout_s=60), "bucket", versioned=False)

def read(key, limit):
    try:
        return len(store.read(key, limit))
    except (ObjectTooLarge, StoreUnavailable) as error:
        return type(error).__name__

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

read("chunked", 1)
before = peak()
for length in lengths:
    print(length, read(length, limit), peak() - before)
"""
SAID = {
    str(GIGABYTE): "ObjectTooLarge",
    "chunked": "ObjectTooLarge",
    "none": "ObjectTooLarge",
    "5": "5",
    str(LIMIT): str(LIMIT),
    str(2**62): "ObjectTooLarge",
    "-1": "ObjectTooLarge",
}


@pytest.mark.thorough
def test_a_manifest_of_a_gigabyte_costs_no_more_than_the_limit(gigabytes: Gigabytes) -> None:
    """Whatever the store says of its length, or if it says nothing: a manifest must not fill the worker's memory."""
    command = [sys.executable, "-c", READ_A_GIGABYTE, gigabytes.url, str(LIMIT), *SAID]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    assert {length: answer for length, answer, _ in told} == SAID
    assert max(int(grown) for *_, grown in told) < 4 * LIMIT, done.stdout
