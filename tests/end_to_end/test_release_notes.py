"""The notes of a release are what the changelog says of its version."""

import re
import subprocess
import sys
import tomllib

from tests.stack import ROOT


def release_notes(version: str) -> subprocess.CompletedProcess[str]:
    """What `make release-notes VERSION=…` prints."""
    line = [sys.executable, str(ROOT / ".ci" / "release-notes"), version]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_the_notes_of_a_version_are_its_section_of_the_changelog() -> None:
    """All of it, without the heading, and nothing of another version's. The version at hand has some."""
    done = release_notes(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() in (ROOT / "CHANGELOG.md").read_text()
    assert not re.search(r"^## ", done.stdout, flags=re.MULTILINE)
    assert done.stdout.startswith("The first release.")
    assert done.stdout.endswith("the ledger at version 1.3.\n")


def test_a_version_that_the_changelog_does_not_know_has_no_notes() -> None:
    """Empty notes would be published unseen. A part of a version's number is no version."""
    for unknown in ("0.1", "0.1.01", "9.9.9"):
        done = release_notes(unknown)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"CHANGELOG.md says nothing of {unknown}\n")
