"""The process that does the work: settings, clients, registration, and a graceful end."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any, NoReturn

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import Worker, WorkerDeploymentConfig

from activities.cancel_deletion import CancelDeletion
from activities.close_deletion import CloseDeletion
from activities.collect_keys import CollectKeys
from activities.delete_objects import DeleteObjects
from activities.delete_rows import DeleteRows, Rows, SqlRows
from activities.delete_trace_items import DeleteTraceItems
from activities.find_owed_elsewhere import FindOwedElsewhere
from activities.interceptors import Heartbeats, NamedErrorsOnly
from activities.open_deletion import OpenDeletion
from activities.preview_deletion import PreviewDeletion
from activities.storage.database import Database
from activities.storage.drift import Schema
from activities.storage.keys import Scopes
from activities.storage.ledger import PAGE_KEYS
from activities.storage.objects import ObjectStore, S3Objects, bucket_keeps_versions, s3_client
from activities.storage.traces import SqlTraces, TraceStore
from activities.sweep_prefixes import SweepPrefixes
from adapters import adapters
from migrations import check_version
from settings import Settings, explained, load
from workflows.converter import connect, unreachable
from workflows.delete_artifacts import DeleteArtifactsWorkflow
from workflows.errors import AdaptersUnusable, DeletionError
from workflows.interceptors import OneInput
from workflows.messages import OBJECTS_TASK_QUEUE, SEARCH_ATTRIBUTES, TASK_QUEUE, Pace
from workflows.preview_deletion import PreviewDeletionWorkflow

_log = logging.getLogger("artifact_deletion.worker")
DEPLOYMENT = "artifact-deletion"


def activities_for(
    settings: Settings,
    database: Database,
    store: ObjectStore,
    traces: TraceStore | None,
    *,
    requests: ThreadPoolExecutor,
    pace: Pace,
) -> tuple[list[Callable[..., Any]], list[Callable[..., Any]]]:
    """The activities of the two task queues: those that talk to the database alone, and those that call the store."""
    preview = preview_step(settings, database, store, requests)
    schema, scopes = preview.schema, preview.collect.scopes
    configured = traces is not None
    elsewhere = FindOwedElsewhere(database, configured)
    with_database: list[Callable[..., Any]] = [
        OpenDeletion(database, schema, settings.chunk_artifacts, configured, pace).open_deletion,
        DeleteRows(open_rows(settings, database), schema, scopes, store.listable).delete_rows,
        DeleteTraceItems(database, traces).delete_trace_items,
        elsewhere.find_owed_elsewhere,
        elsewhere.read_request,
        CancelDeletion(database).cancel_deletion,
        CloseDeletion(database, configured).close_deletion,
    ]
    with_store: list[Callable[..., Any]] = [
        preview.collect.collect_keys,
        DeleteObjects(database, store, requests).delete_objects,
        SweepPrefixes(database, store, requests).sweep_prefixes,
        preview.preview_deletion,
    ]
    return with_database, with_store


def preview_step(settings: Settings, database: Database, store: ObjectStore, requests: ThreadPoolExecutor) -> PreviewDeletion:
    """The dry run, with the step that collects keys in it: both read the same manifests in the same way."""
    collect = CollectKeys(
        database,
        store,
        Scopes(settings.scope_template, settings.usecases),
        settings.manifest_limit_bytes,
        requests,
        settings.manifest_readers,
        BoundedSemaphore(settings.manifests_parsed),
    )
    return PreviewDeletion(database, Schema(database), store, collect, requests, settings.chunk_artifacts)


@contextlib.asynccontextmanager
async def running(settings: Settings, client: Client) -> AsyncIterator[None]:
    """Work on both task queues until the context ends, then let running activities finish within the grace period."""
    database = open_database(settings)
    try:
        check_version(database)
        async with _workers(settings, client, database):
            yield
    finally:
        database.dispose()


@contextlib.asynccontextmanager
async def _workers(settings: Settings, client: Client, database: Database) -> AsyncIterator[None]:
    pace = Pace(
        chunks_at_once=settings.chunks_at_once,
        activities_at_once=settings.activities_at_once,
        pages_an_activity=settings.pages_an_activity,
        quiet_period=settings.quiet_period,
        trace_items_pause=settings.trace_items_pause,
        trace_items_within=settings.trace_items_within,
        search_attributes=await has_search_attributes(client),
    )
    traces = open_traces(settings, database)
    with (
        ThreadPoolExecutor(settings.activity_threads, thread_name_prefix="activity") as threads,
        ThreadPoolExecutor(settings.store_requests, thread_name_prefix="store") as requests,
    ):
        with_database, with_store = activities_for(
            settings, database, open_store(settings), traces, requests=requests, pace=pace
        )
        common: dict[str, Any] = {
            "activity_executor": threads,
            "interceptors": [Heartbeats(), NamedErrorsOnly(), OneInput()],
            "graceful_shutdown_timeout": settings.shutdown_grace,
            "deployment_config": _deployment(settings.build_id),
        }
        limit = settings.keys_per_second
        async with (
            Worker(
                client,
                task_queue=TASK_QUEUE,
                workflows=[DeleteArtifactsWorkflow, PreviewDeletionWorkflow],
                activities=with_database,
                max_concurrent_activities=settings.activity_threads // 2,
                **common,
            ),
            Worker(
                client,
                task_queue=OBJECTS_TASK_QUEUE,
                activities=with_store,
                max_concurrent_activities=settings.activity_threads - settings.activity_threads // 2,
                max_task_queue_activities_per_second=limit / (PAGE_KEYS * settings.pages_an_activity) if limit else None,
                **common,
            ),
        ):
            _log.info("worker is up: task queues %s and %s", TASK_QUEUE, OBJECTS_TASK_QUEUE)
            yield


def open_database(settings: Settings) -> Database:
    """The backend's database, which holds the ledger too."""
    return Database(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        lock_timeout_s=settings.database_lock_timeout_s,
        statement_timeout_s=settings.database_statement_timeout_s,
        prepare=settings.database_prepare,
    )


