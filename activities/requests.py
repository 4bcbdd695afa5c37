"""Many requests of a store at a time, stopping between them when the step is to stop."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import CancelledError

from workflows.errors import DeletionError

T = TypeVar("T")
_LOOK_UP_S = 2.0
_SAID_EVERY_S = 0.1
_said = threading.local()
"""What this thread's step has said last: each heartbeat wakes the worker's event loop, which all steps need."""
SETTLED_WITHIN_S = 0.25
"""Seconds for which what a store has answered may wait to be written down with others."""


def between_requests(done: int, total: int) -> None:
    """Heartbeat with a cursor that an operator can read. Raises CancelledError if the step should stop here."""
    if not activity.in_activity():  # as for a preview on the command line
        return
    step, now = activity.info().task_token, time.monotonic()
    if getattr(_said, "step", None) != step or now - _said.at >= _SAID_EVERY_S:
        _said.step, _said.at = step, now
        activity.heartbeat({"done": done, "total": total})
    if activity.is_cancelled():
        raise CancelledError("stopped between two requests; what was done is written down")


def run_all(
    executor: Executor, jobs: Sequence[Callable[[], T]], settle: Callable[[Sequence[T]], None] = lambda _: None
) -> list[T]:
    """Run every job and return what they returned, in the order in which they ended.

    `settle` writes down what has ended, several at a time: at the latest a quarter of a second later, and before this returns
    or raises. So a crash costs no more than to repeat the requests of that time, and many small ones cost few transactions.

    One failure, a job's or `settle`'s, costs only its own jobs: the first is raised after all others have ended. A step that is
    stopped starts no further job, and ends when those that run have ended.
    """
    ended: list[T] = []
    unsettled: list[T] = []
    failures: list[DeletionError] = []
    running: set[Future[T]] = {executor.submit(job) for job in jobs}
    settled_at = time.monotonic()

    def take(done: Iterable[Future[T]]) -> None:
        for future in done:
            try:
                unsettled.append(future.result())
            except DeletionError as error:
                failures.append(error)

    def write_down() -> None:
        nonlocal settled_at
        try:
            settle(tuple(unsettled))
        except DeletionError as error:
            failures.append(error)
        ended.extend(unsettled)
        unsettled.clear()
        settled_at = time.monotonic()

    try:
        while running:
            between_requests(len(jobs) - len(running), len(jobs))
            patience = max(0.0, settled_at + SETTLED_WITHIN_S - time.monotonic()) if unsettled else _LOOK_UP_S
            done, running = wait(running, timeout=patience, return_when=FIRST_COMPLETED)
            take(done)
            if unsettled and (not running or time.monotonic() >= settled_at + SETTLED_WITHIN_S):
                write_down()
    finally:
        stopped = {future for future in running if not future.cancel()}
        wait(stopped)
        take(stopped)
        if unsettled:
            write_down()
    if failures:
        raise failures[0]
    return ended
