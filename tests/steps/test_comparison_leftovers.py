"""What is left of comparisons, under artifacts that live, goes by a report; so do the trace items of orphans."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, insert, select, update

from activities.backend import tables
from activities.backend.contract import PrefixKind
from activities.ledger import holds
from activities.ledger.holds import On, Placed
from activities.ledger.prefixes import owed_prefixes
from activities.ledger.reports import Report
from activities.ledger.schema import Ask
from artifact_deletion.errors import StaleSeal
from artifact_deletion.request import DeletionRequest
from demo.world import Project, Snapshot
from tests.conftest import Command
from tests.fault_proxy import Answer, Exchange, FaultProxy, operation, under
from tests.oracle import Evidence
from tests.stack import Stack, Steps, steps_of
from tests.steps.test_orphans import bring_back, forget_rows, left_behind, make_old, next_second, report, request_of
from tests.steps.test_reconcile import build, looking, run

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Left:
    """A head that lives, and objects of two comparisons under it. One has its row."""

    stack: Stack
    project: Project
    head: Snapshot
    base: Snapshot
    keys: set[str]
    """Of the comparison that has none."""

    def request(self, **changes: object) -> DeletionRequest:
        written = report(self.stack, self.project, [], [(self.head.id, self.base.id)], **changes)
        return request_of(self.stack, self.project, [self.head.id], written)

    def compare_again(self) -> None:
        with self.stack.database.write() as session:
            sides = {"head_snapshot_metrics_id": self.head.metrics_id, "base_snapshot_metrics_id": self.base.metrics_id}
            session.execute(insert(tables.SnapshotComparison).values(sides))

    def owed(self, request: DeletionRequest) -> int:
        """Prefixes of comparisons that are to be emptied."""
        with self.stack.database.read() as session:
            return sum(one.kind is PrefixKind.COMPARISON for one in owed_prefixes(session, request.deletion_id))


@pytest.fixture
def left(stack: Stack) -> Left:
    head, base, other = stack.snapshots("head", "base", "other")
    stack.world.comparison(head, other)
    before = set(stack.world.objects())
    stack.world.comparison(head, base, committed=False)
    place = head.artifact
    project = Project(place.project_id, place.organization_id, "shop")
    return Left(stack, project, head, base, set(stack.world.objects()) - before)


@pytest.mark.parametrize("keeps", ["objects", "versions"])
def test_the_leftovers_of_a_report_go_and_nothing_else(stack: Stack, keeps: str, image_buckets: dict[str, str]) -> None:
    """Every class of key is there. What a look wrote down is what goes."""
    if keeps == "versions":
        stack.use_bucket(image_buckets["enabled"])
    built = build(stack)
    before = Evidence.of(stack)
    with looking(stack, built.project) as look:
        counted, listed = run(look), list(look.tally.leftovers())
    assert len(listed) == 1
    written = report(stack, built.project, [], listed)
    request = request_of(stack, built.project, [listed[0][0]], written)
    with steps_of(stack, bucket_versioned="yes" if keeps == "versions" else "no", bucket=stack.bucket) as steps:
        closed = steps.finish(request, steps.open_and_collect(request))
    assert closed.complete, closed
    assert (closed.artifacts.living.ids, closed.rows) == ((listed[0][0],), {})
    assert closed.objects.found_by_listing == counted["comparison_leftover"][0]
    assert closed.objects.prefixes_listed_empty == closed.objects.prefixes > 0
    now = Evidence.of(stack)
    assert now.rows == before.rows
    assert before.objects.keys() - now.objects.keys() == built.keys["comparison_leftover"]
    assert stack.verify(request).is_gone
    with looking(stack, built.project) as look:
        left = run(look)
    assert left == {name: counts for name, counts in counted.items() if name != "comparison_leftover"}


@pytest.mark.parametrize("when", ["before", "collected", "released"])
def test_a_comparison_that_has_a_row_again_stays(left: Left, when: str) -> None:
    stack, request = left.stack, left.request()
    before = stack.world.objects()
    with steps_of(stack) as steps:
        if when == "before":
            left.compare_again()
        sealed = steps.open_and_collect(request)
        assert (left.owed(request) == 0) == (when == "before")
        if when == "collected":
            left.compare_again()
        released = steps.delete_rows(sealed)
        assert (left.owed(request) == 0) == (when != "released")
        if when == "released":
            left.compare_again()
        steps.delete_what_was_released(sealed, released)
        closed = steps.close(request)
    assert (closed.complete, closed.artifacts.living.ids) == (True, (left.head.id,))
    assert stack.world.objects() == before
    assert stack.verify(request).is_gone, "it is no leftover any more"


@pytest.fixture
def through_a_proxy(left: Left) -> Iterator[tuple[FaultProxy, Steps]]:
    """A bucket that keeps no versions: what is written over a listed key goes with it."""
    stack = left.stack
    with (
        FaultProxy(stack.server.endpoint) as proxy,
        steps_of(stack, bucket=stack.bucket, bucket_versioned="no", s3_endpoint=proxy.endpoint) as steps,
    ):
        yield proxy, steps


@on_sqlite
def test_a_comparison_that_has_a_row_again_after_its_listing_stays(
    left: Left, through_a_proxy: tuple[FaultProxy, Steps]
) -> None:
    """The limit of keys a second may lie between a listing and its deletes. A person has to look, and asks again."""
    stack, request, (proxy, steps) = left.stack, left.request(), through_a_proxy
    before, scope = stack.world.objects(), min(left.keys).partition("/objects/")[0]
    sealed = steps.open_and_collect(request)
    released = steps.delete_rows(sealed)

    def compared_again(exchange: Exchange) -> Answer:
        listed = exchange.forward(exchange.request)
        left.compare_again()
        return listed

    proxy.begin(compared_again, only=under(scope), times=1)
    steps.delete_what_was_released(sealed, released)
    assert steps.close(request).left_over == {"Reappeared": 1}
    assert stack.world.objects() == before


@pytest.mark.thorough
@on_sqlite
@pytest.mark.parametrize("overwritten", [False, True])
def test_a_comparison_that_has_a_row_again_while_its_objects_go_is_said(
    left: Left,
    through_a_proxy: tuple[FaultProxy, Steps],
    overwritten: bool,  # noqa: FBT001
) -> None:
    """Its row may name what is gone. Once a person has seen it and asks again, it is none of this deletion's."""
    stack, request, (proxy, steps) = left.stack, left.request(), through_a_proxy
    manifest = next(key for key in left.keys if key.endswith("/comparison.json"))
    sealed = steps.open_and_collect(request)
    released = steps.delete_rows(sealed)

    def compared_again(exchange: Exchange) -> Answer:
        left.compare_again()
        if overwritten:
            stack.s3.put_object(Bucket=stack.bucket, Key=manifest, Body=b"{}")
        return exchange.forward(exchange.request)

    proxy.begin(compared_again, only=operation("DeleteObjects"), times=1)
    steps.delete_what_was_released(sealed, released)
    assert steps.close(request).left_over == {"Reappeared": 1}
    stack.accept(request)
    (again,) = steps.open(request)
    assert steps.finish(request, steps.collect(again)).complete


