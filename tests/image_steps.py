"""The steps about images, called one by one without Temporal, so that a test can act between two of them and pass the time."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import select
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.backend.tables import SnapshotMetrics
from activities.images import owed
from activities.images.adopt import Adopted, adopt
from activities.images.owed import Total
from activities.images.work import ImageWork, ProjectWork
from activities.ledger.image_schema import ImageRow
from activities.settle_images import SettleImages
from artifact_deletion.errors import NotYet
from demo.world import Project, Snapshot
from tests.stack import Stack, Steps, deletion_of, steps_of
from workflows.steps import HIDE_IMAGES, SETTLE_IMAGES, WATCH_IMAGES, Deletion, ImageProject, ImagesHidden

LATE = timedelta(seconds=1200)
GRACE = timedelta(days=1) + LATE
MOMENT = timedelta(minutes=2)
"""Longer than a step's own work takes: what is older was left behind."""


@dataclass(frozen=True)
class ImageSteps:
    """Of one project."""

    stack: Stack
    steps: Steps
    project: Project

    def delete(self, *snapshots: Snapshot) -> Deletion:
        """Their rows are gone, and their images are owed."""
        request = self.stack.request([one.id for one in snapshots], images="delete")
        self.stack.accept(request)
        for chunk in self.steps.open(request):
            sealed = self.steps.collect(chunk)
            self.steps.delete_what_was_released(sealed, self.steps.delete_rows(sealed))
        return deletion_of(request, self.steps.fence(request))

    def hide(self, deletion: Deletion) -> ImagesHidden:
        return self.steps.run(HIDE_IMAGES, deletion)

    def watch(self, deletion: Deletion) -> list[str]:
        """The step before that. Returns what the first look of each run that it starts waits for, as `settle` does."""
        looks: list[str] = []

        class Temporal:
            async def start_workflow(_self, *_: object, **_more: object) -> None:  # noqa: N805
                looks.append(self.settle())

        environment = ActivityEnvironment(client=cast("Client", Temporal()))
        asyncio.run(environment.run(self.steps.activities[WATCH_IMAGES.name], deletion))
        return looks

    def hidden(self, *snapshots: Snapshot) -> Deletion:
        """A deletion that has hidden what it may."""
        deletion = self.delete(*snapshots)
        self.hide(deletion)
        return deletion

    def begins(self, deletion: Deletion) -> None:
        """A step that dies before its first request."""
        self.catch_up()
        with self.stack.database.read() as session:
            pages = owed.undecided(session, deletion.deletion_id, self.project.id)
        self.at_work().decisions.begin(pages)

    def dies_before_it_is_written_down(self, deletion: Deletion) -> None:
        """A step that hides, until the store has answered."""
        self.catch_up()
        work = self.at_work()
        with self.stack.database.read() as session:
            pages = owed.undecided(session, deletion.deletion_id, self.project.id)
        for image, row in work.decisions.begin(pages).items():
            work.requests.store.hide(work.requests.project.of(image), row.image.round, lambda: None)

    def catch_up(self) -> None:
        """And no more, as of a step that dies then."""
        self._work.catch_up(self.project.id)

    def adopt(self, *going: Snapshot) -> Adopted:
        """After a restore, beside these, which are about to be deleted again."""
        return adopt(self._work, self.project.organization_id, self.project.id, {one.id for one in going})

    def settle(self) -> str:
        """One look. Returns what it waits for, nothing at the end."""
        try:
            self.steps.run(
                SETTLE_IMAGES, ImageProject(organization_id=self.project.organization_id, project_id=self.project.id)
            )
        except NotYet as waits:
            return str(waits)
        return ""

    def to_the_end(self) -> None:
        """As often as it takes, with all the time that it takes."""
        for _ in range(8):
            if not self.settle():
                return
            self.pass_time(GRACE)
        raise AssertionError(self.settle())

    def pass_time(self, by: timedelta) -> None:
        """What time does to images on their way, and to snapshots whose manifest may still come."""
        with self.stack.database.write() as session:
            for row in session.execute(select(ImageRow)).scalars():
                row.since -= by
            for metrics in session.execute(select(SnapshotMetrics)).scalars():
                metrics.date_added -= by

    def states(self) -> dict[str, str]:
        """By hash."""
        with self.stack.database.read() as session:
            return {row.hash: row.state for row in session.execute(select(ImageRow)).scalars()}

    def places(self) -> dict[str, dict[str, list[str]]]:
        """What is written down of each image, by place."""
        with self.stack.database.read() as session:
            return {row.hash: row.places for row in session.execute(select(ImageRow)).scalars()}

    def rows(self) -> list[dict[str, Any]]:
        """All that is written down of images on their way."""
        with self.stack.database.read() as session:
            return [dict(row) for row in session.execute(select(*ImageRow.__table__.columns)).mappings()]

    def at_work(self) -> ProjectWork:
        """What a step does its work with."""
        return self._work.on(self.project.organization_id, self.project.id)

    @property
    def _work(self) -> ImageWork:
        settle: SettleImages = self.steps.activities[SETTLE_IMAGES.name].__self__  # type: ignore[attr-defined]
        assert settle.work is not None
        return settle.work

    def total(self, deletion: Deletion) -> Total:
        """What became of its images. The parts are the whole at any time."""
        with self.stack.database.read() as session:
            total = owed.total(session, deletion.deletion_id)
        decided = total.absent, total.kept, total.hidden, total.purged, total.restored
        parts = (*decided, total.undecided, *total.left_over.values())
        assert (total.named, min(parts) >= 0) == (sum(parts), True), total
        return total


@contextlib.contextmanager
def image_steps(stack: Stack, project: Project | None = None, **changes: Any) -> Iterator[ImageSteps]:
    """Over the stack's bucket, whatever its kind. Without a project there is a new one."""
    project = project or stack.world.project(stack.world.organization("acme"), "shop")
    with steps_of(stack, **({"bucket": stack.bucket} | changes)) as steps:
        yield ImageSteps(stack, steps, project)
