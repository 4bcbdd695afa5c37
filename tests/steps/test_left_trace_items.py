"""A reconcile finds trace items of artifacts without a row, though no object is left to tell of them; they go by its report."""

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from activities.backend import tables
from activities.backend.trace_items import PREPROD, TraceItem
from activities.reconcile import traces
from activities.reconcile.reconcile import Reconciliation
from activities.reconcile.report import report_of
from demo.world import Project, Snapshot
from tests.conftest import Command
from tests.snuba_server import SnubaServer, error
from tests.stack import Stack, steps_of
from tests.steps.test_orphans import bring_back, forget_rows, make_old, report, request_of
from tests.steps.test_reconcile import NEVER, looking, run

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ITEMS = 3
"""Trace items of a snapshot: one for each of its images."""


def project_of(one: Snapshot) -> Project:
    return Project(one.artifact.project_id, one.artifact.organization_id, "shop")


def trace_of(artifact: int) -> str:
    return uuid.uuid5(uuid.UUID("31eca038-ed76-4e6d-b13b-ed30a6555213"), str(artifact)).hex


def put(stack: Stack, project: Project, trace: str, items: int = 2, *, kind: int = PREPROD) -> None:
    place: dict[str, Any] = {"organization_id": project.organization_id, "project_id": project.id}
    with stack.database.write() as session:
        session.add_all(TraceItem(**place, item_type=kind, trace_id=trace) for _ in range(items))


def delete_all_but_trace_items(stack: Stack, *snapshots: Snapshot) -> None:
    """What is left where rows went and a bucket's lifecycle took the objects."""
    forget_rows(stack, *snapshots)
    for key in stack.world.objects_of([one.id for one in snapshots]):
        stack.s3.delete_object(Bucket=stack.bucket, Key=key)


def run_all(look: Reconciliation) -> dict[str, tuple[int, int]]:
    run(look)
    for _ in look.check_traces():
        pass
    return {name: (one.sum.objects, one.sum.size) for name, one in look.tally.by_class().items()}


def look_at(stack: Stack, project: Project, **changes: Any) -> dict[str, dict[int, int]]:
    """Trace items by class and artifact."""
    found: dict[str, dict[int, int]] = {}
    with looking(stack, project, **changes) as look:
        run_all(look)
        for line in look.tally.lines():
            if line.name.startswith("trace_"):
                found.setdefault(line.name, {})[line.artifact] = line.sum.objects
    return found


def test_each_trace_is_in_its_class(stack: Stack) -> None:
    living, owed, gone, moved, _ = stack.snapshots("living", "owed", "gone", "moved", "newest")
    project = project_of(living)
    delete_all_but_trace_items(stack, gone)
    elsewhere = stack.world.project(project.organization_id, "elsewhere")
    with stack.database.write() as session:
        session.execute(update(tables.Artifact).where(tables.Artifact.id == moved.id).values(project_id=elsewhere.id))
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(stack.request([owed.id])))
    put(stack, project, trace_of(NEVER))
    put(stack, project, trace_of(NEVER + 1), kind=PREPROD + 1)
    put(stack, elsewhere, trace_of(gone.id))
    before = stack.world.rows()
    newest = moved.id + 1
    assert look_at(stack, project) == {
        "trace_living": {living.id: ITEMS, newest: ITEMS},
        "trace_owed": {owed.id: ITEMS},
        "trace_orphan": {gone.id: ITEMS},
        "trace_moved": {moved.id: ITEMS},
        "trace_unknown": {0: 2},
    }
    assert look_at(stack, project, later=timedelta())["trace_recent"] == {gone.id: ITEMS}
    assert stack.world.rows() == before


@on_sqlite
def test_what_an_open_deletion_has_yet_to_confirm_is_owed(stack: Stack) -> None:
    """Its rows and objects are gone."""
    one, _ = stack.snapshots("one", "newest")
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(stack.request([one.id]))
        steps.delete_objects(sealed, steps.delete_rows(sealed))
        steps.sweep(sealed)
    assert not stack.world.objects_of([one.id]) & stack.world.objects().keys()
    assert look_at(stack, project_of(one))["trace_owed"] == {one.id: ITEMS}


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_report_deletes_them_and_nothing_that_has_come_back(stack: Stack, comes_back: bool) -> None:  # noqa: FBT001
    gone, kept = stack.snapshots("gone", "kept")
    project = project_of(gone)
    delete_all_but_trace_items(stack, gone)
    with looking(stack, project) as look:
        run_all(look)
        listed = list(look.tally.artifacts("trace_orphan"))
    assert listed == [gone.id]
    request = request_of(stack, project, listed, report(stack, project, listed))
    if comes_back:
        bring_back(stack, gone.id, project.id)
    with steps_of(stack) as steps:
        closed = steps.finish(request, steps.open_and_collect(request))
    left = {item["trace_id"] for item in stack.world.rows()["trace_items"].values()}
    assert closed.complete
    assert left == {trace_of(kept.id), *([trace_of(gone.id)] if comes_back else [])}


