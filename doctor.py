"""Looks at all that a worker needs, with its own settings, and says what to do about what is wrong. Changes nothing.

The object store is asked in the places where artifacts lie, one for each usecase, but of an organization 0, which there is not:
about a key that nobody ever wrote. Where it answers that there is no such thing, it has let us in.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError
from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from activities.storage.database import Database, unavailable
from activities.storage.drift import Schema
from activities.storage.freeze import Switch
from activities.storage.objects import Found, ObjectAbsent, ObjectStore, S3Objects, Upload, bucket_keeps_versions
from activities.storage.tables import BackendTable
from migrations import check_version
from settings import DatabaseSettings, Settings
from workflows.converter import connect
from workflows.errors import AdaptersUnusable, DeletionError, Frozen
from workflows.messages import OBJECTS_TASK_QUEUE, SEARCH_ATTRIBUTES, TASK_QUEUE

_SETUP = "python starter.py setup"
_ADAPTERS = "install the extra that it names, or mend ARTIFACT_DELETION_ADAPTERS"
_NOBODY = 0
"""Organizations and projects are numbered from 1."""


@dataclass(frozen=True)
class Finding:
    """What was found of one thing, and what to do about it."""

    name: str
    state: str
    """ok; warn: deletions run all the same; bad: they do not, or not to their end; skipped."""
    found: str
    do: str = ""


async def examine(settings: DatabaseSettings) -> list[Finding]:
    """Everything, in the order in which things need each other. Of mere database settings: ledger and schema."""
    if not isinstance(settings, Settings):
        return await asyncio.to_thread(_database, settings)
    temporal, database, store = await asyncio.gather(
        _temporal(), asyncio.to_thread(_database, settings), asyncio.to_thread(_store, settings)
    )
    return [*temporal, *database, *store, await asyncio.to_thread(_traces, settings)]


# Temporal -------------------------------------------------------------------------------------------------------------


async def _temporal() -> list[Finding]:
    try:
        client = await connect()
    except DeletionError as error:
        later = (Finding(name, "skipped", "Temporal was not reached") for name in ("search attributes", "workers"))
        return [Finding("Temporal", "bad", str(error), "set TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, its key or TLS"), *later]
    where = f"{client.service_client.config.target_host}, namespace {client.namespace}"
    return [
        Finding("Temporal", "ok", where),
        await _asked("search attributes", _search_attributes, client),
        await _asked("workers", _workers, client),
    ]


async def _asked(name: str, ask: Callable[[Client], Awaitable[Finding]], client: Client) -> Finding:
    try:
        return await ask(client)
    except RPCError as error:
        return Finding(name, "warn", f"Temporal does not say ({error.status.name})", "ask whoever runs the namespace")


async def _search_attributes(client: Client) -> Finding:
    request = ListSearchAttributesRequest(namespace=client.namespace)
    known = (await client.operator_service.list_search_attributes(request)).custom_attributes
    types = {name: IndexedValueType.Name(kind).removeprefix("INDEXED_VALUE_TYPE_").capitalize() for name, kind in known.items()}
    wrong = [f"{name} is {types[name]}" for name, kind in SEARCH_ATTRIBUTES.items() if types.get(name, kind) != kind]
    if wrong:
        wanted = ", ".join(f"{name}={kind}" for name, kind in SEARCH_ATTRIBUTES.items())
        return Finding("search attributes", "bad", ", ".join(wrong), f"remove them and make them anew as {wanted}")
    if missing := sorted(SEARCH_ATTRIBUTES.keys() - types.keys()):
        return Finding("search attributes", "warn", f"without {', '.join(missing)} lists cannot be filtered", f"run `{_SETUP}`")
    return Finding("search attributes", "ok", ", ".join(sorted(SEARCH_ATTRIBUTES)))


async def _workers(client: Client) -> Finding:
    alone = []
    for queue, kind in (
        (TASK_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW),
        (OBJECTS_TASK_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY),
    ):
        request = DescribeTaskQueueRequest(namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind)
        if not (await client.workflow_service.describe_task_queue(request)).pollers:
            alone.append(queue)
    if alone:
        return Finding("workers", "warn", f"nobody asks for work from {', '.join(alone)}", "start `python worker.py`")
    return Finding("workers", "ok", f"both task queues have some, {TASK_QUEUE} and {OBJECTS_TASK_QUEUE}")


# The database ---------------------------------------------------------------------------------------------------------


def _database(settings: DatabaseSettings) -> list[Finding]:
    database = Database(settings.database_url.get_secret_value(), pool_size=1, lock_timeout_s=settings.database_lock_timeout_s)
    try:
        with database.read() as session:
            session.execute(text("SELECT 1"))
    except DeletionError as error:
        later = (Finding(name, "skipped", "the database was not reached") for name in ("ledger", "tables", "schema drift"))
        return [Finding("database", "bad", str(error), "set ARTIFACT_DELETION_DATABASE_URL; is it up?"), *later]
    else:
        return [
            Finding("database", "ok", database.engine.dialect.name),
            _tried(
                "ledger",
                lambda: check_version(database),
                "at this code's version",
                f"run `{_SETUP}`, unless this code is too old",
            ),
            _tables(database),
            _tried(
                "schema drift",
                lambda: Schema(database).refuse_unknown_tables(),
                "no foreign keys to artifacts but those that are known",
                "this version is too old for the backend's schema: no deletion begins until one that knows it is deployed",
            ),
        ]
    finally:
        database.dispose()


def _tables(database: Database) -> Finding:
    """Whether the backend's tables have the columns that deletions read and write."""
    try:
        there = inspect(database.engine)
        found = {table: {column["name"] for column in columns} for (_, table), columns in there.get_multi_columns().items()}
    except SQLAlchemyError as error:
        return Finding("tables", "bad", str(unavailable(error)), "may this user read the catalogue?")
    absent = [
        f"{table.name}.{column.name}" if table.name in found else table.name
        for table in BackendTable.metadata.sorted_tables
        if table.name != "trace_items"
        for column in table.columns
        if column.name not in found.get(table.name, ())
    ]
    if absent:
        return Finding("tables", "bad", f"absent: {', '.join(dict.fromkeys(absent))}", "is this the backend's database?")
    return Finding("tables", "ok", "the backend's tables have the columns that deletions know")


