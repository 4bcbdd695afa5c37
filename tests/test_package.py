"""The wheel is the contract: it lives beside a backend's own modules, with no more packages than it asks for, and typed.

`make test-oldest` runs this with the oldest packages that pyproject.toml promises to work with (`--backend-python`).
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.environments import make_environment, required, site_packages
from tests.stack import ROOT, Seen, Stack

PACKAGE = "artifact_deletion"
OURS = {path.stem for path in (*ROOT.glob("*.py"), *(ROOT / PACKAGE).glob("*.py"))} | {
    one.parent.name for one in ROOT.glob("*/*.py")
}
BACKENDS_OWN = sorted(OURS - {PACKAGE, "__init__"})
"""A backend has modules of the names that the service's have, and the contract's."""

IMPORTS_ALL = """
import importlib, pkgutil, sys

for module in pkgutil.walk_packages(__import__("artifact_deletion").__path__, "artifact_deletion."):
    importlib.import_module(module.name)
for name in sys.argv[1:]:
    assert importlib.import_module(name).MINE, name
print("all")
"""

# A backend: it asks in each of its transactions, waits with both facades, and reads what became of it.
BACKEND = """
import asyncio, json, sys
from collections import deque
from datetime import timedelta

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from artifact_deletion import BlockingDeletions, DeletionRequest, Deletions, accept_deletion
from artifact_deletion.client import preview_deletion, progress, resume, trying_again
from artifact_deletion.converter import connect
from artifact_deletion.outbox import deletions_to_start, recorded

SOON = timedelta(seconds=30)
url, async_url, organization, *artifacts = json.loads(sys.argv[1])
requests = [DeletionRequest(organization_id=organization, artifact_ids=ids) for ids in ([id_] for id_ in artifacts)]
first, second, third = requests
one = artifacts[0]
for same in ((one,), {one}, deque([one, one]), range(one, one + 1)):
    assert DeletionRequest(organization_id=organization, artifact_ids=same) == first
assert DeletionRequest.model_validate_json(first.model_dump_json()) == first
engine = create_engine(url, hide_parameters=True)

async def ask_with_async_session(request):
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(async_url)
    async with AsyncSession(engine) as session, session.begin():
        await session.run_sync(accept_deletion, request, reason="free text")
    async with engine.connect() as connection:
        print((await connection.run_sync(recorded, request.workflow_id)).state)
    await engine.dispose()

async def wait_with_asyncio():
    assert (await Deletions().rows_deleted(second, within=SOON)).artifacts == 1
    client = await connect()
    assert (await preview_deletion(client, first)).artifacts.count == 0
    for request in (first, second):
        assert await client.get_workflow_handle(request.workflow_id).result() is not None
        assert (await progress(client, request.workflow_id)).artifacts == 1
        assert await trying_again(client, request.workflow_id) == []
    with Session(engine) as session:
        assert await resume(client, deletions_to_start(session)) == [third.workflow_id]
    await client.get_workflow_handle(third.workflow_id).result()

with Session(engine) as session, session.begin():
    assert accept_deletion(session, first, reason="free text") == first.workflow_id
with engine.begin() as connection:
    accept_deletion(connection, second)
if async_url:
    asyncio.run(ask_with_async_session(third))
else:
    with engine.begin() as connection:
        accept_deletion(connection, third)
blocking = BlockingDeletions()
assert blocking.rows_deleted(first, within=SOON).artifacts == 1
blocking.close()
asyncio.run(wait_with_asyncio())
with Session(engine) as session:
    for request in requests:
        assert recorded(session, request.workflow_id).receipt.complete
print("all")
"""

TYPED = """
from collections.abc import Sequence
from datetime import timedelta

from artifact_deletion import BlockingDeletions, DeletionReceipt, DeletionRequest, Deletions, accept_deletion
from artifact_deletion.errors import ArtifactNotInOrganization
from artifact_deletion.outbox import recorded
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session


def ask(session: Session | Connection, artifact_ids: Sequence[int]) -> str:
    accept_deletion(session, DeletionRequest(organization_id=1, artifact_ids=[4]))
    accept_deletion(session, DeletionRequest(organization_id=1, artifact_ids=(4, 42)))
    return accept_deletion(session, DeletionRequest(organization_id=1, artifact_ids=artifact_ids), reason="why")


async def ask_async(session: AsyncSession, request: DeletionRequest) -> str:
    workflow: str = await session.run_sync(accept_deletion, request)
    return workflow


async def wait(deletions: Deletions, request: DeletionRequest) -> int | None:
    try:
        done = await deletions.rows_deleted(request, within=timedelta(seconds=5))
    except ArtifactNotInOrganization:
        return None
    return None if done is None else done.rows


def wait_blocking(deletions: BlockingDeletions, request: DeletionRequest) -> bool:
    return deletions.rows_deleted(request, within=timedelta(seconds=5)) is not None


def read(session: Session, request: DeletionRequest) -> DeletionReceipt | None:
    return recorded(session, request.workflow_id).receipt
