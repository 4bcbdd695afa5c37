"""All that the steps about images share: made for one project at a time, of what the worker has."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from temporalio import activity

from activities.database import Database
from activities.images.catch_up import CatchUp
from activities.images.decisions import Decisions, Times
from activities.images.places import project_of
from activities.images.requests import ImageRequests
from activities.metrics import count_images
from activities.stores.guards import BeforeDeleting, Guard
from activities.stores.images import ImageStore


@dataclass(frozen=True)
class ProjectWork:
    """What may be done about the images of one project."""

    decisions: Decisions
    requests: ImageRequests


@dataclass(frozen=True)
class ImageWork:
    """What the worker has. `store_for` opens the store with a guard that each request that hides or purges calls first."""

    database: Database
    catching_up: CatchUp
    store_for: Callable[[BeforeDeleting], ImageStore]
    requests: Executor
    guard: Guard
    times: Times

    def catch_up(self, project_id: int) -> None:
        """Read what the index does not have of a project's snapshots. Raises StoreUnavailable."""
        for _, added in self.catching_up.parts(project_id):
            if self.times.reserved and activity.in_activity():
                count_images(activity.metric_meter(), unregistered=added)

    def on(self, organization_id: int, project_id: int, deletion_id: str = "") -> ProjectWork:
        """Asks the store where the project's images may lie. Raises StoreUnavailable."""
        store = self.store_for(self.guard.before(organization_id, deletion_id, project_id))
        project = project_of(self.catching_up.backend, store, organization_id, project_id)
        index = self.catching_up.index
        ours = partial(project.with_ours, store=store)
        decisions = Decisions(self.database, index, self.times, organization_id, project_id, store.how, ours)
        return ProjectWork(decisions, ImageRequests(self.database, store, self.requests, project, self.times.reserved))
