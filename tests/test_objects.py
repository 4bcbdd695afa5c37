"""S3 as we use it: what is deleted is gone with all its versions, its neighbours stay, and every refusal is told apart."""

import base64
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.utils import parse_timestamp
from mypy_boto3_s3 import S3Client

from activities.storage.objects import (
    MAX_KEYS,
    Found,
    ObjectAbsent,
    ObjectTooLarge,
    S3Objects,
    bucket_keeps_versions,
    s3_client,
)
from demo.servers import ObjectStoreServer
from tests import fault_proxy
from tests.stack import s3_of
from workflows.errors import StoreUnavailable

KEY = "o/1/private-key"
CALLS: dict[str, Callable[[S3Objects], object]] = {
    "read": lambda store: store.read(KEY, 100),
    "delete": lambda store: store.delete([KEY, f"{KEY}2"]),
    "delete singly": lambda store: store.delete([f"{KEY}\x01"]),
    "list": lambda store: list(store.list_under(KEY)),
    "list versions": lambda store: list(S3Objects(store.client, store.bucket, versioned=True).list_under(KEY)),
    "list uploads": lambda store: list(store.uploads_under(KEY)),
    "ask for versioning": lambda store: bucket_keeps_versions(store.client, store.bucket),
}


@pytest.fixture
def s3(object_store: ObjectStoreServer) -> S3Client:
    return s3_of(object_store)


# A bucket's first object takes this store a second, so the tests have two buckets, and each finds them empty.


@pytest.fixture(scope="module")
def buckets(object_store: ObjectStoreServer) -> tuple[str, str]:
    client = s3_of(object_store)
    client.create_bucket(Bucket="unversioned")
    client.create_bucket(Bucket="versioned", ObjectLockEnabledForBucket=True)
    return "unversioned", "versioned"


@pytest.fixture
def store(s3: S3Client, buckets: tuple[str, str]) -> S3Objects:
    return emptied(S3Objects(s3, buckets[0], versioned=False))


@pytest.fixture
def versioned_store(s3: S3Client, buckets: tuple[str, str]) -> S3Objects:
    return emptied(S3Objects(s3, buckets[1], versioned=True))


def emptied(store: S3Objects) -> S3Objects:
    for found in store.client.list_object_versions(Bucket=store.bucket).get("Versions", ()):
        store.client.delete_object(Bucket=store.bucket, Key=found["Key"], VersionId=found["VersionId"])
    for marker in store.client.list_object_versions(Bucket=store.bucket).get("DeleteMarkers", ()):
        store.client.delete_object(Bucket=store.bucket, Key=marker["Key"], VersionId=marker["VersionId"])
    assert versions_in(store) == set()
    return store


def put(store: S3Objects, *keys: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda key: store.client.put_object(Bucket=store.bucket, Key=key, Body=b"content"), keys))


def keys_in(store: S3Objects) -> set[str]:
    pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket)
    return {found["Key"] for page in pages for found in page.get("Contents", ())}


def versions_in(store: S3Objects) -> set[str]:
    """The keys that still have a version or a delete marker."""
    pages = store.client.get_paginator("list_object_versions").paginate(Bucket=store.bucket)
    return {found["Key"] for page in pages for found in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]}


# Deleting ---------------------------------------------------------------------------------------------------------------


@contextmanager
def listed_by(store: S3Objects, size: int) -> Iterator[None]:
    """The store lists so few at a time, as it does of itself by the thousand."""

    def fewer(params: dict[str, Any], **_: object) -> None:
        params["MaxKeys"] = size

    calls = [f"provide-client-params.s3.{call}" for call in ("ListObjectsV2", "ListObjectVersions")]
    for call in calls:
        store.client.meta.events.register(call, fewer)
    yield
    for call in calls:
        store.client.meta.events.unregister(call, fewer)


@contextmanager
def requests_of(store: S3Objects) -> Iterator[list[str]]:
    """The names of the requests that are made."""
    requests: list[str] = []

    def note(model: Any, **_: object) -> None:
        requests.append(model.name)

    store.client.meta.events.register("before-call.s3", note)
    yield requests
    store.client.meta.events.unregister("before-call.s3", note)


