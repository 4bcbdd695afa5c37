"""Lines on standard output and standard error.

`list | head -1` closes the pipe, and `> /dev/full` refuses to write. Python, Typer and rich each end a command in their own way
then. An error of ours passes all of them.
"""

import asyncio
import sys
from typing import TextIO


class OutputLost(Exception):
    """The output could not be written."""


def say(text: str = "") -> None:
    """Write a line to standard output. Raises OutputLost."""
    _write(sys.stdout, f"{text}\n")


def warn(text: str) -> None:
    """Write a line to standard error, for a person. Raises OutputLost."""
    _write(sys.stderr, f"{text}\n")


async def confirmed(question: str) -> bool:
    """Ask a person at the terminal. Any answer but yes means no."""
    _write(sys.stderr, f"{question} [y/N] ")
    answer = await asyncio.to_thread(sys.stdin.readline)
    if not answer:
        warn("")
    return answer.strip().lower() in {"y", "yes"}


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # it was closed before the process began
        raise OutputLost
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        raise OutputLost from error
