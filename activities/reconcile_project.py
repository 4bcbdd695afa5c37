"""A look at one project for a workflow: what `reconcile` does for a person. It writes a report, and deletes nothing."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from temporalio import activity

from activities.database import Database
from activities.ledger.schema import clock
from activities.reconcile.facts import Project
from activities.reconcile.reconcile import Reconciliation
from activities.reconcile.report import Report, report_of, write
from workflows.reconcile_steps import RECONCILE_PROJECT, Look, ProjectReport


@dataclass(frozen=True)
class ReconcileProject:
    """Needs the database and a store that can list."""

    database: Database
    begin: Callable[[Project, timedelta, datetime], Reconciliation]

    @activity.defn(name=RECONCILE_PROJECT.name, no_thread_cancel_exception=True)
    def reconcile_project(self, given: Look) -> ProjectReport:
        """Returns its report's counts. Raises StoreUnavailable.

        An attempt that dies is begun anew: what it had looked at was in its own process.
        """
        request = given.request
        with self.database.read() as session:
            now = session.execute(select(clock())).scalar_one()
        look = self.begin(Project(request.organization_id, given.project_id), request.older_than, now)
        with closing(look.tally):
            for _ in look.list_objects():
                pass
            for _ in look.check_rows():
                pass
            for _ in look.check_traces():
                pass
            write(report := report_of(look, request.usable_for, request.implausible))
            return _counts(report)


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
        why_no_traces=report.look.why_no_traces,
    )
