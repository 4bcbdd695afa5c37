"""Each promise where it is easiest to break: one schedule a test, and the oracle's word at its end.

`make mutants` breaks our own code in these places, one at a time, and expects these tests to notice.
"""

import asyncio
import contextlib
import dataclasses
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from activities.backend import tables
from activities.stores.objects import Outcome
from activities.stores.s3 import S3Objects
from artifact_deletion.errors import DeletionError, StaleSeal, StoreUnavailable
from artifact_deletion.request import DeletionRequest
from demo.world import Build, Project, Snapshot, screen
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Held, Stack, Steps, again, eventually, pending_failures, steps_of, wait_for_waiters
from workflows.steps import CLOSE_DELETION, SealedChunk

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@dataclasses.dataclass(frozen=True)
class Shop:
    project: Project
    head: Snapshot
    base: Snapshot
    build: Build

    @property
    def going(self) -> list[int]:
        return [self.head.id, self.build.id]


@pytest.fixture
def shop(stack: Stack) -> Shop:
    """A head that was compared with a base, and a build whose icon lies beside others' objects. Head and build are to go."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    base, head = (stack.world.snapshot(project, {"login": screen("login", seed)}) for seed in range(2))
    stack.world.comparison(head, base)
    stack.world.approval(head)
    build = stack.world.mobile_build(project, icon="icn_first")
    stack.world.mobile_build(project, icon="icn_kept", version="2")
    return Shop(project, head, base, build)


def to_the_end(steps: Steps, request: DeletionRequest, sealed: SealedChunk) -> None:
    """From a sealed chunk on, as the workflow goes on: a step that fails is run again, and the deletion is closed."""
    deleted = again(lambda: steps.delete_rows(sealed))
    again(lambda: steps.delete_what_was_released(sealed, deleted))
    steps.close(request)


def moved(before: Evidence, artifact: int, to: int) -> Evidence:
    """What was seen, with the artifact where it was moved to after that."""
    rows = {table: dict(rows) for table, rows in before.rows.items()}
    row = rows["sentry_preprodartifact"][artifact]
    rows["sentry_preprodartifact"][artifact] = {**row, "project_id": to}
    return dataclasses.replace(before, rows=rows)


def move(session: Session, artifact: int, to: int) -> None:
    session.execute(update(tables.Artifact).where(tables.Artifact.id == artifact).values(project_id=to))


@SQLITE
def test_a_deletion_that_is_cancelled_after_its_keys_were_collected_has_touched_nothing(stack: Stack, shop: Shop) -> None:
    """Rows go first: a caller who is told that nothing is deleted finds every object that the rows name."""
    request, before = stack.request(shop.going), Evidence.of(stack)
    with steps_of(stack) as steps:
        again(lambda: steps.open_and_collect(request))
        assert steps.cancel(request).nothing_deleted
    assert_promises_hold(stack, before, [request])


def failing_once(monkeypatch: pytest.MonkeyPatch, method: str, only: str) -> None:
    """A fake: the first request, of those about a key that looks so, is not answered. No server fails so exactly on demand."""
    whole, failed = getattr(S3Objects, method), threading.Event()

    def fails(self: S3Objects, what: str | Sequence[str], *more: Any) -> Any:
        keys = [what] if isinstance(what, str) else what
        if any(re.search(only, key) for key in keys) and not failed.is_set():
            failed.set()
            raise StoreUnavailable("the object store could not be reached (ConnectTimeoutError)")
        return whole(self, what, *more)

    monkeypatch.setattr(S3Objects, method, fails)


@SQLITE
def test_a_page_whose_request_failed_is_still_owed(stack: Stack, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be listed, the page is all that knows of its keys: dropped too early, they would be orphaned."""
    request, before = stack.request(shop.going), Evidence.of(stack)
    failing_once(monkeypatch, "delete", only="^preprod_size/.*icn_first$")
    with steps_of(stack, bucket_listable=False) as steps:
        to_the_end(steps, request, steps.open_and_collect(request))
    assert_promises_hold(stack, before, [request])


