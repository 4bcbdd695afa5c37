"""The process that does the work: settings, clients, registration, and a graceful end."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import BoundedSemaphore, Event
from typing import TYPE_CHECKING, Any, NoReturn

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.runtime import Runtime
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from activities.cancel_deletion import CancelDeletion
from activities.close_deletion import CloseDeletion
from activities.collect_keys import CollectKeys
from activities.delete_objects import DeleteObjects
from activities.delete_rows import DeleteRows, Rows, SqlRows
from activities.delete_trace_items import DeleteTraceItems
from activities.find_owed_elsewhere import FindOwedElsewhere
from activities.interceptors import Heartbeats, NamedErrorsOnly
from activities.metrics import LedgerGauges
from activities.open_deletion import OpenDeletion
from activities.preview_deletion import PreviewDeletion
from activities.storage.database import Database
from activities.storage.drift import Schema
from activities.storage.freeze import FreezableTraces, Switch
from activities.storage.keys import Scopes
from activities.storage.limit import KeyLimit
from activities.storage.objects import GuardedObjects, ObjectStore, S3Documents, S3Objects, s3_client
from activities.storage.receipts import Receipts, StandardOutput, StoredReceipts
from activities.storage.traces import SqlTraces, TraceStore
from activities.sweep_prefixes import SweepPrefixes
from activities.turns import Turns
from activities.wait_until_allowed import Ceilings, WaitUntilAllowed
from adapters import adapters
from migrations import check_version
from settings import Settings, explained, load
from telemetry import alive, log_lines, reported, runtime
from workflows.converter import connect, send_traces, unreachable
from workflows.delete_artifacts import DeleteArtifactsWorkflow
from workflows.errors import AdaptersUnusable, DeletionError, EndpointUnusable, StoreUnavailable, TemporalMisconfigured
from workflows.interceptors import OneInput
from workflows.messages import OBJECTS_TASK_QUEUE, SEARCH_ATTRIBUTES, TASK_QUEUE, Pace
from workflows.preview_deletion import PreviewDeletionWorkflow

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger("artifact_deletion.worker")
DEPLOYMENT = "artifact-deletion"


def activities_for(
    settings: Settings,
    database: Database,
    store: ObjectStore,
    traces: TraceStore | None,
    *,
    requests: Executor,
    reads: Executor | None = None,
    pace: Pace,
) -> tuple[list[Callable[..., Any]], list[Callable[..., Any]]]:
    """The activities of the two task queues: those that talk to the database alone, and those that call the store."""
    preview = preview_step(settings, database, store, requests, reads)
    schema, scopes = preview.schema, preview.collect.scopes
    configured = traces is not None
    elsewhere = FindOwedElsewhere(database, configured)
    ceilings = Ceilings(settings.max_artifacts_unconfirmed, settings.max_keys_unconfirmed)
    allowed = WaitUntilAllowed(database, ceilings)
    with_database: list[Callable[..., Any]] = [
        OpenDeletion(database, schema, settings.chunk_artifacts, configured, pace).open_deletion,
        DeleteRows(open_rows(settings, database), schema, scopes, store.listable, ceilings).delete_rows,
        DeleteTraceItems(database, traces).delete_trace_items,
        elsewhere.find_owed_elsewhere,
        elsewhere.read_request,
        CancelDeletion(database).cancel_deletion,
        CloseDeletion(database, configured, open_receipts(settings)).close_deletion,
        allowed.wait_until_thawed,
        allowed.wait_until_confirmed,
    ]
    with_store: list[Callable[..., Any]] = [
        preview.collect.collect_keys,
        DeleteObjects(database, store, requests).delete_objects,
        SweepPrefixes(database, store, requests).sweep_prefixes,
        preview.preview_deletion,
    ]
    return with_database, with_store


def preview_step(
    settings: Settings,
    database: Database,
    store: ObjectStore,
    requests: Executor,
    reads: Executor | None = None,
) -> PreviewDeletion:
    """The dry run, with the step that collects keys in it: both read the same manifests in the same way."""
    collect = CollectKeys(
        database,
        store,
        Scopes(settings.scope_template, settings.usecases),
        settings.manifest_limit_bytes,
        reads or requests,
        settings.manifest_readers,
        BoundedSemaphore(settings.manifests_parsed),
    )
    return PreviewDeletion(database, Schema(database), store, collect, requests, settings.chunk_artifacts)


@contextlib.asynccontextmanager
async def running(settings: Settings, client: Client) -> AsyncIterator[None]:
    """Work on the task queues until the context ends, then let running activities finish within the grace period."""
    database = open_database(settings)
    try:
        check_version(database)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_workers(settings, client, database))
            if settings.metrics_address:
                meter = (client.service_client.config.runtime or Runtime.default()).metric_meter
                gauges = LedgerGauges(meter, database, Schema(database))
                await stack.enter_async_context(reported(gauges, settings.metrics_ledger_every_s))
            if settings.health_file:
                await stack.enter_async_context(alive(settings.health_file))
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
        search_attributes=settings.search_attributes == "yes"
        or (settings.search_attributes == "ask" and await has_search_attributes(client)),
        exports_receipts=settings.receipt_export is not None,
    )
    switch = Switch(database)
    store, traces = open_store(settings, switch), open_traces(settings, database, switch)
    if settings.serves != "rows":  # who deletes nothing from it does without any credentials of the store
        await asyncio.to_thread(_warn_if_unavailable, store)
    stopping = Event()
    if settings.keys_per_second:
        store = GuardedObjects(store, KeyLimit(database, settings.keys_per_second, stopping).wait_for)
    with (
        ThreadPoolExecutor(settings.database_steps + settings.store_steps, thread_name_prefix="activity") as threads,
        Turns(settings.store_requests) as requests,
        Turns(settings.manifest_readers) as reads,
    ):
        with_database, with_store = activities_for(settings, database, store, traces, requests=requests, reads=reads, pace=pace)
        common: dict[str, Any] = {
            "activity_executor": threads,
            "interceptors": [Heartbeats(), NamedErrorsOnly(), OneInput()],
            "graceful_shutdown_timeout": settings.shutdown_grace,
            "deployment_config": _deployment(settings.build_id),
        }
        async with contextlib.AsyncExitStack() as stack:
            if settings.serves != "objects":
                with_rows = [DeleteArtifactsWorkflow, PreviewDeletionWorkflow]
                rows = Worker(
                    client,
                    task_queue=TASK_QUEUE,
                    workflows=with_rows,
                    activities=with_database,
                    # The sandbox is entered anew for each payload. The tests replay every recorded course within it.
                    workflow_runner=UnsandboxedWorkflowRunner(),
                    max_concurrent_activities=settings.database_steps,
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
            stack.callback(stopping.set)
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


def open_receipts(settings: Settings) -> Receipts | None:
    """Where receipts are kept outside the database, if they are."""
    if settings.receipt_export is None:
        return None
    return StandardOutput() if settings.receipt_export == "stdout" else stored_receipts(settings)


def stored_receipts(settings: Settings) -> StoredReceipts:
    """Those in the object store, to write them and to read them again."""
    bucket, _, prefix = (settings.receipt_export or "").removeprefix("s3://").partition("/")
    return StoredReceipts(S3Documents(_s3_client(settings), bucket, prefix))


def open_store(settings: Settings, switch: Switch | None = None) -> ObjectStore:
    """The bucket, or what is put in its place. It need not answer yet.

    With a `switch` it deletes nothing while deletions are frozen.
    """
    if (adapter := adapters().object_store) is not None:
        own = adapter(settings)
        return own if switch is None else GuardedObjects(own, lambda _: switch.refuse_frozen())
    client = _s3_client(settings, switch)
    return S3Objects(
        client,
        settings.bucket,
        {"yes": True, "no": False, "ask": None}[settings.bucket_versioned],
        listable=settings.bucket_listable,
        lists_uploads=settings.bucket_listable and settings.bucket_multipart,
    )


def _warn_if_unavailable(store: ObjectStore) -> None:
    """A bucket that cannot be used is no reason not to work: the steps that need it wait for it, where everybody can see."""
    try:
        if isinstance(store, S3Objects):
            _ = store.keeps_versions
    except StoreUnavailable as error:
        _log.warning("%s: what needs it is tried again until it is mended", error)


def _s3_client(settings: Settings, switch: Switch | None = None) -> "S3Client":
    return s3_client(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
        connections=settings.store_requests + settings.manifest_readers,
        connect_timeout_s=settings.s3_connect_timeout_s,
        read_timeout_s=settings.s3_read_timeout_s,
        before_deleting=None if switch is None else switch.refuse_frozen,
    )


def open_rows(settings: Settings, database: Database) -> Rows:
    """Whoever deletes the backend's rows."""
    adapter = adapters().rows
    return SqlRows(database) if adapter is None else adapter(settings, database)


