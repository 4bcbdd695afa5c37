"""Step 2: delete the rows of a chunk and release its sealed keys, in one transaction.

This is the point of no return: before it nothing has happened, after it everything must. In order: lock, look again, cascade,
seal what changed since the keys were collected, release. PostgreSQL refuses at COMMIT whatever was inserted in between, and
the whole transaction is run again; an ambiguous COMMIT is settled by reading the chunk's state, which is written with it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Select, delete, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.dml import ReturningDelete
from temporalio import activity

from activities.storage import files, ledger, rows
from activities.storage.database import Database, one_of
from activities.storage.drift import Schema
from activities.storage.freeze import refuse_frozen
from activities.storage.keys import ArtifactRef, Scopes, icon_file_id, icon_key
from activities.storage.ledger import (
    ChunkArtifact,
    ChunkState,
    DeletionChunk,
    DeletionState,
    Page,
    PageSource,
    PrefixState,
    RowsState,
    Settlement,
)
from activities.storage.rows import Comparisons, NamedKey, Places
from activities.storage.tables import (
    Artifact,
    ComparisonApproval,
    InstallableArtifact,
    MobileAppInfo,
    Project,
    SizeComparison,
    SizeMetrics,
    SnapshotComparison,
    SnapshotMetrics,
)
from activities.wait_until_allowed import Ceilings
from workflows.errors import NotOpen, RowsRemain, StaleSeal
from workflows.messages import DELETE_ROWS, PAGE_KEYS, RowsDeleted, SealedChunk

_BY_COLUMNS = (PageSource.COLUMN, PageSource.ABSENT, PageSource.ICON)
"""Pages of keys that rows name, and no manifest."""


@dataclass
class Cascade:
    """What the deleted rows said: everything that could name a key or a file."""

    going: dict[str, set[int]]
    """Ids of the rows by table."""
    named: list[NamedKey]
    comparisons: Comparisons
    file_ids: set[int]

    @property
    def rows(self) -> dict[str, int]:
        """How many, by table."""
        return {table: len(ids) for table, ids in self.going.items()}


Row = (
    SizeComparison
    | SnapshotComparison
    | InstallableArtifact
    | MobileAppInfo
    | ComparisonApproval
    | SizeMetrics
    | SnapshotMetrics
    | Artifact
)


class Rows(Protocol):
    """Whoever deletes the backend's rows: SQL of ours, or a backend's ORM with its signals and hooks.

    Seal and rows are one transaction: whatever deletes must do so on the connection of the session that it is given.
    """

    def transaction(self) -> AbstractContextManager[Session]:
        """One transaction that is committed at the end, or leaves nothing. Raises DatabaseUnavailable: it is run again.

        The session finds the ledger's tables as that of `Database.write` does.
        """

    def delete(self, session: Session, artifacts: Sequence[ArtifactRef]) -> None:
        """Delete the artifacts' rows and all that hang from them. The artifacts and their metrics are locked already."""


@dataclass(frozen=True)
class SqlRows:
    """The default: one statement a table."""

    database: Database

    def transaction(self) -> AbstractContextManager[Session]:
        """See Rows."""
        return self.database.write()

    def delete(self, session: Session, artifacts: Sequence[ArtifactRef]) -> None:
        """See Rows. DeleteRows asks for the same with what the rows said, which spares it two looks."""
        cascade_of(session, artifacts, artifacts[0].organization_id, deleted)


