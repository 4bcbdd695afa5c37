"""The demo shows what it says, believes no one, hears nothing of the machine around it, and leaves nothing behind."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from activities.stores.s3_wire import s3_client
from commands.exit_codes import OUTPUT_LOST
from demo import inventory, run, servers
from demo.world import Sample, World
from tests.stack import ROOT

NOWHERE = "192.0.2.1"
"""An address of no one, by RFC 5737."""
PROXIES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"), f"http://{NOWHERE}:9")
HOSTILE = PROXIES | {
    "AWS_ENDPOINT_URL": f"http://{NOWHERE}",
    "AWS_PROFILE": "nonsense",
    "AWS_CA_BUNDLE": "/nonexistent",
    "TEMPORAL_ADDRESS": f"{NOWHERE}:7233",
    "TEMPORAL_NAMESPACE": "x",
    "TEMPORAL_TLS": "true",
    "PGHOST": NOWHERE,
    "ARTIFACT_DELETION_BUCKET": "other",
    "ARTIFACT_DELETION_DATABASE_URL": "sqlite:////nonexistent/backend.db",
    "ARTIFACT_DELETION_BUCKET_LISTABLE": "false",
}
PROFILES = {
    ".aws/config": "no profile file: a program that reads it fails",
    ".aws/credentials": "no profile file: a program that reads it fails",
    ".config/temporalio/temporal.toml": "no profile file: a program that reads it fails",
    ".env": f"ARTIFACT_DELETION_S3_ENDPOINT=http://{NOWHERE}\n",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder, which is the current folder too, full of files that say where to go."""
    for name, content in PROFILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "tmp").mkdir()
    return tmp_path


