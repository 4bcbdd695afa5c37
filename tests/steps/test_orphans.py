"""What a report lists goes, by the same steps and guards as all else; what has come back or was written since stays."""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, func, insert, select, update
from temporalio.client import WorkflowFailureError

from activities.backend import tables
from activities.ledger import holds, reports
from activities.ledger.holds import On
from activities.ledger.prefixes import owed_prefixes
from activities.ledger.reports import Orphan, Report
from activities.receipts import Closed
from activities.stores.objects import Found
from activities.stores.written_before import WrittenBefore
from artifact_deletion.client import preview_deletion
from artifact_deletion.errors import Held, InvalidRequest, StaleSeal, StoreUnavailable
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import DeletionRequest
from demo.world import Project, Snapshot
from tests.conftest import Command
from tests.fault_proxy import FaultProxy, Kind, answering, operation, unreached
from tests.memory_store import MemoryStore
from tests.oracle import Evidence
from tests.stack import Seen, Stack, steps_of
from tests.steps.test_reconcile import IN_TEN_DAYS, NEVER, build, looking, run

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
IN_A_WEEK = timedelta(days=7)


def report(
    stack: Stack, project: Project, orphans: Iterable[int], leftovers: Iterable[tuple[int, int]] = (), **changes: Any
) -> str:
    """A report of a later time: no object can be made old."""
    now = datetime.now(UTC)
    values = {
        "id": uuid4().hex,
        "organization_id": project.organization_id,
        "project_id": project.id,
        "looked_at": now + IN_TEN_DAYS,
        "written_before": now + IN_A_WEEK,
        "expires_at": now + IN_A_WEEK,
        "implausible": False,
        "totals": {},
    }
    with stack.database.write() as session:
        written = Report(**(values | changes))
        reports.write(session, written, orphans, leftovers)
        return str(written.id)


def request_of(stack: Stack, project: Project, artifacts: Iterable[int], report_id: str) -> DeletionRequest:
    return stack.request(artifacts, organization_id=project.organization_id, project_id=project.id, report=report_id)


def forget_rows(stack: Stack, *snapshots: Snapshot) -> None:
    """What a deletion in a web request leaves when it dies after its COMMIT."""
    going = stack.world.rows_of(one.id for one in snapshots)
    with stack.database.write() as session:
        for table in reversed(tables.BackendTable.metadata.sorted_tables):
            ids = [row for name, row in going if name == table.name != "trace_items"]
            session.execute(delete(table).where(table.c.id.in_(ids)))


def bring_back(stack: Stack, artifact: int, project_id: int) -> None:
    with stack.database.write() as session:
        values = {"id": artifact, "project_id": project_id, "date_added": datetime(2020, 1, 1, tzinfo=UTC)}
        session.execute(insert(tables.Artifact).values(values))


def artifacts_owed(stack: Stack, request: DeletionRequest) -> set[int]:
    """Those of which the ledger has prefixes to be emptied."""
    with stack.database.read() as session:
        return {one.artifact_id for one in owed_prefixes(session, request.deletion_id)}


def make_old(stack: Stack, report_id: str) -> None:
    """As if the look had come ten days after what it saw."""
    with stack.database.write() as session:
        of_it = update(Report).where(Report.id == report_id)
        session.execute(of_it.values(looked_at=datetime.now(UTC) + IN_TEN_DAYS))


def orphans_listed(stack: Stack) -> int:
    with stack.database.read() as session:
        return session.execute(select(func.count()).select_from(Orphan)).scalar_one()


def take_away(stack: Stack, artifact: int) -> None:
    with stack.database.write() as session:
        session.execute(delete(tables.Artifact).where(tables.Artifact.id == artifact))


def next_second(stack: Stack, keys: Iterable[str]) -> datetime:
    """A moment after these were written, and before all that is written from now on: a store's times are whole seconds."""
    written = max(stack.s3.head_object(Bucket=stack.bucket, Key=key)["LastModified"] for key in keys)
    probe = f"probe-{uuid4().hex}"
    while True:
        stack.s3.put_object(Bucket=stack.bucket, Key=probe, Body=b"")
        if stack.s3.head_object(Bucket=stack.bucket, Key=probe)["LastModified"] > written:
            return written


