"""The outbox: an ask is one INSERT of any hand, in any order, any number of times, and no deletion is missed or begun twice."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, text
from sqlalchemy.orm import Session

from activities.database import Database
from activities.ledger.schema import Ask
from activities.ledger.schema import Deletion as DeletionRow
from activities.sweep_prefixes import SweepPrefixes
from artifact_deletion.outbox import DeletionState, NoSuchDeletion, accept_deletion, deletions_to_start, recorded
from artifact_deletion.request import DeletionRequest
from demo.world import World
from tests.stack import Held, Stack, resume
from tests.steps.test_reopened import restore
from tests.workflow.test_other_languages import documented_sql

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PATIENCE_S = 40


def insert_ask(session: Session | Connection, request: DeletionRequest) -> None:
    """As docs/backend.md tells other languages."""
    on_postgresql = session.get_bind().dialect.name == "postgresql"  # type: ignore[union-attr]  # both have it
    session.execute(text(documented_sql(request, with_schema=on_postgresql).replace(":", r"\:")))


async def run_to_the_end(stack: Stack, request: DeletionRequest) -> None:
    """Start it as the relay does, and nothing else."""
    assert await resume(stack.client, stack.database) == [request.workflow_id]
    await asyncio.wait_for(stack.client.get_workflow_handle(request.workflow_id).result(), PATIENCE_S)


def unserved(database: Database) -> int:
    with database.read() as session:
        return session.execute(select(func.count()).select_from(Ask).where(Ask.c.served_at.is_(None))).scalar_one()


def there(world: World, artifact_id: int) -> bool:
    return artifact_id in world.rows()["sentry_preprodartifact"]


@pytest.mark.thorough
@pytest.mark.parametrize("ask", [accept_deletion, insert_ask])
async def test_an_ask_of_any_hand_deletes_and_deletes_again_what_came_back(stack: Stack, ask: Callable[..., Any]) -> None:
    """Python's function and the INSERT of other languages; the second time the deletion is closed and its rows are back."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    async with stack.worker():
        for times in (1, 2):
            with stack.database.write() as session:
                ask(session, request)
            assert stack.recorded(request.workflow_id).state is DeletionState.ACCEPTED
            await run_to_the_end(stack, request)
            assert not there(stack.world, head.id)
            found = stack.recorded(request.workflow_id)
            assert (found.state, stack.receipt(request.workflow_id).complete) == (DeletionState.CLOSED, True)
            assert found.receipt is not None
            assert found.receipt.rows["sentry_preprodartifact"] == times
            restore(stack, head)
        assert unserved(stack.database) == 0
        assert await resume(stack.client, stack.database) == []
    assert there(stack.world, head.id), "rows that came back are deleted for those who ask, and for no others"


def test_the_function_and_the_insert_write_the_same(stack: Stack) -> None:
    """All columns but the number and the time. The request may leave out fields that are null."""
    request = stack.request([4, 42], project_id=7, requested_by="user:7", reference="TICKET-1")
    with stack.database.write() as session:
        accept_deletion(session, request)
        accept_deletion(session.connection(), request)
        insert_ask(session, request)
    with stack.database.read() as session:
        rows = [dict(row) for row in session.execute(select(Ask).order_by(Ask.c.id)).mappings()]
    for row in rows:
        del row["id"]
        assert row.pop("asked_at") is not None
        row["request"] = DeletionRequest.model_validate(row["request"])
    assert rows == [rows[0]] * 3
    assert rows[0] == {
        "deletion_id": request.deletion_id,
        "request": request,
        "reason": None,
        "run_id": None,
        "served_at": None,
    }


