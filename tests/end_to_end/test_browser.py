"""What the person on call sees in Temporal's own Web UI, in a real browser: `make test-browser`, and the README's pictures.

Deselected otherwise, since it needs Debian's Chromium.
"""

import asyncio
import contextlib
import io
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from playwright.async_api import Error, Page, async_playwright
from temporalio.client import WorkflowHandle

from activities.stores.s3 import S3Objects
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import SEARCH_ATTRIBUTES
from demo.servers import ObjectStoreServer, TemporalServer
from tests.stack import Held, Stack, connect, eventually, pending_failures, receipt, recorded, s3_of

pytestmark = [pytest.mark.browser, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
PATIENCE_MS = 60_000
WHO = {"requested_by": "user:1842", "reference": "ticket:SHOP-311"}


@pytest.fixture(scope="module")
def temporal_with_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalServer]:
    folder = tmp_path_factory.mktemp("temporal-with-ui")
    with TemporalServer(folder, in_memory=True, search_attributes=SEARCH_ATTRIBUTES) as server:
        yield server


@contextlib.contextmanager
def let_go(held: Held) -> Iterator[None]:
    """At the end of the block, whatever comes of it: the worker could not stop otherwise."""
    try:
        yield
    finally:
        held.let_go()


@dataclass(frozen=True)
class Browser:
    """A browser window, and where it finds deletions."""

    page: Page
    url: str
    screenshots: Path

    async def open(self, handle: WorkflowHandle[Any, Any], tab: str, *shown: str) -> None:
        """Open a tab of a deletion's page, and wait until it shows all that."""
        run = (await handle.describe()).run_id
        await self.page.goto(f"{self.url}/{quote(handle.id, safe='')}/{run}/{tab}", wait_until="domcontentloaded")
        await self.shows(*shown)

    async def shows(self, *texts: str) -> None:
        """Wait until the page has these texts. Markdown is drawn in frames of its own."""

        async def all_shown() -> bool:
            try:
                said = " ".join(" ".join([await frame.locator("body").inner_text() for frame in self.page.frames]).split())
            except Error:  # a frame was drawn anew meanwhile
                return False
            missing.clear()
            missing.extend(text for text in texts if text not in said)
            return not missing

        missing = list(texts)
        try:
            await eventually(all_shown)
        except TimeoutError:
            raise AssertionError(f"not shown: {missing}") from None

    async def reset_to_the_first_workflow_task(self) -> None:
        """Press what a person would press."""
        await self.page.get_by_role("button", name="Reset", exact=True).click(timeout=PATIENCE_MS)
        dialog = self.page.get_by_role("dialog")
        await dialog.get_by_test_id("workflow-reset-event-id-select-button").click(timeout=PATIENCE_MS)
        await dialog.get_by_text("4 - WorkflowTaskCompleted").click(timeout=PATIENCE_MS)
        await dialog.get_by_role("button", name="Confirm").click(timeout=PATIENCE_MS)

    async def take(self, name: str, *, at: str) -> None:
        """Take a picture with that text near its top, in so few colours that it is small."""
        await self.page.get_by_text(at).first.evaluate("found => found.scrollIntoView({block: 'start'})")
        picture = Image.open(io.BytesIO(await self.page.screenshot()))
        picture.convert("RGB").quantize(64).save(self.screenshots / f"{name}.png", optimize=True)


