"""Contenders on boto3, each run as a process of its own: `python -m benchmarks.with_boto3 reference|batches PREFIX`."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

BUCKET = "bench"


def _boto3(connections: int) -> "S3Client":
    config = Config(max_pool_connections=connections, s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=os.environ["BENCH_ENDPOINT"], config=config)


def reference(prefix: str) -> None:
    """As the backend's request handler did: eight threads, one key a request."""
    s3 = _boto3(8)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: s3.delete_object(Bucket=BUCKET, Key=key), keys))


def batches(prefix: str) -> None:
    """A thousand keys a request, sixteen requests at a time."""
    s3 = _boto3(16)

    def delete(objects: "list[ObjectIdentifierTypeDef]") -> None:
        if errors := s3.delete_objects(Bucket=BUCKET, Delete={"Objects": objects, "Quiet": True}).get("Errors"):
            raise SystemExit(f"{len(errors)} keys were not deleted")

    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    with ThreadPoolExecutor(16) as threads:
        list(
            threads.map(delete, ([{"Key": entry["Key"]} for entry in page["Contents"]] for page in pages if "Contents" in page))
        )


if __name__ == "__main__":
    {"reference": reference, "batches": batches}[sys.argv[1]](sys.argv[2])
