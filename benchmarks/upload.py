"""Fill the store with an artifact: `python -m benchmarks.upload KEYS`."""

import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks.data import Doomed
from benchmarks.with_obstore import store


def upload(keys: int) -> None:
    """All of its objects."""
    bucket = store()
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda one: bucket.put(*one), Doomed(keys).objects()))


if __name__ == "__main__":
    upload(int(sys.argv[1]))