@SQLITE
def test_a_manifest_that_could_not_be_read_once_is_read_again(
    stack: Stack, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store cannot list, its masks are named by it alone: an error that passed for an empty list would lose them."""
    request, before = stack.request(shop.going), Evidence.of(stack)
    failing_once(monkeypatch, "read", only="comparison.json$")
    with steps_of(stack, bucket_listable=False) as steps:
        (chunk,) = steps.open(request)
        to_the_end(steps, request, again(lambda: steps.collect(chunk)))
    assert_promises_hold(stack, before, [request])


@SQLITE
def test_in_a_bucket_with_versions_no_version_is_left(stack: Stack, locking_bucket: str) -> None:
    """A delete marker hides data and keeps it. Archive and icon lie where no listing of a prefix looks after them."""
    stack.use_bucket(locking_bucket)
    (head,) = stack.snapshots("head")
    build = stack.world.mobile_build(Project(head.artifact.project_id, stack.organization_id, "shop"), icon="icn_first")
    request, before = stack.request([head.id, build.id]), Evidence.of(stack)
    with steps_of(stack, S3Objects(stack.s3, stack.bucket, versioned=True)) as steps:
        to_the_end(steps, request, steps.open_and_collect(request))
    assert_promises_hold(stack, before, [request])


@SQLITE
def test_what_the_store_refuses_inside_its_answer_is_left_over(stack: Stack, locking_bucket: str) -> None:
    """A 200 with an error for one key of many: an icon and an archive under legal hold, which no listing would find again."""
    stack.use_bucket(locking_bucket)
    (head,) = stack.snapshots("head")
    project = Project(head.artifact.project_id, stack.organization_id, "shop")
    build = stack.world.mobile_build(project, icon="icn_first")
    held = [key for key in stack.world.objects_of([head.id, build.id]) if key.endswith((".zip", "icn_first"))]
    assert len(held) == 2
    request, before = stack.request([head.id, build.id]), Evidence.of(stack)
    for key in held:
        stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": "ON"})
    try:
        with steps_of(stack, S3Objects(stack.s3, stack.bucket, versioned=True)) as steps:
            to_the_end(steps, request, steps.open_and_collect(request))
        assert_promises_hold(stack, before, [request])
        assert stack.receipt(request.workflow_id).objects.left_over == {"AccessDenied": 2}
    finally:
        for key in held:
            stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": "OFF"})


@SQLITE
def test_artifact_4_takes_nothing_of_42(stack: Stack) -> None:
    """Prefixes end in a slash: `o/p/4` is the beginning of `o/p/42/manifest.json`, and of an image's hash."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    four, more, seven = (
        stack.world.snapshot(project, {"login": screen("login", seed)}, id=id_) for seed, id_ in enumerate((4, 42, 7))
    )
    for head, base in ((seven, four), (seven, more), (four, seven), (more, seven), (more, four), (four, more)):
        stack.world.comparison(head, base)
    request, before = stack.request([four.id]), Evidence.of(stack)
    with steps_of(stack) as steps:
        to_the_end(steps, request, steps.open_and_collect(request))
    assert_promises_hold(stack, before, [request])


@pytest.mark.parametrize("when", ["before its keys are collected", "before its rows are deleted"])
def test_a_project_that_went_to_another_organization_takes_its_artifacts_along(stack: Stack, shop: Shop, when: str) -> None:
    """The new owner has asked for nothing. Nothing of the artifacts' own rows has changed, so only the project tells."""
    theirs = stack.world.organization("globex")

    def transfer() -> Evidence:
        with stack.database.write() as session:
            project = tables.Project
            session.execute(update(project).where(project.id == shop.project.id).values(organization_id=theirs))
        return Evidence.of(stack)

    request = stack.request(shop.going)
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        if when == "before its keys are collected":
            before = transfer()
            sealed = steps.collect(chunk)
        else:
            sealed = steps.collect(chunk)
            before = transfer()
            with contextlib.suppress(StaleSeal):
                steps.delete_rows(sealed)
            sealed = steps.collect(chunk)
        to_the_end(steps, request, sealed)
    assert_promises_hold(stack, before, [request])
    assert stack.receipt(request.workflow_id).left_over == {"Moved": 2}


@POSTGRESQL
@pytest.mark.parametrize("ours", [True, False], ids=["to another project", "to another organization"])
def test_an_artifact_that_is_moved_while_delete_rows_waits_for_it_is_judged_where_it_is_then(
    stack: Stack, shop: Shop, *, ours: bool
) -> None:
    """What was read before the lock was there is no longer true: its objects lie elsewhere, or it is another's."""
    theirs = stack.world.organization("globex")
    there = stack.world.project(stack.organization_id if ours else theirs, "site")
    request, before = stack.request(shop.going), Evidence.of(stack)
    with steps_of(stack) as steps, ThreadPoolExecutor(1) as others:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as mover:
            move(mover, shop.head.id, there.id)
            deleting = others.submit(steps.delete_rows, sealed)
            wait_for_waiters(stack.database)
        with contextlib.suppress(StaleSeal):
            deleting.result(10)
        to_the_end(steps, request, steps.collect(sealed))
    assert_promises_hold(stack, moved(before, shop.head.id, there.id), [request])
    # Its columns name its objects where it was before: neither ours to delete there, nor to be forgotten.
    assert stack.receipt(request.workflow_id).left_over == ({"NamedElsewhere": 3} if ours else {"Moved": 1})


