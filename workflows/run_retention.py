"""What a schedule starts: one step, which starts a bulk deletion for each organization of which artifacts have expired.

A schedule gives each run an id of its own. A bulk deletion has one for each organization, so that none runs twice at a time.
"""

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from workflows.budgets import LEDGER
    from workflows.bulk_steps import RETENTION_WORKFLOW, START_RETENTION, Retention, RetentionStarted
    from workflows.failures import alone
    from workflows.inputs import NO_REQUEST, validated


@workflow.defn(name=RETENTION_WORKFLOW)
class RunRetentionWorkflow:
    """See the module."""

    @workflow.run
    async def run(self, raw: RawValue = NO_REQUEST) -> RetentionStarted:
        """Returns once they run."""
        return await alone(START_RETENTION, validated(raw, Retention), LEDGER, "start deletions of what has expired")
