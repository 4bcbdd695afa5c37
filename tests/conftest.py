"""The servers that all tests share, and a stack of its own for each test.

There is one server of each kind for all processes of a run. Where pytest-xdist runs several, the one that started them starts
the servers too, and hands them on. Else a server starts when the first test asks for it.
"""

import contextlib
import functools
import itertools
import pickle
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

import composition
from activities.database import Database
from activities.stores.s3_wire import s3_client
from artifact_deletion.request import SEARCH_ATTRIBUTES
from demo.servers import ObjectStoreServer, PostgresServer, S3Server, Server, TemporalServer
from tests.backups import RestorePoint, of_postgresql, of_sqlite
from tests.buckets import empty
from tests.ceph import CephGateway
from tests.databases import TEMPLATE, Databases
from tests.fault_proxy import FaultProxy
from tests.hidden_images import VERSIONINGS, bucket_of, new_hash, new_place
from tests.image_steps import ImageSteps, image_steps
from tests.stack import PROCESS, Stack, connect, prepare_database, s3_of
from tests.tiers import left_to_test_all
from tests.uploader import Uploader
from workflows import quick

_buckets = (f"bucket-{PROCESS}-{number}" for number in itertools.count(1))
_databases = (f"backend_{PROCESS}_{number}" for number in itertools.count(1))
_OBJECT_STORES: dict[str, Callable[[Path], S3Server]] = {"seaweedfs": ObjectStoreServer, "ceph": CephGateway}
_RUNNING, _HANDED_ON = pytest.StashKey[ExitStack](), pytest.StashKey[Mapping[str, bytes]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run all tests in all of their worlds (make test-all)")
    parser.addoption("--screenshots", default="build/screenshots", help="folder for the browser tests' pictures")
    parser.addoption("--object-store", choices=_OBJECT_STORES, default="seaweedfs", help="the S3 server to test on")
    parser.addoption("--backend-python", default=sys.executable, help="the interpreter that runs backends' own programs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `make test-all` has besides, unless all was asked for."""
    if not config.getoption("--all"):
        others = left_to_test_all(items)
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


@pytest.fixture(scope="session")
def backend_python(pytestconfig: pytest.Config) -> str:
    """An interpreter with the packages of the contract, perhaps older ones than ours."""
    return str(Path(pytestconfig.getoption("--backend-python")).absolute())


def _kinds(config: pytest.Config, processes: Sequence[str]) -> Mapping[str, Callable[[Path], AbstractContextManager[Server]]]:
    """How each server is made. Temporal's has a namespace for each process: no worker meets another process's deletions."""
    temporal = functools.partial(
        TemporalServer, in_memory=True, ui=False, search_attributes=SEARCH_ATTRIBUTES, namespaces=processes
    )
    store = _OBJECT_STORES[config.getoption("--object-store")]
    return {"temporal": temporal, "object_store": store, "postgres": postgres_with_template}


@contextlib.contextmanager
def postgres_with_template(folder: Path) -> Iterator[PostgresServer]:
    """A server with the database that those of tests are copies of."""
    with PostgresServer(folder) as server:
        prepare_database(server.create_database(TEMPLATE))
        yield server


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: Sequence[Any]) -> None:
    running = config.stash[_RUNNING] = ExitStack()
    folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="servers-")))
    kinds = _kinds(config, [spec.id for spec in specs])
    with ThreadPoolExecutor() as pool:
        started = pool.map(lambda kind: running.enter_context(kinds[kind](folder / kind)), kinds)
    config.stash[_HANDED_ON] = {kind: pickle.dumps(server) for kind, server in zip(kinds, started, strict=True)}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput.update(node.config.stash[_HANDED_ON])


def pytest_unconfigure(config: pytest.Config) -> None:
    if _RUNNING in config.stash:
        config.stash[_RUNNING].close()


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """The server of a kind."""
    with ExitStack() as running:

        def server(kind: str) -> Any:
            if handed_on := getattr(pytestconfig, "workerinput", None):
                return pickle.loads(handed_on[kind])
            return running.enter_context(_kinds(pytestconfig, [PROCESS])[kind](tmp_path_factory.mktemp(kind)))

        yield server


@pytest.fixture(scope="session")
def temporal(shared: Callable[[str], TemporalServer]) -> TemporalServer:
    return shared("temporal")


@pytest.fixture(scope="session")
def object_store(shared: Callable[[str], S3Server]) -> S3Server:
    return shared("object_store")


@pytest.fixture(scope="session")
def postgres(shared: Callable[[str], PostgresServer]) -> PostgresServer:
    return shared("postgres")


