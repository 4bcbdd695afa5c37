"""Sentry's preprod schema as a `Backend`: the one that workers use unless the settings name another."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from activities.backend import columns, files, keys
from activities.backend.bulk import Bulk
from activities.backend.cascade import PARTS, cascade_of, lock_artifacts, metrics_of
from activities.backend.contract import (
    ArtifactRef,
    Backend,
    Cascade,
    Files,
    Locked,
    ManifestKeys,
    NamedKey,
    Names,
    OwnPrefix,
    Places,
    PrefixKind,
    Stray,
)
from activities.backend.manifests import comparison_manifest, snapshot_manifest
from activities.backend.owners import KeyKind, Owner
from activities.backend.preprod_bulk import PreprodBulk
from activities.backend.shared_images import SharedImages
from activities.backend.snapshot_images import SnapshotImages
from activities.backend.tables import Project
from artifact_deletion.errors import RowsRemain


@dataclass(frozen=True)
class SentryBackend(Backend):
    """See Backend. A backend whose rows must go through its own ORM overrides `transaction` and `delete`."""

    key_scopes: keys.Scopes
    artifacts = columns.ARTIFACTS
    parts = PARTS
    shared_kind: ClassVar[str] = columns.ICON
    shared_images: ClassVar[SharedImages | None] = SnapshotImages()
    bulk: ClassVar[Bulk] = PreprodBulk()

    def prefix_of(self, artifact: ArtifactRef) -> str:
        """See Backend."""
        return keys.artifact_prefix(artifact)

    def organization_of(self, session: Session, project_id: int) -> int | None:
        """See Backend."""
        return session.execute(select(Project.organization_id).where(Project.id == project_id)).scalar_one_or_none()

    def survey(self, session: Session, known: Mapping[int, int | None], organization_id: int) -> tuple[Places, Names]:
        """See Backend."""
        return columns.survey(session, known, organization_id)

    def read_manifest(self, named: NamedKey, content: bytes) -> ManifestKeys:
        """See Backend."""
        return snapshot_manifest(content) if named.kind == "manifest" else comparison_manifest(content, named.under)

    def scopes(self, artifact: ArtifactRef) -> Sequence[str]:
        """See Backend."""
        return self.key_scopes.of(artifact)

    def own_prefixes(self, places: Places, names: Names) -> list[OwnPrefix]:
        """See Backend."""
        return [*super().own_prefixes(places, names), *columns.comparison_prefixes(places, names, self.key_scopes)]

    def still_ours(self, session: Session, sealed: Collection[OwnPrefix], places: Places) -> set[OwnPrefix]:
        """See Backend. A comparison stays with a head or a base that was moved away."""
        found, moved = super().still_ours(session, sealed, places), set(places.moved)
        comparisons = [one for one in sealed if one.kind is PrefixKind.COMPARISON and one.artifact_id not in moved]
        if comparisons:
            found |= columns.in_place(comparisons, self.find(session, columns.heads_of(comparisons)), places)
        return found

    def still_named(self, session: Session, keys: Collection[str], going: Collection[int] = ()) -> set[str]:
        """See Backend."""
        return columns.icons_named(session, keys, going)

    def without_rows(self, session: Session, comparisons: Collection[tuple[ArtifactRef, int]]) -> list[OwnPrefix]:
        """See Backend."""
        found = list[tuple[ArtifactRef, int]]()
        for organization in {head.organization_id for head, _ in comparisons}:
            places, names = self.survey(session, {head.id: None for head, _ in comparisons}, organization)
            here = set(places.present)
            owners = (keys.owner_of(one.key, one.artifact.organization_id, one.artifact.project_id) for one in names.keys)
            named = {(owner.artifact, owner.base) for owner in owners if owner.kind is KeyKind.COMPARISON}
            found += [
                (head, base)
                for head, base in comparisons
                if head in here and base not in names.comparisons.get(head, ()) and (head.id, base) not in named
            ]
        return columns.prefixes_of(found, self.key_scopes)

    def owner_of(self, key: str, organization_id: int, project_id: int) -> Owner:
        """See Backend."""
        return keys.owner_of(key, organization_id, project_id)

    def why_stray(self, stray: Stray) -> str:
        """See Backend."""
        return str(keys.why_stray(stray.key, stray.artifact))

    def trace_id(self, artifact: ArtifactRef) -> str:
        """See Backend."""
        return keys.trace_id(artifact)

    def transaction(self) -> AbstractContextManager[Session]:
        """See Backend."""
        self.schema.references()  # looked up, at most once a minute, before any lock is held
        return super().transaction()

    def lock(self, session: Session, artifact_ids: Collection[int], organization_id: int) -> Locked:
        """See Backend."""
        return lock_artifacts(session, artifact_ids, organization_id)

    def delete(self, session: Session, artifacts: Sequence[ArtifactRef], locked: Locked) -> Cascade:
        """See Backend."""
        return cascade_of(session, artifacts, locked.rows, "delete")

    def look(self, session: Session, artifacts: Sequence[ArtifactRef]) -> Cascade:
        """See Backend."""
        return cascade_of(session, artifacts, metrics_of(session, artifacts), "look")

    def delete_by(
        self, session: Session, artifacts: Sequence[ArtifactRef], locked: Locked, delete_them: Callable[[], object]
    ) -> Cascade:
        """For a `delete` of a backend's own: look before it and again after it. Raises RowsRemain if it left rows behind."""
        cascade = cascade_of(session, artifacts, locked.rows, "lock")
        if artifacts:
            delete_them()
            session.flush()
            session.expire_all()
        if left := self.look(session, artifacts).rows:
            tables = ", ".join(f"{table} {count}" for table, count in sorted(left.items()))
            raise RowsRemain(f"the backend's own deletion left rows behind ({tables}); nothing was deleted")
        return cascade

    def delete_files(self, session: Session, cascade: Cascade, organization_id: int) -> Files:
        """See Backend."""
        if not cascade.file_ids:
            return Files()
        return files.delete_files(session, cascade.file_ids, organization_id, files.references(self.schema))

    def judge_files(self, session: Session, cascade: Cascade, organization_id: int) -> Files:
        """See Backend."""
        judged = files.judge_files(session, cascade.file_ids, organization_id, files.references(self.schema), cascade.ids)
        judged.rows = files.rows_going(session, judged.going)
        return judged

    def files_there(self, session: Session, file_ids: Collection[int]) -> set[int]:
        """See Backend."""
        return files.files_there(session, file_ids)

    def blobs_waiting(self, session: Session, blob_ids: Collection[int]) -> set[int]:
        """See Backend."""
        return files.blobs_waiting(session, blob_ids)
