"""What the command line shows: bars and tables on a terminal, plain lines into a pipe, JSON for scripts.

`rich` draws the first. It is no requirement of a backend's: where it is not installed, a terminal gets plain lines too.
"""

import importlib.util
import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from client import Trying
from workflows.messages import DeletionReceipt, Preview, Progress, Stage, UnderWay
from workflows.page import counted, rerun_command, stage_lines, under_way_line, why_left_over

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from doctor import Finding

_WINDOW_S = 60.0
_PLAIN_EVERY_S = 5.0
Rows = Sequence[tuple[str, object]]


def is_rich() -> bool:
    """True where bars, tables and colours can be drawn."""
    return sys.stdout.isatty() and importlib.util.find_spec("rich") is not None


def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415  a backend has none

    return Console(highlight=False)


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
    if seconds < 100:  # noqa: PLR2004  two digits
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004


# Following a deletion ---------------------------------------------------------------------------------------------------


class Follower(Protocol):
    """Shows what becomes of a deletion, as often as it is told."""

    def show(self, progress: Progress | None, trying: Sequence[Trying]) -> None:
        """None: nobody answers."""


class Silence:
    """For scripts that want the end alone."""

    def show(self, progress: Progress | None, trying: Sequence[Trying]) -> None:
        """See Follower."""


NO_WORKER = "no worker answers; the deletion waits for one"


class Lines:
    """A line whenever the stage changes or something fails, and every few seconds."""

    def __init__(self, every_s: float = _PLAIN_EVERY_S) -> None:
        self._every_s, self._said, self._at, self._rate = every_s, "", 0.0, Rate()
        self._last: object = None

    def show(self, progress: Progress | None, trying: Sequence[Trying]) -> None:
        """See Follower."""
        now = time.monotonic()
        if progress:
            self._rate.add(now, progress.keys_done)
        kind = (progress and progress.stage, [(one.step, one.failure) for one in trying])
        if kind == self._last and now - self._at < self._every_s:
            return
        said = "\n".join([progress_line(progress, self._rate) if progress else NO_WORKER, *(f"  {one}" for one in trying)])
        if said != self._said:
            print(said, flush=True)
        self._said, self._at, self._last = said, now, kind


class JsonLines:
    """A JSON object a line, whenever anything changes."""

    def __init__(self, workflow: str) -> None:
        self._workflow, self._rate, self._last = workflow, Rate(), ""

    def show(self, progress: Progress | None, trying: Sequence[Trying]) -> None:
        """See Follower."""
        answer = status_json(progress, trying)
        if (now := json.dumps(answer)) == self._last:
            return
        self._last = now
        if progress:
            self._rate.add(time.monotonic(), progress.keys_done)
            rate = {"keys_a_second": self._rate.a_second, "seconds_left": self._rate.seconds_left(progress.keys)}
        print(json.dumps({"workflow_id": self._workflow} | answer | (rate if progress else {})), flush=True)


def status_json(progress: Progress | None, trying: Sequence[Trying]) -> dict[str, Any]:
    """What `status` says to scripts of a running deletion."""
    again = [{"step": one.step, "attempt": one.attempt, "failure": one.failure} for one in trying]
    return {"progress": progress and progress.model_dump(mode="json"), "trying_again": again}


