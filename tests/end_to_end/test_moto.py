"""A third S3 server passes the suite of stores: what two servers agree on by chance is no promise of S3's."""

from collections.abc import Iterator

import pytest
from mypy_boto3_s3.literals import BucketVersioningStatusType

from activities.stores.objects import ObjectStore
from activities.stores.s3 import S3Objects
from conformance.object_store import ObjectStoreConformance
from demo.servers import S3Server
from tests.moto import MotoServer
from tests.stack import Stack, s3_of

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with MotoServer(tmp_path_factory.mktemp("moto")) as server:
        yield server


def bucket_of(server: S3Server, name: str, *statuses: BucketVersioningStatusType) -> str:
    s3_of(server).create_bucket(Bucket=name)
    for status in statuses:
        s3_of(server).put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
    return name


class MotoConformance(ObjectStoreConformance):
    def put(self, store: ObjectStore, key: str, content: bytes = b"x") -> None:
        assert isinstance(store, S3Objects)
        store.client.put_object(Bucket=store.bucket, Key=key, Body=content)


class TestMoto(MotoConformance):
    @pytest.fixture
    def store(self, moto: MotoServer, request: pytest.FixtureRequest) -> ObjectStore:
        return S3Objects(s3_of(moto), bucket_of(moto, f"plain-{id(request)}"), versioned=False)


class TestVersionedMoto(MotoConformance):
    """Its listings are of versions and markers."""

    @pytest.fixture
    def store(self, moto: MotoServer, request: pytest.FixtureRequest) -> ObjectStore:
        return S3Objects(s3_of(moto), bucket_of(moto, f"versioned-{id(request)}", "Enabled"), versioned=True)


class TestSuspendedMoto(MotoConformance):
    """Each object is a version called null."""

    @pytest.fixture
    def store(self, moto: MotoServer, request: pytest.FixtureRequest) -> ObjectStore:
        return S3Objects(s3_of(moto), bucket_of(moto, f"suspended-{id(request)}", "Enabled", "Suspended"), versioned=True)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_deletion_leaves_no_version_behind_on_moto(stack: Stack, moto: MotoServer) -> None:
    """The whole path, where each key has a version that was overwritten.

    moto answers GetBucketVersioning with an element that is not S3's. It is not asked: a setting says it.
    """
    stack.use_bucket(bucket_of(moto, "whole", "Enabled"), moto)
    one, two = stack.snapshots("one", "two")
    own, kept = stack.world.objects_of([one.id]), stack.world.objects_of([two.id])
    for key in own:
        stack.s3.put_object(Bucket="whole", Key=key, Body=stack.s3.get_object(Bucket="whole", Key=key)["Body"].read())
    async with stack.worker(bucket_versioned="yes"):
        assert (await stack.delete([one.id])).complete
    left = stack.s3.list_object_versions(Bucket="whole")
    names = {found["Key"] for found in [*left.get("Versions", ()), *left.get("DeleteMarkers", ())]}
    assert not names & own
    assert names >= kept
