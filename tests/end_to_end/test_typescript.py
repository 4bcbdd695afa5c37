"""A backend in TypeScript, with Temporal's own client and none of our code: examples/typescript does what the Python ones do.

Deselected otherwise, since it needs Node.js and packages of npm: `make test-typescript`.
"""

import asyncio
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from artifact_deletion.outbox import DeletionState
from demo.world import screen
from tests.stack import ROOT, Seen, Stack, resume
from tests.steps.test_reopened import restore
from tests.typed import NOWHERE

pytestmark = [pytest.mark.typescript, pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)]
PACKAGES = ROOT / ".node" / "node_modules"
DEADLINE_S, BUSY_S = 5, 15
"""The example's, and what a busy machine needs besides."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as its first lines say: `npx tsc`, under `strict`."""
    folder = tmp_path_factory.mktemp("typescript") / "backend"
    shutil.copytree(ROOT / "examples" / "typescript", folder)
    (folder / "node_modules").symlink_to(PACKAGES)
    done = subprocess.run([PACKAGES / ".bin" / "tsc"], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder / "delete_artifacts.js"


async def delete(compiled: Path, stack: Stack, *artifact_ids: int, temporal: str | None = None) -> dict[str, Any]:
    url = make_url(stack.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    environment = stack.environment(DATABASE_URL=url, TEMPORAL_ADDRESS=temporal or stack.temporal_address)
    line = ["node", str(compiled), str(stack.organization_id), *map(str, artifact_ids)]
    done = await asyncio.to_thread(
        subprocess.run, line, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def test_it_answers_204_once_the_rows_are_gone(compiled: Path, stack: Stack) -> None:
    """Ids in any order, given twice, of one digit and of two: another digest would be refused. And again."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    nine, ten, _ = (stack.world.snapshot(project, {"login": screen("login")}, id=number) for number in (9, 10, 11))
    before = Seen.of(stack.world)
    workflow = stack.request([9, 10], images="delete").workflow_id
    async with stack.worker():
        assert await delete(compiled, stack, 10, 9, 10) == {"status": 204}
        await stack.client.get_workflow_handle(workflow).result()
        stack.assert_only_these_are_gone([nine.id, ten.id], before)
        restore(stack, nine)
        assert await delete(compiled, stack, 9, 10) == {"status": 204}
        await stack.client.get_workflow_handle(workflow).result()
    stack.assert_only_these_are_gone([nine.id, ten.id], before)
    assert stack.recorded(workflow).request.requested_by == "user:7"


async def test_with_temporal_down_it_answers_202_in_its_deadline_and_the_relay_does_the_rest(
    compiled: Path, stack: Stack
) -> None:
    (head,) = stack.snapshots("head")
    before = Seen.of(stack.world)
    workflow = stack.request([head.id], images="delete").workflow_id
    began = time.monotonic()
    answer = await delete(compiled, stack, head.id, temporal=NOWHERE)
    assert answer == {"status": 202, "workflow_id": workflow}
    assert DEADLINE_S < time.monotonic() - began < DEADLINE_S + BUSY_S
    assert stack.recorded(workflow).state == DeletionState.ACCEPTED
    async with stack.worker():
        assert await resume(stack.client, stack.database) == [workflow]
        await stack.client.get_workflow_handle(workflow).result()
    stack.assert_only_these_are_gone([head.id], before, hidden=[head])


async def test_what_may_not_be_deleted_is_refused(compiled: Path, stack: Stack) -> None:
    """The update says that the rows are not deleted; the workflow's own failure says why."""
    stack.snapshots("head")
    stranger = stack.world.snapshot(stack.world.project(stack.world.organization("globex"), "app"), {"login": screen("login")})
    before = Seen.of(stack.world)
    async with stack.worker():
        assert (await delete(compiled, stack, stranger.id))["status"] == 404
    for wrong in ((), (0,), (2**53,)):
        assert await delete(compiled, stack, *wrong) == {"status": 400}
    assert Seen.of(stack.world) == before
