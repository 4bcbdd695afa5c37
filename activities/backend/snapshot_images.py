"""The images of Sentry's snapshots: `{organization}/{project}/{hash}` in a project's scope, in older ones the bare `{hash}`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select

from activities.backend.columns import add_metrics
from activities.backend.contract import ArtifactRef, Names
from activities.backend.manifests import shown_images
from activities.backend.tables import Artifact, Project, SnapshotMetrics

_SNAPSHOTS = (
    select(Artifact.id, Artifact.project_id, Project.organization_id, SnapshotMetrics.date_added, SnapshotMetrics.extras)
    .join(Project, Project.id == Artifact.project_id)
    .join(SnapshotMetrics, SnapshotMetrics.preprod_artifact_id == Artifact.id)
)


class SnapshotImages:
    """See SharedImages."""

    @property
    def snapshots(self) -> Select[int, int, int, datetime, Any]:
        """See SharedImages."""
        return _SNAPSHOTS

    def manifests(self, artifact: ArtifactRef, naming: Any) -> Names:
        """See SharedImages. `snapshot_head_images.json` names the same images where the manifest has been evicted."""
        names = Names()
        add_metrics(names, artifact, naming)
        # A project that another organization has given back shows again what could not be read there.
        names.strays = [
            replace(one, is_elsewhere=one.is_elsewhere and str(one.key).split("/")[1] != str(artifact.project_id))
            for one in names.strays
        ]
        return names

    def read(self, content: bytes) -> set[str]:
        """See SharedImages."""
        return shown_images(content)

    def keys(self, organization_id: int, project_id: int, image: str) -> Sequence[str]:
        """See SharedImages."""
        return (f"{organization_id}/{project_id}/{image}", image)
