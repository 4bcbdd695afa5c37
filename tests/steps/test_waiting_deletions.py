"""Deletions that wait for their time: which ask decides when one begins, in whatever order they come."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError
from sqlalchemy import select
from temporalio.testing import ActivityEnvironment

from activities.database import Database
from activities.ledger import deletions
from activities.ledger.schema import Ask, Deletion, clock
from activities.wait_to_begin import WaitToBegin
from artifact_deletion.errors import ArtifactNotInOrganization, NotOpen, NotYet
from artifact_deletion.outbox import DeletionState, accept_deletion, deletions_to_start
from artifact_deletion.request import DeletionRequest
from demo.world import screen
from tests.stack import Stack, Steps, deletion_of, steps_of
from tests.steps.test_deletion_states import step_of
from tests.steps.test_reopened import restore
from workflows.steps import OPEN_DELETION, WAIT_TO_BEGIN, Due, Opened, Opening

HOUR = timedelta(hours=1)
AT_ONCE = None
NOW = datetime.now(UTC)
SOON, LATER = NOW + HOUR, NOW + 24 * HOUR
A_PAST_TIME = NOW - HOUR
Times = list[datetime | None]


@pytest.fixture
def wanted(stack: Stack) -> DeletionRequest:
    return stack.request([one.id for one in stack.snapshots("one")])


def at(request: DeletionRequest, time: datetime | None) -> DeletionRequest:
    return DeletionRequest.model_validate(request.model_dump() | {"not_before": time})


def ask(database: Database, request: DeletionRequest, *times: datetime | None) -> None:
    for time in times:
        with database.write() as session:
            assert accept_deletion(session, at(request, time)) == request.workflow_id


def open_in(steps: Steps, run: str, request: DeletionRequest, *, fresh: bool = True) -> Opened:
    opened: Opened = step_of(run).run(steps.activities[OPEN_DELETION.name], Opening(request=request, fresh=fresh))
    return opened


def wait(database: Database, request: DeletionRequest, fence: int = 0) -> Due:
    due: Due = ActivityEnvironment().run(WaitToBegin(database, 1).wait_to_begin, deletion_of(request, fence))
    return due


def waiting(database: Database, request: DeletionRequest) -> datetime | None:
    """As `list` and `status` see it."""
    with database.read() as session:
        return deletions.waiting(session, [request.deletion_id]).get(request.deletion_id)


def set_state(database: Database, request: DeletionRequest, state: DeletionState) -> None:
    with database.write() as session:
        session.execute(Deletion.__table__.update().values(state=state))  # type: ignore[attr-defined]


# Which time counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "of_the_run", "begins_at"),
    [
        ([LATER], LATER, LATER),
        ([LATER, SOON], LATER, SOON),
        ([SOON, LATER], SOON, SOON),
        ([LATER, AT_ONCE], LATER, AT_ONCE),
        ([AT_ONCE, LATER], AT_ONCE, AT_ONCE),
        ([LATER], AT_ONCE, LATER),
        ([], LATER, LATER),
        ([], AT_ONCE, AT_ONCE),
    ],
)
def test_the_earliest_wish_counts_and_a_runs_own_where_no_one_asked(
    stack: Stack, wanted: DeletionRequest, asked: Times, of_the_run: datetime | None, begins_at: datetime | None
) -> None:
    """`resume` starts a deletion with the request of any ask: that one decides nothing."""
    ask(stack.database, wanted, *asked)
    with steps_of(stack) as steps:
        assert open_in(steps, "run-1", at(wanted, of_the_run)).begins_at == begins_at
        assert waiting(stack.database, wanted) == begins_at
        assert open_in(steps, "run-1", at(wanted, of_the_run)).begins_at == begins_at, "another attempt, whose answer was lost"


def test_the_time_is_no_part_of_the_deletions_id_and_says_its_zone(wanted: DeletionRequest) -> None:
    """The same artifacts are the same deletion, whenever it is to begin; one time in two zones is the same time."""
    assert at(wanted, LATER).deletion_id == wanted.deletion_id
    in_nepal = DeletionRequest.model_validate(wanted.model_dump() | {"not_before": "2026-11-25T07:45:00+05:45"})
    assert in_nepal.model_dump(mode="json")["not_before"] == "2026-11-25T02:00:00Z"
    nonsenses: list[object] = [
        "2026-11-25T02:00:00",
        "tomorrow",
        "0001-01-01T00:00:00+14:00",
        "",
        1764036000,
        "1764036000",
        True,
        {},
    ]
    for nonsense in nonsenses:
        with pytest.raises(ValidationError, match="must be a time with its zone") as refused:
            DeletionRequest.model_validate(wanted.model_dump() | {"not_before": nonsense})
        assert "tomorrow" not in refused.value.errors()[0]["msg"]


def test_what_another_hand_wrote_counts_in_its_zone_and_nonsense_says_nothing(stack: Stack, wanted: DeletionRequest) -> None:
    """Other languages write the JSON themselves, and may leave the field out: then they want it at once."""
    without = wanted.model_dump(mode="json")
    del without["not_before"]
    in_nepal = f"{(SOON + timedelta(hours=5, minutes=45)).replace(tzinfo=None).isoformat()}+05:45"
    times: list[object] = [LATER.isoformat(), in_nepal, "tomorrow", 5, {}]
    with stack.database.write() as session:
        for written in times:
            values = {"deletion_id": wanted.deletion_id, "request": without | {"not_before": written}}
            session.execute(Ask.insert().values(values))
    with steps_of(stack) as steps:
        assert open_in(steps, "run-1", wanted).begins_at == SOON
        with stack.database.write() as session:
            session.execute(Ask.insert().values(deletion_id=wanted.deletion_id, request=without))
        assert open_in(steps, "run-2", wanted).begins_at is AT_ONCE


@pytest.mark.parametrize(("state", "begins_at"), [(DeletionState.RUNNING, SOON), (DeletionState.FAILED, SOON)])
def test_an_unfinished_deletion_is_never_put_off(
    stack: Stack, wanted: DeletionRequest, state: DeletionState, begins_at: datetime
) -> None:
    """A user who presses Delete once more must not give it another day; and a run that begins anew keeps its time."""
    ask(stack.database, wanted, SOON)
    with steps_of(stack) as steps:
        open_in(steps, "run-1", wanted)
        set_state(stack.database, wanted, state)
        ask(stack.database, wanted, LATER)
        assert open_in(steps, "run-2", wanted).begins_at == begins_at
        set_state(stack.database, wanted, state)
        assert open_in(steps, "run-2, reset", wanted, fresh=False).begins_at == begins_at


@pytest.mark.thorough
@pytest.mark.parametrize("ended", [DeletionState.CLOSED, DeletionState.CANCELLED, DeletionState.REFUSED])
def test_a_deletion_that_had_ended_begins_when_those_want_who_ask_anew(stack: Stack, ended: DeletionState) -> None:
    """In January it was deleted at once, in March its rows are back: the ask of January must not end March's undo window."""
    (snapshot,) = stack.snapshots("one")
    wanted = stack.request([snapshot.id])
    ask(stack.database, wanted, AT_ONCE)
    with steps_of(stack) as steps:
        if ended is DeletionState.CLOSED:
            steps.finish(wanted, steps.open_and_collect(wanted))
            restore(stack, snapshot)
        else:
            open_in(steps, "January", wanted)
            assert steps.cancel(wanted).nothing_deleted
            set_state(stack.database, wanted, ended)
        ask(stack.database, wanted, LATER)
        with stack.database.read() as session:
            (resumed,) = deletions_to_start(session)
        assert resumed.not_before is AT_ONCE, "the request of another life"
        opened = open_in(steps, "March", resumed)
        assert (opened.begins_at, waiting(stack.database, wanted)) == (LATER, LATER)


