"""Traces of a deletion: one trace from the client that asked to the last step, and no word of what was deleted."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from opentelemetry import baggage, context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from sqlalchemy.orm import Session
from temporalio.client import Client

import worker
from activities.ledger import deletions
from artifact_deletion.client import start_deletion
from artifact_deletion.converter import data_converter
from tests.stack import Stack
from tracing import Tracing

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
STEPS = {
    *("open_deletion", "collect_keys", "delete_rows", "delete_objects", "delete_trace_items", "sweep_prefixes"),
    "close_deletion",
}


@dataclass
class Receiver:
    """An OTLP/HTTP endpoint that keeps what it is sent."""

    bodies: list[bytes] = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def spans(self, workflow_id: str) -> list[Span]:
        """The spans of a workflow."""
        found = []
        for body in list(self.bodies):
            sent = ExportTraceServiceRequest.FromString(body)
            every = [span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans]
            found += [
                span
                for span in every
                if any(one.key == "temporalWorkflowID" and one.value.string_value == workflow_id for one in span.attributes)
            ]
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    received = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            received.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.thorough
@on_sqlite
async def test_workflow_and_steps_of_a_deletion_are_one_trace_without_a_key_in_it(stack: Stack, receiver: Receiver) -> None:
    """Asked for by a client without traces, the trace's id is the deletion's; by one with them, it is the client's."""
    one, two = stack.snapshots("one", "two")
    objects = stack.world.objects()
    changes = {"ARTIFACT_DELETION_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
    process = stack.worker_process(**changes)
    untraced = await stack.start([one.id])
    await asyncio.wait_for(untraced.result(), 40)
    done = await stack.run_command(
        "delete", two.id, "--organization", stack.organization_id, "--images", "keep", "--wait", "--json", **changes
    )
    assert done.returncode == 0, done.stderr
    traced = json.loads(done.stdout)["workflow_id"]
    process.terminate()
    assert await asyncio.to_thread(process.wait, 30) == 0

    for workflow_id in (untraced.id, traced):
        spans = receiver.spans(workflow_id)
        names = {span.name for span in spans}
        assert {f"{kind}:{step}" for kind in ("StartActivity", "RunActivity") for step in STEPS} <= names
        assert "CompleteWorkflow:DeleteArtifactsWorkflow" in names
        ids = {span.trace_id.hex() for span in spans if not span.name.startswith(("QueryWorkflow", "HandleQuery"))}
        assert len(ids) == 1
        assert (ids == {workflow_id.rpartition("/")[2]}) == (workflow_id == untraced.id)
    (root,) = [span for span in receiver.spans(traced) if span.name == "StartWorkflow:DeleteArtifactsWorkflow"]
    (run,) = [span for span in receiver.spans(traced) if span.name == "RunWorkflow:DeleteArtifactsWorkflow"]
    assert (root.parent_span_id, run.parent_span_id) == (b"", root.span_id)
    everything = b"".join(receiver.bodies)
    assert b"artifact-deletion" in everything
    for key in objects:
        for part in (key, *key.split("/objects/")):
            assert part.encode() not in everything


@on_sqlite
async def test_a_span_shows_our_own_errors_and_baggage_stays_outside(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stranger's exception says may be a key, and what a backend's baggage holds a user's name."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider.get_tracer("test"))
    traced = await Client.connect(
        stack.temporal_address, namespace=stack.client.namespace, data_converter=data_converter, interceptors=[tracing]
    )
    whole, errors = deletions.serve_asks, iter([ValueError("private")])

    def failing(session: Session, deletion_id: str) -> list[deletions.Asked]:
        for error in errors:
            raise error from KeyError("private")
        return whole(session, deletion_id)

    monkeypatch.setattr(deletions, "serve_asks", failing)
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    token = context.attach(baggage.set_baggage("user", "private"))
    async with worker.running(stack.settings(), traced):
        handle = await start_deletion(traced, request)
        await asyncio.wait_for(handle.result(), 40)
    context.detach(token)
    spans = exporter.get_finished_spans()
    failures = [span for span in spans if span.status.status_code is StatusCode.ERROR]
    (failed,) = [span for span in failures if span.name == "RunActivity:open_deletion"]
    assert "UnexpectedFailure: ValueError: a fault of this service" in str(failed.status.description)
    assert failed.events
    assert "private" not in "".join(span.to_json() for span in spans)
    history = b"".join([event.SerializeToString() async for event in handle.fetch_history_events()])
    assert b"traceparent" in history
    assert b"private" not in history