def open_store(settings: Settings) -> ObjectStore:
    """The bucket, or what is put in its place. Whether it keeps versions is a setting or the bucket's own answer."""
    if (adapter := adapters().object_store) is not None:
        return adapter(settings)
    client = s3_client(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
        connections=settings.store_requests,
        connect_timeout_s=settings.s3_connect_timeout_s,
        read_timeout_s=settings.s3_read_timeout_s,
    )
    versioned = settings.bucket_versioned == "yes" or (
        settings.bucket_versioned == "ask" and bucket_keeps_versions(client, settings.bucket)
    )
    return S3Objects(
        client,
        settings.bucket,
        versioned,
        listable=settings.bucket_listable,
        lists_uploads=settings.bucket_listable and settings.bucket_multipart,
    )


def open_rows(settings: Settings, database: Database) -> Rows:
    """Whoever deletes the backend's rows."""
    adapter = adapters().rows
    return SqlRows(database) if adapter is None else adapter(settings, database)


def open_traces(settings: Settings, database: Database) -> TraceStore | None:
    """The trace store, if there is one."""
    if (adapter := adapters().trace_store) is not None:
        return adapter(settings, database)
    if settings.trace_store == "sql":
        return SqlTraces(database)
    if settings.snuba_url is None:
        return None
    from activities.storage.snuba import SnubaTraces  # noqa: PLC0415  needs an extra that others need not install

    return SnubaTraces(settings.snuba_url, timeout_s=settings.snuba_timeout_s)


async def has_search_attributes(client: Client) -> bool:
    """Whether deletions can be filtered in lists. Without them they run all the same."""
    try:
        found = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    except RPCError:
        return False
    return set(SEARCH_ATTRIBUTES) <= set(found.custom_attributes)


def _deployment(build_id: str | None) -> WorkerDeploymentConfig | None:
    if build_id is None:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(DEPLOYMENT, build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


async def _work(settings: Settings) -> None:
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    async with running(settings, await connect()):
        await asked_to_stop.wait()
        _log.info("stopping: running activities get %s", settings.shutdown_grace)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 after SIGTERM or SIGINT, 2 for bad settings, 3 when Temporal, the database or the store cannot be used."""
    parser = argparse.ArgumentParser(
        description="Delete snapshot artifacts: a worker on Temporal's task queues.",
        epilog="environment variables (and Temporal's own, TEMPORAL_ADDRESS and others):\n\n" + explained(Settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the worker only looks up the ledger's version
    settings = load(Settings)
    try:
        asyncio.run(_work(settings))
    except AdaptersUnusable as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (DeletionError, RPCError) as error:
        sys.stderr.write(f"{unreachable(error) if isinstance(error, RPCError) else error}\n")
        return 3
    return 0


def run() -> NoReturn:
    """Run this process's worker, and end it."""
    ended_with = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's threads can abort an interpreter that ends right after a call.
    os._exit(ended_with)


if __name__ == "__main__":
    run()
