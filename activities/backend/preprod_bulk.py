"""Sentry's kinds of artifacts, what else hangs from a project, and until when an artifact is needed by others.

A comparison goes with either side. So a base ages from the day on which its last head was uploaded, and both go together.
What a selective snapshot inherits from does not expire while that has a row: ancestry.py finds it.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, case, delete, exists, func, literal, or_, select, true, union_all
from sqlalchemy.orm import Session, aliased

from activities.backend.ancestry import has_heirs, heirs_of
from activities.backend.bulk import Bulk
from activities.backend.tables import (
    Artifact,
    BuildConfiguration,
    InstallableArtifact,
    Project,
    SizeComparison,
    SizeMetrics,
    SnapshotComparison,
    SnapshotMetrics,
)

SNAPSHOTS, DISTRIBUTION, SIZE_ANALYSIS = "snapshots", "distribution", "size_analysis"
_KIND = case(
    (exists(SnapshotMetrics.id).where(SnapshotMetrics.preprod_artifact_id == Artifact.id).correlate(Artifact), SNAPSHOTS),
    (
        or_(
            Artifact.installable_app_file_id.is_not(None),
            exists(InstallableArtifact.preprod_artifact_id)
            .where(InstallableArtifact.preprod_artifact_id == Artifact.id)
            .correlate(Artifact),
        ),
        DISTRIBUTION,
    ),
    else_=SIZE_ANALYSIS,
)
"""A build that can be installed is one for distribution, whatever was made of it besides."""


def _heads(metrics: Any, head_id: Any, base_id: Any) -> Any:
    """When each artifact was added that was compared with this one as its base."""
    head, base, artifact = aliased(metrics), aliased(metrics), aliased(Artifact)
    return (
        select(artifact.date_added)
        .join(head, head.preprod_artifact_id == artifact.id)
        .join(head_id.class_, head_id == head.id)
        .join(base, base.id == base_id)
        .where(base.preprod_artifact_id == Artifact.id)
        .correlate(Artifact)
    )


_NEEDED = union_all(
    select(Artifact.date_added.label("at")).correlate(Artifact),
    _heads(SnapshotMetrics, SnapshotComparison.head_snapshot_metrics_id, SnapshotComparison.base_snapshot_metrics_id),
    _heads(SizeMetrics, SizeComparison.head_size_analysis_id, SizeComparison.base_size_analysis_id),
).subquery()
# Not the database's clock: by a policy of no days it would have expired.
_NEVER = literal(datetime(9999, 1, 1, tzinfo=UTC))
_SINCE = case((has_heirs(), _NEVER), else_=select(func.max(_NEEDED.c.at)).scalar_subquery())


class PreprodBulk(Bulk):
    """See Bulk."""

    kinds = (SNAPSHOTS, DISTRIBUTION, SIZE_ANALYSIS)

    def aged(self, artifacts: Select[int, int, int, datetime]) -> Select[Any]:
        """See Bulk."""
        return artifacts.add_columns(_KIND.label("kind"), _SINCE.label("since"))

    def heirs(self, session: Session, artifact_ids: Collection[int]) -> set[int]:
        """See Bulk."""
        return heirs_of(session, artifact_ids)

    def next_project(
        self,
        session: Session,
        living: Select[int, int, int],  # noqa: ARG002  a project whose artifacts are all gone has orphans too
        organization_id: int,
        after: int,
    ) -> int | None:
        """See Bulk."""
        of = select(func.min(Project.id)).where(Project.organization_id == organization_id, Project.id > after)
        return session.execute(of).scalar_one()

    def delete_rest(self, session: Session, organization_id: int, project_id: int | None) -> dict[str, int]:
        """See Bulk."""
        ours = true() if project_id is None else Project.id == project_id
        projects = select(Project.id).where(Project.organization_id == organization_id, ours)
        going = delete(BuildConfiguration).where(BuildConfiguration.project_id.in_(projects)).returning(BuildConfiguration.id)
        return {BuildConfiguration.__tablename__: len(session.execute(going).all())}