@pytest.mark.parametrize("when", ["before", "released"])
def test_a_folder_in_which_a_row_names_a_key_stays(left: Left, when: str) -> None:
    """All under the head's prefix is its own: what its row names there would dangle."""
    stack, request = left.stack, left.request()
    named = f"{left.project.organization_id}/{left.project.id}/{left.head.id}/{left.base.id}/head_images.json"
    physical = stack.world.physical("preprod", left.project.organization_id, left.project.id, named)
    stack.s3.put_object(Bucket=stack.bucket, Key=physical, Body=b"{}")
    before = stack.world.objects()

    def name_it() -> None:
        with stack.database.write() as session:
            metrics = session.get_one(tables.SnapshotMetrics, left.head.metrics_id)
            metrics.extras = {**(metrics.extras or {}), "head_images_key": named}

    with steps_of(stack) as steps:
        if when == "before":
            name_it()
        sealed = steps.open_and_collect(request)
        assert (left.owed(request) == 0) == (when == "before")
        released = steps.delete_rows(sealed)
        if when == "released":
            name_it()
        steps.delete_what_was_released(sealed, released)
        closed = steps.close(request)
    assert (closed.complete, closed.artifacts.living.ids) == (True, (left.head.id,))
    assert stack.world.objects() == before
    with looking(stack, left.project) as look:
        assert "comparison_leftover" not in run(look)


def _moved(left: Left) -> None:
    elsewhere = left.stack.world.project(left.stack.world.organization("other"), "elsewhere")
    with left.stack.database.write() as session:
        of_head = update(tables.Artifact).where(tables.Artifact.id == left.head.id)
        session.execute(of_head.values(project_id=elsewhere.id))


def _gone(left: Left) -> None:
    with left.stack.database.write() as session:
        session.execute(delete(tables.SnapshotComparison))
    forget_rows(left.stack, left.head)


@pytest.mark.parametrize("how", [_moved, _gone])
def test_the_report_says_nothing_of_a_head_that_has_no_row_there_any_more(left: Left, how: Callable[[Left], None]) -> None:
    """Its columns may name the old place; or all under it is orphaned by now, and only another look may say so."""
    stack, request = left.stack, left.request()
    before = stack.world.objects()
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        assert left.owed(request) > 0
        how(left)
        released = steps.delete_rows(sealed)
        assert left.owed(request) == 0
        steps.delete_what_was_released(sealed, released)
        assert steps.close(request).complete
    assert stack.world.objects() == before


