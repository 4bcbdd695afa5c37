"""A reconcile that runs by itself: reports in the ledger and counts in Temporal, and nothing is changed."""

import asyncio
import threading
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select
from temporalio import activity
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, CancelledError

from activities.ledger.reports import Orphan, Report
from activities.reconcile import reconcile as looked_at
from activities.reconcile.stored import stored
from activities.stores.s3 import S3Objects
from artifact_deletion.errors import StoreUnavailable
from artifact_deletion.request import TASK_QUEUE
from demo.world import Project
from tests.stack import Seen, Stack
from tests.steps.test_orphans import forget_rows
from tests.steps.test_reconcile import NEVER
from workflows import budgets, reconcile
from workflows.reconcile_steps import RECONCILE_WORKFLOW, Reconcile, Reports

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
AT_ONCE = timedelta(milliseconds=1)


async def begin(stack: Stack, organization: int, project: int | None = None, **more: Any) -> WorkflowHandle[Any, Reports]:
    request = Reconcile(organization_id=organization, project_id=project, older_than=AT_ONCE, **more)
    return await stack.client.start_workflow(
        RECONCILE_WORKFLOW, request, id=f"reconcile-{uuid4().hex}", task_queue=TASK_QUEUE, result_type=Reports
    )


async def result(handle: WorkflowHandle[Any, Reports]) -> Reports:
    return await asyncio.wait_for(handle.result(), 60)


def put_orphan(stack: Stack, project: Project, body: bytes = b"{}") -> None:
    """An object of an upload whose row was never committed."""
    key = f"{project.organization_id}/{project.id}/{NEVER}/manifest.json"
    physical = stack.world.physical("preprod", project.organization_id, project.id, key)
    stack.s3.put_object(Bucket=stack.bucket, Key=physical, Body=body)


def reports_of(stack: Stack) -> dict[str, tuple[int, bool, list[int]]]:
    """Project, whether it is implausible, and orphans, by id."""
    with stack.database.read() as session:
        listed = [(one.report_id, one.artifact_id) for one in session.execute(select(Orphan)).scalars()]
        return {
            one.id: (one.project_id, one.implausible, [artifact for report, artifact in listed if report == one.id])
            for one in session.execute(select(Report)).scalars()
        }


async def test_that_trace_items_were_not_looked_for_is_said(stack: Stack) -> None:
    """Else none of them would read as none there."""
    (gone,) = stack.snapshots("gone")
    forget_rows(stack, gone)
    async with stack.worker(trace_store="none"):
        handle = await begin(stack, gone.artifact.organization_id)
        found = await result(handle)
    assert (found.trace_orphans, found.without_traces, found.projects) == (0, 1, 1)
    assert found.reports[0].why_no_traces == "no trace store that can list is configured"


@pytest.mark.thorough
@pytest.mark.parametrize("is_handed_on", [False, True])
async def test_each_project_of_an_organization_is_looked_at_and_nothing_changes(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, *, is_handed_on: bool
) -> None:
    """One has rows and an orphan beside them, one nothing, one had its artifacts forgotten. Another organization's is not seen.

    A long run hands its counts on to the next.
    """
    if is_handed_on:
        monkeypatch.setattr(reconcile, "MAX_EVENTS", 1)
    (gone,) = stack.snapshots("gone")
    forgotten, organization = gone.artifact.project_id, gone.artifact.organization_id
    forget_rows(stack, gone)
    shop, empty = (stack.world.project(organization, slug) for slug in ("app", "empty"))
    stack.world.snapshot(shop, gone.images)
    put_orphan(stack, shop, b"12345")
    put_orphan(stack, stack.world.project(stack.world.organization("globex"), "app"))
    before = Seen.of(stack.world)
    async with stack.worker():
        handle = await begin(stack, organization)
        found = await result(handle)
    assert Seen.of(stack.world) == before
    assert found.projects == 3
    by_project = {one.project_id: one for one in found.reports}
    assert by_project.keys() == {forgotten, shop.id}, "in the third there is nothing to read"
    assert (by_project[shop.id].orphans, by_project[shop.id].orphan_bytes, by_project[shop.id].rows) == (1, 5, 1)
    assert (by_project[shop.id].implausible, by_project[forgotten].implausible, found.implausible) == (False, True, 1)
    assert (found.orphans, by_project[forgotten].rows) == (1 + by_project[forgotten].orphans, 0)
    assert (found.trace_orphans, by_project[forgotten].trace_orphans, found.without_traces) == (3, 3, 0)
    written = reports_of(stack)
    assert {project for project, _, _ in written.values()} == {forgotten, shop.id, empty.id}
    assert written[by_project[shop.id].report] == (shop.id, False, [NEVER])
    assert written[by_project[forgotten].report] == (forgotten, True, [gone.id])
    runs = {handle.first_execution_run_id, (await stack.client.get_workflow_handle(handle.id).describe()).run_id}
    assert len(runs) == 1 + is_handed_on


