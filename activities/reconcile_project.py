"""A look at one project for a workflow: what `reconcile` does for a person. It writes a report, and deletes nothing."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio import activity

from activities.backend.contract import Backend
from activities.database import Database
from activities.ledger.schema import clock
from activities.reconcile.facts import Project
from activities.reconcile.reconcile import Reconciliation
from activities.reconcile.report import Report, report_of, write
from artifact_deletion.errors import InvalidRequest
from workflows.reconcile_steps import RECONCILE_PROJECT, ProjectAfter, ProjectReport, Reconciled


@dataclass(frozen=True)
class ReconcileProject:
    """Needs the database and a store that can list."""

    database: Database
    backend: Backend
    listable: bool
    begin: Callable[[Project, timedelta, datetime], Reconciliation]

    @activity.defn(name=RECONCILE_PROJECT.name, no_thread_cancel_exception=True)
    def reconcile_project(self, given: ProjectAfter) -> Reconciled:
        """Returns none after the last project. Raises StoreUnavailable, InvalidRequest.

        An attempt that dies is begun anew: what it had looked at was in its own process.
        """
        if not self.listable:
            raise InvalidRequest("the store cannot list, so nothing can be looked for")
        request = given.request
        with self.database.read() as session:
            project = self._next(session, given)
            now = session.execute(select(clock())).scalar_one()
        if project is None:
            return Reconciled(found=None)
        look = self.begin(Project(request.organization_id, project), request.older_than, now)
        with closing(look.tally):
            for _ in look.list_objects():
                pass
            for _ in look.check_rows():
                pass
            write(report := report_of(look, request.usable_for, request.implausible))
            return Reconciled(found=_counts(report))

    def _next(self, session: Session, given: ProjectAfter) -> int | None:
        request = given.request
        if request.project_id is None:
            return self.backend.bulk.next_project(session, self.backend.living, request.organization_id, given.after)
        if self.backend.organization_of(session, request.project_id) != request.organization_id:
            raise InvalidRequest(f"project_id: there is no such project in organization {request.organization_id}")
        return request.project_id if given.after < request.project_id else None


def _counts(report: Report) -> ProjectReport:
    orphans = report.classes["orphan"]
    return ProjectReport(
        project_id=report.look.project.id,
        report=report.id,
        rows=report.look.rows.artifacts,
        objects={name: one.sum.objects for name, one in report.classes.items() if one.sum.objects},
        orphan_bytes=orphans.sum.size,
        dangling=sum(report.dangling.values()),
        implausible=report.is_implausible,
    )
