"""A worker is killed at every boundary there is, and the worker that takes over comes to the same end.

The points are those of crash_points.py; each is a test of its own. The process, its servers and the signal are real.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

from activities.images import owed
from activities.ledger import holds
from activities.ledger.schema import clock
from artifact_deletion.client import progress
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt, Preview
from artifact_deletion.request import DELETE_WORKFLOW, PREVIEW_WORKFLOW, TASK_QUEUE, DeletionRequest
from demo.world import Project, Snapshot, World, screen
from settings import PREFIX
from tests.crash_points import CONFIRMING, FOR_A_HOLD, FOR_OTHERS, LATE_KEY, POINTS, TASK_LOST_AFTER, points_of
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack, eventually, recorded, resume, steps_of
from tests.steps.test_uploads import begin_upload
from tests.uploader import Uploader
from workflows.steps import (
    CANCEL_DELETION,
    DELETE_ROWS,
    PREVIEW_DELETION,
    STEPS,
    WAIT_TO_BEGIN,
    WAIT_WHILE_HELD,
    WATCH_WORKFLOW,
    ImageProject,
)

OF_A_CANCEL = [point for point in POINTS if point.startswith(f"{CANCEL_DELETION.name},")]
OF_A_PREVIEW = [point for point in POINTS if point.startswith(f"{PREVIEW_DELETION.name},")]
OF_TWO = points_of(FOR_OTHERS)
OF_A_HOLD = [*points_of(WAIT_WHILE_HELD.name), *points_of(FOR_A_HOLD)]
OF_A_TIME = [point for point in POINTS if WAIT_TO_BEGIN.name in point]
OF_IMAGES = [point for point in POINTS if any(of in point for of in ("watch_images", "hide_images", "settle_images"))]
OF_ONE = [point for point in POINTS if point not in {*OF_A_CANCEL, *OF_A_PREVIEW, *OF_TWO, *OF_A_HOLD, *OF_A_TIME, *OF_IMAGES}]


# The others are for `make test-all`: `test_deaths.py` comes to every point within a step in each run.
IN_EACH_RUN = {
    "collect_keys, after its first COMMIT",
    "delete_rows, before its first COMMIT",
    "delete_rows, after its first COMMIT",
    "delete_objects, after the store's delete",
    "sweep_prefixes to confirm, after the store's delete_found",
    "close_deletion, after its first COMMIT",
    "cancel_deletion, after its first COMMIT",
    "preview_deletion, after the store's read",
    "wait_while_held, after",
    "wait_to_begin, after its first COMMIT",
    "hide_images, after the store's hide",
    "settle_images, after the store's purge",
    "a workflow task that starts a step, before",
    "a workflow task that ends, before",
    "a wait of sweep_prefixes, before",
    "a wait of close_deletion, after",
}


def of_rows(point: str) -> bool:
    return point.startswith(DELETE_ROWS.name)


def at(points: list[str]) -> pytest.MarkDecorator:
    """Each point with a database: rows go on PostgreSQL, where COMMIT is another process's, all else on either, in turn."""
    rows = [(point, "postgresql" if number % 3 == 0 or of_rows(point) else "sqlite") for number, point in enumerate(points)]
    return pytest.mark.parametrize(
        ("point", "database_url"),
        [pytest.param(*row, id=row[0], marks=() if row[0] in IN_EACH_RUN else pytest.mark.thorough) for row in rows],
        indirect=["database_url"],
    )


def test_every_step_has_points() -> None:
    """Before and after it, at the least. A new step's are among the tests below, which are red until they come to it."""
    assert {point for step in STEPS for point in (f"{step.name}, before", f"{step.name}, after")} <= set(POINTS)
    assert len(set(POINTS)) == len(POINTS)
    assert set(POINTS) >= IN_EACH_RUN


def finds_one(point: str) -> bool:
    """True if a step comes to the point only where a late writer has put an object."""
    return point.startswith(CONFIRMING) and "delete_found" in point


@dataclass(frozen=True)
class Place:
    """An artifact for which every step has something to do, and what writers put into its place."""

    world: World
    head: Snapshot
    upload: str
    archive: str

    @classmethod
    def of(cls, stack: Stack) -> "Place":
        head, base = stack.snapshots("head", "base")
        stack.world.comparison(head, base, masks=3)
        at = head.artifact
        prefix, archive = (
            stack.world.physical(head.usecase, at.organization_id, at.project_id, key) for key in (at.prefix, at.archive_key)
        )
        made = cls(stack.world, head, f"{prefix}late.json", archive)
        for key in (made.upload, made.archive):
            begin_upload(stack, key)
        return made

    @property
    def late(self) -> str:
        """Where an object is written after the rows are gone."""
        return f"{self.upload.removesuffix('.json')}r.json"

    @property
    def also_owned(self) -> list[str]:
        return [self.upload, self.archive, self.late]

    def assert_complete(self, receipt: DeletionReceipt) -> None:
        """All is gone, and each row was counted once."""
        assert receipt.complete
        rows = self.world.rows_of([self.head.id])
        assert sum(receipt.rows.values()) == sum(table != "trace_items" for table, _ in rows)


