"""A dry run: what a deletion would do if it ran now. It reads, lists and counts, and writes nothing, not even into the ledger.

Keys are named, rows chosen and files judged by the same code that deletes; only the verbs differ.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from temporalio import activity

from activities.collect_keys import CollectKeys
from activities.delete_rows import cascade_of, icons_still_named, selected
from activities.open_deletion import not_in_organization, places_and_foreign, refuse_foreign_project
from activities.requests import between_requests, run_all
from activities.storage import files, ledger, rows
from activities.storage.database import Database
from activities.storage.drift import Schema
from activities.storage.keys import WhyStray
from activities.storage.ledger import PageSource
from activities.storage.objects import ObjectStore
from activities.storage.rows import Comparisons, Places
from activities.storage.tables import File, FileBlobIndex
from activities.sweep_prefixes import short
from workflows.errors import DeletionError
from workflows.messages import (
    PREVIEW_DELETION,
    DeletionRequest,
    Ids,
    ManifestsReceipt,
    ObjectsFound,
    Preview,
)

FOUND_BY_LISTING = "found by listing"
ARCHIVE, ICON = "archive", "icon"
_STRAYS_SHOWN = 10_000


@dataclass
class NamedKinds:
    """The keys that columns, manifests and ids name: eight bytes for each, and what kind it is of."""

    kinds: dict[int, str] = field(default_factory=dict)
    alone: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: {ARCHIVE: set(), ICON: set()})
    """(scope, key) by kind, where no prefix of ours holds the key: its neighbours are others'."""

    def add(self, kind: str, scopes: Iterable[str], _source: PageSource, keys: Iterable[str]) -> None:
        """See KeySink."""
        named = list(keys)
        for scope in scopes:
            if kind in self.alone:
                self.alone[kind] |= {(scope, key) for key in named}
            else:
                self.kinds |= dict.fromkeys((short(scope + key) for key in named), kind)


@dataclass
class Tally:
    """What was counted so far, over all chunks."""

    going: dict[str, set[int]] = field(default_factory=dict)
    """Rows by table: a comparison of two artifacts of the request is met twice."""
    file_ids: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    alone: set[int] = field(default_factory=set)
    """Keys whose neighbours are others', eight bytes for each: an icon of two artifacts is met twice."""
    icons_kept: set[str] = field(default_factory=set)
    uploads: int = 0
    collected: Counter[str] = field(default_factory=Counter)
    reasons: Counter[WhyStray] = field(default_factory=Counter)
    strays: list[tuple[WhyStray, str]] = field(default_factory=list)


