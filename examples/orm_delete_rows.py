"""Rows deleted by a backend's own ORM, whose hooks must run: here each deleted artifact leaves an audit entry.

    export ARTIFACT_DELETION_ADAPTERS=examples.orm_delete_rows:adapters

The ORM deletes on the session that it is given: its hooks, its rows and our seal are one transaction, all of it or nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, ForeignKey, event, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Mapper, Session, mapped_column, relationship

from activities.backend.contract import ArtifactRef, Cascade, Locked
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from adapters import Adapters

ARTIFACT, SNAPSHOT, SIZE = (
    "sentry_preprodartifact.id",
    "sentry_preprodsnapshotmetrics.id",
    "sentry_preprodartifactsizemetrics.id",
)


class Model(DeclarativeBase):
    """The backend's models, as far as this example needs them."""


def _children(model: str, column: str) -> Any:
    return relationship(model, foreign_keys=f"{model}.{column}", cascade="all, delete-orphan")


class Artifact(Model):
    __tablename__ = "sentry_preprodartifact"
    id: Mapped[int] = mapped_column(primary_key=True)
    installables: Mapped[list["Installable"]] = _children("Installable", "preprod_artifact_id")
    app_infos: Mapped[list["AppInfo"]] = _children("AppInfo", "preprod_artifact_id")
    approvals: Mapped[list["Approval"]] = _children("Approval", "preprod_artifact_id")
    sizes: Mapped[list["Size"]] = _children("Size", "preprod_artifact_id")
    snapshots: Mapped[list["Snapshot"]] = _children("Snapshot", "preprod_artifact_id")


class Installable(Model):
    __tablename__ = "sentry_installablepreprodartifact"
    id: Mapped[int] = mapped_column(primary_key=True)
    preprod_artifact_id: Mapped[int] = mapped_column(ForeignKey(ARTIFACT))


class AppInfo(Model):
    __tablename__ = "sentry_preprodartifactmobileappinfo"
    id: Mapped[int] = mapped_column(primary_key=True)
    preprod_artifact_id: Mapped[int] = mapped_column(ForeignKey(ARTIFACT))


class Approval(Model):
    __tablename__ = "sentry_preprodcomparisonapproval"
    id: Mapped[int] = mapped_column(primary_key=True)
    preprod_artifact_id: Mapped[int] = mapped_column(ForeignKey(ARTIFACT))


class Size(Model):
    __tablename__ = "sentry_preprodartifactsizemetrics"
    id: Mapped[int] = mapped_column(primary_key=True)
    preprod_artifact_id: Mapped[int] = mapped_column(ForeignKey(ARTIFACT))
    as_head: Mapped[list["SizeComparison"]] = _children("SizeComparison", "head_size_analysis_id")
    as_base: Mapped[list["SizeComparison"]] = _children("SizeComparison", "base_size_analysis_id")


class SizeComparison(Model):
    __tablename__ = "sentry_preprodartifactsizecomparison"
    id: Mapped[int] = mapped_column(primary_key=True)
    head_size_analysis_id: Mapped[int] = mapped_column(ForeignKey(SIZE))
    base_size_analysis_id: Mapped[int] = mapped_column(ForeignKey(SIZE))


class Snapshot(Model):
    __tablename__ = "sentry_preprodsnapshotmetrics"
    id: Mapped[int] = mapped_column(primary_key=True)
    preprod_artifact_id: Mapped[int] = mapped_column(ForeignKey(ARTIFACT))
    as_head: Mapped[list["SnapshotComparison"]] = _children("SnapshotComparison", "head_snapshot_metrics_id")
    as_base: Mapped[list["SnapshotComparison"]] = _children("SnapshotComparison", "base_snapshot_metrics_id")


class SnapshotComparison(Model):
    __tablename__ = "sentry_preprodsnapshotcomparison"
    id: Mapped[int] = mapped_column(primary_key=True)
    head_snapshot_metrics_id: Mapped[int] = mapped_column(ForeignKey(SNAPSHOT))
    base_snapshot_metrics_id: Mapped[int] = mapped_column(ForeignKey(SNAPSHOT))


class DeletedArtifact(Model):
    """What the backend's hook writes."""

    __tablename__ = "deleted_artifact"
    artifact_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


@event.listens_for(Artifact, "after_delete")
def note_the_deletion(_mapper: Mapper[Artifact], connection: Connection, artifact: Artifact) -> None:
    """The backend's hook: in the same transaction, whatever deletes."""
    connection.execute(insert(DeletedArtifact).values(artifact_id=artifact.id))


def delete_with_orm(session: Session, artifacts: Sequence[ArtifactRef]) -> None:
    """Load each artifact with what hangs from it, and let the unit of work find the order."""
    ids = [artifact.id for artifact in artifacts]
    for found in session.execute(select(Artifact).where(Artifact.id.in_(ids)).order_by(Artifact.id)).scalars():
        session.delete(found)
    session.flush()


@dataclass(frozen=True)
class OrmBackend(SentryBackend):
    """Sentry's schema, whose rows the ORM deletes. What it leaves behind is told by table, and nothing is committed."""

    def delete(self, session: Session, artifacts: Sequence[ArtifactRef], locked: Locked) -> Cascade:
        """See Backend."""
        return self.delete_by(session, artifacts, locked, lambda: delete_with_orm(session, artifacts))


adapters = Adapters(
    backend=lambda settings, database: OrmBackend(database, Scopes(settings.scope_template, settings.usecases)),
)