@pytest.mark.thorough
async def test_a_project_that_is_asked_for_alone_has_its_report_in_the_result(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether anything was found or not. A store that is away for a while is asked again, and no other project is looked at."""
    (one,) = stack.snapshots("one")
    place = one.artifact
    stack.world.project(place.organization_id, "app")
    whole, failures = S3Objects.list_under, iter([StoreUnavailable("the object store could not be reached")])

    def list_under(store: S3Objects, prefix: str) -> Any:
        for failure in failures:
            raise failure
        return whole(store, prefix)

    monkeypatch.setattr(S3Objects, "list_under", list_under)
    async with stack.worker():
        found = await result(await begin(stack, place.organization_id, place.project_id))
    (report,) = found.reports
    assert (found.projects, report.project_id, report.rows, report.orphans, report.dangling) == (1, place.project_id, 1, 0, 0)
    assert report.objects["living"] == len(stack.world.objects_of([one.id]))
    assert list(reports_of(stack)) == [report.report]


async def test_what_cannot_be_looked_at_is_refused(stack: Stack) -> None:
    """Another organization's project, and a store that cannot list."""
    (one,) = stack.snapshots("one")
    async with stack.worker():
        with pytest.raises(WorkflowFailureError) as failed:
            await result(await begin(stack, stack.world.organization("globex"), one.artifact.project_id))
    assert isinstance(failed.value.cause, ApplicationError)
    assert "there is no such project in organization" in failed.value.cause.message
    async with stack.worker(bucket_listable=False):
        with pytest.raises(WorkflowFailureError) as failed:
            await result(await begin(stack, one.artifact.organization_id))
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.message == "the store cannot list, so nothing can be looked for"
    assert reports_of(stack) == {}


def away_for(monkeypatch: pytest.MonkeyPatch, *projects: Project) -> None:
    """The store answers nothing about these projects. A look's time is over after two attempts."""
    whole, ends = S3Objects.list_under, tuple(f"/project.{one.id}/objects/" for one in projects)

    def list_under(store: S3Objects, prefix: str) -> Any:
        if prefix.endswith(ends):
            raise StoreUnavailable("the object store could not be reached")
        return whole(store, prefix)

    monkeypatch.setattr(S3Objects, "list_under", list_under)
    monkeypatch.setitem(budgets.LOOKS, "retry_policy", RetryPolicy(maximum_attempts=2))


async def failure(handle: WorkflowHandle[Any, Reports]) -> ApplicationError:
    with pytest.raises(WorkflowFailureError) as failed:
        await result(handle)
    assert isinstance(failed.value.cause, ApplicationError)
    return failed.value.cause


@pytest.mark.parametrize("is_handed_on", [False, True])
async def test_a_project_that_cannot_be_looked_at_hides_no_other(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, *, is_handed_on: bool
) -> None:
    """The two after it are looked at. The run fails, so that the schedule shows it, with what it found; so says the Web UI."""
    if is_handed_on:
        monkeypatch.setattr(reconcile, "MAX_EVENTS", 1)
    organization = stack.world.organization("acme")
    first, away, third, last = (stack.world.project(organization, slug) for slug in ("shop", "app", "empty", "site"))
    for one in (first, away, last):
        put_orphan(stack, one)
    away_for(monkeypatch, away)
    before = Seen.of(stack.world)
    async with stack.worker():
        handle = await begin(stack, organization)
        failed = await failure(handle)
        metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    assert Seen.of(stack.world) == before
    assert failed.type == "ReconcileNotComplete"
    said = f"1 projects could not be looked at (StoreUnavailable 1): {away.id}"
    assert failed.message.startswith(f"{said}; 3 were looked at. Mend the cause")
    found = Reports.model_validate(failed.details[0])
    assert (found.projects, found.failed, found.failures) == (3, (away.id,), {"StoreUnavailable": 1})
    assert ([one.project_id for one in found.reports], found.orphans) == ([first.id, last.id], 2)
    assert {project for project, _, _ in reports_of(stack).values()} == {first.id, third.id, last.id}
    assert f"- **Failed**: {said}\n" in metadata.current_details


async def test_a_store_that_is_away_ends_the_run_after_three_projects(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them takes a day: a run over hundreds of projects would not fail for months. One that goes well begins anew."""
    organization = stack.world.organization("acme")
    projects = [stack.world.project(organization, f"app-{number}") for number in range(7)]
    away_for(monkeypatch, *projects[:2], *projects[3:6])
    async with stack.worker():
        failed = await failure(await begin(stack, organization))
    found = Reports.model_validate(failed.details[0])
    assert (found.projects, found.failures) == (1, {"StoreUnavailable": 5})
    assert found.failed == tuple(one.id for one in (*projects[:2], *projects[3:6]))
    assert "; 1 were looked at, and none after 3 failures in a row. " in failed.message
    assert {project for project, _, _ in reports_of(stack).values()} == {projects[2].id}


async def test_the_failure_of_a_project_that_is_asked_for_alone_is_the_runs(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the step's own words."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    away_for(monkeypatch, project)
    async with stack.worker():
        failed = await failure(await begin(stack, project.organization_id, project.id))
    assert (failed.type, failed.message) == ("StoreUnavailable", "the object store could not be reached")
    assert not failed.details


@pytest.mark.thorough
async def test_a_look_that_is_cancelled_stops_and_writes_nothing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large project takes hours: between keys its step says that it lives, and hears that it should stop."""
    (one,) = stack.snapshots("one")
    reached = threading.Event()

    def until_it_is_told(*given: Any) -> Any:
        reached.set()
        activity.wait_for_cancelled_sync(30)
        return stored(*given)

    monkeypatch.setattr(looked_at, "stored", until_it_is_told)
    async with stack.worker():
        handle = await begin(stack, one.artifact.organization_id)
        assert await asyncio.to_thread(reached.wait, 30)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await result(handle)
        assert isinstance(failed.value.cause, CancelledError)
    assert reports_of(stack) == {}
