"""A bulk deletion's last step: count what is there still and, if it is nothing, delete what else hangs from the project."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session
from temporalio import activity

from activities.backend.contract import Backend
from activities.database import Database
from activities.ledger import holds
from activities.ledger.holds import On, Placed
from activities.selection import count
from artifact_deletion.bulk import BulkRequest
from artifact_deletion.errors import NotYet
from workflows.bulk_steps import CLOSE_BULK, BulkClosed

_LOOK_AGAIN = timedelta(seconds=3)


@dataclass(frozen=True)
class CloseBulk:
    """Needs the database alone."""

    database: Database
    backend: Backend

    @activity.defn(name=CLOSE_BULK.name, no_thread_cancel_exception=True)
    def close_bulk(self, request: BulkRequest) -> BulkClosed:
        """Returns what remains, and what was deleted. Raises NotYet while a hold keeps any of it."""
        with self.database.write() as session:
            remaining = count(session, self.backend, request)
            if remaining or request.expired:
                return BulkClosed(remaining=remaining)
            holds.lock_out_new_holds(session)
            for hold in holds.placed(session):
                if self._keeps(session, hold, request):
                    raise NotYet(hold.sentence, _LOOK_AGAIN)
            rows = self.backend.bulk.delete_rest(session, request.organization_id, request.project_id)
            return BulkClosed(remaining=0, rows=rows)

    def _keeps(self, session: Session, hold: Placed, request: BulkRequest) -> bool:
        if hold.on_what == On.PROJECT and request.project_id is None:
            return self.backend.organization_of(session, int(hold.on_id)) == request.organization_id
        return hold.is_on(request.organization_id, "", request.project_id)
