"""A bulk deletion's first step: refuse another's project, count the artifacts, and say how much goes at a time."""

from dataclasses import dataclass

from temporalio import activity

from activities.backend.contract import Backend
from activities.database import Database
from activities.permitted import refuse_foreign_project
from activities.selection import count
from artifact_deletion.bulk import BulkRequest
from workflows.bulk_steps import OPEN_BULK, BulkOpened


@dataclass(frozen=True)
class OpenBulk:
    """Needs the database alone."""

    database: Database
    backend: Backend
    artifacts_a_deletion: int
    deletions_at_once: int
    unconfirmed: int | None
    """More artifacts than these need a second person's word."""
    search_attributes: bool

    @activity.defn(name=OPEN_BULK.name, no_thread_cancel_exception=True)
    def open_bulk(self, request: BulkRequest) -> BulkOpened:
        """Returns counts, and changes nothing. Raises ProjectNotInOrganization."""
        with self.database.read() as session:
            refuse_foreign_project(session, self.backend, request)
            artifacts = count(session, self.backend, request)
        return BulkOpened(
            artifacts=artifacts,
            too_many=self.unconfirmed is not None and artifacts > self.unconfirmed,
            artifacts_a_deletion=self.artifacts_a_deletion,
            deletions_at_once=self.deletions_at_once,
            search_attributes=self.search_attributes,
        )
