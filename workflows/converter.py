"""How clients and workers speak to Temporal: where it is, and how payloads and failures are encoded."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode

from adapters import adapters
from workflows.errors import FailuresWithoutData, TemporalUnreachable


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


async def connect(runtime: Runtime | None = None) -> Client:
    """A client by Temporal's own environment variables and profile file. Raises TemporalUnreachable, AdaptersUnusable.

    `runtime`: the SDK's threads, where those of the process must not be used, as after a fork.
    """
    codec = adapters().codec
    converter = dataclasses.replace(data_converter, payload_codec=codec() if codec else None)
    try:
        config = ClientConfig.load_client_connect_config()
        client = await Client.connect(**config, data_converter=converter, runtime=runtime)
        # Connecting asks for no namespace; the first call would, and a worker's polls say nothing that a person reads.
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except (RPCError, RuntimeError) as error:  # the SDK says so with a RuntimeError
        raise unreachable(error) from None
    else:
        return client


def unreachable(error: Exception) -> TemporalUnreachable:
    """What may be said of a call that failed: where is a setting, and may hold a key."""
    if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND and "amespace" in error.message:
        return TemporalUnreachable("Temporal has no such namespace; TEMPORAL_NAMESPACE says which one is meant")
    if isinstance(error, RPCError) and error.status in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED}:
        return TemporalUnreachable("Temporal lets nobody in with this key; TEMPORAL_API_KEY or the TLS settings say with which")
    return TemporalUnreachable(
        f"Temporal cannot be reached ({type(error).__name__}); TEMPORAL_ADDRESS says where it is looked for"
    )
