"""A dry run: what a deletion would do if it ran now. It reads, lists and counts, and writes nothing, not even into the ledger.

The plan is the one that collecting seals, rows and files are judged by the code that deletes them.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.orm import Session
from temporalio import activity

from activities.backend.contract import Cascade, Files, Names
from activities.database import Database
from activities.images.preview import PreviewImages
from activities.ledger import overlaps
from activities.ledger.held import held_among
from activities.ledger.prefixes import EXACT
from activities.listing import lying_at, short, uploads_at
from activities.permitted import refuse_foreign_artifacts, refuse_foreign_project
from activities.plan import Plan, Planner, Seen
from activities.run_all import between_requests, run_all
from activities.selection import not_expired
from activities.stores.objects import ObjectStore
from artifact_deletion.errors import DeletionError, InvalidRequest
from artifact_deletion.receipt import Ids, ImagesFound, ManifestsReceipt, ObjectsFound, Preview
from artifact_deletion.request import DeletionRequest
from workflows.steps import PREVIEW_DELETION

FOUND_BY_LISTING = "found by listing"
Counted = tuple[Counter[str], Counter[str], int]
"""Objects and bytes by kind, and unfinished uploads."""


@dataclass
class Tally:
    """What was counted so far, over all chunks."""

    cascade: Cascade = field(default_factory=Cascade)
    """A comparison of two artifacts of the request is met twice, and counted once."""
    counts: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    alone: set[int] = field(default_factory=set)
    """Keys whose neighbours are others', by `short`: an icon of two artifacts is met twice."""
    icons_kept: set[str] = field(default_factory=set)
    uploads: int = 0
    seen: Seen = field(default_factory=Seen)

    def add_rows(self, cascade: Cascade) -> None:
        """Rows by id, so that none counts twice."""
        for table, ids in cascade.ids.items():
            self.cascade.ids.setdefault(table, set()).update(ids)
        self.cascade.file_ids |= cascade.file_ids


