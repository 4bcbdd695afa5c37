"""Puts the parts of the service together, as the settings say: the worker's steps, and what a command needs of them."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from threading import BoundedSemaphore, Event
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from activities.backend.contract import Backend
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.cancel_deletion import CancelDeletion
from activities.close_bulk import CloseBulk
from activities.close_deletion import CloseDeletion
from activities.collect_keys import CollectKeys
from activities.database import Database
from activities.delete_objects import DeleteObjects
from activities.delete_rows import DeleteRows
from activities.delete_trace_items import DeleteTraceItems
from activities.hide_images import HideImages
from activities.images.catch_up import CatchUp
from activities.images.decisions import Times
from activities.images.index import Index
from activities.images.preview import PreviewImages
from activities.images.work import ImageWork
from activities.ledger.holds import Ceilings
from activities.living import Living
from activities.next_artifacts import NextArtifacts
from activities.next_project import NextProject
from activities.open_bulk import OpenBulk
from activities.open_deletion import OpenDeletion
from activities.plan import Planner
from activities.preview_deletion import PreviewDeletion
from activities.receipts import Receipts, StandardOutput, StoredReceipts
from activities.reconcile.facts import Project
from activities.reconcile.reconcile import Reconciliation
from activities.reconcile_project import ReconcileProject
from activities.settle_images import SettleImages
from activities.start_retention import StartRetention
from activities.stores.documents import S3Documents
from activities.stores.guards import BeforeDeleting, Guard, HoldWatch
from activities.stores.images import ImageStore
from activities.stores.limit import KeyLimit
from activities.stores.objects import ObjectStore
from activities.stores.s3 import S3Objects
from activities.stores.s3_images import images_of
from activities.stores.s3_wire import s3_client
from activities.stores.sql_traces import SqlTraces
from activities.stores.traces import TraceStore
from activities.sweep_prefixes import SweepPrefixes
from activities.verify_deletion import VerifyDeletion
from activities.wait_for_others import WaitForOthers
from activities.wait_to_begin import WaitToBegin
from activities.wait_while_held import WaitWhileHeld
from activities.watch_images import WatchImages
from adapters import adapters
from artifact_deletion.errors import Misconfigured, StoreUnavailable
from artifact_deletion.request import SEARCH_ATTRIBUTES
from settings import Settings
from workflows.steps import Pace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Step = Callable[..., Any]
_log = logging.getLogger("artifact_deletion.worker")


@dataclass(frozen=True)
class Parts:
    """What steps are made of."""

    settings: Settings
    database: Database
    backend: Backend
    store: ObjectStore
    traces: TraceStore | None
    watch: HoldWatch
    stopping: Event
    """Set when the worker is to stop: no request waits for its turn any longer."""

    @property
    def images_within(self) -> timedelta:
        """From the time when an image is hidden to its purge."""
        return _times(self.settings).until_purged

    def steps(self, requests: Executor, reads: Executor, pace: Pace) -> tuple[list[Step], list[Step]]:
        """The activities of the two task queues: those with the database alone, and those that call the store.

        `requests` bounds the requests that list or delete, `reads` those that read manifests.
        """
        settings, database, configured = self.settings, self.database, self.traces is not None
        living, guard, planner = Living(self.backend), self._guard(), self.planner(reads)
        ceilings = Ceilings(settings.max_artifacts_unconfirmed, settings.max_keys_unconfirmed)
        pause, within = settings.trace_items_pause, settings.trace_items_within
        with_database: list[Step] = [
            OpenDeletion(database, self.backend, settings.chunk_artifacts, configured, pace).open_deletion,
            WaitToBegin(database, settings.bulk_keys_at_once).wait_to_begin,
            DeleteRows(database, self.backend, self.store.listable, ceilings).delete_rows,
            DeleteTraceItems(database, self.traces, self.watch, living, pause, within).delete_trace_items,
            self._closing(living).close_deletion,
            CancelDeletion(database).cancel_deletion,
            WaitWhileHeld(database).wait_while_held,
            WatchImages(database).watch_images,
            NextProject(database, self.backend, self.store.listable).next_project,
        ]
        with_database += self._bulk_steps(pace)
        images = self.images(planner, requests)
        with_store: list[Step] = [
            CollectKeys(database, planner).collect_keys,
            DeleteObjects(database, self.store, guard, living, requests).delete_objects,
            SweepPrefixes(database, self.store, guard, living, requests, settings.quiet_period).sweep_prefixes,
            HideImages(database, None if settings.images == "keep" else images).hide_images,
            SettleImages(database, images, timedelta(seconds=settings.images_catch_up_s)).settle_images,
            self.previewing(planner, requests).preview_deletion,
            ReconcileProject(database, partial(self.reconciling, requests)).reconcile_project,
        ]
        return with_database, with_store

    def _closing(self, living: Living) -> CloseDeletion:
        days, receipts = self.settings.promised_days, open_receipts(self.settings)
        return CloseDeletion(self.database, living, self.traces is not None, days, receipts, self.images_within)

    def _bulk_steps(self, pace: Pace) -> list[Step]:
        settings, database, backend = self.settings, self.database, self.backend
        size, at_once, unconfirmed = (
            settings.bulk_artifacts_a_deletion,
            settings.bulk_deletions_at_once,
            settings.max_bulk_unconfirmed,
        )
        return [
            OpenBulk(database, backend, size, at_once, unconfirmed, pace.search_attributes).open_bulk,
            NextArtifacts(database, backend, settings.bulk_keys_at_once).next_artifacts,
            WaitForOthers().wait_for_others,
            CloseBulk(database, backend).close_bulk,
            StartRetention(database, backend).start_retention,
        ]

    def images(self, planner: Planner, requests: Executor) -> ImageWork | None:
        """For steps and for a command. None where the backend's artifacts share no images, or the store is not S3."""
        store, settings = self.store, self.settings
        catching_up = self.catching_up(planner)
        if not isinstance(store, S3Objects) or catching_up is None:
            return None

        def open_images(before: BeforeDeleting) -> ImageStore:
            return replace(images_of(store, settings.hiding, settings.images_quarantine), before_deleting=before)

        return ImageWork(self.database, catching_up, open_images, requests, self._guard(), _times(settings))

    def catching_up(self, planner: Planner) -> CatchUp | None:
        """Reads manifests into the index of shared images. None: the backend's artifacts share none."""
        if self.backend.shared_images is None:
            return None
        return CatchUp(self.database, Index(self.backend), planner, _times(self.settings).grace)

    def previewing(self, planner: Planner, requests: Executor) -> PreviewDeletion:
        """For a worker, and for a command that may name keys."""
        stay = self.settings.images == "keep" or not isinstance(self.store, S3Objects)
        images = PreviewImages(self.catching_up(planner), stay)
        return PreviewDeletion(self.database, planner, requests, images, self.settings.chunk_artifacts)

    def reconciling(self, requests: Executor, project: Project, older_than: timedelta, now: datetime) -> Reconciliation:
        """One look at a project's listing beside its rows."""
        quarantine = self.settings.images_quarantine
        stores = self.store, self.traces
        return Reconciliation(self.database, self.backend, *stores, requests, quarantine, project, older_than, now)

    def verifying(self, requests: Executor) -> VerifyDeletion:
        """Looks again for what a deletion has deleted."""
        return VerifyDeletion(self.database, self.backend, self.store, self.traces, requests, self.settings.chunk_artifacts)

    def planner(self, reads: Executor) -> Planner:
        """Collecting and previews name the same keys."""
        settings = self.settings
        parsing = BoundedSemaphore(settings.manifests_parsed)
        return Planner(self.backend, self.store, settings.manifest_limit_bytes, reads, settings.manifest_readers, parsing)

    def _guard(self) -> Guard:
        if self.settings.keys_per_second is None:
            return Guard(self.watch)
        return Guard(self.watch, KeyLimit(self.database, self.settings.keys_per_second, self.stopping).wait_for)


