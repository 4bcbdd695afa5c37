"""How clients and workers speak to Temporal: where it is, and how payloads and failures are encoded."""

import dataclasses

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from workflows.errors import FailuresWithoutData, TemporalUnreachable

data_converter = dataclasses.replace(pydantic_data_converter, failure_converter_class=FailuresWithoutData)
"""pydantic's JSON, and failures without data. Clients and workers use the same one."""


async def connect(runtime: Runtime | None = None) -> Client:
    """A client by Temporal's own environment variables and profile file. Raises TemporalUnreachable.

    `runtime`: the SDK's threads, where those of the process must not be used, as after a fork.
    """
    try:
        config = ClientConfig.load_client_connect_config()
        return await Client.connect(**config, data_converter=data_converter, runtime=runtime)
    except (RPCError, RuntimeError) as error:  # the SDK says so with a RuntimeError
        raise unreachable(error) from None


def unreachable(error: Exception) -> TemporalUnreachable:
    """What may be said of a call that failed: where is a setting, and may hold a key."""
    return TemporalUnreachable(
        f"Temporal cannot be reached ({type(error).__name__}); TEMPORAL_ADDRESS says where it is looked for"
    )
