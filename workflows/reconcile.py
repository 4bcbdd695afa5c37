"""What a schedule starts: the look of `starter.py reconcile` at one project after another, and no failed look hides the next.

It writes reports into the ledger and deletes nothing: a person reads them, and deletes by one of them.
"""

from collections import Counter
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.errors import ReconcileNotComplete
    from workflows.budgets import LOOKS, PROJECTS, fair
    from workflows.failures import alone
    from workflows.inputs import NO_REQUEST, validated
    from workflows.reconcile_steps import (
        NEXT_PROJECT,
        RECONCILE_PROJECT,
        RECONCILE_WORKFLOW,
        Look,
        ProjectAfter,
        ProjectReport,
        ReconcileRun,
        Reports,
    )
    from workflows.text import counted

MAX_EVENTS = 2000
"""Of a run, about: a hundred and sixty projects. Then the next run goes on."""
REPORTS_NAMED = FAILED_NAMED = 20
GIVEN_UP_AFTER = 3
"""Failures in a row: it is not the projects' fault, and each of them takes a day."""


@workflow.defn(name=RECONCILE_WORKFLOW)
class ReconcileWorkflow:
    """See the module."""

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> Reports:
        """Returns counts, and the reports that a person should read. If any look failed, ReconcileNotComplete has them."""
        run = validated(raw, ReconcileRun)
        workflow.set_current_details(_details(run))
        while run.failed_in_a_row < GIVEN_UP_AFTER and (project := await self._next(run)) is not None:
            run = await self._look(run, project)
            workflow.set_current_details(_details(run))
            info = workflow.info()
            if info.get_current_history_length() >= MAX_EVENTS or info.is_continue_as_new_suggested():
                workflow.continue_as_new(run, initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE)
        if run.so_far.failures:
            kind = ReconcileNotComplete.__name__
            raise ApplicationError(_not_complete(run), run.so_far, type=kind, non_retryable=True)
        return run.so_far

    async def _next(self, run: ReconcileRun) -> int | None:
        budget: Any = fair(PROJECTS, run.organization_id)
        summary = f"the project after {run.after}" if run.after else "the first project"
        return (await alone(NEXT_PROJECT, ProjectAfter(request=run.request, after=run.after), budget, summary)).project_id

    async def _look(self, run: ReconcileRun, project: int) -> ReconcileRun:
        """What is known after it. The failure of a project that was asked for alone is the workflow's."""
        budget: Any = fair(LOOKS, run.organization_id)
        look = Look(request=run.request, project_id=project)
        try:
            found = await alone(RECONCILE_PROJECT, look, budget, f"look at project {project}")
        except ApplicationError as error:
            if run.project_id is not None:
                raise
            workflow.logger.error("project %s: %s", project, error.message)
            so_far, in_a_row = _with_failed(run.so_far, project, error), run.failed_in_a_row + 1
        else:
            so_far, in_a_row = _with(run.so_far, found, is_alone=run.project_id is not None), 0
        return run.model_copy(update={"after": project, "so_far": so_far, "failed_in_a_row": in_a_row})


def _with(so_far: Reports, found: ProjectReport, *, is_alone: bool) -> Reports:
    is_worth_reading = found.orphans or found.leftovers or found.trace_orphans or found.dangling or is_alone
    return so_far.model_copy(
        update={
            "projects": so_far.projects + 1,
            "orphans": so_far.orphans + found.orphans,
            "orphan_bytes": so_far.orphan_bytes + found.orphan_bytes,
            "trace_orphans": so_far.trace_orphans + found.trace_orphans,
            "without_traces": so_far.without_traces + (found.why_no_traces is not None),
            "dangling": so_far.dangling + found.dangling,
            "implausible": so_far.implausible + found.implausible,
            "reports": (*so_far.reports, *([found] if is_worth_reading else []))[:REPORTS_NAMED],
        }
    )


def _with_failed(so_far: Reports, project: int, error: ApplicationError) -> Reports:
    failures = Counter(so_far.failures) + Counter([error.type or type(error).__name__])
    return so_far.model_copy(update={"failed": (*so_far.failed, project)[:FAILED_NAMED], "failures": dict(failures)})


def _failed(so_far: Reports) -> str:
    """As in: 2 projects could not be looked at (StoreUnavailable 2): 7, 9."""
    count = sum(so_far.failures.values())
    more = " …" if count > len(so_far.failed) else ""
    return f"{count:,} projects could not be looked at ({counted(so_far.failures)}): {', '.join(map(str, so_far.failed))}{more}"


def _not_complete(run: ReconcileRun) -> str:
    """A failed run's message: counts, which projects, and what to do."""
    gave_up = f", and none after {GIVEN_UP_AFTER} failures in a row" if run.failed_in_a_row >= GIVEN_UP_AFTER else ""
    return (
        f"{_failed(run.so_far)}; {run.so_far.projects:,} were looked at{gave_up}. Mend the cause that the failed steps name. "
        f"The next run looks again, and so does `python starter.py reconcile --project N`"
    )


def _not_looked_for(so_far: Reports) -> str:
    return f"; not looked for in {so_far.without_traces:,} projects" if so_far.without_traces else ""


def _details(run: ReconcileRun) -> str:
    """Markdown for the Web UI."""
    so_far = run.so_far
    return "\n".join(
        [
            f"Look at the store's objects beside the rows of {run.of}",
            "",
            f"- **Asked by**: {run.requested_by or 'unknown'}",
            f"- **Projects looked at**: {so_far.projects:,}",
            *([f"- **Failed**: {_failed(so_far)}"] if so_far.failures else []),
            f"- **Orphans**: {so_far.orphans:,} objects, {so_far.orphan_bytes:,} bytes",
            f"- **Orphaned trace items**: {so_far.trace_orphans:,}{_not_looked_for(so_far)}",
            f"- **Artifacts with dangling rows**: {so_far.dangling:,}",
            *(
                f"- Project {one.project_id}: report `{one.report}`, {one.orphans:,} orphans, "
                f"{one.trace_orphans:,} orphaned trace items, {one.dangling:,} dangling"
                for one in so_far.reports
            ),
        ]
    )
