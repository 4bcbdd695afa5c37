"""The server's limit: a client in Rust that looks at no key's own answer. `python -m benchmarks.with_obstore PREFIX`."""

import os
import sys

from obstore.store import S3Store

BUCKET = "bench"


def store() -> S3Store:
    """The bucket, where the environment says."""
    return S3Store(BUCKET, endpoint=os.environ["BENCH_ENDPOINT"], client_options={"allow_http": True})


def delete(prefix: str) -> None:
    """List, then delete in batches."""
    bucket = store()
    bucket.delete([found["path"] for page in bucket.list(prefix, chunk_size=1000) for found in page])


if __name__ == "__main__":
    delete(sys.argv[1])
