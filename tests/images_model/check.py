"""Every reachable state, breadth first, so that a counterexample is a shortest one."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tests.images_model.judge import good, wrong, wrong_step
from tests.images_model.messages import arrivals
from tests.images_model.outside import Step, catch_up, deletions, readers, uploads
from tests.images_model.same import Sameness
from tests.images_model.state import ROWS, Case, State, first_state, needed
from tests.images_model.steps import work

LIMIT = 6_000_000


@dataclass(frozen=True)
class Found:
    states: int
    steps: int
    seconds: float
    wrong: str | None = None
    trace: tuple[str, ...] = ()
    """What led there."""


def next_steps(case: Case, s: State) -> Iterator[Step]:
    yield from uploads(case, s)
    yield from readers(case, s)
    yield from deletions(case, s)
    yield from catch_up(case, s)
    for image in range(case.images):
        yield from work(case, s, image)
    yield from arrivals(case, s)


class Search:
    def __init__(self, case: Case) -> None:
        self.case, self.began = case, time.perf_counter()
        self.same = Sameness(case)
        start = self.same.canonical(first_state(case))
        self.number = {start: 0}
        self.states = [start]
        self.parent, self.how = [-1], [""]
        self.behind: list[list[int]] = [[]]
        """By state: those from which the system itself comes here."""
        self.steps = 0

    def run(self) -> Found:
        queue = deque([0])
        while queue:
            at = queue.popleft()
            s = self.states[at]
            if said := wrong(self.case, s):
                return self.found(said, self.trace(at))
            for what, by_itself, after in next_steps(self.case, s):
                self.steps += 1
                if (after.rows != s.rows or after.owed != s.owed) and (said := wrong_step(self.case, s, after)):
                    return self.found(said, (*self.trace(at), what))
                known = self.known(after, at, what, queue)
                if by_itself and known != at:
                    self.behind[known].append(at)
        return self.judged()

    def known(self, after: State, at: int, what: str, queue: deque[int]) -> int:
        after = self.same.canonical(after)
        known = self.number.get(after)
        if known is None:
            known = self.number[after] = len(self.states)
            self.states.append(after)
            self.parent.append(at)
            self.how.append(what)
            self.behind.append([])
            queue.append(known)
            if known > LIMIT:
                raise OverflowError(f"{self.case.name}: more than {LIMIT:,} states")
        return known

    def judged(self) -> Found:
        """Whether the system can reach a good state from each."""
        reaches = bytearray(len(self.states))
        todo = [one for one, s in enumerate(self.states) if good(self.case, s)]
        for one in todo:
            reaches[one] = 1
        while todo:
            for before in self.behind[todo.pop()]:
                if not reaches[before]:
                    reaches[before] = 1
                    todo.append(before)
        stuck = reaches.find(0)
        if stuck < 0:
            return self.found(None, ())
        s = self.states[stuck]
        is_needed = any(needed(self.case, s, image) for image in range(self.case.images))
        said = "I2: a needed image never becomes readable again" if is_needed else "I3: what no snapshot needs is never gone"
        return self.found(said, (*self.trace(stuck), f"… and then: {_described(s)}"))

    def trace(self, of: int) -> tuple[str, ...]:
        path = []
        while self.parent[of] >= 0:
            path.append(self.how[of])
            of = self.parent[of]
        return tuple(reversed(path))

    def found(self, said: str | None, trace: tuple[str, ...]) -> Found:
        return Found(len(self.states), self.steps, time.perf_counter() - self.began, said, trace)


def _described(s: State) -> str:
    rows = ", ".join(str(ROWS[row.state]) for row in s.rows)
    return f"rows: {rows}; owed: {s.owed}; keys: {s.keys}; on their way: {[m.kind for m in s.net]}"


def check(case: Case) -> Found:
    return Search(case).run()
