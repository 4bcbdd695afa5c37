"""Step 1: seal in the ledger every object key that columns, manifests and ids name.

Nothing is deleted here, and nothing may be missed: an error is never an empty list. A manifest that is absent
(NoSuchKey, and nothing less) is recorded as evicted, one that is no manifest as unreadable; any other trouble is raised.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from itertools import islice
from threading import BoundedSemaphore
from typing import Protocol

from sqlalchemy.orm import Session
from temporalio import activity

from activities.requests import between_requests
from activities.storage import ledger, rows
from activities.storage.database import Database
from activities.storage.keys import (
    ArtifactRef,
    Scopes,
    SortedKeys,
    UnreadableManifest,
    WhyStray,
    diff_mask_keys,
    icon_key,
    image_hashes,
    parse_manifest,
    stray_text,
    why_stray,
)
from activities.storage.ledger import ChunkState, DeletionChunk, PageSource, PrefixState, RowsState, SealedBefore
from activities.storage.objects import ObjectAbsent, ObjectStore, ObjectTooLarge
from activities.storage.rows import Comparisons, NamedKey, Places
from workflows.messages import COLLECT_KEYS, PAGE_KEYS, Chunk, Collected

_PAGES_A_TRANSACTION = 20


@dataclass(frozen=True)
class Manifest:
    """A manifest to be read, and where it may lie. It is the artifacts' own, and so is what it names under the same prefix."""

    named: NamedKey
    scopes: tuple[str, ...]


@dataclass
class ReadManifest:
    """What reading it gave."""

    manifest: Manifest
    scope: str | None = None
    """Where it was found; None if it is evicted."""
    readable: bool = True
    masks: SortedKeys = field(default_factory=SortedKeys)
    images: int = 0


class KeySink(Protocol):
    """Whoever is told of keys."""

    def add(self, kind: str, scopes: Iterable[str], source: PageSource, keys: Iterable[str], /) -> None:
        """These keys are the artifacts' own, in each of the scopes."""


@dataclass
class Seal:
    """The pages of one attempt on their way into the ledger, a thousand keys each."""

    database: Database
    chunk: Chunk
    epoch: int
    reserved: frozenset[str] = frozenset()
    """Keys that columns and ids name: a manifest that names them too does not have them sealed twice."""
    kinds: Counter[str] = field(default_factory=Counter)
    _open: dict[tuple[str, PageSource], set[str]] = field(default_factory=lambda: defaultdict(set))
    _full: list[tuple[str, PageSource, set[str]]] = field(default_factory=list)

    def add(self, kind: str, scopes: Iterable[str], source: PageSource, keys: Iterable[str]) -> None:
        """Seal keys, once for each scope."""
        wanted = set(keys) - self.reserved if source is PageSource.MANIFEST else set(keys)
        for scope in scopes:
            page, new = self._open[scope, source], 0
            for key in wanted:
                if key in page:
                    continue
                new += 1
                page.add(key)
                if len(page) == PAGE_KEYS:
                    self._full.append((scope, source, self._open.pop((scope, source))))
                    page = self._open[scope, source]
            self.kinds[kind] += new
        if len(self._full) >= _PAGES_A_TRANSACTION:
            with self.database.write() as session:
                self.write(session, ledger.lock_sealing(session, self.chunk.deletion_id, self.chunk.chunk, self.epoch))

    def write(self, session: Session, found: DeletionChunk, *, last: bool = False) -> None:
        """Write the full pages, at the end all of them, into a chunk that is locked for this attempt."""
        if last:
            self._full += [(scope, source, keys) for (scope, source), keys in self._open.items() if keys]
        for scope, source, keys in self._full:
            ledger.seal_page(session, found, scope, source, keys)
        self._full.clear()
        session.flush()


