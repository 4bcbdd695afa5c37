"""A bulk deletion's next artifacts, by their ids, so that those which come meanwhile are seen too."""

from dataclasses import dataclass

from temporalio import activity

from activities.backend.contract import Backend
from activities.database import Database
from activities.selection import next_page
from workflows.bulk_steps import NEXT_ARTIFACTS, After, ArtifactsFound


@dataclass(frozen=True)
class NextArtifacts:
    """Needs the database alone."""

    database: Database
    backend: Backend

    @activity.defn(name=NEXT_ARTIFACTS.name, no_thread_cancel_exception=True)
    def next_artifacts(self, page: After) -> ArtifactsFound:
        """Returns none at the end."""
        with self.database.read() as session:
            ids, not_before = next_page(session, self.backend, page.request, page.after, page.at_most)
        return ArtifactsFound(artifact_ids=ids, not_before=not_before)
