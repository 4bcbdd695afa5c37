"""`pause` and `unpause`: a deletion of a whole project or organization begins no further deletion, and goes on."""

from typing import Annotated

import typer

from artifact_deletion.bulk import PAUSE_SIGNAL, UNPAUSE_SIGNAL, is_bulk
from commands import options
from commands.connection import connect
from commands.exit_codes import DONE, BadUsage
from commands.output import say

Bulk = Annotated[str, typer.Argument(parser=options.text, metavar="ID", help="workflow id, such as delete-project/1/7")]


async def pause(*, bulk: Bulk) -> int:
    """Let a deletion of a whole project or organization begin no further deletion. Those that run come to their end."""
    await _signal(bulk, PAUSE_SIGNAL)
    say(f"{bulk} is paused; it goes on after `python starter.py unpause {bulk}`")
    return DONE


async def unpause(*, bulk: Bulk) -> int:
    """Let a paused deletion of a whole project or organization go on."""
    await _signal(bulk, UNPAUSE_SIGNAL)
    say(f"{bulk} goes on")
    return DONE


async def _signal(bulk: str, name: str) -> None:
    if not is_bulk(bulk):
        raise BadUsage(f"{bulk!r} is no deletion of a whole project or organization; `hold --deletion` stops another")
    await (await connect()).get_workflow_handle(bulk).signal(name)
