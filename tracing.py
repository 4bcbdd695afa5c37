"""Traces of deletions through OpenTelemetry: the spans of Temporal's own interceptor, in one trace a deletion.

OpenTelemetry's own variables say where they are sent (`OTEL_EXPORTER_OTLP_ENDPOINT` and others). This is imported only when
traces are asked for.
"""

import functools
import os
import re

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import ProxyTracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from temporalio import workflow
from temporalio.contrib.opentelemetry import TracingInterceptor, TracingWorkflowInboundInterceptor
from temporalio.worker import WorkflowInboundInterceptor, WorkflowInterceptorClassInput

SERVICE = "artifact-deletion"
_DIGEST = re.compile(r"/([0-9a-f]{32})$")
# Without OpenTelemetry's baggage, which goes wherever a trace goes, and could hold what may not stand in Temporal's history.
_TRACE_IDS_ALONE = TraceContextTextMapPropagator()


class Tracing(TracingInterceptor):
    """Temporal's interceptor for clients and workers, with trace ids and nothing else in Temporal's headers."""

    def __init__(self, tracer: trace.Tracer) -> None:
        super().__init__(tracer)
        self.text_map_propagator = _TRACE_IDS_ALONE

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[TracingWorkflowInboundInterceptor]:  # noqa: A002  the SDK's name
        """See the SDK's."""
        super().workflow_interceptor_class(input)
        return _WorkflowTracing


class _WorkflowTracing(TracingWorkflowInboundInterceptor):
    def __init__(self, next: WorkflowInboundInterceptor) -> None:  # noqa: A002  the SDK's name
        super().__init__(next)
        self.text_map_propagator = _TRACE_IDS_ALONE

    def _load_workflow_context_carrier(self) -> dict[str, list[str] | str] | None:
        """A client that asked without a trace gets the deletion's own: its id is one. The SDK would begin one a step."""
        found = super()._load_workflow_context_carrier()
        if found is None and (digest := _DIGEST.search(workflow.info().workflow_id)):
            found = self._workflow_context_carrier = {"traceparent": f"00-{digest[1]}-{digest[1][:16]}-01"}
        return found


@functools.cache
def tracing() -> Tracing:
    """The process's interceptor: over the tracer provider that it has already, as a backend may, or over one of ours."""
    provider = trace.get_tracer_provider()
    return Tracing((_own_provider() if isinstance(provider, ProxyTracerProvider) else provider).get_tracer(SERVICE))


def send_what_is_left() -> None:
    """Send the spans that wait for their batch: for a process that ends without Python's own end."""
    if tracing.cache_info().currsize and _own_provider.cache_info().currsize:
        _own_provider().shutdown()


@functools.cache
def _own_provider() -> TracerProvider:
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
