"""How commands show things: in tables and colours on a terminal that has room for them, in plain lines everywhere else.

An identifier is never cut or folded, so that it can be copied.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from commands.output import say

Rows = Sequence[tuple[str, object]]
NOTHING = "-"
"""A cell that has nothing to say."""
_ANY_WIDTH = 10_000
_SHOWN = 20
_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), "�")


def on_terminal() -> bool:
    """True where tables, bars and colours can be drawn."""
    return sys.stdout is not None and sys.stdout.isatty()


def console() -> Console:
    """Open the terminal. rich heeds NO_COLOR, and knows of terminals that can do little."""
    return Console(highlight=False)


def at(moment: datetime, *, utc: bool, seconds: bool = True) -> str:
    """A time in this machine's zone, or in UTC, with the zone's name."""
    there = moment.astimezone(UTC if utc else None)
    return f"{there:%Y-%m-%d %H:%M:%S %Z}" if seconds else f"{there:%Y-%m-%d %H:%M %Z}"


def in_utc(moment: datetime) -> str:
    """A time for scripts."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def one_line(text: str) -> str:
    """A person's free text, without characters that move a terminal's cursor."""
    return text.translate(_CONTROL)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, styles: Mapping[str, str] | None = None) -> None:
    """Print a table on a terminal that is wide enough, columns of text elsewhere. `styles` are by a cell's text."""
    rows = list(rows)
    if not rows:
        return
    if on_terminal() and (table := _table(columns, rows, styles or {})) is not None:
        console().print(table)
        return
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str]) -> Table | None:
    """Leave out columns that say nothing. Returns None if the terminal is too narrow for the rest."""
    telling = [place for place in range(len(columns)) if any(row[place] != NOTHING for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place in telling:
        table.add_column(columns[place], no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[place], style=styles.get(row[place], "")) for place in telling))
    shown = console()
    wanted = Measurement.get(shown, shown.options.update(max_width=_ANY_WIDTH), table).maximum
    return table if wanted <= shown.width else None


def print_line(line: Text) -> None:
    """Print a line, in colour on a terminal. The terminal itself breaks one that is too long."""
    if on_terminal():
        console().print(line, soft_wrap=True)
    else:
        say(line.plain)


def print_columns(lines: Rows) -> None:
    """Print names and values, as receipts and previews have them; on a terminal red where something is wrong."""
    for line in columns_text(lines).split("\n"):
        bad = line.startswith(("REFUSED", "  why")) or "LEFT OVER" in line or "STILL THERE" in line
        good = line.startswith("State") and "complete" in line
        style = "red" if bad else "bold green" if good else "dim" if line.startswith(" ") else ""
        print_line(Text(line, style=style))


def some(things: Sequence[object]) -> str:
    """The first of them, for a line."""
    return ", ".join(map(str, things[:_SHOWN])) + (" …" if len(things) > _SHOWN else "")


def said(lines: Rows) -> Rows:
    """Leave out indented lines that have no value."""
    return [(name, value) for name, value in lines if value or not name.startswith(" ")]


def columns_text(lines: Rows) -> str:
    """Put names and values in two columns. An indented line that has no value is left out."""
    shown = said(lines)
    width = max(len(name) for name, _ in shown) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in shown)