class Bars:
    """A bar for each part of the work, drawn anew in place."""

    def __init__(self) -> None:
        from rich.live import Live  # noqa: PLC0415  a backend has none

        self._rate = Rate()
        self._live = Live(console=_console(), refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:  # noqa: PYI036  handed through
        self._live.__exit__(*ended)

    def show(self, progress: Progress | None, trying: Sequence[Trying]) -> None:
        """See Follower."""
        if progress:
            self._rate.add(time.monotonic(), progress.keys_done)
        self._live.update(_drawn(progress, trying, self._rate), refresh=True)


def _drawn(progress: Progress | None, trying: Sequence[Trying], rate: Rate) -> "RenderableType":
    from rich.console import Group  # noqa: PLC0415  a backend has none
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if progress is None:
        return Text(NO_WORKER, style="yellow")
    table = Table.grid(padding=(0, 2))
    of = {
        "Rows": (progress.chunks_rows_deleted, progress.chunks),
        "Objects": (progress.keys_done, progress.keys),
        "Trace items": (progress.trace_chunks_settled, progress.trace_chunks),
        "Last listing": (progress.chunks_quiet, progress.chunks),
    }
    for part, when, done in stage_lines(progress):
        style = {"done": "green", "now": "bold", "to come": "dim"}[when]
        count, total = of.get(part, (int(when == "done"), 1))
        bar = ProgressBar(total=total or 1, completed=total or 1 if when == "done" and not total else count, width=24)
        speed = f", {_speed(progress, rate)}" if part == "Objects" and when == "now" and _speed(progress, rate) else ""
        table.add_row(Text(part, style=style), bar, Text(f"{done.replace('**', '')}{speed}", style=style))
    lines = [Text(f"  {_plain(step)}", style="dim") for step in progress.under_way]
    lines += [Text(f"  tried again: {one}", style="yellow") for one in trying]
    return Group(Text(f"{progress.stage}", style="bold cyan"), table, *lines)


@contextmanager
def follower(workflow: str, *, as_json: bool = False, quiet: bool = False) -> Iterator[Follower]:
    """The right one for where the output goes."""
    if quiet:
        yield Silence()
    elif as_json:
        yield JsonLines(workflow)
    elif is_rich():
        with Bars() as bars:
            yield bars
    else:
        yield Lines()


def progress_line(progress: Progress, rate: Rate | None = None) -> str:
    """A deletion's progress on one line."""
    speed = _speed(progress, rate) if rate and progress.stage is Stage.DELETING_OBJECTS else ""
    left_over = progress.left_over + progress.found_left_over
    return (
        f"{progress.stage}: {progress.rows_deleted:,} rows, {progress.keys_done:,} of {progress.keys:,} keys"
        f"{f' ({speed})' if speed else ''}, {progress.found_by_listing:,} found by listing"
        f"{f', {left_over:,} left over' if left_over else ''}{''.join(f'; {why}' for why in progress.held_up.values())}"
    )


def _speed(progress: Progress, rate: Rate) -> str:
    left = rate.seconds_left(progress.keys)
    if not rate.a_second or left is None or progress.keys_done >= progress.keys:
        return ""
    return f"{rate.a_second:,.0f} keys a second, about {duration(left)} left"


def status_lines(progress: Progress | None, trying: Sequence[Trying]) -> Iterator[str]:
    """What `status` says of a running deletion."""
    if progress is None:
        yield NO_WORKER
    else:
        yield progress_line(progress)
        yield from (f"  at work: {_plain(step)}" for step in progress.under_way)
    yield from (f"  tried again: {one}" for one in trying)


def left_over_lines(left_over: Mapping[str, int], workflow: str) -> Iterator[str]:
    """What `status` says of one that has ended."""
    for code, count in sorted(left_over.items()):
        yield f"  {count:,} left over: {code}: {why_left_over(code)}"
    if left_over:
        yield f"  then: {rerun_command(workflow)}"


def _plain(step: UnderWay) -> str:
    return under_way_line(step).replace("`", "")


# Tables and receipts ----------------------------------------------------------------------------------------------------


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, styles: Mapping[str, str] | None = None) -> None:
    """A table on a terminal, columns of text elsewhere. `styles`: of cells that say just that."""
    rows = list(rows)
    if not rows:
        return
    if is_rich():
        from rich import box  # noqa: PLC0415  a backend has none
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell, style=(styles or {}).get(cell, ""), overflow="fold") for cell in row))
        _console().print(table)
        return
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_columns(lines: Rows) -> None:
    """Names and values, as receipts and previews have them; what is wrong in red on a terminal."""
    text = columns_text(lines)
    if not is_rich():
        print(text)
        return
    from rich.text import Text  # noqa: PLC0415  a backend has none

    console = _console()
    for line in text.split("\n"):
        bad = line.startswith(("REFUSED", "  why")) or "LEFT OVER" in line
        good = line.startswith("State") and "complete" in line
        style = "red" if bad else "bold green" if good else "dim" if line.startswith(" ") else ""
        console.print(Text(line, style=style), soft_wrap=True)


def print_findings(findings: Iterable["Finding"]) -> None:
    """A line each, and what to do below it."""
    lines = [
        (one.state, f"{one.state:<8}{one.name}: {one.found}", *([f"{'':<8}do: {one.do}"] if one.do else [])) for one in findings
    ]
    if not is_rich():
        print("\n".join(line for _, *said in lines for line in said))
        return
    from rich.text import Text  # noqa: PLC0415  a backend has none

    console, styles = _console(), {"ok": "green", "warn": "yellow", "bad": "bold red", "skipped": "dim"}
    for state, first, *more in lines:
        console.print(Text(first[:8], style=styles[state]) + Text(first[8:]), soft_wrap=True)
        for line in more:
            console.print(Text(line, style=styles[state]), soft_wrap=True)


def columns_text(lines: Rows) -> str:
    """Names and values in two columns; of the indented ones those that have something to say."""
    shown = [(name, value) for name, value in lines if value or not name.startswith(" ")]
    width = max(len(name) for name, _ in shown) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in shown)


