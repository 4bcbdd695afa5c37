"""A step dies at every point that it has, and is run again: on both databases, in this process.

What dies is one step, by an error that nothing catches, and no worker: `test_crashes.py` kills real ones. So this costs a tenth
of the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from artifact_deletion.outbox import DeletionState, accept_deletion
from tests import crash_points
from tests import stack as stacks
from tests.crash_points import LATE_KEY, Death, Died
from tests.faults.test_crashes import OF_A_CANCEL, OF_A_PREVIEW, OF_A_TIME, OF_ONE, Place, finds_one
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack, Steps, deletion_of, recorded, steps_of
from workflows.steps import PREVIEW_DELETION, STEPS, WAIT_TO_BEGIN, Due, In, Out, Step

IN_STEPS = [point for point in OF_ONE if point.startswith(tuple(step.name for step in STEPS))]


def on_each(points: list[str]) -> pytest.MarkDecorator:
    """Each point on both databases, of which the one or the other is for `make test-all`."""
    return pytest.mark.parametrize(
        ("point", "database_url"),
        [
            pytest.param(point, url, marks=() if number % 2 == on_postgresql else pytest.mark.thorough)
            for number, point in enumerate(points)
            for on_postgresql, url in enumerate(("sqlite", "postgresql"))
        ],
        indirect=["database_url"],
    )


@dataclass(frozen=True)
class Mortal(Steps):
    """Steps of which one dies: as Temporal does, another worker is given the same step with the same input."""

    death: Death = field(kw_only=True)
    successor: Steps = field(kw_only=True)

    def run(self, step: Step[In, Out], given: In) -> Out:
        try:
            return super().run(step, given)
        except Died:
            self.death.is_dead = False
            done: Out = self.environment.run(self.successor.activities[step.name], given)
            return done


@pytest.fixture
def steps(stack: Stack, point: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mortal]:
    """Steps that come to the points, until the test ends. It is red if none died."""
    death = Death(point)
    monkeypatch.setattr(crash_points, "replace", monkeypatch.setattr)
    monkeypatch.setattr(crash_points, "come_to", death.come_to)
    monkeypatch.setattr(stacks, "ThreadPoolExecutor", crash_points.Threads)
    crash_points.install_in_steps()
    with steps_of(stack) as first, steps_of(stack) as second:
        yield Mortal(first.database, first.activities, death=death, successor=second)
    assert death.struck


@on_each(IN_STEPS)
def test_a_step_that_died_in_a_deletion_is_done_by_another_worker(
    stack: Stack, steps: Mortal, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt shows nothing of it, and counts each row once."""
    place = Place.of(stack)
    if finds_one(point):
        monkeypatch.setenv(LATE_KEY, place.late)
    before = Evidence.of(stack)
    request = stack.request([place.head.id])
    receipt = steps.finish(request, steps.open_and_collect(request))
    place.assert_complete(receipt)
    assert_promises_hold(stack, before, [request], also_owned=place.also_owned)


@pytest.mark.thorough
@on_each(OF_A_CANCEL)
def test_a_cancel_that_died_is_done_by_another_worker(stack: Stack, steps: Mortal) -> None:
    """All is undone, and the same deletion can be asked for again."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    request = stack.request([one.id])
    steps.open_and_collect(request)
    steps.cancel(request)
    assert recorded(stack.database, request.workflow_id).state is DeletionState.CANCELLED
    assert_promises_hold(stack, before, [request])
    assert steps.finish(request, steps.open_and_collect(request)).complete
    assert_promises_hold(stack, before, [request])


@on_each([point for point in OF_A_TIME if point.startswith(WAIT_TO_BEGIN.name)])
def test_a_wait_for_its_time_that_died_is_ended_by_another_worker(stack: Stack, steps: Mortal) -> None:
    """One has asked for it to begin at once meanwhile: that is not lost."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id], not_before=datetime.now(UTC) + timedelta(days=1))
    steps.open(request)
    with stack.database.engine.begin() as of_another:
        accept_deletion(of_another, stack.request([one.id]))
    assert steps.run(WAIT_TO_BEGIN, deletion_of(request)) == Due()


@on_each(OF_A_PREVIEW)
def test_a_preview_that_died_is_made_by_another_worker(stack: Stack, steps: Mortal) -> None:
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    assert steps.run(PREVIEW_DELETION, stack.request([one.id])).artifacts.ids == (one.id,)
    assert Evidence.of(stack) == before
