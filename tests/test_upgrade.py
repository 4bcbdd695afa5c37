"""Deletions take days, and releases come in between: what an earlier one began, this one finishes.

That the workflow goes on with a history of an earlier release, `test_workflow.py` shows by replaying recorded ones.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, inspect, select, text

import starter
from activities.storage.database import LEDGER_SCHEMA, Database
from activities.storage.ledger import DeletionChunk, DeletionPage, DeletionState
from demo.servers import PostgresServer
from migrations import VERSION_TABLE, check_version, migrate
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack, steps_of
from workflows.errors import LedgerOutdated
from workflows.messages import DELETE_OBJECTS, PageRange

Columns = dict[str, set[str]]


@pytest.fixture
def earlier(
    request: pytest.FixtureRequest, database: Database, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Columns]:
    """The ledger's tables and columns as an earlier version makes them in a database of its own."""
    url = f"sqlite:///{tmp_path / 'earlier.db'}"
    if database.is_postgresql:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database(f"earlier_{tmp_path.name}".lower())
    made = Database(url)
    migrate(made, version)
    yield columns(made)
    made.dispose()


def columns(database: Database) -> Columns:
    schema = LEDGER_SCHEMA if database.is_postgresql else None
    found = inspect(database.engine).get_multi_columns(schema=schema)
    return {
        table: {column["name"] for column in of_table}
        for (_, table), of_table in found.items()
        if table.startswith("artifact_deletion") and table != VERSION_TABLE
    }


def take_back(database: Database, earlier: Columns, version: str) -> None:
    """Take the ledger back to an earlier version with what it holds, as that version would have written it."""
    schema = f"{LEDGER_SCHEMA}." if database.is_postgresql else ""
    with database.write() as session:
        for table, of_table in columns(database).items():
            if table not in earlier:
                session.execute(text(f"DROP TABLE {schema}{table}"))
            for column in of_table - earlier.get(table, of_table):
                session.execute(text(f"ALTER TABLE {schema}{table} DROP COLUMN {column}"))
        session.execute(text(f"UPDATE {schema}{VERSION_TABLE} SET version_num = '{version}'"))
    assert columns(database) == earlier


@pytest.mark.parametrize(
    ("database_url", "version"),
    [("sqlite", "0001"), ("postgresql", "0001"), ("sqlite", "0002"), ("postgresql", "0002")],
    indirect=["database_url"],
)
async def test_a_deletion_that_an_earlier_release_began_is_finished(
    stack: Stack, earlier: Columns, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One chunk with rows gone and half its pages, one with its keys collected, one not begun; then setup and new workers."""
    monkeypatch.setattr("activities.collect_keys.PAGE_KEYS", 2)
    one, two, three = stack.snapshots("one", "two", "three")
    stack.world.comparison(one, two, masks=3)
    before = Evidence.of(stack)
    request = stack.request([one.id, two.id, three.id])
    stack.accept(request)
    with steps_of(stack, chunk_artifacts=1) as steps:
        first, second, _ = steps.open(request)
        sealed = steps.collect(first)
        deleted = steps.delete_rows(sealed)
        half = PageRange(**first.model_dump(), first=deleted.first_page, last=deleted.pages // 2)
        steps.run(DELETE_OBJECTS, half)
        steps.collect(second)
    done, pages = done_of(stack)
    assert done.deleted > 0
    assert pages > 0

    take_back(stack.database, earlier, version)
    with pytest.raises(LedgerOutdated, match=f"at version {version}"):
        check_version(stack.database)
    migrate(stack.database)
    check_version(stack.database)
    assert done_of(stack) == (done, pages)

    async with stack.worker(chunk_artifacts=1):
        assert await starter.resume(stack.client, stack.database) == [request.workflow_id]
        await asyncio.wait_for(stack.client.get_workflow_handle(request.workflow_id).result(), 40)
    assert starter.recorded(stack.database, request.workflow_id).state == DeletionState.CLOSED
    assert stack.receipt(request.workflow_id).objects.deleted > done.deleted
    assert_promises_hold(stack, before, [request])


def done_of(stack: Stack) -> tuple[Any, int]:
    """The first chunk's counts, and the pages that are there."""
    with stack.database.read() as session:
        chunk = select(DeletionChunk.epoch, DeletionChunk.sealed, DeletionChunk.deleted, DeletionChunk.absent)
        pages = select(func.count()).select_from(DeletionPage)
        return session.execute(chunk.order_by(DeletionChunk.chunk).limit(1)).one(), session.execute(pages).scalar_one()
