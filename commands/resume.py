"""`resume`: start every deletion that is asked for or open, and every watch over hidden images, that no run is at work on."""

import asyncio
import contextlib
import signal
import time
from typing import Annotated

import typer
from temporalio.client import Client
from temporalio.common import MetricMeter

import artifact_deletion.client
from activities.images import owed
from activities.watch_images import watch_unwatched
from artifact_deletion.errors import DeletionError
from artifact_deletion.outbox import deletions_to_start
from commands import options
from commands.connection import connect, open_ledger, sdk
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
    """Start every accepted deletion that no run is at work on, and the watch over each project with hidden images."""
    if every is None:
        warn(f"{await _resume(None)} started")
        return DONE
    settings = load(DatabaseSettings)
    meter = sdk(settings.metrics_address).metric_meter  # before the first round, so that a taken address is no outage
    async with alive(settings.health_file) if settings.health_file else contextlib.nullcontext():
        await _relay(every, settings.metrics_address, meter)
    return DONE


async def _resume(client: Client | None) -> int:
    with open_ledger() as database, database.read() as session:
        requests = list(deletions_to_start(session))
    client = client or await connect()
    started = _said(await artifact_deletion.client.resume(client, requests))
    with open_ledger() as database, database.read() as session:
        projects = owed.to_watch(session)
    return started + _said(await watch_unwatched(client, projects))


def _said(started: list[str]) -> int:
    for workflow in started:
        say(workflow)
    return len(started)


async def _relay(every_s: float, metrics_address: str | None, meter: MetricMeter) -> None:
    """Resume again and again until SIGTERM or SIGINT. An outage is said once, and outlived."""
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    started = meter.create_counter("artifact_deletion_relay_started", "Deletions that the relay started")
    looked = meter.create_gauge_float("artifact_deletion_relay_round_timestamp_seconds", "When the relay's last round was done")
    started.add(0)
    client, trouble = None, ""
    while not asked_to_stop.is_set():
        try:
            client = client or await connect(metrics_address)
            started.add(await _resume(client))
            looked.set(time.time())
            trouble = ""
        except (*AWAY, DeletionError) as error:
            sentence, _ = explained(error)
            if sentence != trouble:
                warn(sentence)
            trouble = sentence
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked_to_stop.wait(), every_s)
