"""Courses that need two rare things at once: a hold while a chunk waits, an attempt that comes late, rows that come back."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select, update
from temporalio.testing import ActivityEnvironment

from activities.backend import tables
from activities.ledger import holds
from activities.ledger.holds import On
from activities.ledger.schema import Deletion
from activities.open_deletion import OpenDeletion
from activities.stores import guards
from activities.stores.objects import Found, Outcome
from activities.stores.s3 import S3Objects
from artifact_deletion.client import progress
from artifact_deletion.errors import ArtifactNotInOrganization, Held, KeysNotDeletedYet, NotOpen, NotYet
from artifact_deletion.outbox import deletions_to_start
from demo.world import Snapshot
from tests.memory_store import MemoryStore
from tests.stack import Held as HeldCall
from tests.stack import Stack, deletion_of, eventually, steps_of
from workflows.steps import CLOSE_DELETION, OPEN_DELETION, Opening

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@on_sqlite
def test_artifacts_that_were_only_compared_with_do_not_count_against_the_ceiling(stack: Stack) -> None:
    head, base = stack.snapshots("head", "base")
    stack.world.comparison(head, base)
    request = stack.request([head.id])
    with steps_of(stack, max_artifacts_unconfirmed=1) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.read() as session:
            assert holds.size_of(session, request.deletion_id).artifacts == 1
        assert steps.finish(request, sealed).complete


@pytest.mark.thorough
@on_sqlite
def test_a_base_that_came_back_is_deleted_again_while_its_heads_chunk_is_open(stack: Stack) -> None:
    base, head = stack.snapshots("base", "head")
    stack.world.comparison(head, base)
    request = stack.request([base.id, head.id])
    with steps_of(stack, chunk_artifacts=1) as steps:
        of_base, _ = [steps.collect(chunk) for chunk in steps.open(request)]
        steps.delete_what_was_released(of_base, steps.delete_rows(of_base))
        assert "RowsNotDeleted" in steps.close(request).left_over  # the head's step had no success in its time
        with stack.database.write() as session:
            session.add(tables.Artifact(id=base.id, project_id=base.artifact.project_id))
        stack.accept(request)
        for chunk in steps.open(request):
            sealed = steps.collect(chunk)
            steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        assert steps.close(request).left_over == {}
    assert base.id not in stack.world.rows()["sentry_preprodartifact"]


@pytest.mark.thorough
@on_sqlite
@pytest.mark.parametrize("deletions", [1, 2])
def test_an_icon_that_another_chunk_is_about_to_delete_is_no_leftover(stack: Stack, deletions: int) -> None:
    project = stack.world.project(stack.world.organization("acme"), "shop")
    one, two = (stack.world.mobile_build(project, icon="icn_same") for _ in range(2))
    requests = [stack.request([one.id, two.id])] if deletions == 1 else [stack.request([one.id]), stack.request([two.id])]
    with steps_of(stack, chunk_artifacts=1, quiet_period_s=3600) as steps:
        first, second = [steps.collect(chunk) for request in requests for chunk in steps.open(request)]
        released = steps.delete_rows(first)
        steps.delete_objects(first, released)  # keeps the icon: the other build names it
        steps.delete_trace_items(first)
        others = steps.delete_rows(second)
        for chunk, looks in (first, 3), (second, 2):
            if chunk is second:
                steps.delete_objects(second, others)
                steps.delete_trace_items(second)
            for number in range(looks):
                done = steps.look(chunk)
                assert done == (chunk is second and number == 1)
                steps.pass_quiet_period()
        assert steps.look(first)
        receipts = [steps.close(request) for request in requests]
    assert not [key for key in stack.world.objects() if key.endswith("icn_same")]
    assert [receipt.left_over for receipt in receipts] == [{} for _ in requests]


@dataclass(frozen=True)
class SlowsDown(MemoryStore):
    """Answers SlowDown to a delete that it does all the same."""

    times: list[int] = field(default_factory=lambda: [0])

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        done = self.delete([one.key for one in found])
        if self.times[0]:
            self.times[0] -= 1
            return Outcome(not_yet=dict.fromkeys(done.deleted, "SlowDown"))
        return done


@on_sqlite
@pytest.mark.parametrize("slow", [0, 1])
def test_a_prefix_that_was_written_to_in_its_quiet_period_gets_another_one(stack: Stack, slow: int) -> None:
    (one,) = stack.snapshots("one")
    store = SlowsDown()
    request = stack.request([one.id])
    late = stack.world.physical("preprod", stack.organization_id, one.artifact.project_id, f"{one.artifact.prefix}late.png")
    with steps_of(stack, store, quiet_period_s=3600) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_objects(sealed, steps.delete_rows(sealed))
        steps.look(sealed)
        steps.pass_quiet_period()
        store.content[late] = b"."
        store.times[0] = slow
        if slow:
            with pytest.raises(KeysNotDeletedYet):
                steps.sweep(sealed)
        with pytest.raises(NotYet):
            steps.sweep(sealed)


def move(stack: Stack, one: Snapshot, organization: int) -> None:
    """Move the artifact's project to another organization."""
    with stack.database.write() as session:
        project = update(tables.Project).where(tables.Project.id == one.artifact.project_id)
        session.execute(project.values(organization_id=organization))


