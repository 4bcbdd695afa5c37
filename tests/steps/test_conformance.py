"""Every adapter of ours passes the suite that others' adapters must pass."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from mypy_boto3_s3.literals import BucketVersioningStatusType
from sqlalchemy import func, select

from activities.backend.trace_items import PREPROD, TraceItem
from activities.database import Database
from activities.stores.objects import ObjectStore
from activities.stores.s3 import S3Objects
from activities.stores.snuba import SnubaTraces
from activities.stores.sql_traces import SqlTraces
from activities.stores.traces import TraceStore
from conformance.object_store import ObjectStoreConformance
from conformance.trace_store import ListingTraceStoreConformance
from demo.servers import S3Server
from examples.folder_store import FolderStore
from tests.snuba_server import SnubaServer
from tests.stack import PROCESS, Stack, s3_of

pytestmark = pytest.mark.thorough


class S3Conformance(ObjectStoreConformance):
    """S3 over boto3, on the server that the tests were asked to run on."""

    def put(self, store: ObjectStore, key: str, content: bytes = b"x") -> None:
        assert isinstance(store, S3Objects)
        store.client.put_object(Bucket=store.bucket, Key=key, Body=content)


@pytest.mark.ceph
class TestS3(S3Conformance):
    @pytest.fixture
    def store(self, object_store: S3Server, bucket: str) -> ObjectStore:
        return S3Objects(s3_of(object_store), bucket, versioned=False)


@pytest.fixture(scope="module")
def versioned_bucket(object_store: S3Server) -> str:
    return bucket_of(object_store, "Enabled")


@pytest.fixture(scope="module")
def suspended_bucket(object_store: S3Server) -> str:
    return bucket_of(object_store, "Enabled", "Suspended")


def bucket_of(server: S3Server, *statuses: BucketVersioningStatusType) -> str:
    name = f"conformance-{PROCESS}-{statuses[-1].lower()}"
    s3_of(server).create_bucket(Bucket=name)
    for status in statuses:
        s3_of(server).put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
    return name


@pytest.mark.ceph
class TestVersionedS3(S3Conformance):
    """Gone means no version and no marker."""

    @pytest.fixture
    def store(self, object_store: S3Server, versioned_bucket: str) -> Iterator[ObjectStore]:
        yield from emptied_at_the_end(S3Objects(s3_of(object_store), versioned_bucket, versioned=True))


@pytest.mark.thorough
@pytest.mark.ceph
class TestSuspendedS3(S3Conformance):
    """Each object is a version called null."""

    @pytest.fixture
    def store(self, object_store: S3Server, suspended_bucket: str) -> Iterator[ObjectStore]:
        yield from emptied_at_the_end(S3Objects(s3_of(object_store), suspended_bucket, versioned=True))


def emptied_at_the_end(store: S3Objects) -> Iterator[ObjectStore]:
    yield store
    for found in store.list_under(""):
        assert not store.delete_found(found).remaining


class TestFolder(ObjectStoreConformance):
    """The example of a store of one's own."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return FolderStore(tmp_path)

    def put(self, store: ObjectStore, key: str, content: bytes = b"x") -> None:
        assert isinstance(store, FolderStore)
        store.put(key, content)


class TestSqlTraces(ListingTraceStoreConformance):
    @pytest.fixture
    def store(self, database: Database) -> TraceStore:
        self.database = database
        return SqlTraces(database)

    def put(self, organization_id: int, project_id: int, trace: str, items: int, *, preprod: bool = True) -> None:
        kind = PREPROD if preprod else PREPROD + 1
        with self.database.write() as session:
            for _ in range(items):
                session.add(TraceItem(organization_id=organization_id, project_id=project_id, item_type=kind, trace_id=trace))

    def count(self) -> int:
        with self.database.read() as session:
            return session.execute(select(func.count()).select_from(TraceItem)).scalar_one()

    def settle(self) -> None:
        """It deletes at once."""


class TestSnubaTraces(ListingTraceStoreConformance):
    """On the stand-in for Snuba."""

    more_than_a_page = 5001

    @pytest.fixture
    def store(self) -> Iterator[TraceStore]:
        with SnubaServer() as self.server:
            yield SnubaTraces(self.server.url)

    def put(self, organization_id: int, project_id: int, trace: str, items: int, *, preprod: bool = True) -> None:
        if preprod:  # the server of the tests refuses requests for any other type, as Snuba does for types without a rule
            self.server.items[organization_id, project_id, trace] = items

    def count(self) -> int:
        return sum(self.server.items.values())

    def settle(self) -> None:
        self.server.consume()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_store_of_ones_own_is_deleted_from(stack: Stack, tmp_path: Path) -> None:
    """The whole path through a worker process; the bucket that its settings name is never asked."""
    head, base = stack.snapshots("head", "base")
    stack.world.comparison(head, base, masks=3)
    store = FolderStore(tmp_path / "objects")
    for page in S3Objects(stack.s3, stack.bucket, versioned=False).list_under(""):
        for one in page:
            await asyncio.to_thread(store.put, one.key, stack.s3.get_object(Bucket=stack.bucket, Key=one.key)["Body"].read())
    before = {one.key for page in store.list_under("") for one in page}
    in_bucket = stack.world.objects()
    stack.worker_process(ARTIFACT_DELETION_ADAPTERS="examples.folder_store:adapters", FOLDER_STORE=str(tmp_path / "objects"))
    receipt = await stack.delete([head.id])
    assert receipt.complete
    assert receipt.objects.uploads_unchecked == receipt.objects.prefixes
    after = {one.key for page in store.list_under("") for one in page}
    assert before - after == stack.world.objects_of([head.id])
    assert stack.world.objects() == in_bucket