@dataclass(frozen=True)
class PreviewDeletion:
    """Needs the backend's rows and the store, and of the ledger only other deletions."""

    database: Database
    planner: Planner
    requests: Executor
    images: PreviewImages
    chunk_size: int

    @property
    def store(self) -> ObjectStore:
        """The planner's."""
        return self.planner.store

    @activity.defn(name=PREVIEW_DELETION.name, no_thread_cancel_exception=True)
    def preview_deletion(self, request: DeletionRequest) -> Preview:
        """Returns counts alone. Raises InvalidRequest for what a report lists: it is a preview of its own."""
        if request.report is not None:
            raise InvalidRequest("report: a report is a preview of its own")
        preview, _ = self.preview_with_strays(request)
        return preview

    def preview_with_strays(self, request: DeletionRequest) -> tuple[Preview, list[tuple[str, str]]]:
        """The same with the strays themselves, at most ten thousand: for the command line, never for history."""
        backend, tally = self.planner.backend, Tally(seen=Seen(images={} if request.images == "delete" else None))
        with self.database.read(snapshot=True) as session:
            found = backend.find(session, request.artifact_ids)
            last = dict.fromkeys(request.artifact_ids, request.project_id) | overlaps.known_places(session, request)
            overlapping = overlaps.open_deletions_of(session, request)
            held = held_among(session, backend, last, request.organization_id)
            young = not_expired(session, backend, found, request.organization_id).keys() - held if request.expired else set()
        staying = {one for one, (_, of) in found.items() if of != request.organization_id} | held.keys() | young
        ours = [one for one in request.artifact_ids if one not in staying]
        places = {one: found[one][0] if one in found else last[one] for one in ours}
        ordered = sorted(ours, key=lambda one: (places[one] or 0, one))
        for start in range(0, len(ordered), self.chunk_size):
            between_requests(start, len(ordered))
            chunk = {one: places[one] for one in ordered[start : start + self.chunk_size]}
            self._preview_chunk(request, chunk, places.keys(), tally)
        files, heirs = self._beside_them(request, tally, places.keys())
        gone, seen = [one for one in ours if one not in found], tally.seen
        preview = Preview(
            organization_id=request.organization_id,
            requested_artifacts=len(request.artifact_ids),
            refused=tuple(self._refusals(request)),
            artifacts=Ids.of(one for one in ours if one in found).for_history(),
            gone_swept=Ids.of(one for one in gone if places[one] is not None).for_history(),
            gone_unchecked=Ids.of(one for one in gone if places[one] is None).for_history(),
            held=Ids.of(held).for_history(),
            not_expired=Ids.of(young).for_history(),
            heirs=Ids.of(heirs).for_history(),
            overlapping=tuple(overlapping),
            rows={table: count for table, count in sorted((tally.cascade.rows | files.rows).items()) if count},
            files_kept={reason: Ids.of(kept).for_history() for reason, kept in sorted(files.kept.items())},
            objects={kind: self._objects(tally, kind) for kind in sorted(tally.counts)},
            icons_kept=len(tally.icons_kept),
            unfinished_uploads=tally.uploads if self.store.lists_uploads else None,
            manifests=ManifestsReceipt(**+seen.manifests),
            images=ImagesFound() if seen.images is None else self.images.preview(seen.images, frozenset(ours)),
            strays=dict(sorted(seen.reasons.items())),
        )
        return preview, seen.strays

    def _beside_them(self, request: DeletionRequest, tally: Tally, going: Collection[int]) -> tuple[Files, set[int]]:
        """What becomes of their files, and which other artifacts show less without them."""
        backend = self.planner.backend
        with self.database.read(snapshot=True) as session:
            files = backend.judge_files(session, tally.cascade, request.organization_id)
            return files, backend.bulk.heirs(session, going) - set(going)

    def _objects(self, tally: Tally, kind: str) -> ObjectsFound:
        return ObjectsFound(count=tally.counts[kind], size=tally.sizes[kind] if self.store.listable else None)

    def _refusals(self, request: DeletionRequest) -> list[str]:
        """Every reason for which the deletion would be refused."""
        backend = self.planner.backend
        refusals = []

        def foreign_project(session: Session) -> None:
            refuse_foreign_project(session, backend, request)

        def foreign_artifacts(session: Session) -> None:
            refuse_foreign_artifacts(request, backend.find(session, request.artifact_ids))

        for check in (lambda _: backend.refuse_unknown_tables(), foreign_project, foreign_artifacts):
            try:
                with self.database.read(snapshot=True) as session:
                    check(session)
            except DeletionError as error:
                refusals.append(str(error))
        return refusals

    def _preview_chunk(
        self, request: DeletionRequest, chunk: Mapping[int, int | None], every: Collection[int], tally: Tally
    ) -> None:
        with self.database.read(snapshot=True) as session:
            plan = self.planner.plan(session, chunk, request.organization_id)
            tally.add_rows(self.planner.backend.look(session, plan.places.present))
        plan = self._without_others(plan, chunk, every)
        alone = self._alone(plan, every, tally)
        manifests = [one for one in plan.names.keys if one.is_manifest and self.store.listable]  # versions of absent ones too
        scopes = self.planner.backend.scopes
        kinds = {short(scope + one.key): one.kind for one in manifests for scope in scopes(one.artifact)}
        for planned in self.planner.keys(plan, tally.seen):
            kinds |= {short(scope + key): planned.kind for scope in planned.scopes for key in planned.keys}
        if not self.store.listable:
            tally.counts.update(kind for key, kind in kinds.items() if key not in tally.alone)
            tally.counts.update(alone.values())
            return
        jobs = [partial(self._list_prefix, one.name, kinds) for one in plan.prefixes if one.kind not in EXACT]
        jobs += [partial(self._list_key, key, kind) for key, kind in alone.items()]
        for counts, sizes, uploads in run_all(self.requests, jobs):
            tally.counts += counts
            tally.sizes += sizes
            tally.uploads += uploads

    def _without_others(self, plan: Plan, chunk: Collection[int], every: Collection[int]) -> Plan:
        """A comparison whose head is in another chunk of the request is counted there, under its head's prefix."""
        there = {head.id for head in plan.names.comparisons if head.id in every and head.id not in chunk}
        names = Names(
            keys=[one for one in plan.names.keys if one.artifact.id not in there],
            strays=[one for one in plan.names.strays if one.artifact.id not in there],
            comparisons={head: bases for head, bases in plan.names.comparisons.items() if head.id not in there},
        )
        return Plan(plan.places, names, self.planner.backend.own_prefixes(plan.places, names))

    def _alone(self, plan: Plan, every: Collection[int], tally: Tally) -> dict[str, str]:
        """Kind by physical key, of keys under no prefix of ours that were not met before and that no other artifact names."""
        alone = [named for named in plan.names.keys if named.is_alone]
        with self.database.read(snapshot=True) as session:
            kept = self.planner.backend.still_named(session, {one.key for one in alone if one.is_shared}, every)
        tally.icons_kept |= kept
        kinds = {
            scope + named.key: named.kind
            for named in alone
            if named.key not in kept
            for scope in self.planner.backend.scopes(named.artifact)
        }
        new = {key: kind for key, kind in kinds.items() if short(key) not in tally.alone}
        tally.alone |= {short(key) for key in new}
        return new

    def _list_prefix(self, prefix: str, kinds: Mapping[int, str]) -> Counted:
        counts, sizes = Counter[str](), Counter[str]()
        for found in lying_at(self.store, prefix, exact=False):
            kind = kinds.get(short(found.key), FOUND_BY_LISTING)
            counts[kind] += 1
            sizes[kind] += found.size
        return counts, sizes, uploads_at(self.store, prefix, exact=False)

    def _list_key(self, key: str, kind: str) -> Counted:
        found = list(lying_at(self.store, key, exact=True))
        counts = Counter({kind: len(found)}) if found else Counter[str]()
        return counts, Counter({kind: sum(one.size for one in found)}), uploads_at(self.store, key, exact=True)
