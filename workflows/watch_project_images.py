"""The images of one project on their way: one run a project, as long as any is hidden.

Its one step waits by being tried again, so that a month of waiting adds nothing to the history; only a deletion that has more
images does, by a signal.
"""

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from workflows.budgets import IMAGES, fair
    from workflows.failures import named
    from workflows.steps import LOOK_SIGNAL, SETTLE_IMAGES, WATCH_WORKFLOW, ImageProject


@workflow.defn(name=WATCH_WORKFLOW)
class WatchProjectImagesWorkflow:
    """See the module."""

    def __init__(self) -> None:
        self._asked = 0

    @workflow.signal(name=LOOK_SIGNAL)
    def look(self) -> None:
        """A deletion has images of the project: a run that is about to end looks once more."""
        self._asked += 1

    @workflow.run
    async def run(self, project: ImageProject) -> None:
        """Returns when no image of the project is on its way."""
        answered = -1
        while answered != self._asked:
            answered = self._asked
            await self._settle(project)

    async def _settle(self, project: ImageProject) -> None:
        budget: Any = fair(IMAGES, project.organization_id)
        settling = asyncio.ensure_future(
            workflow.execute_activity(
                SETTLE_IMAGES.name,
                project,
                result_type=SETTLE_IMAGES.returns,
                summary="restore or purge hidden images",
                **budget,
            )
        )
        await workflow.wait_condition(lambda: settling.done() or workflow.info().is_continue_as_new_suggested())
        if not settling.done():
            settling.cancel()
            workflow.continue_as_new(project)
        try:
            await settling
        except ActivityError as error:
            raise named(error) from None
