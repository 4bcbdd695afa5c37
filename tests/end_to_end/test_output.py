"""Where a command's output goes: into closed pipes, onto full disks, and to scripts that read JSON."""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError

from activities.receipts import Closed
from artifact_deletion.receipt import DeletionReceipt
from commands.exit_codes import DONE, OUTPUT_LOST
from demo.servers import TemporalServer
from tests.stack import ROOT, Stack, connect, eventually, lines
from tests.typed import Run, runner

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FULL = "the output could not be written (No space left on device); what was done before that is done\n"


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(stack, monkeypatch, capsys)


# Where the output goes ------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(
    "command",
    [
        "list | head -1",
        *(
            pytest.param(one, marks=pytest.mark.thorough)
            for one in ("list --json | head -1", "list > /dev/full", "--help > /dev/full", "list >&-")
        ),
    ],
)
async def test_output_that_cannot_be_written_has_a_code_of_its_own(stack: Stack, command: str) -> None:
    """1 would mean that something is left over. Who closed a pipe knows it; of a full disk a person is told."""
    for one in stack.snapshots("one", "two", "three"):
        stack.accept(stack.request([one.id]))
    # The reader of a pipe may end after the writer has: then nothing is lost, so it reads one line and ends at once.
    quick = command.replace("| head -1", "| (exec 0<&-; :)")
    line = ["bash", "-c", f"{sys.executable} -u starter.py {quick}; exit ${{PIPESTATUS[0]}}"]
    done = await asyncio.to_thread(
        subprocess.run, line, cwd=ROOT, env=stack.environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (OUTPUT_LOST, FULL if "/dev/full" in command else "")


@pytest.mark.thorough
async def test_while_temporal_is_away_standard_output_has_json_alone(stack: Stack, tmp_path: Path) -> None:
    """The SDK's own log goes to standard error, without colour: scripts read the other, and collectors receipts."""
    (one,) = stack.snapshots("one")
    with TemporalServer(tmp_path / "temporal", ui=False) as server:
        stack.use_temporal(await connect(server.address))
        held = stack.command("hold", "--everything", "--reason", "until Temporal was away", "--by", "user:7")
        assert held.returncode == DONE
        worker = await started(stack, "worker", "worker.py", ARTIFACT_DELETION_RECEIPT_EXPORT="stdout")
        asked = (
            "starter.py",
            "delete",
            one.id,
            "--organization",
            stack.organization_id,
            "--images",
            "keep",
            "--wait",
            "--json",
        )
        deleting = await started(stack, "delete", *asked)
        handle = stack.client.get_workflow_handle(stack.request([one.id]).workflow_id)
        await eventually(lambda: running(handle))
        following = await started(stack, "follow", "starter.py", "status", handle.id, "--follow", "--json")
        await said(following.out, '"held": "every deletion is held')
        server.kill()
        for process in (deleting, following):
            await said(process.err, "gRPC call")
        await said(following.out, '"progress": null')
        server.start()
        assert stack.command("lift", "--everything", "--by", "user:7").returncode == DONE
        for process in (following, deleting):
            assert await asyncio.to_thread(process.process.wait, 60) == DONE, process.err.read_text()
        worker.process.terminate()
        assert await asyncio.to_thread(worker.process.wait, 60) == 0
    followed = [json.loads(line) for line in lines(following.out.read_text())]
    assert followed[-1] == {"workflow_id": handle.id, "state": "closed", "running": False, "left_over": {}}
    assert DeletionReceipt.model_validate_json(deleting.out.read_text()).complete
    (kept,) = lines(worker.out.read_text())
    assert Closed.model_validate_json(kept).receipt == stack.receipt(handle.id)
    assert "temporalio.core" in worker.err.read_text()
    assert "\x1b" not in "".join(one.err.read_text() for one in (worker, deleting, following))


@dataclass(frozen=True)
class Started:
    """A process, and the files in which it speaks."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path


async def started(stack: Stack, name: str, *command: object, **changes: str) -> Started:
    """A program of ours, which ends with the test."""
    out, err = (stack.folder / f"{name}.{kind}" for kind in ("out", "err"))
    with out.open("wb") as to, err.open("wb") as complaints:
        line = [sys.executable, *map(str, command)]
        process = subprocess.Popen(line, cwd=ROOT, env=stack.environment(**changes), stdout=to, stderr=complaints)
    stack._processes.append(process)  # noqa: SLF001  they end with the test
    return Started(process, out, err)


async def said(file: Path, text: str) -> None:
    """Return once it stands there."""

    async def there() -> bool:
        return text in file.read_text()

    assert await eventually(there)


async def running(handle: WorkflowHandle[Any, Any]) -> bool:
    try:
        return (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    except RPCError:
        return False
