"""The relay says of itself what it does: a metric that counts, and one that stands still while it can do nothing."""

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from settings import PREFIX
from tests.metrics import free_address, scraped
from tests.stack import Stack, eventually

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
RELAY = ("starter.py", "resume", "--every", "0.1s")
ADDRESS = f"{PREFIX}METRICS_ADDRESS"
STARTED, ROUND = "artifact_deletion_relay_started_total", "artifact_deletion_relay_round_timestamp_seconds"


@pytest.mark.thorough
async def test_each_round_and_each_deletion_that_it_starts_is_seen(stack: Stack) -> None:
    """From zero on, so that the first one is an increase; and Temporal's own metrics are there too."""
    (one,) = stack.snapshots("one")
    with free_address() as address:
        relay = stack.worker_process(*RELAY, **{ADDRESS: address})

        async def looked_after(before: float) -> dict[str, float] | None:
            series = await scraped(address)
            return series if series.get(ROUND, 0) > before else None

        first = await eventually(lambda: looked_after(0))
        assert first[STARTED] == 0
        stack.accept(stack.request([one.id]))

        async def started() -> bool:
            return (await scraped(address)).get(STARTED) == 1

        await eventually(started)
        series = await eventually(lambda: looked_after(first[ROUND]))
        assert any(name.startswith("temporal_request_total") for name in series)
        relay.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(relay.wait, 20) == 0


@pytest.mark.thorough
async def test_a_round_that_fails_is_none(stack: Stack) -> None:
    """Or the metric would say that all is well while nothing can be started."""
    with free_address() as address:
        stack.worker_process(*RELAY, **{ADDRESS: address, "TEMPORAL_ADDRESS": "127.0.0.1:1"})
        log = stack.folder / "worker-0.log"
        await eventually(lambda: asyncio.to_thread(said, log, "Temporal cannot be reached"))
        series = await scraped(address)
    assert STARTED in series
    assert ROUND not in series


def said(log: Path, sentence: str) -> bool:
    return sentence in log.read_text()


@pytest.mark.thorough
def test_an_address_that_another_process_has_ends_the_relay_and_no_other_command(stack: Stack) -> None:
    """The image names one for all that it runs, and a person types commands in the pod of a worker."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        has = {ADDRESS: f"127.0.0.1:{taken.getsockname()[1]}"}
        relay = stack.command(*RELAY[1:], **has)
        assert (relay.returncode, relay.stderr) == (2, "ARTIFACT_DELETION_METRICS_ADDRESS: no metrics can be served there\n")
        once = stack.command("resume", **has)
        assert (once.returncode, once.stderr) == (0, "0 started\n")
