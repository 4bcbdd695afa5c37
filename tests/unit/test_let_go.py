"""What `BlockingDeletions` waits for at its end, without a server."""

import asyncio
import threading
from datetime import timedelta

from temporalio.client import Client
from temporalio.runtime import Runtime

from artifact_deletion.blocking import BlockingDeletions
from artifact_deletion.request import DeletionRequest


def test_an_end_waits_until_the_sdk_has_let_go() -> None:
    """A thread of the SDK wants the GIL once more for a call that was given up. A list stands for that thread."""
    held: list[asyncio.Future[None]] = []
    given_up = threading.Event()

    async def connects_never(_: Runtime) -> Client:
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: given_up.set())
        held.append(future)
        await future
        raise AssertionError

    deletions = BlockingDeletions(connects_never)
    request = DeletionRequest(organization_id=1, artifact_ids=(1,))
    assert deletions.rows_deleted(request, within=timedelta(seconds=0.1)) is None
    end = threading.Thread(target=deletions.close)
    end.start()
    assert given_up.wait(10)
    end.join(0.2)
    assert end.is_alive()
    held.clear()
    end.join(10)
    assert not end.is_alive()