def left_behind(stack: Stack) -> tuple[Project, list[int], list[set[str]]]:
    """Two artifacts whose rows are gone, and their objects, beside one that lives."""
    one, two, living = stack.snapshots("one", "two", "living")
    place = living.artifact
    keys = [stack.world.objects_of([gone.id]) for gone in (one, two)]
    forget_rows(stack, one, two)
    assert all(keys)
    return Project(place.project_id, place.organization_id, "shop"), [one.id, two.id], keys


@pytest.mark.thorough
@pytest.mark.parametrize("keeps", ["objects", "versions"])
def test_the_orphans_of_a_report_go_and_nothing_else(stack: Stack, keeps: str, image_buckets: dict[str, str]) -> None:
    """Every class of key is there. Another look finds no orphan any more, and all else as it was."""
    if keeps == "versions":
        stack.use_bucket(image_buckets["enabled"])
    built = build(stack)
    before = Evidence.of(stack)
    orphans = built.keys["orphan"]
    if keeps == "versions":
        built.put("orphan", f"{built.folder}/{NEVER}/manifest.json", b"a second version")
    with looking(stack, built.project) as look:
        counted = run(look)
    request = request_of(stack, built.project, [NEVER], report(stack, built.project, [NEVER]))
    with steps_of(stack, bucket_versioned="yes" if keeps == "versions" else "no", bucket=stack.bucket) as steps:
        closed = steps.finish(request, steps.open_and_collect(request))
    assert closed.complete, closed
    assert (closed.artifacts.orphaned.ids, closed.report) == ((NEVER,), request.report)
    assert (closed.objects.found_by_listing, closed.objects.sealed, closed.rows) == (counted["orphan"][0], 0, {})
    assert closed.objects.prefixes_listed_empty == closed.objects.prefixes == closed.objects.uploads_unchecked > 0
    assert (closed.trace_items.state, closed.trace_items.matched) == ("confirmed", 0)
    assert stack.verify(request).is_gone
    now = Evidence.of(stack)
    assert now.rows == before.rows
    assert before.objects.keys() - now.objects.keys() == orphans
    with looking(stack, built.project) as look:
        left = run(look)
    assert left == {name: counts for name, counts in counted.items() if name != "orphan"}


def test_an_artifact_that_has_a_row_again_stays_whenever_it_comes_back(stack: Stack) -> None:
    """Between the report and its deletion, and between collecting and the transaction that releases the keys."""
    project, (early, late), (of_early, of_late) = left_behind(stack)
    before = stack.world.objects()
    request = request_of(stack, project, [early, late], report(stack, project, [early, late]))
    bring_back(stack, early, project.id)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        assert artifacts_owed(stack, request) == {late}
        bring_back(stack, late, project.id)
        with pytest.raises(StaleSeal):
            steps.delete_rows(sealed)
        released = steps.delete_rows(sealed := steps.collect(sealed))
        assert artifacts_owed(stack, request) == set()
        steps.delete_what_was_released(sealed, released)
        closed = steps.close(request)
    assert (closed.complete, closed.artifacts.living.ids, closed.artifacts.orphaned.ids) == (True, (early, late), ())
    assert (closed.objects.found_by_listing, closed.rows) == (0, {})
    assert stack.world.objects() == before
    assert of_early | of_late <= before.keys()


def test_one_that_comes_back_elsewhere_stays_too(stack: Stack) -> None:
    """Its columns may still name the place."""
    project, (gone, other), (of_gone, of_other) = left_behind(stack)
    elsewhere = stack.world.project(stack.world.organization("other"), "elsewhere")
    request = request_of(stack, project, [gone, other], report(stack, project, [gone, other]))
    bring_back(stack, gone, elsewhere.id)
    with steps_of(stack) as steps:
        closed = steps.finish(request, steps.open_and_collect(request))
    assert (closed.complete, closed.artifacts.living.ids) == (True, (gone,))
    left = stack.world.objects().keys()
    assert of_gone <= left
    assert not of_other & left


