"""The days within which a deletion is promised to be done: what is beyond them is counted, listed, and said in the receipt."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig

from activities.gauges import LedgerGauges
from activities.ledger.schema import Ask, Deletion
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import DeletionRequest
from commands.exit_codes import DONE
from composition import open_backend
from tests.stack import Stack, lines, steps_of
from tests.steps.test_reopened import restore
from tests.typed import Done, Run, runner

DAY_S = 86_400
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(stack, monkeypatch, capsys)


def asked_days_ago(stack: Stack, request: DeletionRequest, days: float) -> None:
    """What time does. An ask that was served stays as it was."""
    at = datetime.now(UTC) - timedelta(days=days)
    with stack.database.write() as session:
        session.execute(update(Deletion).where(Deletion.id == request.deletion_id).values(accepted_at=at))
        session.execute(update(Ask).where(Ask.c.deletion_id == request.deletion_id).values(asked_at=at))


@dataclass
class Clock:
    """How far the ledger is beyond the promise, by the metrics and by the list."""

    stack: Stack
    run: Run
    buffer: MetricBuffer = field(default_factory=lambda: MetricBuffer(10_000))

    def __post_init__(self) -> None:
        meter = Runtime(telemetry=TelemetryConfig(metrics=self.buffer, attach_service_name=False)).metric_meter
        backend = open_backend(self.stack.settings(), self.stack.database)
        self._gauges = LedgerGauges(meter, self.stack.database, backend, timedelta(days=30))

    async def overdue(self) -> list[tuple[str, float]]:
        """Workflow ids and ages. The gauges must say the same."""
        self._gauges.refresh()
        metrics = {
            one.metric.name.removeprefix("artifact_deletion_overdue_"): one.value for one in self.buffer.retrieve_updates()
        }
        listed = await self.run("list", "--overdue", "--json")
        assert (listed.code, listed.err) == (DONE, "")
        found = [json.loads(line) for line in lines(listed.out)]
        assert all(one["overdue"] for one in found)
        assert metrics["deletions"] == len(found)
        beyond = max((one["age_days"] for one in found), default=30) - 30
        assert abs(metrics["seconds"] / DAY_S - beyond) < 0.02
        return [(one["workflow_id"], one["age_days"]) for one in found]


@pytest.fixture
def clock(stack: Stack, run: Run) -> Clock:
    return Clock(stack, run)


async def test_what_is_not_done_within_the_promised_days_is_counted_and_listed_oldest_first(stack: Stack, clock: Clock) -> None:
    """Whether no run ever began it, one is at work on it, or it failed; and nothing that is younger."""
    accepted, running, failed, young = requests = [stack.request([one]) for one in (1, 2, 3, 4)]
    assert await clock.overdue() == []
    for request in requests:
        stack.accept(request)
    assert await clock.overdue() == []
    with steps_of(stack) as steps:
        for request in (running, failed):
            steps.open(request)
        assert not steps.close(failed).complete
    for request, days in ((running, 31.5), (accepted, 40.25), (failed, 30.02), (young, 29.98)):
        asked_days_ago(stack, request, days)
    assert await clock.overdue() == [(accepted.workflow_id, 40.25), (running.workflow_id, 31.5), (failed.workflow_id, 30.02)]
    stack.accept(running)
    assert len(await clock.overdue()) == 3, "each counts once, however often it was asked for"


@pytest.mark.parametrize("state", [DeletionState.CANCELLED, DeletionState.REFUSED, DeletionState.CLOSED])
async def test_what_has_ended_owes_nothing_until_it_is_asked_for_anew(stack: Stack, clock: Clock, state: DeletionState) -> None:
    """Then its time counts from that ask, in the outbox and once a run has begun it."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        if state is DeletionState.CLOSED:
            steps.finish(request, sealed)
            restore(stack, one)
        else:
            assert steps.cancel(request).nothing_deleted
            with stack.database.write() as session:
                session.execute(update(Deletion).values(state=state))
        asked_days_ago(stack, request, 400)
        assert await clock.overdue() == []
        stack.accept(request)
        assert await clock.overdue() == []
        anew = datetime.now(UTC) - timedelta(days=31)
        with stack.database.write() as session:
            session.execute(update(Ask).where(Ask.c.served_at.is_(None)).values(asked_at=anew))
        assert await clock.overdue() == [(request.workflow_id, 31)]
        assert abs(stack.recorded(request.workflow_id).accepted_at - anew) < timedelta(seconds=1)
        (chunk,) = steps.open(request)
        assert await clock.overdue() == [(request.workflow_id, 31)]
        assert abs(stack.recorded(request.workflow_id).accepted_at - anew) < timedelta(seconds=1)
        times = steps.finish(request, steps.collect(chunk)).times
    assert times.days == pytest.approx(31.005, abs=0.006)
    assert times.promised_days == 30
    assert await clock.overdue() == []