@SQLITE
def test_a_delete_rows_that_comes_while_keys_are_collected_again_releases_nothing(
    stack: Stack, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new attempt has dropped what was sealed, and sealed nothing yet. Of an artifact that was gone before no row tells."""
    gone = stack.world.snapshot(shop.project, {"login": screen("login", 2)})
    with stack.database.write() as session:
        session.delete(session.get_one(tables.SnapshotMetrics, gone.metrics_id))
        session.flush()
        session.delete(session.get_one(tables.Artifact, gone.id))
    request, before = stack.request([*shop.going, gone.id], project_id=shop.project.id), Evidence.of(stack)
    held = Held(monkeypatch, S3Objects, "read")
    with steps_of(stack) as steps, ThreadPoolExecutor(1) as others:
        held.let_go()
        sealed = steps.open_and_collect(request)
        held.hold()
        collecting = others.submit(steps.collect, sealed)
        asyncio.run(held.reached())
        with contextlib.suppress(StaleSeal):
            steps.delete_rows(sealed)
        held.let_go()
        with contextlib.suppress(DeletionError):
            sealed = collecting.result(10)
        to_the_end(steps, request, sealed)
    assert_promises_hold(stack, before, [request])


@SQLITE
def test_a_page_that_two_attempts_have_deleted_is_settled_by_one(
    stack: Stack, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that Temporal gave up comes back with the store's answer when the next one has settled the page but for a key.

    A fake: the store asks to try one key again, in the second attempt's answer alone.
    """
    request, before = stack.request(shop.going), Evidence.of(stack)
    whole, calls = S3Objects.delete, iter(range(99))
    answered, settled = threading.Event(), threading.Event()

    def delete(self: S3Objects, keys: Sequence[str]) -> Outcome:
        outcome, call = whole(self, keys), next(calls)
        if call == 0:
            answered.set()
            assert settled.wait(20)
        elif call == 1:
            outcome.not_yet[outcome.deleted.pop()] = "SlowDown"
        return outcome

    monkeypatch.setattr(S3Objects, "delete", delete)
    with steps_of(stack) as steps, ThreadPoolExecutor(1) as others:
        sealed = steps.open_and_collect(request)
        deleted = steps.delete_rows(sealed)
        one_page = deleted.model_copy(update={"end_page": deleted.first_page + 1})
        stale = others.submit(steps.delete_objects, sealed, one_page)
        assert answered.wait(10)
        with contextlib.suppress(DeletionError):
            steps.delete_objects(sealed, one_page)
        settled.set()
        with contextlib.suppress(DeletionError):
            stale.result(10)
        to_the_end(steps, request, sealed)
    assert_promises_hold(stack, before, [request])


@SQLITE
async def test_a_deletion_that_runs_is_waited_for_and_not_taken_over(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pages are being deleted: another deletion of its artifacts waits, and its own caller gets its own answer."""
    one, two, three = stack.snapshots("one", "two", "three")
    requests = [stack.request([one.id, two.id]), stack.request([two.id, three.id])]
    before = Evidence.of(stack)
    held = Held(monkeypatch, S3Objects, "delete", only=lambda _self, keys: any(one.artifact.prefix in key for key in keys))
    async with stack.worker():
        first = await stack.start(requests[0].artifact_ids)
        await held.reached()
        second = await stack.start(requests[1].artifact_ids)

        async def waits() -> bool:
            return first.id in (await pending_failures(second)).get(CLOSE_DELETION.name, "")

        try:
            await eventually(waits)
        finally:
            held.let_go()
        receipts = [await asyncio.wait_for(handle.result(), 30) for handle in (first, second)]
    assert receipts[1].times.closed >= receipts[0].times.closed
    assert_promises_hold(stack, before, requests)


@SQLITE
def test_a_deletion_does_not_say_that_all_is_gone_while_another_is_refused_an_object(stack: Stack, locking_bucket: str) -> None:
    """Rows tell the second that its artifact is gone; what the store would not delete for the first tells otherwise."""
    stack.use_bucket(locking_bucket)
    one, two = stack.snapshots("one", "two")
    requests = [stack.request([one.id]), stack.request([one.id, two.id])]
    (held,) = (key for key in stack.world.objects_of([one.id]) if key.endswith(".zip"))
    before = Evidence.of(stack)
    stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=held, LegalHold={"Status": "ON"})
    try:
        with steps_of(stack, S3Objects(stack.s3, stack.bucket, versioned=True)) as steps:
            for request in requests:
                to_the_end(steps, request, steps.open_and_collect(request))
        assert_promises_hold(stack, before, requests)
        assert stack.receipt(requests[1].workflow_id).left_over == {"OwedByOthers": 1}
    finally:
        stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=held, LegalHold={"Status": "OFF"})


@SQLITE
def test_an_icon_that_a_build_names_again_by_the_time_it_would_go_stays(stack: Stack, shop: Shop) -> None:
    """Icon ids come from content: the same picture uploaded for a new build, between the rows' commit and the objects' turn."""
    request, before = stack.request(shop.going), Evidence.of(stack)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_rows(sealed)
        stack.world.mobile_build(shop.project, icon="icn_first", version="3")
        to_the_end(steps, request, sealed)
    assert_promises_hold(stack, before, [request])


@SQLITE
def test_a_cancel_that_comes_after_the_rows_finds_the_deletion_done_all_the_same(stack: Stack, shop: Shop) -> None:
    """The seal is the only list of what is owed: a cancel that dropped it would orphan every object."""
    request, before = stack.request(shop.going), Evidence.of(stack)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        deleted = steps.delete_rows(sealed)
        if not steps.cancel(request).nothing_deleted:
            steps.delete_what_was_released(sealed, deleted)
            steps.close(request)
    assert_promises_hold(stack, before, [request])