async def start(stack: Stack, request: DeletionRequest) -> WorkflowHandle[Any, DeletionReceipt]:
    """As a backend does, but for the time-out of a workflow task that is lost with its worker."""
    stack.accept(request)
    return await stack.client.start_workflow(
        DELETE_WORKFLOW,
        request,
        id=request.workflow_id,
        task_queue=TASK_QUEUE,
        result_type=DeletionReceipt,
        task_timeout=TASK_LOST_AFTER,
    )


async def end(handle: WorkflowHandle[Any, Any]) -> Any:
    return await asyncio.wait_for(handle.result(), 40)


@at(OF_ONE)
async def test_a_worker_killed_in_a_deletion_is_replaced(stack: Stack, point: str) -> None:
    """Done and not told, or about to be done: another worker finishes it, and the receipt shows nothing of it."""
    place = Place.of(stack)
    before = Evidence.of(stack)
    request = stack.request([place.head.id])
    worker = stack.crashing_worker(point, **({LATE_KEY: place.late} if finds_one(point) else {}))
    handle = await start(stack, request)
    await worker.is_killed()

    async with stack.worker():
        await end(handle)
    place.assert_complete(stack.receipt(handle.id))
    assert_promises_hold(stack, before, [request], also_owned=place.also_owned)


@pytest.mark.thorough
@at(OF_A_CANCEL)
async def test_a_worker_killed_in_a_cancel_undoes_all_or_nothing(stack: Stack, point: str) -> None:
    """While the lost cancel is waited for the deletion may have come past the point of no return: then it is finished."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    request = stack.request([one.id])
    handle = await start(stack, request)
    await handle.cancel()
    worker = stack.crashing_worker(point)
    await worker.is_killed()

    async with stack.worker():
        ended_as = DeletionState.CLOSED
        try:
            await end(handle)
        except WorkflowFailureError as failed:
            if not isinstance(failed.cause, CancelledError):
                raise
            ended_as = DeletionState.CANCELLED
        assert recorded(stack.database, handle.id).state is ended_as
        assert_promises_hold(stack, before, [request])
        assert (await stack.delete([one.id])).complete
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
@at(OF_TWO)
async def test_a_worker_killed_while_a_deletion_waits_for_another_one_is_replaced(stack: Stack, point: str) -> None:
    """The other one deleted the rows, and no run is at work on it: once it is resumed, both come to their ends."""
    one, two = stack.snapshots("one", "two")
    before = Evidence.of(stack)
    other, request = stack.request([one.id, two.id]), stack.request([one.id])
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(other))
    worker = stack.crashing_worker(point)
    handle = await start(stack, request)
    await worker.is_killed()

    async with stack.worker():
        assert await resume(stack.client, stack.database) == [other.workflow_id]
        await end(stack.client.get_workflow_handle(other.workflow_id))
        await end(handle)
    receipts = [stack.receipt(one.workflow_id) for one in (other, request)]
    assert [one.complete for one in receipts] == [True, True]
    assert_promises_hold(stack, before, [other, request])


@pytest.mark.thorough
@at(OF_A_HOLD)
@pytest.mark.parametrize("by_a_person", [True, False], ids=["by a person", "over a ceiling"])
async def test_a_worker_killed_while_a_deletion_is_held_is_replaced(stack: Stack, point: str, *, by_a_person: bool) -> None:
    """Until it is let go nothing is deleted, and after that all of it is."""
    one, two = stack.snapshots("one", "two")
    before = Evidence.of(stack)
    request = stack.request([one.id, two.id])
    if by_a_person:
        placed = holds.place(stack.database, holds.On.EVERYTHING, "", reason="a test", by="user:7").id
    ceiling = None if by_a_person else 1
    worker = stack.crashing_worker(point, **({} if by_a_person else {f"{PREFIX}MAX_ARTIFACTS_UNCONFIRMED": str(ceiling)}))
    handle = await start(stack, request)

    async def held() -> bool:
        return "held since" in ((await progress(stack.client, handle.id)).held or "")

    def let_go() -> None:
        with stack.database.write() as session:
            if by_a_person:
                holds.lift(session, [placed], by="user:7")
            else:
                holds.confirm(session, request.deletion_id, 0, by="user:7")

    found_lifted = point == f"{WAIT_WHILE_HELD.name}, after"
    if found_lifted:
        await eventually(held)
        assert Evidence.of(stack).rows == before.rows
        let_go()
    await worker.is_killed()
    async with stack.worker(max_artifacts_unconfirmed=ceiling):
        if not found_lifted:
            await eventually(held)
            assert Evidence.of(stack).rows == before.rows
            let_go()
        await end(handle)
    assert stack.receipt(handle.id).complete
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
@at(OF_A_TIME)
async def test_a_worker_killed_while_a_deletion_waits_for_its_time_is_replaced(stack: Stack, point: str) -> None:
    """Nothing is deleted before, and all of it after."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    worker = stack.crashing_worker(point)
    await worker.is_up()
    with stack.database.read() as session:
        begins_at = session.execute(select(clock())).scalar_one() + timedelta(seconds=2)
    request = stack.request([one.id], not_before=begins_at)
    handle = await start(stack, request)
    await worker.is_killed()

    async with stack.worker():
        await end(handle)
    receipt = stack.receipt(handle.id)
    assert receipt.times.rows_deleted is not None
    assert receipt.times.rows_deleted >= begins_at
    assert_promises_hold(stack, before, [request])