"""
UNTYPED = """
from artifact_deletion import BlockingDeletions, DeletionRequest

request = DeletionRequest(organization_id=1, artifact_ids=["4"])
BlockingDeletions().rows_deleted(request, within=5)
request.artifact_ids[0] + ""
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, from a copy, so that no build folder is left behind."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / PACKAGE, folder / "source" / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    (folder / "source" / "settings.py").write_text("raise RuntimeError\n")  # of the service: it must stay out
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    built = subprocess.run(
        [sys.executable, "-m", *build, str(folder / "source")], capture_output=True, text=True, timeout=120, check=False
    )
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (described,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(described).decode()


def install(wheel: Path, folder: Path, python: str, *more: str) -> Path:
    """A backend's environment: the wheel, what it requires, and these packages of the backend's. Returns its interpreter."""
    with zipfile.ZipFile(wheel) as archive:
        (described,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        packages = required(archive.read(described).decode())
        interpreter = make_environment(folder, [*packages, *more], python=python, complete=True)
        archive.extractall(site_packages(folder))
    return interpreter


@pytest.fixture(scope="module")
def installed(wheel: Path, backend_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel, what it requires, and nothing else."""
    return install(wheel, tmp_path_factory.mktemp("installed") / "environment", backend_python)


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """A backend's folder with modules of all names that ours have."""
    folder = tmp_path / "backend"
    folder.mkdir()
    for name in BACKENDS_OWN:
        (folder / f"{name}.py").write_text("MINE = True\n")
    return folder


def test_it_is_the_contract_and_nothing_of_the_service(wheel: Path, metadata: str) -> None:
    """No command, no worker, no extra: what a backend installs has nothing that would need a package it has not."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert not [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert names == {f"{PACKAGE}/{file.name}" for file in (ROOT / PACKAGE).iterdir() if file.is_file()}
    assert f"{PACKAGE}/py.typed" in names
    assert required(metadata) == {"pydantic", "sqlalchemy", "temporalio"}
    assert "Provides-Extra" not in metadata


def test_the_oldest_packages_that_are_tested_are_those_that_are_promised() -> None:
    """requirements-oldest.txt is what `make test-oldest` installs; pyproject.toml is what pip reads."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        promised = tomllib.load(file)["project"]["dependencies"]
    tested = (ROOT / "requirements-oldest.txt").read_text()
    for one in promised:
        name, _, oldest = one.partition(",")[0].partition(">=")
        assert f"\n{name}=={oldest}.0 " in tested, one


def test_every_module_of_it_can_be_imported_beside_a_backends_own(installed: Path, backend: Path) -> None:
    """With nothing installed but what it asks for; none of its imports finds a module of the backend's, nor hides one."""
    line = [str(installed), "-W", "error", "-c", IMPORTS_ALL, *BACKENDS_OWN]
    done = subprocess.run(line, cwd=backend, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "all\n")


def test_a_backend_under_mypy_strict_is_told_what_is_wrong_and_nothing_else(installed: Path, tmp_path: Path) -> None:
    """In an environment without plugins or stubs. A list of ids is as good as a tuple."""
    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "untyped.py").write_text(UNTYPED)
    options = ["--strict", "--config-file=", "--no-error-summary", "--python-executable", str(installed)]
    line = [sys.executable, "-m", "mypy", *options, "typed.py", "untyped.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    found = [said.split(": ", 2)[:2] for said in done.stdout.splitlines()]
    assert found == [[f"untyped.py:{number}", "error"] for number in (4, 5, 6)], done.stdout + done.stderr


async def run_backend(stack: Stack, interpreter: Path, folder: Path, async_url: str | None = None) -> None:
    """Three deletions, and an artifact that stays."""
    *asked, _ = stack.snapshots(*"abcd")
    before = Seen.of(stack.world)
    url = make_url(stack.database_url).render_as_string(hide_password=False)
    given = json.dumps([url, async_url, stack.organization_id, *(one.id for one in asked)])
    async with stack.worker():
        done = await asyncio.to_thread(
            subprocess.run,
            [str(interpreter), "-c", BACKEND, given],
            cwd=folder,
            env=stack.environment(),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines() == (["accepted", "all"] if async_url else ["all"])
    stack.assert_only_these_are_gone([one.id for one in asked], before)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_backend_needs_no_more_than_the_wheel_asks_for(stack: Stack, installed: Path, backend: Path) -> None:
    """It asks, waits and reads, beside its own modules."""
    await run_backend(stack, installed, backend)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_backend_asks_with_its_own_driver(
    stack: Stack, wheel: Path, backend_python: str, backend: Path, tmp_path: Path, driver: str
) -> None:
    """In a Session, on a Connection, in an AsyncSession."""
    drivers = ("asyncpg", "greenlet", "psycopg", "psycopg-binary")
    interpreter = install(wheel, tmp_path / "environment", backend_python, *drivers)
    async_url = make_url(stack.database_url).set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)
    await run_backend(stack, interpreter, backend, async_url)