def test_one_that_comes_back_before_its_objects_go_holds_up_no_other(stack: Stack) -> None:
    """They are of one chunk."""
    project, (back, gone), (of_back, of_gone) = left_behind(stack)
    request = request_of(stack, project, [back, gone], report(stack, project, [back, gone]))
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        bring_back(stack, back, project.id)
        steps.delete_what_was_released(sealed, released)
        closed = steps.close(request)
    assert (closed.complete, closed.artifacts.living.ids, closed.artifacts.orphaned.ids) == (True, (back,), (gone,))
    assert stack.world.objects().keys() & (of_back | of_gone) == of_back
    assert stack.verify(request).is_gone


@pytest.mark.thorough
@on_sqlite
def test_a_hold_holds_it_as_any_other(stack: Stack) -> None:
    """On the deletion once its prefixes are released, and before on what it would take."""
    project, (gone, other), (of_gone, of_other) = left_behind(stack)
    request = request_of(stack, project, [gone, other], report(stack, project, [gone, other]))
    holds.place(stack.database, On.ARTIFACT, str(gone), reason="court", by="user:7")
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        placed = holds.place(stack.database, On.DELETION, request.deletion_id, reason="wait", by="user:7")
        with pytest.raises(Held):
            steps.delete_what_was_released(sealed, released)
        assert of_gone | of_other <= stack.world.objects().keys()
        with stack.database.write() as session:
            holds.lift(session, [placed.id], by="user:7")
    with steps_of(stack) as steps:
        steps.delete_what_was_released(sealed, released)
        closed = steps.close(request)
    assert (closed.artifacts.held.ids, closed.left_over) == ((gone,), {"Held": 1})
    assert stack.world.objects().keys() & (of_gone | of_other) == of_gone


@pytest.mark.thorough
def test_one_that_comes_back_after_its_objects_went_is_said_and_keeps_its_row(stack: Stack) -> None:
    """Its row may name what is gone. Once a person has seen it and asks again, it counts as living."""
    project, (gone, _), _ = left_behind(stack)
    request = request_of(stack, project, [gone], report(stack, project, [gone]))
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        bring_back(stack, gone, project.id)
        assert steps.close(request).left_over == {"Reappeared": 1}
        before = Seen.of(stack.world)
        stack.accept(request)
        (again,) = steps.open(request)
        closed = steps.finish(request, steps.collect(again))
    assert (closed.complete, closed.artifacts.living.ids, closed.rows) == (True, (gone,), {})
    assert Seen.of(stack.world) == before


@pytest.mark.thorough
def test_one_that_went_again_is_looked_for_where_the_report_saw_it(stack: Stack) -> None:
    """It had a row at the first look, another one at the second: the ledger does not know its project by then."""
    project, (first, second), (of_first, _) = left_behind(stack)
    request = request_of(stack, project, [first, second], report(stack, project, [first, second]))
    bring_back(stack, first, project.id)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        take_away(stack, first)
        bring_back(stack, second, project.id)
        with pytest.raises(StaleSeal):
            steps.delete_rows(sealed)
        closed = steps.finish(request, steps.collect(sealed))
    assert (closed.artifacts.orphaned.ids, closed.artifacts.living.ids) == ((first,), (second,))
    assert not of_first & stack.world.objects().keys()


