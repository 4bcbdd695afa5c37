"""Which project a reconcile looks at next. A step of its own: a look that fails ends itself, and not the run."""

from dataclasses import dataclass

from temporalio import activity

from activities.backend.contract import Backend
from activities.database import Database
from artifact_deletion.errors import InvalidRequest
from workflows.reconcile_steps import NEXT_PROJECT, ProjectAfter, ProjectFound


@dataclass(frozen=True)
class NextProject:
    """Needs the database alone."""

    database: Database
    backend: Backend
    listable: bool
    """Whether the store can list: else no project could be looked at."""

    @activity.defn(name=NEXT_PROJECT.name, no_thread_cancel_exception=True)
    def next_project(self, given: ProjectAfter) -> ProjectFound:
        """Returns none after the last project. Raises InvalidRequest."""
        if not self.listable:
            raise InvalidRequest("the store cannot list, so nothing can be looked for")
        request, after = given.request, given.after
        with self.database.read() as session:
            if request.project_id is None:
                living, organization = self.backend.living, request.organization_id
                return ProjectFound(project_id=self.backend.bulk.next_project(session, living, organization, after))
            if self.backend.organization_of(session, request.project_id) != request.organization_id:
                raise InvalidRequest(f"project_id: there is no such project in organization {request.organization_id}")
            return ProjectFound(project_id=request.project_id if after < request.project_id else None)
