"""Arguments and options that several commands take, and how their words are read."""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from artifact_deletion.request import OPAQUE_ID
from commands.exit_codes import BadUsage

_LARGEST = 2**63
_SEPARATORS = re.compile(r"[\s,]+")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LATEST, _LONGEST = timedelta(days=90), timedelta(days=36_500)
_FIRST, _END = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""Python can reckon with these in any zone, and some days before and after."""


class Ids(tuple[int, ...]):
    """The ids that one word names: `4`, or `4,42`."""

    __slots__ = ()


def number(value: str) -> int:
    # ASCII digits alone: int() takes more than a person would call a number.
    if not re.fullmatch(r"-?[0-9]{1,30}", value, re.ASCII) or abs(found := int(value)) >= _LARGEST:
        raise typer.BadParameter("must be a whole number of at most 63 bits")
    return found


def numbers(value: str) -> Ids:
    return Ids(number(one) for one in value.split(","))


def positive(value: str | int) -> int:
    if (found := number(str(value))) < 1:  # a default is none yet
        raise typer.BadParameter("must be 1 or more")
    return found


def text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that were typed in another encoding
        raise typer.BadParameter("must be text in UTF-8") from None
    return value


def some_text(value: str) -> str:
    if not value.strip():
        raise typer.BadParameter("must not be empty")
    return text(value)


def opaque_id(value: str) -> str:
    if not re.fullmatch(OPAQUE_ID, value):
        raise typer.BadParameter("must be an opaque id, such as user:7")
    return value


def seconds(value: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhd])", value, re.ASCII)
    if not found or (duration := float(found[1]) * _SECONDS[found[2]]) == 0:
        raise typer.BadParameter("must be a time such as 30s, 5m or 1h")
    return duration


def age(value: str | timedelta) -> timedelta:
    if (found := value if isinstance(value, timedelta) else timedelta(seconds=seconds(value))) > _LONGEST:
        raise typer.BadParameter(f"must be {_LONGEST.days}d at most")
    return found


def delay(value: str) -> timedelta:
    """Bounded, since a mistyped number would ask for a deletion that never begins."""
    if (found := age(value)) > _LATEST:
        raise typer.BadParameter("must be 90d at most")
    return found


def percent(value: str | int) -> int:
    if not 1 <= (found := number(str(value))) <= 100:  # noqa: PLR2004  all
        raise typer.BadParameter("must be 1 to 100")
    return found


def moment(value: str) -> datetime:
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise typer.BadParameter("must be a time such as 2026-11-25T02:00:00+00:00") from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if not _FIRST <= found < _END:
        raise typer.BadParameter("must be a time of the years 1970 to 9998")
    return found


_WHICH = "workflow id, digest, or the first 8 or more digits of the digest"
Artifacts = Annotated[list[Ids] | None, typer.Argument(parser=numbers, metavar="ID", help="artifact ids: 4 42, or 4,42")]
IdsFrom = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="artifact ids from a file, with spaces, commas or lines between; - is standard input"),
]
Deletion = Annotated[str, typer.Argument(parser=text, metavar="DELETION", help=_WHICH)]
AnyDeletion = Annotated[str | None, typer.Argument(parser=text, metavar="DELETION", help=_WHICH)]
Organization = Annotated[int, typer.Option(parser=number, metavar="N", help="the organization they all belong to")]
OneOrganization = Annotated[int | None, typer.Option(parser=number, metavar="N", help="those of one organization")]
Project = Annotated[
    int | None, typer.Option(parser=number, metavar="N", help="where artifacts lay whose rows are already gone")
]
OneProject = Annotated[int, typer.Option("--project", parser=number, metavar="N", help="the project")]
RequestedBy = Annotated[str | None, typer.Option(metavar="ID", help="opaque id of the one who asks, such as user:7")]
Images = Annotated[
    Literal["delete", "keep"],
    typer.Option(case_sensitive=False, help="whether the images go too that no other snapshot of their project shows"),
]
Reference = Annotated[str | None, typer.Option(metavar="ID", help="ticket or request id")]
By = Annotated[str, typer.Option(parser=opaque_id, metavar="ID", help="your opaque id, such as user:7; stays in the ledger")]
Yes = Annotated[bool, typer.Option("--yes", help="ask no question")]
Wait = Annotated[bool, typer.Option("--wait", help="follow it to its end")]
Json = Annotated[bool, typer.Option("--json", help="for scripts; times are UTC")]
Utc = Annotated[bool, typer.Option("--utc", help="times in UTC instead of this machine's zone")]


def artifact_ids(words: Sequence[Ids] | None, file: str | None) -> tuple[int, ...]:
    """Return the artifacts that were named, as words or in a file. Raises BadUsage."""
    named = [one for word in words or () for one in word]
    if file is not None:
        named += _ids_in(file)
    elif not words:
        raise BadUsage("no artifact ids: name some, or a file of them with --ids-from")
    return tuple(named)


def _ids_in(file: str) -> list[int]:
    """Read ids with spaces, commas or lines between. `-` is standard input."""
    try:
        content = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadUsage(f"the file of ids cannot be read ({type(error).__name__})") from None
    try:
        return [number(one) for one in _SEPARATORS.split(content) if one]
    except typer.BadParameter as error:
        raise BadUsage(f"the file of ids has something else: each {error.message}") from None