def test_a_thousand_keys_are_one_request(store: S3Objects) -> None:
    """It is the most that S3 takes, and each request costs as much as a hundred keys."""
    put(store, "o/4/0", "o/4/999", "o/4/1000", "o/42/0")
    with requests_of(store) as requests:
        outcome = store.delete([f"o/4/{number}" for number in range(MAX_KEYS)])
    assert (len(outcome.deleted), outcome.remaining, requests) == (1000, {}, ["DeleteObjects"])
    assert keys_in(store) == {"o/4/1000", "o/42/0"}


def test_a_long_listing_is_read_to_its_end(store: S3Objects) -> None:
    """A listing that stopped at its first page would leave the rest behind and look the same."""
    put(store, *(f"o/4/{number}" for number in range(25)), "o/42/1", "o/4.json", "o/4")
    with listed_by(store, 10):
        pages = list(store.list_under("o/4/"))
    assert [len(page) for page in pages] == [10, 10, 5]
    outcomes = [store.delete_found(page) for page in pages]
    assert [(len(outcome.deleted), outcome.remaining) for outcome in outcomes] == [(10, {}), (10, {}), (5, {})]
    assert keys_in(store) == {"o/42/1", "o/4.json", "o/4"}


def test_a_key_that_is_not_there_is_no_trouble(store: S3Objects) -> None:
    """A retry deletes again what is gone."""
    put(store, "a")
    outcome = store.delete(["a", "b"])
    assert (sorted([*outcome.deleted, *outcome.absent]), outcome.remaining) == (["a", "b"], {})
    assert keys_in(store) == set()


