"""S3 as we use it: all versions of a deleted key are gone, its neighbours stay, and every refusal is told apart."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from mypy_boto3_s3 import S3Client

from activities.stores.objects import MAX_KEYS, ObjectAbsent, ObjectTooLarge
from activities.stores.s3 import S3Objects
from activities.stores.s3_wire import MAX_BODY, bucket_keeps_versions
from artifact_deletion.errors import StoreUnavailable
from demo.servers import S3Server
from tests import fault_proxy
from tests.stack import PROCESS

pytestmark = pytest.mark.ceph
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def s3(object_store: S3Server) -> S3Client:
    return object_store.client()


# A bucket's first object takes this store a second, so the tests have two buckets, and each finds them empty.


@pytest.fixture(scope="module")
def buckets(s3: S3Client) -> tuple[str, str]:
    unversioned, versioned = f"unversioned-{PROCESS}", f"versioned-{PROCESS}"
    s3.create_bucket(Bucket=unversioned)
    s3.create_bucket(Bucket=versioned, ObjectLockEnabledForBucket=True)
    return unversioned, versioned


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


@pytest.mark.parametrize("bound", [MAX_BODY, 2 * MEBIBYTE], ids=["ours", "none"])
def test_a_thousand_long_keys_are_few_requests(store: S3Objects, monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    """Together they are over a mebibyte, which Ceph refuses: it is never sent so much, and if it were, by halves."""
    keys = [f"o/{number:04}/{'/'.join(20 * ['<' * 49])}" for number in range(MAX_KEYS)]
    put(store, *keys[::100], "o/0000")
    monkeypatch.setattr("activities.stores.s3.MAX_BODY", bound)
    with requests_of(store) as requests:
        outcome = store.delete(keys)
    assert (sorted([*outcome.deleted, *outcome.absent]), outcome.remaining, set(requests)) == (keys, {}, {"DeleteObjects"})
    assert len(requests) <= 8
    assert keys_in(store) == {"o/0000"}


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
    """A retry deletes again the keys that are gone."""
    put(store, "a")
    outcome = store.delete(["a", "b"])
    assert (sorted([*outcome.deleted, *outcome.absent]), outcome.remaining) == (["a", "b"], {})
    assert keys_in(store) == set()


def test_of_a_versioned_key_every_version_and_marker_goes(versioned_store: S3Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delete without a version only hides the data. Versions may be more than one listing shows and one request takes."""
    monkeypatch.setattr("activities.stores.s3.MAX_KEYS", 10)
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
    """Signs of XML and URLs have to be escaped there, and only there."""
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


@pytest.mark.parametrize("kind", [fault_proxy.cut, fault_proxy.withheld], ids=["reset", "silence"])
def test_a_connection_that_breaks_while_a_manifest_is_read_is_the_stores_trouble(
    object_store: S3Server, store: S3Objects, kind: fault_proxy.Kind
) -> None:
    """Not a fault of ours, which would send an operator to the worker's log."""
    put(store, "a")
    with fault_proxy.FaultProxy(object_store.endpoint) as proxy:
        client = object_store.client(endpoint=proxy.endpoint, connections=2, read_timeout_s=1)
        proxy.begin(kind, times=1)
        with pytest.raises(StoreUnavailable):
            S3Objects(client, store.bucket, versioned=False).read("a", 100)
