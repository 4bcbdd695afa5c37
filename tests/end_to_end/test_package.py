"""The wheel is the contract: it lives beside a backend's own modules, with no more packages than it asks for, and typed.

`make test-oldest` runs this with the oldest packages that pyproject.toml promises to work with (`--backend-python`).
"""

import ast
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

import artifact_deletion
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

from artifact_deletion import BlockingDeletions, DeletionRequest, Deletions, accept_deletion, reserve_images
from artifact_deletion.client import preview_deletion, progress, resume, trying_again
from artifact_deletion.converter import connect
from artifact_deletion.outbox import deletions_to_start, recorded

SOON = timedelta(seconds=30)
SNAPSHOT = {"project_id": 7, "artifact_id": 4, "images": ["a" * 64]}
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
        assert await session.run_sync(reserve_images, **SNAPSHOT) == {}
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
    assert reserve_images(connection, **SNAPSHOT) == {}
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

from artifact_deletion import BlockingDeletions, DeletionReceipt, DeletionRequest, Deletions, accept_deletion, reserve_images
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


def commit(session: Session | Connection, images: Sequence[str], put_again: dict[str, int]) -> dict[str, int]:
    return reserve_images(session, project_id=7, artifact_id=4, images=images, put_again=put_again)


async def commit_async(session: AsyncSession) -> dict[str, int]:
    missing: dict[str, int] = await session.run_sync(reserve_images, project_id=7, artifact_id=4, images=set())
    return missing


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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_every_module_of_it_can_be_imported_beside_a_backends_own(installed: Path, backend: Path) -> None:
    """With nothing installed but what it asks for; none of its imports finds a module of the backend's, nor hides one."""
    line = [str(installed), "-W", "error", "-c", IMPORTS_ALL, *BACKENDS_OWN]
    done = subprocess.run(line, cwd=backend, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "all\n")


def mypy_strict(installed: Path, folder: Path, **programs: str) -> list[str]:
    """What mypy says of these programs in an environment without plugins or stubs."""
    for name, program in programs.items():
        (folder / f"{name}.py").write_text(program)
    options = ["--strict", "--config-file=", "--no-error-summary", "--python-executable", str(installed)]
    line = [sys.executable, "-m", "mypy", *options, *(f"{name}.py" for name in programs)]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.thorough
def test_a_backend_under_mypy_strict_is_told_what_is_wrong_and_nothing_else(installed: Path, tmp_path: Path) -> None:
    """A list of ids is as good as a tuple."""
    said = mypy_strict(installed, tmp_path, typed=TYPED, untyped=UNTYPED)
    found = [one.split(": ", 2)[:2] for one in said]
    assert found == [[f"untyped.py:{number}", "error"] for number in (4, 5, 6)], said


UNKNOWN_TYPES = {
    "artifact_deletion.client.start_bulk": "as start_deletion",
    "artifact_deletion.client.start_deletion": "a handle names its workflow's class, which the service alone has",
    "artifact_deletion.converter.PayloadsAsTheyCome.from_payloads": "the SDK's own signature: a payload can be anything",
    "artifact_deletion.outbox.execute": "it takes any statement, and answers with its rows",
    "artifact_deletion.outbox.ask_table": "SQLAlchemy 2.1 says that a column may hold anything",
}
"""The only public names whose types leave something open."""


def public_names() -> Iterator[str]:
    """Each name without an underscore that a module of the contract defines, with those of its classes."""
    yield from (f"{PACKAGE}.{name}" for name in artifact_deletion.__all__)
    for file in sorted((ROOT / PACKAGE).glob("*.py")):
        yield from names_defined(ast.parse(file.read_text()), f"{PACKAGE}.{file.stem}")


def names_defined(within: ast.Module | ast.ClassDef, path: str) -> Iterator[str]:
    for node in within.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names = [one.id for one in targets if isinstance(one, ast.Name)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        for name in names:
            if not name.startswith("_") and name != "model_config":  # which is pydantic's
                yield f"{path}.{name}"
                if isinstance(node, ast.ClassDef):
                    yield from names_defined(node, f"{path}.{name}")


def reveals(name: str) -> str:
    """One line that has mypy say the type of a public name; a member's is that of an instance's."""
    owner, _, member = name.rpartition(".")
    if not owner.rpartition(".")[2][0].isupper():
        return f"reveal_type({name})"
    return f"def {name.replace('.', '_')}(one: {owner}) -> None: reveal_type(one.{member})"


@pytest.mark.thorough
def test_every_public_name_has_a_type_that_leaves_nothing_open(installed: Path, tmp_path: Path) -> None:
    """Any, where it leaks into a backend, turns its checks off."""
    names = list(public_names())
    imports = [f"import {PACKAGE}.{file.stem}" for file in (ROOT / PACKAGE).glob("*.py") if file.stem != "__init__"]
    program = "; ".join(imports) + "\n" + "\n".join(reveals(name) for name in names) + "\n"
    found = {}
    for one in mypy_strict(installed, tmp_path, names=program):
        said = re.fullmatch(r'names\.py:(\d+): note: Revealed type is "(.*)"', one)
        assert said, one
        found[names[int(said[1]) - 2]] = said[2].replace("Coroutine[Any, Any, ", "Coroutine[")
    assert found.keys() == set(names)
    assert {name for name, revealed in found.items() if re.search(r"\bAny\b", revealed)} <= UNKNOWN_TYPES.keys()


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


@pytest.mark.thorough
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_backend_needs_no_more_than_the_wheel_asks_for(stack: Stack, installed: Path, backend: Path) -> None:
    """It asks, waits and reads, beside its own modules."""
    await run_backend(stack, installed, backend)


@pytest.mark.thorough
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
