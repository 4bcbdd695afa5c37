"""Numbers and tables as a reader of Markdown sees them: no more digits than a run can be trusted for."""

import textwrap
from collections.abc import Iterable, Sequence

_WIDTH = 128


def shown(value: object) -> str:
    """A number in three digits or so, anything else as it is."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            size = abs(value)
            return f"{value:,.{sum(size < limit for limit in (100, 10, 0.1)) if size else 0}f}"
    return str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The first column is text, all others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([shown(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paragraph(said: str) -> str:
    """As wide as the lines of a page."""
    return textwrap.fill(said, _WIDTH, break_on_hyphens=False)