@on_postgresql
async def test_an_ask_that_commits_after_a_later_one_was_served_is_not_missed(stack: Stack) -> None:
    """Its number is the lower one, and what its transaction brought back is committed with it."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    async with stack.worker():
        with stack.database.write() as slow:
            accept_deletion(slow, request)
            slow.flush()
            stack.accept(request)
            await run_to_the_end(stack, request)
            assert not there(stack.world, head.id)
            assert stack.recorded(request.workflow_id).state is DeletionState.CLOSED
            slow.execute(
                text(f"INSERT INTO sentry_preprodartifact (id, project_id) VALUES ({head.id}, {head.artifact.project_id})")
            )
        with stack.database.read() as session:
            backends_own = select(Ask.c.served_at).where(Ask.c.run_id.is_(None)).order_by(Ask.c.id)
            first, second = session.execute(backends_own).scalars()
        assert (first, second is not None) == (None, True)
        assert stack.recorded(request.workflow_id).state is DeletionState.ACCEPTED
        await run_to_the_end(stack, request)
    assert not there(stack.world, head.id)
    assert unserved(stack.database) == 0


async def test_two_hundred_asks_are_one_deletion(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them before it begins, half of them meanwhile, each by another caller: one run answers all of them."""
    (head,) = stack.snapshots("head")
    held = Held(monkeypatch, SweepPrefixes, "sweep_prefixes")
    requests = [stack.request([head.id], requested_by=f"user:{number}") for number in range(200)]
    assert {one.workflow_id for one in requests} == {requests[0].workflow_id}

    def ask(some: list[DeletionRequest]) -> None:
        for one in some:
            stack.accept(one)

    async with stack.worker():
        ask(requests[:100])
        assert await resume(stack.client, stack.database) == [requests[0].workflow_id]
        await held.reached()
        ask(requests[100:])
        assert stack.recorded(requests[0].workflow_id).state is DeletionState.RUNNING
        held.let_go()
        handle = stack.client.get_workflow_handle(requests[0].workflow_id)
        await asyncio.wait_for(handle.result(), PATIENCE_S)
        assert await resume(stack.client, stack.database) == []
    assert unserved(stack.database) == 0
    assert stack.receipt(requests[0].workflow_id).requested_by == "user:0"
    with stack.database.read() as session:
        assert session.execute(select(func.count()).select_from(DeletionRow)).scalar_one() == 1


@on_postgresql
async def test_asking_waits_for_no_lock(stack: Stack) -> None:
    """A backend's handler asks while a deletion of the same artifact holds all that it ever locks."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    async with stack.worker():
        await stack.delete([head.id])
        restore(stack, head)
    with stack.database.write() as deleting, stack.database.write() as asking:
        for table in (
            "artifact_deletion.artifact_deletion",
            "artifact_deletion.artifact_deletion_chunk",
            "sentry_preprodartifact",
        ):
            assert deleting.execute(text(f"SELECT 1 FROM {table} FOR UPDATE")).all()
        asking.execute(text("SET LOCAL lock_timeout = '1s'"))
        accept_deletion(asking, request)


@on_sqlite
async def test_an_ask_that_this_version_cannot_read_keeps_no_other_from_being_started(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    """A ledger outlives versions, and other hands write into it: also a readable ask for the same deletion is started."""
    one, two = stack.request([1]), stack.request([2])
    stack.accept(one)
    with stack.database.write() as session:
        session.execute(Ask.update().values(request={"from": "another version"}))
    with stack.database.read() as session, pytest.raises(NoSuchDeletion, match="cannot read the request of deletion"):
        recorded(session, one.workflow_id)
    stack.accept(two)
    assert await resume(stack.client, stack.database) == [two.workflow_id]
    assert f"deletion {one.deletion_id}: this version cannot read its request in the ledger" in caplog.messages
    stack.accept(one)
    assert await resume(stack.client, stack.database) == [one.workflow_id]
    assert stack.recorded(one.workflow_id).request == one


@on_sqlite
async def test_an_ask_whose_id_is_not_its_requests_is_not_started(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """Another language computed it, and no run would ever serve that ask: each look would start its deletion again."""
    request = stack.request([1])
    stack.accept(request)
    with stack.database.write() as session:
        session.execute(Ask.update().values(deletion_id="0" * 32))
    assert await resume(stack.client, stack.database) == []
    assert caplog.messages == [f"deletion {'0' * 32}: its request's own id is {request.deletion_id}"]


@on_sqlite
async def test_the_relay_starts_nothing_that_was_rolled_back(stack: Stack) -> None:
    """Both happen, or neither: the ask is part of the backend's own transaction."""
    request = stack.request([1])
    with contextlib.suppress(RuntimeError), stack.database.write() as session:
        accept_deletion(session, request)
        raise RuntimeError
    with stack.database.read() as session:
        assert list(deletions_to_start(session)) == []
        with pytest.raises(NoSuchDeletion):
            recorded(session, request.workflow_id)
