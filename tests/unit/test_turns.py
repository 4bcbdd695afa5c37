"""The threads that make requests of the store: no organization waits behind all that another has in the queue."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Event

import pytest

from activities.stores import turns
from activities.stores.turns import Turns


@pytest.fixture
def may_go() -> Event:
    return Event()


@pytest.fixture
def busy(may_go: Event) -> Turns:
    """One thread, at work until it may go: a job that is submitted meanwhile waits."""
    threads, began = Turns(1), Event()
    threads.submit(began.set)
    threads.submit(may_go.wait, 30)
    assert began.wait(30)
    return threads


def test_a_small_organization_is_served_in_turn_and_a_large_one_step_by_step(busy: Turns, may_go: Event) -> None:
    """In order of arrival the small one would come last; and steps whose jobs were served in turn would all end late."""
    order: list[str] = []
    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(1) as a, ThreadPoolExecutor(1) as b, ThreadPoolExecutor(1) as c:
        for step, organization, job in ((a, "1", "a0"), (b, "1", "b0"), (a, "1", "a1"), (b, "1", "b1"), (c, "2", "small")):
            context = copy_context()
            context.run(turns.organization.set, organization)
            submitted: Future[Future[None]] = step.submit(context.run, lambda job=job: busy.submit(order.append, job))
            waiting.append(submitted.result(30))
    may_go.set()
    for one in waiting:
        one.result(30)
    busy.shutdown()
    assert order == ["a0", "small", "a1", "b0", "b1"]


def test_a_job_that_was_cancelled_is_passed_over_and_a_failure_is_its_own(busy: Turns, may_go: Event) -> None:
    """A step that stops takes back what has not begun; a failure is for the one that asks for the result."""
    cancelled, failing, last = busy.submit(int), busy.submit(int, "no number"), busy.submit(int, "7")
    assert cancelled.cancel()
    may_go.set()
    with pytest.raises(ValueError, match="invalid literal"):
        failing.result(30)
    assert last.result(30) == 7
    busy.shutdown()
