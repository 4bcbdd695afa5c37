"""Step 1: seal in the ledger every object key that columns, manifests and ids name.

Nothing is deleted here, and nothing may be missed: an error is never an empty list. Each attempt takes a new epoch of the chunk
and seals anew.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session
from temporalio import activity

from activities.backend.contract import Places
from activities.database import Database
from activities.images import owed
from activities.ledger import chunks, pages, prefixes
from activities.ledger.chunks import ChunkArtifact
from activities.ledger.held import held_among
from activities.ledger.schema import ChunkState, DeletionChunk, PageSource, RowsState
from activities.plan import Plan, PlannedKeys, Planner, Seen
from activities.plan_of_report import plan_of_report
from activities.selection import not_expired
from workflows.steps import COLLECT_KEYS, PAGE_KEYS, Chunk, Seal

_PAGES_A_TRANSACTION = 20
Staying = dict[int, tuple[RowsState, int | None]]
"""Artifacts that are no part of the plan, and their projects."""


@dataclass
class Sealing:
    """The pages of one attempt on their way into the ledger, a thousand keys each."""

    database: Database
    chunk: Chunk
    epoch: int
    reserved: Collection[str] = ()
    """Keys that columns and ids name: a manifest that names them too does not have them sealed twice."""
    kinds: Counter[str] = field(default_factory=Counter)
    _open: dict[tuple[str, PageSource], set[str]] = field(default_factory=lambda: defaultdict(set))
    _full: list[tuple[str, PageSource, set[str]]] = field(default_factory=list)

    def add(self, planned: PlannedKeys) -> None:
        """Seal keys, once for each scope. Raises StaleSeal."""
        wanted = set(planned.keys)
        if planned.source is PageSource.MANIFEST:
            wanted = wanted.difference(self.reserved)
        for scope in planned.scopes:
            page, new = self._open[scope, planned.source], 0
            for key in wanted:
                if key in page:
                    continue
                new += 1
                page.add(key)
                if len(page) == PAGE_KEYS:
                    self._full.append((scope, planned.source, self._open.pop((scope, planned.source))))
                    page = self._open[scope, planned.source]
            self.kinds[planned.kind] += new
        if len(self._full) >= _PAGES_A_TRANSACTION:
            with self.database.write() as session:
                self.write(session, chunks.lock_sealing(session, self.chunk, self.epoch))

    def write(self, session: Session, found: DeletionChunk, *, last: bool = False) -> None:
        """Write the full pages, at the end all of them, into a chunk that is locked for this attempt."""
        if last:
            self._full += [(scope, source, keys) for (scope, source), keys in self._open.items() if keys]
        pages.seal_pages(session, found, self._full)
        self._full.clear()


@dataclass(frozen=True)
class CollectKeys:
    """Reads rows from the database and manifests from the store, and writes to the ledger alone."""

    database: Database
    planner: Planner

    @activity.defn(name=COLLECT_KEYS.name, no_thread_cancel_exception=True)
    def collect_keys(self, chunk: Chunk) -> Seal:
        """Returns the seal. For a chunk whose rows are gone that is the one of then, and nothing is read."""
        with self.database.write() as session:
            found = chunks.begin_epoch(session, chunk)
            epoch = found.epoch
            if found.state == ChunkState.ROWS_DELETED:
                return Seal(epoch=epoch, pages=found.pages, digest=found.digest)
            if epoch > 1:
                self._begin_anew(session, found)
            known, any_held = chunks.artifacts_and_holds(session, chunk)
            staying = self._staying(session, chunk, known, any_held=any_held)
            plan = self._plan(session, chunk, {one.id: one.project_id for one in known if one.id not in staying})
        sealing = Sealing(self.database, chunk, epoch, {named.key for named in plan.names.keys})
        seen = Seen(images={} if chunk.images else None)
        for planned in self.planner.keys(plan, seen) if chunk.report is None else ():
            sealing.add(planned)
        with self.database.write() as session:
            found = chunks.lock_sealing(session, chunk, epoch)
            sealing.write(session, found, last=True)
            prefixes.seal_prefixes(session, found, plan.prefixes)
            owed.seal(session, found, seen.images or {})
            self._note_places(session, chunk, known, plan.places, staying)
            heads = not self.planner.store.listable
            chunks.note_compared(session, chunk, plan.names.compared_with(plan.places.present, heads=heads))
            found.kinds = dict(sealing.kinds + seen.evicted)
            found.sealed += seen.evicted.total()
            found.absent = seen.evicted.total()
            found.manifests = dict(+seen.manifests)
            found.strays = chunks.pack_strays(seen.strays)
            found.names_digest = plan.names.digest
            return Seal(epoch=epoch, pages=found.pages, digest=found.digest)

    def _staying(self, session: Session, chunk: Chunk, known: Sequence[ChunkArtifact], *, any_held: bool) -> Staying:
        """Those that are held, and where only what has expired is to go, those that have not."""
        backend, staying, projects = self.planner.backend, Staying(), {one.id: one.project_id for one in known}
        if chunk.expired:
            young = not_expired(session, backend, backend.find(session, projects), chunk.organization_id)
            staying |= {one: (RowsState.NOT_EXPIRED, project) for one, project in young.items()}
        if any_held:
            held = held_among(session, backend, projects, chunk.organization_id, chunk.report)
            staying |= {one: (RowsState.HELD, project) for one, project in held.items()}
        return staying

    def _plan(self, session: Session, chunk: Chunk, going: Mapping[int, int | None]) -> Plan:
        if chunk.report is not None:
            return plan_of_report(session, self.planner.backend, chunk.report, going.keys())
        return self.planner.plan(session, going, chunk.organization_id)

    def _begin_anew(self, session: Session, found: DeletionChunk) -> None:
        """Forget what earlier attempts sealed. What only rows named stays: delete_rows decides whether it is still ours."""
        pages.drop_pages(session, found)
        owed.drop(session, found)
        prefixes.begin_anew(session, found)
        found.pages = found.sealed = found.absent = 0
        found.digest, found.names_digest, found.kinds, found.manifests, found.strays = "", "", {}, {}, None

    def _note_places(
        self, session: Session, chunk: Chunk, known: Sequence[ChunkArtifact], places: Places, staying: Staying
    ) -> None:
        """Where each artifact is, unless the ledger says so already."""
        found: list[tuple[RowsState, int | None, int]]
        found = [(RowsState.PENDING, one.project_id, one.id) for one in places.present]
        found += [(RowsState.GONE, one.project_id, one.id) for one in places.gone]
        found += [(RowsState.GONE, None, one) for one in places.lost]
        found += [(RowsState.MOVED, None, one) for one in places.moved]
        found += [(state, project, one) for one, (state, project) in staying.items()]
        before = {one.id: (one.rows_state, one.project_id) for one in known}
        changed = defaultdict[tuple[RowsState, int | None], list[int]](list)
        for state, project, artifact in found:
            if before[artifact] != (state, project):
                changed[state, project].append(artifact)
        for (state, project), ids in changed.items():
            chunks.set_artifacts(session, chunk, ids, rows_state=state, project_id=project)
