"""What holds for every step: it says that it is alive, only our own errors leave it, and each says when to try again.

Waits are retries, and a retry policy's backoff grows with each of them: an outage after a long wait would be looked at once a
minute from its first second on. Instead a step is tried again after a quarter of its age: soon at first, then every minute.
"""

import asyncio
import contextlib
import logging
import time
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.exceptions import CancelledError
from temporalio.worker import ActivityInboundInterceptor, ActivityOutboundInterceptor, ExecuteActivityInput, Interceptor

from activities.stores.turns import organization
from artifact_deletion.errors import DeletionError, NotYet, to_application_error

_HEARTBEATS_A_TIMEOUT = 5
_SILENT_S = 1.0
SOONEST, LATEST = timedelta(seconds=0.5), timedelta(minutes=1)
_AGE_TO_PAUSE = 4
_log = logging.getLogger("artifact_deletion.activities")


class Heartbeats(Interceptor):
    """Heartbeats as long as the process lives, so that a step lost with its worker is run elsewhere within seconds.

    A step that hangs is not kept alive for ever by this: requests and statements have time-outs of their own.
    """

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  the SDK's name
        return _Heartbeats(next)


class _Heartbeats(ActivityInboundInterceptor):
    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        self._outbound = _LastCursor(outbound)
        super().init(self._outbound)

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  the SDK's name
        timeout = activity.info().heartbeat_timeout
        if timeout is None:
            return await super().execute_activity(input)
        beating = asyncio.create_task(self._beat(timeout.total_seconds() / _HEARTBEATS_A_TIMEOUT))
        try:
            return await super().execute_activity(input)
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating

    async def _beat(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            self._outbound.heartbeat(*self._outbound.cursor)


class _LastCursor(ActivityOutboundInterceptor):
    """Remembers what the step said last, so that a heartbeat in between does not wipe it out.

    A step that is soon over says nothing: each heartbeat is a write of Temporal's. One within a workflow task cannot say any.
    """

    def __init__(self, next: ActivityOutboundInterceptor) -> None:  # noqa: A002  the SDK's name
        super().__init__(next)
        self.cursor: tuple[Any, ...] = ()
        self._began = time.monotonic()

    def heartbeat(self, *details: Any) -> None:
        self.cursor = details
        if time.monotonic() - self._began > _SILENT_S and not activity.info().is_local:
            super().heartbeat(*details)


class OfOrganization(Interceptor):
    """Says whose each step is: by Temporal's fairness key, or within a workflow task, where there is none, by its input."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  the SDK's name
        return _OfOrganization(next)


class _OfOrganization(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  the SDK's name
        key = activity.info().priority.fairness_key
        organization.set(key or next((str(getattr(given, "organization_id", "")) for given in input.args), ""))
        return await super().execute_activity(input)


class FewWithinTasks(Interceptor):
    """Bounds the steps within workflow tasks. Those count too that Temporal has given up, as long as their threads go on.

    One too many fails at once, and is begun anew as a step of its own, which waits for its turn.
    """

    def __init__(self, at_a_time: int) -> None:
        self._room = asyncio.Semaphore(at_a_time)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  the SDK's name
        return _FewWithinTasks(next, self._room)


class _FewWithinTasks(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, room: asyncio.Semaphore) -> None:  # noqa: A002  the SDK's name
        super().__init__(next)
        self._room = room

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  the SDK's name
        if not activity.info().is_local:
            return await super().execute_activity(input)
        if self._room.locked():
            raise NotYet("this worker has no room for one more step within a workflow task")
        async with self._room:
            return await super().execute_activity(input)


class NamedErrorsOnly(Interceptor):
    """Turns any exception of a step into one of our named errors before anything logs or sends it."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  the SDK's name
        return _NamedErrorsOnly(next)


class _NamedErrorsOnly(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  the SDK's name
        try:
            return await super().execute_activity(input)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  all of them leave as one of ours
            asked = error.retry_in if isinstance(error, DeletionError) else None
            if not isinstance(error, DeletionError):
                # Where, and of what kind, but not what it says: messages carry keys and values.
                frames = traceback.extract_tb(error.__traceback__)
                place = "; ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
                _log.error("%s: %s at %s", activity.info().activity_type, type(error).__name__, place)
            failure = to_application_error(error, retry_in(activity.info(), asked))
        raise failure


def retry_in(info: activity.Info, asked: timedelta | None) -> timedelta | None:
    """When a step that failed or waits is tried again. A pause beyond its budget would end it at once."""
    age = datetime.now(UTC) - info.scheduled_time
    pause = asked or min(max(age / _AGE_TO_PAUSE, SOONEST), LATEST)
    if info.schedule_to_close_timeout:  # zero means no limit
        left = info.schedule_to_close_timeout - age
        pause = min(pause, max(left - SOONEST, timedelta(milliseconds=1)))
    return pause
