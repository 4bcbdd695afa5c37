"""`doctor`: whether everything is there that a worker needs, and what to do about it."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer

from commands import options
from commands.examine.database import examine_database
from commands.examine.finding import BAD, Finding, print_findings
from commands.examine.rights import Role
from commands.examine.temporal import examine_temporal
from commands.exit_codes import DONE, FAILED
from commands.output import say
from settings import DatabaseSettings, Settings, load

DatabaseOnly = Annotated[
    bool, typer.Option("--database-only", help="ledger and schema alone, as for a backend's own tests; needs no other setting")
]
WhoseRole = Annotated[
    Role,
    typer.Option(
        case_sensitive=False,
        help="whose role of the database this is; with another than the worker's, the database alone is looked at",
    ),
]


async def doctor(
    *,
    database_only: DatabaseOnly = False,
    role: WhoseRole = Role.WORKER,
    as_json: options.Json = False,
    utc: options.Utc = False,
) -> int:
    """Look at all that a worker needs, with its settings, and say what to do; changes nothing."""
    found = await _examine(role, database_only=database_only, utc=utc)
    if as_json:
        say(json.dumps([asdict(one) for one in found], indent=2))
    else:
        print_findings(found)
    return FAILED if any(one.state == BAD for one in found) else DONE


async def _examine(role: Role, *, database_only: bool, utc: bool) -> list[Finding]:
    """Look at one thing after the other, in the order in which they need each other."""
    if database_only or role is not Role.WORKER:
        return await asyncio.to_thread(examine_database, load(DatabaseSettings), role, utc=utc)
    # Slow to import, and not needed for the database alone.
    from commands.examine.store import examine_store  # noqa: PLC0415
    from commands.examine.traces import examine_traces  # noqa: PLC0415

    settings = load(Settings)
    temporal, database, store = await asyncio.gather(
        examine_temporal(settings),
        asyncio.to_thread(examine_database, settings, role, utc=utc),
        asyncio.to_thread(examine_store, settings),
    )
    return [*temporal, *database, *store, await asyncio.to_thread(examine_traces, settings)]
