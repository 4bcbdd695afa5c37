"""Python environments with some packages of another one and no more, made without a network."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# Prints the files of each package, and of those that it requires if asked to: the interpreter that has them knows best which.
_FILES = """
import importlib.metadata, json, re, sys

wanted, with_required, files, seen = sys.argv[2:], sys.argv[1] == "with what they require", set(), set()
while wanted:
    name = re.sub("[-_.]+", "-", re.split(r"[^\\w.-]", wanted.pop(), maxsplit=1)[0]).lower()
    if name in seen:
        continue
    seen.add(name)
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue  # of another platform or Python; one that is missed here fails to be imported there
    files |= {str(found.locate_file(file.parts[0])) for file in found.files if file.parts[0] not in {"..", "__pycache__"}}
    if with_required:
        wanted += [one for one in found.requires or () if "extra ==" not in one]
print(json.dumps(sorted(files)))
"""


def make_environment(folder: Path, packages: Iterable[str], *, python: str = sys.executable, complete: bool) -> Path:
    """An environment with these packages of `python`'s, `complete`: with what they require. Returns its interpreter."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    asked = "with what they require" if complete else "alone"
    listed = subprocess.run([python, "-c", _FILES, asked, *packages], check=True, capture_output=True, text=True, timeout=60)
    for file in map(Path, json.loads(listed.stdout)):
        (site_packages(folder) / file.name).symlink_to(file)
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    """Where the environment has its packages."""
    (found,) = folder.glob("lib/python*/site-packages")
    return found


def required(metadata: str) -> set[str]:
    """The packages that a distribution's METADATA asks for, extras aside, by name."""
    lines = re.findall(r"^Requires-Dist: ([\w.-]+)(.*)$", metadata, flags=re.MULTILINE)
    return {name for name, more in lines if "extra ==" not in more}