@dataclass(frozen=True)
class PreviewDeletion:
    """Needs the backend's rows and the store, and of the ledger only what other deletions do."""

    database: Database
    schema: Schema
    store: ObjectStore
    collect: CollectKeys
    requests: Executor
    chunk_size: int

    @activity.defn(name=PREVIEW_DELETION.name, no_thread_cancel_exception=True)
    def preview_deletion(self, request: DeletionRequest) -> Preview:
        """Returns counts alone."""
        preview, _ = self.preview_with_strays(request)
        return preview

    def preview_with_strays(self, request: DeletionRequest) -> tuple[Preview, list[tuple[WhyStray, str]]]:
        """The same with the strays themselves, at most ten thousand: for the command line, never for history."""
        refused = self._refusals(request)
        with self.database.read(snapshot=True) as session:
            living, foreign = places_and_foreign(session, request)
            known = ledger.known_places(session, request)
            overlapping = ledger.open_deletions_of(session, request)
        ours = sorted(set(request.artifact_ids) - set(foreign))
        places = {one: living.get(one) or known.get(one) or request.project_id for one in ours}
        present = {one for one in ours if one in living}
        ordered = sorted(places, key=lambda one: (places[one] or 0, one))
        tally = Tally()
        for start in range(0, len(ordered), self.chunk_size):
            between_requests(start, len(ordered))
            self._preview_chunk(request, {one: places[one] for one in ordered[start : start + self.chunk_size]}, places, tally)
        with self.database.read(snapshot=True) as session:
            judged = files.sort_files(
                session, tally.file_ids, request.organization_id, self.schema.file_references(), tally.going
            )
            counted = {table: len(ids) for table, ids in tally.going.items()}
            counted |= {
                File.__tablename__: len(judged.going),
                FileBlobIndex.__tablename__: files.index_rows(session, judged.going),
            }
        gone = [one for one in ours if one not in present]
        preview = Preview(
            organization_id=request.organization_id,
            requested_artifacts=len(request.artifact_ids),
            refused=tuple(refused),
            artifacts=Ids.of(present).for_history(),
            gone_swept=Ids.of(one for one in gone if places[one] is not None).for_history(),
            gone_unchecked=Ids.of(one for one in gone if places[one] is None).for_history(),
            overlapping=tuple(overlapping),
            rows={table: count for table, count in sorted(counted.items()) if count},
            files_kept={reason: Ids.of(kept).for_history() for reason, kept in sorted(judged.kept.items())},
            objects={
                kind: ObjectsFound(count=count, size=tally.sizes[kind] if self.store.listable else None)
                for kind, count in sorted(tally.counts.items())
            },
            icons_kept=len(tally.icons_kept),
            unfinished_uploads=tally.uploads if self.store.lists_uploads else None,
            manifests=ManifestsReceipt(
                read=tally.collected["manifests_read"],
                evicted=tally.collected["manifests_evicted"],
                unreadable=tally.collected["manifests_unreadable"],
                strays=tally.collected["strays"],
                named_elsewhere=tally.collected["named_elsewhere"],
                images_kept=tally.collected["images_kept"],
            ),
            strays=dict(sorted(tally.reasons.items())),
        )
        return preview, tally.strays

    def _refusals(self, request: DeletionRequest) -> list[str]:
        """Every reason for which the deletion would be refused or held up."""
        refusals = []
        try:
            self.schema.refuse_unknown_tables()
        except DeletionError as error:
            refusals.append(str(error))
        with self.database.read(snapshot=True) as session:
            try:
                refuse_foreign_project(session, request)
            except DeletionError as error:
                refusals.append(str(error))
            _, foreign = places_and_foreign(session, request)
        if foreign:
            refusals.append(str(not_in_organization(request, foreign)))
        return refusals

    def _preview_chunk(
        self, request: DeletionRequest, chunk: dict[int, int | None], all_places: dict[int, int | None], tally: Tally
    ) -> None:
        with self.database.read(snapshot=True) as session:
            places = rows.find_places(session, chunk, request.organization_id)
            comparisons, named = rows.named_by_columns(session, places)
            cascade = cascade_of(session, places.present, request.organization_id, selected)
        for table, ids in cascade.going.items():
            tally.going.setdefault(table, set()).update(ids)
        tally.file_ids |= cascade.file_ids
        # A comparison whose head is in another chunk of the request is counted there, under its head's prefix.
        here = {head: bases for head, bases in comparisons.items() if head.id in chunk or head.id not in all_places}
        named = [one for one in named if one.base_id is None or one.artifact.id in chunk or one.artifact.id not in all_places]
        kinds = NamedKinds()
        counts = self.collect.name_keys(kinds, places, here, named)
        tally.collected.update(counts.collected)
        tally.reasons.update(counts.reasons)
        tally.strays += counts.strays[: _STRAYS_SHOWN - len(tally.strays)]
        self._count_objects(places, here, kinds, set(all_places), tally)

    def _count_objects(
        self, places: Places, comparisons: Comparisons, kinds: NamedKinds, asked: set[int], tally: Tally
    ) -> None:
        with self.database.read(snapshot=True) as session:
            kept = icons_still_named(session, {key for _, key in kinds.alone[ICON]}, asked)
        tally.icons_kept |= kept
        alone = [(scope + key, kind) for kind, keys in kinds.alone.items() for scope, key in keys if key not in kept]
        alone = [(key, kind) for key, kind in alone if short(key) not in tally.alone]
        tally.alone |= {short(key) for key, _ in alone}
        if not self.store.listable:
            tally.counts.update(kinds.kinds.values())
            tally.counts.update(kind for _, kind in alone)
            return
        prefixes = rows.own_prefixes(places, comparisons, self.collect.scopes)
        jobs = [partial(self._list_prefix, scope + prefix, kinds) for scope, prefix, exact in prefixes if not exact]
        jobs += [partial(self._list_key, key, kind) for key, kind in alone]
        for counts, sizes, uploads in run_all(self.requests, jobs):
            tally.counts += counts
            tally.sizes += sizes
            tally.uploads += uploads

    def _list_prefix(self, prefix: str, kinds: NamedKinds) -> tuple[Counter[str], Counter[str], int]:
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for page in self.store.list_under(prefix):
            for found in page:
                kind = kinds.kinds.get(short(found.key), FOUND_BY_LISTING)
                counts[kind] += 1
                sizes[kind] += found.size
        return counts, sizes, self._uploads(prefix)

    def _list_key(self, key: str, kind: str) -> tuple[Counter[str], Counter[str], int]:
        found = [one for page in self.store.list_under(key) for one in page if one.key == key]
        uploads = self._uploads(key, exact=True)
        return Counter({kind: len(found)} if found else {}), Counter({kind: sum(one.size for one in found)}), uploads

    def _uploads(self, prefix: str, *, exact: bool = False) -> int:
        if not self.store.lists_uploads:
            return 0
        return sum(one.key == prefix or not exact for page in self.store.uploads_under(prefix) for one in page)
