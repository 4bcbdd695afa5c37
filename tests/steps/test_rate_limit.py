"""`KEYS_PER_SECOND`: no more keys a second than that, however many workers delete, and hardly less."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

import worker
from activities.database import Database
from activities.stores.limit import KeyLimit
from artifact_deletion.client import start_deletion
from artifact_deletion.errors import StoreUnavailable
from benchmarks.data import Doomed
from benchmarks.store import InstantStore, steady_rate
from tests.stack import Stack

LIMIT = 2000


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("database_url", "workers"),
    [pytest.param("sqlite", 1, marks=pytest.mark.thorough), ("postgresql", 2)],
    ids=["one", "two"],
    indirect=["database_url"],
)
async def test_all_workers_together_keep_to_the_limit_and_come_close_to_it(stack: Stack, workers: int) -> None:
    """Counted by the store, which answers at once: a real one would be slower than the limit on a small machine.

    The rate is that of the time in which pages were waiting all along. Two workers that each took the limit for themselves
    would reach twice of it; a limit that also counted steps without keys would stay far below.
    """
    doomed = Doomed(12_000, organization=stack.organization_id)
    async with contextlib.AsyncExitStack() as running:
        store = running.enter_context(InstantStore(stack.folder / "store", logs=True))
        store.hold(doomed)
        with stack.database.write() as session:
            doomed.insert_rows(session)
        settings = stack.settings(s3_endpoint=store.endpoint, keys_per_second=LIMIT)
        for _ in range(workers):  # a client has one worker a queue
            await running.enter_async_context(worker.running(settings, await stack.another_client()))
        stack.accept(doomed.request)
        await (await start_deletion(stack.client, doomed.request)).result()
        asked = store.asked()
    assert sum(len(one.keys) for one in asked) >= doomed.keys
    assert 0.9 * LIMIT <= steady_rate(asked) <= LIMIT


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_that_stops_waits_for_no_place(database: Database) -> None:
    """With a low limit a place can be minutes away, and a worker has half a minute to end in."""
    limit = KeyLimit(database, 0.001, Event())
    limit.wait_for(1)  # the next place is a quarter of an hour away
    began = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(limit.wait_for, 1) for _ in range(2)]
        limit.stopping.set()
        assert all(isinstance(one.exception(), StoreUnavailable) for one in waiting)
    assert time.monotonic() - began < 60