def open_traces(settings: Settings, database: Database, switch: Switch) -> TraceStore | None:
    """The trace store, if there is one. It is asked for nothing while deletions are frozen. Raises AdaptersUnusable."""
    if (adapter := adapters().trace_store) is not None:
        return FreezableTraces(adapter(settings, database), switch)
    if settings.trace_store == "sql":
        return FreezableTraces(SqlTraces(database), switch)
    if settings.snuba_url is None:
        return None
    try:
        from activities.storage.snuba import SnubaTraces  # noqa: PLC0415  needs an extra that others need not install
    except ModuleNotFoundError as error:
        raise AdaptersUnusable(f"TRACE_STORE=snuba needs the extra `snuba` of artifact-deletion ({error.name})") from None

    return SnubaTraces(settings.snuba_url, timeout_s=settings.snuba_timeout_s, before_request=switch.refuse_frozen)


async def has_search_attributes(client: Client) -> bool:
    """Whether deletions can be filtered in lists: all three are there, of our types. Without them they run all the same."""
    types = {"Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD, "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT}
    try:
        found = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    except RPCError:
        return False
    return all(found.custom_attributes.get(name) == types[kind] for name, kind in SEARCH_ATTRIBUTES.items())


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
    gc.freeze()  # what is imported by now stays: nobody need look through it again and again
    async with running(settings, await connect(runtime(settings))):
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
        return 2 if isinstance(error, AdaptersUnusable | EndpointUnusable | TemporalMisconfigured) else 3
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
