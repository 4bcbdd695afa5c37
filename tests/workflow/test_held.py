"""A whole deletion of which a court wants a part: it ends without it, and does the rest once the hold is lifted."""

import asyncio
from datetime import timedelta

import pytest

from activities.ledger.holds import On
from artifact_deletion.client import Deletions
from artifact_deletion.errors import RowsNotDeleted
from artifact_deletion.outbox import DeletionState
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack
from tests.steps.test_held_artifacts import keep

LATER = timedelta(seconds=30)
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.thorough
async def test_a_deletion_ends_without_what_is_held_and_lifting_the_hold_is_all_that_it_takes(stack: Stack) -> None:
    """The failure says what is kept and what to do, and `lift` runs it again."""
    one, two, kept = stack.snapshots("one", "two", "kept")
    stack.world.comparison(two, one)
    before = Evidence.of(stack)
    placed = keep(stack.database, On.ARTIFACT, kept.id)
    async with stack.worker(chunk_artifacts=2):
        handle = await stack.start([one.id, two.id, kept.id])
        failure = await stack.failure(handle)
        assert failure.type == RowsNotDeleted.__name__
        assert failure.message.startswith("1 left over (Held 1); all else is done. Held: a hold keeps them")
        stack.assert_only_these_are_gone([one.id, two.id], Seen(before.rows, before.objects))
        assert_promises_hold(stack, before, [stack.request([one.id, two.id, kept.id])])
        receipt = stack.receipt(handle.id)
        assert (receipt.artifacts.held.ids, receipt.times.rows_deleted) == ((kept.id,), None)

        shown = await stack.run_command("status", handle.id)
        assert "1 left over: Held: a hold keeps them" in shown.stdout
        lifted = await stack.run_command("lift", placed.id, "--by", "user:8")
        assert (lifted.returncode, f"runs again for what was held: {handle.id}" in lifted.stdout) == (0, True), lifted
        assert (await asyncio.wait_for(stack.client.get_workflow_handle(handle.id).result(), 40))["complete"]
    assert stack.recorded(handle.id).state is DeletionState.CLOSED
    assert stack.receipt(handle.id).artifacts.deleted.count == 3
    assert_promises_hold(stack, before, [stack.request([one.id, two.id, kept.id])])
    assert "PRIVATE" not in (await handle.fetch_history()).to_json()


async def test_who_waits_for_rows_is_not_told_that_held_ones_are_gone(stack: Stack) -> None:
    """Neither by the first run, nor by a re-run that finds no other row."""
    one, kept = stack.snapshots("one", "kept")
    keep(stack.database, On.ARTIFACT, kept.id)
    request = stack.request([one.id, kept.id])
    async with stack.worker():
        for _ in range(2):
            stack.accept(request)
            with pytest.raises(RowsNotDeleted):
                await Deletions(stack.another_client).rows_deleted(request, within=LATER)
    assert kept.id in stack.world.rows()["sentry_preprodartifact"]
