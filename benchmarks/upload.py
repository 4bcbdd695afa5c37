"""Fill the store with artifacts of so many keys each: `python -m benchmarks.upload KEYS ID…`."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.data import Doomed
from benchmarks.with_obstore import store


def upload(doomed: Sequence[Doomed]) -> None:
    """All of their objects."""
    bucket = store()
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda one: bucket.put(*one), (found for one in doomed for found in one.objects())))


if __name__ == "__main__":
    upload([Doomed(int(sys.argv[1]), int(number)) for number in sys.argv[2:]])