@dataclass(frozen=True)
class DeleteRows:
    """Needs the database alone."""

    rows: Rows
    schema: Schema
    scopes: Scopes
    listable: bool
    ceilings: Ceilings

    # A cancellation may strike a thread at any instruction: between a DELETE and its COMMIT there must be none.
    @activity.defn(name=DELETE_ROWS.name, no_thread_cancel_exception=True)
    def delete_rows(self, sealed: SealedChunk) -> RowsDeleted:
        """Returns what was deleted, the first time or an earlier time. Raises StaleSeal if the keys must be collected again.

        Raises Frozen, Unconfirmed: then nothing was deleted, and it is run again when that is over.
        """
        references = self.schema.file_references()
        with self.rows.transaction() as session:
            refuse_frozen(session)
            state = ledger.lock_deletion(session, sealed.deletion_id, shared=True)
            found = ledger.lock_chunk(session, sealed.deletion_id, sealed.chunk)
            organization_id = ledger.organization_of(session, sealed.deletion_id)
            if found.state == ChunkState.OPEN:
                if state not in {DeletionState.ACCEPTED, DeletionState.RUNNING}:
                    raise NotOpen(f"the deletion is {state}; nothing of this chunk was deleted")
                self.ceilings.refuse_unconfirmed(session, sealed.deletion_id)
                self._check_seal(session, found, sealed)
                known = ledger.chunk_artifacts(session, found.deletion_id, found.chunk)
                present = self._lock_artifacts(session, found, known, organization_id)
                cascade = self._delete(session, present, organization_id)
                by_columns = list(ledger.read_pages(session, found.deletion_id, found.chunk, sources=_BY_COLUMNS))
                self._seal_the_rest(session, found, present, cascade, by_columns)
                _count_absent(session, found, by_columns)
                deleted_files = files.delete_files(session, cascade.file_ids, organization_id, references)
                self._release(session, found, known, present)
                ledger.note_compared(found, rows.compared_with(present, cascade.comparisons, heads=not self.listable))
                found.files = deleted_files
                found.rows = {**cascade.rows, **files.rows_deleted(deleted_files)}
                session.flush()
            return ledger.released(found, ledger.first_page(session, found))

    def _delete(self, session: Session, present: Sequence[ArtifactRef], organization_id: int) -> Cascade:
        if isinstance(self.rows, SqlRows):
            return cascade_of(session, present, organization_id, deleted)
        # Whoever deletes here tells us nothing: we look before, and again after.
        cascade = cascade_of(session, present, organization_id, locked)
        if present:
            self.rows.delete(session, present)
            session.flush()
            session.expire_all()
        left = cascade_of(session, present, organization_id, locked).rows
        if left:
            tables = ", ".join(f"{table} {count}" for table, count in sorted(left.items()))
            raise RowsRemain(f"the backend's own deletion left rows behind ({tables}); nothing was deleted")
        return cascade

    def _check_seal(self, session: Session, found: DeletionChunk, sealed: SealedChunk) -> None:
        pages, _, digest = ledger.seal_digest(session, found)
        if (sealed.epoch, sealed.pages, sealed.digest) != (found.epoch, pages, digest):
            raise StaleSeal(f"chunk {sealed.chunk}: the ledger holds another seal; nothing was deleted")

    def _lock_artifacts(
        self, session: Session, found: DeletionChunk, artifacts: Sequence[ChunkArtifact], organization_id: int
    ) -> list[ArtifactRef]:
        """Lock what is there, then look where it is: one statement would look before it had its locks."""
        known = {artifact.id: artifact for artifact in artifacts}
        locked = session.execute(_LOCKED_ARTIFACTS, {"artifacts": known.keys()}).all()
        projects = session.execute(_LOCKED_PROJECTS, {"projects": {project for _, project in locked}})
        organization = {row.id: row.organization_id for row in projects}
        present = []
        for artifact, project in locked:
            sealed, ours = known[artifact], organization[project] == organization_id
            if ours and (sealed.rows_state, sealed.project_id) == (RowsState.SEALED, project):
                present.append(ArtifactRef(organization_id, project, artifact))
            elif ours or sealed.rows_state is not RowsState.MOVED:
                raise StaleSeal(
                    f"chunk {found.chunk}: an artifact is no longer where its keys were collected; nothing was deleted"
                )
        for locking in _LOCKED_METRICS:
            session.execute(locking, {"artifacts": [artifact.id for artifact in present]}).all()
        return present

    def _seal_the_rest(
        self,
        session: Session,
        found: DeletionChunk,
        present: Sequence[ArtifactRef],
        cascade: Cascade,
        by_columns: Iterable[Page],
    ) -> None:
        """Seal what columns named at the last moment and nobody had collected."""
        sealed: dict[str, set[str]] = defaultdict(set)
        for page in by_columns:
            sealed[page.scope].update(page.keys)
        added: dict[tuple[str, PageSource], set[str]] = defaultdict(set)
        kinds = Counter[str](found.collected.get("kinds", {}))
        elsewhere = sum(named.elsewhere for named in cascade.named if not named.owned)
        for named in cascade.named:
            key = icon_key(named.artifact, str(named.key)) if named.kind == "icon" else str(named.key)
            scopes = self.scopes.of(named.artifact.organization_id, named.artifact.project_id)
            if key is None or not named.owned or any(key in sealed[scope] for scope in scopes):
                continue
            if not self.listable:
                raise StaleSeal(f"chunk {found.chunk}: a row names a key that was not collected; nothing was deleted")
            source = PageSource.ICON if named.kind == "icon" else PageSource.COLUMN
            for scope in scopes:
                kinds[named.kind] += key not in added[scope, source]
                added[scope, source].add(key)
        for (scope, source), keys in sorted(added.items()):
            ordered = sorted(keys)
            for start in range(0, len(ordered), PAGE_KEYS):
                ledger.seal_page(session, found, scope, source, ordered[start : start + PAGE_KEYS])
        elsewhere = max(elsewhere, found.collected.get("named_elsewhere", 0))
        found.collected = {**found.collected, "kinds": dict(kinds), "named_elsewhere": elsewhere}
        ledger.seal_prefixes(
            session,
            found,
            rows.own_prefixes(Places(present=list(present)), cascade.comparisons, self.scopes),
            PrefixState.OWED if self.listable else PrefixState.UNCHECKED,
        )
        if added:
            found.pages, found.sealed, found.digest = ledger.seal_digest(session, found)

    def _release(
        self, session: Session, found: DeletionChunk, known: Sequence[ChunkArtifact], present: Sequence[ArtifactRef]
    ) -> None:
        ours = {artifact.id for artifact in present}
        sealed = [artifact for artifact in known if artifact.rows_state is RowsState.SEALED]
        disappeared = [artifact.id for artifact in sealed if artifact.id not in ours]
        ledger.set_artifacts(session, found.deletion_id, ours, rows_state=RowsState.DELETED)
        ledger.set_artifacts(session, found.deletion_id, disappeared, rows_state=RowsState.GONE)
        found.state = ChunkState.ROWS_DELETED
        found.rows_deleted_at = func.now()
        gone_before = (artifact for artifact in known if artifact.rows_state is RowsState.GONE)
        if all(artifact.project_id is None for artifact in (*sealed, *gone_before)):
            found.trace_items_confirmed_at = func.now()  # there are none to ask for


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one table that go with artifacts or their metrics, the columns that say what they named, and the verbs."""

    table: type[Row]
    where: ColumnElement[bool]
    """Ids come as the parameters `artifacts`, `size_metrics` and `snapshot_metrics`."""
    columns: tuple[InstrumentedAttribute[Any], ...] = ()

    @cached_property
    def selecting(self) -> Select[*tuple[Any, ...]]:
        """The id first, then the columns."""
        return select(self.table.id, *self.columns).where(self.where)

    @cached_property
    def locking(self) -> Select[*tuple[Any, ...]]:
        """The same, and nobody else can change them."""
        return self.selecting.with_for_update(of=self.table)

    @cached_property
    def deleting(self) -> ReturningDelete[*tuple[Any, ...]]:
        """The same, and they are gone."""
        statement = delete(self.table).where(self.where).returning(self.table.id, *self.columns)
        return statement.execution_options(synchronize_session=False)


_SIZE_COMPARISONS = Part(
    SizeComparison,
    or_(
        one_of(SizeComparison.head_size_analysis_id, "size_metrics"),
        one_of(SizeComparison.base_size_analysis_id, "size_metrics"),
    ),
    (SizeComparison.file_id,),
)
_SNAPSHOT_COMPARISONS = Part(
    SnapshotComparison,
    or_(
        one_of(SnapshotComparison.head_snapshot_metrics_id, "snapshot_metrics"),
        one_of(SnapshotComparison.base_snapshot_metrics_id, "snapshot_metrics"),
    ),
    (SnapshotComparison.head_snapshot_metrics_id, SnapshotComparison.base_snapshot_metrics_id, SnapshotComparison.extras),
)
_INSTALLABLES = Part(InstallableArtifact, one_of(InstallableArtifact.preprod_artifact_id, "artifacts"))
_APP_INFOS = Part(
    MobileAppInfo,
    one_of(MobileAppInfo.preprod_artifact_id, "artifacts"),
    (MobileAppInfo.preprod_artifact_id, MobileAppInfo.app_icon_id),
)
_APPROVALS = Part(ComparisonApproval, one_of(ComparisonApproval.preprod_artifact_id, "artifacts"))
_SIZE_METRICS = Part(SizeMetrics, one_of(SizeMetrics.preprod_artifact_id, "artifacts"), (SizeMetrics.analysis_file_id,))
_SNAPSHOT_METRICS = Part(
    SnapshotMetrics,
    one_of(SnapshotMetrics.preprod_artifact_id, "artifacts"),
    (SnapshotMetrics.preprod_artifact_id, SnapshotMetrics.extras),
)
_ARTIFACTS = Part(Artifact, one_of(Artifact.id, "artifacts"), (Artifact.file_id, Artifact.installable_app_file_id))

_LOCKED_ARTIFACTS = (
    select(Artifact.id, Artifact.project_id).where(one_of(Artifact.id, "artifacts")).order_by(Artifact.id).with_for_update()
)
_LOCKED_PROJECTS = (
    select(Project.id, Project.organization_id)
    .where(one_of(Project.id, "projects"))
    .order_by(Project.id)
    .with_for_update(read=True)
)
_METRICS: dict[type[SnapshotMetrics | SizeMetrics], Select[int]] = {
    table: select(table.id).where(one_of(table.preprod_artifact_id, "artifacts")).order_by(table.id)
    for table in (SnapshotMetrics, SizeMetrics)
}
_LOCKED_METRICS = [statement.with_for_update() for statement in _METRICS.values()]

Take = Callable[[Session, Part, Mapping[str, Collection[int]]], Sequence[Any]]
"""Takes the rows of a part, and returns each one's id and columns."""