@pytest.mark.thorough
def test_a_closed_deletion_with_nothing_to_do_waits_for_nothing(stack: Stack, wanted: DeletionRequest) -> None:
    """It answers with its receipt."""
    with steps_of(stack) as steps:
        assert steps.finish(wanted, steps.open_and_collect(wanted)).complete
        ask(stack.database, wanted, LATER)
        assert open_in(steps, "run-2", at(wanted, LATER)).begins_at is None
    assert stack.recorded(wanted.workflow_id).state is DeletionState.CLOSED


def test_a_request_for_anothers_artifact_is_refused_before_its_time(stack: Stack, wanted: DeletionRequest) -> None:
    """Who asked would otherwise hear of it a day later."""
    project = stack.world.project(stack.world.organization("globex"), "app")
    foreign = stack.world.snapshot(project, {"home": screen("home")})
    request = at(stack.request([*wanted.artifact_ids, foreign.id]), LATER)
    ask(stack.database, request, LATER)
    with steps_of(stack) as steps, pytest.raises(ArtifactNotInOrganization):
        open_in(steps, "run-1", request)
    assert stack.recorded(request.workflow_id).state is DeletionState.REFUSED


# The wait -----------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_it_waits_until_its_time_by_the_databases_clock_and_says_until_when(stack: Stack, wanted: DeletionRequest) -> None:
    """Looked at every few minutes, since it may be asked for sooner; the last look comes when the time does."""
    with steps_of(stack) as steps:
        for begins_at, retry in ((LATER, timedelta(minutes=5)), (SOON, timedelta(minutes=5))):
            ask(stack.database, wanted, begins_at)
            open_in(steps, "run-1", at(wanted, begins_at))
            said = f"begins at {begins_at:%Y-%m-%d %H:%M:%S} UTC, unless it is cancelled before"
            with pytest.raises(NotYet, match=f"^{said}$") as not_yet:
                steps.run(WAIT_TO_BEGIN, deletion_of(wanted))
            assert not_yet.value.retry_in == retry
        with stack.database.read() as session:
            in_a_minute = session.execute(select(clock())).scalar_one() + timedelta(minutes=1)
        ask(stack.database, wanted, in_a_minute)
        with pytest.raises(NotYet) as not_yet:
            wait(stack.database, wanted)
        assert not_yet.value.retry_in is not None
        assert timedelta(0) < not_yet.value.retry_in <= timedelta(minutes=1)
        ask(stack.database, wanted, A_PAST_TIME)
        assert wait(stack.database, wanted) == Due()
        assert waiting(stack.database, wanted) is None


