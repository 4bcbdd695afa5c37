"""One thing that `doctor` looked at: how it stands, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.text import Text

from artifact_deletion.errors import DeletionError
from commands.display import print_line

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
    """OK, unless asking raises an error of ours."""
    try:
        ask()
    except DeletionError as error:
        return Finding(name, BAD, str(error), do)
    return Finding(name, OK, found)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print a line for each, and what to do below it."""
    for one in findings:
        state = Text(f"{one.state:<8}", style=_STYLES[one.state])
        print_line(state + Text(f"{one.name}: {one.found}"))
        if one.do:
            print_line(Text(f"{'':<8}do: {one.do}", style=_STYLES[one.state]))
