"""The threads that make a worker's requests of the store, which serve the organizations at work in turns.

A plain pool serves the first that came: five keys of one organization would wait behind every page that another has.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
organization: ContextVar[str] = ContextVar("organization", default="")
"""Whose step this thread runs, as activities/interceptors.py says it for each."""


class Turns(Executor):
    """A job of each organization that waits, then again; of one organization step by step, so that the first soon make room.

    A step is the thread that submits: each activity has one of its own.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, dict[int, deque[tuple[Future[Any], Callable[[], Any]]]]] = OrderedDict()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        whose = organization.get()
        with self._lock:
            steps = self._waiting.setdefault(whose, {})
            steps.setdefault(threading.get_ident(), deque()).append((future, lambda: fn(*args, **kwargs)))
        self._threads.submit(self._run_next)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  as it is declared
        self._threads.shutdown(wait, cancel_futures=cancel_futures)

    def _run_next(self) -> None:
        with self._lock:
            whose, steps = self._waiting.popitem(last=False)
            step, jobs = next(iter(steps.items()))
            future, job = jobs.popleft()
            if not jobs:
                del steps[step]
            if steps:
                self._waiting[whose] = steps  # behind all others
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001  it is the result's reader who is to see it
            future.set_exception(error)
        else:
            future.set_result(result)
