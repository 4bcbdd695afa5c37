"""Many requests of a store at a time, stopping between them when the step is to stop."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from threading import Lock
from typing import TypeVar
from weakref import WeakKeyDictionary

from temporalio import activity
from temporalio.exceptions import CancelledError

from workflows.errors import DeletionError

T = TypeVar("T")
_LOOK_UP_S = 2.0
_first: WeakKeyDictionary[Executor, deque[Callable[[], None]]] = WeakKeyDictionary()
_lock = Lock()


def between_requests(done: int, total: int) -> None:
    """Heartbeat with a cursor that an operator can read. Raises CancelledError if the step should stop here."""
    if not activity.in_activity():  # as for a preview on the command line
        return
    activity.heartbeat({"done": done, "total": total})
    if activity.is_cancelled():
        raise CancelledError("stopped between two requests; what was done is written down")


def run_all(executor: Executor, jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run every job and return what they returned, in the order in which they ended.

    One failure costs only its own job: the first is raised after all others have ended. A step that is stopped starts no
    further job, and ends when those that run have ended.
    """
    ended: list[T] = []
    failures: list[DeletionError] = []
    first = _first_of(executor)
    running: set[Future[T]] = {executor.submit(_after, first, job) for job in jobs}
    try:
        while running:
            between_requests(len(jobs) - len(running), len(jobs))
            done, running = wait(running, timeout=_LOOK_UP_S, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    ended.append(future.result())
                except DeletionError as error:
                    failures.append(error)
    finally:
        wait({future for future in running if not future.cancel()})
    if failures:
        raise failures[0]
    return ended


def submit_first(executor: Executor, job: Callable[[], T]) -> Future[T]:
    """Run a job before all that `run_all` has waiting: somebody waits for the rows, and they for a few manifests.

    Objects are listed and deleted by thousands of jobs, which nobody waits for.
    """
    future: Future[T] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
                future.set_exception(error)

    first = _first_of(executor)
    first.append(run)
    executor.submit(_after, first, lambda: None)
    return future


def _first_of(executor: Executor) -> deque[Callable[[], None]]:
    with _lock:
        return _first.setdefault(executor, deque())


def _after(first: deque[Callable[[], None]], job: Callable[[], T]) -> T:
    while True:
        try:
            run = first.popleft()
        except IndexError:
            return job()
        run()
