"""One request deletes a thousand keys; whatever a store has against its size or its form, the keys go all the same."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from activities.stores.objects import MAX_KEYS, Found, Outcome, Upload
from activities.stores.s3 import S3Objects
from activities.stores.s3_wire import Batch, ask, write_batch
from artifact_deletion.errors import StoreUnavailable
from tests.answers import Answers, Reply, answering, asked_for, client_of, deleted, refusal
from tests.fault_proxy import Request

MEBIBYTE = 2**20
Batched = Callable[[Request], Reply | None]
"""A store's answer to a DeleteObjects request that it refuses; None to one that it takes."""


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    with answering() as server:
        yield server


def refusing(answers: Answers, refuse: Batched, singly: Callable[[Request], Reply] = lambda _: Reply(b"", 204)) -> S3Objects:
    return answers.by(lambda request: (refuse(request) or Reply(deleted())) if request.method == "POST" else singly(request))


def batches(answers: Answers) -> list[int]:
    """The numbers of keys of the DeleteObjects requests."""
    return [len(asked_for(request)) for request in answers.asked if request.operation == "DeleteObjects"]


@pytest.mark.parametrize("refused", [refusal("InvalidRange", 416), refusal("EntityTooLarge", 413)], ids=["gateway", "proxy"])
def test_no_request_is_as_large_as_stores_refuse(answers: Answers, refused: Reply) -> None:
    """Ceph's gateway reads up to a mebibyte, as many a proxy does; a thousand keys of 1024 bytes are more than that."""
    store = refusing(answers, lambda request: refused if len(request.body) >= MEBIBYTE else None)
    keys = [f"o/{number:04}/{'&é<' * 254}" for number in range(MAX_KEYS)]
    assert 1000 < max(len(key.encode()) for key in keys) <= 1024
    outcome = store.delete(keys)
    assert (outcome.deleted, outcome.remaining) == (keys, {})
    assert max(len(request.body) for request in answers.asked) < 0.9 * MEBIBYTE
    assert sum(batches(answers)) == MAX_KEYS


@pytest.mark.parametrize(
    "refused",
    [refusal("InvalidRange", 416), Reply(b"<html><body>Too large</body></html>", 413), Reply(b"too large", 413)],
    ids=["416", "a proxy's page", "a proxy's word"],
)
def test_a_request_that_is_still_too_large_is_split(answers: Answers, refused: Reply) -> None:
    """A proxy may be set to less than a mebibyte."""
    store = refusing(answers, lambda request: refused if len(request.body) > 10_000 else None)
    keys = [f"o/{number:04}/{'x' * 40}" for number in range(MAX_KEYS)]
    assert store.delete(keys).deleted == keys
    assert {*answers.operations} == {"DeleteObjects"}
    assert len(answers.asked) < 40


@pytest.mark.parametrize("code", ["InvalidArgument", "MalformedXML", "InvalidRequest", "Invented"])
def test_a_form_that_is_refused_for_one_key_costs_the_others_little(answers: Answers, code: str) -> None:
    """Halved and halved again, and at last singly: each key has the store's own answer."""

    def refuse(request: Request) -> Reply | None:
        return refusal(code, 400) if b"odd" in request.body else None

    store = refusing(answers, refuse, lambda request: refusal(code, 400) if "odd" in request.target else Reply(b"", 204))
    keys = [f"o/{number}" for number in range(MAX_KEYS - 1)]
    outcome = store.delete([*keys[:500], "o/odd", *keys[500:]])
    assert (sorted(outcome.deleted), outcome.remaining) == (sorted(keys), {"o/odd": code})
    assert len(answers.asked) < 30


@pytest.mark.thorough
def test_a_store_that_refuses_every_form_is_asked_key_by_key(answers: Answers) -> None:
    """For a quarter more requests than there are keys, and not for twice as many."""
    keys = [f"o/{number}" for number in range(MAX_KEYS)]
    assert sorted(refusing(answers, lambda _: refusal("InvalidArgument", 400)).delete(keys).deleted) == sorted(keys)
    assert answers.operations.count("DeleteObject") == MAX_KEYS
    assert len(answers.asked) < 1.3 * MAX_KEYS


@pytest.mark.parametrize(
    "refused",
    [
        refusal("NotImplemented", 501),
        refusal("MethodNotAllowed", 405),
        refusal("NotImplemented", 400),
        Reply(b"<html><body>Method not allowed</body></html>", 405),
        Reply(b"Method Not Allowed", 405),
        Reply(b"", 501),
    ],
    ids=["501", "405", "400", "a proxy's page", "a proxy's word", "nothing"],
)
def test_a_store_without_batches_is_asked_key_by_key_at_once(answers: Answers, refused: Reply) -> None:
    """Slower, but it goes. Here one single request is refused too, for itself."""
    store = refusing(
        answers,
        lambda _: refused,
        lambda request: refusal("AccessDenied", 403) if "b" in request.target[-1] else Reply(b"", 204),
    )
    outcome = store.delete(["a", "b", "c"])
    assert (outcome.deleted, outcome.remaining) == (["a", "c"], {"b": "AccessDenied"})
    assert answers.operations == ["DeleteObjects", *3 * ["DeleteObject"]]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDenied", 403),
        ("NoSuchBucket", 404),
        ("ExpiredToken", 400),
        ("RequestTimeout", 400),
        ("InvalidBucketName", 400),
        ("SlowDown", 503),
        ("InternalError", 500),
    ],
)
def test_what_is_said_of_no_form_and_no_key_is_raised(answers: Answers, code: str, status: int) -> None:
    """A thousand single requests would be answered the same, and each key would be left over for it."""
    with pytest.raises(StoreUnavailable, match=rf"^the object store answered {code} \(HTTP {status}\) to DeleteObjects$"):
        answers.give(refusal(code, status)).delete(["a", "b"])
    assert len(answers.asked) == 1


