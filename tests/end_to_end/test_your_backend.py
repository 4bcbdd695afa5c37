"""docs/your-backend.md as it stands: a new user's folder, the page's files and commands, and a deletion at its end."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.servers import TemporalServer
from examples.folder_store import FolderStore
from tests.stack import PROCESS, ROOT

PAGE = (ROOT / "docs" / "your-backend.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = ("tables", "deletion", "test_deletion")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout with its environment, and nothing else."""
    checkout = tmp_path / "artifact-deletion"
    checkout.mkdir()
    for one in ROOT.iterdir():
        if not one.name.startswith("."):
            (checkout / one.name).symlink_to(one)
    (checkout / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.thorough
@pytest.mark.timeout(300)  # two suites and a deletion
def test_the_page_leads_to_a_deletion(home: Path, temporal: TemporalServer) -> None:
    """Each block in turn, in one shell. The Temporal of the tests stands for the one of the other terminal."""
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", "\n".join(steps())],
        cwd=home,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "TEMPORAL_ADDRESS": temporal.address, "TEMPORAL_NAMESPACE": PROCESS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=280)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # its worker, if it ended early
        shell.wait()
    assert shell.returncode == 0, said
    assert re.search(r"^[1-9]\d+ passed in", said, re.MULTILINE), said
    assert re.search(r"^State +complete: nothing is left over$", said, re.MULTILINE), said
    assert "1 of 2 artifacts do not belong to organization 1 (7); nothing was deleted\n" in said
    assert re.search(r"^exit code 1$", said, re.MULTILINE), said
    left = {key for page in FolderStore(home / "ci" / "objects").list_under("") for key in (one.key for one in page)}
    assert left == {f"{build}/{name}.png" for build in ("1/42", "2/7") for name in ("login", "cart")}


def test_the_other_terminal_runs_a_program_that_is_there(home: Path) -> None:
    (command,) = (block for language, block in BLOCKS if language == "console")
    assert (home / command.split()[0]).exists()
    assert {language for language, _ in BLOCKS} == {"bash", "console", "python"}, "no block is passed over"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_pages_files_are_the_examples(name: str) -> None:
    """One text: what the other tests prove of the example is true of the page."""
    example = (ROOT / "examples" / "own_backend" / f"{name}.py").read_text()
    assert ("python", f"# screenshots/{name}.py\n{example.replace('examples.own_backend', 'screenshots')}") in BLOCKS


def steps() -> Iterator[str]:
    for language, block in BLOCKS:
        if language == "bash":
            yield block
        elif language == "python":
            name = block.splitlines()[0].removeprefix("# ")
            yield f"cat >{name} <<'END_OF_FILE'\n{block}END_OF_FILE"
