"""The backend's tables, as far as a deletion reads or deletes them.

Names and foreign keys are Sentry's (`sentry/preprod/models.py`, `sentry/models/files`): every key is `DEFERRABLE INITIALLY
DEFERRED` without an `ON DELETE` action, so the database cascades nothing and refuses only at COMMIT. Columns that are not
named here exist in a real backend and are left alone. The demo and the tests create the schema from these classes.
"""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    func,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from artifact_deletion.outbox import Json

BigInt = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself for INTEGER PRIMARY KEY only


class BackendTable(DeclarativeBase):
    """A table that the backend owns. Ids are never used twice, which SQLite has to be told."""

    __table_args__: Any = {"sqlite_autoincrement": True}  # noqa: RUF012  SQLAlchemy declares it so
    metadata = MetaData()
    type_annotation_map: ClassVar[dict[Any, Any]] = {int: BigInt, datetime: DateTime(timezone=True)}


def _id() -> Mapped[int]:
    return mapped_column(BigInt, Identity(), primary_key=True)


def _refers(target: str, *, nullable: bool = False, unique: bool = False) -> Mapped[Any]:
    key = ForeignKey(target, deferrable=True, initially="DEFERRED")
    return mapped_column(BigInt, key, nullable=nullable, unique=unique, index=not unique)


def _now() -> Mapped[datetime]:
    return mapped_column(DateTime(timezone=True), server_default=func.now())


class Organization(BackendTable):
    __tablename__ = "sentry_organization"
    id: Mapped[int] = _id()
    slug: Mapped[str] = mapped_column(String(64))


class Project(BackendTable):
    __tablename__ = "sentry_project"
    id: Mapped[int] = _id()
    slug: Mapped[str] = mapped_column(String(64))
    organization_id: Mapped[int] = _refers("sentry_organization.id")
    status: Mapped[int] = mapped_column(Integer, server_default="0")


class BuildConfiguration(BackendTable):
    """Hangs from the project. Artifacts may refer to it."""

    __tablename__ = "sentry_preprodbuildconfiguration"
    id: Mapped[int] = _id()
    date_added: Mapped[datetime] = _now()
    date_updated: Mapped[datetime] = _now()
    name: Mapped[str] = mapped_column(String(255))
    project_id: Mapped[int] = _refers("sentry_project.id")


