"""The command line's client of Temporal.

By itself the SDK writes its own log to standard output, in colours, where JSON and receipts go. Here it goes through `logging`.
"""

import functools
import logging

from temporalio.client import Client
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

import temporal_client


async def connect() -> Client:
    """See temporal_client.connect. Raises TemporalUnreachable, Misconfigured."""
    return await temporal_client.connect(_runtime())


@functools.cache
def _runtime() -> Runtime:
    """One a process, kept to its end: threads of the SDK cannot be waited for while they wait to log."""
    forwarding = LogForwardingConfig(
        logging.getLogger("temporalio.core"),
        append_target_to_name=False,
        prepend_target_on_message=False,
        append_log_fields_to_message=False,  # they hold addresses
    )
    logs = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding)
    return Runtime(telemetry=TelemetryConfig(logging=logs))
