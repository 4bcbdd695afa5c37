"""The servers that all tests share, started once, and a stack of its own for each test."""

import contextlib
import itertools
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.database import Database
from activities.stores.s3 import S3Objects
from artifact_deletion.request import SEARCH_ATTRIBUTES
from demo.servers import ObjectStoreServer, PostgresServer, S3Server, TemporalServer
from tests.ceph import CephGateway
from tests.stack import Stack, connect, prepare_database, s3_of

_buckets = (f"bucket-{number}" for number in itertools.count(1))
_databases = (f"backend_{number}" for number in itertools.count(1))


_OBJECT_STORES: dict[str, Callable[[Path], S3Server]] = {"seaweedfs": ObjectStoreServer, "ceph": CephGateway}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", default="build/screenshots", help="folder for the browser tests' pictures")
    parser.addoption("--object-store", choices=_OBJECT_STORES, default="seaweedfs", help="the S3 server to test on")
    parser.addoption("--backend-python", default=sys.executable, help="the interpreter that runs backends' own programs")


@pytest.fixture(scope="session")
def backend_python(pytestconfig: pytest.Config) -> str:
    """An interpreter with the packages of the contract, perhaps older ones than ours."""
    return str(Path(pytestconfig.getoption("--backend-python")).absolute())


@pytest.fixture(scope="session")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalServer]:
    with TemporalServer(
        tmp_path_factory.mktemp("temporal"), in_memory=True, ui=False, search_attributes=SEARCH_ATTRIBUTES
    ) as server:
        yield server


@pytest.fixture(scope="session")
def object_store_server(pytestconfig: pytest.Config) -> Callable[[Path], S3Server]:
    """The server that the tests were asked to run on: one that a test may kill is made of it."""
    return _OBJECT_STORES[pytestconfig.getoption("--object-store")]


@pytest.fixture(scope="session")
def object_store(
    object_store_server: Callable[[Path], S3Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    with object_store_server(tmp_path_factory.mktemp("objects")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with postgres_with_template(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@contextlib.contextmanager
def postgres_with_template(folder: Path) -> Iterator[PostgresServer]:
    """A server with the database that those of tests are copies of."""
    with PostgresServer(folder) as server:
        prepare_database(server.create_database("template_backend"))
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    prepare_database(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A backend's database with its schema and an empty ledger. A test about one kind alone names it by a parameter."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        shutil.copy(template, tmp_path / "backend.db")
        return f"sqlite:///{tmp_path / 'backend.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database(next(_databases), template="template_backend")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture(scope="session")
def shared_bucket(object_store: S3Server) -> str:
    # SeaweedFS reserves volumes for every bucket, and has no more after some two hundred.
    name = next(_buckets)
    s3_of(object_store).create_bucket(Bucket=name)
    return name


@pytest.fixture
def bucket(object_store: S3Server, shared_bucket: str) -> Iterator[str]:
    """A bucket that is empty again for the next test."""
    yield shared_bucket
    store = S3Objects(s3_of(object_store), shared_bucket, versioned=False)
    for found in store.list_under(""):
        assert not store.delete_found(found).remaining
    for uploads in store.uploads_under(""):
        assert not store.abort_uploads(uploads).remaining


@pytest.fixture
def locking_bucket(object_store: S3Server) -> str:
    """A versioned bucket with object lock."""
    name = next(_buckets)
    s3_of(object_store).create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
async def client(temporal: TemporalServer) -> AsyncIterator[Client]:
    """A client; at the end nothing of the test is left running for the next test's worker to find."""
    connected = await connect(temporal.address)
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
