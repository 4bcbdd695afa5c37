"""The artifact that the benchmarks delete: a snapshot with several comparisons, each with thousands of diff masks."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from activities.backend import keys, tables
from activities.backend.contract import ArtifactRef
from activities.backend.trace_items import PREPROD, TraceItem
from artifact_deletion.request import DeletionRequest

ORGANIZATION = 9000
"""An id that no sequence comes to, and that of its one project."""
MASKS_A_COMPARISON = 5000
MASK = b"\x89PNG" + bytes(1020)
_SCREENS = ("cart", "checkout", "home", "login", "order_history", "product_details", "search_results", "settings")


@dataclass(frozen=True)
class Doomed:
    """One artifact of `keys` diff masks in as few comparisons as hold them."""

    keys: int
    id: int = 1_000_000
    organization: int = ORGANIZATION

    @property
    def ref(self) -> ArtifactRef:
        return ArtifactRef(self.organization, self.organization, self.id)

    @property
    def request(self) -> DeletionRequest:
        return DeletionRequest(organization_id=self.organization, artifact_ids=(self.id,))

    @property
    def bases(self) -> range:
        return range(self.id + 1, self.id + 1 - (-self.keys // MASKS_A_COMPARISON))

    @property
    def scope(self) -> str:
        return f"preprod/org.{self.organization}/project.{self.organization}/objects/"

    @property
    def prefix(self) -> str:
        """Physical, and all of the objects' but the archive's."""
        return self.scope + keys.artifact_prefix(self.ref)

    def manifest(self, base: int) -> bytes:
        """The comparison's."""
        images = {
            f"{stem}.png": {"status": "changed", "head_hash": f"{number:064x}", "diff_mask_key": key}
            for number, (stem, key) in enumerate(self._masks(base))
        }
        return json.dumps({"head_artifact_id": self.id, "base_artifact_id": base, "images": images}).encode()

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """(physical key, content) of all that the artifact has."""
        yield f"{self.prefix}manifest.json", json.dumps({"images": {}}).encode()
        yield f"{self.prefix}snapshot_head_images.json", b"{}"
        yield f"{self.scope}{keys.archive_key(self.ref)}", b"PK"
        for base in self.bases:
            home = self.scope + keys.comparison_prefix(self.ref, base)
            yield f"{home}comparison.json", self.manifest(base)
            yield f"{home}snapshot_comparison_response.json", b"{}"
            yield f"{home}plan.json", b"{}"
            for _, key in self._masks(base):
                yield self.scope + key, MASK

    def insert_rows(self, session: Session) -> None:
        """The artifact's rows, and those of the snapshots that it was compared with, which stay, where they are not there."""
        project = self.organization
        if session.get(tables.Organization, project) is None:
            session.add(tables.Organization(id=project, slug="bulk"))
            session.add(tables.Project(id=project, slug="bulk", organization_id=project))
            session.flush()
        # A benchmark that deletes nothing has left them.
        session.execute(delete(tables.SnapshotComparison).where(tables.SnapshotComparison.head_snapshot_metrics_id == self.id))
        session.execute(delete(tables.SnapshotMetrics).where(tables.SnapshotMetrics.id == self.id))
        session.execute(delete(tables.Artifact).where(tables.Artifact.id == self.id))
        wanted = (self.id, *self.bases)
        there = set(session.execute(select(tables.Artifact.id).where(tables.Artifact.id.in_(wanted))).scalars())
        new = [one for one in wanted if one not in there]
        session.execute(insert(tables.Artifact), [{"id": one, "project_id": project, "state": 3} for one in new])
        extras = {
            "manifest_key": f"{keys.artifact_prefix(self.ref)}manifest.json",
            "head_images_key": f"{keys.artifact_prefix(self.ref)}snapshot_head_images.json",
        }
        metrics = [
            {"id": one, "preprod_artifact_id": one, "image_count": self.keys, "extras": extras if one == self.id else {}}
            for one in new
        ]
        session.execute(insert(tables.SnapshotMetrics), metrics)
        comparisons = [
            {
                "head_snapshot_metrics_id": self.id,
                "base_snapshot_metrics_id": base,
                "extras": {"comparison_key": f"{keys.comparison_prefix(self.ref, base)}comparison.json"},
            }
            for base in self.bases
        ]
        session.execute(insert(tables.SnapshotComparison), comparisons)
        item = {"organization_id": project, "project_id": project, "item_type": PREPROD, "trace_id": keys.trace_id(self.ref)}
        session.execute(insert(TraceItem), [item] * 10)

    def _masks(self, base: int) -> Iterator[tuple[str, str]]:
        first = (base - self.bases[0]) * MASKS_A_COMPARISON
        for number in range(first, min(first + MASKS_A_COMPARISON, self.keys)):
            stem = f"{_SCREENS[number % 8]}/test_{number // 16:05}_{('light', 'dark')[number // 8 % 2]}"
            yield stem, f"{keys.comparison_prefix(self.ref, base)}diff/{stem}.png"
