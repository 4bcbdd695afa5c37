"""Temporal's edges: payloads that its servers cannot read, a namespace or a plug-in that is not there."""

import base64
import os

import pytest
from cryptography.exceptions import InvalidTag
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

import worker
from artifact_deletion.client import progress, wait_rows_deleted
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DELETE_WORKFLOW, TASK_QUEUE
from examples.encryption import EncryptionCodec
from temporal_client import connect
from tests.faults.test_faults import compared, hold
from tests.stack import Stack, lines

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CODEC = ("ARTIFACT_DELETION_ADAPTERS", "DELETION_KEYS")
REFERENCE = "TICKET-770077"
READABLE = (REFERENCE.encode(), b"artifact_ids", b"sealed_by_kind", b"Follow")


@pytest.fixture
async def encrypted(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Workers and clients with the codec. Returns a client without it, who sees what the server sees."""
    keys = ",".join(f"{name}:{base64.b64encode(os.urandom(32)).decode()}" for name in ("new", "old"))
    for name, value in stack.temporal_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ARTIFACT_DELETION_ADAPTERS", "examples.encryption:adapters")
    monkeypatch.setenv("DELETION_KEYS", keys)
    server_sees = stack.client
    stack.use_temporal(await connect())
    return server_sees


async def bytes_of(client: Client, workflow: str) -> bytes:
    """All that the server has of a workflow."""
    handle = client.get_workflow_handle(workflow)
    events = [event.SerializeToString() async for event in handle.fetch_history_events()]
    return b"".join([*events, (await handle.describe()).raw_description.SerializeToString()])


@pytest.mark.thorough
async def test_with_a_codec_temporal_can_read_nothing_of_a_deletion(
    stack: Stack, encrypted: Client, locking_bucket: str
) -> None:
    """Complete or with leftovers: requests, results, failures, summaries. A client with the key reads all of it."""
    stack.use_bucket(locking_bucket)
    head, base, comparison = compared(stack)
    scope = stack.world.physical(head.usecase, head.artifact.organization_id, head.artifact.project_id, "")
    held = {scope + comparison.mask_keys[0]}
    hold(stack, held, "ON")
    async with stack.worker():
        failed = await stack.start([head.id], reference=REFERENCE)
        failure = await stack.failure(failed)
        assert DeletionReceipt.model_validate(failure.details[0]).reference == REFERENCE
        seen = [await bytes_of(encrypted, failed.id)]
        hold(stack, held, "OFF")
        assert (await (await stack.start([head.id], reference=REFERENCE)).result()).complete

        request = stack.request([base.id], reference=REFERENCE)
        stack.accept(request)
        assert (await wait_rows_deleted(stack.client, request)).artifacts == 1
        completed = stack.client.get_workflow_handle(request.workflow_id, result_type=DeletionReceipt)
        assert (await completed.result()).reference == REFERENCE
        assert (await progress(stack.client, completed.id)).artifacts == 1
        shown = await stack.run_command("status", completed.id, **{name: os.environ[name] for name in CODEC})
        assert "completed" in shown.stdout or "closed" in shown.stdout, shown.stderr
    seen += [await bytes_of(encrypted, workflow) for workflow in (failed.id, completed.id)]
    for has in seen:
        assert not [word for word in READABLE if word in has]
        assert b"binary/encrypted" in has


async def test_without_a_codec_the_same_would_be_read(stack: Stack) -> None:
    """The test above is worth something only if it can fail."""
    (head,) = stack.snapshots("head")
    async with stack.worker():
        receipt = await stack.delete([head.id], reference=REFERENCE)
    seen = await bytes_of(stack.client, receipt.workflow_id)
    assert [word for word in READABLE if word in seen] == list(READABLE)


@pytest.mark.thorough
async def test_plain_json_starts_a_deletion_on_workers_with_a_codec_and_bad_json_fails_once(
    stack: Stack, encrypted: Client
) -> None:
    """Clients in other languages may come without the codec: what they send is taken, what they get they cannot read."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    async with stack.worker():
        plain = request.model_dump(mode="json")
        handle = await encrypted.start_workflow(DELETE_WORKFLOW, plain, id=request.workflow_id, task_queue=TASK_QUEUE)
        await stack.client.get_workflow_handle(handle.id).result()
        assert stack.receipt(handle.id).complete
        for client in (encrypted, stack.client):
            with pytest.raises(WorkflowFailureError) as failed:
                await client.execute_workflow(DELETE_WORKFLOW, {"organization_id": 1}, id="bad", task_queue=TASK_QUEUE)
            assert isinstance(failed.value.cause, ApplicationError)
            assert failed.value.cause.message == "artifact_ids: Field required"


async def test_an_older_key_still_decrypts_and_a_wrong_one_never_does(stack: Stack) -> None:
    """Rotation: the new key stands in front. A payload that was changed on the way is refused."""
    old, new = os.urandom(32), os.urandom(32)
    payload = Payload(metadata={"encoding": b"json/plain"}, data=b'"secret"')
    (sealed,) = await EncryptionCodec({"old": old}).encode([payload])
    rotated = EncryptionCodec({"new": new, "old": old})
    assert await rotated.decode([sealed]) == [payload]
    (fresh,) = await rotated.encode([payload])
    assert fresh.metadata["key"] == b"new"
    for changed in (
        Payload(metadata=sealed.metadata, data=sealed.data[:-1] + b"x"),
        Payload(metadata={"encoding": b"binary/encrypted", "key": b"new"}, data=sealed.data),
    ):
        with pytest.raises(InvalidTag):
            await rotated.decode([changed])


def answer_of(stack: Stack, *command: str, **changes: str) -> tuple[int, list[str]]:
    process = stack.worker_process(*command, **changes)
    code = process.wait(30)
    return code, list(lines((stack.folder / f"worker-{len(stack._processes) - 1}.log").read_text()))  # noqa: SLF001


@pytest.mark.thorough
@pytest.mark.parametrize(
    "command",
    ["worker.py", *(pytest.param(f"starter.py {one}", marks=pytest.mark.thorough) for one in ("resume", "setup", "status ID"))],
)
def test_a_namespace_that_is_not_there_is_one_sentence(stack: Stack, command: str) -> None:
    """Temporal answers, and knows nothing of it: an operator should not look for a server that is down."""
    stack.accept(stack.request([1]))
    arguments = command.replace("ID", stack.request([1]).workflow_id).split()
    code, said = answer_of(stack, *arguments, TEMPORAL_NAMESPACE="no-such-namespace")
    assert code == 3
    assert "Temporal has no such namespace; TEMPORAL_NAMESPACE says which one is meant" in said
    assert not [line for line in said if "Traceback" in line]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("no_such_module:adapters", "no_such_module:adapters cannot be imported (ModuleNotFoundError)"),
        ("examples.encryption:nothing", "examples.encryption:nothing cannot be imported (AttributeError)"),
        ("examples.encryption:ENCODING", "examples.encryption:ENCODING is no Adapters of artifact-deletion"),
        ("not a name", "must be module:name, such as my_adapters:adapters"),
    ],
)
def test_adapters_that_are_not_there_are_one_sentence(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: str, said: str
) -> None:
    for name, value in (stack.environment(ARTIFACT_DELETION_ADAPTERS=named)).items():
        monkeypatch.setenv(name, value)
    try:
        code: object = worker.main([])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith("ARTIFACT_DELETION_ADAPTERS: ")
    assert said in line
