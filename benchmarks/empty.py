"""A deletion's course through Temporal with steps that do nothing: what no deletion can be faster than.

    TEMPORAL_ADDRESS=127.0.0.1:7233 python -m benchmarks.empty

is a worker for it, as bare as they come: no interceptors, no search attributes, nothing shown.
"""

import asyncio
import sys
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from artifact_deletion.converter import connect
from benchmarks.stage import ROOT, Stage
from demo.run import WorkerProcess

QUEUE, STORE_QUEUE = "empty", "empty-store"
WORKFLOW, CHUNKS_WORKFLOW, UPDATE = "Empty", "EmptyChunks", "rows_deleted"


@activity.defn
def nothing() -> None:
    """Do nothing."""


@workflow.defn(name=WORKFLOW)
class Empty:
    """As many round trips as a small deletion with no quiet period: which steps are done at once, and which wait for which."""

    def __init__(self) -> None:
        self._rows_deleted = False

    @workflow.run
    async def run(self) -> None:
        """Open, collect, delete rows, objects beside trace items, sweep, close."""
        for _ in range(3):
            await _at_once()
        self._rows_deleted = True
        await asyncio.gather(_step(STORE_QUEUE), _step(QUEUE))
        await _step(STORE_QUEUE)
        await _at_once()

    @workflow.update(name=UPDATE)
    async def rows_deleted(self) -> None:
        """Returns when a deletion would have deleted its rows."""
        await workflow.wait_condition(lambda: self._rows_deleted)


@workflow.defn(name=CHUNKS_WORKFLOW)
class EmptyChunks:
    """As many round trips as a deletion of many artifacts makes until their rows are gone."""

    @workflow.run
    async def run(self, chunks: int, chunks_at_once: int) -> None:
        """Open, then of each chunk collect and delete rows."""
        at_once = asyncio.Semaphore(chunks_at_once)

        async def delete_rows_of_one() -> None:
            async with at_once:
                await _step(STORE_QUEUE)
                await _step(QUEUE)

        await _step(QUEUE)
        await asyncio.gather(*(delete_rows_of_one() for _ in range(chunks)))


async def _step(queue: str) -> None:
    await workflow.execute_activity(nothing, task_queue=queue, start_to_close_timeout=timedelta(minutes=1))


async def _at_once() -> None:
    await workflow.execute_local_activity(nothing, start_to_close_timeout=timedelta(seconds=5))


class EmptyWorker(WorkerProcess):
    """A process that runs this module."""

    @classmethod
    def of(cls, stage: Stage, name: str) -> "EmptyWorker":
        """On the stage's Temporal server."""
        return cls(stage.folder / name, {"TEMPORAL_ADDRESS": stage.temporal.address, "PYTHONPATH": str(ROOT)})

    def _command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "benchmarks.empty"]


async def until_rows_deleted(client: Client) -> "WithStartWorkflowOperation[Any, Any]":
    """Start an empty deletion, and wait until a real one would have deleted its rows."""
    start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
        WORKFLOW, id=str(uuid.uuid4()), task_queue=QUEUE, id_conflict_policy=WorkflowIDConflictPolicy.FAIL
    )
    await client.execute_update_with_start_workflow(UPDATE, start_workflow_operation=start)
    return start


async def until_empty(client: Client) -> None:
    """Start an empty deletion, and wait for its end."""
    await client.execute_workflow(WORKFLOW, id=str(uuid.uuid4()), task_queue=QUEUE)


async def until_chunks_empty(client: Client, chunks: int, chunks_at_once: int) -> None:
    """Start an empty deletion of so many chunks, and wait until a real one would have deleted its rows."""
    await client.execute_workflow(CHUNKS_WORKFLOW, args=[chunks, chunks_at_once], id=str(uuid.uuid4()), task_queue=QUEUE)


async def main() -> None:
    """Work until the process is ended."""
    client = await connect()
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(32))
        for queue, workflows in ((QUEUE, [Empty, EmptyChunks]), (STORE_QUEUE, [])):
            worker = Worker(
                client,
                task_queue=queue,
                workflows=workflows,
                activities=[nothing],
                activity_executor=threads,
                max_concurrent_activities=16,
                workflow_runner=UnsandboxedWorkflowRunner(),
            )
            await stack.enter_async_context(worker)
        print("worker is up", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
