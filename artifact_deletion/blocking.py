"""`Deletions` for handlers without asyncio, under threads and prefork servers. All that forks ask for is in here, alone.

The SDK's threads leave locks behind that corrupt a forked child. So they end before each fork, and are started anew by the next
call; calls that other threads have open at that moment are asked again.
"""

import asyncio
import atexit
import gc
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig

from artifact_deletion.client import Deletions
from artifact_deletion.converter import connect
from artifact_deletion.receipt import RowsGone
from artifact_deletion.request import DeletionRequest

_LETS_GO_WITHIN = timedelta(seconds=2)
"""A future that something else holds on to, a debugger say, holds up no fork for longer."""


class BlockingDeletions:
    """One client a process, made by its first call; none lives across a fork."""

    def __init__(self, connect_: Callable[[Runtime], Awaitable[Client]] = connect) -> None:
        """Touches no network and starts no thread: a backend may make one when it is imported."""
        self._connect = connect_
        self._lock = threading.Lock()
        self._running: _Running | None = None
        with _forks:
            _all.add(self)

    def rows_deleted(self, request: DeletionRequest, *, within: timedelta) -> RowsGone | None:
        """See Deletions."""
        until = time.monotonic() + within.total_seconds()
        while True:
            with self._lock:
                if self._running is None:
                    self._running = _Running(self._connect)
                running = self._running
                left = timedelta(seconds=max(0, until - time.monotonic()))
                answer = asyncio.run_coroutine_threadsafe(running.deletions.rows_deleted(request, within=left), running.loop)
            try:
                return answer.result()
            except CancelledError:
                if not running.ended_by_fork:
                    raise
            except BaseException:
                answer.cancel()
                raise

    def close(self) -> None:
        """Give up open calls and end the thread; the next call starts another."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _before_fork(self) -> None:
        self._lock.acquire()  # until the fork is over, so that no other thread starts one in between
        running, self._running = self._running, None
        if running is not None:
            running.ended_by_fork = True
            running.stop()

    def _after_fork(self) -> None:
        self._lock.release()


_Future = weakref.ref[asyncio.Future[Any]]


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that knows whether a thread of the SDK may still want the GIL.

    For each call the SDK makes a future of the loop. A thread of the SDK takes the GIL once more to set or look at it, also
    when it was cancelled, and lets go of it at the end of that (pyo3-async-runtimes, `future_into_py_with_locals`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.futures: list[_Future] = []

    def create_future(self) -> asyncio.Future[Any]:
        future = super().create_future()
        self.futures = [*_held(self.futures), weakref.ref(future)]
        return future


def _held(futures: list[_Future]) -> list[_Future]:
    return [future for future in futures if future() is not None]


class _Running:
    """A thread with an event loop and a client in it, on threads of the SDK that are its own and end with it."""

    def __init__(self, connect_: Callable[[Runtime], Awaitable[Client]]) -> None:
        # No log of the SDK's own: it would go to standard output, or a thread of the SDK would want the GIL to hand it over.
        runtime = Runtime(telemetry=TelemetryConfig(logging=None))
        self.ended_by_fork = False
        self.loop = _Loop()
        self._stopped = asyncio.Event()
        self.deletions = Deletions(lambda: connect_(runtime))
        self._thread = threading.Thread(target=self._run, name="artifact-deletion", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        del self.deletions  # and with it the client and the SDK's threads
        gc.collect()  # which may hang in a cycle

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._stopped.wait())
            runner.run(_give_up())
            runner.run(_let_go(self.loop.futures))


async def _give_up() -> None:
    """Cancel the calls that are still open."""
    calls = asyncio.all_tasks() - {asyncio.current_task()}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def _let_go(futures: list[_Future]) -> None:
    """Wait until the SDK has let go of them: a thread of it that still wants the GIL would not survive a fork, or the end."""
    gc.collect()  # a call that failed hangs in a cycle with its future
    until = time.monotonic() + _LETS_GO_WITHIN.total_seconds()
    while (futures := _held(futures)) and time.monotonic() < until:
        ClientConfig.load(config_source=b"")  # any call: what the SDK's threads let go of without the GIL goes with the next
        await asyncio.sleep(0.001)


_all: weakref.WeakSet[BlockingDeletions] = weakref.WeakSet()
_forks = threading.Lock()
"""Held during a fork: another thread's has to wait for its end."""
_forking: list[BlockingDeletions] = []


def _before_fork() -> None:
    _forks.acquire()
    _forking.extend(sorted(_all, key=id))
    for one in _forking:
        one._before_fork()  # noqa: SLF001  of this file


def _after_fork() -> None:
    for one in _forking:
        one._after_fork()  # noqa: SLF001  of this file
    _forking.clear()
    _forks.release()


def _at_exit() -> None:
    # An interpreter that ends while a call of the SDK is open can wait for it for ever.
    for one in list(_all):
        one.close()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
atexit.register(_at_exit)