def test_of_a_versioned_key_every_version_and_marker_goes(versioned_store: S3Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delete without a version only hides the data. Versions may be more than one listing shows and one request takes."""
    monkeypatch.setattr("activities.storage.objects.MAX_KEYS", 10)
    keys = [f"o/4/{number}" for number in range(9)]
    for _ in range(3):
        put(versioned_store, *keys)
    put(versioned_store, "o/4", "o/42/1", "o/4/10")
    for key in keys[:3]:
        versioned_store.client.delete_object(Bucket=versioned_store.bucket, Key=key)
    with listed_by(versioned_store, 10):
        outcome = versioned_store.delete([*keys, "o/4/absent"])
    assert (sorted(outcome.deleted), outcome.absent, outcome.remaining) == (keys, ["o/4/absent"], {})
    assert versions_in(versioned_store) == {"o/4", "o/42/1", "o/4/10"}


def test_a_listing_shows_versions_and_markers(versioned_store: S3Objects) -> None:
    """A prefix is empty only when nothing of it is stored any more, hidden or not."""
    put(versioned_store, "o/4/a", "o/4/a", "o/42/b")
    versioned_store.client.delete_object(Bucket=versioned_store.bucket, Key="o/4/a")
    found = [one for page in versioned_store.list_under("o/4/") for one in page]
    assert [one.key for one in found] == 3 * ["o/4/a"]
    assert len({one.version for one in found}) == 3
    versioned_store.delete_found(found)
    assert list(versioned_store.list_under("o/4/")) == []
    assert versions_in(versioned_store) == {"o/42/b"}


@pytest.mark.parametrize("versioned", [False, True], ids=["unversioned", "versioned"])
def test_keys_beside_a_deleted_one_stay(request: pytest.FixtureRequest, *, versioned: bool) -> None:
    """Artifact 4 is not 42, and `a` is neither `a.b` nor a folder `a`: common beginnings mean nothing."""
    store: S3Objects = request.getfixturevalue("versioned_store" if versioned else "store")
    beside = {"o/42/a", "o/4.zip", "o/4/a.b", "o/4/aa", "o/4/b/c", "o/5/a"}
    put(store, "o/4/a", "o/4/b/d", *beside)
    assert sorted(store.delete(["o/4/a", "o/4/b/d"]).deleted) == ["o/4/a", "o/4/b/d"]
    assert keys_in(store) == beside
    assert versions_in(store) == beside


def test_a_key_under_legal_hold_is_refused_and_all_others_go(versioned_store: S3Objects) -> None:
    """Of a thousand keys one may be locked: it is told apart, with the store's reason."""
    put(versioned_store, "o/a", "o/b", "o/c")
    versioned_store.client.put_object_legal_hold(Bucket=versioned_store.bucket, Key="o/b", LegalHold={"Status": "ON"})
    outcome = versioned_store.delete(["o/a", "o/b", "o/c"])
    assert (sorted(outcome.deleted), outcome.refused, outcome.not_yet) == (["o/a", "o/c"], {"o/b": "AccessDenied"}, {})
    assert versions_in(versioned_store) == {"o/b"}

    versioned_store.client.put_object_legal_hold(Bucket=versioned_store.bucket, Key="o/b", LegalHold={"Status": "OFF"})
    assert versioned_store.delete(["o/b"]).deleted == ["o/b"]
    assert versions_in(versioned_store) == set()


def test_keys_that_xml_cannot_carry_go_and_harm_no_other(store: S3Objects) -> None:
    """One control character would make the whole request MalformedXML, for a thousand keys."""
    odd = {"o/\x01", "o/a\x1fb", "o/tab\t", "o/new\nline", "o/\x7f"}
    put(store, *odd, "o/a", "o/b")
    assert odd < keys_in(store)
    with requests_of(store) as requests:
        outcome = store.delete([*odd, "o/a", "o/c"])
    assert (set(outcome.deleted), outcome.remaining) == ({*odd, "o/a", "o/c"}, {})
    assert requests == ["DeleteObjects"] + 5 * ["DeleteObject"]
    assert keys_in(store) == {"o/b"}


def test_a_key_with_a_backslash_goes(store: S3Objects) -> None:
    """Sent together with others, this store reports it as deleted and leaves it."""
    put(store, "o/a\\b", "o/c", "o/d")
    assert store.delete(["o/a\\b", "o/c"]).remaining == {}
    assert keys_in(store) == {"o/d"}


def test_keys_in_any_language_and_with_any_sign_go(store: S3Objects) -> None:
    """What is written in XML and URLs has to be escaped there, and only there."""
    keys = {"o/é ü/日本.png", "o/a&b<c>d.png", "o/100%25+1.png", "o/'\"#?=;.png", "o/🙂.png"}
    put(store, *keys, "o/100%+1.png")
    assert {one.key for page in store.list_under("o/") for one in page} == keys | {"o/100%+1.png"}
    assert set(store.delete(sorted(keys)).deleted) == keys
    assert keys_in(store) == {"o/100%+1.png"}


# Reading ----------------------------------------------------------------------------------------------------------------


def test_an_object_is_read_up_to_its_limit(store: S3Objects) -> None:
    """A manifest of any size fits into a bucket, but not into a worker."""
    put(store, "a")
    assert store.read("a", 7) == b"content"
    with pytest.raises(ObjectTooLarge):
        store.read("a", 6)


def test_only_an_absent_key_is_absent(store: S3Objects) -> None:
    """A wrong bucket is a 404 too: taken for an absent manifest, it would end as a deletion that found nothing to do."""
    with pytest.raises(ObjectAbsent):
        store.read("absent", 100)
    with pytest.raises(StoreUnavailable, match=r"^the object store answered NoSuchBucket \(HTTP 404\) to GetObject$"):
        S3Objects(store.client, "no-such-bucket", versioned=False).read("absent", 100)


@pytest.mark.parametrize("call", CALLS)
def test_no_call_takes_an_absent_bucket_for_an_empty_one(s3: S3Client, call: str) -> None:
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        CALLS[call](S3Objects(s3, "no-such-bucket", versioned=False))


def test_a_bucket_says_itself_whether_it_keeps_versions(s3: S3Client, buckets: tuple[str, str]) -> None:
    """Also one whose versioning was suspended: the versions that it had are still there."""
    unversioned, versioned = buckets
    assert not bucket_keeps_versions(s3, unversioned)
    assert bucket_keeps_versions(s3, versioned)
    s3.create_bucket(Bucket="suspended")
    for status in ("Enabled", "Suspended"):
        s3.put_bucket_versioning(Bucket="suspended", VersioningConfiguration={"Status": status})
    assert bucket_keeps_versions(s3, "suspended")


def test_a_bucket_that_could_not_be_asked_is_asked_again(s3: S3Client) -> None:
    """Until it has answered nothing is deleted and nothing listed: a guess would leave data behind markers."""
    store = S3Objects(s3, "asked-later", versioned=None)
    for call in (lambda: store.delete(["a"]), lambda: list(store.list_under(""))):
        with pytest.raises(StoreUnavailable, match=r"NoSuchBucket .* to GetBucketVersioning"):
            call()
    s3.create_bucket(Bucket=store.bucket)
    s3.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
    put(store, "a")
    with requests_of(store) as requests:
        assert store.delete(["a"]).deleted == ["a"]
        assert store.delete(["b"]).absent == ["b"]
    assert requests.count("GetBucketVersioning") == 1
    assert versions_in(store) == set()


# Stores that fail -------------------------------------------------------------------------------------------------------


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


def refusal(call: str, store: S3Objects) -> str:
    """What a call says that fails as a whole. No key, bucket or secret may stand in it: it goes to Temporal's history."""
    with pytest.raises(StoreUnavailable) as error:
        CALLS[call](store)
    message = str(error.value)
    assert "private" not in message
    assert error.value.__cause__ is None
    return message


@pytest.fixture(scope="module")
def strangers_client(object_store: ObjectStoreServer) -> S3Client:
    return client_of(object_store.endpoint)


@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_are_named_without_data(strangers_client: S3Client, call: str) -> None:
    store = S3Objects(strangers_client, "private-bucket", versioned=False)
    assert refusal(call, store).startswith("the object store answered InvalidAccessKeyId (HTTP 403) to ")


class Answers(ThreadingHTTPServer):
    """No real store can be made to answer like this: a tiny server that gives everyone the same answer, and counts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), AnswerAlike)
        self.sent: list[tuple[str, bytes, str | None]] = []
        self.store = S3Objects(client_of(f"http://127.0.0.1:{self.server_port}"), "private-bucket", versioned=False)

    def give(self, body: bytes, status: int = 200, *, length: int | None = None, etag: str | None = None) -> S3Objects:
        """Answer so from now on. Returns the store that gets the answers."""
        self.body, self.status, self.length, self.etag, self.requests, self.sent = body, status, length, etag, 0, []
        return self.store


class AnswerAlike(BaseHTTPRequestHandler):
    server: Answers

    def answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests += 1
        self.server.sent.append((self.command, content, self.headers.get("Content-MD5")))
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(self.server.body) if self.server.length is None else self.server.length))
        if self.server.etag is not None:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        self.wfile.write(self.server.body)
        self.close_connection = True

    do_GET = do_POST = do_DELETE = answer  # noqa: N815  the base class's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    with Answers() as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def nobodys_client() -> S3Client:
    """A client of a port that nobody listens on."""
    with Answers() as server:
        return server.store.client


@pytest.mark.parametrize("call", CALLS)
def test_a_store_that_is_down_is_named_without_data(nobodys_client: S3Client, call: str) -> None:
    store = S3Objects(nobodys_client, "private-bucket", versioned=False)
    assert refusal(call, store) == "the object store could not be reached (EndpointConnectionError)"


def refused_by_whole(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>private</Message><Key>private</Key></Error>".encode()


def answer_to_delete(*errors: dict[str, str]) -> bytes:
    entries = "".join(f"<Error>{''.join(f'<{name}>{text}</{name}>' for name, text in one.items())}</Error>" for one in errors)
    return f'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{entries}</DeleteResult>'.encode()


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_one_attempt(answers: Answers, call: str) -> None:
    """Retries below Temporal's would be seen by nobody, and multiply."""
    store = answers.give(refused_by_whole("SlowDown"), 503)
    if call == "delete singly":
        assert store.delete([f"{KEY}\x01"]).not_yet == {f"{KEY}\x01": "SlowDown"}
    else:
        assert "SlowDown (HTTP 503)" in refusal(call, store)
    assert answers.requests == 1


PAGES = [b"", b"<html><body>private gateway</body></html>", b"<html>private", b"private", b"{}"]


@pytest.mark.parametrize("status", [200, 302, 502])
@pytest.mark.parametrize("call", [call for call in CALLS if call != "delete singly"])
def test_a_proxy_that_answers_for_the_store_is_no_answer(answers: Answers, call: str, status: int) -> None:
    """A gateway's page says nothing about any key, whatever its status: nothing deleted, nothing listed look like success."""
    for body in PAGES:
        refusal(call, answers.give(body, status))
        assert answers.requests == 1


@pytest.mark.parametrize("status", [200, 302])
def test_a_page_is_no_single_keys_deletion(answers: Answers, status: int) -> None:
    """S3's answer has no body. One that is no XML counts as a 500, which asks to try again."""
    for body in PAGES[1:]:
        with contextlib.suppress(StoreUnavailable):
            assert answers.give(body, status).delete(["a\x01"]).not_yet == {"a\x01": "500"}


def test_a_manifest_that_is_cut_off_is_read_again(answers: Answers) -> None:
    """Half a manifest is no JSON, and would be taken for an unreadable one."""
    store = answers.give(b'{"images"', length=100, etag='"of-the-whole"')
    assert refusal("read", store) == "the object store's answer was cut off"


@pytest.mark.parametrize("kind", [fault_proxy.cut, fault_proxy.withheld], ids=["reset", "silence"])
def test_a_connection_that_breaks_while_a_manifest_is_read_is_the_stores_trouble(
    object_store: ObjectStoreServer, store: S3Objects, kind: fault_proxy.Kind
) -> None:
    """Not a fault of ours, which would send an operator to the worker's log."""
    put(store, "a")
    with fault_proxy.FaultProxy(object_store.endpoint) as proxy:
        client = object_store.client(endpoint=proxy.endpoint, connections=2, read_timeout_s=1)
        proxy.begin(kind, times=1)
        with pytest.raises(StoreUnavailable):
            S3Objects(client, store.bucket, versioned=False).read("a", 100)


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        ("SlowDown", "not_yet", "SlowDown"),
        ("InternalError", "not_yet", "InternalError"),
        ("ServiceUnavailable", "not_yet", "ServiceUnavailable"),
        ("RequestTimeout", "not_yet", "RequestTimeout"),
        ("AccessDenied", "refused", "AccessDenied"),
        ("InvalidRequest", "refused", "InvalidRequest"),
        ("Invented", "refused", "Invented"),
        ("private key o/1 &amp; more", "refused", "Unknown"),
        ("x" * 65, "refused", "Unknown"),
        ("", "refused", "Unknown"),
    ],
)
def test_each_code_of_a_key_says_whether_to_ask_again(answers: Answers, code: str, kind: str, told: str) -> None:
    """And what the store writes there goes into Temporal's history only if it looks like a code."""
    outcome = answers.give(answer_to_delete({"Key": "a", "Code": code, "Message": "private"})).delete(["a", "b"])
    assert getattr(outcome, kind) == {"a": told}
    assert (outcome.deleted, outcome.absent, outcome.remaining) == (["b"], [], {"a": told})


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchVersion", "KeyTooLongError"])
def test_an_error_that_means_absent_is_no_error(answers: Answers, code: str) -> None:
    outcome = answers.give(answer_to_delete({"Key": "a", "Code": code})).delete(["a", "b"])
    assert (outcome.deleted, outcome.absent, outcome.remaining) == (["b"], ["a"], {})


