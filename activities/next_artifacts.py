"""A bulk deletion's next artifacts, by their ids, so that those which come meanwhile are seen too. Its turn is waited for.

A few deletions of artifacts with many keys would fill the ledger, and the store would have work for days. So the next one waits
until those that run owe few enough keys. A deletion that has just begun has none yet: it is waited for as long as it collects
them, but not much longer than that takes.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio import activity

from activities.backend.contract import Backend
from activities.database import Database
from activities.ledger import in_flight
from activities.selection import next_page
from artifact_deletion.errors import NotYet
from workflows.bulk_steps import NEXT_ARTIFACTS, After, ArtifactsFound

COLLECTED_WITHIN = timedelta(minutes=1)
"""Keys count as they are collected. A deletion that takes longer, since the store is away, holds up no other."""


@dataclass(frozen=True)
class NextArtifacts:
    """Needs the database alone."""

    database: Database
    backend: Backend
    keys_at_once: int

    @activity.defn(name=NEXT_ARTIFACTS.name, no_thread_cancel_exception=True)
    def next_artifacts(self, page: After) -> ArtifactsFound:
        """Returns none at the end. Raises NotYet while the organization's running deletions owe too many keys."""
        is_fresh = datetime.now(UTC) - activity.info().scheduled_time < COLLECTED_WITHIN
        with self.database.read() as session:
            if is_fresh and page.last is not None and not in_flight.is_collected(session, page.last):
                raise NotYet("the keys of the deletion before it are collected first")
            in_flight.refuse_too_many(session, page.request.organization_id, self.keys_at_once)
            ids, not_before = next_page(session, self.backend, page.request, page.after, page.at_most)
        return ArtifactsFound(artifact_ids=ids, not_before=not_before)
