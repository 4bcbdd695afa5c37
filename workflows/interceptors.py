"""What holds for every workflow: it takes one input, and says so to whoever sends more.

Left to the SDK, that fails the workflow task, which is tried again for ever, and nobody hears of it. What is sent to queries
and updates, which take none, the SDK itself passes over.
"""

from typing import Any

from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from workflows.errors import InvalidRequest, to_application_error


class OneInput(Interceptor):
    """Refuses a second input."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:  # noqa: A002, ARG002  the SDK's name
        return _OneInput


class _OneInput(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002  the SDK's name
        if len(input.args) > 1:
            raise to_application_error(InvalidRequest(f"{len(input.args)} inputs were sent; one is taken, the request"))
        return await super().execute_workflow(input)
