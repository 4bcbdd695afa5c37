"""Whatever answers in place of a store's yes, nothing is taken for deleted, absent or empty by mistake, and no data is told."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.handlers
import pytest
from botocore.utils import parse_timestamp
from mypy_boto3_s3 import S3Client

from activities.stores.objects import Found, ObjectAbsent, Upload
from activities.stores.s3 import S3Objects
from activities.stores.s3_wire import bucket_keeps_versions, s3_client
from artifact_deletion.errors import StoreUnavailable
from demo.servers import S3Server
from tests.answers import NAMESPACE, Answers, Reply, answering, client_of, deleted, refusal

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


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    with answering() as server:
        yield server


def said(call: str, store: S3Objects) -> str:
    """The message of a call that fails as a whole. No key, bucket or secret may stand in it: it goes to Temporal's history."""
    with pytest.raises(StoreUnavailable) as error:
        CALLS[call](store)
    message = str(error.value)
    assert "private" not in message
    assert error.value.__cause__ is None
    return message


@pytest.mark.ceph
@pytest.mark.parametrize("call", CALLS)
def test_no_call_takes_an_absent_bucket_for_an_empty_one(object_store: S3Server, call: str) -> None:
    assert "NoSuchBucket" in said(call, S3Objects(object_store.client(), "no-such-bucket", versioned=False))


@pytest.fixture(scope="module")
def strangers_client(object_store: S3Server) -> S3Client:
    return client_of(object_store.endpoint)


@pytest.mark.ceph
@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_are_named_without_data(strangers_client: S3Client, call: str) -> None:
    store = S3Objects(strangers_client, "private-bucket", versioned=False)
    assert said(call, store).startswith("the object store answered InvalidAccessKeyId (HTTP 403) to ")


@pytest.fixture(scope="module")
def client_of_no_server() -> S3Client:
    """A client of a port at which no server listens."""
    with Answers() as server:
        return server.client


@pytest.mark.parametrize("call", CALLS)
def test_a_store_that_is_down_is_named_without_data(client_of_no_server: S3Client, call: str) -> None:
    store = S3Objects(client_of_no_server, "private-bucket", versioned=False)
    assert said(call, store) == "the object store could not be reached (EndpointConnectionError)"


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_one_attempt(answers: Answers, call: str) -> None:
    """An operator would see nothing of retries below Temporal's, and they multiply."""
    store = answers.give(refusal("SlowDown", 503))
    if call == "delete singly":
        assert store.delete([f"{KEY}\x01"]).not_yet == {f"{KEY}\x01": "SlowDown"}
    else:
        assert "SlowDown (HTTP 503)" in said(call, store)
    assert len(answers.asked) == 1


PAGES = [
    *(b"", b"<html><body>private gateway</body></html>", b"<html>private", b"private", b"{}"),
    b"<html>private ListBucketResult ListVersionsResult ListMultipartUploadsResult</html>",
]


@pytest.mark.parametrize("status", [200, 302, 400, 502])
@pytest.mark.parametrize("call", [call for call in CALLS if call != "delete singly"])
def test_a_proxy_that_answers_for_the_store_is_no_answer(answers: Answers, call: str, status: int) -> None:
    """A gateway's page says nothing about any key, whatever its status: nothing deleted, nothing listed look like success."""
    for body in PAGES:
        said(call, answers.give(Reply(body, status)))
        assert len(answers.asked) == 1


@pytest.mark.parametrize("status", [200, 302])
def test_a_page_is_no_single_keys_deletion(answers: Answers, status: int) -> None:
    """S3's answer has no body. One that is no XML counts as a 500, which asks to try again."""
    for body in PAGES[1:]:
        with contextlib.suppress(StoreUnavailable):
            assert answers.give(Reply(body, status)).delete(["a\x01"]).not_yet == {"a\x01": "500"}


def test_a_listing_is_read_once(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """For an error under HTTP 200 botocore looks in every answer, which takes as long as our own reading."""
    body = f"<ListBucketResult {NAMESPACE}><Contents><Key>{KEY}</Key></Contents></ListBucketResult>".encode()
    looked: list[bytes] = []
    monkeypatch.setattr(botocore.handlers, "_looks_like_special_case_error", lambda _, seen: looked.append(seen))
    assert [one.key for page in answers.give(body).list_under(KEY) for one in page] == [KEY]
    assert looked == [b"<ListBucketResult/>"]


def test_an_answer_that_cannot_be_read_is_the_stores_fault(answers: Answers) -> None:
    """Not one of this service, which would send an operator to the worker's log: boto3's own look ends in a TypeError."""
    store = answers.give(Reply(b"<Error><Code><private/></Code></Error>", 403))
    assert said("delete", store) == "the object store's answer could not be read (TypeError)"


def test_a_manifest_that_is_cut_off_is_read_again(answers: Answers) -> None:
    """Half a manifest is no JSON, and would be taken for an unreadable one."""
    store = answers.give(Reply(b'{"images"', length=100, headers={"ETag": '"of-the-whole"'}))
    assert said("read", store) == "the object store's answer was cut off"


# Single keys ------------------------------------------------------------------------------------------------------------


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
        ("private key o/1 & more", "refused", "Unknown"),
        ("x" * 65, "refused", "Unknown"),
        ("", "refused", "Unknown"),
    ],
)
def test_each_code_of_a_key_says_whether_to_ask_again(answers: Answers, code: str, kind: str, told: str) -> None:
    """And a store's text goes into Temporal's history only if it looks like a code."""
    outcome = answers.give(deleted({"Key": "a", "Code": code, "Message": "private"})).delete(["a", "b"])
    assert getattr(outcome, kind) == {"a": told}
    assert (outcome.deleted, outcome.absent, outcome.remaining) == (["b"], [], {"a": told})


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchVersion", "KeyTooLongError"])
def test_an_error_that_means_absent_is_no_error(answers: Answers, code: str) -> None:
    outcome = answers.give(deleted({"Key": "a", "Code": code})).delete(["a", "b"])
    assert (outcome.deleted, outcome.absent, outcome.remaining) == (["b"], ["a"], {})