def open_parts(settings: Settings, database: Database | None = None) -> Parts:
    """Nothing need answer yet. Raises Misconfigured."""
    database = database or open_database(settings)
    backend, traces = open_backend(settings, database), open_traces(settings, database)
    if traces is not None and type(backend).trace_id is Backend.trace_id:
        raise Misconfigured("TRACE_STORE: this backend does not say which trace items are an artifact's (trace_id)")
    return Parts(settings, database, backend, open_store(settings), traces, HoldWatch(database), Event())


def _times(settings: Settings) -> Times:
    return Times(settings.images_grace, settings.images_late, settings.images_reserved)


def open_database(settings: Settings) -> Database:
    """The backend's database, which holds the ledger too."""
    return Database(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        lock_timeout_s=settings.database_lock_timeout_s,
        statement_timeout_s=settings.database_statement_timeout_s,
        prepare=settings.database_prepare,
    )


def open_backend(settings: Settings, database: Database) -> Backend:
    """Sentry's schema, or an adapter for another."""
    if (adapter := adapters().backend) is not None:
        return adapter(settings, database)
    return SentryBackend(database, Scopes(settings.scope_template, settings.usecases))


def open_store(settings: Settings) -> ObjectStore:
    """The bucket, or an adapter for another store."""
    if (adapter := adapters().object_store) is not None:
        return adapter(settings)
    return S3Objects(
        _s3_client(settings),
        settings.bucket,
        {"yes": True, "no": False, "ask": None}[settings.bucket_versioned],
        listable=settings.bucket_listable,
        lists_uploads=settings.bucket_listable and settings.bucket_multipart,
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


def open_traces(settings: Settings, database: Database) -> TraceStore | None:
    """The trace store, if there is one."""
    if (adapter := adapters().trace_store) is not None:
        return adapter(settings, database)
    if settings.trace_store == "sql":
        return SqlTraces(database)
    if settings.snuba_url is None:
        return None
    try:
        from activities.stores.snuba import SnubaTraces  # noqa: PLC0415  needs packages that others need not install
    except ModuleNotFoundError as error:
        raise Misconfigured(f"TRACE_STORE=snuba needs the packages of requirements-snuba.txt ({error.name})") from None
    return SnubaTraces(settings.snuba_url, timeout_s=settings.snuba_timeout_s)


def _s3_client(settings: Settings) -> "S3Client":
    return s3_client(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
        addressing_style=settings.s3_addressing_style,
        connections=settings.store_requests + settings.manifest_readers,
        connect_timeout_s=settings.s3_connect_timeout_s,
        read_timeout_s=settings.s3_read_timeout_s,
    )


async def pace_of(settings: Settings, client: Client) -> Pace:
    """How much a deletion that this worker opens does at a time."""
    asks = settings.search_attributes == "ask"
    return Pace(
        chunks_at_once=settings.chunks_at_once,
        object_steps_at_once=settings.object_steps_at_once,
        pages_a_step=settings.pages_a_step,
        quiet_period=settings.quiet_period,
        trace_store=settings.trace_store != "none" or adapters().trace_store is not None,
        trace_items_within=settings.trace_items_within,
        quick_steps=settings.serves == "all",
        search_attributes=await has_search_attributes(client) if asks else settings.search_attributes == "yes",
    )


async def has_search_attributes(client: Client) -> bool:
    """Whether deletions can be filtered in lists: all three are there, of our types. Without them they run all the same."""
    types = {"Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD, "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT}
    try:
        found = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    except RPCError:
        return False
    return all(found.custom_attributes.get(name) == types[kind] for name, kind in SEARCH_ATTRIBUTES.items())


async def warn_if_unavailable(store: ObjectStore) -> None:
    """A bucket that cannot be used is no reason not to work: the steps that need it wait for it, in Temporal's sight."""
    try:
        if isinstance(store, S3Objects):
            await asyncio.to_thread(lambda: store.keeps_versions)
    except StoreUnavailable as error:
        _log.warning("%s: the steps that need it are tried again until it is mended", error)