async def test_a_re_run_of_what_failed_does_not_begin_its_time_anew(stack: Stack, clock: Clock) -> None:
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    with steps_of(stack) as steps:
        steps.open(request)
        assert not steps.close(request).complete
        asked_days_ago(stack, request, 35)
        stack.accept(request)
        assert await clock.overdue() == [(request.workflow_id, 35)]
        (chunk,) = steps.open(request)
        assert await clock.overdue() == [(request.workflow_id, 35)]
        assert steps.finish(request, steps.collect(chunk)).times.days == pytest.approx(35.005, abs=0.006)


@on_sqlite
@pytest.mark.parametrize(("seconds", "days"), [(1, 0.01), (30 * DAY_S - 5, 30), (30 * DAY_S + 5, 30.01)])
def test_the_days_of_a_receipt_are_rounded_up_so_that_a_broken_promise_is_never_called_kept(
    stack: Stack, seconds: int, days: float
) -> None:
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    with steps_of(stack, promised_days=30) as steps:
        sealed = steps.open_and_collect(request)
        asked_days_ago(stack, request, seconds / DAY_S)
        times = steps.finish(request, sealed).times
    assert (times.days, times.promised_days) == (days, 30)


@on_sqlite
async def test_a_person_reads_the_days_in_the_list_and_in_the_receipt(stack: Stack, run: Run) -> None:
    """By the promise that is set: another number is another promise."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    with steps_of(stack, promised_days=7) as steps:
        sealed = steps.open_and_collect(request)
        asked_days_ago(stack, request, 8.26)
        assert await run("list", "--overdue") == Done(DONE, "", "")
        late = await run("list", "--overdue", ARTIFACT_DELETION_PROMISED_DAYS="8")
        assert late.out.split()[5:8] == ["8.3", "running", "1"]
        (row,) = [json.loads(line) for line in lines((await run("list", "--json")).out)]
        assert (row["age_days"], row["overdue"]) == (8.26, False)
        steps.finish(request, sealed)
    assert "after" in (shown := (await run("receipt", request.workflow_id)).out)
    assert shown.endswith("8.27 of 7 promised days\n")
    (row,) = [json.loads(line) for line in lines((await run("list", "--json", ARTIFACT_DELETION_PROMISED_DAYS="1")).out)]
    assert (row["age_days"], row["overdue"]) == (None, False)


@on_sqlite
async def test_overdue_deletions_can_be_narrowed_as_others(stack: Stack, run: Run) -> None:
    requests = [stack.request([1], organization_id=stack.organization_id + number) for number in range(3)]
    for days, request in enumerate(requests, start=31):
        stack.accept(request)
        asked_days_ago(stack, request, days)

    async def found(*arguments: object) -> list[str]:
        listed = await run("list", "--overdue", "--json", *arguments)
        return [json.loads(line)["workflow_id"] for line in lines(listed.out)]

    oldest = [request.workflow_id for request in reversed(requests)]
    assert await found() == oldest
    assert await found("--limit", 2) == oldest[:2]
    assert await found("--organization", stack.organization_id) == oldest[2:]
    assert await found("--state", "failed") == []


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "30d", "10001"])
@on_sqlite
async def test_the_promise_is_whole_days(run: Run, days: str) -> None:
    refused = await run("list", ARTIFACT_DELETION_PROMISED_DAYS=days)
    assert refused.code == 2
    assert refused.err.startswith("ARTIFACT_DELETION_PROMISED_DAYS: ")
