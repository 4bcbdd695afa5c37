"""The database dies, is full, or commits without saying so: the same deletion comes to its end, and counts nothing twice."""

import contextlib
import hashlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, make_url, text
from temporalio.client import WorkflowHandle

import composition
from activities.backend.sentry import SentryBackend
from activities.close_deletion import CloseDeletion
from activities.database import Database
from activities.stores.s3 import S3Objects
from artifact_deletion.client import start_deletion
from artifact_deletion.errors import DatabaseUnavailable
from demo.servers import PostgresServer
from demo.world import Snapshot
from settings import Settings
from tests.conftest import postgres_with_template
from tests.faults.test_faults import compared
from tests.oracle import Evidence, assert_promises_hold
from tests.postgres_proxy import PostgresProxy
from tests.stack import Held, Stack, eventually, pending_failures

POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of this file's own, which its tests may kill."""
    with postgres_with_template(tmp_path_factory.mktemp("mortal-postgres")) as server:
        yield server


async def failing(handle: WorkflowHandle[Any, Any], step: str) -> str:
    async def failure() -> str | None:
        return (await pending_failures(handle)).get(step)

    return await eventually(failure)


async def assert_complete(stack: Stack, handle: WorkflowHandle[Any, Any], before: Evidence, head: Snapshot) -> None:
    """The deletion ends, the promises hold, and the receipt counts each row once."""
    await handle.result()
    receipt = stack.receipt(handle.id)
    assert receipt.complete
    assert sum(receipt.rows.values()) == sum(table != "trace_items" for table, _ in stack.world.rows_of([head.id]))
    assert_promises_hold(stack, before, [stack.request([head.id])])


@pytest.mark.thorough
@POSTGRESQL
@pytest.mark.parametrize(
    ("owner", "name", "step"),
    [
        (SentryBackend, "delete_files", "delete_rows"),
        pytest.param(S3Objects, "_delete", "delete_objects", marks=pytest.mark.thorough),
        pytest.param(CloseDeletion, "_add_up", "close_deletion", marks=pytest.mark.thorough),
    ],
    ids=["rows deleted, not committed", "before the store's answer", "receipt added up, not committed"],
)
async def test_a_database_killed_in_the_middle_of_a_step_is_waited_for_and_the_step_done_again(
    stack: Stack, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, step: str
) -> None:
    """SIGKILL of the server and all its backends: whatever has no COMMIT did not happen, and is done when it is back."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    held = Held(monkeypatch, owner, name)
    async with stack.worker():
        handle = await stack.start([head.id])
        await held.reached()
        postgres.kill()
        assert_no_one_listens(postgres)
        held.let_go()
        assert (await failing(handle, step)).startswith("the database could not be used (OperationalError")
        postgres.start()
        await assert_complete(stack, handle, before, head)


def assert_no_one_listens(server: PostgresServer) -> None:
    url = make_url(server.url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((url.host, url.port)).close()


@POSTGRESQL
@pytest.mark.parametrize("happens", [True, False], ids=["it happened", "it did not"])
async def test_a_commit_whose_acknowledgement_is_lost_is_found_out_by_looking(stack: Stack, *, happens: bool) -> None:
    """Each kind of transaction loses the first one: sealing, deleting rows, every page's update, sweeps, the receipt.

    The client cannot know which of the two it was; a committed transaction must not be done, or counted, again.
    """
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    seen: set[frozenset[str]] = set()

    def first_of_its_kind(changed: frozenset[str]) -> bool:
        return bool(changed) and not (changed in seen or seen.add(changed))  # type: ignore[func-returns-value]

    with PostgresProxy(stack.database_url, happens, first_of_its_kind) as proxy:
        async with stack.worker(database_url=proxy.url):
            handle = await stack.start([head.id])
            await assert_complete(stack, handle, before, head)
    changed = {one for transaction in proxy.lost for one in transaction}
    assert "DELETE FROM sentry_preprodartifact" in changed
    assert {f"{verb} artifact_deletion.artifact_deletion{table}" for verb, table in LEDGER_WRITES} <= changed


LEDGER_WRITES = [
    ("INSERT INTO", "_page"),
    ("INSERT INTO", "_prefix"),
    ("UPDATE", "_chunk"),
    ("UPDATE", "_prefix"),
    ("UPDATE", ""),
]


class BadDisk:
    """While it is `bad`, SQLite can write nothing more for a worker: nothing that needs room, or nothing at all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        self.bad = False
        self._bad, self._good = {
            # SQLite raises a limit below the present size to that size: the file is full.
            "SQLITE_FULL": ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000"),
            "SQLITE_READONLY": ("PRAGMA query_only = ON", "PRAGMA query_only = OFF"),
        }[how]
        whole = composition.open_database

        def opened(settings: Settings) -> Database:
            database = whole(settings)
            event.listen(database.engine, "checkout", self._checkout)
            return database

        monkeypatch.setattr(composition, "open_database", opened)

    def _checkout(self, connection: Any, _record: object, _proxy: object) -> None:
        connection.execute(self._bad if self.bad else self._good)


