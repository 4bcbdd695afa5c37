"""How clients and workers speak to Temporal: where it is, and how payloads and failures are encoded."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, Interceptor
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode

from adapters import adapters
from settings import AdaptersSettings
from workflows.errors import EndpointUnusable, FailuresWithoutData, TemporalMisconfigured, TemporalUnreachable


class PayloadsAsTheyCome(PydanticPayloadConverter):
    """pydantic's JSON. Inputs that nobody asked for are handed on as they are if they are no JSON: to decode them is no use."""

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """See PayloadConverter."""
        try:
            return super().from_payloads(payloads, type_hints)
        except Exception:
            # The SDK names no types where their number is not that of the payloads, and an empty list where none is taken.
            if type_hints == [] or (type_hints is None and len(payloads) > 1):
                return [RawValue(payload) for payload in payloads]
            raise


data_converter = dataclasses.replace(
    pydantic_data_converter, payload_converter_class=PayloadsAsTheyCome, failure_converter_class=FailuresWithoutData
)
"""pydantic's JSON, and failures without data. Clients and workers use the same one."""


_NEARBY = "127.0.0.1:7233"
"""Where Temporal's own tools look when nothing says where it is."""


async def connect(runtime: Runtime | None = None) -> Client:
    """A client by Temporal's own environment variables and profile file.

    Raises TemporalUnreachable, TemporalMisconfigured, AdaptersUnusable, EndpointUnusable.

    `runtime`: the SDK's threads, where those of the process must not be used, as after a fork.
    """
    codec = adapters().codec
    converter = dataclasses.replace(data_converter, payload_codec=codec() if codec else None)
    try:
        config = ClientConfig.load_client_connect_config()
    except (RuntimeError, OSError, ValueError) as error:  # the file, its profile, a certificate that it names
        raise _misconfigured(error) from None
    config.setdefault("target_host", _NEARBY)
    try:
        client = await Client.connect(**config, data_converter=converter, interceptors=_interceptors(), runtime=runtime)
        # Connecting asks for no namespace; the first call would, and a worker's polls say nothing that a person reads.
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except (RPCError, RuntimeError) as error:  # the SDK says so with a RuntimeError
        raise unreachable(error) from None
    except ValueError as error:  # an address or a certificate that is none
        raise _misconfigured(error) from None
    else:
        return client


def _misconfigured(error: Exception) -> TemporalMisconfigured:
    return TemporalMisconfigured(
        f"Temporal's settings cannot be used ({type(error).__name__}); see TEMPORAL_ADDRESS, TEMPORAL_PROFILE, "
        "TEMPORAL_CONFIG_FILE and the TEMPORAL_TLS variables"
    )


def _interceptors() -> list[Interceptor]:
    """What a client does besides, and a worker that is made of it."""
    if not AdaptersSettings().tracing:
        return []
    try:
        from workflows.tracing import tracing  # noqa: PLC0415  needs an extra that others need not install
    except ModuleNotFoundError:
        raise EndpointUnusable("ARTIFACT_DELETION_TRACING needs the extra `otel`: artifact-deletion[otel]") from None
    return [tracing()]


def send_traces() -> None:
    """Send what waits to be sent, where there are traces: before a process ends without Python's own end."""
    if (found := sys.modules.get(f"{__package__}.tracing")) is not None:
        found.send_what_is_left()


def unreachable(error: Exception) -> TemporalUnreachable:
    """What may be said of a call that failed: where is a setting, and may hold a key."""
    if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND and "amespace" in error.message:
        return TemporalUnreachable("Temporal has no such namespace; TEMPORAL_NAMESPACE says which one is meant")
    if isinstance(error, RPCError) and error.status in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED}:
        return TemporalUnreachable("Temporal lets nobody in with this key; TEMPORAL_API_KEY or the TLS settings say with which")
    return TemporalUnreachable(
        f"Temporal cannot be reached ({type(error).__name__}); TEMPORAL_ADDRESS says where it is looked for"
    )
