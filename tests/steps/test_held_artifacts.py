"""Keep it for the court: what a hold on an artifact or a project keeps stays whole, and the rest of its deletion goes on."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from activities.backend import tables
from activities.database import Database
from activities.delete_rows import DeleteRows
from activities.images import owed
from activities.ledger import chunks, held, holds
from activities.ledger.holds import On, Placed
from activities.stores import guards
from artifact_deletion import errors
from artifact_deletion.errors import NotOpen, StaleSeal
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest
from demo.world import Project, screen
from tests.image_steps import GRACE, image_steps
from tests.oracle import Evidence, assert_promises_hold
from tests.shop import move, sealed_keys
from tests.stack import Held, Seen, Stack, Steps, steps_of, wait_for_waiters
from tests.steps.test_reopened import restore

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def keep(database: Database, on: On, number: int) -> Placed:
    return holds.place(database, on, str(number), reason="PRIVATE: file number 12", by="user:7")


def let_go(database: Database, *ids: int) -> None:
    """Lift these holds, or all."""
    with database.write() as session:
        holds.lift(session, ids or [one.id for one in holds.placed(session)], by="user:8")


def run(steps: Steps, request: DeletionRequest) -> DeletionReceipt:
    """One run from its start to its end, with as many seals as it takes."""
    for chunk in steps.open(request):
        sealed = steps.collect(chunk)
        steps.delete_what_was_released(chunk, steps.delete_rows(sealed))
    return steps.close(request)


def assert_kept(stack: Stack, before: Evidence, receipt: DeletionReceipt, *, held: set[int], deleted: set[int]) -> None:
    """These are as they were, all that was the others' is gone, and the receipt says so."""
    stack.assert_only_these_are_gone(deleted, Seen(before.rows, before.objects))
    found = receipt.artifacts
    assert (set(found.held.ids), set(found.deleted.ids)) == (held, deleted)
    assert (receipt.complete, receipt.left_over) == (False, {"Held": len(held)})
    assert stack.recorded(receipt.workflow_id).state is DeletionState.FAILED


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4, thread_name_prefix="others") as pool:
        yield pool


@pytest.mark.thorough
@pytest.mark.parametrize("on", [On.ARTIFACT, On.PROJECT])
def test_what_is_held_keeps_its_rows_objects_and_trace_items_and_the_rest_of_its_chunk_goes(stack: Stack, on: On) -> None:
    """A court wants one of them: the person who asked for all gets rid of the others today, and of that one later."""
    one, two = stack.snapshots("one", "two")
    evidence = stack.world.project(stack.organization_id, "evidence")
    kept = stack.world.snapshot(evidence, {"login": screen("login")})
    request, before = stack.request([one.id, two.id, kept.id]), Evidence.of(stack)
    stack.accept(request)
    placed = keep(stack.database, on, kept.id if on is On.ARTIFACT else evidence.id)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        assert sealed_keys(stack, sealed)
        assert not [key for _, key in sealed_keys(stack, sealed) if f"/{kept.id}" in key]
        receipt = steps.finish(request, sealed)
        assert_kept(stack, before, receipt, held={kept.id}, deleted={one.id, two.id})
        assert receipt.trace_items.state == "confirmed"
        assert_promises_hold(stack, before, [request])
        let_go(stack.database, placed.id)
        receipt = run(steps, request)
    assert (receipt.complete, receipt.artifacts.held.count, receipt.artifacts.deleted.count) == (True, 0, 3)
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
def test_a_hold_between_collecting_and_deleting_rows_has_the_keys_collected_again_without_what_it_keeps(stack: Stack) -> None:
    """Its keys were sealed, an icon and a comparison too, which stay owed from seal to seal: released, rows would dangle."""
    one, kept, along = stack.snapshots("one", "kept", "along")
    build = stack.world.mobile_build(stack.world.project(stack.organization_id, "app"), icon="icn_kept")
    stack.world.comparison(kept, along)
    request, before = stack.request([one.id, kept.id, along.id, build.id]), Evidence.of(stack)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        keep(stack.database, On.ARTIFACT, kept.id)
        keep(stack.database, On.ARTIFACT, build.id)
        with pytest.raises(StaleSeal, match="held, or let go, since"):
            steps.delete_rows(sealed)
        assert Seen.of(stack.world) == Seen(before.rows, before.objects)
        receipt = steps.finish(request, steps.collect(sealed))
    assert_kept(stack, before, receipt, held={kept.id, along.id, build.id}, deleted={one.id})
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
def test_what_is_let_go_before_rows_are_deleted_goes_with_them(stack: Stack) -> None:
    """No one would run the deletion again for it: the hold is lifted already."""
    one, kept = stack.snapshots("one", "kept")
    request, before = stack.request([one.id, kept.id]), Evidence.of(stack)
    placed = keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        let_go(stack.database, placed.id)
        with pytest.raises(StaleSeal):
            steps.delete_rows(sealed)
        assert steps.finish(request, steps.collect(sealed)).complete
    stack.assert_only_these_are_gone([one.id, kept.id], Seen(before.rows, before.objects))


