"""The built package lives beside a backend: under one name of its own, and with no more than it needs."""

import ast
import asyncio
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import starter
from setup import OURS, PACKAGE
from tests.stack import ROOT, Seen, Stack

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
BACKENDS_OWN = sorted(OURS | {"demo", "migrations", "settings"})

# A backend with modules of the same names as ours, and without what only a worker needs.
BACKEND = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"alembic", "boto3", "botocore", "psycopg", "rich", "sentry_protos", "urllib3"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import activities, client, settings, starter, worker, workflows
from artifact_deletion.client import BlockingDeletions, Deletions, accept_deletion, connect, receipt, resume
from artifact_deletion.starter import follow, main
from artifact_deletion.workflows.messages import DeletionRequest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

assert {module.MINE for module in (activities, client, settings, starter, worker, workflows)} == {True}
request = DeletionRequest(organization_id=int(sys.argv[2]), artifact_ids=(int(sys.argv[3]),))
with Session(create_engine(sys.argv[1])) as session, session.begin():
    print(accept_deletion(session, request))
"""


# A worker's machine without the extra.
WITHOUT_SNUBA = """
import sys

class Absent:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "sentry_protos":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
from artifact_deletion import worker
worker.run()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, from a copy of no more than an image is built from."""
    folder = tmp_path_factory.mktemp("package")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        for let_in in ROOT.glob(line.removeprefix("!")) if line.startswith("!") else ():
            copy = folder / "source" / let_in.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if let_in.is_dir():
                shutil.copytree(let_in, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(let_in, copy)
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    built = subprocess.run(
        [sys.executable, "-m", *build, str(folder / "source")], capture_output=True, text=True, timeout=120, check=False
    )
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it was installed into."""
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_it_has_one_name_and_asks_for_nothing_by_another(installed: Path) -> None:
    """Not one import of it may find a module of the backend's."""
    assert {one.name for one in installed.iterdir() if not one.name.endswith(".dist-info")} == {PACKAGE}
    modules = list((installed / PACKAGE).rglob("*.py"))
    assert {module.relative_to(installed / PACKAGE).parts[0].removesuffix(".py") for module in modules} == OURS | {"__init__"}
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & set(BACKENDS_OWN) or module.name == "starter.py", module


@on_sqlite
def test_a_backend_needs_no_more_than_it_uses_and_keeps_its_own_names(stack: Stack, installed: Path, tmp_path: Path) -> None:
    (head,) = stack.snapshots("head")
    for name in BACKENDS_OWN:
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    environment = stack.environment(PYTHONPATH=f"{tmp_path}:{installed}")
    done = run(tmp_path, environment, "-c", BACKEND, stack.database_url, str(stack.organization_id), str(head.id))
    assert (done.returncode, done.stderr) == (0, "")
    assert starter.recorded(stack.database, done.stdout.strip()).request == stack.request([head.id])


def test_what_a_backend_installs_is_four_packages(installed: Path) -> None:
    """Neither boto3 nor Snuba's messages, which pin protobuf and are under another licence, come with them."""
    (described,) = installed.glob("*.dist-info/METADATA")
    required = [line for line in described.read_text().splitlines() if line.startswith("Requires-Dist: ")]
    always = {re.split(r"[^\w-]", line.removeprefix("Requires-Dist: "))[0] for line in required if "extra ==" not in line}
    assert always == {"pydantic", "pydantic-settings", "sqlalchemy", "temporalio"}
    assert [line for line in required if "sentry-protos" in line and line.endswith('extra == "snuba"')]


@on_sqlite
def test_without_its_extra_snuba_is_missed_only_where_it_is_wanted(stack: Stack, installed: Path, tmp_path: Path) -> None:
    """One sentence then; without a Snuba nobody needs its package."""
    environment = stack.environment(PYTHONPATH=str(installed), ARTIFACT_DELETION_TRACE_STORE="snuba")
    environment["ARTIFACT_DELETION_SNUBA_URL"] = "http://127.0.0.1:1"
    missed = run(tmp_path, environment, "-c", WITHOUT_SNUBA)
    assert (missed.returncode, missed.stderr) == (
        2,
        "TRACE_STORE=snuba needs the extra `snuba` of artifact-deletion (sentry_protos)\n",
    )
    del environment["ARTIFACT_DELETION_SNUBA_URL"]
    environment |= {"ARTIFACT_DELETION_TRACE_STORE": "none", "TEMPORAL_ADDRESS": "127.0.0.1:1"}
    unwanted = run(tmp_path, environment, "-c", WITHOUT_SNUBA)
    assert (unwanted.returncode, unwanted.stderr.startswith("Temporal cannot be reached")) == (3, True), unwanted.stderr


@on_sqlite
async def test_the_packaged_worker_deletes(stack: Stack, installed: Path, tmp_path: Path) -> None:
    """Migrations, command line, worker, all by their packaged names."""
    (head,) = stack.snapshots("head")
    before = Seen.of(stack.world)
    environment = stack.environment(PYTHONPATH=str(installed))
    for arguments, said in ((["setup"], "the ledger is up to date"), (["demo"], "")):
        done = await asyncio.to_thread(run, tmp_path, environment, "-m", f"{PACKAGE}.starter", *arguments)
        assert done.stdout.startswith(said)
    assert (done.returncode, done.stderr) == (2, "the demo is in the repository only, with its packages: make demo\n")
    worker = stack.worker_process("-m", f"{PACKAGE}.worker", PYTHONPATH=f"{installed}", PYTHONSAFEPATH="1")
    line = ["-m", f"{PACKAGE}.starter", "delete", str(head.id), "--organization", str(stack.organization_id), "--wait"]
    done = await asyncio.to_thread(run, tmp_path, environment, *line)
    assert done.returncode == 0, done.stderr
    assert worker.poll() is None
    stack.assert_only_these_are_gone([head.id], before)
