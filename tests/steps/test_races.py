"""Others at work on the same rows: who comes first, who waits, who is refused, and that nothing dangles or is orphaned.

Every race is scheduled: one side holds a lock, and the other is seen to wait for it before the first goes on. Each ends in the
oracle.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from activities.backend import tables
from activities.database import Database
from activities.ledger import deletions
from activities.ledger.schema import DeletionChunk
from artifact_deletion.errors import DatabaseUnavailable, NotOpen, StaleSeal
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest
from demo.world import Build, Snapshot, screen
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Pause, Stack, Steps, again, steps_of, wait_for_waiters
from workflows.steps import Released, SealedChunk

POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4, thread_name_prefix="others") as pool:
        yield pool


@pytest.fixture
def pair(stack: Stack) -> tuple[Snapshot, Snapshot]:
    """A head, to be deleted, and a base that stays. They are not compared yet."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    head, base = (stack.world.snapshot(project, {"login": screen("login", seed)}) for seed in range(2))
    stack.world.approval(head)
    return head, base


@pytest.fixture
def before(stack: Stack, pair: tuple[Snapshot, Snapshot]) -> Evidence:
    return Evidence.of(stack)


def compare(session: Session | Connection, head: Snapshot, base: Snapshot) -> None:
    """The row of a comparison, as the backend inserts it at its end."""
    key = f"{head.artifact.prefix}{base.id}/comparison.json"
    values = {"head_snapshot_metrics_id": head.metrics_id, "base_snapshot_metrics_id": base.metrics_id}
    session.execute(insert(tables.SnapshotComparison).values(**values, extras={"comparison_key": key}))


def held_approval(session: Session, of: Snapshot) -> None:
    """Lock a row that delete_rows comes to after its own locks and looks, so that it waits in the middle of its cascade."""
    one = tables.ComparisonApproval
    session.execute(select(one.id).where(one.preprod_artifact_id == of.id).with_for_update()).one()


def assert_gone_whole(
    stack: Stack,
    before: Evidence,
    request: DeletionRequest,
    receipt: DeletionReceipt,
    *,
    comparisons: int = 0,
    also_owned: Iterable[str] = (),
) -> None:
    """Nothing of the artifacts is left, nor of so many comparisons that were inserted without the builder, with their keys."""
    assert (receipt.complete, set(receipt.artifacts.deleted.ids)) == (True, set(request.artifact_ids))
    rows = {"sentry_preprodsnapshotcomparison": comparisons} if comparisons else {}
    assert_promises_hold(stack, before, [request], also_rows=rows, also_owned=also_owned)


# A comparison that is made while its head is being deleted --------------------------------------------------------------


