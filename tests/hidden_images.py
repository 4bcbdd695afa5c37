"""What tests of hiding images share: buckets of each kind, and what lies in them."""

import hashlib
import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from activities.stores.s3 import S3Objects
from activities.stores.s3_copies import CopyImages
from activities.stores.s3_markers import MarkerImages
from demo.servers import S3Server
from tests.fault_proxy import FaultProxy

VERSIONINGS = {"enabled": ["Enabled"], "suspended": ["Enabled", "Suspended"], "never": []}
"""What a bucket's versioning was set to."""
QUARANTINE = "quarantine/"
Images = MarkerImages | CopyImages
_numbers = itertools.count(1)


def bucket_of(server: S3Server, versioning: str) -> S3Objects:
    """A new bucket."""
    s3, name = server.client(), f"images-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    for status in VERSIONINGS[versioning]:
        set_versioning(S3Objects(s3, name, versioned=None), status)
    return S3Objects(s3, name, versioned=None)


def set_versioning(objects: S3Objects, status: Any) -> None:
    objects.client.put_bucket_versioning(Bucket=objects.bucket, VersioningConfiguration={"Status": status})


def new_hash() -> str:
    """Of an image that no other test has."""
    return hashlib.sha256(str(next(_numbers)).encode()).hexdigest()


def new_place(folder: str = "scope/1/2/") -> str:
    return f"{folder}{new_hash()}"


def at_work() -> None:
    """The round goes on."""


def through(images: Images, proxy: FaultProxy, server: S3Server) -> Any:
    """The same store by way of a proxy."""
    return replace(images, objects=replace(images.objects, client=server.client(endpoint=proxy.endpoint)))


# What lies in a bucket --------------------------------------------------------------------------------------------------


def put(images: Images, place: str, body: bytes = b"an image") -> None:
    said = {"ContentType": "image/png", "CacheControl": "max-age=9", "ContentDisposition": "inline", "ContentLanguage": "en"}
    more: Any = {
        **said,
        "Expires": datetime(2099, 1, 1, tzinfo=UTC),
        "Metadata": {"expiration": "ttl:396d"},
        "Tagging": "kind=a%26b&of=c+d",
    }
    images.objects.client.put_object(Bucket=images.objects.bucket, Key=place, Body=body, **more)


def delete(images: Images, place: str) -> None:
    """By key, as others may."""
    images.objects.client.delete_object(Bucket=images.objects.bucket, Key=place)


def got(images: Images, place: str) -> dict[str, Any] | None:
    """All that a reader is told of an object; None: there is none, by HEAD and by GET."""
    s3: Any = images.objects.client
    asked = {"Bucket": images.objects.bucket, "Key": place}
    if code := refusal(s3.head_object, asked):
        assert (code, refusal(s3.get_object, asked)) == ("404", "NoSuchKey")
        return None
    answer = dict(s3.get_object(**asked))
    answer["Body"], answer["Tags"] = answer["Body"].read(), s3.get_object_tagging(**asked)["TagSet"]
    for name in ("ResponseMetadata", "LastModified", "VersionId"):
        answer.pop(name, None)
    return answer


def refusal(call: Any, asked: dict[str, str]) -> str | None:
    try:
        call(**asked)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


def left(images: Images, place: str) -> list[tuple[str, str]]:
    """Every version, marker and copy of an image, wherever in the bucket."""
    name = place.rpartition("/")[2]
    found = images.objects.client.get_paginator("list_object_versions").paginate(Bucket=images.objects.bucket)
    every = [one for page in found for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))]
    return sorted((one["Key"], one["VersionId"]) for one in every if name in one["Key"])


def hidden(images: Images, *places: str, round_: int = 7) -> dict[str, list[str]]:
    """Hide these, all of which are there."""
    came = images.hide(places, round_, at_work)
    assert (set(came.ours), came.absent | came.refused.keys()) == (set(places), set())
    return {place: [ours] for place, ours in came.ours.items()}


def newer(images: Images, places: dict[str, list[str]]) -> set[str]:
    return {place for place, seen in images.look(places).items() if seen.is_newer}


def purge(images: Images, places: dict[str, list[str]]) -> None:
    assert newer(images, places) == set()
    assert images.purge(list(images.look(places).values())).remaining == {}


@contextmanager
def in_pages_of(images: Images, size: int, listing: str = "ListObjectVersions") -> Iterator[None]:
    def fewer(params: dict[str, Any], **_: object) -> None:
        params["MaxKeys"] = size

    images.objects.client.meta.events.register(f"provide-client-params.s3.{listing}", fewer)
    yield
    images.objects.client.meta.events.unregister(f"provide-client-params.s3.{listing}", fewer)


@contextmanager
def requests_of(images: Images) -> Iterator[list[str]]:
    """The names of the requests that are made."""
    requests: list[str] = []

    def note(model: Any, **_: object) -> None:
        requests.append(model.name)

    images.objects.client.meta.events.register("before-call.s3", note)
    yield requests
    images.objects.client.meta.events.unregister("before-call.s3", note)
