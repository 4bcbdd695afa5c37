"""A deletion that is larger than what may go unconfirmed waits for a person, and loses nothing by it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

from activities.ledger import deletions, holds
from activities.ledger.holds import Size
from activities.ledger.schema import ChunkState, Deletion, DeletionChunk, Hold
from artifact_deletion.client import Deletions, progress
from artifact_deletion.errors import Held
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import Progress
from artifact_deletion.request import DeletionRequest
from tests.conftest import Command
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack, eventually, steps_of, wait_for_waiters
from workflows import text

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def size_of(stack: Stack, request: DeletionRequest) -> Size:
    with stack.database.read() as session:
        return holds.size_of(session, request.deletion_id)


async def unconfirmed(stack: Stack, handle: WorkflowHandle[Any, Any]) -> Progress:
    """What is shown once it waits."""

    async def waits() -> Progress | None:
        found = await progress(stack.client, handle.id)
        return found if found.held and "too large" in found.held else None

    return await eventually(waits)


@pytest.mark.thorough
async def test_more_artifacts_than_may_go_unconfirmed_wait_whole(stack: Stack, command: Command) -> None:
    """Nothing is deleted before a person says that it is meant; a backend gets its 202; then all of it goes."""
    one, two, three = stack.snapshots("one", "two", "three")
    before = Evidence.of(stack)
    ids = [one.id, two.id, three.id]
    async with stack.worker(max_artifacts_unconfirmed=2, chunk_artifacts=2):
        handle = await stack.start(ids)
        shown = await unconfirmed(stack, handle)

        async def both_collected() -> bool:
            return size_of(stack, stack.request(ids)).collected == 2

        await eventually(both_collected)
        assert "too large to go unconfirmed: 3 artifacts are more than 2" in text.details(shown)
        assert f"python starter.py confirm {stack.request(ids).deletion_id} --by WHO" in text.details(shown)
        backend = Deletions(stack.another_client)
        assert await backend.rows_deleted(stack.request(ids), within=timedelta(milliseconds=300)) is None
        assert Seen.of(stack.world) == Seen(before.rows, before.objects)
        _, status = await asyncio.to_thread(command, "status", handle.id)
        assert "too large to go unconfirmed: 3 artifacts are more than 2" in status
        confirmed = await asyncio.to_thread(command, "confirm", handle.id, "--by", "user:7")
        keys = size_of(stack, stack.request(ids)).keys
        assert (confirmed[0], f"is confirmed: 3 artifacts, {keys} keys collected so far" in confirmed[1]) == (0, True)
        await asyncio.wait_for(handle.result(), 40)
    assert_promises_hold(stack, before, [stack.request(ids)])
    assert stack.receipt(handle.id).objects.sealed == keys > 0
    with stack.database.read() as session:
        assert session.execute(select(Hold.lifted_by)).scalar_one() == "user:7"


@pytest.mark.thorough
@on_sqlite
async def test_no_more_keys_than_the_ceiling_go_unconfirmed(stack: Stack) -> None:
    """How many keys there are is known chunk by chunk: the first that would exceed the ceiling waits, and all after it."""
    snapshots = stack.snapshots(*"abcdef")
    before = Evidence.of(stack)
    ids = [one.id for one in snapshots]
    async with stack.worker(max_keys_unconfirmed=10, chunk_artifacts=1, chunks_at_once=2):
        handle = await stack.start(ids)
        shown = await unconfirmed(stack, handle)
        assert "keys are more than 10" in text.details(shown)
        with stack.database.read() as session:
            chunks = session.execute(select(DeletionChunk.state, DeletionChunk.sealed)).all()
        assert sum(keys for state, keys in chunks if state == ChunkState.ROWS_DELETED) <= 10 < sum(keys for _, keys in chunks)
        with stack.database.write() as session:
            holds.confirm(session, stack.request(ids).deletion_id, 0, by="user:7")
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
    with steps_of(stack, max_artifacts_unconfirmed=1) as steps:
        stack.accept(request)
        sealed = steps.open_and_collect(request)
        with pytest.raises(Held, match="too large to go unconfirmed: 2 artifacts are more than 1"):
            steps.delete_rows(sealed)
        with stack.database.write() as session:
            holds.confirm(session, request.deletion_id, steps.fence(request), by="user:7")
        assert steps.finish(request, sealed).complete


@pytest.mark.thorough
@on_sqlite
async def test_what_is_not_over_a_ceiling_does_not_wait(stack: Stack) -> None:
    """As many as the ceiling may go; and one that was confirmed beforehand need not wait either."""
    one, two, three = stack.snapshots("one", "two", "three")
    before = Evidence.of(stack)
    large = stack.request([two.id, three.id])
    stack.accept(large)
    with stack.database.write() as session:
        holds.confirm(session, large.deletion_id, 0, by="user:7")
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


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_chunks_that_find_it_too_large_at_the_same_time_place_one_hold(stack: Stack) -> None:
    """Else `lift` of one would leave the other. SQLite has one writer at a time."""
    with ThreadPoolExecutor(1) as pool, stack.database.write() as session:
        holds.place_ceiling(session, "1" * 32, 0, "too large")

        def second() -> None:
            with stack.database.write() as other:
                holds.place_ceiling(other, "1" * 32, 0, "too large")

        placing = pool.submit(second)
        wait_for_waiters(stack.database)
        session.commit()
        placing.result()
    with stack.database.read() as session:
        assert len(session.execute(select(Hold.id).where(Hold.on_id == "1" * 32)).all()) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_ceiling_that_another_chunk_places_at_this_moment_holds_this_one_too(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between this transaction's look for holds and its look at the ceilings. SQLite has one writer at a time."""
    one, two = stack.snapshots("one", "two")
    before = Seen.of(stack.world)
    lock_shared = deletions.lock_shared

    def and_another_places_it(session: Session, deletion_id: str, fence: int) -> tuple[DeletionState, bool]:
        seen = lock_shared(session, deletion_id, fence)
        with stack.database.write() as other:
            holds.place_ceiling(other, deletion_id, fence, "too large")
        return seen

    with steps_of(stack, max_artifacts_unconfirmed=1, chunk_artifacts=1) as steps:
        first, _ = steps.open(stack.request([one.id, two.id]))
        sealed = steps.collect(first)
        monkeypatch.setattr(deletions, "lock_shared", and_another_places_it)
        with pytest.raises(Held):
            steps.delete_rows(sealed)
    assert Seen.of(stack.world) == before