def test_a_comparison_made_after_the_keys_were_collected_goes_with_the_rows(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence
) -> None:
    """Its manifest was never read, and its row will not be there to be asked: its prefix is sealed at the last moment."""
    head, base = pair
    request = stack.request([base.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        comparison = stack.world.comparison(head, base)
        receipt = steps.finish(request, sealed)
    assert comparison.id not in stack.world.rows()["sentry_preprodsnapshotcomparison"]
    assert_gone_whole(stack, before, request, receipt)
    assert receipt.objects.found_by_listing >= len(comparison.mask_keys) > 0


@pytest.mark.thorough
@POSTGRESQL
@pytest.mark.parametrize("which", [0, 1], ids=["of its head", "of its base"])
def test_a_comparison_that_is_committed_while_delete_rows_waits_for_its_locks_goes_with_the_rows(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor, which: int
) -> None:
    """Lock, then look: a single statement would have looked before it had the lock, and missed the comparison."""
    head, base = pair
    request = stack.request([pair[which].id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        stack.world.comparison(head, base, committed=False)
        theirs = {key for key in stack.world.objects() if f"{head.artifact.prefix}{base.id}/" in key}
        with stack.database.write() as other:
            compare(other, head, base)
            other.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))  # its foreign keys lock what they refer to, as at COMMIT
            deleting = others.submit(steps.delete_rows, sealed)
            wait_for_waiters(stack.database)
        released = deleting.result(10)
        steps.delete_what_was_released(sealed, released)
        receipt = steps.close(request)
    assert receipt.rows["sentry_preprodsnapshotcomparison"] == 1
    assert_gone_whole(stack, before, request, receipt, comparisons=1, also_owned=theirs)


@pytest.mark.thorough
@POSTGRESQL
@pytest.mark.parametrize("when", ["while rows are being deleted", "after the rows are gone"])
def test_a_comparison_that_nobody_could_see_is_refused_at_its_commit(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor, when: str
) -> None:
    """Its deferred foreign keys lock nothing and ask for nothing until its COMMIT, which comes too late."""
    head, base = pair
    request = stack.request([head.id])
    with steps_of(stack) as steps, stack.database.engine.connect() as other:
        sealed = steps.open_and_collect(request)
        stack.world.comparison(head, base, committed=False)
        compare(other, head, base)
        if when == "after the rows are gone":
            released = steps.delete_rows(sealed)
            committing = others.submit(other.commit)
        else:
            with stack.database.write() as holder:
                held_approval(holder, head)
                deleting = others.submit(steps.delete_rows, sealed)
                wait_for_waiters(stack.database, 1)
                committing = others.submit(other.commit)
                wait_for_waiters(stack.database, 2)
            released = deleting.result(10)
        with pytest.raises(IntegrityError, match="ForeignKeyViolation"):
            committing.result(10)
        steps.delete_what_was_released(sealed, released)
        receipt = steps.close(request)
    assert "sentry_preprodsnapshotcomparison" not in receipt.rows
    assert_gone_whole(stack, before, request, receipt)


CHILDREN: dict[str, Callable[[Snapshot, Snapshot], Any]] = {
    "comparison": lambda head, base: insert(tables.SnapshotComparison).values(
        head_snapshot_metrics_id=base.metrics_id, base_snapshot_metrics_id=head.metrics_id
    ),
    "approval": lambda head, _: insert(tables.ComparisonApproval).values(preprod_artifact_id=head.id),
    "installable": lambda head, _: insert(tables.InstallableArtifact).values(preprod_artifact_id=head.id, url_path="x"),
    "app info": lambda head, _: insert(tables.MobileAppInfo).values(preprod_artifact_id=head.id),
    "size metrics": lambda head, _: insert(tables.SizeMetrics).values(preprod_artifact_id=head.id),
}


def test_nothing_can_be_tied_to_an_artifact_once_its_rows_are_gone(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence
) -> None:
    """A late writer of any kind is refused by the database, so no row can name an object that is about to go."""
    head, base = pair
    request = stack.request([head.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        for insertion in CHILDREN.values():
            with pytest.raises(DatabaseUnavailable, match="refused"), stack.database.write() as other:
                other.execute(insertion(head, base))
        steps.delete_what_was_released(sealed, released)
        assert_gone_whole(stack, before, request, steps.close(request))


@pytest.mark.thorough
@POSTGRESQL
def test_a_child_that_appears_behind_the_statement_that_would_have_deleted_it_is_refused(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor
) -> None:
    """It slips in behind the statement that would have deleted it: then its own COMMIT waits for ours, and is refused."""
    head, base = pair
    request = stack.request([head.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as holder:
            held_approval(holder, head)
            deleting = others.submit(steps.delete_rows, sealed)
            wait_for_waiters(stack.database, 1)
            committing = [
                others.submit(insert_alone, stack.database, CHILDREN[kind](head, base))
                for kind in ("comparison", "installable")
            ]
            wait_for_waiters(stack.database, 3)
        released = deleting.result(10)
        for late in committing:
            with pytest.raises(DatabaseUnavailable, match="refused"):
                late.result(10)
        steps.delete_what_was_released(sealed, released)
        assert_gone_whole(stack, before, request, steps.close(request))


def insert_alone(database: Database, insertion: Any) -> None:
    with database.write() as session:
        session.execute(insertion)


@pytest.mark.thorough
@SQLITE
def test_on_sqlite_a_comparison_made_in_the_middle_waits_and_is_refused(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor
) -> None:
    """A writing transaction begins by taking the only write lock there is, so no other can look in between."""
    head, base = pair
    request = stack.request([head.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        pause = Pause(stack.database.engine, "DELETE FROM sentry_preprodcomparisonapproval")
        deleting = others.submit(steps.delete_rows, sealed)
        pause.wait()
        impatient = Database(stack.database_url, lock_timeout_s=0.05)
        with pytest.raises(DatabaseUnavailable, match="SQLITE_BUSY"):
            insert_alone(impatient, CHILDREN["comparison"](head, base))
        impatient.dispose()
        waiting = others.submit(insert_alone, stack.database, CHILDREN["comparison"](head, base))
        pause.let_go()
        released = deleting.result(10)
        with pytest.raises(DatabaseUnavailable, match="FOREIGNKEY"):
            waiting.result(10)
        steps.delete_what_was_released(sealed, released)
        assert_gone_whole(stack, before, request, steps.close(request))


@pytest.mark.thorough
@SQLITE
def test_on_sqlite_a_deletion_that_finds_the_database_locked_changes_nothing_and_is_run_again(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence
) -> None:
    """Another hand's transaction is open for longer than we wait; what it commits is found the next time."""
    head, base = pair
    request = stack.request([head.id])
    impatient = Database(stack.database_url, lock_timeout_s=0.05)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as other, steps_of(stack, database=impatient) as hasty:
            compare(other, head, base)
            with pytest.raises(DatabaseUnavailable, match="SQLITE_BUSY"):
                hasty.delete_rows(sealed)
        impatient.dispose()
        assert head.id in stack.world.rows()["sentry_preprodartifact"]
        receipt = steps.finish(request, sealed)
    assert receipt.rows["sentry_preprodsnapshotcomparison"] == 1
    assert_gone_whole(stack, before, request, receipt, comparisons=1)


COMPARISONS_ARE_READ = (
    "SELECT sentry_preprodartifact.id, sentry_preprodartifact.project_id, sentry_project.organization_id, "
    "sentry_preprodsnapshotmetrics_1."
)
"""They are read after the artifacts' own columns."""


@pytest.mark.thorough
@POSTGRESQL
def test_a_comparison_committed_while_columns_are_being_read_is_collected_with_the_others(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor
) -> None:
    """The rows are read by several statements, between which the backend goes on: no two need to agree.

    On SQLite they are read within a writing transaction, of which there is one at a time.
    """
    head, base = pair
    request = stack.request([head.id])
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        pause = Pause(stack.database.engine, COMPARISONS_ARE_READ)
        collecting = others.submit(steps.collect, chunk)
        pause.wait()
        stack.world.comparison(head, base)
        pause.let_go()
        sealed = collecting.result(10)
        receipt = steps.finish(request, sealed)
    assert_gone_whole(stack, before, request, receipt)
    assert receipt.rows["sentry_preprodsnapshotcomparison"] == 1


# Two deletions, or two attempts, at the same rows -----------------------------------------------------------------------


@pytest.mark.thorough
@POSTGRESQL
def test_two_attempts_at_one_chunk_delete_its_rows_once_and_both_say_so(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor
) -> None:
    """An attempt that Temporal has given up on is still at work when the next one comes."""
    head, _ = pair
    request = stack.request([head.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as holder:
            held_approval(holder, head)
            attempts = [others.submit(steps.delete_rows, sealed) for _ in range(2)]
            wait_for_waiters(stack.database, 2)
        first, second = (attempt.result(10) for attempt in attempts)
        assert first == second
        steps.delete_what_was_released(sealed, first)
        receipt = steps.close(request)
    assert sum(receipt.rows.values()) == first.rows
    assert_gone_whole(stack, before, request, receipt)


def builds_that_share(stack: Stack, **same: Any) -> tuple[Build, Build]:
    project = stack.world.project(stack.world.organization("acme"), "shop")
    first, second = (stack.world.mobile_build(project, version=version, **same) for version in ("1", "2"))
    for build in (first, second):
        stack.world.approval(build)  # comes to be deleted before an artifact's own row
    return first, second


@pytest.mark.thorough
@POSTGRESQL
def test_an_icon_of_two_builds_that_are_deleted_at_once_goes_with_the_later_one(
    stack: Stack, others: ThreadPoolExecutor
) -> None:
    """Each transaction still sees the other's row: if both left the icon to the other, neither would ever delete it."""
    builds = builds_that_share(stack, icon="icn_same")
    before = Evidence.of(stack)
    with steps_of(stack) as steps:
        receipts = delete_at_last_moment(stack, steps, builds, others)
    assert all(receipt.complete for receipt in receipts)
    assert_promises_hold(stack, before, [stack.request([build.id]) for build in builds])


def delete_at_last_moment(
    stack: Stack, steps: Steps, builds: tuple[Build, Build], others: ThreadPoolExecutor
) -> list[DeletionReceipt]:
    """Two deletions that have deleted what named their icons and files, before either has committed or looked at the files."""
    requests = [stack.request([build.id]) for build in builds]
    sealed = [steps.open_and_collect(request) for request in requests]
    together = threading.Barrier(2, timeout=10)

    def before(_c: object, _cursor: object, sql: str, _p: object, _context: object, _many: object) -> None:
        if sql.startswith("SELECT sentry_file.id") and "FOR UPDATE" in sql:
            together.wait()

    event.listen(stack.database.engine, "before_cursor_execute", before)
    deleting = [others.submit(steps.delete_rows, one) for one in sealed]
    released = [one.result(20) for one in deleting]
    event.remove(stack.database.engine, "before_cursor_execute", before)
    for of, rows in zip(sealed, released, strict=True):
        steps.delete_what_was_released(of, rows)
    return [steps.close(request) for request in requests]


@pytest.mark.thorough
@POSTGRESQL
def test_a_file_of_two_builds_that_are_deleted_at_once_goes_with_the_later_one(
    stack: Stack, others: ThreadPoolExecutor
) -> None:
    """The file's own lock makes the second look again after the first has committed."""
    builds = builds_that_share(stack, icon=None)
    shared = builds[0].file_ids[0]
    info = tables.MobileAppInfo
    with stack.database.write() as session:
        session.execute(update(info).where(info.preprod_artifact_id == builds[1].id).values(app_icon_id=str(shared)))
    before = Evidence.of(stack)
    with steps_of(stack) as steps:
        receipts = delete_at_last_moment(stack, steps, builds, others)
    assert shared not in stack.world.rows()["sentry_file"]
    # The first had to keep it; by the time of its receipt it is gone with the second.
    assert [receipt.files.kept for receipt in receipts] == [{}, {}]
    assert_promises_hold(stack, before, [stack.request([build.id]) for build in builds])


@pytest.mark.thorough
@POSTGRESQL
def test_a_head_and_a_base_that_are_deleted_at_once_both_go(
    stack: Stack, pair: tuple[Snapshot, Snapshot], others: ThreadPoolExecutor
) -> None:
    """Their comparison is both deletions' row: one takes it, the other waits and finds it gone."""
    head, base = pair
    stack.world.approval(base)
    comparison = stack.world.comparison(head, base)
    requests = [stack.request([one.id]) for one in pair]
    before = Evidence.of(stack)
    with steps_of(stack) as steps:
        sealed = [steps.open_and_collect(request) for request in requests]
        with stack.database.write() as holder:
            one = tables.SnapshotComparison
            holder.execute(select(one.id).where(one.id == comparison.id).with_for_update()).one()
            deleting = [others.submit(steps.delete_rows, chunk) for chunk in sealed]
            wait_for_waiters(stack.database, 2)
        for chunk, rows in zip(sealed, deleting, strict=True):
            steps.delete_what_was_released(chunk, rows.result(10))
        receipts = [steps.close(request) for request in requests]
    assert sorted(receipt.rows.get("sentry_preprodsnapshotcomparison", 0) for receipt in receipts) == [0, 1]
    assert all(receipt.complete for receipt in receipts)
    assert_promises_hold(stack, before, requests)


@pytest.mark.thorough
@POSTGRESQL
def test_a_cancel_that_comes_while_rows_are_being_deleted_waits_and_comes_too_late(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor
) -> None:
    """A cancel that said "nothing is deleted" while a COMMIT was on its way would drop the only list of what is owed."""
    head, _ = pair
    request = stack.request([head.id])

    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as holder:
            held_approval(holder, head)
            deleting = others.submit(steps.delete_rows, sealed)
            wait_for_waiters(stack.database, 1)
            cancelling = others.submit(steps.cancel, request)
            wait_for_waiters(stack.database, 2)
        released = deleting.result(10)
        assert not cancelling.result(10).nothing_deleted
        steps.delete_what_was_released(sealed, released)
        assert_gone_whole(stack, before, request, steps.close(request))


@pytest.mark.thorough
@POSTGRESQL
def test_rows_that_are_to_be_deleted_while_a_cancel_is_at_work_stay(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor
) -> None:
    """The other way round: a caller who was told that nothing is deleted was told the truth."""
    head, _ = pair
    request = stack.request([head.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as cancelling:
            assert deletions.cancel(cancelling, request.deletion_id, 0)
            deleting = others.submit(steps.delete_rows, sealed)
            wait_for_waiters(stack.database)
        with pytest.raises(NotOpen):
            deleting.result(10)
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["head first", "base first"])
def test_a_head_and_a_base_whose_keys_were_both_collected_go_in_either_order(
    stack: Stack, pair: tuple[Snapshot, Snapshot], order: tuple[int, int]
) -> None:
    """Whichever comes second sealed a comparison that is gone with the first: its prefix is owed by both, its row by one."""
    stack.world.comparison(*pair)
    requests = [stack.request([pair[one].id]) for one in order]
    before = Evidence.of(stack)
    with steps_of(stack) as steps:
        sealed = [steps.open_and_collect(request) for request in requests]
        for request, chunk in zip(requests, sealed, strict=True):
            assert steps.finish(request, chunk).complete
    assert_promises_hold(stack, before, requests)


@pytest.mark.thorough
@SQLITE
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["head first", "base first"])
@pytest.mark.parametrize("together", [True, False], ids=["in one request", "one after the other"])
def test_a_head_and_a_base_go_together_or_apart(
    stack: Stack, pair: tuple[Snapshot, Snapshot], order: tuple[int, int], *, together: bool
) -> None:
    """In one request, in chunks of which either comes first; or the second deletion begins when the first is closed."""
    stack.world.comparison(*pair)
    ids = [pair[one].id for one in order]
    requests = [stack.request(ids)] if together else [stack.request([one]) for one in ids]
    before = Evidence.of(stack)
    with steps_of(stack, chunk_artifacts=1) as steps:
        for request in requests:
            sealed = [steps.collect(chunk) for chunk in steps.open(request)]
            for chunk in sealed if ids[0] == min(ids) else reversed(sealed):
                steps.delete_what_was_released(chunk, steps.delete_rows(chunk))
            assert steps.close(request).complete
    assert_promises_hold(stack, before, requests)


@pytest.mark.thorough
@SQLITE
@pytest.mark.parametrize("which", [0, 1], ids=["of the head", "of the base"])
def test_a_comparison_worker_that_goes_on_writing_when_the_rows_are_gone_leaves_nothing(
    stack: Stack, pair: tuple[Snapshot, Snapshot], which: int
) -> None:
    """It reads no rows between two masks. As long as it writes no sweep is quiet, and when it stops the next one confirms."""
    head, base = pair
    stack.world.comparison(head, base)
    request, before = stack.request([pair[which].id]), Evidence.of(stack)
    scope = stack.world.physical(head.usecase, stack.organization_id, head.artifact.project_id, "")
    numbers = itertools.count()

    def write() -> None:
        for name in ("diff/late", "runs/lost/late"):
            key = f"{scope}{head.artifact.prefix}{base.id}/{name}-{next(numbers)}.png"
            stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"late")

    with steps_of(stack, quiet_period_s=3600) as steps:
        sealed = steps.open_and_collect(request)
        write()
        deleted = steps.delete_rows(sealed)
        write()
        steps.delete_objects(sealed, deleted)
        write()
        assert deleted.trace_items_owed
        steps.delete_trace_items(sealed)
        steps.look(sealed)
        quiet = []
        for number in range(1, 4):
            if number < 3:
                write()
            steps.pass_quiet_period()
            quiet.append(steps.look(sealed))
        receipt = steps.close(request)
    assert quiet == [False, False, True]
    assert (receipt.complete, receipt.objects.found_by_listing >= 10) == (True, True)
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
@SQLITE
@pytest.mark.parametrize("ours", [True, False], ids=["to another project", "to another organization"])
@pytest.mark.parametrize("when", ["opened", "collected"])
def test_an_artifact_that_is_moved_between_two_steps_is_judged_where_it_is_then(
    stack: Stack, pair: tuple[Snapshot, Snapshot], when: str, *, ours: bool
) -> None:
    """What was opened or sealed lies where it no longer is. Another organization's is left alone, ours goes from there."""
    head, base = pair
    stack.world.comparison(head, base)
    owner = stack.organization_id if ours else stack.world.organization("globex")
    there = stack.world.project(owner, "site")
    request = stack.request([head.id])

    def move() -> Evidence:
        with stack.database.write() as session:
            session.execute(update(tables.Artifact).where(tables.Artifact.id == head.id).values(project_id=there.id))
        return Evidence.of(stack)

    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        if when == "opened":
            before = move()
        else:
            stale = steps.collect(chunk)
            before = move()
            with pytest.raises(StaleSeal):
                steps.delete_rows(stale)
        receipt = steps.finish(request, steps.collect(chunk))
    assert receipt.left_over == ({"NamedElsewhere": 3} if ours else {"Moved": 1})
    assert_promises_hold(stack, before, [request])


# What a database asks to be tried again ---------------------------------------------------------------------------------


def assert_untouched_then_deleted(
    stack: Stack,
    before: Evidence,
    steps: Steps,
    request: DeletionRequest,
    sealed: SealedChunk,
    attempt: "Future[Released]",
    code: str,
) -> None:
    """The attempt failed with this code and left nothing behind, and the next one does it all."""
    with pytest.raises(DatabaseUnavailable, match=code):
        attempt.result(10)
    with stack.database.read() as session:
        assert session.execute(select(DeletionChunk.state)).scalar_one() == "open"
        assert session.execute(select(func.count()).select_from(tables.SnapshotMetrics)).scalar_one() == 2
    deleted = steps.delete_rows(sealed)
    again(lambda: steps.delete_what_was_released(sealed, deleted))
    assert_gone_whole(stack, before, request, steps.close(request))


@pytest.mark.thorough
@POSTGRESQL
def test_a_deletion_that_is_chosen_as_a_deadlocks_victim_leaves_nothing_and_succeeds_the_next_time(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor
) -> None:
    """Our order of locks is our own: the backend may take the same rows in another one."""
    head, _ = pair
    request = stack.request([head.id])
    with stack.database.write() as session:  # for connections to come: the one that closes the circle finds out at once
        session.execute(text(f'ALTER DATABASE "{stack.database.engine.url.database}" SET deadlock_timeout = 10'))
    stack.database.dispose()
    artifact, metrics = tables.Artifact, tables.SnapshotMetrics
    with steps_of(stack) as steps, stack.database.engine.connect() as other, stack.database.engine.connect() as gate:
        sealed = steps.open_and_collect(request)
        other.execute(text("SET deadlock_timeout = '1h'"))
        other.execute(select(metrics.id).where(metrics.id == head.metrics_id).with_for_update())
        gate.execute(select(tables.Project.id).with_for_update())
        deleting = others.submit(steps.delete_rows, sealed)
        wait_for_waiters(stack.database, 1)  # it has the artifact, and waits for its project
        locking = others.submit(other.execute, select(artifact.id).where(artifact.id == head.id).with_for_update())
        wait_for_waiters(stack.database, 2)
        gate.rollback()  # now it wants the metrics
        locking.result(10)
        other.rollback()
        assert_untouched_then_deleted(stack, before, steps, request, sealed, deleting, "40P01")


@pytest.mark.thorough
@POSTGRESQL
def test_a_deletion_whose_connection_is_killed_in_the_middle_leaves_nothing_and_succeeds_the_next_time(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence, others: ThreadPoolExecutor
) -> None:
    """An operator's pg_terminate_backend, a failover, a pooler that restarts."""
    head, _ = pair
    request = stack.request([head.id])
    waiters = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as holder:
            held_approval(holder, head)
            deleting = others.submit(steps.delete_rows, sealed)
            wait_for_waiters(stack.database)
            holder.execute(text(waiters)).all()
            with pytest.raises(DatabaseUnavailable):
                deleting.result(10)
        assert_untouched_then_deleted(stack, before, steps, request, sealed, deleting, "OperationalError")


@pytest.mark.thorough
@POSTGRESQL
def test_a_deletion_does_not_wait_for_a_lock_without_end(
    stack: Stack, pair: tuple[Snapshot, Snapshot], before: Evidence
) -> None:
    """While it waits it holds locks itself, which a backend's requests wait for."""
    head, _ = pair
    request = stack.request([head.id])
    impatient = Database(stack.database_url, lock_timeout_s=0.05)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as holder, steps_of(stack, database=impatient) as hasty:
            held_approval(holder, head)
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable, match="55P03"):
                hasty.delete_rows(sealed)
            assert time.monotonic() - began < 5
        impatient.dispose()
        assert_gone_whole(stack, before, request, steps.finish(request, sealed))