@at(OF_A_PREVIEW)
async def test_a_worker_killed_in_a_preview_changes_nothing(stack: Stack, point: str) -> None:
    """A person waits for the answer, which another worker gives."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    request = stack.request([one.id])
    worker = stack.crashing_worker(point)
    handle = await stack.client.start_workflow(
        PREVIEW_WORKFLOW,
        request,
        id=request.preview_id,
        task_queue=TASK_QUEUE,
        result_type=Preview,
        task_timeout=TASK_LOST_AFTER,
    )
    await worker.is_killed()
    async with stack.worker():
        assert (await end(handle)).artifacts.ids == (one.id,)
    assert Evidence.of(stack) == before
    assert_promises_hold(stack, before, [])


# A manifest is read by the one step or by the other, whichever comes first.
OF_HIDING = [point for point in OF_IMAGES if "settle_images" not in point and "read" not in point]
OF_SETTLING = [point for point in OF_IMAGES if "settle_images" in point]
SOON = {"images_grace_s": 0.5, "images_late_s": 0.5, "images_catch_up_s": 0.2}
SOON_IN_ENVIRONMENT = {f"{PREFIX}{name.upper()}": str(value) for name, value in SOON.items()}


def watched(stack: Stack, project: Project) -> WorkflowHandle[Any, Any]:
    return stack.client.get_workflow_handle(f"project-images/{project.organization_id}/{project.id}")


@pytest.fixture
def uploader(stack: Stack, image_buckets: dict[str, str], point: str) -> Uploader:
    """Of a project of its own, in a bucket of either kind, in turn."""
    stack.use_bucket(image_buckets["never" if OF_IMAGES.index(point) // 2 % 2 else "enabled"])
    return Uploader(stack, stack.world.project(stack.world.organization("acme"), "shop"))


@pytest.mark.thorough
@at(OF_HIDING)
async def test_a_worker_killed_while_it_hides_images_is_replaced(stack: Stack, uploader: Uploader, point: str) -> None:
    """What no other snapshot shows is gone in the end, with all that hid it, and what one shows was never touched."""
    home, login = screen("home"), screen("login")
    one, _ = uploader.uploads({"home": home, "login": login}), uploader.uploads({"login": login})
    before, request = Evidence.of(stack), stack.request([one.id], images="delete")
    worker = stack.crashing_worker(point, **SOON_IN_ENVIRONMENT)
    handle = await start(stack, request)
    await worker.is_killed()

    async with stack.worker(**SOON):
        await end(handle)
        await end(watched(stack, uploader.project))
    assert stack.receipt(handle.id).complete
    assert (uploader.left(home), uploader.left(login)) == ([], [uploader.key(login)])
    assert_promises_hold(stack, before, [request], also_owned=[uploader.key(home)])


@pytest.mark.thorough
@at(OF_SETTLING)
async def test_a_worker_killed_while_it_sees_to_hidden_images_is_replaced(stack: Stack, uploader: Uploader, point: str) -> None:
    """A client that had been told that an image exists has its snapshot's image again, and no one the others."""
    shown = {"home": screen("home"), "login": screen("login")}
    one, there = uploader.uploads(shown), uploader.asks(shown)
    uploader.uploads({"cart": screen("cart")})  # SQLite gives the last row's id again
    before, request = Evidence.of(stack), stack.request([one.id], images="delete")
    async with stack.worker(images_catch_up_s=1000):
        await end(await start(stack, request))
    assert uploader.asks(shown) == set()
    home = {"home": shown["home"]}
    uploader.puts(home, there)
    uploader.commits(home)
    await watched(stack, uploader.project).terminate()
    worker = stack.crashing_worker(point, **SOON_IN_ENVIRONMENT)
    await stack.client.start_workflow(
        WATCH_WORKFLOW,
        ImageProject(organization_id=uploader.project.organization_id, project_id=uploader.project.id),
        id=watched(stack, uploader.project).id,
        task_queue=TASK_QUEUE,
        task_timeout=TASK_LOST_AFTER,
    )
    await worker.is_killed()

    async with stack.worker(**SOON):
        await end(watched(stack, uploader.project))
    assert (uploader.left(shown["home"]), uploader.left(shown["login"])) == ([uploader.key(shown["home"])], [])
    assert uploader.asks(shown) == {"home"}
    with stack.database.read() as session:
        total = owed.total(session, request.deletion_id)
    assert (total.named, total.restored, total.purged) == (2, 1, 1)
    assert_promises_hold(stack, before, [request], also_owned=[uploader.key(shown["login"])])
