"""The sample world has the shape that the demo shows and the other tests rely on."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from activities.database import Database
from demo.servers import ObjectStoreServer
from demo.world import World, create_schema, sample_world

BUCKET = "world"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ObjectStoreServer(tmp_path / "objects") as server:
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket=BUCKET)
        database = Database(f"sqlite:///{tmp_path / 'backend.db'}")
        create_schema(database.engine)
        yield World(database.engine, client, BUCKET)
        database.dispose()


@pytest.mark.thorough
def test_the_sample_world_ties_what_goes_to_what_stays(world: World) -> None:
    """A deletion is only put to the test where artifacts share images and comparisons with those that stay."""
    sample = sample_world(world)
    rows, objects = world.rows(), world.objects()

    assert len(sample.snapshots) >= 6
    assert {len(rows["sentry_organization"]), len(sample.projects)} == {2, 3}
    assert set(rows["sentry_preprodartifact"]) == {*sample.to_delete, *sample.to_keep}
    assert {name for name, found in rows.items() if not found} == {"sentry_preprodbuildconfiguration"}, "it is no artifact's"

    doomed_rows, doomed_objects = world.rows_of(sample.to_delete), world.objects_of(sample.to_delete)
    assert all(row_id in rows[table] for table, row_id in doomed_rows)
    assert doomed_objects < set(objects)

    pairs = {(one.head.id in sample.to_delete, one.base.id in sample.to_delete) for one in sample.comparisons}
    assert pairs == {(True, True), (True, False), (False, True), (False, False)}
    hashes = [{*one.images.values()} for one in sample.snapshots if one.artifact.project_id == sample.project.id]
    assert hashes[0] & hashes[1], "snapshots of a project share images"