@pytest.mark.thorough
@SQLITE
@pytest.mark.parametrize("how", ["SQLITE_FULL", "SQLITE_READONLY"])
async def test_a_disk_that_takes_no_more_is_waited_for_in_plain_words(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """While keys are being sealed: not a row goes before each key is safely written down. With room again it goes on."""
    head, _, comparison = compared(stack)
    key = stack.world.physical(head.usecase, head.artifact.organization_id, head.artifact.project_id, comparison.key)
    stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=many_masks(head, comparison.key.removesuffix("comparison.json")))
    before = Evidence.of(stack)
    disk = BadDisk(monkeypatch, how)
    held = Held(monkeypatch, S3Objects, "read")
    async with stack.worker():
        handle = await stack.start([head.id])
        await held.reached()
        disk.bad = True
        held.let_go()
        assert await failing(handle, "collect_keys") == (
            f"the database could not be used (OperationalError {how}); nothing of the transaction was kept"
        )
        assert stack.world.rows() == before.rows
        disk.bad = False
        await assert_complete(stack, handle, before, head)


def many_masks(head: Snapshot, prefix: str) -> bytes:
    """A comparison's manifest whose keys do not fit into the room that is left in the file."""
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(500)]
    images = {name: {"status": "changed", "diff_mask_key": f"{prefix}diff/{name}.png"} for name in names}
    return json.dumps({"head_artifact_id": head.id, "base_artifact_id": 0, "summary": {}, "images": images}).encode()


@pytest.mark.thorough
@SQLITE
async def test_a_disk_that_takes_no_more_once_the_rows_are_gone_loses_no_key(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has deleted what the ledger cannot say yet: with room again it is deleted once more, which harms nothing."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    disk = BadDisk(monkeypatch, "SQLITE_READONLY")
    held = Held(monkeypatch, S3Objects, "delete")
    async with stack.worker():
        handle = await stack.start([head.id])
        await held.reached()
        disk.bad = True
        held.let_go()
        assert "SQLITE_READONLY" in await failing(handle, "delete_objects")
        assert len(stack.world.objects()) < len(before.objects)
        disk.bad = False
        await assert_complete(stack, handle, before, head)


# Read-only for a while -------------------------------------------------------------------------------------------------


def set_read_only(postgres: PostgresServer, database: Database, *, read_only: bool) -> None:
    """As maintenance does, or a failover to another writer: it holds for sessions that begin from now on."""
    change = "SET default_transaction_read_only = on" if read_only else "RESET default_transaction_read_only"
    with psycopg.connect(postgres.url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {database.engine.url.database} {change}".encode())


def write_something(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE sentry_organization SET slug = slug"))


@POSTGRESQL
def test_connections_of_a_time_when_the_database_was_read_only_are_thrown_away(
    postgres: PostgresServer, database: Database
) -> None:
    """They stay read-only for ever, and a worker would fail with each of them until a person restarts it."""
    set_read_only(postgres, database, read_only=True)
    with contextlib.ExitStack() as at_once:
        for _ in range(4):
            at_once.enter_context(database.read()).execute(text("SELECT 1"))
    with pytest.raises(DatabaseUnavailable, match="25006"):
        write_something(database)
    with contextlib.ExitStack() as at_once:
        for _ in range(4):
            at_once.enter_context(database.read()).execute(text("SELECT 1"))
    set_read_only(postgres, database, read_only=False)
    refused = 0
    for _ in range(10):
        try:
            write_something(database)
        except DatabaseUnavailable as error:
            assert "25006" in str(error)  # noqa: PT017  how often is the point
            refused += 1
    assert refused <= 1, "the first that is refused takes along all that are as old"
    with contextlib.ExitStack() as at_once:
        for _ in range(4):
            session = at_once.enter_context(database.write())
            assert session.execute(text("SHOW transaction_read_only")).scalar_one() == "off"


@pytest.mark.thorough
@POSTGRESQL
async def test_a_database_that_was_read_only_for_a_while_is_waited_for_and_needs_no_restart(
    stack: Stack, postgres: PostgresServer
) -> None:
    """The whole path: the worker had only connections of that time, and goes on with others of its own accord."""
    head, _, _ = compared(stack)
    before = Evidence.of(stack)
    request = stack.request([head.id])
    stack.accept(request)
    set_read_only(postgres, stack.database, read_only=True)
    async with stack.worker():
        handle = await start_deletion(stack.client, request)
        assert "25006" in await failing(handle, "open_deletion")
        assert stack.world.rows() == before.rows
        set_read_only(postgres, stack.database, read_only=False)
        await assert_complete(stack, handle, before, head)


@POSTGRESQL
def test_connections_that_died_in_the_pool_cost_no_step(stack: Stack) -> None:
    """A pooler or a firewall ends those that lie idle. The first that is found so takes the others of its age along."""
    idle = 3
    with contextlib.ExitStack() as at_once:
        for _ in range(idle):
            at_once.enter_context(stack.database.read()).execute(text("SELECT 1"))
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    with psycopg.connect(stack.database_url.replace("+psycopg", ""), autocommit=True) as operator:
        ended = operator.execute(f"{others} AND pid <> pg_backend_pid()".encode()).fetchall()
        assert len(ended) >= idle
    with contextlib.ExitStack() as at_once:
        for _ in range(idle):
            assert at_once.enter_context(stack.database.read()).execute(text("SELECT 1")).scalar_one() == 1
