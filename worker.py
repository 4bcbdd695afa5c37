"""The process that does the work: it serves Temporal's task queues until it is told to stop."""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.runtime import Runtime
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from activities.gauges import LedgerGauges
from activities.interceptors import FewWithinTasks, Heartbeats, NamedErrorsOnly, OfOrganization
from activities.stores.turns import Turns
from artifact_deletion.converter import unreachable
from artifact_deletion.errors import DeletionError, Misconfigured
from artifact_deletion.request import TASK_QUEUE
from composition import Parts, open_parts, pace_of, warn_if_unavailable
from migrations import check_version
from settings import Settings, explained, load
from telemetry import alive, begin_at_zero, log_lines, reported, runtime
from temporal_client import connect, send_traces
from workflows.delete_artifacts import DeleteArtifactsWorkflow
from workflows.delete_in_bulk import DeleteInBulkWorkflow
from workflows.inputs import OneInput
from workflows.preview_deletion import PreviewDeletionWorkflow
from workflows.reconcile import ReconcileWorkflow
from workflows.run_retention import RunRetentionWorkflow
from workflows.steps import OBJECTS_TASK_QUEUE
from workflows.watch_project_images import WatchProjectImagesWorkflow

_log = logging.getLogger("artifact_deletion.worker")
DEPLOYMENT = "artifact-deletion"
_FEWEST_WORKFLOW_TASKS = 2
"""The SDK demands as many."""
_M_ARENA_MAX, _ARENAS = -8, 4
_WORKFLOWS = [
    DeleteArtifactsWorkflow,
    DeleteInBulkWorkflow,
    PreviewDeletionWorkflow,
    ReconcileWorkflow,
    RunRetentionWorkflow,
    WatchProjectImagesWorkflow,
]
_RUNNER = UnsandboxedWorkflowRunner()
"""The sandbox replaces isinstance and others for the whole process, steps too: a tenth of a small deletion's CPU
(`python -m benchmarks.run choices`). Tests replay every recorded history inside it."""


@contextlib.asynccontextmanager
async def running(settings: Settings, client: Client) -> AsyncIterator[None]:
    """Work on the task queues until the context ends, then let running activities finish within the grace period."""
    parts = open_parts(settings)
    try:
        check_version(parts.database)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_workers(parts, client))
            if settings.metrics_address:
                meter = (client.service_client.config.runtime or Runtime.default()).metric_meter
                begin_at_zero(meter, client.namespace)
                gauges = LedgerGauges(meter, parts.database, parts.backend, settings.promised, parts.images_within)
                await stack.enter_async_context(reported(gauges, settings.metrics_ledger_every_s))
            if settings.health_file:
                await stack.enter_async_context(alive(settings.health_file))
            yield
    finally:
        parts.database.dispose()


@contextlib.asynccontextmanager
async def _workers(parts: Parts, client: Client) -> AsyncIterator[None]:
    settings = parts.settings
    pace = await pace_of(settings, client)
    if settings.serves != "rows":  # a worker that deletes nothing from it does without any credentials of the store
        await warn_if_unavailable(parts.store)
    with (
        ThreadPoolExecutor(2 * settings.database_steps + settings.store_steps, thread_name_prefix="activity") as threads,
        Turns(settings.store_requests) as requests,
        Turns(settings.manifest_readers) as reads,
    ):
        with_database, with_store = parts.steps(requests, reads, pace)
        common = {"activity_executor": threads, **_common(settings)}
        async with contextlib.AsyncExitStack() as stack:
            if settings.serves != "objects":
                rows = Worker(
                    client,
                    task_queue=TASK_QUEUE,
                    workflows=_WORKFLOWS,
                    activities=[*with_database, *with_store] if pace.quick_steps else with_database,
                    workflow_runner=_RUNNER,
                    max_concurrent_activities=settings.database_steps,
                    # As many as have room for a step within them (FewWithinTasks): the others wait before they begin.
                    max_concurrent_workflow_tasks=max(settings.database_steps, _FEWEST_WORKFLOW_TASKS),
                    **common,
                )
                await stack.enter_async_context(rows)
            if settings.serves != "rows":
                objects = Worker(
                    client,
                    task_queue=OBJECTS_TASK_QUEUE,
                    activities=with_store,
                    max_concurrent_activities=settings.store_steps,
                    **common,
                )
                await stack.enter_async_context(objects)
            _log.info("worker is up: it serves %s", settings.serves)
            stack.callback(parts.stopping.set)
            yield


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "interceptors": [
            Heartbeats(),
            NamedErrorsOnly(),
            OfOrganization(),
            FewWithinTasks(settings.database_steps),
            OneInput(),
        ],
        "graceful_shutdown_timeout": settings.shutdown_grace,
        "deployment_config": _deployment(settings.build_id),
    }


def _deployment(build_id: str | None) -> WorkerDeploymentConfig | None:
    if build_id is None:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(DEPLOYMENT, build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


def _share_freed_memory() -> None:
    """Let threads use what others have freed: a worker that deletes many keys takes less memory.

    With glibc each thread has an arena of its own, up to eight times as many as cores (`M_ARENA_MAX`, mallopt(3)). Other C
    libraries have no such call. An operator's own number counts.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


async def _work(settings: Settings) -> None:
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    async with running(settings, await connect(runtime(settings.metrics_address))):
        gc.freeze()  # modules and clients stay: no collection need look through them again and again
        await asked_to_stop.wait()
        _log.info("stopping: running activities get %s", settings.shutdown_grace)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 after SIGTERM or SIGINT, 2 for bad settings, 3 when Temporal or the database cannot be used."""
    parser = argparse.ArgumentParser(
        description="Delete snapshot artifacts: a worker on Temporal's task queues.",
        epilog="environment variables (and Temporal's own, TEMPORAL_ADDRESS and others):\n\n" + explained(Settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    _share_freed_memory()
    settings = load(Settings)
    log_lines(settings.log_format)
    try:
        asyncio.run(_work(settings))
    except (DeletionError, RPCError) as error:
        sentence = str(unreachable(error) if isinstance(error, RPCError) else error)
        if settings.log_format == "json":
            _log.critical(sentence)
        else:
            sys.stderr.write(f"{sentence}\n")
        return 2 if isinstance(error, Misconfigured) else 3
    return 0


def run() -> NoReturn:
    """Run this process's worker, and end it."""
    ended_with = main()
    send_traces()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's threads can abort an interpreter that ends right after a call.
    os._exit(ended_with)


if __name__ == "__main__":
    run()
