"""`BlockingDeletions` in servers with threads and in those that fork: each process asks, hears an answer, and ends.

The servers are programs of their own, and `make test-oldest` runs them with the oldest packages (`--backend-python`).
"""

import asyncio
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from artifact_deletion.blocking import BlockingDeletions
from artifact_deletion.client import is_running
from artifact_deletion.receipt import RowsGone
from tests.stack import ROOT, Stack, eventually, resume

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
LATER = timedelta(seconds=30)


@pytest.mark.thorough
async def test_threads_share_one_blocking_client(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty requests at once in a threaded server: one connection, and an end that leaves no thread behind."""
    for name, value in stack.temporal_environment().items():
        monkeypatch.setenv(name, value)
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    deletions = BlockingDeletions()

    def ask_from_threads() -> set[RowsGone | None]:
        with ThreadPoolExecutor(20) as threads:
            return set(threads.map(lambda _: deletions.rows_deleted(request, within=LATER), range(20)))

    async with stack.worker():
        (answer,) = await asyncio.to_thread(ask_from_threads)
    assert answer is not None
    deletions.close()
    deletions.close()


# A prefork server: the parent has used its client (or not) before it forks, and children use theirs at the same time. Each
# prints what it heard; one that does not end by itself is found by the time-out.
PREFORK = """
import json, os, sys
from datetime import timedelta
from artifact_deletion import BlockingDeletions, DeletionRequest

deletions = BlockingDeletions()
organization, first, *artifacts = json.loads(sys.argv[1])

def ask(artifact):
    request = DeletionRequest(organization_id=organization, artifact_ids=(artifact,))
    answer = deletions.rows_deleted(request, within=timedelta(seconds=30))
    os.write(1, f"{artifact} {answer.artifacts if answer else None}\\n".encode())

if first:
    ask(first)
children = []
for artifact in artifacts:
    if (child := os.fork()) == 0:
        ask(artifact)
        sys.exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
if first:
    ask(first)
sys.exit(any(codes))
"""


def run_backend(python: str, stack: Stack, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [python, "-c", code, *(json.dumps(one) for one in arguments)]
    return subprocess.run(line, cwd=ROOT, env=stack.environment(), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.thorough
@pytest.mark.parametrize("parent_asks", [True, False])
async def test_every_process_of_a_prefork_server_has_a_client_of_its_own(
    stack: Stack, backend_python: str, *, parent_asks: bool
) -> None:
    parent, *others = stack.snapshots("a", "b", "c", "d")
    for one in (parent, *others):
        stack.accept(stack.request([one.id]))
    ids = [stack.organization_id, parent.id if parent_asks else 0, *(one.id for one in others)]
    async with stack.worker():
        done = await asyncio.to_thread(run_backend, backend_python, stack, PREFORK, ids)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [f"{one.id} 1" for one in others] + ([f"{parent.id} 1"] * 2 if parent_asks else [])
    assert sorted(done.stdout.splitlines()) == sorted(expected)


# A server that forks, when it is told to, while a thread of it waits for an answer.
FORKS_MEANWHILE = """
import json, os, sys, threading
from datetime import timedelta
from artifact_deletion import BlockingDeletions, DeletionRequest

deletions = BlockingDeletions()
organization, artifact = json.loads(sys.argv[1])
request = DeletionRequest(organization_id=organization, artifact_ids=(artifact,))

def ask():
    print(deletions.rows_deleted(request, within=timedelta(seconds=50)).artifacts, flush=True)

asking = threading.Thread(target=ask)
asking.start()
sys.stdin.readline()
if (child := os.fork()) == 0:
    os.write(1, f"{os.listdir('/proc/self/task') == [str(os.getpid())]}\\n".encode())
    sys.exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or asking.join())
"""


@pytest.mark.thorough
async def test_a_call_that_is_open_during_a_fork_is_asked_again(stack: Stack, backend_python: str) -> None:
    """No thread of the SDK lives across a fork, and a thread that waits for one hears its answer all the same."""
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    line = [backend_python, "-c", FORKS_MEANWHILE, json.dumps([stack.organization_id, head.id])]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, cwd=ROOT, env=stack.environment(), text=True, stdin=pipe, stdout=pipe, stderr=pipe) as backend:
        await eventually(lambda: is_running(stack.client, request))
        assert backend.stdin is not None
        assert backend.stdout is not None
        backend.stdin.write("\n")
        backend.stdin.flush()
        assert await asyncio.to_thread(backend.stdout.readline) == "True\n"
        async with stack.worker():
            out, err = await asyncio.to_thread(backend.communicate, timeout=60)
    assert (backend.returncode, out, err) == (0, "1\n", "")


# A server of which two threads fork at the same time, as pools of multiprocessing do; all of them ask, and fork again.
FORKS_TWICE_AT_ONCE = """
import json, os, sys, threading
from datetime import timedelta
from artifact_deletion import BlockingDeletions, DeletionRequest

deletions = BlockingDeletions()
organization, artifact = json.loads(sys.argv[1])
request = DeletionRequest(organization_id=organization, artifact_ids=(artifact,))
both = threading.Barrier(2)
codes = []

def ask():
    return deletions.rows_deleted(request, within=timedelta(seconds=30)).artifacts

def fork(and_then):
    if (child := os.fork()) == 0:
        os._exit(and_then() - 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return 1

def fork_at_once():
    both.wait()
    fork(lambda: ask() and fork(ask))

ask()
threads = [threading.Thread(target=fork_at_once, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
print(codes, flush=True)
os._exit(ask() - 1 if len(codes) == 2 else 1)
"""


@pytest.mark.thorough
async def test_threads_that_fork_at_once_wait_for_each_other(stack: Stack, backend_python: str) -> None:
    """Neither thread is held up for ever, and parent and children can ask and fork again."""
    (head,) = stack.snapshots("head")
    stack.accept(stack.request([head.id]))
    async with stack.worker():
        done = await asyncio.to_thread(
            run_backend, backend_python, stack, FORKS_TWICE_AT_ONCE, [stack.organization_id, head.id]
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 0]\n", "")


# A backend whose handler gave up, and which ends while Temporal still has not answered.
GIVES_UP = """
import json, sys
from datetime import timedelta
from artifact_deletion import BlockingDeletions, DeletionRequest

organization, artifact = json.loads(sys.argv[1])
request = DeletionRequest(organization_id=organization, artifact_ids=(artifact,))
print(BlockingDeletions().rows_deleted(request, within=timedelta(seconds=1)))
"""


@pytest.mark.thorough
async def test_a_backend_that_gave_up_ends_like_any_other(stack: Stack, backend_python: str) -> None:
    """The SDK's threads can hold up an interpreter that ends while a call is open. No worker runs, so no answer comes."""
    (head,) = stack.snapshots("head")
    stack.accept(stack.request([head.id]))
    done = await asyncio.to_thread(run_backend, backend_python, stack, GIVES_UP, [stack.organization_id, head.id])
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
    assert await resume(stack.client, stack.database) == []
