"""How clients and workers speak to Temporal: where it is looked for, and how payloads and failures are encoded."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, Interceptor
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import DefaultFailureConverter, PayloadCodec, PayloadConverter
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import FailureError
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

from artifact_deletion.errors import TemporalMisconfigured, TemporalUnreachable, to_application_error

_NEARBY = "127.0.0.1:7233"
"""Where Temporal's own tools look when nothing says where it is."""


class PayloadsAsTheyCome(PydanticPayloadConverter):
    """pydantic's JSON. An input that no workflow takes is handed on as it is: it need not be JSON at all."""

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """See PayloadConverter."""
        try:
            return super().from_payloads(payloads, type_hints)
        except Exception:
            # The SDK names no types where their number is not that of the payloads, and an empty list where none is taken.
            if type_hints == [] or (type_hints is None and len(payloads) > 1):
                return [RawValue(payload) for payload in payloads]
            raise


class FailuresWithoutData(DefaultFailureConverter):
    """Lets out our own errors and Temporal's, without causes of other kinds and without stack traces."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Encode the part of an exception that may be seen."""
        if isinstance(exception, Exception) and not isinstance(exception, FailureError):
            exception = to_application_error(exception)
        super().to_failure(exception, payload_converter, failure)
        _drop_traces(failure)


def _drop_traces(failure: Failure) -> None:
    failure.stack_trace = ""
    if failure.HasField("cause"):
        _drop_traces(failure.cause)


data_converter = dataclasses.replace(
    pydantic_data_converter, payload_converter_class=PayloadsAsTheyCome, failure_converter_class=FailuresWithoutData
)
"""pydantic's JSON, and failures without data. Clients and workers use the same one."""


async def connect(
    runtime: Runtime | None = None, *, codec: PayloadCodec | None = None, interceptors: Sequence[Interceptor] = ()
) -> Client:
    """A client by Temporal's own environment variables and profile file. Raises TemporalUnreachable, TemporalMisconfigured.

    `runtime`: the SDK's threads, where those of the process must not be used, as after a fork. `codec`: encrypts payloads, say;
    clients and workers need the same one. What the SDK logs of itself is left out: callers hear the same from errors.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except (RuntimeError, OSError, ValueError) as error:  # the file, its profile, a certificate that it names
        raise _misconfigured(type(error).__name__) from None
    if "://" in config.setdefault("target_host", _NEARBY):  # the SDK would warn, and look for a host of that name
        raise _misconfigured("the address is HOST:PORT, without a scheme such as http://")
    converter = dataclasses.replace(data_converter, payload_codec=codec)
    try:
        client = await Client.connect(
            **config, data_converter=converter, interceptors=interceptors, runtime=runtime or _quiet()
        )
        # Connecting asks for no namespace; the first call would, and a worker's polls say nothing that a person reads.
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except (RPCError, RuntimeError) as error:  # the SDK says so with a RuntimeError
        raise unreachable(error) from None
    except ValueError as error:  # an address or a certificate that is none
        raise _misconfigured(type(error).__name__) from None
    else:
        return client


@functools.cache
def _quiet() -> Runtime:
    """The SDK's threads, which by default write a coloured log to standard output, where a backend's own output may go."""
    return Runtime(telemetry=TelemetryConfig(logging=None))


def _misconfigured(why: str) -> TemporalMisconfigured:
    return TemporalMisconfigured(
        f"Temporal's settings cannot be used ({why}); see TEMPORAL_ADDRESS, TEMPORAL_PROFILE, "
        "TEMPORAL_CONFIG_FILE and the TEMPORAL_TLS variables"
    )


def unreachable(error: Exception) -> TemporalUnreachable:
    """The part of a failed call's error that may be said: an address is a setting, and may hold a key."""
    if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND and "amespace" in error.message:
        return TemporalUnreachable("Temporal has no such namespace; TEMPORAL_NAMESPACE says which one is meant")
    if isinstance(error, RPCError) and error.status in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED}:
        return TemporalUnreachable("Temporal refuses this key; TEMPORAL_API_KEY or the TLS settings say which one is used")
    return TemporalUnreachable(
        f"Temporal cannot be reached ({type(error).__name__}); TEMPORAL_ADDRESS says where it is looked for"
    )