@pytest.mark.parametrize("keeps", ["objects", "versions"])
@on_sqlite
def test_what_was_written_since_the_report_stays(stack: Stack, keeps: str, image_buckets: dict[str, str]) -> None:
    """Also after the keys were released, under the same artifact and over the same key: its row may not be committed yet."""
    if keeps == "versions":
        stack.use_bucket(image_buckets["enabled"])
    project, (gone, _), (keys, _) = left_behind(stack)
    overwritten = min(keys)
    stack.s3.create_multipart_upload(Bucket=stack.bucket, Key=overwritten)
    moment = next_second(stack, keys)
    request = request_of(stack, project, [gone], report(stack, project, [gone], written_before=moment))
    with steps_of(stack, bucket_versioned="yes" if keeps == "versions" else "no", bucket=stack.bucket) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        for key in (overwritten, young := f"{overwritten}.new"):
            stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"of an upload that goes on")
        steps.delete_what_was_released(sealed, released)
        closed = steps.close(request)
    assert closed.complete
    assert stack.world.objects().keys() & {*keys, young} == {overwritten, young}
    assert stack.world.uploads()[overwritten] == 1
    assert stack.s3.get_object(Bucket=stack.bucket, Key=overwritten)["Body"].read() == b"of an upload that goes on"
    assert stack.verify(request, bucket_versioned="yes" if keeps == "versions" else "no").is_gone, "they are no orphans"


@pytest.mark.parametrize("answer", [unreached, answering(503, "SlowDown")], ids=["none", "SlowDown"])
@on_sqlite
def test_what_the_store_did_not_answer_for_is_as_old_as_it_was(
    stack: Stack, answer: Kind, image_buckets: dict[str, str]
) -> None:
    """The next attempt on the same worker deletes these versions by what it remembers, and no listing shows them."""
    stack.use_bucket(image_buckets["enabled"])
    project, (gone, _), (keys, _) = left_behind(stack)
    request = request_of(stack, project, [gone], report(stack, project, [gone]))
    with (
        FaultProxy(stack.server.endpoint) as proxy,
        steps_of(stack, bucket_versioned="yes", bucket=stack.bucket, s3_endpoint=proxy.endpoint) as steps,
    ):
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        proxy.begin(answer, only=operation("DeleteObjects"), times=1)
        with pytest.raises(StoreUnavailable):
            steps.delete_what_was_released(sealed, released)
        steps.delete_what_was_released(sealed, released)
        assert steps.close(request).complete
    assert not stack.world.object_versions().keys() & keys


def test_what_has_no_time_of_writing_is_never_old_enough() -> None:
    """A store of an adapter's need not say when."""

    class Timeless(MemoryStore):
        def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
            yield [Found(f"{prefix}1"), Found(f"{prefix}2", written=datetime(2026, 1, 1, tzinfo=UTC))]

    listed = WrittenBefore(Timeless(), datetime(2026, 1, 2, tzinfo=UTC)).list_under("a/")
    assert [one.key for page in listed for one in page] == ["a/2"]


@pytest.mark.thorough
def test_keys_that_name_others_are_taken_literally(stack: Stack) -> None:
    """The names of masks are users' text."""
    project, (gone, _), _ = left_behind(stack)
    living = max(stack.world.rows()["sentry_preprodartifact"])
    folder = f"{project.organization_id}/{project.id}"
    names = (f"{folder}/{living}/8/diff/home.png", f"{folder}/{gone}/8/x\n{folder}/{living}/8/diff/home.png")
    theirs, ours = (stack.world.physical("preprod", project.organization_id, project.id, name) for name in names)
    for key in (theirs, ours):
        stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"a mask")
    request = request_of(stack, project, [gone], report(stack, project, [gone]))
    with steps_of(stack) as steps:
        assert steps.finish(request, steps.open_and_collect(request)).complete
    assert stack.world.objects().keys() & {theirs, ours} == {theirs}


