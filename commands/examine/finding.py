"""One thing that `doctor` looked at: how it stands, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.text import Text

from artifact_deletion.errors import DeletionError
from commands.display import console, on_terminal
from commands.output import say

OK, WARN, BAD, SKIPPED = "ok", "warn", "bad", "skipped"
"""WARN: deletions run all the same. BAD: they do not, or not to their end."""
SETUP = "python starter.py setup"
ADAPTERS = "install the packages that it names, or mend ARTIFACT_DELETION_ADAPTERS"
_STYLES = {OK: "green", WARN: "yellow", BAD: "bold red", SKIPPED: "dim"}


@dataclass(frozen=True)
class Finding:
    """About one thing."""

    name: str
    state: str
    found: str
    do: str = ""


def tried(name: str, ask: Callable[[], object], found: str, do: str) -> Finding:
    """Well, unless asking raises an error of ours."""
    try:
        ask()
    except DeletionError as error:
        return Finding(name, BAD, str(error), do)
    return Finding(name, OK, found)


def print_findings(findings: Iterable[Finding]) -> None:
    """A line each, and what to do below it."""
    for one in findings:
        lines = [f"{one.state:<8}{one.name}: {one.found}", *([f"{'':<8}do: {one.do}"] if one.do else [])]
        if not on_terminal():
            say("\n".join(lines))
            continue
        style, shown = _STYLES[one.state], console()
        shown.print(Text(lines[0][:8], style=style) + Text(lines[0][8:]), soft_wrap=True)
        for line in lines[1:]:
            shown.print(Text(line, style=style), soft_wrap=True)
