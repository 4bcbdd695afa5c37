"""Whether a request that is signed may still be sent.

A request that names a key and no version means whatever the key names when the store carries it out. A worker that was stopped
for an hour would send it to an object that has come since. So the question is asked last of all, when the request bears its
signature: stores refuse that before long, however late it is sent.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from artifact_deletion.errors import StoreUnavailable

CHANGING_KEYS = ("CopyObject", "DeleteObject", "DeleteObjects", "PutObject")
"""The requests that are asked about."""
_last_word: ContextVar[Callable[[], None]] = ContextVar("last_word", default=lambda: None)


def take_last_word(**_: object) -> None:
    """Registered at botocore's `before-send`, which comes after signing."""
    _last_word.get()()


@contextlib.contextmanager
def with_last_word(still: Callable[[], None]) -> Iterator[None]:
    """Call `still` before such a request of this context is sent. If it raises, nothing is sent, and this raises the same."""
    raised: list[Exception] = []

    def last_word() -> None:
        try:
            still()
        except Exception as error:
            raised.append(error)
            raise

    token = _last_word.set(last_word)
    try:
        yield
    except StoreUnavailable:  # what is raised while a request is made may be taken for an answer that could not be read
        if raised:
            raise raised[0] from None
        raise
    finally:
        _last_word.reset(token)
