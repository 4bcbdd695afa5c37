"""A deletion that is larger than what may go unconfirmed waits for a person, and loses nothing by it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

import starter
from activities.storage import ledger
from activities.storage.ledger import ChunkState, Deletion, DeletionChunk, DeletionState
from client import Deletions
from tests.conftest import Command
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack, connect, eventually
from workflows import page
from workflows.messages import Progress

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def unconfirmed(stack: Stack, handle: WorkflowHandle[Any, Any]) -> Progress:
    """What is shown once it waits."""

    async def waits() -> Progress | None:
        found = await starter.progress(stack.client, handle.id)
        return found if "Unconfirmed" in found.held_up else None

    return await eventually(waits)


async def test_more_artifacts_than_may_go_unconfirmed_wait_whole(stack: Stack, command: Command) -> None:
    """Nothing is deleted before somebody says that it is meant; a backend gets its 202; then all of it goes."""
    one, two, three = stack.snapshots("one", "two", "three")
    before = Evidence.of(stack)
    ids = [one.id, two.id, three.id]
    async with stack.worker(max_artifacts_unconfirmed=2, chunk_artifacts=2):
        handle = await stack.start(ids)
        shown = await unconfirmed(stack, handle)

        async def both_collected() -> bool:
            with stack.database.read() as session:
                return ledger.size_of(session, stack.request(ids).deletion_id).collected == 2

        await eventually(both_collected)
        assert "too large to go unconfirmed: 3 artifacts are more than 2" in page.details(shown)
        assert f"python starter.py confirm {handle.id} --by WHO" in page.details(shown)
        deletions = Deletions(lambda: connect(stack.temporal_address))
        assert await deletions.rows_deleted(stack.request(ids), within=timedelta(milliseconds=300)) is None
        assert Seen.of(stack.world) == Seen(before.rows, before.objects)
        _, status = await asyncio.to_thread(command, "status", handle.id)
        assert "too large to go unconfirmed: 3 artifacts are more than 2" in status
        confirmed = await asyncio.to_thread(command, "confirm", handle.id, "--by", "user:7")
        with stack.database.read() as session:
            keys = ledger.size_of(session, stack.request(ids).deletion_id).keys
        assert confirmed == (0, f"{handle.id} is confirmed: 3 artifacts, {keys} keys collected so far\n")
        await asyncio.wait_for(handle.result(), 40)
    assert_promises_hold(stack, before, [stack.request(ids)])
    assert stack.receipt(handle.id).objects.sealed == keys > 0
    with stack.database.read() as session:
        assert session.execute(select(Deletion.confirmed_by)).scalar_one() == "user:7"


@on_sqlite
async def test_no_more_keys_than_the_ceiling_go_unconfirmed(stack: Stack) -> None:
    """How many keys there are is known chunk by chunk: the first that would exceed the ceiling waits, and all after it."""
    snapshots = stack.snapshots(*"abcdef")
    before = Evidence.of(stack)
    ids = [one.id for one in snapshots]
    async with stack.worker(max_keys_unconfirmed=10, chunk_artifacts=1, chunks_at_once=2):
        handle = await stack.start(ids)
        shown = await unconfirmed(stack, handle)
        assert "keys are more than 10" in page.details(shown)
        with stack.database.read() as session:
            chunks = session.execute(select(DeletionChunk.state, DeletionChunk.sealed)).all()
        assert sum(keys for state, keys in chunks if state == ChunkState.ROWS_DELETED) <= 10 < sum(keys for _, keys in chunks)
        with stack.database.write() as session:
            ledger.confirm(session, stack.request(ids).deletion_id, "user:7")
        await asyncio.wait_for(handle.result(), 40)
    assert_promises_hold(stack, before, [stack.request(ids)])


@on_sqlite
async def test_a_cancel_instead_of_a_confirmation_undoes_everything(stack: Stack) -> None:
    """It was not meant. Asked for again, it is asked again whether it is meant."""
    one, two = stack.snapshots("one", "two")
    before = Seen.of(stack.world)
    request = stack.request([one.id, two.id])
    async with stack.worker(max_artifacts_unconfirmed=1):
        handle = await stack.start(request.artifact_ids)
        await unconfirmed(stack, handle)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as ended:
            await asyncio.wait_for(handle.result(), 40)
        assert isinstance(ended.value.cause, CancelledError)
    assert Seen.of(stack.world) == before
    with stack.database.write() as session:
        assert session.execute(select(Deletion.state)).scalar_one() == DeletionState.CANCELLED
        assert list(session.execute(select(DeletionChunk)).scalars()) == []
        ledger.confirm(session, request.deletion_id, "user:7")
        ledger.accept(session, request)
        ledger.cancel(session, request, "another run")
        assert ledger.size_of(session, request.deletion_id).confirmed_at is None


@on_sqlite
async def test_what_is_not_over_a_ceiling_does_not_wait(stack: Stack) -> None:
    """As many as the ceiling may go; and one that was confirmed beforehand need not wait either."""
    one, two, three = stack.snapshots("one", "two", "three")
    before = Evidence.of(stack)
    large = stack.request([two.id, three.id])
    stack.accept(large)
    with stack.database.write() as session:
        ledger.confirm(session, large.deletion_id, "user:7")
    async with stack.worker(max_artifacts_unconfirmed=1):
        assert (await stack.delete([one.id])).complete
        assert (await stack.delete(large.artifact_ids)).complete
    assert_promises_hold(stack, before, [stack.request([one.id]), large])


@on_sqlite
def test_who_confirms_is_an_opaque_id(stack: Stack, command: Command) -> None:
    """It is written down for an auditor; names and addresses of people are not for this ledger."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    code, said = command("confirm", request.workflow_id, "--by", "jane@example.com")
    assert (code, "must be an opaque id, such as user:7" in said) == (2, True)
    code, said = command("confirm", "delete-artifacts/1/0", "--by", "user:7")
    assert (code, "the ledger knows no deletion" in said) == (2, True)
