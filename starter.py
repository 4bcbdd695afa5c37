#!/usr/bin/env python3
"""The command line: its parser and its exit codes. Each command has a file of its own in commands/."""

import asyncio
import errno
import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from commands import images, retention, schedule
from commands.exit_codes import BAD_USAGE, DONE, EXPECTED, INTERRUPTED, OUTPUT_LOST, explained
from commands.output import OutputLost, say, warn
from commands.version import version
from temporal_client import send_traces

_PROGRAM = "starter.py"
Command = Callable[..., Any]
COMMANDS: dict[str, dict[str, str | dict[str, str]]] = {
    "Ask": {
        "delete": "delete:delete",
        "preview": "preview:preview",
        "cancel": "cancel:cancel",
        "delete-project": "delete_project:delete_project",
        "delete-organization": "delete_organization:delete_organization",
        "retention": {
            "set": "retention.set:set_policy",
            "list": "retention.list:list_policies",
            "remove": "retention.remove:remove",
            "preview": "retention.preview:preview",
            "run": "retention.run:run",
        },
        "schedule": {
            "set": "schedule.set:set_schedule",
            "reconcile": "schedule.reconcile:set_reconcile",
            "list": "schedule.list:list_schedules",
            "pause": "schedule.change:pause",
            "unpause": "schedule.change:unpause",
            "run": "schedule.change:run",
            "remove": "schedule.change:remove",
        },
    },
    "Follow": {
        "status": "status:status",
        "list": "list:list_deletions",
        "receipt": "receipt:receipt",
        "verify": "verify:verify",
        "images": {"status": "images.status:status", "index": "images.index:index", "adopt": "images.adopt:adopt"},
        "reconcile": "reconcile:reconcile",
    },
    "Mend": {"rerun": "rerun:rerun", "resume": "resume:resume", "doctor": "doctor:doctor", "reapply": "reapply:reapply"},
    "Emergencies": {
        "hold": "hold:hold",
        "holds": "holds:list_holds",
        "lift": "lift:lift",
        "confirm": "confirm:confirm",
        "pause": "pause:pause",
        "unpause": "pause:unpause",
    },
    "Set up": {"setup": "setup:setup", "schema": "schema:schema", "demo": "demo:demo"},
}
"""The file and function of each command, by the panel in which the help shows it; those of a group have two words."""
_GROUPS = {"images": images.__doc__, "retention": retention.__doc__, "schedule": schedule.__doc__}


def _show_version(wanted: bool) -> None:  # noqa: FBT001  Typer's way to call it
    if wanted:
        say(f"artifact-deletion {version()}")
        raise typer.Exit


def _every_command(
    *, version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="say it and end")] = False
) -> None:
    """Delete snapshot artifacts for good: start deletions, follow them, run them again."""


def _app(first: str = "") -> typer.Typer:
    """All commands, or those of the first word alone if it is one: the others take as long to import as a short look does."""
    app = typer.Typer(
        callback=_every_command,
        no_args_is_help=True,
        rich_markup_mode="rich",
        epilog=(
            "Exit codes: 0 done, 1 failed or left over, 2 bad usage, 3 Temporal or the database not reached, "
            "74 the output could not be written, 130 Ctrl-C."
        ),
    )
    is_one = any(first in commands for commands in COMMANDS.values())
    for panel, commands in COMMANDS.items():
        for name, place in commands.items():
            if is_one and name != first:
                continue
            if isinstance(place, str):
                _add(app, name, place, panel)
                continue
            group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
            for second, of_group in place.items():
                _add(group, second, of_group)
            app.add_typer(group, name=name, help=_GROUPS[name], rich_help_panel=panel)
    return app


def _add(app: typer.Typer, name: str, place: str, panel: str | None = None) -> None:
    file, _, function = place.partition(":")
    run: Command = getattr(import_module(f"commands.{file}"), function)
    app.command(name, help=_in_paragraphs(run.__doc__ or ""), rich_help_panel=panel)(_with_exit_code(run))


def _in_paragraphs(docstring: str) -> str:
    """Put each paragraph on one line: the help breaks it where the terminal ends."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(docstring).split("\n\n"))


def _with_exit_code(run: Callable[..., Any]) -> Callable[..., int]:
    """Make a command answer with an exit code also where it fails as can be expected."""

    @functools.wraps(run)
    def command(**given: Any) -> int:
        try:
            done = run(**given)
            code: int = asyncio.run(done) if inspect.iscoroutine(done) else done
        except EXPECTED as error:
            sentence, code = explained(error)
            warn(sentence)
        return code

    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return _run(arguments)
    except OutputLost as lost:
        return _output_lost(lost.__cause__)
    except OSError as error:
        if error.errno in {errno.EIO, errno.ENOSPC}:  # the help, or a table on a terminal, could not be written
            return _output_lost(error)
        raise
    except KeyboardInterrupt:
        return INTERRUPTED


def _output_lost(why: BaseException | None) -> int:
    """Say so, except to one who closed the pipe or the stream, and knows."""
    if isinstance(why, OSError) and not isinstance(why, BrokenPipeError):
        with suppress(OutputLost):
            warn(f"the output could not be written ({why.strerror}); what was done before that is done")
    return OUTPUT_LOST


def _run(arguments: Sequence[str] | None) -> int:
    try:
        first = next(iter(sys.argv[1:] if arguments is None else arguments), "")
        code = typer.main.get_command(_app(first)).main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        usage = getattr(error, "ctx", None)  # the parser has one; a command that refuses words has none
        if type(error).__name__ != "NoArgsIsHelpError":  # it has shown the help
            said = error.format_message().replace("Value error, ", "")
            warn(f"{usage.get_usage()}\n{said}" if usage else said)
        return error.exit_code
    except SystemExit as ended:  # of settings and of Typer's completion
        if isinstance(ended.__context__, BrokenPipeError):  # Typer and rich end so
            return OUTPUT_LOST
        return ended.code if isinstance(ended.code, int) else BAD_USAGE if ended.code else DONE
    return code or DONE


def run() -> NoReturn:
    """Run the command line of this process, and end it."""
    ended_with = main()
    send_traces()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or never there
            stream.flush()
    # The SDK's threads can hold up an interpreter that ends while a call is still open, as after Ctrl-C.
    os._exit(ended_with)


if __name__ == "__main__":
    run()
