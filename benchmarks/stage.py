"""Where all contenders meet: Temporal, PostgreSQL, an object store that can be set back, and a worker."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import delete
from temporalio.client import Client

from activities.database import Database
from activities.ledger.image_schema import ImagePage
from activities.ledger.schema import Ask, Deletion, DeletionArtifact, DeletionChunk, DeletionPage, DeletionPrefix
from artifact_deletion.converter import data_converter
from benchmarks.data import Doomed
from benchmarks.measure import run_tool
from commands.setup import register_search_attributes
from demo.run import WorkerProcess
from demo.servers import ObjectStoreServer, PostgresServer, TemporalServer
from demo.world import SNAPSHOTS, create_schema
from migrations import migrate
from settings import PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "bench"
ROOT = Path(__file__).parents[1]


@dataclass
class Stage:
    """The servers keep their addresses whatever happens to their data."""

    folder: Path
    temporal: TemporalServer
    postgres: PostgresServer
    objects: ObjectStoreServer
    database: Database
    client: Client
    s3: "S3Client"
    _seeded: dict[tuple[Doomed, ...], Path] = field(default_factory=dict)

    @property
    def others(self) -> list[int]:
        """Process ids of what only our own way needs."""
        return [self.temporal.pid, self.postgres.pid]

    @property
    def dsn(self) -> str:
        """PostgreSQL's, for a connection whose transactions are its own."""
        return self.database.engine.url.render_as_string(hide_password=False).replace("+psycopg", "", 1)

    def fill(self, *doomed: Doomed) -> None:
        """Give the store exactly the objects of these artifacts: uploaded once, then copied from a stopped server's folder."""
        data = self.objects.folder / "data"
        self.objects.stop()
        shutil.rmtree(data)
        if doomed not in self._seeded:
            self.objects.start()
            self.s3.create_bucket(Bucket=BUCKET)
            command = [sys.executable, "-m", "benchmarks.upload", str(doomed[0].keys), *(str(one.id) for one in doomed)]
            run_tool(command, self.environment(), self.objects.pid)
            self.objects.stop()
            self._seeded[doomed] = self.folder / f"seeded-{len(self._seeded)}"
            shutil.copytree(data, self._seeded[doomed])
        else:
            shutil.copytree(self._seeded[doomed], data)
        self.objects.start()

    def left(self, doomed: Doomed) -> int:
        """How many objects the store still has of it, at most a thousand."""
        return self.s3.list_objects_v2(Bucket=BUCKET, Prefix=doomed.prefix)["KeyCount"]

    def insert_rows(self, *doomed: Doomed) -> None:
        """Make these artifacts' rows, and forget that they ever were deleted."""
        with self.database.write() as session:
            for table in (Ask, ImagePage, DeletionPage, DeletionPrefix, DeletionChunk, DeletionArtifact, Deletion):
                session.execute(delete(table))
            for one in doomed:
                one.insert_rows(session)

    def environment(self) -> dict[str, str]:
        """For tools and scripts: where the store is, in the words of each."""
        keys = {"ACCESS_KEY_ID": self.objects.access_key, "SECRET_ACCESS_KEY": self.objects.secret_key}
        rclone = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": self.objects.endpoint, "REGION": "us-east-1", **keys}
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "BENCH_ENDPOINT": self.objects.endpoint,
            "AWS_REGION": "us-east-1",
            "RCLONE_CONFIG": os.devnull,
            **{f"AWS_{name}": value for name, value in keys.items()},
            **{f"RCLONE_CONFIG_BENCH_{name}": value for name, value in rclone.items()},
        }

    def worker(self, name: str = "worker", **changes: str) -> WorkerProcess:
        """A worker with the default settings, but no quiet period: it would count for our time.

        And with the one usecase in which everything is that is deleted here: the other contenders look into no further ones.
        """
        return WorkerProcess(self.folder / name, self.worker_variables(**changes))

    def worker_variables(self, **changes: str) -> dict[str, str]:
        """The environment of such a worker."""
        settings = {
            "database_url": self.database.engine.url.render_as_string(hide_password=False),
            "bucket": BUCKET,
            "s3_endpoint": self.objects.endpoint,
            "s3_access_key": self.objects.access_key,
            "s3_secret_key": self.objects.secret_key,
            "trace_store": "sql",
            "quiet_period_s": "0",
            "usecases": SNAPSHOTS,
            **changes,
        }
        variables = {f"{PREFIX}{key.upper()}": value for key, value in settings.items()}
        return variables | {"TEMPORAL_ADDRESS": self.temporal.address}


@contextlib.contextmanager
def servers(folder: Path, *, in_memory: bool) -> Iterator[tuple[TemporalServer, PostgresServer, ObjectStoreServer]]:
    """All three, up."""
    with contextlib.ExitStack() as stack:
        temporal = stack.enter_context(TemporalServer(folder / "temporal", in_memory=in_memory, ui=False))
        postgres = stack.enter_context(PostgresServer(folder / "postgres"))
        objects = stack.enter_context(ObjectStoreServer(folder / "objects"))
        for server in (temporal, postgres, objects):
            stack.callback(server.kill)  # what a graceful end takes seconds to save is thrown away
        yield temporal, postgres, objects


async def connect(temporal: TemporalServer) -> Client:
    """A client of a server that has our search attributes."""
    client = await Client.connect(temporal.address, data_converter=data_converter)
    await register_search_attributes(client)
    return client


async def open_stage(folder: Path, temporal: TemporalServer, postgres: PostgresServer, objects: ObjectStoreServer) -> Stage:
    """An empty backend on these servers."""
    database = Database(postgres.create_database("bench"))
    create_schema(database.engine)
    migrate(database)
    client = await connect(temporal)
    s3 = objects.client(read_timeout_s=60)
    s3.create_bucket(Bucket=BUCKET)
    return Stage(folder, temporal, postgres, objects, database, client, s3)
