"""How long each step may take, whom it waits for, and whose turn it is first.

Budgets are in time. A step that waits or fails raises an error that says when to try again (activities/interceptors.py); the
retry policy here is for attempts that are lost without a word. Nothing deletes rows behind a sweep that could wait.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.workflow import ActivityConfig

from artifact_deletion.bulk import BULK_PRIORITY
from artifact_deletion.request import TASK_QUEUE
from workflows.steps import OBJECTS_TASK_QUEUE

# A worker says every few seconds that it lives; a step that is lost with its worker is run elsewhere after this.
LOST_AFTER = timedelta(seconds=15)
AGAIN = RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(minutes=1))
ROWS_FIRST, OBJECTS_NEXT, SWEEPS_LAST = 2, 3, 4
"""Temporal's priority keys, 1 to 5: a person waits for rows."""


def _budget(within: timedelta, attempt: timedelta, priority: int, *, task_queue: str = TASK_QUEUE) -> ActivityConfig:
    return ActivityConfig(
        task_queue=task_queue,
        schedule_to_close_timeout=within,
        start_to_close_timeout=attempt,
        heartbeat_timeout=LOST_AFTER,
        retry_policy=AGAIN,
        priority=Priority(priority_key=priority),
    )


# A database that is being upgraded or failed over comes back within hours; after a day a person should look.
LEDGER = _budget(timedelta(days=1), timedelta(minutes=5), ROWS_FIRST)
# Manifests are read from the store, which may be down all weekend; nothing is deleted yet, so waiting harms no one.
READS = _budget(timedelta(days=3), timedelta(hours=6), ROWS_FIRST, task_queue=OBJECTS_TASK_QUEUE)
# One transaction: the database's own time-outs end a wait for a lock that takes too long, and it is run again.
ROWS = _budget(timedelta(days=1), timedelta(hours=1), ROWS_FIRST)
# A store may be down all weekend; after three days a person should look.
OBJECTS = _budget(timedelta(days=3), timedelta(hours=6), OBJECTS_NEXT, task_queue=OBJECTS_TASK_QUEUE)
# The same for the trace store; on top comes the time that its consumer gets.
TRACE_ITEMS = _budget(timedelta(days=3), timedelta(minutes=30), OBJECTS_NEXT)
# The same; on top come the quiet periods, of which a prefix that is written to has several.
SWEEPS = _budget(timedelta(days=3), timedelta(hours=6), SWEEPS_LAST, task_queue=OBJECTS_TASK_QUEUE)
# Manifests of a project's snapshots are read first, all of them the first time; the store may be down all weekend.
HIDING = _budget(timedelta(days=3), timedelta(hours=6), OBJECTS_NEXT, task_queue=OBJECTS_TASK_QUEUE)
# Hidden images wait for as long as snapshots are uploaded that need them: no limit but that of one look.
IMAGES = ActivityConfig(
    task_queue=OBJECTS_TASK_QUEUE,
    start_to_close_timeout=timedelta(hours=6),
    heartbeat_timeout=LOST_AFTER,
    retry_policy=AGAIN,
    priority=Priority(priority_key=OBJECTS_NEXT),
)
# Another deletion may owe objects for a day, and the database may be down for as long again.
CLOSING = _budget(timedelta(days=3), timedelta(minutes=10), OBJECTS_NEXT)
# The next run of a schedule looks again; a large project takes hours, and all else goes first.
LOOKS = _budget(timedelta(days=1), timedelta(hours=12), BULK_PRIORITY, task_queue=OBJECTS_TASK_QUEUE)
# Which project is looked at next, the database alone says.
PROJECTS = _budget(timedelta(days=1), timedelta(minutes=5), BULK_PRIORITY)
# A person waits for the answer: a store that does not come back within hours is reported.
PREVIEWS = _budget(timedelta(hours=4), timedelta(hours=2), ROWS_FIRST, task_queue=OBJECTS_TASK_QUEUE)
# A hold lasts as long as a person wants it to, and so does a deletion that is held; one may begin when a person wants it to.
# These waits have no limit.
UNLIMITED = ActivityConfig(
    task_queue=TASK_QUEUE, start_to_close_timeout=LOST_AFTER, retry_policy=AGAIN, priority=Priority(priority_key=ROWS_FIRST)
)

# A bulk deletion waits for its turn, and at its end for holds. One look at all that is there may take minutes.
TURNS = ActivityConfig(
    task_queue=TASK_QUEUE,
    start_to_close_timeout=timedelta(minutes=5),
    heartbeat_timeout=LOST_AFTER,
    retry_policy=AGAIN,
    priority=Priority(priority_key=ROWS_FIRST),
)


def longer(budget: ActivityConfig, by: timedelta) -> ActivityConfig:
    """The same budget with some time on top."""
    made = budget.copy()
    made["schedule_to_close_timeout"] = (budget["schedule_to_close_timeout"] or timedelta(0)) + by
    return made


def fair(budget: ActivityConfig, organization_id: int) -> ActivityConfig:
    """The same budget, with the organizations served in turns; in a bulk's deletion behind what people wait for."""
    made = budget.copy()
    behind = max(budget["priority"].priority_key or 0, workflow.info().priority.priority_key or 0)
    made["priority"] = Priority(priority_key=behind, fairness_key=str(organization_id))
    return made
