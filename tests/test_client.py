"""What a request handler can rely on: an answer within its deadline, whatever Temporal does, in every process of its server."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle, WorkflowUpdateHandle

import starter
from activities.delete_rows import DeleteRows
from activities.storage.ledger import Deletion
from activities.sweep_prefixes import SweepPrefixes
from client import BlockingDeletions, Deletions, is_running
from demo.servers import TemporalServer
from demo.world import screen
from tests.stack import ROOT, Held, Stack, connect, eventually
from tests.test_reopened import restore
from workflows.errors import ArtifactNotInOrganization, RowsNotDeleted
from workflows.messages import SEARCH_ATTRIBUTES, AllRowsDeleted, DeletionRequest

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SOON, LATER = timedelta(seconds=0.5), timedelta(seconds=30)


@pytest.fixture
def held_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(monkeypatch, DeleteRows, "delete_rows")
    yield held
    held.let_go()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Somebody who accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield listener.getsockname()[1]


@pytest.fixture
async def deletions(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Deletions:
    monkeypatch.setenv("TEMPORAL_ADDRESS", stack.temporal_address)
    return Deletions()


async def test_a_handler_hears_that_the_rows_are_gone(stack: Stack, deletions: Deletions) -> None:
    """One client for many calls at once; asking again for the same is answered too."""
    snapshots = stack.snapshots("a", "b", "c")
    requests = [stack.request([one.id]) for one in snapshots]
    for request in requests:
        stack.accept(request)
    async with stack.worker():
        answers = await asyncio.gather(*(deletions.rows_deleted(one, within=LATER) for one in requests * 2))
        assert {answer.artifacts for answer in answers if answer} == {1}
        assert None not in answers


async def test_a_handler_with_no_more_time_hears_nothing_and_the_deletion_goes_on(
    stack: Stack, deletions: Deletions, held_rows: Held
) -> None:
    """202 is an answer: the deletion is started, and done when the handler has long gone."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    async with stack.worker():
        assert await deletions.rows_deleted(request, within=SOON) is None
        await held_rows.reached()
        held_rows.let_go()
        assert await deletions.rows_deleted(request, within=LATER) == AllRowsDeleted(
            artifacts=1, rows=await rows_of(stack, request.workflow_id)
        )


async def rows_of(stack: Stack, workflow: str) -> int:
    await stack.client.get_workflow_handle(workflow).result()
    return sum(stack.receipt(workflow).rows.values())


async def test_the_deadline_holds_where_nobody_answers(stack: Stack, silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load balancer that takes connections for a server that is gone."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{silent_port}")
    deletions, began = Deletions(), time.monotonic()
    assert await deletions.rows_deleted(stack.request([1]), within=SOON) is None
    assert time.monotonic() - began < 5