def deleted(session: Session, part: Part, ids: Mapping[str, Collection[int]]) -> Sequence[Any]:
    """Delete them."""
    return session.execute(part.deleting, ids).all()


def locked(session: Session, part: Part, ids: Mapping[str, Collection[int]]) -> Sequence[Any]:
    """Lock them, for somebody else to delete: what they name cannot change in between."""
    return session.execute(part.locking, ids).all()


def selected(session: Session, part: Part, ids: Mapping[str, Collection[int]]) -> Sequence[Any]:
    """Look at them."""
    return session.execute(part.selecting, ids).all()


def cascade_of(session: Session, present: Sequence[ArtifactRef], organization_id: int, take: Take) -> Cascade:
    """Take children before parents, asking each row what it named."""
    by_id = {artifact.id: artifact for artifact in present}
    cascade = Cascade(going={}, named=[], comparisons={}, file_ids=set())
    if not present:
        return cascade
    of_artifacts = {"artifacts": by_id.keys()}
    size, snapshot = (list(session.execute(_METRICS[of], of_artifacts).scalars()) for of in (SizeMetrics, SnapshotMetrics))
    ids = {**of_artifacts, "size_metrics": size, "snapshot_metrics": snapshot}

    def gone(part: Part) -> Sequence[Any]:
        taken = take(session, part, ids)
        if taken:
            cascade.going[part.table.__tablename__] = {row[0] for row in taken}
        return taken

    files_named = [file for _, file in gone(_SIZE_COMPARISONS)]
    cascade.comparisons, named = rows.compared(session, gone(_SNAPSHOT_COMPARISONS), organization_id)
    cascade.named += named
    gone(_INSTALLABLES)
    for _, artifact, icon in gone(_APP_INFOS):
        files_named.append(icon_file_id(icon))
        cascade.named += rows.keys_of_app_info(by_id[artifact], icon)
    gone(_APPROVALS)
    files_named += [file for _, file in gone(_SIZE_METRICS)]
    for _, artifact, extras in gone(_SNAPSHOT_METRICS):
        cascade.named += rows.keys_of_metrics(by_id[artifact], extras)
    for _, file, installable in gone(_ARTIFACTS):
        files_named += (file, installable)
    cascade.file_ids = {named for named in files_named if named is not None}
    return cascade


def icons_still_named(session: Session, icon_keys: Iterable[str], going: Collection[int] = ()) -> set[str]:
    """Of these icon keys, those that an app info of their project still names: icon ids may be derived from content.

    The app infos of artifacts that are `going` do not count.
    """
    parts = {key: key.split("/") for key in icon_keys}
    surviving = set()
    for key, (_, project, icon) in parts.items():
        named_by = select(Artifact.id).where(
            MobileAppInfo.app_icon_id == icon,
            MobileAppInfo.preprod_artifact_id == Artifact.id,
            Artifact.project_id == int(project),
        )
        if any(artifact not in going for artifact in session.execute(named_by).scalars()):
            surviving.add(key)
    return surviving


def _count_absent(session: Session, found: DeletionChunk, pages: Iterable[Page]) -> None:
    """Keys that were proven absent owe the store nothing."""
    if absent := [Settlement(page, {}, absent=len(page.keys)) for page in pages if page.source is PageSource.ABSENT]:
        ledger.settle_pages(session, found, absent)
