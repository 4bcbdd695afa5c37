"""Sentry's preprod schema as a `Backend`: the one that workers use unless the settings name another."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from activities.backend import columns, files, keys
from activities.backend.cascade import cascade_of, lock_artifacts, metrics_of
from activities.backend.contract import (
    ArtifactRef,
    Cascade,
    Files,
    Locked,
    ManifestKeys,
    NamedKey,
    Names,
    OwnPrefix,
    Places,
    Stray,
)
from activities.backend.drift import Reference, Schema
from activities.backend.manifests import comparison_manifest, snapshot_manifest
from activities.backend.tables import Project
from activities.database import Database
from artifact_deletion.errors import RowsRemain


@dataclass(frozen=True)
class SentryBackend:
    """See Backend. A backend whose rows must go through its own ORM overrides `transaction` and `delete`."""

    database: Database
    key_scopes: keys.Scopes
    schema: Schema = field(init=False)
    living = columns.LIVING
    find = staticmethod(columns.find)
    added = staticmethod(columns.added)
    survey = staticmethod(columns.survey)
    still_ours = staticmethod(columns.still_ours)
    still_named = staticmethod(columns.icons_named)
    files_there = staticmethod(files.files_there)
    trace_id = staticmethod(keys.trace_id)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", Schema(self.database))

    def organization_of(self, session: Session, project_id: int) -> int | None:
        """See Backend."""
        return session.execute(select(Project.organization_id).where(Project.id == project_id)).scalar_one_or_none()

    def refuse_unknown_tables(self) -> None:
        """See Backend."""
        self.schema.refuse_unknown_tables()

    def unknown_references(self) -> Sequence[Reference]:
        """See Backend."""
        return self.schema.unknown_references()

    def read_manifest(self, named: NamedKey, content: bytes) -> ManifestKeys:
        """See Backend."""
        return snapshot_manifest(content) if named.kind == "manifest" else comparison_manifest(content, named.under)

    def scopes(self, artifact: ArtifactRef) -> Sequence[str]:
        """See Backend."""
        return self.key_scopes.of(artifact)

    def own_prefixes(self, places: Places, names: Names) -> list[OwnPrefix]:
        """See Backend."""
        return columns.own_prefixes(places, names, self.key_scopes)

    def why_stray(self, stray: Stray) -> str:
        """See Backend."""
        return str(keys.why_stray(stray.key, stray.artifact))

    def transaction(self) -> AbstractContextManager[Session]:
        """See Backend."""
        self.schema.references()  # looked up, at most once a minute, before any lock is held
        return self.database.write()

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
        return files.delete_files(session, cascade.file_ids, organization_id, self.schema.file_references())

    def judge_files(self, session: Session, cascade: Cascade, organization_id: int) -> Files:
        """See Backend."""
        references = self.schema.file_references()
        judged = files.judge_files(session, cascade.file_ids, organization_id, references, cascade.ids)
        judged.rows = files.rows_going(session, judged.going)
        return judged