@dataclass(frozen=True)
class CollectKeys:
    """Reads rows from the database and manifests from the store, and writes to the ledger alone."""

    database: Database
    store: ObjectStore
    scopes: Scopes
    manifest_limit_bytes: int
    reads: Executor
    """Not the one that lists and deletes: somebody waits for the rows, and they for a few manifests."""
    readers: int
    parsing: BoundedSemaphore
    """How many manifests the whole process holds parsed at a time."""

    @activity.defn(name=COLLECT_KEYS.name, no_thread_cancel_exception=True)
    def collect_keys(self, chunk: Chunk) -> Collected:
        """Returns what was sealed. For a chunk whose rows are gone that is what was sealed then, and nothing is read."""
        with self.database.write() as session:
            found = ledger.lock_chunk(session, chunk.deletion_id, chunk.chunk)
            artifacts = ledger.chunk_artifacts(session, chunk.deletion_id, chunk.chunk)
            if found.state == ChunkState.ROWS_DELETED:
                return Collected(
                    epoch=found.epoch,
                    pages=found.pages,
                    digest=found.digest,
                    artifacts=len(artifacts),
                    sealed=found.sealed,
                )
            before = ledger.begin_epoch(session, found)
            epoch = found.epoch
            organization_id = ledger.organization_of(session, chunk.deletion_id)
        with self.database.read() as session:
            known = {artifact.id: artifact.project_id for artifact in artifacts}
            places = rows.find_places(session, known, organization_id)
            comparisons, named = rows.named_by_columns(session, places)
            living_icons = rows.icon_ids(session, places.moved)
            again = SealedBefore(
                icons=frozenset(icon for icon in before.icons if icon[1].rpartition("/")[2] not in living_icons),
                comparisons=frozenset(rows.in_place(session, before.comparisons, places)),
            )
        responses = {_response_key(one.prefix) for one in named if one.kind == "comparison_manifest"}
        reserved = {str(one.key) for one in named if one.owned} | responses
        seal = Seal(self.database, chunk, epoch, frozenset(reserved))
        for scope, key in again.icons:
            seal.add("icon", [scope], PageSource.ICON, [key])
        counts = self.name_keys(seal, places, comparisons, named)
        with self.database.write() as session:
            found = ledger.lock_sealing(session, chunk.deletion_id, chunk.chunk, epoch)
            seal.write(session, found, last=True)
            ledger.seal_prefixes(
                session,
                found,
                [
                    *rows.own_prefixes(places, comparisons, self.scopes),
                    *((scope, prefix, False) for scope, prefix in again.comparisons),
                ],
                PrefixState.OWED if self.store.listable else PrefixState.UNCHECKED,
            )
            for state, of_state in (
                (RowsState.SEALED, places.present),
                (RowsState.GONE, places.gone),
            ):
                for project_id, group in _by_project(of_state).items():
                    ledger.set_artifacts(session, chunk.deletion_id, group, rows_state=state, project_id=project_id)
            ledger.set_artifacts(session, chunk.deletion_id, places.lost, rows_state=RowsState.GONE, project_id=None)
            ledger.set_artifacts(session, chunk.deletion_id, places.moved, rows_state=RowsState.MOVED, project_id=None)
            found.pages, found.sealed, found.digest = ledger.seal_digest(session, found)
            counted = {**counts.collected, "kinds": dict(seal.kinds)}
            compared = rows.compared_with(places.present, comparisons, heads=not self.store.listable)
            ledger.note_collected(found, counted, before - again, compared)
            found.strays = ledger.pack_strays(counts.strays)
            return Collected(epoch=epoch, pages=found.pages, digest=found.digest, artifacts=len(artifacts), sealed=found.sealed)

    def name_keys(self, sink: KeySink, places: Places, comparisons: Comparisons, named: list[NamedKey]) -> "Counts":
        """Tell of every key that columns, manifests and ids name, and count the rest."""
        counts = Counts()
        manifests = [
            Manifest(one, tuple(self._of(one.artifact)))
            for one in named
            if one.kind in {"manifest", "comparison_manifest"} and counts.owned(one)
        ]
        found_in: dict[int, str] = {}
        for done, read in enumerate(self._read(manifests)):
            between_requests(done, len(manifests))
            self._name_manifest(sink, counts, read)
            if read.scope is not None:
                found_in[read.manifest.named.artifact.id] = read.scope
        for one in named:
            if one.kind == "head_images" and counts.owned(one):
                sink.add(one.kind, self._likely(one.artifact, found_in), PageSource.COLUMN, [str(one.key)])
            elif one.kind == "icon" and counts.owned(one) and (key := icon_key(one.artifact, str(one.key))):
                sink.add(one.kind, self._of(one.artifact), PageSource.ICON, [key])
        for head, bases in comparisons.items():
            # Where no manifest was found, a response is not likely either: the listing of the prefix finds what there is.
            if head.id in found_in or not self.store.listable:
                responses = [_response_key(head.comparison_prefix(base)) for base in bases]
                sink.add("comparison_response", self._likely(head, found_in), PageSource.DERIVED, responses)
        for artifact in (*places.present, *places.gone):
            sink.add("archive", self._of(artifact), PageSource.DERIVED, [artifact.archive_key])
        return counts

    def _name_manifest(self, sink: KeySink, counts: "Counts", read: ReadManifest) -> None:
        named, key = read.manifest.named, str(read.manifest.named.key)
        counts.collected["images_kept"] += read.images
        counts.stray(read.masks.strays, named.artifact)
        if read.scope is None:
            # Proven absent everywhere, so it is written down as such once; where listing cannot look again, it is deleted too.
            counts.collected["manifests_evicted"] += 1
            if self.store.listable:
                sink.add(named.kind, read.manifest.scopes[:1], PageSource.ABSENT, [key])
            else:
                sink.add(named.kind, read.manifest.scopes, PageSource.COLUMN, [key])
            return
        counts.collected["manifests_read" if read.readable else "manifests_unreadable"] += 1
        # Where the store lists, the prefix shows them.
        counts.collected["masks_unknown"] += not (read.readable or self.store.listable or named.kind == "manifest")
        scopes = [read.scope] if self.store.listable else read.manifest.scopes
        sink.add(named.kind, scopes, PageSource.COLUMN, [key])
        sink.add("diff_mask", scopes, PageSource.MANIFEST, read.masks.owned)

    def _read(self, manifests: list[Manifest]) -> Iterator[ReadManifest]:
        """Read in parallel, at most `readers` at a time and no further ahead of whoever consumes them."""
        waiting = iter(manifests)
        running: set[Future[ReadManifest]] = {self.reads.submit(self._read_one, one) for one in islice(waiting, self.readers)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    running |= {self.reads.submit(self._read_one, one) for one in islice(waiting, 1)}
        finally:
            wait({future for future in running if not future.cancel()})

    def _read_one(self, manifest: Manifest) -> ReadManifest:
        read = ReadManifest(manifest)
        for scope in manifest.scopes:
            try:
                content = self.store.read(scope + str(manifest.named.key), self.manifest_limit_bytes)
                with self.parsing:
                    images, own = parse_manifest(content), (manifest.named.prefix,)
                    del content
                    if manifest.named.kind == "manifest":
                        read.images = len(image_hashes(images))
                    else:
                        for key in diff_mask_keys(images):
                            read.masks.sort(key, own)
                    del images
            except ObjectAbsent:
                continue
            except (ObjectTooLarge, UnreadableManifest):
                read.readable = False
            read.scope = scope
            break
        return read

    def _of(self, artifact: ArtifactRef) -> list[str]:
        return self.scopes.of(artifact.organization_id, artifact.project_id)

    def _likely(self, artifact: ArtifactRef, found_in: dict[int, str]) -> list[str]:
        """Where the artifact's manifest was found; a listing looks in the other scopes, where there are listings."""
        return [found_in[artifact.id]] if self.store.listable and artifact.id in found_in else self._of(artifact)


@dataclass
class Counts:
    """What the receipt says of manifests and strays."""

    collected: Counter[str] = field(default_factory=Counter)
    reasons: Counter[WhyStray] = field(default_factory=Counter)
    strays: list[tuple[WhyStray, str]] = field(default_factory=list)

    def owned(self, named: NamedKey) -> bool:
        """True if a column's key is the artifacts' own; counts it as a stray otherwise."""
        if named.owned:
            return True
        self.collected["named_elsewhere"] += named.elsewhere
        self.stray([named.key], named.artifact)
        return False

    def stray(self, keys: Sequence[object], artifact: ArtifactRef) -> None:
        """Count keys that are left alone, and keep some of them for a look."""
        self.collected["strays"] += len(keys)
        reasons = [why_stray(key, artifact) for key in keys]
        self.reasons.update(reasons)
        self.strays += list(zip(reasons, map(stray_text, keys), strict=True))[: PAGE_KEYS - len(self.strays)]


def _response_key(comparison_prefix: str) -> str:
    return f"{comparison_prefix}snapshot_comparison_response.json"


def _by_project(artifacts: Iterable[ArtifactRef]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for artifact in artifacts:
        groups[artifact.project_id].append(artifact.id)
    return groups
