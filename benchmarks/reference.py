"""The reference's way as one function: what a request handler did: collect, cascade, delete, ask the event store."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sqlalchemy import delete, or_, select

from activities.backend import tables
from activities.backend.trace_items import PREPROD, TraceItem
from activities.database import Database
from demo.world import Snapshot, World

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

THREADS = 8


def delete_snapshot(database: Database, s3: "S3Client", world: World, snapshot: Snapshot) -> int:
    """Delete one snapshot while its caller waits, as well as it goes: nothing is retried. Returns the number of keys."""
    artifact = snapshot.artifact
    scope = world.physical(snapshot.usecase, artifact.organization_id, artifact.project_id, "")
    metrics, comparison = tables.SnapshotMetrics, tables.SnapshotComparison
    with database.read() as session:
        metrics_id, extras = session.execute(
            select(metrics.id, metrics.extras).where(metrics.preprod_artifact_id == artifact.id)
        ).one()
        of_it = or_(comparison.head_snapshot_metrics_id == metrics_id, comparison.base_snapshot_metrics_id == metrics_id)
        named = [one["comparison_key"] for one in session.execute(select(comparison.extras).where(of_it)).scalars()]
    keys = [extras["manifest_key"], extras["head_images_key"], *named]
    for key in named:
        content = s3.get_object(Bucket=world.bucket, Key=scope + key)["Body"].read()
        images = json.loads(content)["images"].values()
        keys += [image["diff_mask_key"] for image in images if image.get("diff_mask_key")]
    with database.write() as session:
        session.execute(delete(comparison).where(of_it))
        for table in (tables.InstallableArtifact, tables.MobileAppInfo, tables.ComparisonApproval, tables.SizeMetrics, metrics):
            session.execute(delete(table).where(table.preprod_artifact_id == artifact.id))
        session.execute(delete(tables.Artifact).where(tables.Artifact.id == artifact.id))
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda key: s3.delete_object(Bucket=world.bucket, Key=scope + key), keys))
    with database.write() as session:
        of_artifact = TraceItem.trace_id == artifact.trace_id
        session.execute(delete(TraceItem).where(of_artifact, TraceItem.item_type == PREPROD))
    return len(keys)
