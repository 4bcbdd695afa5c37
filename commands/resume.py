"""`resume`: start every deletion that is asked for or open, and that no run is at work on."""

import asyncio
import contextlib
import signal
from typing import Annotated

import typer
from temporalio.client import Client

import artifact_deletion.client
from artifact_deletion.errors import DeletionError
from artifact_deletion.outbox import deletions_to_start
from commands import options
from commands.connection import connect, open_ledger
from commands.exit_codes import AWAY, DONE, explained
from commands.output import say, warn
from settings import DatabaseSettings, load
from telemetry import alive

Every = Annotated[
    float | None,
    typer.Option(
        parser=options.seconds, metavar="TIME", help="again and again, such as every 30s, 5m or 1h, until it is stopped"
    ),
]


async def resume(*, every: Every = None) -> int:
    """Start every accepted deletion that no run is at work on."""
    if every is None:
        warn(f"{await _resume(None)} started")
    else:
        file = load(DatabaseSettings).health_file
        async with alive(file) if file else contextlib.nullcontext():
            await _relay(every)
    return DONE


async def _resume(client: Client | None) -> int:
    with open_ledger() as database, database.read() as session:
        requests = list(deletions_to_start(session))
    started = await artifact_deletion.client.resume(client or await connect(), requests)
    for workflow in started:
        say(workflow)
    return len(started)


async def _relay(every_s: float) -> None:
    """Resume again and again until SIGTERM or SIGINT. An outage is said once, and outlived."""
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    client, trouble = None, ""
    while not asked_to_stop.is_set():
        try:
            client = client or await connect()
            await _resume(client)
            trouble = ""
        except (*AWAY, DeletionError) as error:
            sentence, _ = explained(error)
            if sentence != trouble:
                warn(sentence)
            trouble = sentence
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked_to_stop.wait(), every_s)
