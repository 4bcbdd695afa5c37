"""What a release hands out: a wheel and a source distribution with the contract and no more, and metadata that is valid."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.specifiers import SpecifierSet

from tests.stack import ROOT

PACKAGE = "artifact_deletion"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_PACKAGE = {f"{PACKAGE}/{file.name}" for file in (ROOT / PACKAGE).iterdir() if file.is_file()}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m build` makes of the whole tree, in a copy, since it leaves files beside."""
    folder = tmp_path_factory.mktemp("release")
    copy = folder / "tree"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "images"))
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.mark.thorough
def test_the_wheel_is_the_package_and_its_metadata(distributions: Path) -> None:
    """With the marker of its types. What PyPI would refuse, `packaging` refuses."""
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        described = archive.read(f"{PACKAGE}-{PROJECT['version']}.dist-info/METADATA")
    assert {name for name in names if ".dist-info/" not in name} == OF_PACKAGE
    assert f"{PACKAGE}/py.typed" in names
    metadata = Metadata.from_email(described, validate=True)
    assert (metadata.name, str(metadata.version)) == (PROJECT["name"], PROJECT["version"])
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text()
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.keywords
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(metadata.classifiers or ()))
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert named == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed]


def test_the_source_distribution_builds_the_same_and_has_nothing_of_the_service(distributions: Path) -> None:
    """The wheel was built from it. setuptools would add tests that cannot run without the service."""
    (source,) = distributions.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    made = {"PKG-INFO", "setup.cfg", *(name for name in names if ".egg-info/" in name)}
    assert names - made == OF_PACKAGE | {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