async def test_the_deadline_holds_where_a_server_stops_answering(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected, and then it is stopped in the middle: no answer, no reset. When it goes on, so does the deletion."""
    one, two = stack.snapshots("one", "two")
    requests = [stack.request([each.id]) for each in (one, two)]
    for request in requests:
        stack.accept(request)
    with TemporalServer(tmp_path / "temporal", in_memory=True, ui=False, search_attributes=SEARCH_ATTRIBUTES) as server:
        monkeypatch.setenv("TEMPORAL_ADDRESS", server.address)
        stack.use_temporal(await connect(server.address))
        async with stack.worker():
            deletions = Deletions()
            assert await deletions.rows_deleted(requests[0], within=LATER) is not None
            os.kill(server.pid, signal.SIGSTOP)
            began = time.monotonic()
            try:
                assert await deletions.rows_deleted(requests[1], within=SOON) is None
                assert time.monotonic() - began < 5
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert await deletions.rows_deleted(requests[1], within=LATER) is not None
            for request in requests:
                await stack.client.get_workflow_handle(request.workflow_id).result()


async def test_a_server_that_comes_back_is_found_without_a_restart(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down when the backend first asked: the failure is not remembered."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    server = TemporalServer(tmp_path / "temporal", in_memory=True, ui=False, search_attributes=SEARCH_ATTRIBUTES)
    monkeypatch.setenv("TEMPORAL_ADDRESS", server.address)
    deletions = Deletions()
    assert await deletions.rows_deleted(request, within=LATER) is None
    with server:
        stack.use_temporal(await connect(server.address))
        async with stack.worker():
            assert await deletions.rows_deleted(request, within=LATER) is not None
            await stack.client.get_workflow_handle(request.workflow_id).result()


async def test_a_refusal_is_the_error_that_says_why(stack: Stack, deletions: Deletions) -> None:
    stack.snapshots("head")
    stranger = stack.world.snapshot(stack.world.project(stack.world.organization("globex"), "app"), {"login": screen("login")})
    request = stack.request([stranger.id])
    stack.accept(request)
    async with stack.worker():
        with pytest.raises(ArtifactNotInOrganization, match="1 of 1 artifacts do not belong to organization"):
            await deletions.rows_deleted(request, within=LATER)


async def test_a_deletion_that_ends_otherwise_is_said_to_have_ended(
    stack: Stack, deletions: Deletions, held_rows: Held
) -> None:
    """Terminated by an operator before the rows were gone."""
    (head,) = stack.snapshots("head")
    async with stack.worker():
        handle = await stack.start([head.id])
        waiting = asyncio.create_task(deletions.rows_deleted(stack.request([head.id]), within=LATER))
        await held_rows.reached()
        await handle.terminate()
        with pytest.raises(RowsNotDeleted):
            await waiting
        held_rows.let_go()


async def test_rows_that_came_back_are_gone_when_a_handler_hears_so(stack: Stack, deletions: Deletions) -> None:
    """What an earlier run answered is true of its time: each time a restored backup brings them back, another begins."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    async with stack.worker():
        for _ in range(3):
            stack.accept(request)
            assert await deletions.rows_deleted(request, within=LATER) is not None
            assert head.id not in stack.world.rows()["sentry_preprodartifact"]
            await stack.client.get_workflow_handle(request.workflow_id).result()
            restore(stack, head)


@pytest.mark.parametrize("end", [WorkflowHandle.cancel, WorkflowHandle.terminate])
async def test_asking_again_after_an_early_end_does_the_rest(
    stack: Stack, deletions: Deletions, held_rows: Held, end: Any
) -> None:
    """The 409 of docs/backend.md: the refusal was the ended run's, and the next run deletes."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    async with stack.worker():
        waiting = asyncio.create_task(deletions.rows_deleted(request, within=LATER))
        await held_rows.reached()
        await end(stack.client.get_workflow_handle(request.workflow_id))
        with pytest.raises(RowsNotDeleted):
            await waiting
        held_rows.let_go()
        stack.accept(request)
        assert await deletions.rows_deleted(request, within=LATER) is not None
        assert head.id not in stack.world.rows()["sentry_preprodartifact"]


async def test_a_run_that_ends_before_it_is_asked_leaves_the_answer_to_another(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow line to Temporal, and a deletion with nothing to do: the next run has the question from its start."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    start = stack.client.start_workflow

    async def start_and_miss_the_end(*given: Any, **options: Any) -> WorkflowHandle[Any, Any]:
        handle: WorkflowHandle[Any, Any] = await start(*given, **options)
        await handle.result()
        return handle

    monkeypatch.setattr(stack.client, "start_workflow", start_and_miss_the_end)
    async with stack.worker():
        answer = await asyncio.wait_for(starter.wait_rows_deleted(stack.client, request), LATER.total_seconds())
        assert answer == AllRowsDeleted(artifacts=1, rows=await rows_of(stack, request.workflow_id))


async def test_all_who_wait_for_a_run_share_one_update(
    stack: Stack, deletions: Deletions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal refuses the eleventh open update of a run, and every update makes its history longer. This run is a second."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    held = Held(monkeypatch, SweepPrefixes, "sweep_prefixes")
    held.let_go()
    async with stack.worker():
        await stack.delete([head.id])
        restore(stack, head)
        stack.accept(request)
        held.hold()

        async def twenty_at_once() -> list[AllRowsDeleted | None]:
            return await asyncio.gather(*(deletions.rows_deleted(request, within=LATER) for _ in range(20)))

        answers = [answer for _ in range(2) for answer in await twenty_at_once()]
        held.let_go()
        handle = stack.client.get_workflow_handle(request.workflow_id)
        await handle.result()
    (answer,) = set(answers)
    assert answer is not None
    kinds = [event.event_type for event in (await handle.fetch_history()).events]
    assert kinds.count(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED) == 1


@contextlib.contextmanager
def temporal(folder: Path, settings: Mapping[str, object]) -> Iterator[TemporalServer]:
    """A server of its own, with limits that are reached sooner."""
    with TemporalServer(
        folder / "temporal", in_memory=True, ui=False, search_attributes=SEARCH_ATTRIBUTES, dynamic_config=settings
    ) as server:
        yield server


async def test_the_deadline_holds_longer_than_temporal_keeps_a_call_open(
    stack: Stack, tmp_path: Path, held_rows: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers after twenty seconds, here after one, that the update goes on, and is polled: also then a cancel is one."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    polling, poll = asyncio.Event(), WorkflowUpdateHandle._poll_until_outcome  # noqa: SLF001  nothing public says when

    async def polled(*given: Any, **options: Any) -> None:
        polling.set()
        await poll(*given, **options)

    monkeypatch.setattr(WorkflowUpdateHandle, "_poll_until_outcome", polled)
    with temporal(tmp_path, {"history.longPollExpirationInterval": "1s"}) as server:
        monkeypatch.setenv("TEMPORAL_ADDRESS", server.address)
        stack.use_temporal(await connect(server.address))
        deletions = Deletions()
        async with stack.worker():
            await starter.start_deletion(stack.client, request)
            await held_rows.reached()
            assert await deletions.rows_deleted(request, within=timedelta(seconds=4)) is None
            assert polling.is_set()
            polling.clear()
            waiting = asyncio.create_task(deletions.rows_deleted(request, within=LATER))
            await polling.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            held_rows.let_go()
            assert await deletions.rows_deleted(request, within=LATER) is not None


async def test_who_is_told_to_ask_again_takes_time_over_it(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose history is long waits for its last steps, a slow transaction say, before another goes on: for hours even."""
    snapshots = stack.snapshots(*"abcdefgh")
    request = stack.request(one.id for one in snapshots)
    stack.accept(request)
    begun: list[object] = []

    def is_late(_: object, chunk: object) -> bool:
        begun.append(chunk)
        return len(begun) > 5

    held = Held(monkeypatch, DeleteRows, "delete_rows", is_late)
    with temporal(tmp_path, {"limit.historyCount.suggestContinueAsNew": 30}) as server:
        stack.use_temporal(await connect(server.address))
        asked: list[DeletionRequest] = []
        start = starter.start_deletion

        async def counted(client: Any, request: DeletionRequest) -> WorkflowHandle[Any, Any]:
            asked.append(request)
            return await start(client, request)

        monkeypatch.setattr("client.start_deletion", counted)
        deletions = Deletions(lambda: connect(server.address))
        async with stack.worker(chunk_artifacts=1, chunks_at_once=8):
            handle = await start(stack.client, request)
            await held.reached()

            async def is_long() -> bool:
                return (await handle.describe()).history_length > 30

            assert await eventually(is_long)
            assert await deletions.rows_deleted(request, within=timedelta(seconds=2)) is None
            assert 2 < len(asked) < 10
            held.let_go()
            answer = await deletions.rows_deleted(request, within=LATER)
            assert answer == AllRowsDeleted(artifacts=8, rows=await rows_of(stack, request.workflow_id))


async def test_threads_share_one_blocking_client(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty requests at once in a threaded server: one connection, and an end that leaves no thread behind."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", stack.temporal_address)
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    deletions = BlockingDeletions()

    def ask_from_threads() -> set[AllRowsDeleted | None]:
        with ThreadPoolExecutor(20) as threads:
            return set(threads.map(lambda _: deletions.rows_deleted(request, within=LATER), range(20)))

    async with stack.worker():
        (answer,) = await asyncio.to_thread(ask_from_threads)
    assert answer is not None
    deletions.close()
    deletions.close()


# A prefork server: the parent has used its client (or not) before it forks, and children use theirs at the same time. Each
# prints what it heard; whoever does not end by itself is found by the time-out.
PREFORK = """
import json, os, sys
from datetime import timedelta
from client import BlockingDeletions
from workflows.messages import DeletionRequest

deletions = BlockingDeletions()
organization, first, *artifacts = json.loads(sys.argv[1])

def ask(artifact):
    request = DeletionRequest(organization_id=organization, artifact_ids=(artifact,))
    answer = deletions.rows_deleted(request, within=timedelta(seconds=30))
    os.write(1, f"{artifact} {answer.artifacts if answer else None}\\n".encode())

if first:
    ask(first)
children = []
for artifact in artifacts:
    if (child := os.fork()) == 0:
        ask(artifact)
        sys.exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
if first:
    ask(first)
sys.exit(any(codes))
"""


def run_backend(stack: Stack, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code, *(json.dumps(one) for one in arguments)]
    return subprocess.run(line, cwd=ROOT, env=stack.environment(), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("parent_asks", [True, False])
async def test_every_process_of_a_prefork_server_has_a_client_of_its_own(stack: Stack, *, parent_asks: bool) -> None:
    parent, *others = stack.snapshots("a", "b", "c", "d")
    for one in (parent, *others):
        stack.accept(stack.request([one.id]))
    ids = [stack.organization_id, parent.id if parent_asks else 0, *(one.id for one in others)]
    async with stack.worker():
        done = await asyncio.to_thread(run_backend, stack, PREFORK, ids)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [f"{one.id} 1" for one in others] + ([f"{parent.id} 1"] * 2 if parent_asks else [])
    assert sorted(done.stdout.splitlines()) == sorted(expected)


# A server that forks, when it is told to, while a thread of it waits for an answer.
FORKS_MEANWHILE = """
import json, os, sys, threading
from datetime import timedelta
from client import BlockingDeletions
from workflows.messages import DeletionRequest

deletions = BlockingDeletions()
organization, artifact = json.loads(sys.argv[1])
request = DeletionRequest(organization_id=organization, artifact_ids=(artifact,))

def ask():
    print(deletions.rows_deleted(request, within=timedelta(seconds=50)).artifacts, flush=True)

asking = threading.Thread(target=ask)
asking.start()
sys.stdin.readline()
if (child := os.fork()) == 0:
    os.write(1, f"{os.listdir('/proc/self/task') == [str(os.getpid())]}\\n".encode())
    sys.exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or asking.join())
"""


async def test_a_call_that_is_open_during_a_fork_is_asked_again(stack: Stack) -> None:
    """No thread of the SDK lives across a fork, and whoever waits for one hears its answer all the same."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    line = [sys.executable, "-c", FORKS_MEANWHILE, json.dumps([stack.organization_id, head.id])]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, cwd=ROOT, env=stack.environment(), text=True, stdin=pipe, stdout=pipe, stderr=pipe) as backend:
        await eventually(lambda: is_running(stack.client, request.workflow_id))
        assert backend.stdin is not None
        assert backend.stdout is not None
        backend.stdin.write("\n")
        backend.stdin.flush()
        assert await asyncio.to_thread(backend.stdout.readline) == "True\n"
        async with stack.worker():
            out, err = await asyncio.to_thread(backend.communicate, timeout=60)
    assert (backend.returncode, out, err) == (0, "1\n", "")


# A server of which two threads fork at the same time, as pools of multiprocessing do; everybody asks and forks again.
FORKS_TWICE_AT_ONCE = """
import json, os, sys, threading
from datetime import timedelta
from client import BlockingDeletions
from workflows.messages import DeletionRequest

deletions = BlockingDeletions()
organization, artifact = json.loads(sys.argv[1])
request = DeletionRequest(organization_id=organization, artifact_ids=(artifact,))
both = threading.Barrier(2)
codes = []

def ask():
    return deletions.rows_deleted(request, within=timedelta(seconds=30)).artifacts

def fork(and_then):
    if (child := os.fork()) == 0:
        os._exit(and_then() - 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return 1

def fork_at_once():
    both.wait()
    fork(lambda: ask() and fork(ask))

ask()
threads = [threading.Thread(target=fork_at_once, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
print(codes, flush=True)
os._exit(ask() - 1 if len(codes) == 2 else 1)
"""


async def test_threads_that_fork_at_once_wait_for_each_other(stack: Stack) -> None:
    """Neither thread is held up for ever, and parent and children can ask and fork again."""
    (head,) = stack.snapshots("head")
    stack.accept(stack.request([head.id]))
    async with stack.worker():
        done = await asyncio.to_thread(run_backend, stack, FORKS_TWICE_AT_ONCE, [stack.organization_id, head.id])
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 0]\n", "")


# A backend whose handler gave up, and which ends while Temporal still has not answered.
GIVES_UP = """
import json, sys
from datetime import timedelta
from client import BlockingDeletions
from workflows.messages import DeletionRequest

organization, artifact = json.loads(sys.argv[1])
request = DeletionRequest(organization_id=organization, artifact_ids=(artifact,))
print(BlockingDeletions().rows_deleted(request, within=timedelta(seconds=1)))
"""


async def test_a_backend_that_gave_up_ends_like_any_other(stack: Stack) -> None:
    """The SDK's threads can hold up an interpreter that ends while a call is open. No worker runs, so nobody answers."""
    (head,) = stack.snapshots("head")
    stack.accept(stack.request([head.id]))
    done = await asyncio.to_thread(run_backend, stack, GIVES_UP, [stack.organization_id, head.id])
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
    assert await starter.resume(stack.client, stack.database) == []


def test_the_schema_in_docs_is_that_of_the_code(database_url: str) -> None:
    """For clients in other languages: `python starter.py schema > docs/request.schema.json` after each change."""
    assert (ROOT / "docs" / "request.schema.json").read_text() == f"{starter.request_schema()}\n"


async def test_a_request_that_this_version_does_not_know_keeps_no_other_from_being_resumed(stack: Stack) -> None:
    """A ledger outlives versions. The oldest is unreadable; the next is started all the same."""
    one, two = stack.snapshots("one", "two")
    for each in (one, two):
        stack.accept(stack.request([each.id]))
    with stack.database.write() as session:
        oldest = update(Deletion).where(Deletion.id == stack.request([one.id]).deletion_id)
        session.execute(oldest.values(request={"from": "another version"}))
    assert await starter.resume(stack.client, stack.database) == [stack.request([two.id]).workflow_id]


async def test_a_row_whose_id_is_not_its_requests_is_not_started(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """Another language computed it, and nothing would ever close that row: each look would start its deletion again."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    with stack.database.write() as session:
        session.execute(update(Deletion).values(id="0" * 32))
    assert await starter.resume(stack.client, stack.database) == []
    assert caplog.messages == [f"deletion {'0' * 32}: its request's own id is {request.deletion_id}"]