@pytest.fixture
async def browser(stack: Stack, temporal_with_ui: TemporalServer, pytestconfig: pytest.Config) -> AsyncIterator[Browser]:
    stack.use_temporal(await connect(temporal_with_ui.address))
    folder = Path(pytestconfig.getoption("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await chromium.new_page(viewport={"width": 1200, "height": 900})
        yield Browser(page, f"{temporal_with_ui.ui_url}/namespaces/default/workflows", folder)
        await chromium.close()
    async for left in stack.client.list_workflows('ExecutionStatus = "Running"'):  # of a test that failed
        await stack.client.get_workflow_handle(left.id).terminate()


async def test_a_running_deletion_says_who_asked_what_is_done_and_what_it_does(
    stack: Stack, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = stack.snapshots("one", "two", "three")
    stack.world.comparison(snapshots[0], snapshots[1], masks=40)
    calls = itertools.count()
    held = Held(monkeypatch, S3Objects, "delete", only=lambda *_: next(calls) > 1)
    async with stack.worker(chunk_artifacts=1):
        handle = await stack.start([one.id for one in snapshots], **WHO)
        with let_go(held):
            await held.reached()
            await browser.open(
                handle,
                "user-metadata",
                f"Delete 3 artifacts of organization {stack.organization_id}",
                "Asked by: user:1842, reference: ticket:SHOP-311",
                "Now: deleting objects and trace items. Rows are gone",
                "3 of 3 chunks",
                "delete_objects",
                "Pending Activities says in Last Failure why",
            )
            await browser.take("running", at="User Metadata")
        await handle.result()


@pytest.fixture
def mortal_store(stack: Stack, tmp_path: Path) -> Iterator[ObjectStoreServer]:
    with ObjectStoreServer(tmp_path / "mortal") as server:
        s3_of(server).create_bucket(Bucket="mortal")
        stack.use_bucket("mortal", server)
        yield server


async def test_a_stuck_one_says_since_when_why_and_what_to_do(
    stack: Stack, browser: Browser, mortal_store: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object store is down, once the rows are gone."""
    (one,) = stack.snapshots("one")
    held = Held(monkeypatch, S3Objects, "delete")
    async with stack.worker():
        handle = await stack.start([one.id], **WHO)
        with let_go(held):
            await held.reached()
            mortal_store.kill()
        assert await eventually(lambda: pending_failures(handle))
        await browser.open(handle, "user-metadata", "At work", "delete_objects since 20", "needs the object store")
        await browser.open(handle, "pending-activities", "Last Failure", "the object store could not be reached")
        await browser.take("stuck", at="Pending Activities")
        mortal_store.start()
        await asyncio.wait_for(handle.result(), 90)


async def test_a_failed_one_says_what_is_left_and_reset_in_the_page_finishes_it(
    stack: Stack, browser: Browser, locking_bucket: str
) -> None:
    """An object under a legal hold, that is taken off again."""
    stack.use_bucket(locking_bucket)
    (one,) = stack.snapshots("one")
    held = sorted(stack.world.objects_of([one.id]))[:1]
    for key in held:
        stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": "ON"})
    async with stack.worker():
        handle = await stack.start([one.id], **WHO)
        await stack.failure(handle)
        await browser.open(
            handle,
            "history",
            "1 left over (AccessDenied 1); all else is done. AccessDenied: the store refuses to delete them",
            f"python starter.py rerun {handle.id}",
        )
        await browser.take("failed", at="Event History")
        await browser.open(handle, "user-metadata", "Failed: 1 left over", "Reset to the first workflow task")
        for key in held:
            stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=key, LegalHold={"Status": "OFF"})
        await browser.reset_to_the_first_workflow_task()

        async def ended() -> bool:
            return recorded(stack.database, handle.id).state is DeletionState.CLOSED

        assert await eventually(ended)
        await browser.open(stack.client.get_workflow_handle(handle.id), "user-metadata", "Completed: nothing is left over")
    assert not stack.world.objects_of([one.id]) & stack.world.objects().keys()


async def test_a_completed_one_shows_its_receipt(stack: Stack, browser: Browser) -> None:
    snapshots = stack.snapshots("one", "two")
    async with stack.worker():
        handle = await stack.start([one.id for one in snapshots], **WHO)
        await handle.result()
        await browser.open(handle, "history", '"complete": true', '"requested_by": "user:1842"')
        await browser.take("completed", at="Event History")
        await browser.open(handle, "user-metadata", "Completed: nothing is left over")
    assert receipt(stack.database, handle.id)