@pytest.mark.thorough
@on_sqlite
@pytest.mark.parametrize("other", ["another report", "a person", "the same report"])
def test_deletions_of_one_artifact_do_not_leave_it_to_each_other(stack: Stack, other: str) -> None:
    """All are opened before one goes on. Of a comparison both sides are gone, and each is another deletion's."""
    head, base, living = stack.snapshots("head", "base", "living")
    stack.world.comparison(head, base)
    project = Project(living.artifact.project_id, living.artifact.organization_id, "shop")
    keys = stack.world.objects_of([head.id, base.id])
    forget_rows(stack, head, base)
    written = report(stack, project, [head.id, base.id])
    first = request_of(stack, project, [head.id], written)
    second = {
        "another report": request_of(stack, project, [head.id, base.id], report(stack, project, [head.id, base.id])),
        "a person": stack.request([head.id, base.id], project_id=project.id),
        "the same report": request_of(stack, project, [base.id], written),
    }[other]
    with steps_of(stack) as steps:
        opened = [(request, chunk) for request in (first, second) for chunk in steps.open(request)]
        sealed = [(request, steps.collect(chunk)) for request, chunk in opened]
        closed = [steps.finish(request, one) for request, one in sealed]
    assert all(one.complete for one in closed)
    assert not keys & stack.world.objects().keys()


YOUNG = "it counts as orphans what was hardly a day old"
UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"id": uuid4().hex}, "the ledger has no such report"),
    "expired": ({"expires_at": datetime.now(UTC) - timedelta(seconds=1)}, "it has expired at"),
    "implausible": ({"implausible": True}, "a person has to look first"),
    "of young objects": ({"written_before": datetime.now(UTC) + IN_TEN_DAYS}, YOUNG),
    "of another project": ({"project_id": NEVER}, "the ledger has no such report"),
    "of another organization": ({"organization_id": 1}, "the ledger has no such report"),
}


@on_sqlite
@pytest.mark.parametrize("why", UNUSABLE)
def test_a_report_that_must_not_be_used_is_refused(stack: Stack, why: str) -> None:
    project, artifacts, _ = left_behind(stack)
    changes, sentence = UNUSABLE[why]
    written = report(stack, project, artifacts, **changes)
    before = Seen.of(stack.world)
    request = request_of(stack, project, artifacts, uuid4().hex if why == "unknown" else written)
    with steps_of(stack) as steps, pytest.raises(InvalidRequest, match=sentence):
        steps.open(request)
    assert stack.recorded(request.workflow_id).state is DeletionState.REFUSED
    assert Seen.of(stack.world) == before


@on_sqlite
def test_an_artifact_that_the_report_does_not_list_is_refused_with_all_others(stack: Stack) -> None:
    project, (gone, _), _ = left_behind(stack)
    living = max(stack.world.rows()["sentry_preprodartifact"])
    request = request_of(stack, project, [gone, living], report(stack, project, [gone]))
    with steps_of(stack) as steps, pytest.raises(InvalidRequest, match="it does not list 1 of the artifacts"):
        steps.open(request)


@pytest.mark.thorough
@on_sqlite
def test_a_report_that_expires_meanwhile_is_carried_to_its_end(stack: Stack) -> None:
    """It was usable when the deletion began. Other reports forget its list once no deletion is at work by it."""
    project, (gone, _), (keys, _) = left_behind(stack)
    request = request_of(stack, project, [gone], written := report(stack, project, [gone]))
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        with stack.database.write() as session:
            past = datetime.now(UTC) - IN_TEN_DAYS
            session.execute(update(Report).where(Report.id == written).values(expires_at=past))
        report(stack, project, [])
        assert orphans_listed(stack) == 1
        closed = steps.finish(request, steps.collect(chunk))
    assert closed.complete
    assert not keys & stack.world.objects().keys()
    report(stack, project, [])
    assert orphans_listed(stack) == 0


@on_sqlite
def test_a_restore_gives_back_no_reason_to_delete_its_rows(stack: Stack, command: Command, tmp_path: Path) -> None:
    """What `reapply` deletes again are rows, and a report's deletion had none."""
    project, (gone, _), _ = left_behind(stack)
    request = request_of(stack, project, [gone], report(stack, project, [gone]))
    with steps_of(stack) as steps:
        closed = steps.finish(request, steps.open_and_collect(request))
    bring_back(stack, gone, project.id)
    kept = tmp_path / "receipts.jsonl"
    kept.write_text(Closed(request=request, receipt=closed).line)
    code, said = command("reapply", "--since", "2020-01-01", "--receipts", kept, "--dry-run")
    assert (code, "0 artifacts of 0 deletions are back" in said) == (0, True), said


