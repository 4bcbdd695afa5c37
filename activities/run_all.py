"""Many requests of a store at a time, stopping between them when the step is to stop."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from temporalio import activity
from temporalio.exceptions import CancelledError

from artifact_deletion.errors import DeletionError

T = TypeVar("T")
_LOOK_UP_S = 2.0
_SAID_EVERY_S = 0.1
_said = threading.local()
"""What this thread's step said last: each heartbeat wakes the worker's event loop, which all steps need."""
SETTLED_WITHIN_S = 0.25
"""Seconds for which a store's answers may wait to be written down with others."""


def between_requests(done: int, total: int) -> None:
    """Heartbeat with a cursor that an operator can read. Raises CancelledError if the step should stop here."""
    if not activity.in_activity():  # as for a preview on the command line
        return
    step, now = activity.info().task_token, time.monotonic()
    if getattr(_said, "step", None) != step or now - _said.at >= _SAID_EVERY_S:
        _said.step, _said.at = step, now
        activity.heartbeat({"done": done, "total": total})
    if activity.is_cancelled():
        raise CancelledError("stopped between two requests; the rest is written down")


def ahead(executor: Executor, items: Iterator[T]) -> Iterator[T]:
    """The same items: another thread asks for the next one while one is looked at."""
    waiting = executor.submit(next, items, None)
    try:
        while (one := waiting.result()) is not None:
            waiting = executor.submit(next, items, None)
            yield one
    finally:
        wait([waiting])


def run_of_step() -> str:
    """Temporal's id of the workflow run that this step is of."""
    return activity.info().workflow_run_id or ""


@dataclass
class _Results(Generic[T]):
    """What jobs returned, on its way to being written down."""

    settle: Callable[[Sequence[T]], None]
    ended: list[T] = field(default_factory=list)
    failures: list[DeletionError] = field(default_factory=list)
    unsettled: list[T] = field(default_factory=list)
    settled_at: float = field(default_factory=time.monotonic)

    def take(self, done: Iterable[Future[T]]) -> None:
        for future in done:
            try:
                self.unsettled.append(future.result())
            except DeletionError as error:
                self.failures.append(error)

    @property
    def due_in_s(self) -> float:
        """When they are to be written down."""
        return max(0.0, self.settled_at + SETTLED_WITHIN_S - time.monotonic())

    def write_down(self) -> None:
        try:
            self.settle(tuple(self.unsettled))
        except DeletionError as error:
            self.failures.append(error)
        self.ended.extend(self.unsettled)
        self.unsettled.clear()
        self.settled_at = time.monotonic()


def run_all(
    executor: Executor, jobs: Sequence[Callable[[], T]], settle: Callable[[Sequence[T]], None] = lambda _: None
) -> list[T]:
    """Run every job and return what they returned, in the order in which they ended.

    `settle` writes down results, several at a time: at the latest a quarter of a second later, and before this returns
    or raises. So a crash costs no more than to repeat the requests of that time, and many small ones cost few transactions.

    One failure, a job's or `settle`'s, costs only its own jobs: the first is raised after all others have ended. A step that is
    stopped starts no further job, and ends when those that run have ended.
    """
    results, ended = _Results(settle), SimpleQueue[Future[T]]()
    running: set[Future[T]] = {executor.submit(job) for job in jobs}
    for future in running:
        future.add_done_callback(ended.put)
    try:
        while running:
            between_requests(len(jobs) - len(running), len(jobs))
            done = _next(ended, results.due_in_s if results.unsettled else _LOOK_UP_S)
            running.difference_update(done)
            results.take(done)
            if results.unsettled and not (running and results.due_in_s):
                results.write_down()
    finally:
        stopped = {future for future in running if not future.cancel()}
        wait(stopped)
        results.take(stopped)
        if results.unsettled:
            results.write_down()
    if results.failures:
        raise results.failures[0]
    return results.ended


def _next(ended: SimpleQueue[T], patience_s: float) -> list[T]:
    """All that have ended; if none has, the first that does so in this time."""
    done = list[T]()
    try:
        done.append(ended.get(timeout=patience_s))
        while True:
            done.append(ended.get_nowait())
    except Empty:
        return done
