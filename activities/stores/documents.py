"""Small objects of our own in a bucket, which no deletion looks at: receipts that a restored database does not have."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from activities.stores.objects import ObjectAbsent, ObjectTooLarge
from activities.stores.s3_listing import OBJECTS, Entry, pages
from activities.stores.s3_wire import ask, read_object, timestamp, unavailable
from artifact_deletion.errors import StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LARGEST = 16 * 2**20
"""Bytes. A receipt has counts and ids: ten thousand artifacts fit into a few megabytes."""


@dataclass(frozen=True)
class S3Documents:
    """Documents under a prefix of their own."""

    client: "S3Client"
    bucket: str
    prefix: str

    def put(self, name: str, content: bytes) -> None:
        """Write it, or write it again. Raises StoreUnavailable."""
        where = {"Bucket": self.bucket, "Key": self.prefix + name}
        try:
            ask(self.client.put_object, **where, Body=content, ContentType="application/json")
        except ClientError as error:
            raise unavailable(error) from None

    def read_since(self, since: datetime) -> Iterator[bytes]:
        """The content of each that was written since then, by the store's clock. Raises StoreUnavailable."""
        for page in pages(self.client, self.bucket, OBJECTS, self.prefix):
            for entry in page.entries:
                if _written(entry) >= since:
                    yield self._read(entry["Key"])

    def _read(self, key: str) -> bytes:
        try:
            return read_object(self.client, self.bucket, key, _LARGEST)
        except ObjectAbsent:
            raise StoreUnavailable("a document went after it was listed") from None
        except ObjectTooLarge:
            raise StoreUnavailable(f"a document is larger than {_LARGEST:,} bytes") from None


def _written(entry: Entry) -> datetime:
    try:
        return timestamp(entry["LastModified"])
    except (KeyError, ValueError):
        raise StoreUnavailable("the object store's ListObjectsV2 has an entry without LastModified") from None