def delete_rows_by_hand(stack: Stack, one: Snapshot) -> None:
    with stack.database.write() as session:
        session.execute(delete(tables.SnapshotMetrics).where(tables.SnapshotMetrics.preprod_artifact_id == one.id))
        session.execute(delete(tables.Artifact).where(tables.Artifact.id == one.id))


@on_sqlite
def test_no_receipt_says_swept_where_no_store_lists(stack: Stack) -> None:
    (one,) = stack.snapshots("one")
    delete_rows_by_hand(stack, one)
    request = stack.request([one.id], project_id=one.artifact.project_id)
    with steps_of(stack, bucket_listable=False) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    assert any(f"/{one.id}/manifest.json" in key for key in stack.world.objects())
    assert receipt.artifacts.gone_before.swept.ids == ()


@on_sqlite
def test_no_count_of_zero_is_dated_that_was_not_made(stack: Stack) -> None:
    (one,) = stack.snapshots("one")
    request = stack.request([one.id, 999_999_999])
    with steps_of(stack, chunk_artifacts=1) as steps:
        sealed = [steps.collect(chunk) for chunk in steps.open(request)]
        for chunk in sealed:
            released = steps.delete_rows(chunk)
            steps.delete_objects(chunk, released)
            steps.sweep(chunk)
        receipt = steps.close(request)
    assert receipt.trace_items.state == "unconfirmed"
    assert receipt.trace_items.confirmed_at is None


@on_sqlite
def test_a_late_attempt_to_open_does_not_open_again_what_has_failed(stack: Stack) -> None:
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    with steps_of(stack) as steps:
        steps.open(request)
        assert steps.close(request).left_over
        with pytest.raises(NotOpen):
            steps.run(OPEN_DELETION, Opening(request=request, fresh=True))  # the same run's
    with stack.database.read() as session:
        assert session.execute(select(Deletion.state)).scalar_one() == "failed"
        assert list(deletions_to_start(session)) == []


@on_sqlite
def test_a_late_attempt_to_open_does_not_open_what_was_refused(stack: Stack) -> None:
    (one,) = stack.snapshots("one")
    other = stack.world.organization("globex")
    request = stack.request([one.id])
    move(stack, one, other)
    with steps_of(stack) as steps:
        with pytest.raises(ArtifactNotInOrganization):
            steps.open(request)
        move(stack, one, stack.organization_id)
        with pytest.raises(NotOpen):
            steps.run(OPEN_DELETION, Opening(request=request, fresh=True))
    with stack.database.read() as session:
        assert session.execute(select(Deletion.state)).scalar_one() == "refused"
        assert list(deletions_to_start(session)) == []


