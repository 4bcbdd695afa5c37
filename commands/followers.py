"""The ways to show how far a deletion is: bars on a terminal, plain lines in a pipe, JSON lines for scripts."""

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from artifact_deletion.client import Trying
from artifact_deletion.receipt import AtWork, Progress, Stage
from commands.display import at, console
from commands.output import say
from workflows import text

_WINDOW_S = 60.0
_PLAIN_EVERY_S = 5.0
_TWO_DIGITS = 100
NO_WORKER = "no worker answers; the deletion waits for one"
NO_TEMPORAL = "Temporal does not answer; the deletion goes on where Temporal and its workers are"


def as_objects(trying: Sequence[Trying]) -> dict[str, Any]:
    """Steps that are tried again, for JSON."""
    return {"trying_again": [{"step": one.step, "attempt": one.attempt, "failure": one.reason} for one in trying]}


@dataclass(frozen=True)
class Now:
    """How a running deletion is."""

    progress: Progress | None
    """None: no worker answers."""
    trying: Sequence[Trying]
    """Its steps that are tried again."""
    temporal_answers: bool = True

    @property
    def as_json(self) -> dict[str, Any]:
        return {"progress": self.progress and self.progress.model_dump(mode="json")} | as_objects(self.trying)

    @property
    def troubles(self) -> Sequence[Trying]:
        """The steps that are tried again for more than that the deletion is held."""
        return [one for one in self.trying if self.progress is None or one.reason != self.progress.held]

    @property
    def silence(self) -> str:
        """Why there is no progress to show."""
        return NO_WORKER if self.temporal_answers else NO_TEMPORAL


@dataclass
class Rate:
    """Keys a second over the last minute, and the time that is left at that rate."""

    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, at_s: float, done: int) -> None:
        self._seen.append((at_s, done))
        while at_s - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()

    @property
    def a_second(self) -> float | None:
        """None while nothing is known."""
        if not self._seen or (elapsed := self._seen[-1][0] - self._seen[0][0]) <= 0:
            return None
        return (self._seen[-1][1] - self._seen[0][1]) / elapsed

    def seconds_left(self, total: int) -> float | None:
        """None while nothing moves."""
        rate = self.a_second
        return None if not rate or rate < 0 else max(0, total - self._seen[-1][1]) / rate


def duration(seconds: float) -> str:
    """As in: 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < _TWO_DIGITS:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < _TWO_DIGITS else f"{minutes // 60} h {minutes % 60} min"


class Lines:
    """Print a line whenever the stage changes or something fails, and every few seconds."""

    def __init__(self, every_s: float = _PLAIN_EVERY_S) -> None:
        self._every_s, self._said, self._at, self._rate = every_s, "", 0.0, Rate()
        self._last: object = None

    def show(self, now: Now) -> None:
        at_s, progress = time.monotonic(), now.progress
        if progress:
            self._rate.add(at_s, progress.keys_done)
        kind = (progress and progress.stage, now.silence, [(one.step, one.reason) for one in now.troubles])
        if kind == self._last and at_s - self._at < self._every_s:
            return
        first = progress_line(progress, self._rate) if progress else now.silence
        said = "\n".join([first, *(f"  {one}" for one in now.troubles)])
        if said != self._said:
            say(said)
        self._said, self._at, self._last = said, at_s, kind


class JsonLines:
    """Print a JSON object on a line, whenever anything changes."""

    def __init__(self, workflow: str) -> None:
        self._workflow, self._rate, self._last = workflow, Rate(), ""

    def show(self, now: Now) -> None:
        answer = now.as_json
        if (line := json.dumps(answer)) == self._last:
            return
        self._last, rate = line, {}
        if now.progress:
            self._rate.add(time.monotonic(), now.progress.keys_done)
            left = self._rate.seconds_left(now.progress.keys)
            rate = {"keys_a_second": self._rate.a_second, "seconds_left": left}
        say(json.dumps({"workflow_id": self._workflow} | answer | rate))


class Bars(Live):
    """Draw a bar for each part of the work, always in the same place."""

    def __init__(self, *, utc: bool = False) -> None:
        super().__init__(console=console(), refresh_per_second=8, transient=True)
        self._rate, self._utc = Rate(), utc

    def show(self, now: Now) -> None:
        if now.progress:
            self._rate.add(time.monotonic(), now.progress.keys_done)
        self.update(_drawn(now, self._rate, utc=self._utc), refresh=True)


Follower = Lines | JsonLines | Bars


def _drawn(now: Now, rate: Rate, *, utc: bool) -> RenderableType:
    again = [Text(f"  tried again: {one}", style="yellow") for one in now.troubles]
    if (progress := now.progress) is None:
        return Group(Text(now.silence, style="yellow"), *again)
    table = Table.grid(padding=(0, 2))
    of = {
        "Rows": (progress.chunks_rows_deleted, progress.chunks),
        "Objects": (progress.keys_done, progress.keys),
        "Trace items": (progress.trace_chunks_confirmed, progress.trace_chunks),
        "Listings": (progress.chunks_swept, progress.chunks),
    }
    for part, when, done in text.part_lines(progress):
        style = {"done": "green", "now": "bold", "to come": "dim"}[when]
        count, total = of.get(part, (int(when == "done"), 1))
        bar = ProgressBar(total=total or 1, completed=total or 1 if when == "done" and not total else count, width=24)
        speed = _speed(progress, rate) if part == "Objects" and when == "now" else ""
        said = ", ".join(filter(None, (done.replace("**", ""), speed)))
        table.add_row(Text(part, style=style), bar, Text(said, style=style))
    held = [Text(f"  {_plain(progress.held)}", style="yellow")] if progress.held else []
    at_work = [Text(f"  {at_work_line(step, utc=utc)}", style="dim") for step in progress.at_work]
    return Group(Text(text.stage_line(progress), style="bold cyan"), table, *held, *at_work, *again)


def progress_line(progress: Progress, rate: Rate | None = None) -> str:
    """A deletion's progress on one line."""
    speed = _speed(progress, rate) if rate and progress.stage is Stage.DELETING_OBJECTS else ""
    return (
        f"{text.stage_line(progress)}: {progress.rows_deleted:,} rows, {progress.keys_done:,} of {progress.keys:,} keys"
        f"{f' ({speed})' if speed else ''}, {progress.found_by_listing:,} found by listing"
        f"{f', {progress.left_over:,} left over' if progress.left_over else ''}"
        f"{f'; {_plain(progress.held)}' if progress.held else ''}"
    )


def _speed(progress: Progress, rate: Rate) -> str:
    left = rate.seconds_left(progress.keys)
    if not rate.a_second or left is None or progress.keys_done >= progress.keys:
        return ""
    return f"{rate.a_second:,.0f} keys a second, about {duration(left)} left"


def now_lines(now: Now, *, with_hold: bool, utc: bool) -> Iterator[str]:
    """How a running deletion is, in lines for `status`. Without the hold where another line says it already."""
    if now.progress is None:
        yield now.silence
    else:
        yield progress_line(now.progress if with_hold else now.progress.model_copy(update={"held": None}))
        yield from (f"  at work: {at_work_line(step, utc=utc)}" for step in now.progress.at_work)
    yield from (f"  tried again: {one}" for one in now.troubles)


def at_work_line(step: AtWork, *, utc: bool) -> str:
    """The Web UI's words, with the time as the reader wants it."""
    return _plain(text.at_work_line(step).replace(text.at(step.since), at(step.since, utc=utc)))


def _plain(said: str) -> str:
    return said.replace("`", "")
