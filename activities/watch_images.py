"""Starts a workflow for each project of which the deletion hides images: it restores and purges them, after the deletion."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from activities.database import Database
from activities.images import owed
from artifact_deletion.request import TASK_QUEUE
from workflows import text
from workflows.steps import LOOK_SIGNAL, WATCH_IMAGES, WATCH_WORKFLOW, Deletion, ImageProject, ImagesWatched


@dataclass(frozen=True)
class WatchImages:
    """Needs the ledger and Temporal."""

    database: Database

    @activity.defn(name=WATCH_IMAGES.name, no_thread_cancel_exception=True)
    async def watch_images(self, deletion: Deletion) -> ImagesWatched:
        """Returns when a run is at work for each of them, which will look at what the deletion owes."""
        projects = await asyncio.to_thread(self._projects, deletion.deletion_id)
        for organization, project in projects:
            await watch(activity.client(), ImageProject(organization_id=organization, project_id=project))
        return ImagesWatched(projects=len(projects))

    def _projects(self, deletion_id: str) -> list[tuple[int, int]]:
        with self.database.write() as session:
            # Before a run looks: it ends where nothing is undecided, and would not watch over what is hidden after that.
            owed.reopen(session, deletion_id)
            return owed.projects(session, deletion_id)


async def watch_unwatched(client: Client, projects: Iterable[tuple[int, int]]) -> list[str]:
    """Start a workflow for each of these projects that no run watches. Returns the ids of those started.

    Temporal's list may be a moment behind: a run is then told to look once more, or started a round later.
    """
    running = f"WorkflowType = '{WATCH_WORKFLOW}' AND ExecutionStatus = 'Running'"
    every = [ImageProject(organization_id=organization, project_id=project) for organization, project in projects]
    watched = {run.id async for run in client.list_workflows(running)} if every else set[str]()
    unwatched = [project for project in every if project.workflow_id not in watched]
    for project in unwatched:
        await watch(client, project)
    return [project.workflow_id for project in unwatched]


async def watch(client: Client, project: ImageProject) -> None:
    """Start the project's workflow, or tell the one that runs to look once more before it ends."""
    await client.start_workflow(
        WATCH_WORKFLOW,
        project,
        id=project.workflow_id,
        task_queue=TASK_QUEUE,
        start_signal=LOOK_SIGNAL,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        static_summary=f"Images of project {project.project_id} that no snapshot names: hidden, then purged or restored",
        static_details=text.images_details(project.project_id),
    )
