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
from typing import Annotated, Any, NoReturn

import typer

from commands import images, retention, schedule
from commands.cancel import cancel
from commands.confirm import confirm
from commands.delete import delete
from commands.delete_organization import delete_organization
from commands.delete_project import delete_project
from commands.demo import demo
from commands.doctor import doctor
from commands.exit_codes import BAD_USAGE, DONE, EXPECTED, INTERRUPTED, OUTPUT_LOST, explained
from commands.hold import hold
from commands.holds import list_holds
from commands.images.adopt import adopt
from commands.images.index import index
from commands.images.status import status as images_status
from commands.lift import lift
from commands.list import list_deletions
from commands.output import OutputLost, say, warn
from commands.pause import pause, unpause
from commands.preview import preview
from commands.reapply import reapply
from commands.receipt import receipt
from commands.reconcile import reconcile
from commands.rerun import rerun
from commands.resume import resume
from commands.retention.list import list_policies
from commands.retention.preview import preview as retention_preview
from commands.retention.remove import remove as retention_remove
from commands.retention.run import run as retention_run
from commands.retention.set import set_policy
from commands.schedule import change
from commands.schedule.list import list_schedules
from commands.schedule.reconcile import set_reconcile
from commands.schedule.set import set_schedule
from commands.schema import schema
from commands.setup import setup
from commands.status import status
from commands.verify import verify
from commands.version import version
from temporal_client import send_traces

_PROGRAM = "starter.py"
Command = Callable[..., Any]
COMMANDS: dict[str, dict[str, Command | dict[str, Command]]] = {
    "Ask": {
        "delete": delete,
        "preview": preview,
        "cancel": cancel,
        "delete-project": delete_project,
        "delete-organization": delete_organization,
        "retention": {
            "set": set_policy,
            "list": list_policies,
            "remove": retention_remove,
            "preview": retention_preview,
            "run": retention_run,
        },
        "schedule": {
            "set": set_schedule,
            "reconcile": set_reconcile,
            "list": list_schedules,
            "pause": change.pause,
            "unpause": change.unpause,
            "run": change.run,
            "remove": change.remove,
        },
    },
    "Follow": {
        "status": status,
        "list": list_deletions,
        "receipt": receipt,
        "verify": verify,
        "images": {"status": images_status, "index": index, "adopt": adopt},
        "reconcile": reconcile,
    },
    "Mend": {"rerun": rerun, "resume": resume, "doctor": doctor, "reapply": reapply},
    "Emergencies": {
        "hold": hold,
        "holds": list_holds,
        "lift": lift,
        "confirm": confirm,
        "pause": pause,
        "unpause": unpause,
    },
    "Set up": {"setup": setup, "schema": schema, "demo": demo},
}
"""Commands, by the panel in which the help shows them; those of a group have two words."""
_GROUPS = {"images": images.__doc__, "retention": retention.__doc__, "schedule": schedule.__doc__}


def _show_version(wanted: bool) -> None:  # noqa: FBT001  Typer's way to call it
    if wanted:
        say(f"artifact-deletion {version()}")
        raise typer.Exit


def _every_command(
    *, version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="say it and end")] = False
) -> None:
    """Delete snapshot artifacts for good: start deletions, follow them, run them again."""


def _app() -> typer.Typer:
    app = typer.Typer(
        callback=_every_command,
        no_args_is_help=True,
        rich_markup_mode="rich",
        epilog=(
            "Exit codes: 0 done, 1 failed or left over, 2 bad usage, 3 Temporal or the database not reached, "
            "74 the output could not be written, 130 Ctrl-C."
        ),
    )
    for panel, commands in COMMANDS.items():
        for name, run in commands.items():
            if not isinstance(run, dict):
                _add(app, name, run, panel)
                continue
            group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
            for second, of_group in run.items():
                _add(group, second, of_group)
            app.add_typer(group, name=name, help=_GROUPS[name], rich_help_panel=panel)
    return app


def _add(app: typer.Typer, name: str, run: Command, panel: str | None = None) -> None:
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
    except OutputLost:
        return OUTPUT_LOST
    except OSError as error:
        if error.errno in {errno.EIO, errno.ENOSPC}:  # the help could not be written
            return OUTPUT_LOST
        raise
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = typer.main.get_command(_app()).main(arguments, prog_name=_PROGRAM, standalone_mode=False)
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
