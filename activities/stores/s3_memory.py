"""What one process remembers of a bucket between requests: whether it keeps versions, and which deletes it did not answer.

A store that dies in the middle of a delete can lose a version from its index and keep the data: no listing shows it any more,
and it can still be read by its id. So a version that was asked for and not answered is not looked up again: it counts as there
until the store answers for it. This is memory, no record: a worker that dies forgets, and so does a step that is tried again
by another worker.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from botocore.exceptions import ClientError

from activities.stores.objects import Found
from activities.stores.s3_wire import Version, leaves_open

MAX_UNANSWERED = 100_000
"""Versions; beyond that the oldest are forgotten. A store that is down for long does not list any more of them."""
# These name no content for good: by the time that they are asked for again, another object may have the same name.
_NO_LASTING_IDS = frozenset({None, "null"})


@dataclass
class Memory:
    """May be used from many threads."""

    keeps_versions: bool | None = None
    """The bucket's own answer, once it gave one."""
    _unanswered: dict[Version, Found] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def until_answered(self, versions: Iterable[Version]) -> Iterator[None]:
        """Remember these versions if the request in the context does not come back with an answer."""
        try:
            yield
        except ClientError as error:
            if leaves_open(error):
                self.remember(versions)
            raise
        except BaseException:
            self.remember(versions)
            raise

    def remember(self, versions: Iterable[Version]) -> None:
        """These versions were asked for, and the store did not say what became of them."""
        with self._lock:
            for one in versions:
                if one[1] not in _NO_LASTING_IDS:
                    self._unanswered.setdefault(one, Found(*one))
            for oldest in list(islice(self._unanswered, max(0, len(self._unanswered) - MAX_UNANSWERED))):
                del self._unanswered[oldest]

    def describe(self, listed: Iterable[Found]) -> None:
        """What a listing said of versions that are remembered: no listing may show them again."""
        if self._unanswered:
            with self._lock:
                self._unanswered |= {of: one for one in listed if (of := (one.key, one.version)) in self._unanswered}

    def forget(self, versions: Iterable[Version]) -> None:
        """The store answered for these versions."""
        if self._unanswered:
            with self._lock:
                for one in versions:
                    self._unanswered.pop(one, None)

    def unanswered(self, concerns: Callable[[str], bool]) -> dict[Version, Found]:
        """The remembered versions of the keys that are of concern, as they were last listed."""
        if not self._unanswered:
            return {}
        with self._lock:
            return {version: found for version, found in self._unanswered.items() if concerns(version[0])}
