"""`reconcile --delete`: ask for deletions of what a report lists, and start them."""

import sys

from activities.ledger import reports
from activities.ledger.reports import Recorded
from activities.one_of import slices
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import MAX_ARTIFACTS, DeletionRequest
from commands.connection import open_ledger
from commands.exit_codes import DONE, FAILED, BadUsage
from commands.following import start_and_follow
from commands.output import confirmed, warn


async def delete_orphans(report_id: str, *, requested_by: str | None, yes: bool, wait: bool, as_json: bool) -> int:
    """Returns the exit code. Each deletion has at most as many artifacts as a request may have."""
    with open_ledger() as database:
        with database.read() as session:
            report = reports.find(session, report_id)
            if report is None:
                raise BadUsage("the ledger has no such report")
            if why := report.why_unusable:
                raise BadUsage(f"nothing may be deleted by this report: {why}")
            requests = [
                DeletionRequest(
                    organization_id=report.organization_id,
                    project_id=report.project_id,
                    artifact_ids=part,
                    requested_by=requested_by,
                    report=report.id,
                )
                for part in slices(reports.listed(session, report.id), MAX_ARTIFACTS)
            ]
        if not requests:
            warn("the report lists nothing to delete")
            return DONE
        if not yes and sys.stdin.isatty() and not await confirmed(_question(report)):
            warn("nothing was asked for")
            return FAILED
        with database.write() as session:
            for request in requests:
                accept_deletion(session, request)
        codes = [await start_and_follow(database, one, wait=wait, as_json=as_json, utc=False) for one in requests]
        return max(codes)


def _question(report: Recorded) -> str:
    """As the report counted."""
    of_class = report.totals["classes"]
    classes = [of_class[name] for name in ("orphan", "comparison_leftover")]
    objects, size, artifacts = (sum(one[what] for one in classes) for what in ("objects", "bytes", "artifacts"))
    traces = of_class["trace_orphan"]["objects"]
    return (
        f"Delete {objects:,} objects ({size:,} bytes) of {artifacts:,} artifacts of project {report.project_id} for good, and "
        f"trace items of orphans ({traces:,} were counted), as far as no row stands for them by now?"
    )
