"""The whole path: a backend asks, rows, objects and trace items go, a receipt comes back, and nothing else has changed."""

from sqlalchemy import func, select

from activities.ledger.schema import DeletionPage, DeletionPrefix
from demo.world import sample_world
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack, recorded


async def test_a_deletion_takes_all_that_is_the_artifacts_own_and_nothing_else(stack: Stack) -> None:
    """Heads and bases, builds with files and icons, in several usecases; the world's own record says what is whose."""
    sample = sample_world(stack.world)
    before, evidence = Seen.of(stack.world), Evidence.of(stack)
    async with stack.worker():
        receipt = await stack.delete(sample.to_delete, requested_by="user:7", reference="TICKET-1")

    stack.assert_only_these_are_gone(sample.to_delete, before)
    assert_promises_hold(stack, evidence, [stack.request(sample.to_delete)])
    assert receipt.complete
    assert receipt.artifacts.deleted.ids == tuple(sorted(sample.to_delete))
    assert sum(receipt.rows.values()) == len(stack.world.rows_of(sample.to_delete)) - receipt.trace_items.matched
    assert receipt.objects.sealed == receipt.objects.deleted + receipt.objects.absent
    assert receipt.objects.prefixes == receipt.objects.prefixes_listed_empty > 0
    assert (receipt.trace_items.state, receipt.requested_by, receipt.reference) == ("confirmed", "user:7", "TICKET-1")
    assert receipt.times.accepted <= receipt.times.rows_deleted <= receipt.times.closed  # type: ignore[operator]


async def test_a_closed_deletion_keeps_its_receipt_and_drops_its_work(stack: Stack) -> None:
    """The ledger is an outbox: what is done is not kept, what was done is."""
    (one,) = stack.snapshots("home")
    async with stack.worker():
        receipt = await stack.delete([one.id])
    with stack.database.read() as session:
        for table in (DeletionPage, DeletionPrefix):
            assert session.execute(select(func.count()).select_from(table)).scalar_one() == 0
    assert recorded(stack.database, receipt.workflow_id).receipt == receipt