@on_sqlite
def test_a_person_finds_and_deletes_them(stack: Stack, command: Command) -> None:
    gone, _ = stack.snapshots("gone", "kept")
    project = project_of(gone)
    delete_all_but_trace_items(stack, gone)
    words = ("reconcile", "--project", project.id, "--older-than", "0.001s")
    code, said = command(*words)
    assert (code, "3 trace items of 1 artifacts" in said) == (1, True), said
    answer = json.loads(command(*words, "--json")[1])
    assert (answer["classes"]["trace_orphan"]["objects"], answer["implausible"]) == (ITEMS, False)
    make_old(stack, answer["report"])
    code, said = command("reconcile", "--delete", answer["report"], "--yes")
    assert (code, "lists nothing" in said) == (0, False), said


@on_sqlite
def test_a_share_that_a_wrong_join_would_show_is_implausible_though_there_are_many_objects(stack: Stack) -> None:
    gone, also, _ = stack.snapshots("gone", "also", "kept")
    delete_all_but_trace_items(stack, gone, also)
    with looking(stack, project_of(gone)) as look:
        run_all(look)
        written = report_of(look, timedelta(days=1), 50)
    assert (round(written.deletable_percent), written.is_implausible, written.deletable) == (67, True, 2 * ITEMS)


@on_sqlite
def test_an_artifact_that_objects_tell_of_is_known_whatever_its_id(stack: Stack) -> None:
    """Ids are tried down from the highest that has a row."""
    (one,) = stack.snapshots("one")
    project = project_of(one)
    key = stack.world.physical(
        "preprod", project.organization_id, project.id, f"{project.organization_id}/{project.id}/{NEVER}/a"
    )
    stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"x")
    put(stack, project, trace_of(NEVER))
    assert look_at(stack, project)["trace_orphan"] == {NEVER: 2}


@on_sqlite
def test_only_so_many_ids_are_tried(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of a backend may be no numbers in a row."""
    monkeypatch.setattr(traces, "_IDS_TRIED", 2)
    gone, near, kept = stack.snapshots("gone", "near", "kept")
    delete_all_but_trace_items(stack, gone, near)
    found = look_at(stack, project_of(kept))
    assert (found["trace_orphan"], found["trace_unknown"]) == ({near.id: ITEMS}, {0: ITEMS})


@on_sqlite
def test_no_more_ids_are_tried_than_it_takes(stack: Stack) -> None:
    """Where nothing is left behind, the project's rows are all that is read."""
    (one,) = stack.snapshots("one")
    elsewhere = stack.world.project(stack.organization_id, "elsewhere")
    with stack.database.write() as session:
        session.execute(insert(tables.Artifact).values(id=NEVER, project_id=elsewhere.id))
    with looking(stack, project_of(one)) as look:
        run(look)
        assert list(look.check_traces())[-1] <= 1000


@on_sqlite
@pytest.mark.parametrize("what", ["none", "refuses", "is down"])
def test_a_trace_store_that_cannot_be_asked_is_said_and_hides_no_object(stack: Stack, what: str) -> None:
    (one,) = stack.snapshots("one")
    down = [lambda: error(503, "overloaded")] if what == "is down" else []
    with SnubaServer(samples=True, answers=[*down]) as snuba:
        of: dict[str, Any] = {"trace_store": "none"} if what == "none" else {"trace_store": "snuba", "snuba_url": snuba.url}
        with looking(stack, project_of(one), **of) as look:
            found = run_all(look)
            assert look.why_no_traces
            assert report_of(look, timedelta(days=1), 50).totals["why_no_traces"] == look.why_no_traces
    assert found["living"][0] > 0
    assert not any(name.startswith("trace_") for name in found)


@on_sqlite
def test_a_look_goes_through_what_snuba_has(stack: Stack) -> None:
    gone, kept = stack.snapshots("gone", "kept")
    project = project_of(gone)
    delete_all_but_trace_items(stack, gone)
    items = {(project.organization_id, project.id, trace_of(one.id)): 7 for one in (gone, kept)}
    with SnubaServer(items=items) as snuba:
        found = look_at(stack, project, trace_store="snuba", snuba_url=snuba.url)
    assert found == {"trace_orphan": {gone.id: 7}, "trace_living": {kept.id: 7}}


@on_sqlite
def test_one_trace_beside_many_rows_without_any_blocks_no_report(stack: Stack) -> None:
    """A wrong join has no rows: artifacts count, since those of old may have no trace items any more."""
    gone, *_ = stack.snapshots("gone", "one", "two")
    delete_all_but_trace_items(stack, gone)
    with stack.database.write() as session:
        session.execute(delete(TraceItem).where(TraceItem.trace_id != trace_of(gone.id)))
    with looking(stack, project_of(gone)) as look:
        run_all(look)
        written = report_of(look, timedelta(days=1), 50)
    assert (round(written.deletable_percent), written.is_implausible) == (33, False)
