"""The service's own client of Temporal: the contract's, with the codec and the traces that the settings name."""

import sys

from temporalio.client import Client, Interceptor
from temporalio.runtime import Runtime

import artifact_deletion.converter
from adapters import adapters
from artifact_deletion.errors import Misconfigured
from settings import AdaptersSettings


async def connect(runtime: Runtime | None = None) -> Client:
    """See `artifact_deletion.converter.connect`. Raises TemporalUnreachable, Misconfigured."""
    codec = adapters().codec
    return await artifact_deletion.converter.connect(runtime, codec=codec and codec(), interceptors=_interceptors())


def _interceptors() -> list[Interceptor]:
    """For a client, and for a worker that is made of it."""
    if not AdaptersSettings().tracing:
        return []
    try:
        from tracing import tracing  # noqa: PLC0415  needs packages that others need not install
    except ModuleNotFoundError as error:
        raise Misconfigured(f"ARTIFACT_DELETION_TRACING needs the packages of OpenTelemetry ({error.name})") from None
    return [tracing()]


def send_traces() -> None:
    """Send the spans that wait, where there are traces: before a process ends without Python's own end."""
    if (found := sys.modules.get("tracing")) is not None:
        found.send_what_is_left()