def receipt_lines(receipt: DeletionReceipt) -> Rows:
    """A receipt for a person."""
    done = "complete: nothing is left over" if receipt.complete else f"LEFT OVER: {counted(receipt.left_over)}"
    artifacts, objects = receipt.artifacts, receipt.objects
    gone = [f"{ids.count} by {other}" for other, ids in artifacts.gone_before.by_deletion.items()]
    return [
        ("Deletion", receipt.workflow_id),
        ("State", done),
        *(("  why", f"{code}: {why_left_over(code)}") for code in sorted(receipt.left_over)),
        ("  then", "" if receipt.complete else rerun_command(receipt.workflow_id)),
        ("Asked by", f"{receipt.requested_by or 'not said'}, reference {receipt.reference or 'not said'}"),
        ("Artifacts", f"{artifacts.deleted.count:,} of {receipt.requested_artifacts:,} deleted"),
        ("  gone before", "; ".join(gone)),
        ("  gone, swept", artifacts.gone_before.swept.count),
        ("  gone, objects unchecked", artifacts.gone_before.objects_unchecked.count),
        ("  moved away", artifacts.moved.count),
        ("Rows", f"{sum(receipt.rows.values()):,}"),
        *((f"  {table}", f"{count:,}") for table, count in sorted(receipt.rows.items())),
        ("Files", f"{receipt.files.deleted:,} deleted; {receipt.files.blobs_left:,} blobs stay"),
        *((f"  kept: {reason}", ids.count) for reason, ids in receipt.files.kept.items()),
        ("Object keys", f"{objects.sealed:,} sealed: {counted(objects.sealed_by_kind)}"),
        ("  deleted", f"{objects.deleted:,}"),
        ("  absent before", objects.absent),
        ("  kept, still named", objects.kept),
        ("  left over", counted(objects.left_over)),
        ("  found by listing, deleted", f"{objects.found_by_listing:,}"),
        ("  found by listing, left over", counted(objects.found_left_over)),
        ("  prefixes", f"{objects.prefixes_listed_empty:,} of {objects.prefixes:,} listed empty"),
        ("  prefixes unchecked: the store cannot list", objects.prefixes_unchecked),
        ("  unfinished uploads aborted", objects.uploads_aborted),
        ("  prefixes not looked at for uploads", objects.uploads_unchecked),
        ("  digest of the sealed keys", objects.digest),
        ("Images kept for expiry", receipt.manifests.images_kept),
        ("Manifests", f"{receipt.manifests.read:,} read"),
        ("  evicted", receipt.manifests.evicted),
        ("  unreadable", receipt.manifests.unreadable),
        ("  stray keys left alone", receipt.manifests.strays),
        ("Trace items", f"{receipt.trace_items.matched:,} matched, {receipt.trace_items.state}"),
        ("  unchecked: project unknown", receipt.trace_items.unchecked_artifacts),
        ("Accepted", receipt.times.accepted.isoformat(timespec="seconds")),
        ("Rows gone", receipt.times.rows_deleted.isoformat(timespec="seconds") if receipt.times.rows_deleted else "no"),
        ("Closed", receipt.times.closed.isoformat(timespec="seconds")),
    ]


def preview_lines(preview: Preview) -> Rows:
    """A preview for a person."""
    sizes = [found.size for found in preview.objects.values()]
    total = sum(found.count for found in preview.objects.values())
    uploads = preview.unfinished_uploads
    return [
        *(("REFUSED", reason) for reason in preview.refused),
        ("Artifacts", f"{preview.artifacts.count:,} of {preview.requested_artifacts:,} would be deleted"),
        ("  gone, would be swept", preview.gone_swept.count),
        ("  gone, objects unchecked", preview.gone_unchecked.count),
        *(("  in open deletion", other) for other in preview.overlapping),
        ("Rows", f"{sum(preview.rows.values()):,}"),
        *((f"  {table}", f"{count:,}") for table, count in preview.rows.items()),
        *((f"  file kept: {reason}", ids.count) for reason, ids in preview.files_kept.items()),
        ("Objects", f"{total:,}{_bytes(None if None in sizes else sum(size or 0 for size in sizes))}"),
        *((f"  {kind}", f"{found.count:,}{_bytes(found.size)}") for kind, found in preview.objects.items()),
        ("  icons kept, still named", preview.icons_kept),
        ("  unfinished uploads", "nobody can look" if uploads is None else uploads),
        ("Images kept for expiry", preview.manifests.images_kept),
        ("Manifests", f"{preview.manifests.read:,} read"),
        ("  evicted", preview.manifests.evicted),
        ("  unreadable", preview.manifests.unreadable),
        ("Keys left alone", f"{preview.manifests.strays:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in preview.strays.items()),
    ]


def _bytes(size: int | None) -> str:
    return ", size not known: the store cannot list" if size is None else f", {size:,} bytes"


def confirmed(question: str) -> bool:
    """What a person at the terminal answers; no is what anything but yes means."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