def test_what_was_written_since_the_report_stays(left: Left) -> None:
    """The two may be compared again at this moment, over the same keys."""
    stack = left.stack
    request = left.request(written_before=next_second(stack, left.keys))
    overwritten = min(left.keys)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        stack.s3.put_object(Bucket=stack.bucket, Key=overwritten, Body=b"of a comparison that goes on")
        steps.delete_what_was_released(sealed, released)
        closed = steps.close(request)
    assert closed.complete
    assert stack.world.objects().keys() & left.keys == {overwritten}


@on_sqlite
@pytest.mark.parametrize("side", ["head", "base"])
@pytest.mark.parametrize("when", ["before", "collected"])
def test_a_hold_on_either_side_keeps_them_until_it_is_lifted(left: Left, side: str, when: str) -> None:
    """The folder is both artifacts' own, and no row ties the two any more."""
    stack, request, kept = left.stack, left.request(), {"head": left.head, "base": left.base}[side]

    def hold() -> Placed:
        return holds.place(stack.database, On.ARTIFACT, str(kept.id), reason="court", by="user:7")

    with steps_of(stack) as steps:
        if when == "before":
            placed = hold()
        sealed = steps.open_and_collect(request)
        if when == "collected":
            placed = hold()
            with pytest.raises(StaleSeal):
                steps.delete_rows(sealed)
            sealed = steps.collect(sealed)
        closed = steps.finish(request, sealed)
    assert (closed.artifacts.held.ids, closed.left_over) == ((left.head.id,), {"Held": 1})
    assert left.keys <= stack.world.objects().keys()
    with stack.database.write() as session:
        holds.lift(session, [placed.id], by="user:7")
    stack.accept(request)
    with steps_of(stack) as steps:
        (again,) = steps.open(request)
        assert steps.finish(request, steps.collect(again)).complete
    assert not left.keys & stack.world.objects().keys()


@on_sqlite
def test_a_deletion_goes_on_by_a_report_that_expires_meanwhile(left: Left) -> None:
    """Another report is written, which forgets the lists of expired ones."""
    stack = left.stack
    request = left.request(expires_at=(soon := datetime.now(UTC)).replace(year=soon.year + 1))
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        with stack.database.write() as session:
            session.execute(update(Report).values(expires_at=soon))
        report(stack, left.project, [])
        assert steps.finish(request, steps.collect(chunk)).complete
    assert not left.keys & stack.world.objects().keys()


@on_sqlite
def test_one_that_is_still_there_is_not_verified(left: Left) -> None:
    stack, request = left.stack, left.request()
    with steps_of(stack) as steps:
        assert steps.finish(request, steps.open_and_collect(request)).complete
    stack.s3.put_object(Bucket=stack.bucket, Key=min(left.keys), Body=b"late")
    verified = stack.verify(request)
    assert (verified.is_gone, verified.objects) == (False, 1)


@on_sqlite
def test_a_person_deletes_them_by_the_report_that_names_them(left: Left, command: Command) -> None:
    stack = left.stack
    code, said = command("reconcile", "--project", left.project.id, "--older-than", "0.001s", "--implausible", "100")
    assert (code, "Comparison leftover" in said) == (1, True), said
    (written,) = (line.split()[1].rstrip(",") for line in said.splitlines() if line.startswith("Report "))
    make_old(stack, written)
    code, said = command("reconcile", "--delete", written, "--requested-by", "user:7", "--yes")
    assert code == 0, said
    with stack.database.read() as session:
        asked = session.execute(select(Ask.c.request)).scalars().all()
    assert [tuple(one["artifact_ids"]) for one in asked] == [(left.head.id,)]


@pytest.mark.parametrize("comes_back", [False, True])
def test_with_an_orphan_go_its_trace_items(stack: Stack, comes_back: bool) -> None:  # noqa: FBT001
    """Not if it has a row again by then."""
    project, (gone, _), _ = left_behind(stack)
    before = stack.world.rows()["trace_items"]
    request = request_of(stack, project, [gone], report(stack, project, [gone]))
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        assert released.trace_items_owed
        if comes_back:
            bring_back(stack, gone, project.id)
        steps.delete_what_was_released(sealed, released)
        closed = steps.close(request)
    assert closed.complete
    assert closed.trace_items.state == ("unchecked" if comes_back else "confirmed")
    assert (closed.trace_items.matched == 0) == comes_back
    assert len(stack.world.rows()["trace_items"]) == len(before) - closed.trace_items.matched
