"""The image that the Dockerfile's own steps build does its work as it is deployed: user 10001, on a root that is read-only.

Building needs Debian's buildah and debootstrap, a package index, and root; where they are, `make test-image` runs these.
"""

import asyncio
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.container import Builder, Image
from tests.manifests import containers_of, pods
from tests.stack import ROOT, Seen, Stack, eventually

pytestmark = [pytest.mark.image, pytest.mark.timeout(600)]  # a build takes half a minute, and an index may be slow


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    folder = tmp_path_factory.mktemp("builder")
    made = Builder(folder)
    made.begin()
    yield made
    shutil.rmtree(folder)  # gigabytes


@pytest.fixture(scope="module")
def image(builder: Builder) -> Image:
    return builder.build()


def test_it_knows_its_version_and_may_write_nothing_but_its_tmp(image: Image) -> None:
    """So each test here has what the manifests ask for; and there is no pip to bring more."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert image.run("artifact-deletion", "--version") == (0, f"artifact-deletion {version}\n")
    assert image.run("id", "--user") == (0, "10001\n")
    for place in ("/service/new", "/venv/new", "/new"):
        code, said = image.run("touch", place)
        assert (code, "Read-only file system" in said) == (1, True), said
    assert image.run("touch", "/tmp/new") == (0, "")
    code, said = image.run("python", "-m", "pip")
    assert (code, "No module named pip" in said) == (1, True), said


def make_roles(url: str) -> None:
    """What the head of deploy/grants.sql asks for, once a server."""
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as owner:
        found = {name for (name,) in owner.execute("SELECT rolname FROM pg_roles")}
        for role in {f"artifact_deletion_{name}" for name in ("worker", "backend", "operator")} - found:
            owner.execute(f"CREATE ROLE {role} NOLOGIN".encode())


@contextmanager
def started(image: Image, log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A container of the image's own command, until the end of the block: it stops by itself when it is told to."""
    container = image.start(environment=environment, log=log)
    try:
        yield container
        container.terminate()
        assert container.wait(30) == 0, log.read_text()
    finally:
        container.kill()
        container.wait()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_job_sets_up_the_workers_delete_and_doctor_finds_nothing_wrong(
    image: Image, stack: Stack, tmp_path: Path
) -> None:
    """In the order of the manifests, each process with a command of theirs."""
    (head,) = stack.snapshots("head")
    before = Seen.of(stack.world)
    make_roles(stack.database_url)
    environment = stack.environment(ARTIFACT_DELETION_METRICS_ADDRESS="127.0.0.1:0", HOME="/")
    with psycopg.connect(stack.database_url.replace("+psycopg", "", 1)) as owner:
        owner.execute("DROP SCHEMA artifact_deletion CASCADE")
    for step in containers_of(pods()["setup"]):
        code, said = await asyncio.to_thread(image.run, *step["command"], environment=environment)
        assert code == 0, said

    with ExitStack() as containers:
        workers = [
            containers.enter_context(
                started(image, tmp_path / f"{serves}.log", {**environment, "ARTIFACT_DELETION_SERVES": serves})
            )
            for serves in ("rows", "objects")
        ]
        in_shell, healthy = image.config["Healthcheck"]["Test"]
        assert in_shell == "CMD-SHELL"

        async def all_healthy() -> bool:
            asked = [await asyncio.to_thread(image.run_in, one, "sh", "-c", healthy, environment={}) for one in workers]
            return all(code == 0 for code, _ in asked)

        await eventually(all_healthy)
        of_store = workers[1]

        async def succeeds(*line: object) -> str:
            command = ("artifact-deletion", *map(str, line))
            code, said = await asyncio.to_thread(image.run_in, of_store, *command, environment=environment)
            assert code == 0, said
            return said

        await succeeds("doctor")
        said = await succeeds("delete", head.id, "--organization", stack.organization_id, "--wait", "--yes")
        assert "complete: nothing is left over" in said
    stack.assert_only_these_are_gone([head.id], before, hidden=[head])


def test_the_image_for_snuba_has_its_client(builder: Builder, image: Image) -> None:
    """By the build argument that docs/deployment.md names. Without it the client is absent."""
    with_snuba = builder.build("--build-arg", "REQUIREMENTS=deploy/requirements-snuba.txt")
    importing = ("python", "-c", "import activities.stores.snuba")
    assert with_snuba.run(*importing) == (0, "")
    assert image.run(*importing)[0] == 1
