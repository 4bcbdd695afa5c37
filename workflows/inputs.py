"""What a workflow takes: one input, JSON of a request from any client, which it validates itself.

Left to the SDK, an input that does not decode fails the workflow task, which is tried again for ever without a word to the
caller. Here it fails the workflow once, in words that name fields and no values.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, ValidationError

    from artifact_deletion.errors import InvalidRequest, to_application_error
    from artifact_deletion.request import MAX_REQUEST_BYTES, refused_fields

NO_REQUEST = RawValue(Payload())
Request = TypeVar("Request", bound=BaseModel)


def validated(raw: RawValue, kind: type[Request], workflow_id: Callable[[Request], str] | None = None) -> Request:
    """The request, if it is one and the workflow runs under its id. Raises InvalidRequest, which is final, without a value.

    A schedule gives each run an id of its own: such a workflow names none.
    """
    if len(raw.payload.data) > MAX_REQUEST_BYTES:
        raise to_application_error(InvalidRequest(f"the request is longer than {MAX_REQUEST_BYTES:,} bytes"))
    try:
        request: object = workflow.payload_converter().from_payload(raw.payload, kind)
    except ValidationError as error:
        raise to_application_error(InvalidRequest(refused_fields(error))) from None
    except Exception:  # noqa: BLE001  an input of any kind must end here, or it is tried for ever
        request = None
    if not isinstance(request, kind):
        raise to_application_error(InvalidRequest("the request is not JSON of what this workflow takes"))
    if workflow_id is not None and workflow.info().workflow_id != (own := workflow_id(request)):
        # Under one id Temporal runs a deletion once at a time, whichever client asks.
        raise to_application_error(InvalidRequest(f"this deletion's workflow id is {own}"))
    return request


class OneInput(Interceptor):
    """Refuses a second input."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:  # noqa: A002, ARG002  the SDK's name
        return _OneInput


class _OneInput(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002  the SDK's name
        if len(input.args) > 1:
            raise to_application_error(InvalidRequest(f"{len(input.args)} inputs were sent; one is taken, the request"))
        return await super().execute_workflow(input)
