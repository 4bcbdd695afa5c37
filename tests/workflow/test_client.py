"""What a request handler can rely on: an answer within its deadline, whatever Temporal does or runs in the deletion's place."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle, WorkflowUpdateHandle

from activities.delete_rows import DeleteRows
from activities.sweep_prefixes import SweepPrefixes
from artifact_deletion.client import Deletions, is_running, start_deletion, wait_rows_deleted
from artifact_deletion.errors import ArtifactNotInOrganization, RowsNotDeleted, WorkflowIdTaken
from artifact_deletion.receipt import RowsGone
from artifact_deletion.request import DELETE_WORKFLOW, SEARCH_ATTRIBUTES, TASK_QUEUE
from demo.servers import TemporalServer
from demo.world import screen
from tests.stack import Held, Stack, connect, eventually, resume
from tests.steps.test_reopened import restore

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SOON, LATER = timedelta(seconds=0.5), timedelta(seconds=30)


@pytest.fixture
def held_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(monkeypatch, DeleteRows, "delete_rows")
    yield held
    held.let_go()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A listener that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield listener.getsockname()[1]


@pytest.fixture
async def deletions(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Deletions:
    for name, value in stack.temporal_environment().items():
        monkeypatch.setenv(name, value)
    return Deletions()


@pytest.mark.thorough
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


@pytest.mark.thorough
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
        assert await deletions.rows_deleted(request, within=LATER) == RowsGone(
            artifacts=1, rows=await rows_of(stack, request.workflow_id)
        )


async def rows_of(stack: Stack, workflow: str) -> int:
    await stack.client.get_workflow_handle(workflow).result()
    return sum(stack.receipt(workflow).rows.values())


async def test_the_deadline_holds_where_connections_get_no_answer(
    stack: Stack, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load balancer that takes connections for a server that is gone."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{silent_port}")
    deletions, began = Deletions(), time.monotonic()
    assert await deletions.rows_deleted(stack.request([1]), within=SOON) is None
    assert time.monotonic() - began < 5


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.usefixtures("only_visible_steps")
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


@pytest.mark.thorough
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


@pytest.mark.thorough
@pytest.mark.parametrize("end", [WorkflowHandle.cancel, WorkflowHandle.terminate])
@pytest.mark.usefixtures("only_visible_steps")
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
        answer = await asyncio.wait_for(wait_rows_deleted(stack.client, request), LATER.total_seconds())
        assert answer == RowsGone(artifacts=1, rows=await rows_of(stack, request.workflow_id))


@pytest.mark.thorough
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

        async def twenty_at_once() -> list[RowsGone | None]:
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


@pytest.mark.thorough
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
            await start_deletion(stack.client, request)
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


async def log_says(caplog: pytest.LogCaptureFixture, what: str) -> str:
    """The logged line with these words, once it is there."""

    async def said() -> str | None:
        return next((line for line in caplog.messages if what in line), None)

    return await eventually(said)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("workflow", "queue"), [("Stranger", TASK_QUEUE), (DELETE_WORKFLOW, "elsewhere"), ("Stranger", "elsewhere")]
)
async def test_a_stranger_under_the_deletions_id_is_named_with_what_to_do(
    stack: Stack, deletions: Deletions, caplog: pytest.LogCaptureFixture, workflow: str, queue: str
) -> None:
    """Started wrongly by another client. It would block the deletion for ever, and each look would say that it runs."""
    one, two = stack.snapshots("one", "two")
    taken, free = stack.request([one.id]), stack.request([two.id])
    stranger = await stack.client.start_workflow(workflow, id=taken.workflow_id, task_queue=queue)
    for request in (taken, free):
        stack.accept(request)
    with pytest.raises(WorkflowIdTaken, match=f"^{taken.workflow_id} is taken by a workflow that is not ours"):
        await is_running(stack.client, taken)
    assert await deletions.rows_deleted(taken, within=SOON) is None
    assert "python starter.py resume" in await log_says(caplog, "is taken by a workflow")
    caplog.clear()
    assert await resume(stack.client, stack.database) == [free.workflow_id]
    assert "terminate it" in await log_says(caplog, "is taken by a workflow")
    await stranger.terminate()
    assert not await is_running(stack.client, taken)
    async with stack.worker():
        assert await resume(stack.client, stack.database) == [taken.workflow_id]
        assert await deletions.rows_deleted(taken, within=LATER) is not None
        for request in (taken, free):
            await stack.client.get_workflow_handle(request.workflow_id).result()


@pytest.mark.thorough
async def test_a_deletion_that_is_merely_slow_is_not_taken_for_a_stranger(
    stack: Stack, deletions: Deletions, held_rows: Held, caplog: pytest.LogCaptureFixture
) -> None:
    """The same look after the same deadline, and no word of it."""
    caplog.set_level(logging.INFO, "artifact_deletion.client")
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    async with stack.worker():
        assert await deletions.rows_deleted(request, within=SOON) is None
        await asyncio.gather(*deletions._looking)  # noqa: SLF001  nothing public says when it has looked
        held_rows.let_go()
        await stack.client.get_workflow_handle(request.workflow_id).result()
    assert caplog.messages == [f"{request.workflow_id}: its rows are not gone within {SOON}"]