@contextmanager
def started(
    home: Path, variables: Mapping[str, str] = {}, stdin: int = subprocess.DEVNULL, output: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process whose only temporary folder is `home/tmp`."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home / "tmp"), **variables}
    with subprocess.Popen(
        [sys.executable, ROOT / "starter.py", "demo"],
        env=environment,
        cwd=home,
        text=True,
        start_new_session=True,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], beginning: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if line.startswith(beginning):
            return seen
    pytest.fail(f"the demo ended before it said {beginning!r}:\n{seen}")


def read_to_the_end(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    seen = process.stdout.read()
    process.wait(10)
    return seen


def processes() -> dict[int, int]:
    """Parents by process id, of all that run."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], check=True, capture_output=True, text=True).stdout
    found = (line.split() for line in listed.splitlines())
    return {int(pid): int(parent) for pid, parent, state in found if not state.startswith("Z")}


def descendants(pid: int) -> set[int]:
    parents = processes()
    found, new = set[int](), {pid}
    while new := {child for child, parent in parents.items() if parent in new}:
        found |= new
    return found


def lines_of_readme() -> list[str]:
    """What README.md says that the demo prints. A line that ends with dots may go on."""
    _, _, quoted = (ROOT / "README.md").read_text().partition("Lines of `make demo`:\n\n")
    lines = [line.removeprefix("    ") for line in quoted.partition("\n\n")[0].splitlines()]
    return [line.removesuffix("...") for line in lines if line != "..."]


def assert_shows(output: str, lines: list[str]) -> None:
    """It prints these lines in this order, whatever the time is and however long a step took."""
    assert len(lines) > 1
    times = re.compile(r"\d+(-\d\d-\d\d \d\d:\d\d:\d\d UTC|\.\d+ s )")
    printed = iter(times.sub("…", output).splitlines())
    for line in lines:
        wanted = times.sub("…", line)
        assert any(one.startswith(wanted) for one in printed), f"not printed, or not after the line before: {line}"


@pytest.mark.thorough
def test_without_a_terminal_it_ends_by_itself_deaf_to_the_machine(home: Path) -> None:
    """It deletes: a variable or file that led it to another server would make it a disaster."""
    began = time.monotonic()
    with started(home, HOSTILE, stdin=subprocess.PIPE) as process:  # a read of that would wait for ever
        output = read_until(process, "Deletion ")
        children = descendants(process.pid)
        output += read_to_the_end(process)
    assert process.returncode == 0, output
    assert time.monotonic() - began < 60
    assert re.search(r"^State +complete: nothing is left over$", output, re.MULTILINE)
    assert re.search(r"^  artifacts +6 +3 +3$", output, re.MULTILINE)
    assert "other objects are what they were, byte for byte" in output
    assert re.search(r"In Temporal's Web UI: http://127\.0\.0\.1:\d+/namespaces/default/workflows/delete-", output)
    assert_shows(output, lines_of_readme())
    assert NOWHERE not in output
    assert len(output.splitlines()) < 70
    assert len(children) >= 6, "two servers, the worker, and a guard of each"
    assert not children & processes().keys()
    assert not list((home / "tmp").iterdir())


@pytest.mark.thorough
def test_on_a_terminal_it_keeps_the_web_ui_up_until_enter(home: Path) -> None:
    ours, theirs = pty.openpty()
    with started(home, stdin=theirs, output=theirs) as process:
        os.close(theirs)
        output = b""
        while b"press Enter" not in output:
            output += os.read(ours, 4096)  # fails when the demo has ended
        page = re.search(rb"(http://\S+?)(/namespaces/default/workflows/[^/\s]+)/\S+/history", output)
        assert page is not None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        server, workflow = page[1].decode(), page[2].decode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(page[0].decode()) as shown, opener.open(f"{server}/api/v1{workflow}") as answer:
            assert shown.headers.get_content_type() == "text/html"
            status = json.load(answer)["workflowExecutionInfo"]["status"]
        assert status == "WORKFLOW_EXECUTION_STATUS_COMPLETED"
        os.write(ours, b"\n")
        assert process.wait(30) == 0
    os.close(ours)
    assert not list((home / "tmp").iterdir())


@pytest.mark.thorough
def test_a_sigterm_stops_it_and_all_that_it_started(home: Path) -> None:
    with started(home) as process:
        read_until(process, "Filling them")
        children = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        output = read_to_the_end(process)
    assert process.returncode == 1
    assert output.splitlines()[-1] == "The demo was interrupted; its servers are stopped, their folder is removed."
    assert len(children) >= 4, "two servers, and a guard of each"
    assert not children & processes().keys()
    assert not list((home / "tmp").iterdir())


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("| (exec 0<&-; :)", ""),
        (">/dev/full", "the output could not be written (No space left on device); what was done before that is done\n"),
    ],
)
def test_output_that_cannot_be_written_is_no_failure_of_the_demo(home: Path, output: str, said: str) -> None:
    """It ends as every command does then, and leaves nothing behind."""
    line = f"{sys.executable} {ROOT / 'starter.py'} demo {output}; exit ${{PIPESTATUS[0]}}"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home / "tmp")}
    done = subprocess.run(["bash", "-c", line], cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (OUTPUT_LOST, said)
    assert not list((home / "tmp").iterdir())


@pytest.mark.thorough
async def test_a_worker_that_dies_fails_the_demo_and_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Temporal would wait for another worker for ever."""
    worker = tmp_path / "worker.py"
    worker.write_text("import time\nprint('worker is up', flush=True)\ntime.sleep(1)\nexit('last words')\n")
    monkeypatch.setattr(run, "WORKER", worker)
    environment = dict(os.environ)
    assert await run.demo() == 1
    error = capsys.readouterr().err
    assert error.startswith("The demo failed: deleting 3 of 11 artifacts, all of them in project shop-app: the worker ")
    assert "ended with exit code 1 before the deletion did; its log ends with:" in error
    assert error.endswith("last words\n")
    assert dict(os.environ) == environment


@pytest.mark.thorough
async def test_a_deletion_that_took_too_much_fails_the_demo_whatever_its_receipt_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def delete(stage: run.Stage, sample: Sample) -> SimpleNamespace:
        """Delete by the world's own record, and an image that a kept snapshot shows."""
        doomed = stage.world.objects_of(sample.to_delete)
        image = next(key for key in stage.world.objects() if inventory.kind_of(key).startswith("images"))
        for key in {*doomed, image}:
            stage.s3.delete_object(Bucket=run.BUCKET, Key=key)
        return SimpleNamespace(workflow_id="delete-artifacts/1/0", complete=True)

    worker = tmp_path / "worker.py"
    worker.write_text("import time\nprint('worker is up', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setattr(run, "WORKER", worker)
    monkeypatch.setattr(run, "_delete", delete)
    monkeypatch.setattr(World, "rows_of", lambda *_: set())  # no row was deleted, and none was to be
    assert await run.demo() == 1
    sentence = "The demo failed: checking all that is left: 1 object should have been left alone and is gone or changed\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ({"kept": 1, "doomed": 1}, {"kept": 1}, None),
        ({"kept": 1, "doomed": 1}, {"kept": 1, "doomed": 1}, "1 row should be gone and is still there"),
        ({"a": 1, "b": 1}, {"a": 2}, "2 rows should have been left alone and are gone or changed"),
        ({"kept": 1}, {"kept": 1, "new": 1}, "1 row is new, though none was to be written"),
    ],
)
def test_every_difference_but_the_one_asked_for_is_a_failure(
    before: dict[str, int], after: dict[str, int], sentence: str | None
) -> None:
    if sentence is None:
        inventory.check_exactly("row", {"doomed"}, before, after)
    else:
        with pytest.raises(inventory.DemoFailed, match=f"^{sentence}$"):
            inventory.check_exactly("row", {"doomed"}, before, after)


@pytest.mark.thorough
async def test_it_goes_nowhere_but_to_this_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Should all deafness fail, it still asks its clients where they would go."""
    elsewhere = f"http://{NOWHERE}"
    monkeypatch.setattr(servers, "s3_client", lambda **options: s3_client(**(options | {"endpoint": elsewhere})))
    assert await run.demo() == 1
    assert f"it would have talked to {elsewhere}, which is not this machine" in capsys.readouterr().err