@pytest.fixture(scope="session")
def postgres_databases() -> Databases:
    """The databases of one process's tests."""
    return Databases(_databases)


@pytest.fixture(scope="session")
def object_store_server(pytestconfig: pytest.Config) -> Callable[[Path], S3Server]:
    """The server that the tests were asked to run on: one that a test may kill is made of it."""
    return _OBJECT_STORES[pytestconfig.getoption("--object-store")]


@pytest.fixture(scope="session", autouse=True)
def _one_s3_client_for_the_same_settings() -> Iterator[None]:
    """To make one takes longer than a step does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(composition, "s3_client", functools.cache(s3_client))
        yield


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    prepare_database(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A backend's database with its schema and an empty ledger. A test about one kind alone names it by a parameter."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        shutil.copy(template, tmp_path / "backend.db")
        yield f"sqlite:///{tmp_path / 'backend.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    databases: Databases = request.getfixturevalue("postgres_databases")
    taken = databases.take(server)
    yield taken.url
    databases.give_back(server, taken)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture(scope="session")
def shared_bucket(object_store: S3Server) -> str:
    name = next(_buckets)
    s3_of(object_store).create_bucket(Bucket=name)
    return name


@pytest.fixture
def bucket(object_store: S3Server, shared_bucket: str) -> Iterator[str]:
    """A bucket that is empty again for the next test."""
    yield shared_bucket
    empty(object_store, shared_bucket)


@pytest.fixture
def locking_bucket(object_store: S3Server) -> str:
    """A versioned bucket with object lock."""
    name = next(_buckets)
    s3_of(object_store).create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
async def client(temporal: TemporalServer) -> AsyncIterator[Client]:
    """A client; at the end nothing of the test is left running for the next test's worker to find."""
    connected = await connect(temporal.address, PROCESS)
    yield connected
    async for found in connected.list_workflows('ExecutionStatus = "Running"'):
        try:
            await connected.get_workflow_handle(found.id).terminate()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # it has ended; the list is a moment behind
                raise


@pytest.fixture
async def stack(
    database: Database, database_url: str, object_store: S3Server, bucket: str, client: Client, tmp_path: Path
) -> AsyncIterator[Stack]:
    made = Stack(
        database,
        database_url,
        object_store,
        s3_of(object_store),
        bucket,
        client,
        client.service_client.config.target_host,
        tmp_path,
    )
    yield made
    made.stop_processes()


@pytest.fixture
def only_visible_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small deletion goes as a large one does: each step by itself, none within the workflow task."""
    monkeypatch.setattr(quick, "SMALL", 0)


@pytest.fixture
def restore_point(stack: Stack, request: pytest.FixtureRequest, tmp_path: Path) -> RestorePoint:
    """Takes a dump of the stack's database; what it returns restores it."""
    if not stack.database.is_postgresql:
        return lambda: of_sqlite(stack, tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return lambda: of_postgresql(stack, tmp_path, server)


@pytest.fixture(scope="session")
def image_buckets(object_store: S3Server) -> dict[str, str]:
    """A bucket of each kind. No test empties them: each has an organization of its own."""
    return {kind: bucket_of(object_store, kind).bucket for kind in VERSIONINGS}


@pytest.fixture(params=["folder", "bare"])
def place(request: pytest.FixtureRequest) -> str:
    """Images lie in their project's folder; older ones have their digest alone for a key."""
    return new_hash() if request.param == "bare" else new_place()


@pytest.fixture
def faults(object_store: S3Server) -> Iterator[FaultProxy]:
    """Before the store: a test goes through it where it wants faults."""
    with FaultProxy(object_store.endpoint) as proxy:
        yield proxy


@pytest.fixture(params=["enabled", "never", pytest.param("suspended", marks=pytest.mark.thorough)])
def versioning(request: pytest.FixtureRequest, stack: Stack, image_buckets: dict[str, str]) -> str:
    """The stack's bucket is of this kind."""
    stack.use_bucket(image_buckets[request.param])
    return str(request.param)


@pytest.fixture
def images(stack: Stack, versioning: str) -> Iterator[ImageSteps]:
    """The steps about the images of a project, in a bucket of each kind."""
    with image_steps(stack) as steps:
        yield steps


@pytest.fixture
def uploader(images: ImageSteps) -> Uploader:
    """A client that uploads snapshots of that project."""
    return Uploader(images.stack, images.project)


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run starter.py in this process, which saves the seconds that imports take. Returns its exit code and what it said."""
    import starter  # noqa: PLC0415  only what is about the command line needs it

    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = starter.main([str(one) for one in arguments])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run