def test_a_batch_has_one_checksum(answers: Answers) -> None:
    """Some servers demand Content-MD5, which boto3 has stopped sending, and some refuse a request that has another as well."""

    def two_are_refused(request: Request) -> Reply | None:
        names = [name.lower() for name, _ in request.headers]
        newer = [name for name in names if name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum", "x-amz-trailer"))]
        return refusal("InvalidRequest", 400) if newer or names.count("content-md5") != 1 else None

    assert refusing(answers, two_are_refused).delete(["a", "b"]).deleted == ["a", "b"]
    (request,) = answers.asked
    assert b"<Key>a</Key>" in request.body
    digest = base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode()
    assert dict(request.headers)["Content-MD5"] == digest


@pytest.mark.parametrize(
    "versions",
    [
        [("a<b>&\"'é\u2028\U0001d11e x", None), ("b", "v&1")],
        [("\ud800", None), ("]]>", None)],
        [("a", "1"), ("a", "2")],
    ],
)
def test_a_batch_is_written_as_boto3_would(versions: list[tuple[str, str | None]]) -> None:
    """Ours is many times as fast, and must name the same keys: byte for byte."""
    plain = boto3.client(
        "s3", endpoint_url="http://127.0.0.1:1", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    sent: list[bytes] = []

    def answered(params: dict[str, Any], **_: object) -> Any:
        sent.append(params["body"])
        return SimpleNamespace(status_code=200), {}

    named: Any = [{"Key": key} if version is None else {"Key": key, "VersionId": version} for key, version in versions]
    for client, batch in (
        (plain, {"Objects": named, "Quiet": True}),
        (client_of("http://s3.test"), Batch(write_batch(versions))),
    ):
        client.meta.events.register_last("before-call.s3.DeleteObjects", answered)
        ask(client.delete_objects, Bucket="any", Delete=batch)
    assert sent[0] == sent[1]


def test_a_listed_key_travels_as_it_was_listed(answers: Answers) -> None:
    """Empty segments and slashes at either end: SeaweedFS folds them away, other stores hold them as keys of their own."""
    keys = ["a//b", "/a", "a/", "a/./b", "a/../b"]
    answers.give(deleted()).delete_found([Found(key) for key in keys])
    assert [key for key, _ in asked_for(answers.asked[0])] == keys


def test_more_than_one_request_takes_goes_in_several(answers: Answers) -> None:
    """A store may list more at a time than it deletes."""
    outcome = answers.give(deleted()).delete_found([Found(str(number)) for number in range(2500)])
    assert len(outcome.deleted) == 2500
    assert batches(answers) == [1000, 1000, 500]


# Before each request that deletes ---------------------------------------------------------------------------------------


class Held(Exception):
    """A guard's own error."""


DELETES: dict[str, tuple[Callable[[S3Objects], Outcome], list[int]]] = {
    "together": (lambda store: store.delete(["a", "b", "c"]), [3, 1, 1, 1]),
    "singly": (lambda store: store.delete(["a", "b\x01", "c\x02"]), [1, 1, 1, 1]),
    "found": (lambda store: store.delete_found([Found("a", "1"), Found("a", "2")]), [2, 1, 1]),
    "uploads": (lambda store: store.abort_uploads([Upload("a", "1"), Upload("b", "2")]), [1, 1]),
}


@pytest.mark.parametrize("call", DELETES)
def test_a_guard_is_asked_before_each_request_with_its_number_of_keys(answers: Answers, call: str) -> None:
    """The limit of keys a second counts by it, and a hold stops the next request of a thousand single ones."""
    delete, asked = DELETES[call]
    told: list[int] = []

    def before(keys: int) -> None:
        assert len(told) == len(answers.asked)
        told.append(keys)

    store = replace(refusing(answers, lambda _: refusal("NotImplemented", 501)), before_deleting=before)
    delete(store)
    assert told == asked
    assert len(answers.asked) == len(asked)


@pytest.mark.parametrize("call", DELETES)
def test_nothing_is_sent_after_a_guard_said_no(answers: Answers, call: str) -> None:
    """And the guard's error is raised as it is."""
    delete, asked = DELETES[call]
    for allowed in range(len(asked)):
        left = list(range(allowed))

        def before(_keys: int, left: list[int] = left) -> None:
            if not left:
                raise Held
            left.pop()

        store = replace(refusing(answers, lambda _: refusal("NotImplemented", 501)), before_deleting=before)
        with pytest.raises(Held):
            delete(store)
        assert len(answers.asked) == allowed


def test_reading_and_listing_ask_no_guard(answers: Answers) -> None:
    def never(_keys: int) -> None:
        raise Held

    store = replace(answers.give(Reply(b"content", headers={"ETag": '"e"'})), before_deleting=never)
    assert store.read("a", 7) == b"content"
    with pytest.raises(StoreUnavailable):
        list(store.list_under("a"))