@on_sqlite
def test_a_refusal_that_comes_late_does_not_end_a_deletion_that_has_deleted_rows(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt slept between its refusal and its writing it down; the next attempt found the artifact at home."""
    (one,) = stack.snapshots("one")
    other = stack.world.organization("globex")
    request = stack.request([one.id])
    refuse, late = OpenDeletion._refuse, []  # noqa: SLF001  the moment in between is no one else's
    move(stack, one, other)
    with steps_of(stack) as steps:
        monkeypatch.setattr(OpenDeletion, "_refuse", lambda self, _session, opening: late.append((self, opening)))
        with pytest.raises(ArtifactNotInOrganization):
            steps.open(request)
        move(stack, one, stack.organization_id)
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        ((step, opening),) = late
        with pytest.raises(NotOpen), stack.database.write() as session:
            ActivityEnvironment().run(refuse, step, session, opening)
        steps.delete_what_was_released(sealed, released)
        assert steps.close(request).complete


@on_sqlite
def test_a_deletion_that_was_terminated_while_it_waited_waits_again(stack: Stack) -> None:
    one, two = stack.snapshots("one", "two")
    first, second = stack.request([one.id]), stack.request([one.id, two.id])
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(first))
        sealed = steps.open_and_collect(second)
        steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        with pytest.raises(NotYet):
            steps.run(CLOSE_DELETION, deletion_of(second))
        with stack.database.write() as session:  # terminated; a week goes by
            session.get_one(Deletion, second.deletion_id).waits_since = datetime.now(UTC) - timedelta(days=7)
        stack.accept(second)
        steps.open(second)
        with pytest.raises(NotYet):
            steps.run(CLOSE_DELETION, deletion_of(second))


@on_sqlite
def test_a_cancel_ends_the_hold_of_a_ceiling(stack: Stack) -> None:
    one, two = stack.snapshots("one", "two")
    request = stack.request([one.id, two.id])
    with steps_of(stack, max_artifacts_unconfirmed=1) as steps:
        sealed = steps.open_and_collect(request)
        with pytest.raises(Held):
            steps.delete_rows(sealed)
        assert steps.cancel(request).nothing_deleted
    with stack.database.read() as session:
        assert holds.placed(session) == []


@pytest.mark.thorough
@on_sqlite
async def test_objects_go_on_after_a_thaw_while_a_ceiling_holds_other_rows(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ceiling keeps rows; objects whose rows are gone go on. A freeze in between must not tie them to the ceiling."""
    monkeypatch.setattr(guards, "FRESH_S", 0.0)
    one, two = stack.snapshots("one", "two")
    held = HeldCall(monkeypatch, S3Objects, "delete")
    async with stack.worker(max_keys_unconfirmed=7, chunk_artifacts=1, chunks_at_once=1):
        handle = await stack.start([one.id, two.id])
        await held.reached()

        async def too_large() -> bool:
            return "too large" in ((await progress(stack.client, handle.id)).held or "")

        await eventually(too_large)
        placed = await asyncio.to_thread(holds.place, stack.database, On.EVERYTHING, "", reason="a test", by="user:7")
        held.let_go()

        async def both_wait() -> bool:
            pending = (await handle.describe()).raw_description.pending_activities
            return {"every", "held"} <= {one.last_failure.message.split(" ")[0] for one in pending}

        await eventually(both_wait)
        with stack.database.write() as session:
            holds.lift(session, [placed.id], by="user:7")

        async def gone() -> bool:
            return not stack.world.objects_of([one.id]) & stack.world.objects().keys()

        await eventually(gone)
        with stack.database.write() as session:
            holds.confirm(session, stack.request([one.id, two.id]).deletion_id, 0, by="user:7")
        assert (await asyncio.wait_for(handle.result(), 40)).complete


@on_sqlite
def test_a_deletion_with_an_open_chunk_is_not_complete_and_deletes_what_came_back_when_asked_again(stack: Stack) -> None:
    """An id without a row is noted as gone when keys are collected. The step that would close its chunk had no success."""
    (one,) = stack.snapshots("one")
    lost = one.id + 1
    request = stack.request([lost])
    stack.accept(request)
    with steps_of(stack) as steps:
        steps.open_and_collect(request)
        assert steps.close(request).artifacts.not_reached.ids == (lost,)
        with stack.database.write() as session:
            session.add(tables.Artifact(id=lost, project_id=one.artifact.project_id))
        stack.accept(request)
        receipt = steps.finish(request, steps.open_and_collect(request))
    assert receipt.complete
    assert lost not in stack.world.rows()["sentry_preprodartifact"]
