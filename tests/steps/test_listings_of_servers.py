"""Listings as real servers give them: to the end, by the very names that things have, two at a time where pages matter."""

import contextlib
import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client

from activities.stores.documents import S3Documents
from activities.stores.s3 import S3Objects
from demo.servers import S3Server
from tests.answers import keys_of
from tests.ceph import CephGateway
from tests.stack import PROCESS

pytestmark = pytest.mark.ceph
SIGNS = ["mine/a b", "mine/a+b", "mine/a%41", "mine/a%2B+c d", "mine/\u00e4 \u65e5", "mine/&<>'\"#?"]
_buckets = (f"listed-{PROCESS}-{number}" for number in itertools.count(1))


def two_at_a_time(params: dict[str, Any], model: Any, **_: object) -> None:
    params["MaxUploads" if model.name == "ListMultipartUploads" else "MaxKeys"] = 2


@pytest.fixture
def versioned(object_store: S3Server) -> S3Objects:
    s3, name = object_store.client(), next(_buckets)
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return S3Objects(s3, name, versioned=True)


def test_uploads_are_listed_page_by_page(object_store: S3Server, bucket: str) -> None:
    """SeaweedFS gives no key marker, and needs none."""
    s3 = object_store.client()
    keys = sorted(f"mine/{number}" for number in range(5))
    ids = {key: s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in keys}
    s3.meta.events.register("provide-client-params.s3.ListMultipartUploads", two_at_a_time)
    parts = list(S3Objects(s3, bucket, versioned=False).uploads_under("mine/"))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert {one.key: one.id for part in parts for one in part} == ids


def test_an_object_that_was_written_again_has_another_mark(object_store: S3Server, bucket: str) -> None:
    """An object that is listed again after its deletion is told from one that was written again."""
    s3 = object_store.client()
    store = S3Objects(s3, bucket, versioned=False)
    marks = []
    for content in (b"1", b"2"):
        s3.put_object(Bucket=bucket, Key="mine/1", Body=content)
        for _ in range(2):
            ((found,),) = store.list_under("mine/")
            marks.append(found)
    assert marks[0] == marks[1] != marks[2] == marks[3]
    assert "" not in [one.mark for one in marks]


def test_an_upload_with_a_control_character_is_aborted_where_the_store_says_its_name(
    object_store: S3Server, bucket: str
) -> None:
    """Ceph does when it is asked to encode it. SeaweedFS never does: the other name that it lists knows no upload."""
    s3 = object_store.client()
    store = S3Objects(s3, bucket, versioned=False)
    with contextlib.suppress(ClientError):  # Ceph's answer has the key as it is, which no XML can have
        s3.create_multipart_upload(Bucket=bucket, Key="mine/a\x01b")
    s3.create_multipart_upload(Bucket=bucket, Key="mine/b")
    (found,) = store.uploads_under("mine/")
    outcome = store.abort_uploads(found)
    if isinstance(object_store, CephGateway):
        assert sorted(outcome.deleted) == ["mine/a\x01b", "mine/b"]
    else:
        assert (outcome.deleted, outcome.refused) == (["mine/b"], {"mine/a\ufffdb": "NoSuchUpload"})
        s3.abort_multipart_upload(Bucket=bucket, Key="mine/a\x01b", UploadId=found[0].id)
    assert list(store.uploads_under("mine/")) == []


@pytest.mark.parametrize("at_a_time", [1000, 2])
def test_uploads_with_any_sign_are_listed_and_aborted(object_store: S3Server, bucket: str, at_a_time: int) -> None:
    """By their very names: servers know an upload by its id and its key."""
    s3 = object_store.client()
    store = S3Objects(s3, bucket, versioned=False)
    for key in SIGNS:
        s3.create_multipart_upload(Bucket=bucket, Key=key)
    if at_a_time == 2:
        s3.meta.events.register("provide-client-params.s3.ListMultipartUploads", two_at_a_time)
    found = [one for part in store.uploads_under("mine/") for one in part]
    assert sorted(one.key for one in found) == sorted(SIGNS)
    assert sorted(store.abort_uploads(found).deleted) == sorted(SIGNS)
    assert list(store.uploads_under("mine/")) == []


def test_keys_beside_a_folder_of_their_name_go_from_a_real_store(versioned: S3Objects) -> None:
    """Between two pages SeaweedFS loses some of them: taken for absent, they would stay."""
    s3: S3Client = versioned.client
    keys = ["o/a.b", "o/a.c", "o/ab", "o/b.c", "o/bc", "o/c.d"]
    for key in [*keys, "o/a/x", "o/a/y", "o/b/x"]:
        s3.put_object(Bucket=versioned.bucket, Key=key, Body=b"x")
    s3.meta.events.register("provide-client-params.s3.ListObjectVersions", two_at_a_time)
    outcome = versioned.delete([*keys, "o/d"])
    assert (sorted(outcome.deleted), outcome.absent, outcome.remaining) == (keys, ["o/d"], {})


def test_versions_of_keys_with_any_sign_are_listed_page_by_page(versioned: S3Objects) -> None:
    """A page can end with any of them: what the store says of where it goes on is a key too."""
    s3: S3Client = versioned.client
    for key in 2 * SIGNS:
        s3.put_object(Bucket=versioned.bucket, Key=key, Body=b"x")
    s3.meta.events.register("provide-client-params.s3.ListObjectVersions", two_at_a_time)
    assert sorted(keys_of(list(versioned.list_under("mine/")))) == sorted(2 * SIGNS)
    assert versioned.delete(SIGNS).remaining == {}
    assert list(versioned.list_under("mine/")) == []


def test_documents_are_put_and_read_by_the_time_they_were_written(object_store: S3Server, bucket: str) -> None:
    """A restored database is told by them; a later one of a name takes the earlier one's place."""
    documents = S3Documents(object_store.client(), bucket, "receipts/")
    began = datetime.now(UTC).replace(microsecond=0)
    for name, content in (("1/a.json", b"first"), ("1/b.json", b"other"), ("1/a.json", b"second")):
        documents.put(name, content)
    assert sorted(documents.read_since(began)) == [b"other", b"second"]
    assert list(documents.read_since(datetime(2100, 1, 1, tzinfo=UTC))) == []
    assert list(S3Documents(documents.client, bucket, "none/").read_since(began)) == []
