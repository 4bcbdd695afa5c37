"""Many requests of a store at a time, stopping between them when the step is to stop."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import CancelledError

from workflows.errors import DeletionError

T = TypeVar("T")
_LOOK_UP_S = 2.0


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
    running: set[Future[T]] = {executor.submit(job) for job in jobs}
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
