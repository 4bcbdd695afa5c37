"""The fault proxy itself: what it does not strike is as without it, and what it strikes is what it says."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from mypy_boto3_s3 import S3Client

from demo.servers import ObjectStoreServer
from tests import fault_proxy
from tests.fault_proxy import FaultProxy, answering, operation, refusing_keys, under

ODD = ["a/1 +&%?#.bin", "a/é/2.bin", "b/3<>&.bin"]


@pytest.fixture
def proxy(object_store: ObjectStoreServer) -> Iterator[FaultProxy]:
    with FaultProxy(object_store.endpoint) as running:
        yield running


def client_of(proxy: FaultProxy, server: ObjectStoreServer, read_timeout_s: float = 30) -> S3Client:
    return server.client(endpoint=proxy.endpoint, connections=4, read_timeout_s=read_timeout_s)


def held(s3: S3Client, bucket: str) -> set[str]:
    return {one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", ())}


def delete(s3: S3Client, bucket: str, *keys: str) -> Any:
    return s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})


def test_without_a_fault_everything_passes_as_it_is(proxy: FaultProxy, object_store: ObjectStoreServer, bucket: str) -> None:
    """Signatures hold through it, whatever is in a key or in a body."""
    s3, content = client_of(proxy, object_store), os.urandom(3_000_000)
    seen = proxy.begin(lambda exchange: exchange.forward(exchange.request))
    for key in ODD:
        s3.put_object(Bucket=bucket, Key=key, Body=content)
    assert held(s3, bucket) == set(ODD)
    assert s3.get_object(Bucket=bucket, Key=ODD[1])["Body"].read() == content
    assert s3.head_object(Bucket=bucket, Key=ODD[0])["ContentLength"] == len(content)
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    delete(s3, bucket, *ODD[:2])
    s3.delete_object(Bucket=bucket, Key=ODD[2])
    assert held(s3, bucket) == set()
    asked = {request.operation for request in seen.struck}
    assert asked == {
        *("PutObject", "ListObjectsV2", "GetObject", "HeadObject", "GetBucketVersioning", "DeleteObjects", "DeleteObject")
    }
    assert [request.keys for request in seen.struck if request.operation == "PutObject"] == [[key] for key in ODD]
    assert [request.keys for request in seen.struck if request.operation == "DeleteObjects"] == [ODD[:2]]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "error", "left"),
    [
        (answering(500, "InternalError"), ClientError, {"a"}),
        (answering(503, "SlowDown"), ClientError, {"a"}),
        (answering(403, "RequestTimeTooSkewed"), ClientError, {"a"}),
        (fault_proxy.unreached, ConnectionClosedError, {"a"}),
        (fault_proxy.unheard, ConnectionClosedError, set()),
        (fault_proxy.cut, BotoCoreError, set()),
        (fault_proxy.withheld, ReadTimeoutError, set()),
        (fault_proxy.truncated, ClientError, set()),
    ],
    ids=["500", "503", "skewed", "unreached", "unheard", "cut", "withheld", "truncated"],
)
def test_a_fault_is_what_it_says(
    proxy: FaultProxy, object_store: ObjectStoreServer, bucket: str, kind: Any, error: type[Exception], left: set[str]
) -> None:
    """What the client sees, and whether the server acted; once, and not on what it does not concern."""
    s3 = client_of(proxy, object_store, read_timeout_s=1 if kind is fault_proxy.withheld else 30)
    s3.put_object(Bucket=bucket, Key="a", Body=b"a")
    proxy.begin(kind, only=operation("DeleteObjects"), times=1)
    assert held(s3, bucket) == {"a"}
    with pytest.raises(error):
        delete(s3, bucket, "a")
    assert held(s3, bucket) == left
    delete(s3, bucket, "a")
    assert held(s3, bucket) == set()


def test_an_answer_is_cut_off_in_its_middle(proxy: FaultProxy, object_store: ObjectStoreServer, bucket: str) -> None:
    s3 = client_of(proxy, object_store)
    s3.put_object(Bucket=bucket, Key="a/1", Body=b"x" * 1_000_000)
    proxy.begin(fault_proxy.cut, only=operation("GetObject"), times=1)
    with pytest.raises(ResponseStreamingError):
        s3.get_object(Bucket=bucket, Key="a/1")["Body"].read()
    assert len(s3.get_object(Bucket=bucket, Key="a/1")["Body"].read()) == 1_000_000


def test_a_prefix_can_be_refused_until_the_fault_ends(proxy: FaultProxy, object_store: ObjectStoreServer, bucket: str) -> None:
    """Inside an answer that is 200 as a whole: the others are really deleted, these really stay."""
    s3 = client_of(proxy, object_store)
    for key in ODD:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    refusing = refusing_keys("AccessDenied", lambda key: key.startswith("a/"), object_store.access_key, object_store.secret_key)
    fault = proxy.begin(refusing, only=operation("DeleteObjects"))
    listing = proxy.begin(answering(403, "AccessDenied"), only=under("a/"))
    with pytest.raises(ClientError):
        s3.list_objects_v2(Bucket=bucket, Prefix="a/1")
    listing.end()
    answer = delete(s3, bucket, *ODD)
    assert {one["Key"]: one["Code"] for one in answer["Errors"]} == dict.fromkeys(ODD[:2], "AccessDenied")
    assert held(s3, bucket) == set(ODD[:2])
    assert len(delete(s3, bucket, *ODD[:2])["Errors"]) == 2
    fault.end()
    assert "Errors" not in delete(s3, bucket, *ODD)
    assert held(s3, bucket) == set()


def test_nobody_listens_for_a_while_and_then_at_the_same_address(
    proxy: FaultProxy, object_store: ObjectStoreServer, bucket: str
) -> None:
    s3 = client_of(proxy, object_store)
    held(s3, bucket)
    with proxy.refusing_connections(), pytest.raises(EndpointConnectionError):
        held(s3, bucket)
    held(s3, bucket)
