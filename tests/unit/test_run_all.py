"""Many requests at a time: what has been answered is written down, whatever becomes of the others."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from activities import run_all as module
from activities.run_all import ahead, run_all
from artifact_deletion.errors import DatabaseUnavailable, DeletionError, StoreUnavailable


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def answering(answer: int) -> Callable[[], int]:
    return lambda: answer


def refused() -> int:
    raise StoreUnavailable("the object store could not be reached")


def test_answers_are_written_down_although_another_request_failed(executor: ThreadPoolExecutor) -> None:
    written: list[int] = []
    with pytest.raises(StoreUnavailable):
        run_all(executor, [answering(1), refused, answering(2)], written.extend)
    assert sorted(written) == [1, 2]


def test_answers_that_come_soon_after_each_other_are_written_down_together(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small deletion's are one transaction. Each comes only when the one before has been seen."""
    seen = threading.Semaphore(0)
    monkeypatch.setattr(module, "SETTLED_WITHIN_S", 60.0)
    monkeypatch.setattr(module, "between_requests", lambda *_: seen.release())
    batches: list[Sequence[int]] = []

    def answer() -> int:
        assert seen.acquire(timeout=60)
        return 1

    assert run_all(executor, [answer] * 4, batches.append) == [1] * 4
    assert batches == [(1, 1, 1, 1)]


def test_an_answer_does_not_wait_for_all_others_to_be_written_down(executor: ThreadPoolExecutor) -> None:
    """A crash in the middle of a thousand requests must not cost all of them."""
    written = threading.Event()

    def slow() -> int:
        assert written.wait(60)
        return 2

    def settle(answers: Sequence[int]) -> None:
        if 1 in answers:
            written.set()

    assert run_all(executor, [answering(1), slow], settle) == [1, 2]


def test_what_could_not_be_written_down_fails_the_step_after_the_others(executor: ThreadPoolExecutor) -> None:
    written: list[int] = []
    first = threading.Event()

    def settle(answers: Sequence[int]) -> None:
        if 1 in answers:
            first.set()
            raise DatabaseUnavailable("the database could not be used")
        written.extend(answers)

    def later() -> int:
        assert first.wait(60)
        return 2

    with pytest.raises(DeletionError, match="database"):
        run_all(executor, [answering(1), later], settle)
    assert written == [2]


def test_the_next_item_is_asked_for_while_one_is_looked_at(executor: ThreadPoolExecutor) -> None:
    """In order, by one thread after another, and none after an error."""
    asked = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(asked):
            event.set()
            yield number
        raise StoreUnavailable("the object store could not be reached")

    one_by_one = ahead(executor, items())
    for number in range(3):
        assert next(one_by_one) == number
        assert number == 2 or asked[number + 1].wait(10)
    with pytest.raises(StoreUnavailable):
        next(one_by_one)


def test_an_iterator_that_is_left_early_is_left_alone(executor: ThreadPoolExecutor) -> None:
    """What was asked for ahead has ended when it is closed: its own end may close a connection."""
    asked = iter(range(10))
    items = ahead(executor, asked)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert next(asked) == 2, "nothing more was asked for"
