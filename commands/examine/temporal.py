"""Looks whether Temporal is there, with our search attributes, and workers at its task queues."""

from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from artifact_deletion.errors import DeletionError
from artifact_deletion.request import SEARCH_ATTRIBUTES, TASK_QUEUE
from commands.connection import connect
from commands.examine.finding import BAD, OK, SETUP, SKIPPED, WARN, Finding
from settings import Settings
from workflows.steps import OBJECTS_TASK_QUEUE

_SEEN_WITHIN = timedelta(minutes=2)
"""Temporal remembers a poller for minutes after its worker has died; one that lives asks at least once a minute."""
_QUEUES = {
    "rows": ((TASK_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW),),
    "objects": ((OBJECTS_TASK_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY),),
}


async def examine_temporal(settings: Settings) -> list[Finding]:
    """Look at Temporal, and at the task queues that a worker with these settings serves."""
    try:
        client = await connect()
    except DeletionError as error:
        later = (Finding(name, SKIPPED, "Temporal was not reached") for name in ("search attributes", "workers"))
        return [Finding("Temporal", BAD, str(error), "set TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, its key or TLS"), *later]
    where = f"{client.service_client.config.target_host}, namespace {client.namespace}"
    queues = _QUEUES.get(settings.serves) or (*_QUEUES["rows"], *_QUEUES["objects"])
    return [
        Finding("Temporal", OK, where),
        await _asked("search attributes", _search_attributes(client)),
        await _asked("workers", _workers(client, queues)),
    ]


async def _asked(name: str, asked: Awaitable[Finding]) -> Finding:
    try:
        return await asked
    except RPCError as error:
        return Finding(name, WARN, f"Temporal does not say ({error.status.name})", "ask those who run the namespace")


async def _search_attributes(client: Client) -> Finding:
    request = ListSearchAttributesRequest(namespace=client.namespace)
    known = (await client.operator_service.list_search_attributes(request)).custom_attributes
    types = {name: IndexedValueType.Name(kind).removeprefix("INDEXED_VALUE_TYPE_").capitalize() for name, kind in known.items()}
    wrong = [f"{name} is {types[name]}" for name, kind in SEARCH_ATTRIBUTES.items() if types.get(name, kind) != kind]
    if wrong:
        wanted = ", ".join(f"{name}={kind}" for name, kind in SEARCH_ATTRIBUTES.items())
        return Finding("search attributes", BAD, ", ".join(wrong), f"remove them and make them anew as {wanted}")
    if missing := sorted(SEARCH_ATTRIBUTES.keys() - types.keys()):
        return Finding("search attributes", WARN, f"without {', '.join(missing)} lists cannot be filtered", f"run `{SETUP}`")
    return Finding("search attributes", OK, ", ".join(sorted(SEARCH_ATTRIBUTES)))


async def _workers(client: Client, queues: Sequence[tuple[str, TaskQueueType.ValueType]]) -> Finding:
    alone, since = [], datetime.now(UTC) - _SEEN_WITHIN
    for queue, kind in queues:
        request = DescribeTaskQueueRequest(namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind)
        pollers = (await client.workflow_service.describe_task_queue(request)).pollers
        if not any(one.last_access_time.ToDatetime(UTC) >= since for one in pollers):
            alone.append(queue)
    if alone:
        said = f"no worker has asked for work from {', '.join(alone)} within two minutes"
        return Finding("workers", WARN, said, "start `python worker.py`")
    return Finding("workers", OK, f"at work on {' and '.join(queue for queue, _ in queues)}")
