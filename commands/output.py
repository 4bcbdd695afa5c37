"""Standard output and error that end a command when nothing can be written there any more.

`list | head -1` closes the pipe, `> /dev/full` refuses to write. Python, Typer and rich each have a way of their own with that;
an error of ours passes all of them.
"""

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class OutputLost(Exception):
    """The output could not be written."""


class _Nowhere(io.TextIOBase):
    """In the place of a stream that was closed before the process began."""

    def write(self, _text: str, /) -> int:
        raise OSError(errno.EBADF, "closed")


class _Whole:
    """A stream as it is, but for its errors."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            written: int = self.stream.write(text)
        except OSError as error:
            raise OutputLost from error
        return written

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            raise OutputLost from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def whole_output() -> Iterator[None]:
    """Raises OutputLost if anything that is written meanwhile does not arrive."""
    out, err = _inner(sys.stdout), _inner(sys.stderr)
    sys.stdout, sys.stderr = _whole(out), _whole(err)
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = out, err


def _inner(stream: Any) -> Any:
    """Two threads of a test may each run a command: neither must leave the other's behind."""
    return stream.stream if isinstance(stream, _Whole) else stream


def _whole(stream: Any) -> TextIO:
    return cast("TextIO", _Whole(_Nowhere() if stream is None else stream))


def flush_what_goes() -> None:
    """For a process that ends without Python's own end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or never there
            stream.flush()


def say(text: str = "") -> None:
    """A line on standard output, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """A line on standard error, for a person."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