@pytest.mark.thorough
def test_one_who_asks_for_it_at_once_ends_the_wait_for_all(stack: Stack, wanted: DeletionRequest) -> None:
    """Also for a run that begins anew, and for the list: it waits no more."""
    ask(stack.database, wanted, LATER)
    with steps_of(stack) as steps:
        open_in(steps, "run-1", at(wanted, LATER))
        ask(stack.database, wanted, AT_ONCE)
        assert wait(stack.database, wanted) == Due()
        assert waiting(stack.database, wanted) is None
        assert open_in(steps, "resumed", at(wanted, LATER)).begins_at is None
        assert wait(stack.database, wanted) == Due()


@pytest.mark.thorough
def test_what_is_cancelled_while_it_waits_begins_never_and_asked_for_anew_when_that_ask_says(
    stack: Stack, wanted: DeletionRequest
) -> None:
    """A wait that comes late meets nothing of the next life, whose time is its own."""
    ask(stack.database, wanted, LATER, SOON)
    with steps_of(stack) as steps:
        open_in(steps, "run-1", at(wanted, LATER))
        assert steps.cancel(wanted).nothing_deleted
        assert waiting(stack.database, wanted) is None
        with pytest.raises(NotOpen):
            wait(stack.database, wanted)
        ask(stack.database, wanted, LATER)
        assert open_in(steps, "run-2", at(wanted, LATER)).begins_at == LATER
        with pytest.raises(NotOpen):
            wait(stack.database, wanted)
        with pytest.raises(NotYet):
            wait(stack.database, wanted, fence=1)
