"""Step 2: delete the rows of a chunk and release its sealed keys, in one transaction.

This is the point of no return: before it nothing has happened, after it everything must. In order: lock, look again, cascade,
seal what changed since the keys were collected, release. PostgreSQL refuses at COMMIT a row that was inserted in between, and
the whole transaction is run again; an ambiguous COMMIT is settled by reading the chunk's state, which is written with it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session
from temporalio import activity

from activities.backend.contract import ArtifactRef, Backend, Locked, Names, Places, PrefixKind, places_of
from activities.database import Database
from activities.images import index
from activities.ledger import chunks, deletions, holds, pages, prefixes
from activities.ledger.chunks import ChunkArtifact
from activities.ledger.held import held_among
from activities.ledger.holds import Ceilings
from activities.ledger.schema import STAYING, ChunkState, DeletionChunk, PageSource, RowsState, clock
from activities.one_of import slices
from activities.plan import PlannedKeys
from activities.plan_of_report import leave_what_came_back
from activities.selection import not_expired
from artifact_deletion.errors import Held, NotOpen, StaleSeal
from artifact_deletion.outbox import DeletionState
from workflows.steps import DELETE_ROWS, PAGE_KEYS, Released, SealedChunk

_BY_COLUMNS = (PageSource.COLUMN, PageSource.SHARED)
"""Pages of keys that rows name, and no manifest."""


class _OverCeiling(Exception):
    """A reason to hold the deletion; it never leaves this file."""


@dataclass(frozen=True)
class DeleteRows:
    """Needs the database alone."""

    database: Database
    backend: Backend
    listable: bool
    ceilings: Ceilings

    # A cancellation may strike a thread at any instruction: between a DELETE and its COMMIT there must be none.
    @activity.defn(name=DELETE_ROWS.name, no_thread_cancel_exception=True)
    def delete_rows(self, sealed: SealedChunk) -> Released:
        """Returns what was deleted, the first time or an earlier time. Raises StaleSeal if the keys must be collected again.

        Raises Held: then nothing was deleted, and it is run again when the hold is lifted.
        """
        try:
            with self.backend.transaction() as session:
                return self._delete(session, sealed)
        except _OverCeiling as over:
            with self.database.write() as session:
                holds.place_ceiling(session, sealed.deletion_id, sealed.fence, str(over))
                placed = holds.placed_on(session, sealed.organization_id, sealed.deletion_id, sealed.fence)
            holds.refuse_held(placed)
            raise Held("the hold was lifted at this moment") from None

    def _delete(self, session: Session, sealed: SealedChunk) -> Released:
        holds.lock_out_new_holds(session)
        state, is_held = deletions.lock_shared(session, sealed.deletion_id, sealed.fence)
        found = chunks.lock_chunk(session, sealed)
        every = chunks.artifacts_of(session, sealed)
        known = [artifact for artifact in every if artifact.rows_state not in STAYING]
        if found.state == ChunkState.ROWS_DELETED:
            return chunks.released(found, pages.first_page(session, found), _held(every))
        if state is not DeletionState.RUNNING:
            raise NotOpen(f"the deletion is {state}; nothing of this chunk was deleted")
        if is_held:
            holds.refuse_held(holds.placed_on(session, sealed.organization_id, sealed.deletion_id, sealed.fence))
        if over := self.ceilings.exceeded_by(session, sealed.deletion_id, sealed.fence):
            raise _OverCeiling(over)
        given = sealed.seal.epoch, sealed.seal.pages, sealed.seal.digest
        if not found.names_digest or given != (found.epoch, found.pages, found.digest):
            raise StaleSeal(f"chunk {sealed.chunk}: the ledger holds another seal; nothing was deleted")
        locked = self.backend.lock(session, [artifact.id for artifact in known], sealed.organization_id)
        self._refuse_other_holds(session, sealed, every)
        if sealed.expired and not_expired(session, self.backend, locked.places, sealed.organization_id):
            raise StaleSeal(f"chunk {sealed.chunk}: an artifact that had expired is needed by now; nothing was deleted")
        present = self._present(sealed, known, locked)
        cascade = self.backend.delete(session, present, locked)
        if sealed.report is None and (found.epoch > 1 or cascade.names.digest != found.names_digest):
            places = places_of(locked.places, {one.id: one.project_id for one in known}, sealed.organization_id)
            self._seal_the_rest(session, found, sealed, places, cascade.names)
        if sealed.report is not None:
            leave_what_came_back(session, self.backend, sealed, found, sealed.report)
        files = self.backend.delete_files(session, cascade, sealed.organization_id)
        self._release(session, found, sealed, known, present)
        if sealed.images:
            index.forget(session, [artifact.id for artifact in present])
        found.files = {"deleted": len(files.going), "kept": files.kept, "blobs": sorted(files.blobs)}
        found.rows = cascade.rows | files.rows
        session.flush()
        return chunks.released(found, 0, _held(every))

    def _refuse_other_holds(self, session: Session, sealed: SealedChunk, known: Sequence[ChunkArtifact]) -> None:
        """Raises StaleSeal unless holds keep the very artifacts that they kept when keys were collected."""
        projects = {one.id: one.project_id for one in known}
        held = held_among(session, self.backend, projects, sealed.organization_id, sealed.report)
        if held.keys() != {one.id for one in known if one.rows_state is RowsState.HELD}:
            raise StaleSeal(f"chunk {sealed.chunk}: an artifact was held, or let go, since; nothing was deleted")

    def _present(self, sealed: SealedChunk, known: Sequence[ChunkArtifact], locked: Locked) -> list[ArtifactRef]:
        """The artifacts whose rows are to go. Raises StaleSeal if one is not where its keys were collected."""
        present = []
        for artifact in known:
            if artifact.id not in locked.places:
                continue
            project, organization = locked.places[artifact.id]
            ours = organization == sealed.organization_id
            if ours and (artifact.rows_state, artifact.project_id) == (RowsState.PENDING, project):
                present.append(ArtifactRef(organization, project, artifact.id))
            elif artifact.rows_state is not RowsState.MOVED or (ours and sealed.report is None):
                raise StaleSeal(
                    f"chunk {sealed.chunk}: an artifact is no longer where its keys were collected; nothing was deleted"
                )
        return present

    def _seal_the_rest(self, session: Session, found: DeletionChunk, sealed: SealedChunk, places: Places, names: Names) -> None:
        """Seal what rows name since the keys were collected, and keep of earlier attempts' seals what is still ours.

        A comparison or a shared key that an earlier attempt sealed may be named by no row any more, since others deleted those.
        """
        own = set(self.backend.own_prefixes(Places(present=places.present), names))
        before = prefixes.named_by_rows(session, found) - own
        still_ours = self.backend.still_ours(session, before, places)
        prefixes.forget(session, found, before - still_ours)
        prefixes.seal_prefixes(session, found, own)
        chunks.note_compared(session, sealed, names.compared_with(places.present, heads=not self.listable))
        held = {page.scope + key for page in pages.read_pages(session, sealed, sources=_BY_COLUMNS) for key in page.keys}
        new = [one for one in names.keys if not any(scope + one.key in held for scope in self.backend.scopes(one.artifact))]
        # Where the store lists, a prefix shows all but the images that a manifest names.
        if any(sealed.images and one.is_manifest and not one.names_own for one in new) or (new and not self.listable):
            raise StaleSeal(f"chunk {found.chunk}: a row names a key that was not collected; nothing was deleted")
        added = [
            PlannedKeys(
                one.kind,
                self.backend.scopes(one.artifact),
                PageSource.SHARED if one.is_shared else PageSource.COLUMN,
                [one.key],
            )
            for one in new
        ]
        shared = [one for one in still_ours if one.kind is PrefixKind.SHARED and one.name not in held]
        added += [PlannedKeys(self.backend.shared_kind, [one.scope], PageSource.SHARED, [one.prefix]) for one in shared]
        self._seal_keys(session, found, added)
        elsewhere = sum(stray.is_elsewhere for stray in names.strays)
        found.manifests = {**found.manifests, "named_elsewhere": max(elsewhere, found.manifests.get("named_elsewhere", 0))}

    def _seal_keys(self, session: Session, found: DeletionChunk, added: Sequence[PlannedKeys]) -> None:
        new = defaultdict[tuple[str, PageSource], set[str]](set)
        kinds = Counter(found.kinds)
        for planned in added:
            for scope in planned.scopes:
                kinds[planned.kind] += len(set(planned.keys) - new[scope, planned.source])
                new[scope, planned.source].update(planned.keys)
        found.kinds = dict(kinds)
        for (scope, source), keys in sorted(new.items()):
            pages.seal_pages(session, found, ((scope, source, part) for part in slices(sorted(keys), PAGE_KEYS)))

    def _release(
        self,
        session: Session,
        found: DeletionChunk,
        sealed: SealedChunk,
        known: Sequence[ChunkArtifact],
        present: Sequence[ArtifactRef],
    ) -> None:
        ours = {artifact.id for artifact in present}
        disappeared = [one.id for one in known if one.rows_state is RowsState.PENDING and one.id not in ours]
        chunks.set_artifacts(session, sealed, ours, rows_state=RowsState.DELETED)
        chunks.set_artifacts(session, sealed, disappeared, rows_state=RowsState.GONE)
        found.state = ChunkState.ROWS_DELETED
        found.rows_deleted_at = clock()
        if all(one.project_id is None or one.rows_state is RowsState.MOVED for one in known):
            found.trace_items_confirmed_at = clock()  # there are none to ask for


def _held(artifacts: Iterable[ChunkArtifact]) -> int:
    return sum(artifact.rows_state is RowsState.HELD for artifact in artifacts)
