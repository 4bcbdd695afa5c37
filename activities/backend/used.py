"""What deletions use of the backend's tables: to be held against a schema, or a role's rights, before the first deletion.

The rows that go say most of it themselves, since each of their tables has its statement in cascade.py.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Executable, delete, false, select
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.visitors import iterate

from activities.backend.cascade import PARTS
from activities.backend.tables import (
    Artifact,
    BackendTable,
    BuildConfiguration,
    CommitComparison,
    File,
    FileBlob,
    FileBlobIndex,
    FileBlobOwner,
    InstallableArtifact,
    Project,
    SizeComparison,
    SizeMetrics,
    SnapshotComparison,
    SnapshotMetrics,
)
from activities.backend.trace_items import TraceItem

_BESIDE: tuple[InstrumentedAttribute[Any], ...] = (
    Artifact.project_id,
    Artifact.date_added,
    Artifact.app_id,
    Artifact.build_configuration_id,
    Artifact.commit_comparison_id,
    BuildConfiguration.id,
    BuildConfiguration.project_id,
    CommitComparison.id,
    CommitComparison.organization_id,
    CommitComparison.head_sha,
    CommitComparison.base_sha,
    CommitComparison.head_repo_name,
    CommitComparison.base_repo_name,
    Project.id,
    Project.organization_id,
    SnapshotMetrics.date_added,
    SnapshotMetrics.is_selective,
    File.id,
    File.blob_id,
    FileBlob.id,
    FileBlobIndex.id,
    FileBlobIndex.file_id,
    FileBlobIndex.blob_id,
    FileBlobOwner.blob_id,
    FileBlobOwner.organization_id,
)
"""Columns that are read beside those of the rows that go, or of tables whose rows stay."""
_TRACE_ITEMS = (TraceItem.organization_id, TraceItem.project_id, TraceItem.item_type, TraceItem.trace_id, TraceItem.timestamp)
_DELETED = (*(part.table for part in PARTS), FileBlobIndex, File, BuildConfiguration)
_LOCKED = (Artifact, Project, SizeMetrics, SnapshotMetrics, SnapshotComparison, File)


def columns_used(*, sql_traces: bool) -> dict[str, set[str]]:
    """By table, the columns that any statement of a deletion, or of a look after it, names.

    `sql_traces`: trace items lie in the same database.
    """
    used: dict[str, set[str]] = defaultdict(set)
    for column in (one for part in PARTS for one in iterate(part.look) if isinstance(one, Column)):
        if (table := column.table.name) in BackendTable.metadata.tables:
            used[table].add(column.name)
    for attribute in (*_BESIDE, *(_TRACE_ITEMS if sql_traces else ())):
        used[attribute.class_.__tablename__].add(attribute.key)
    return dict(used)


@dataclass(frozen=True)
class Use:
    """A statement that does nothing, and that a database runs for those alone who may do as much."""

    table: str
    right: str
    statement: Executable


def worker_uses(*, deletes: bool, sql_traces: bool) -> Iterator[Use]:
    """What a worker's role must be allowed; without `deletes` it only reads, as where other workers delete the rows."""
    for name, columns in columns_used(sql_traces=sql_traces).items():
        yield _reads(name, columns)
    if not deletes:
        return
    for table in _LOCKED:
        yield Use(table.__tablename__, "FOR UPDATE", select(table.id).where(false()).with_for_update())
    for table in (*_DELETED, *((TraceItem,) if sql_traces else ())):
        statement = delete(table).where(false()).execution_options(synchronize_session=False)
        yield Use(table.__tablename__, "DELETE", statement)


def operator_uses() -> Iterator[Use]:
    """What one must be allowed who looks which artifacts have expired, which a restore has brought back, and at the images."""
    alike = {"app_id", "build_configuration_id", "commit_comparison_id"}
    yield _reads(Artifact.__tablename__, {"id", "project_id", "date_added", "installable_app_file_id"} | alike)
    yield _reads(CommitComparison.__tablename__, BackendTable.metadata.tables[CommitComparison.__tablename__].columns.keys())
    yield _reads(Project.__tablename__, {"id", "organization_id"})
    yield _reads(SnapshotMetrics.__tablename__, {"id", "preprod_artifact_id", "date_added", "is_selective", "extras"})
    yield _reads(SnapshotComparison.__tablename__, {"head_snapshot_metrics_id", "base_snapshot_metrics_id"})
    yield _reads(SizeMetrics.__tablename__, {"id", "preprod_artifact_id"})
    yield _reads(SizeComparison.__tablename__, {"head_size_analysis_id", "base_size_analysis_id"})
    yield _reads(InstallableArtifact.__tablename__, {"preprod_artifact_id"})


def _reads(table: str, columns: Collection[str]) -> Use:
    of = BackendTable.metadata.tables[table].columns
    return Use(table, "SELECT", select(*(of[column] for column in sorted(columns))).where(false()))
