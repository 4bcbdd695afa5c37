"""As much of YAML as our own files are written in, and not a word more: what it does not know, it refuses.

Blocks of mappings and lists, plain and double-quoted scalars, `|` and `>-` texts, comments on lines of their own.
"""

import json
import re
from typing import Any

_KEY = re.compile(r"(?P<key>[A-Za-z0-9_./-]+):(?: (?P<value>.+))?")
_REFUSED = re.compile(r"[\[\]{}&*!%@`'#>|]")


def documents(text: str) -> list[Any]:
    """Every document of a file. Raises ValueError."""
    return [parsed(part) for part in re.split(r"^---$", text, flags=re.MULTILINE) if part.strip()]


def parsed(text: str) -> Any:
    """One document. Raises ValueError with the line that is not understood."""
    if "\t" in text:
        raise ValueError("a tab")
    lines = [line.rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.lstrip().startswith("#")]
    value, rest = _block(lines, 0)
    if rest:
        raise ValueError(rest[0])
    return value


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _block(lines: list[str], indent: int) -> tuple[Any, list[str]]:
    """What stands at this indent, and the lines after it."""
    if lines[0][indent:].startswith("- "):
        return _list(lines, indent)
    found: dict[str, Any] = {}
    while lines and _indent(lines[0]) == indent:
        match = _KEY.fullmatch(lines[0][indent:])
        if match is None or match["key"] in found:
            raise ValueError(lines[0])
        found[match["key"]], lines = _value(match["value"], lines[1:], indent)
    if lines and _indent(lines[0]) > indent:
        raise ValueError(lines[0])
    return found, lines


def _list(lines: list[str], indent: int) -> tuple[list[Any], list[str]]:
    found = []
    while lines and _indent(lines[0]) == indent and lines[0][indent:].startswith("- "):
        item = lines[0][indent + 2 :]
        if _KEY.fullmatch(item):
            value, lines = _block([" " * (indent + 2) + item, *lines[1:]], indent + 2)
        else:
            value, lines = _scalar(item), lines[1:]
        found.append(value)
    return found, lines


def _value(given: str | None, lines: list[str], indent: int) -> tuple[Any, list[str]]:
    if given in {"|", ">-"}:
        end = next((place for place, line in enumerate(lines) if _indent(line) <= indent), len(lines))
        return ("\n" if given == "|" else " ").join(line.strip() for line in lines[:end]), lines[end:]
    if given is not None:
        return _scalar(given), lines
    if lines and (_indent(lines[0]) > indent or (_indent(lines[0]) == indent and lines[0][indent:].startswith("- "))):
        return _block(lines, _indent(lines[0]))
    return None, lines


def _scalar(given: str) -> Any:
    if given.startswith('"'):
        return json.loads(given)
    if _REFUSED.match(given) or ": " in given or " #" in given:
        raise ValueError(given)
    if re.fullmatch(r"-?[0-9]+", given):
        return int(given)
    return {"true": True, "false": False, "null": None}.get(given, given)