@pytest.mark.parametrize(
    "error",
    [{"Key": "a", "VersionId": "2", "Code": "AccessDenied"}, {"Key": "a", "Code": "AccessDenied"}],
    ids=["version named", "version not named"],
)
def test_an_error_of_one_version_keeps_its_key(answers: Answers, error: dict[str, str]) -> None:
    """Some servers name the version in an error, some do not."""
    outcome = answers.give(deleted(error)).delete_found([Found("a", "1"), Found("a", "2"), Found("b", "1")])
    assert outcome.refused == {"a": "AccessDenied"}
    assert "b" in outcome.deleted


@pytest.mark.parametrize("error", [{"Code": "AccessDenied"}, {"Key": "A", "Code": "SlowDown"}, {}], ids=repr)
def test_an_error_that_names_none_of_our_keys_is_not_passed_over(answers: Answers, error: dict[str, Any]) -> None:
    """A store that writes the key in another way, or not at all, has still not deleted something."""
    with pytest.raises(StoreUnavailable, match="nothing is taken as deleted"):
        answers.give(deleted(error)).delete(["a", "b"])


def test_an_error_that_names_two_keys_names_none(answers: Answers) -> None:
    twice = f"<DeleteResult {NAMESPACE}><Error><Key>a</Key><Key>b</Key><Code>x</Code><Code>y</Code></Error></DeleteResult>"
    with pytest.raises(StoreUnavailable, match="nothing is taken as deleted"):
        answers.give(twice.encode()).delete(["a", "b"])


def test_a_name_that_the_store_does_not_take_is_absent(answers: Answers) -> None:
    """A key may be as long as S3 allows, and too long with its scope before it: absent, instead of asked for for ever."""
    store = answers.give(refusal("KeyTooLongError", 400))
    with pytest.raises(ObjectAbsent):
        store.read("a", 10)
    assert store.delete(["a", "b"]).absent == ["a", "b"]
    assert answers.operations == ["GetObject", "DeleteObjects", "DeleteObject", "DeleteObject"]


def test_an_upload_that_is_no_more_has_its_code(answers: Answers) -> None:
    """Its owner ended it in between, or the store goes on listing it: the next look tells."""
    outcome = answers.give(refusal("NoSuchUpload", 404)).abort_uploads([Upload("a", "1")])
    assert (outcome.refused, outcome.deleted) == ({"a": "NoSuchUpload"}, [])


# The client -------------------------------------------------------------------------------------------------------------


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
    store = answers.give(f"<ListBucketResult {NAMESPACE}>{entry}</ListBucketResult>".encode())
    (listed,) = store.client.list_objects_v2(Bucket=store.bucket)["Contents"]
    assert listed["LastModified"] == parse_timestamp(written)


def address_of(endpoint: str | None, **style: Any) -> str:
    """The URL that a request of a client goes to."""
    client = s3_client(
        endpoint=endpoint,
        region="us-east-1",
        access_key="a",
        secret_key="b",
        connections=1,
        connect_timeout_s=1,
        read_timeout_s=1,
        **style,
    )
    sent: list[str] = []

    def note(request: Any, **_: object) -> None:
        sent.append(request.url)
        raise StoreUnavailable("not sent")

    client.meta.events.register("before-send.s3", note)
    with contextlib.suppress(StoreUnavailable):
        client.list_objects_v2(Bucket="bucket")
    return sent[0].partition("?")[0]


PATH, VIRTUAL = "http://s3.test/bucket", "http://bucket.s3.test/"


@pytest.mark.parametrize(
    ("profile", "set_to", "address"),
    [
        ("", None, PATH),
        ("s3 =\n  max_queue_size = 10", None, PATH),
        ("s3 =\n  addressing_style = virtual", None, VIRTUAL),
        ("s3 =\n  addressing_style = path", None, PATH),
        ("", "virtual", VIRTUAL),
        ("", "path", PATH),
        ("s3 =\n  addressing_style = virtual", "path", PATH),
        ("s3 =\n  addressing_style = path", "virtual", VIRTUAL),
    ],
)
def test_a_store_is_addressed_as_the_setting_or_the_aws_profile_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, set_to: str | None, address: str
) -> None:
    """Some stores take virtual-hosted addresses alone; without a word, a store at an endpoint is addressed by path."""
    (tmp_path / "config").write_text(f"[profile other]\n{profile}\n[default]\ns3 =\n  addressing_style = auto\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert address_of("http://s3.test", addressing_style=set_to) == address


def test_amazons_own_is_addressed_as_boto3_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert address_of(None) == "https://bucket.s3.amazonaws.com/"
    assert address_of(None, addressing_style="path") == "https://s3.amazonaws.com/bucket"


def test_the_stores_access_log_can_tell_these_requests(answers: Answers) -> None:
    answers.give(deleted()).delete(["a", "b"])
    (request,) = answers.asked
    assert dict(request.headers)["User-Agent"].startswith("artifact-deletion Boto3/")