@pytest.mark.thorough
@on_postgresql
def test_a_hold_that_is_placed_while_delete_rows_waits_for_a_lock_is_seen(stack: Stack, others: ThreadPoolExecutor) -> None:
    """Lock, then look: what is held by then is still whole when the command that placed the hold returns."""
    one, kept = stack.snapshots("one", "kept")
    request, before = stack.request([one.id, kept.id]), Evidence.of(stack)
    row = tables.Artifact
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as other:
            other.execute(select(row.id).where(row.id == one.id).with_for_update()).one()
            deleting = others.submit(steps.delete_rows, sealed)
            wait_for_waiters(stack.database)
            placing = others.submit(keep, stack.database, On.ARTIFACT, kept.id)
            wait_for_waiters(stack.database, 2)
        placing.result(10)
        with pytest.raises(StaleSeal):
            deleting.result(10)
        receipt = steps.finish(request, steps.collect(sealed))
    assert_kept(stack, before, receipt, held={kept.id}, deleted={one.id})


@on_postgresql
def test_a_hold_that_comes_too_late_returns_when_the_rows_are_gone(
    stack: Stack, others: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that has looked is waited for: no one is told that an artifact is kept which is about to go."""
    one, late = stack.snapshots("one", "late")
    request = stack.request([one.id, late.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        paused = Held(monkeypatch, DeleteRows, "_release")
        deleting = others.submit(steps.delete_rows, sealed)
        try:
            asyncio.run(paused.reached())
            placing = others.submit(keep, stack.database, On.ARTIFACT, late.id)
            wait_for_waiters(stack.database)
            assert not placing.done()
        finally:
            paused.let_go()
        placing.result(10)
        assert late.id not in stack.world.rows()["sentry_preprodartifact"]
        steps.delete_what_was_released(sealed, deleting.result(10))
        assert steps.close(request).complete


@pytest.mark.thorough
def test_a_hold_on_a_project_keeps_what_was_moved_into_it_after_its_keys_were_collected(stack: Stack) -> None:
    """An artifact is where its row says under its lock."""
    one, moved = stack.snapshots("one", "moved")
    evidence = stack.world.project(stack.organization_id, "evidence")
    request = stack.request([one.id, moved.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        keep(stack.database, On.PROJECT, evidence.id)
        with stack.database.write() as session:
            move(session, moved.id, evidence)
        before = Evidence.of(stack)
        with pytest.raises(StaleSeal, match="held, or let go, since"):
            steps.delete_rows(sealed)
        receipt = steps.finish(request, steps.collect(sealed))
    assert_kept(stack, before, receipt, held={moved.id}, deleted={one.id})
    with stack.database.read() as session:
        assert held.left_by_holds(session, request.deletion_id) == {moved.id: evidence.id}
        assert held.let_go(session) == []


# Compared with one that is held -----------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("kept_is_head", [True, False], ids=["the head is held", "the base is held"])
@pytest.mark.parametrize("when", ["before", "after the keys were collected"])
def test_what_was_compared_with_a_held_one_is_held_along_and_no_further(
    stack: Stack,
    kept_is_head: bool,  # noqa: FBT001
    when: str,
) -> None:
    """Its row cannot go without the comparison, which is evidence, and whose objects may lie under the held one's prefix."""
    kept, along, third = stack.snapshots("kept", "along", "third")
    for one, other in ((kept, along), (along, third)):
        stack.world.comparison(*((one, other) if kept_is_head else (other, one)))
    request = stack.request([along.id, third.id])
    before = Evidence.of(stack)
    stack.accept(request)
    if when == "before":
        placed = keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        if when != "before":
            placed = keep(stack.database, On.ARTIFACT, kept.id)
            with pytest.raises(StaleSeal):
                steps.delete_rows(sealed)
            sealed = steps.collect(sealed)
        receipt = steps.finish(request, sealed)
        assert_kept(stack, before, receipt, held={along.id}, deleted={third.id})
        assert_promises_hold(stack, before, [request])
        let_go(stack.database, placed.id)
        assert run(steps, request).complete
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
@on_sqlite
@pytest.mark.parametrize("kept_is_head", [True, False], ids=["the head is held", "the base is held"])
def test_a_comparison_of_sizes_holds_along_too(stack: Stack, kept_is_head: bool) -> None:  # noqa: FBT001
    """It names a file, and there is no comparison without metrics of both."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    kept, along, other = (stack.world.mobile_build(project) for _ in range(3))
    stack.world.size_comparison(*((kept, along) if kept_is_head else (along, kept)))
    request, before = stack.request([along.id, other.id]), Evidence.of(stack)
    keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        receipt = run(steps, request)
    assert_kept(stack, before, receipt, held={along.id}, deleted={other.id})
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
@on_sqlite
def test_a_comparison_with_a_held_one_that_is_made_after_the_keys_were_collected_holds_along(stack: Stack) -> None:
    """Which no hold announces: only a look under the locks finds it."""
    kept, along = stack.snapshots("kept", "along")
    request = stack.request([along.id])
    keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        stack.world.comparison(kept, along)
        before = Evidence.of(stack)
        with pytest.raises(StaleSeal):
            steps.delete_rows(sealed)
        receipt = steps.finish(request, steps.collect(sealed))
    assert_kept(stack, before, receipt, held={along.id}, deleted=set())


# Run again --------------------------------------------------------------------------------------------------------------


@on_sqlite
def test_a_re_run_of_what_is_still_held_makes_nothing_new(stack: Stack) -> None:
    """A person who tries every week for a year does not make a chunk each time."""
    one, kept = stack.snapshots("one", "kept")
    request = stack.request([one.id, kept.id])
    keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        first = run(steps, request)
        assert steps.open(request) == []
        again = steps.close(request)
    assert (again.artifacts, again.left_over) == (first.artifacts, {"Held": 1})
    with stack.database.read() as session:
        assert chunks.next_chunk(session, request.deletion_id) == 1


@on_sqlite
def test_a_deletion_of_which_all_was_held_can_be_cancelled(stack: Stack) -> None:
    """Its chunk is done, and no row is deleted: what was let go since is still there."""
    (kept,) = stack.snapshots("one")
    request, before = stack.request([kept.id]), Evidence.of(stack)
    stack.accept(request)
    keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        assert run(steps, request).left_over == {"Held": 1}
        let_go(stack.database)
        stack.accept(request)
        (chunk,) = steps.open(request)
        assert steps.cancel(request).nothing_deleted
        with pytest.raises(NotOpen):
            steps.collect(chunk)
    assert stack.recorded(request.workflow_id).state is DeletionState.CANCELLED
    stack.assert_only_these_are_gone(set(), Seen(before.rows, before.objects))


@pytest.mark.thorough
@on_sqlite
def test_of_two_that_are_held_the_one_that_is_let_go_goes(stack: Stack) -> None:
    one, two = stack.snapshots("one", "two")
    request, before = stack.request([one.id, two.id]), Evidence.of(stack)
    placed, _ = (keep(stack.database, On.ARTIFACT, kept.id) for kept in (one, two))
    with steps_of(stack) as steps:
        assert_kept(stack, before, run(steps, request), held={one.id, two.id}, deleted=set())
        let_go(stack.database, placed.id)
        assert_kept(stack, before, run(steps, request), held={two.id}, deleted={one.id})
        let_go(stack.database)
        assert run(steps, request).complete
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
@on_sqlite
def test_what_has_no_row_keeps_its_objects_while_it_is_held_and_is_swept_after_that(stack: Stack) -> None:
    """The request says its project, where a deletion would sweep: a hold that came before it is heeded there too."""
    (one,) = stack.snapshots("one")
    objects = stack.world.objects_of([one.id]) & stack.world.objects().keys()
    first, request = stack.request([one.id]), stack.request([one.id], project_id=one.artifact.project_id)
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(first))
        keep(stack.database, On.ARTIFACT, one.id)
        receipt = run(steps, request)
        assert (receipt.artifacts.held.ids, receipt.left_over) == ((one.id,), {"Held": 1})
        assert objects <= stack.world.objects().keys()
        let_go(stack.database)
        assert run(steps, request).artifacts.held.count == 0
    assert not objects & stack.world.objects().keys()


@pytest.mark.thorough
@on_sqlite
def test_rows_that_came_back_are_held_too(stack: Stack) -> None:
    """A backup brings it back, and the court asks for it: a re-run leaves it."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    with steps_of(stack) as steps:
        assert run(steps, request).complete
        key = restore(stack, one)
        keep(stack.database, On.ARTIFACT, one.id)
        receipt = run(steps, request)
        assert (receipt.artifacts.held.ids, receipt.left_over) == ((one.id,), {"Held": 1})
        assert key in stack.world.objects()
        let_go(stack.database)
        assert run(steps, request).complete
    assert key not in stack.world.objects()


# Images ----------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@on_sqlite
def test_a_hold_on_a_project_stops_the_purge_of_its_hidden_images(stack: Stack) -> None:
    """Hidden before the court asked: their bytes are evidence, and a snapshot may still come that shows them."""
    one, other = stack.snapshots("one", "other")
    with image_steps(stack, Project(one.artifact.project_id, stack.organization_id, "shop")) as images:
        deletion = images.hidden(one)
        placed = keep(stack.database, On.PROJECT, images.project.id)
        images.pass_time(10 * GRACE)
        assert images.settle().startswith(f"project {images.project.id} is held since ")
        assert set(images.states().values()) == {"hidden"}, "none is about to be purged, from where there is no way back"
        let_go(stack.database, placed.id)
        images.to_the_end()
        assert images.total(deletion).purged == 1
    assert other.id in stack.world.rows()["sentry_preprodartifact"]


@pytest.mark.thorough
def test_images_of_a_held_project_are_left_over_and_hidden_by_a_re_run(stack: Stack) -> None:
    """Its rows were deleted before the hold: their images stay readable for as long as it lasts."""
    one, other = stack.snapshots("one", "other")
    (home,) = set(stack.image_keys(one).values()) - set(stack.image_keys(other).values())
    request = stack.request([one.id], images="delete")
    with image_steps(stack, Project(one.artifact.project_id, stack.organization_id, "shop")) as images:
        deletion = images.delete(one)
        placed = keep(stack.database, On.PROJECT, images.project.id)
        assert (images.hide(deletion).left_over, images.settle() != "") == (3, False)
        receipt = images.steps.close(request)
        assert (receipt.left_over, receipt.images.left_over) == ({"ImagesHeld": 3}, {"ImagesHeld": 3})
        assert home in stack.world.objects()
        let_go(stack.database, placed.id)
        with stack.database.read() as session:
            assert held.let_go(session) == [request]
        images.steps.open(request)
        images.watch(deletion)
        assert (images.hide(deletion).hidden, images.steps.close(request).complete) == (1, True)
    assert home not in stack.world.objects()


@pytest.mark.thorough
@on_sqlite
def test_a_hold_on_a_project_is_heeded_before_each_request_that_hides_or_purges(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come between a decision and its requests: the step is run again, and leaves over what it decided."""
    monkeypatch.setattr(guards, "FRESH_S", 0.0)
    one, _ = stack.snapshots("one", "other")
    objects = stack.world.objects()
    with image_steps(stack, Project(one.artifact.project_id, stack.organization_id, "shop")) as images:
        deletion = images.delete(one)
        images.catch_up()
        work = images.at_work()
        with stack.database.read() as session:
            pages = owed.undecided(session, deletion.deletion_id, images.project.id)
        hiding = work.decisions.begin(pages)
        keep(stack.database, On.PROJECT, images.project.id)
        with pytest.raises(errors.Held):
            work.requests.hide(hiding)
        assert images.hide(deletion).left_over == 1
        images.pass_time(10 * GRACE)
        assert "is held since" in images.settle()
        let_go(stack.database)
        images.to_the_end()
    left = {key for key in objects if key in stack.world.objects()}
    assert set(stack.image_keys(one).values()) - left == {stack.image_keys(one)["one"]}
