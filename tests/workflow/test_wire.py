"""Any client that never saw our code gets one final answer in words, and no workflow task is tried again."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from activities.stores.s3 import S3Objects
from artifact_deletion.bulk import BULK_WORKFLOW
from artifact_deletion.request import DELETE_WORKFLOW, MAX_REQUEST_BYTES, PREVIEW_WORKFLOW, TASK_QUEUE
from tests.stack import Held, Stack, eventually
from tests.workflow.test_workflow import MARKER, NUMBER, REFUSED, payload
from workflows.bulk_steps import RETENTION_WORKFLOW
from workflows.reconcile_steps import RECONCILE_WORKFLOW

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

NO_JSON = payload(f"{{{MARKER}".encode())
BINARY = payload(MARKER.encode(), "binary/plain")
UNKNOWN = payload(MARKER.encode(), f"json/{MARKER}")
NO_ENCODING = payload(MARKER.encode(), None)
ENCRYPTED = RawValue(Payload(data=b"\x00", metadata={"encoding": b"binary/encrypted", "key": MARKER.encode()}))
GOOD = payload(b'{"organization_id":1,"artifact_ids":[1]}')
# All that is checked one by one must be done within a workflow task's two seconds, on a busy machine too.
FULL = MAX_REQUEST_BYTES - 100
HUGE: Mapping[str, bytes] = {
    "wrong ids": b'{"organization_id":1,"artifact_ids":[' + b'"",' * (FULL // 3) + b"0]}",
    "wrong fields": b"{" + b",".join(b'"%x":0' % number for number in range(FULL // 10)) + b"}",
    "ids": b'{"organization_id":1,"artifact_ids":[' + b",".join(b"%d" % number for number in range(1, FULL // 7)) + b"]}",
    "zeros": b'{"organization_id":1,"artifact_ids":[' + b"0," * (FULL // 2) + b"0]}",
    "objects": b"[" + b"{}," * (FULL // 3) + b"0]",
    "all that Temporal takes": b'{"organization_id":1,"artifact_ids":[' + b"0," * 900_000 + b"0]}",
}
assert max(len(content) for name, content in HUGE.items() if name != "all that Temporal takes") <= MAX_REQUEST_BYTES
SAID = {"wrong fields": "of its fields and values are wrong", "all that Temporal takes": "the request is longer"}
INPUTS: Mapping[str, tuple[list[RawValue], str]] = {
    "none": ([], "the request is not JSON"),
    "two": ([GOOD, GOOD], "2 inputs were sent"),
    "two that are no JSON": ([NO_JSON, NO_JSON], "2 inputs were sent"),
    "three of every kind": ([BINARY, GOOD, UNKNOWN], "3 inputs were sent"),
    "a hundred": ([NO_ENCODING] * 100, "100 inputs were sent"),
    "encrypted": ([ENCRYPTED], "the request is not JSON"),
    "two encrypted": ([ENCRYPTED, ENCRYPTED], "2 inputs were sent"),
    **{f"huge: {name}": ([payload(content)], SAID.get(name, ": ")) for name, content in HUGE.items()},
}


async def started(stack: Stack, workflow: str, name: str, inputs: list[RawValue]) -> WorkflowHandle[Any, Any]:
    return await stack.client.start_workflow(
        workflow, args=inputs, id=f"refused/{stack.organization_id}/{workflow}/{name}", task_queue=TASK_QUEUE
    )


async def ended_at_once(stack: Stack, handle: WorkflowHandle[Any, Any]) -> ApplicationError:
    """The failure; a workflow task that was tried again is one that would be for ever."""

    async def ended_or_tried_again() -> str:
        described = await handle.describe()
        again = described.raw_description.pending_workflow_task.attempt > 1
        ended = described.status is not WorkflowExecutionStatus.RUNNING
        return "the workflow task is tried again" if again else "it ended" if ended else ""

    assert await eventually(ended_or_tried_again) == "it ended", handle.id
    return await stack.failure(handle)


@pytest.mark.thorough
@pytest.mark.parametrize("workflow", [DELETE_WORKFLOW, PREVIEW_WORKFLOW, BULK_WORKFLOW, RETENTION_WORKFLOW, RECONCILE_WORKFLOW])
async def test_inputs_of_any_kind_and_number_end_in_one_failure_in_words(stack: Stack, workflow: str) -> None:
    """A workflow task that fails is tried again for ever, in silence."""
    handles = {name: await started(stack, workflow, name, inputs) for name, (inputs, _) in INPUTS.items()}
    async with stack.worker():
        failures = {name: await ended_at_once(stack, handle) for name, handle in handles.items()}
    assert {name: failure.type for name, failure in failures.items()} == dict.fromkeys(INPUTS, "InvalidRequest")
    assert [name for name, (_, words) in INPUTS.items() if words not in failures[name].message] == []
    for name, handle in handles.items():
        said = b"".join([event.SerializeToString() async for event in handle.fetch_history_events()][1:])
        assert MARKER.encode() not in said, name
        assert len(failures[name].message) < 500, name


async def test_a_preview_refuses_what_a_deletion_refuses(stack: Stack) -> None:
    """In the same words, but for the workflow's own id."""
    handles = {
        name: await stack.client.start_workflow(
            PREVIEW_WORKFLOW, given, id=f"refused/{stack.organization_id}/{name}", task_queue=TASK_QUEUE
        )
        for name, (given, _) in REFUSED.items()
    }
    async with stack.worker():
        failures = dict(zip(handles, await asyncio.gather(*map(stack.failure, handles.values())), strict=True))
    words = {name: said.replace("delete-artifacts/", "preview-artifacts/") for name, (_, said) in REFUSED.items()}
    assert {name: failure.type for name, failure in failures.items()} == dict.fromkeys(REFUSED, "InvalidRequest")
    assert [name for name, said in words.items() if said not in failures[name].message] == []
    said = b"".join([failure.message.encode() for failure in failures.values()])
    assert MARKER.encode() not in said
    assert str(NUMBER).encode() not in said


ARGUMENTS: Mapping[str, list[RawValue]] = {
    "one": [GOOD],
    "no JSON": [NO_JSON],
    "bytes": [BINARY],
    "an unknown encoding": [UNKNOWN],
    "no encoding": [NO_ENCODING],
    "three": [GOOD, BINARY, UNKNOWN],
    "huge": [payload(HUGE["objects"])],
}


@pytest.mark.thorough
async def test_inputs_of_a_query_or_an_update_are_passed_over_and_unknown_ones_are_refused(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither takes any: a client that sends some is answered, one that names none is told; the deletion goes on."""
    (one,) = stack.snapshots("one")
    held = Held(monkeypatch, S3Objects, "delete")
    async with stack.worker():
        handle = await stack.start([one.id])
        answers = [await handle.query("progress", args=inputs) for inputs in ARGUMENTS.values()]
        updates = [
            await handle.execute_update("rows_deleted", args=inputs, id=f"with-{name}") for name, inputs in ARGUMENTS.items()
        ]
        for unknown in (MARKER, "progress "):
            with pytest.raises(WorkflowQueryFailedError):
                await handle.query(unknown, args=[BINARY])
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(MARKER, args=[BINARY], id="unknown")
        await handle.signal(MARKER, args=[NO_JSON, BINARY])
        held.let_go()
        await handle.result()
    assert {answer["artifacts"] for answer in answers} == {1}
    assert {answer["artifacts"] for answer in updates} == {1}
    events = [event async for event in handle.fetch_history_events()]
    assert not [event for event in events if event.HasField("workflow_task_failed_event_attributes")]
    assert stack.receipt(handle.id).complete
