"""Looks again for what a deletion has deleted: rows, objects with versions, unfinished uploads, blobs, images, trace items.

It reads, lists and counts, and writes nothing. It looks where collecting would look now, and at what the ledger still owes.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from activities.backend.contract import ArtifactRef, Backend, OwnPrefix, Places
from activities.database import Database
from activities.images import owed
from activities.images.owed import Total
from activities.ledger import overlaps, reports
from activities.ledger.prefixes import EXACT, owed_prefixes
from activities.ledger.schema import DeletionChunk
from activities.listing import Lister, lying_at, uploads_at, worth_a_listing
from activities.one_of import slices
from activities.plan_of_report import plan_of_report
from activities.run_all import run_all
from activities.stores.objects import Listings, ObjectStore
from activities.stores.traces import CountsTraceItems, TraceStore
from activities.stores.written_before import WrittenBefore
from artifact_deletion.request import DeletionRequest

_CHUNKS = select(DeletionChunk.files).where(DeletionChunk.deletion_id == bindparam("of"))


@dataclass(frozen=True)
class Lying:
    """What lies at one prefix or key."""

    artifact: int
    objects: int
    size: int
    uploads: int


@dataclass(frozen=True)
class Verified:
    """What is there of a deletion."""

    places: Places
    """Present and moved: artifacts that have rows. Lost: nothing says where their objects would lie."""
    prefixes: int
    """How many prefixes and keys there are to be listed."""
    lying: Sequence[Lying]
    """Where anything lies."""
    blobs_waiting: int
    """Blobs that deleted files named and no file names now: the backend's own clean-up takes them."""
    images: Total
    trace_items: int | None
    """None: not looked for. There is no trace store, or it cannot count."""

    @property
    def objects(self) -> int:
        """Objects, or of objects that have versions each, and each delete marker."""
        return sum(one.objects for one in self.lying)

    @property
    def size(self) -> int:
        """Bytes of the objects."""
        return sum(one.size for one in self.lying)

    @property
    def uploads(self) -> int:
        """Unfinished multipart uploads."""
        return sum(one.uploads for one in self.lying)

    @property
    def is_gone(self) -> bool:
        """Whether nothing was found that a deletion, or a clean-up after it, is to take."""
        images = self.images
        return not (
            self.places.present
            or self.places.moved
            or self.lying
            or self.blobs_waiting
            or self.trace_items
            or images.undecided
            or images.hidden
            or images.left_over.total()
        )


@dataclass(frozen=True)
class VerifyDeletion:
    """Needs the ledger, the backend's rows, the store, and the trace store if there is one."""

    database: Database
    backend: Backend
    store: ObjectStore
    traces: TraceStore | None
    requests: Executor
    chunk_size: int

    def verify(self, request: DeletionRequest) -> Verified:
        """Raises StoreUnavailable, DatabaseUnavailable, TraceStoreUnavailable, TraceStoreRefused."""
        backend = self.backend
        with self.database.read(snapshot=True) as session:
            own = {one.name: one for one in owed_prefixes(session, request.deletion_id)}
            recorded = overlaps.known_places(session, request)
            blobs = {blob for files in session.scalars(_CHUNKS, {"of": request.deletion_id}) for blob in files.get("blobs", ())}
            waiting = len(backend.blobs_waiting(session, blobs))
            images = owed.total(session, request.deletion_id)
            before = reports.get(session, request.report).written_before if request.report else None
        places, trace_items = Places(), 0
        counting = self.traces if isinstance(self.traces, CountsTraceItems) else None
        known = {one: recorded.get(one, request.project_id) for one in request.artifact_ids}
        for part in slices(sorted(known), self.chunk_size):
            with self.database.read(snapshot=True) as session:
                here, prefixes = self._expected(session, request, {one: known[one] for one in part})
            own |= {one.name: one for one in prefixes}
            places.present += here.present
            places.lost += here.lost
            places.moved += here.moved
            trace_items += self._count(counting, here.owned) if counting else 0
        store: Listings = self.store if before is None else WrittenBefore(self.store, before)
        lying = self._look(store, own) if store.listable else ()
        return Verified(places, len(own), lying, waiting, images, trace_items if counting else None)

    def _expected(
        self, session: Session, request: DeletionRequest, known: Mapping[int, int | None]
    ) -> tuple[Places, Sequence[OwnPrefix]]:
        """Where these artifacts are, and what is to be empty. What a report's deletion left alone is no part of it."""
        if request.report is not None:
            plan = plan_of_report(session, self.backend, request.report, known.keys())
            return Places(gone=plan.places.gone), plan.prefixes
        places, names = self.backend.survey(session, known, request.organization_id)
        return places, self.backend.own_prefixes(places, names)

    def _count(self, counting: CountsTraceItems, owned: Iterable[ArtifactRef]) -> int:
        of_project = defaultdict[tuple[int, int], list[str]](list)
        for one in owned:
            of_project[one.organization_id, one.project_id].append(self.backend.trace_id(one))
        return sum(counting.count(*project, ids) for project, ids in of_project.items())

    def _look(self, store: Listings, own: Mapping[str, OwnPrefix]) -> list[Lying]:
        """List together those that have much in common, and alone what then is not shown to be empty."""
        groups, lister = worth_a_listing((one.scope + one.kind, one.name) for one in own.values()), Lister(store)
        quiet = set().union(*run_all(self.requests, [partial(lister.quiet, group, uploads=True) for group in groups]))
        found = run_all(self.requests, [partial(_look_at, store, one) for name, one in own.items() if name not in quiet])
        return sorted((one for one in found if one.objects or one.uploads), key=lambda one: one.artifact)


def _look_at(store: Listings, prefix: OwnPrefix) -> Lying:
    exact, objects, size = prefix.kind in EXACT, 0, 0
    for found in lying_at(store, prefix.name, exact=exact):
        objects += 1
        size += found.size
    return Lying(prefix.artifact_id, objects, size, uploads_at(store, prefix.name, exact=exact))