class CommitComparison(BackendTable):
    """A commit, and the one that it is compared with. It outlives the artifacts that refer to it, and deletions leave it."""

    __tablename__ = "sentry_commitcomparison"
    __table_args__ = (
        Index("sentry_commitcomparison_head", "organization_id", "head_repo_name", "head_sha"),
        Index("sentry_commitcomparison_base", "organization_id", "head_repo_name", "base_sha"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = _id()
    organization_id: Mapped[int] = mapped_column(index=True)
    head_sha: Mapped[str] = mapped_column(String(64))
    base_sha: Mapped[str | None] = mapped_column(String(64))
    head_repo_name: Mapped[str] = mapped_column(String(255))
    base_repo_name: Mapped[str | None] = mapped_column(String(255))


class Artifact(BackendTable):
    """A mobile build or a set of snapshots. Its file ids are plain numbers: no foreign key guards them."""

    __tablename__ = "sentry_preprodartifact"
    id: Mapped[int] = _id()
    date_added: Mapped[datetime] = _now()
    date_updated: Mapped[datetime] = _now()
    project_id: Mapped[int] = _refers("sentry_project.id")
    file_id: Mapped[int | None] = mapped_column(index=True)
    installable_app_file_id: Mapped[int | None] = mapped_column(index=True)
    state: Mapped[int] = mapped_column(Integer, server_default="0")
    app_id: Mapped[str | None] = mapped_column(String(255))
    build_configuration_id: Mapped[int | None] = _refers("sentry_preprodbuildconfiguration.id", nullable=True)
    commit_comparison_id: Mapped[int | None] = _refers("sentry_commitcomparison.id", nullable=True)
    extras: Mapped[Any] = mapped_column(Json, nullable=True)


class InstallableArtifact(BackendTable):
    __tablename__ = "sentry_installablepreprodartifact"
    id: Mapped[int] = _id()
    date_added: Mapped[datetime] = _now()
    date_updated: Mapped[datetime] = _now()
    url_path: Mapped[str] = mapped_column(String(255), unique=True)
    expiration_date: Mapped[datetime | None]
    download_count: Mapped[int | None] = mapped_column(Integer)
    preprod_artifact_id: Mapped[int] = _refers("sentry_preprodartifact.id")


class MobileAppInfo(BackendTable):
    """`app_icon_id` is the decimal id of a `sentry_file`, or the last part of an object key, `icn_…`."""

    __tablename__ = "sentry_preprodartifactmobileappinfo"
    id: Mapped[int] = _id()
    date_added: Mapped[datetime] = _now()
    date_updated: Mapped[datetime] = _now()
    build_version: Mapped[str | None] = mapped_column(String(255))
    build_number: Mapped[int | None]
    app_icon_id: Mapped[str | None] = mapped_column(String(255), index=True)
    app_name: Mapped[str | None] = mapped_column(String(255))
    extras: Mapped[Any] = mapped_column(Json, nullable=True)
    preprod_artifact_id: Mapped[int] = _refers("sentry_preprodartifact.id", unique=True)


class SizeMetrics(BackendTable):
    __tablename__ = "sentry_preprodartifactsizemetrics"
    id: Mapped[int] = _id()
    date_added: Mapped[datetime] = _now()
    date_updated: Mapped[datetime] = _now()
    metrics_artifact_type: Mapped[int | None] = mapped_column(Integer)
    identifier: Mapped[str | None] = mapped_column(String(255))
    state: Mapped[int] = mapped_column(Integer, server_default="0")
    analysis_file_id: Mapped[int | None] = mapped_column(index=True)
    preprod_artifact_id: Mapped[int] = _refers("sentry_preprodartifact.id")


class SizeComparison(BackendTable):
    __tablename__ = "sentry_preprodartifactsizecomparison"
    id: Mapped[int] = _id()
    date_added: Mapped[datetime] = _now()
    date_updated: Mapped[datetime] = _now()
    organization_id: Mapped[int]
    file_id: Mapped[int | None] = mapped_column(index=True)
    state: Mapped[int] = mapped_column(Integer, server_default="0")
    head_size_analysis_id: Mapped[int] = _refers("sentry_preprodartifactsizemetrics.id")
    base_size_analysis_id: Mapped[int] = _refers("sentry_preprodartifactsizemetrics.id")


class ComparisonApproval(BackendTable):
    __tablename__ = "sentry_preprodcomparisonapproval"
    id: Mapped[int] = _id()
    date_added: Mapped[datetime] = _now()
    date_updated: Mapped[datetime] = _now()
    preprod_feature_type: Mapped[int] = mapped_column(Integer, server_default="0")
    approval_status: Mapped[int] = mapped_column(Integer, server_default="0")
    extras: Mapped[Any] = mapped_column(Json, nullable=True)
    preprod_artifact_id: Mapped[int] = _refers("sentry_preprodartifact.id")


class SnapshotMetrics(BackendTable):
    """One a snapshot artifact. `extras` names objects: `manifest_key`, `head_images_key`."""

    __tablename__ = "sentry_preprodsnapshotmetrics"
    id: Mapped[int] = _id()
    date_added: Mapped[datetime] = _now()
    date_updated: Mapped[datetime] = _now()
    image_count: Mapped[int] = mapped_column(Integer, server_default="0")
    is_selective: Mapped[bool] = mapped_column(server_default=false())
    extras: Mapped[Any] = mapped_column(Json, nullable=True)
    preprod_artifact_id: Mapped[int] = _refers("sentry_preprodartifact.id", unique=True)


class SnapshotComparison(BackendTable):
    """Head against base. `extras` names an object: `comparison_key`."""

    __tablename__ = "sentry_preprodsnapshotcomparison"
    __table_args__ = (
        UniqueConstraint("head_snapshot_metrics_id", "base_snapshot_metrics_id"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = _id()
    date_added: Mapped[datetime] = _now()
    date_updated: Mapped[datetime] = _now()
    state: Mapped[int] = mapped_column(Integer, server_default="0")
    head_snapshot_metrics_id: Mapped[int] = _refers("sentry_preprodsnapshotmetrics.id")
    base_snapshot_metrics_id: Mapped[int] = _refers("sentry_preprodsnapshotmetrics.id")
    images_added: Mapped[int] = mapped_column(Integer, server_default="0")
    images_removed: Mapped[int] = mapped_column(Integer, server_default="0")
    images_changed: Mapped[int] = mapped_column(Integer, server_default="0")
    images_unchanged: Mapped[int] = mapped_column(Integer, server_default="0")
    images_renamed: Mapped[int] = mapped_column(Integer, server_default="0")
    extras: Mapped[Any] = mapped_column(Json, nullable=True)


class FileBlob(BackendTable):
    """Content, shared between files. Deletions leave it."""

    __tablename__ = "sentry_fileblob"
    id: Mapped[int] = _id()
    path: Mapped[str | None] = mapped_column(Text)
    size: Mapped[int | None]
    checksum: Mapped[str] = mapped_column(String(40), unique=True)
    timestamp: Mapped[datetime] = _now()


class File(BackendTable):
    __tablename__ = "sentry_file"
    id: Mapped[int] = _id()
    name: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(String(64))
    timestamp: Mapped[datetime] = _now()
    headers: Mapped[str] = mapped_column(Text, server_default="{}")
    size: Mapped[int | None]
    checksum: Mapped[str | None] = mapped_column(String(40))
    blob_id: Mapped[int | None] = _refers("sentry_fileblob.id", nullable=True)
    path: Mapped[str | None] = mapped_column(Text)


class FileBlobIndex(BackendTable):
    __tablename__ = "sentry_fileblobindex"
    __table_args__ = (UniqueConstraint("file_id", "blob_id", "offset"), {"sqlite_autoincrement": True})
    id: Mapped[int] = _id()
    offset: Mapped[int]
    file_id: Mapped[int] = _refers("sentry_file.id")
    blob_id: Mapped[int] = _refers("sentry_fileblob.id")


class FileBlobOwner(BackendTable):
    __tablename__ = "sentry_fileblobowner"
    __table_args__ = (UniqueConstraint("blob_id", "organization_id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = _id()
    organization_id: Mapped[int]
    blob_id: Mapped[int] = _refers("sentry_fileblob.id")
