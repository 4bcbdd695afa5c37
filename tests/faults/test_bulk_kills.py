"""A whole organization goes while its worker is killed again and again: two thousand artifacts of twenty projects."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable

import pytest
from sqlalchemy import select
from temporalio.service import RPCError

from activities.ledger.schema import Deletion
from artifact_deletion.bulk import BulkRequest
from artifact_deletion.client import bulk_progress, start_bulk
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from demo.world import SNAPSHOTS, Place, Project, Snapshot, screen
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack
from tests.workflow.test_bulk import deletions_of

PROJECTS, ARTIFACTS, A_DELETION = 20, 2000, 100
KILLED_AT = (1, 500, 1000, 1500)
"""So many artifacts are deleted when the worker is killed."""
SMALL = {"home": screen("home")}
SETTINGS = {
    "ARTIFACT_DELETION_CHUNK_ARTIFACTS": str(A_DELETION),
    "ARTIFACT_DELETION_USECASES": SNAPSHOTS,  # a place to be listed for each artifact, in place of four
}


def fill(stack: Stack) -> list[Place | Snapshot]:
    """Artifacts of all projects by turns, so that each deletion has some of each; another organization's lie between them."""
    ours = [stack.world.project(stack.world.organization("acme"), "shop")]
    assert ours[0].organization_id == stack.organization_id
    ours += [stack.world.project(stack.organization_id, f"app-{number}") for number in range(1, PROJECTS)]
    strangers = stack.world.project(stack.world.organization("globex"), "shop")
    artifacts: list[Place | Snapshot] = []
    for _ in range(ARTIFACTS // A_DELETION):
        artifacts += [stack.world.snapshot(project, SMALL) for project in ours[::4]]
        artifacts += tiny(stack, (ours * A_DELETION)[: A_DELETION - len(ours[::4])])
        tiny(stack, [strangers])
    return artifacts


def tiny(stack: Stack, projects: Iterable[Project]) -> list[Place]:
    """A row and an object each, which no row names, in one transaction: snapshots take a hundred times as long to upload."""
    world = stack.world
    with world._draft() as draft:  # noqa: SLF001
        made = [world._artifact(draft, project, None) for project in projects]  # noqa: SLF001
        for one in made:
            world._objects(draft, one, SNAPSHOTS, {f"{one.prefix}manifest.json": b"{}"}, {one.id})  # noqa: SLF001
    return made


async def until_deleted(stack: Stack, bulk: str, artifacts: int) -> None:
    """Return when so many are. A worker that begins, and one that is dead, do not answer."""
    while True:
        with contextlib.suppress(RPCError):
            if (await bulk_progress(stack.client, bulk)).deleted >= artifacts:
                return
        await asyncio.sleep(0.1)


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_an_organization_goes_whole_and_once_whatever_is_killed(stack: Stack) -> None:
    """SIGKILL, four times, each to the only worker: nothing is missed, nothing of others goes, and nothing is deleted twice."""
    artifacts = fill(stack)
    bulk = BulkRequest(organization_id=stack.organization_id)
    before = Evidence.of(stack)
    worker = stack.worker_process(**SETTINGS)
    handle = await start_bulk(stack.client, bulk)
    async with asyncio.timeout(500):
        for deleted in KILLED_AT:
            await until_deleted(stack, handle.id, deleted)
            worker.kill()
            worker = stack.worker_process(**SETTINGS)
        receipt = await handle.result()

    requests = deletions_of(bulk, artifacts, A_DELETION)
    assert receipt.deletions == {"complete": len(requests)}
    assert (receipt.artifacts, receipt.asked, receipt.deleted, receipt.remaining) == (ARTIFACTS, ARTIFACTS, ARTIFACTS, 0)
    with stack.database.read() as session:
        found = session.execute(select(Deletion.state, Deletion.receipt)).all()
    assert {state for state, _ in found} == {DeletionState.CLOSED}
    receipts = [DeletionReceipt.model_validate(receipt) for _, receipt in found]
    times = Counter(one for receipt in receipts for one in receipt.artifacts.deleted.ids)
    assert times == Counter(one.id for one in artifacts)
    assert_promises_hold(stack, before, requests)
