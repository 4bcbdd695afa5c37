"""What a schedule starts: the look of `starter.py reconcile` at one project after another, a step for each.

It writes reports into the ledger and deletes nothing: a person reads them, and deletes by one of them.
"""

from typing import Any

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from workflows.budgets import LOOKS, fair
    from workflows.failures import alone
    from workflows.inputs import NO_REQUEST, validated
    from workflows.reconcile_steps import (
        RECONCILE_PROJECT,
        RECONCILE_WORKFLOW,
        ProjectAfter,
        ProjectReport,
        Reconcile,
        ReconcileRun,
        Reports,
    )

MAX_EVENTS = 2000
"""Of a run, about: three hundred projects. Then the next run goes on."""
REPORTS_NAMED = 20


@workflow.defn(name=RECONCILE_WORKFLOW)
class ReconcileWorkflow:
    """See the module."""

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> Reports:
        """Returns counts, and the reports that a person should read."""
        given = validated(raw, ReconcileRun)
        request = Reconcile(**given.model_dump(exclude={"after", "so_far"}))
        after, so_far = given.after, given.so_far
        while found := await self._look(request, after):
            after, so_far = found.project_id, _with(so_far, found, is_alone=request.project_id is not None)
            workflow.set_current_details(_details(request, so_far))
            info = workflow.info()
            if info.get_current_history_length() >= MAX_EVENTS or info.is_continue_as_new_suggested():
                workflow.continue_as_new(
                    ReconcileRun(**request.model_dump(), after=after, so_far=so_far),
                    initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE,
                )
        return so_far

    async def _look(self, request: Reconcile, after: int) -> ProjectReport | None:
        budget: Any = fair(LOOKS, request.organization_id)
        next_one = f"the project after {after}" if after else request.of
        return (await alone(RECONCILE_PROJECT, ProjectAfter(request=request, after=after), budget, f"look at {next_one}")).found


def _with(so_far: Reports, found: ProjectReport, *, is_alone: bool) -> Reports:
    is_worth_reading = found.orphans or found.dangling or is_alone
    return Reports(
        projects=so_far.projects + 1,
        orphans=so_far.orphans + found.orphans,
        orphan_bytes=so_far.orphan_bytes + found.orphan_bytes,
        dangling=so_far.dangling + found.dangling,
        implausible=so_far.implausible + found.implausible,
        reports=(*so_far.reports, *([found] if is_worth_reading else []))[:REPORTS_NAMED],
    )


def _details(request: Reconcile, so_far: Reports) -> str:
    """Markdown for the Web UI."""
    return "\n".join(
        [
            f"Look at the store's objects beside the rows of {request.of}",
            "",
            f"- **Asked by**: {request.requested_by or 'unknown'}",
            f"- **Projects looked at**: {so_far.projects:,}",
            f"- **Orphans**: {so_far.orphans:,} objects, {so_far.orphan_bytes:,} bytes",
            f"- **Artifacts with dangling rows**: {so_far.dangling:,}",
            *(
                f"- Project {one.project_id}: report `{one.report}`, {one.orphans:,} orphans, {one.dangling:,} dangling"
                for one in so_far.reports
            ),
        ]
    )
