"""How progress, rates, times and reasons are put into words: rules, as tables."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from temporalio.exceptions import ActivityError, ApplicationError, RetryState

from activities.ledger.pages import NOT_ATTEMPTED
from activities.listing import DELETED_BUT_LISTED
from activities.receipt_of import NOT_LISTED
from activities.sweep_prefixes import STILL_THERE, STILL_WRITTEN
from artifact_deletion.client import Trying
from artifact_deletion.receipt import AtWork, Progress, Stage
from artifact_deletion.request import DeletionRequest
from commands.display import columns_text
from commands.followers import Lines, Now, Rate, duration, now_lines
from workflows import text
from workflows.failures import named

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (45.4, "45 s"), (99.4, "99 s"), (120, "2 min"), (5_900, "98 min"), (12_000, "3 h 20 min")],
)
def test_a_duration_is_said_in_two_digits_or_so(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seen", "total", "rate", "left"),
    [
        ([], 10, None, None),
        ([(0.0, 0)], 10, None, None),
        ([(0.0, 0), (2.0, 100)], 300, 50, 4),
        ([(0.0, 0), (2.0, 0)], 300, 0, None),
        ([(0.0, 0), (100.0, 1000), (110.0, 1100)], 1200, 10, 10),
        ([(0.0, 0), (2.0, 100)], 100, 50, 0),
    ],
)
def test_a_rate_is_that_of_the_last_minute(
    seen: Sequence[tuple[float, int]], total: int, rate: float | None, left: float | None
) -> None:
    """A speed of an hour ago says nothing of how long it takes from here."""
    measured = Rate()
    for at, done in seen:
        measured.add(at, done)
    assert (measured.a_second, measured.seconds_left(total) if seen else None) == (rate, left)


def test_plain_lines_say_what_is_tried_again_and_why_it_waits(capsys: pytest.CaptureFixture[str]) -> None:
    """Once each: a deletion that is held is not also in trouble, and the same line is not said twice."""
    shown = Lines(every_s=0)
    trying = [Trying("close_deletion", 3, "the database is away")]
    for _ in range(2):
        shown.show(Now(Progress(stage=Stage.CLOSING, keys=5, keys_done=5), trying))
    held = "every deletion is held since 2026-01-01 00:00:00 UTC; it goes on after `python starter.py lift 1 --by WHO`"
    shown.show(Now(Progress(held=held), [Trying("wait_while_held", 9, held)]))
    shown.show(Now(None, ()))
    shown.show(Now(None, (), temporal_answers=False))
    assert capsys.readouterr().out.splitlines() == [
        "closing: 0 rows, 5 of 5 keys, 0 found by listing",
        "  close_deletion, attempt 3: the database is away",
        f"opening: 0 rows, 0 of 0 keys, 0 found by listing; {held.replace('`', '')}",
        "no worker answers; the deletion waits for one",
        "Temporal does not answer; the deletion goes on where Temporal and its workers are",
    ]


def test_a_step_at_work_is_shown_since_when_in_the_readers_own_time() -> None:
    """The Web UI's line, whose time is UTC, in the zone of the one who reads it here."""
    since = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    step = AtWork(step="delete_objects", count=2, since=since)
    now = Now(Progress(at_work=(step,)), ())
    (_, at_work) = now_lines(now, with_hold=True, utc=True)
    assert at_work == f"  at work: {text.at_work_line(step)}".replace("`", "")
    local = f"{since.astimezone():%Y-%m-%d %H:%M:%S %Z}"
    assert [line for line in now_lines(now, with_hold=True, utc=False) if local in line]


def test_columns_leave_out_indented_lines_that_say_nothing() -> None:
    assert columns_text([("Rows", 0), ("  deleted", 0), ("  kept", "2"), ("State", "")]) == "Rows    0\n  kept  2\nState   "


def test_every_reason_of_ours_for_leftovers_is_explained() -> None:
    """Those of the store's are its own; ours mean something only to one who has read this code."""
    of_receipts = {"MasksUnknown", "Moved", "NamedElsewhere", "OwedByOthers", "Reappeared", "RowsNotDeleted"}
    of_steps = {DELETED_BUT_LISTED, NOT_ATTEMPTED, NOT_LISTED, STILL_THERE, STILL_WRITTEN}
    assert of_steps | of_receipts | {"TraceItemsUnconfirmed"} <= text.LEFT_OVER.keys()


@pytest.mark.parametrize(
    ("state", "cause", "said"),
    [
        (
            RetryState.TIMEOUT,
            ApplicationError("the database is away", type="DatabaseUnavailable"),
            "the database is away. When",
        ),
        (RetryState.TIMEOUT, None, "close_deletion: its time is over. When"),
        (RetryState.NON_RETRYABLE_FAILURE, ApplicationError("not one of them is yours", type="X"), "not one of them is yours"),
    ],
)
def test_a_step_whose_time_was_over_says_how_the_deletion_is_run_again(
    state: RetryState, cause: ApplicationError | None, said: str
) -> None:
    """A refusal would only be repeated; everything else is worth another run once its cause is mended."""
    request = DeletionRequest(organization_id=1, artifact_ids=(2,))
    error = ActivityError(
        "",
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type="close_deletion",
        activity_id="1",
        retry_state=state,
    )
    error.__cause__ = cause
    again = f" the cause is mended: python starter.py rerun {request.workflow_id}"
    assert named(error, request).message == said + (again if said.endswith("When") else "")