@on_sqlite
async def test_a_report_has_no_preview(stack: Stack) -> None:
    """Else it would count rows that no report deletes."""
    project, artifacts, _ = left_behind(stack)
    request = request_of(stack, project, artifacts, report(stack, project, artifacts))
    async with stack.worker():
        with pytest.raises(WorkflowFailureError) as failed:
            await preview_deletion(stack.client, request)
    assert "a report is a preview of its own" in str(failed.value.cause)


@on_sqlite
def test_a_report_and_a_person_ask_for_two_deletions(stack: Stack) -> None:
    """And the ids of those without a report are what they were."""
    plain, listed = stack.request([4]), stack.request([4], report=uuid4().hex)
    assert plain.deletion_id != listed.deletion_id
    assert listed.deletion_id != stack.request([4], report=uuid4().hex).deletion_id


@pytest.mark.thorough
async def test_the_command_reports_deletes_by_the_report_and_finds_nothing_more(stack: Stack, command: Command) -> None:
    """Once more with the same report is no second deletion."""
    built = build(stack)
    look = ("reconcile", "--project", built.project.id, "--older-than", "0.001s", "--json")
    _, said = command(*look)
    written = json.loads(said)
    code, _ = await asyncio.to_thread(command, "reconcile", "--delete", written["report"])
    assert code == 2, "they are too young"
    make_old(stack, written["report"])
    assert written["classes"]["orphan"]["objects"] == len(built.keys["orphan"])
    gone = len(built.keys["orphan"] | built.keys["comparison_leftover"])
    by_report = ("reconcile", "--delete", written["report"], "--requested-by", "user:7", "--wait", "--json")
    async with stack.worker():
        code, said = await asyncio.to_thread(command, *by_report)
        receipt = json.loads(said)
        assert (code, receipt["complete"], receipt["report"]) == (0, True, written["report"])
        assert (receipt["requested_by"], receipt["objects"]["found_by_listing"]) == ("user:7", gone)
        again, said = await asyncio.to_thread(command, *by_report)
        assert (again, json.loads(said)) == (0, receipt)
    _, said = command(*look)
    assert json.loads(said)["classes"]["orphan"]["objects"] == 0


@on_sqlite
def test_the_command_refuses_a_report_that_must_not_be_used(stack: Stack, command: Command) -> None:
    project, artifacts, _ = left_behind(stack)
    for written, sentence in (
        (report(stack, project, artifacts, implausible=True), "a person has to look first"),
        (report(stack, project, artifacts, expires_at=datetime.now(UTC)), "it has expired at"),
        (uuid4().hex, "the ledger has no such report"),
    ):
        code, said = command("reconcile", "--delete", written)
        assert code == 2
        assert sentence in said
    code, said = command("reconcile", "--delete", uuid4().hex, "--project", project.id)
    assert (code, "name a --project to look at, or a report to --delete" in said) == (2, True)


@on_sqlite
def test_too_many_orphans_make_a_report_that_deletes_nothing(stack: Stack, command: Command) -> None:
    """A wrong join looks like this: no artifact has a row. The project's images are no artifact's."""
    one, two = stack.snapshots("one", "two")
    project = Project(one.artifact.project_id, one.artifact.organization_id, "shop")
    forget_rows(stack, one, two)
    for number in range(20):
        image = f"{project.organization_id}/{project.id}/{hashlib.sha256(bytes([number])).hexdigest()}"
        key = stack.world.physical("preprod", project.organization_id, project.id, image)
        stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"an image")
    _, said = command("reconcile", "--project", project.id, "--older-than", "0.001s", "--json")
    written = json.loads(said[: said.rindex("}") + 1])
    assert written["implausible"]
    make_old(stack, written["report"])
    code, said = command("reconcile", "--delete", written["report"])
    assert (code, "look again with a higher share" in said) == (2, True)