def _tried(name: str, ask: Callable[[], object], found: str, do: str) -> Finding:
    try:
        ask()
    except DeletionError as error:
        return Finding(name, "bad", str(error), do)
    return Finding(name, "ok", found)


# The object store -----------------------------------------------------------------------------------------------------


def _store(settings: Settings) -> list[Finding]:
    from worker import open_store  # noqa: PLC0415  which knows adapters too

    try:
        store = open_store(settings)
    except AdaptersUnusable as error:
        return [Finding("bucket", "bad", str(error), _ADAPTERS)]
    if not isinstance(store, S3Objects):
        return [_permissions(store, usecase, scope) for usecase, scope in _scopes(settings)]
    with contextlib.closing(store.client):
        versioning, store = _versioning(settings, store)
        if store.versioned is None:
            return [versioning, Finding("bucket", "skipped", "a delete could leave a marker in a bucket that keeps versions")]
        return [versioning, *(_permissions(store, usecase, scope) for usecase, scope in _scopes(settings))]


def _scopes(settings: Settings) -> Iterator[tuple[str, str]]:
    """A place for each usecase where an artifact could lie, if there were an organization 0."""
    for usecase in settings.usecases:
        values = {"usecase": usecase, "organization_id": _NOBODY, "project_id": _NOBODY}
        yield usecase, settings.scope_template.format(**values)


def _versioning(settings: Settings, store: S3Objects) -> tuple[Finding, S3Objects]:
    """What the bucket says, and the store as it is to be asked: a delete without a version can leave a marker."""
    try:
        keeps = bucket_keeps_versions(store.client, store.bucket)
    except DeletionError as error:
        if store.versioned is None:
            do = "allow s3:GetBucketVersioning, or set BUCKET_VERSIONED to yes or no; are endpoint, keys and BUCKET right?"
            return Finding("versioning", "bad", str(error), do), store
        said = f"taken as set, {settings.bucket_versioned}: {error}"
        return Finding("versioning", "warn", said, "allow s3:GetBucketVersioning to have it checked"), store
    if keeps and store.versioned is False:
        finding = Finding(
            "versioning", "bad", "the bucket keeps versions, and would keep all data", "set BUCKET_VERSIONED to ask"
        )
        return finding, replace(store, versioned=True)
    return Finding("versioning", "ok", "every version is deleted" if keeps else "the bucket keeps no versions"), replace(
        store, versioned=keeps
    )


def _permissions(store: ObjectStore, usecase: str, scope: str) -> Finding:
    """Ask about a key that nobody wrote, in every way in which a worker asks."""
    key = f"{scope}artifact-deletion-doctor/{secrets.token_hex(16)}"
    versions = "Version" * (isinstance(store, S3Objects) and store.keeps_versions)
    one = Found(key, version="null") if versions else Found(key)
    asks: list[tuple[str, Callable[[], Any]]] = [("s3:GetObject", lambda: _absent(store, key))]
    if store.listable:
        asks.append((f"s3:ListBucket{versions}s" if versions else "s3:ListBucket", lambda: list(store.list_under(key))))
    if store.lists_uploads:
        asks.append(("s3:ListBucketMultipartUploads", lambda: list(store.uploads_under(key))))
    asks.append((f"s3:DeleteObject{versions}", lambda: store.delete_found([one]).remaining))
    if store.lists_uploads:
        asks.append(("s3:AbortMultipartUpload", lambda: store.abort_uploads([Upload(key, secrets.token_hex(16))]).remaining))
    proven, refused = [], []
    for permission, ask in asks:
        try:
            answer = ask()
        except DeletionError as error:
            refused.append(f"{permission}: {error}")
            continue
        codes = set(answer.values()) - {"NoSuchUpload", "NoSuchVersion"} if isinstance(answer, dict) else set()
        if codes:
            refused.append(f"{permission}: {', '.join(sorted(codes))}")
        else:
            proven.append(permission)
    name = f"bucket, usecase {usecase}"
    if refused:
        return Finding(name, "bad", "; ".join(refused), f"allow these for the keys of {usecase}")
    return Finding(name, "ok", f"allowed: {', '.join(proven)}")


def _absent(store: ObjectStore, key: str) -> None:
    try:
        store.read(key, 1)
    except ObjectAbsent:
        return


# The trace store ------------------------------------------------------------------------------------------------------


def _traces(settings: Settings) -> Finding:
    """Ask for the trace items of a trace id that is no artifact's: theirs are made from names, this one at random."""
    from worker import open_traces  # noqa: PLC0415  which knows adapters too

    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        traces = open_traces(settings, database, Switch(database))
        if traces is None:
            do = "set TRACE_STORE, unless there are no trace items"
            return Finding("trace store", "warn", "none is configured: receipts will say “unchecked”", do)
        traces.delete(1, 1, [uuid4().hex])
    except Frozen as error:
        return Finding("trace store", "skipped", str(error))
    except AdaptersUnusable as error:
        return Finding("trace store", "bad", str(error), _ADAPTERS)
    except DeletionError as error:
        return Finding("trace store", "bad", str(error), "are TRACE_STORE and SNUBA_URL right, and is it up?")
    finally:
        database.dispose()
    return Finding("trace store", "ok", "it answers")