@pytest.mark.parametrize(
    "error",
    [{"Key": "a", "VersionId": "2", "Code": "AccessDenied"}, {"Key": "a", "Code": "AccessDenied"}],
    ids=["version named", "version not named"],
)
def test_an_error_of_one_version_keeps_its_key(answers: Answers, error: dict[str, str]) -> None:
    """Some servers name the version in an error, some do not."""
    outcome = answers.give(answer_to_delete(error)).delete_found([Found("a", "1"), Found("a", "2"), Found("b", "1")])
    assert outcome.refused == {"a": "AccessDenied"}
    assert "b" in outcome.deleted


@pytest.mark.parametrize("error", [{"Code": "AccessDenied"}, {"Key": "A", "Code": "SlowDown"}, {}], ids=repr)
def test_an_error_that_names_none_of_our_keys_is_not_passed_over(answers: Answers, error: dict[str, Any]) -> None:
    """A store that writes the key in another way, or not at all, has still not deleted something."""
    try:
        outcome = answers.give(answer_to_delete(error)).delete(["a", "b"])
    except StoreUnavailable:
        return
    assert outcome.deleted == []


def test_a_batch_carries_its_md5(answers: Answers) -> None:
    """Some S3-compatible servers refuse DeleteObjects without it, and boto3 has stopped sending it."""
    answers.give(answer_to_delete()).delete(["a", "b"])
    ((_, content, digest),) = answers.sent
    assert b"<Key>a</Key>" in content
    assert digest == base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@pytest.mark.parametrize(
    "batch",
    [
        {"Objects": [{"Key": "a<b>&\"'é\u2028\U0001d11e x"}, {"Key": "b", "VersionId": "v&1"}], "Quiet": True},
        {"Objects": [{"Key": "\ud800"}, {"Key": "]]>"}], "Quiet": False},
        {"Objects": [{"Key": "a"}, {"Key": "b", "ETag": '"c"'}]},
    ],
)
def test_a_batch_is_written_as_boto3_would(batch: Any) -> None:
    """Ours is eight times as fast, and must name the same keys: byte for byte."""
    plain = boto3.client(
        "s3", endpoint_url="http://127.0.0.1:1", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    written: list[bytes] = []

    def answered(params: dict[str, Any], **_: object) -> Any:
        written.append(params["body"])
        return SimpleNamespace(status_code=200), {}

    for client in (plain, client_of("http://127.0.0.1:1")):
        client.meta.events.register_last("before-call.s3.DeleteObjects", answered)
        client.delete_objects(Bucket="any", Delete=batch)
    assert written[0] == written[1]


@pytest.mark.parametrize(("code", "status"), [("NotImplemented", 501), ("MethodNotAllowed", 405), ("MalformedXML", 400)])
def test_a_store_without_batches_is_asked_key_by_key(answers: Answers, code: str, status: int) -> None:
    """Slower, but it goes. Here the single requests are refused too, each for itself."""
    outcome = answers.give(refused_by_whole(code), status).delete(["a", "b"])
    assert [command for command, _, _ in answers.sent] == ["POST", "DELETE", "DELETE"]
    assert (outcome.deleted, set(outcome.remaining)) == ([], {"a", "b"})


def test_a_name_that_the_store_does_not_take_is_nobodys(answers: Answers) -> None:
    """A key may be as long as S3 allows, and too long with its scope before it: absent, instead of asked for for ever."""
    store = answers.give(refused_by_whole("KeyTooLongError"), 400)
    with pytest.raises(ObjectAbsent):
        store.read("a", 10)
    assert store.delete(["a", "b"]).absent == ["a", "b"]
    assert [command for command, _, _ in answers.sent] == ["GET", "POST", "DELETE", "DELETE"]


def test_a_listed_key_travels_as_it_was_listed(answers: Answers) -> None:
    """Empty segments and slashes at either end: SeaweedFS folds them away, other stores hold them as keys of their own."""
    keys = ["a//b", "/a", "a/", "a/./b", "a/../b"]
    answers.give(answer_to_delete()).delete_found([Found(key) for key in keys])
    ((_, content, _),) = answers.sent
    assert [name for name in keys if f"<Key>{name}</Key>".encode() in content] == keys


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-27T21:00:00.123Z",
        "2026-11-27T21:00:00Z",
        "2026-11-27T23:00:00+02:00",
        "20261127T210000Z",
        "Fri, 27 Nov 2026 21:00:00 GMT",
        "1795813200",
        "27 November 2026 21:00 UTC",
    ],
)
def test_times_are_read_as_boto3_reads_them(answers: Answers, written: str) -> None:
    """With a parser of our own, since botocore's takes longer for a thousand times than for all else in a listing."""
    entry = f"<Contents><Key>a</Key><LastModified>{written}</LastModified><Size>1</Size></Contents>"
    store = answers.give(
        f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{entry}</ListBucketResult>'.encode()
    )
    (listed,) = store.client.list_objects_v2(Bucket=store.bucket)["Contents"]
    assert listed["LastModified"] == parse_timestamp(written)
