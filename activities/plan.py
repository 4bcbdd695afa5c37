"""What a deletion would take: a plan as a value. Collecting seals it, a preview counts it, the other steps execute it.

Rows and ids say most of it at once. Manifests say the rest when they are read, one after another, so that a plan of a million
keys needs no more memory than one of a thousand.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from itertools import islice
from threading import BoundedSemaphore

from sqlalchemy.orm import Session

from activities.backend.contract import Backend, ManifestKeys, NamedKey, Names, OwnPrefix, Places, Stray, UnreadableManifest
from activities.backend.shared_images import is_image
from activities.ledger.schema import PageSource
from activities.listing import refuse_cut_off
from activities.run_all import between_requests
from activities.stores.objects import ObjectAbsent, ObjectStore, ObjectTooLarge

_STRAYS_KEPT = 10_000


@dataclass(frozen=True)
class Plan:
    """Of some artifacts of one organization."""

    places: Places
    names: Names
    prefixes: Sequence[OwnPrefix]


@dataclass(frozen=True)
class PlannedKeys:
    """Keys of one kind, to be deleted in each of the scopes."""

    kind: str
    scopes: Sequence[str]
    source: PageSource
    keys: Iterable[str]


@dataclass
class Seen:
    """What is counted of manifests and strays as a plan's keys are named."""

    manifests: Counter[str] = field(default_factory=Counter)
    """By the names of ManifestsReceipt's fields."""
    evicted: Counter[str] = field(default_factory=Counter)
    """Manifests that are proven absent everywhere, by kind: there is nothing to delete."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Strays by why they are left alone."""
    strays: list[tuple[str, str]] = field(default_factory=list)
    """The first of them: (why, key). For a look, never to be acted on."""
    images: dict[tuple[int, int], set[bytes]] | None = None
    """By organization and project, hashes that are well-formed. None: they are not asked for."""


@dataclass
class ReadManifest:
    """What reading a manifest gave."""

    named: NamedKey
    scope: str | None = None
    """Where it was found; None if it is absent everywhere."""
    readable: bool = True
    keys: ManifestKeys = field(default_factory=ManifestKeys)


@dataclass(frozen=True)
class Planner:
    """Makes plans. It reads rows and manifests, and writes nothing."""

    backend: Backend
    store: ObjectStore
    manifest_limit_bytes: int
    reads: Executor
    """Not the one that lists and deletes: a person waits for the rows, and they for a few manifests."""
    readers: int
    parsing: BoundedSemaphore
    """How many manifests the whole process holds parsed at a time."""

    def plan(self, session: Session, known: Mapping[int, int | None], organization_id: int) -> Plan:
        """Of these artifacts, given the projects in which they were last known."""
        places, names = self.backend.survey(session, known, organization_id)
        return Plan(places, names, self.backend.own_prefixes(places, names))

    def keys(self, plan: Plan, seen: Seen) -> Iterator[PlannedKeys]:
        """Every key that columns, manifests and ids name. Raises StoreUnavailable: an error is never an empty list."""
        found_in: dict[int, str] = {}
        for stray in plan.names.strays:
            seen.manifests["named_elsewhere"] += stray.is_elsewhere
            self._see(stray, seen)
        manifests = [named for named in plan.names.keys if named.is_manifest]
        for done, read in enumerate(self._read(manifests)):
            between_requests(done, len(manifests))
            if read.scope is not None:
                found_in[read.named.artifact.id] = read.scope
            yield from self._named_by(read, seen)
        for named in plan.names.keys:
            if not named.is_manifest:
                source = PageSource.SHARED if named.is_shared else PageSource.DERIVED if named.is_derived else PageSource.COLUMN
                if scopes := self._where(named, found_in):
                    yield PlannedKeys(named.kind, scopes, source, [named.key])

    def _where(self, named: NamedKey, found_in: Mapping[int, str]) -> Sequence[str]:
        """In all usecases, unless a listing will look there: then where the artifact's manifest was found."""
        if named.is_alone or not self.store.listable:
            return self.backend.scopes(named.artifact)
        if named.artifact.id in found_in:
            return [found_in[named.artifact.id]]
        return () if named.is_derived else self.backend.scopes(named.artifact)

    def _named_by(self, read: ReadManifest, seen: Seen) -> Iterator[PlannedKeys]:
        named, everywhere = read.named, self.backend.scopes(read.named.artifact)
        seen.manifests["images_kept"] += len(read.keys.images)
        if seen.images is not None:
            place = named.artifact.organization_id, named.artifact.project_id
            seen.images.setdefault(place, set()).update(bytes.fromhex(one) for one in read.keys.images if is_image(one))
        for key in read.keys.strays:
            self._see(Stray(named.artifact, key), seen)
        if read.scope is None:
            seen.manifests["evicted"] += 1
            if self.store.listable:  # which will look there again
                seen.evicted[named.kind] += 1
            else:
                yield PlannedKeys(named.kind, everywhere, PageSource.COLUMN, [named.key])
            return
        seen.manifests["read" if read.readable else "unreadable"] += 1
        # Where the store lists, the prefix shows them.
        seen.manifests["masks_unknown"] += named.names_own and not (read.readable or self.store.listable)
        scopes = [read.scope] if self.store.listable else everywhere
        yield PlannedKeys(named.kind, scopes, PageSource.COLUMN, [named.key])
        if read.keys.owned:
            yield PlannedKeys(read.keys.kind, scopes, PageSource.MANIFEST, read.keys.owned)

    def _see(self, stray: Stray, seen: Seen) -> None:
        why = self.backend.why_stray(stray)
        seen.manifests["strays"] += 1
        seen.reasons[why] += 1
        if len(seen.strays) < _STRAYS_KEPT:
            seen.strays.append((why, stray.key if isinstance(stray.key, str) else f"({type(stray.key).__name__})"))

    def _read(self, manifests: Sequence[NamedKey]) -> Iterator[ReadManifest]:
        """Read in parallel, at most `readers` at a time and no further ahead of the loop that takes them."""
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

    def _read_one(self, named: NamedKey) -> ReadManifest:
        """A manifest that is absent (NoSuchKey, and nothing less) is evicted, one of another shape unreadable."""
        read = ReadManifest(named)
        for scope in self.backend.scopes(named.artifact):
            try:
                read.keys = self._keys_in(named, scope + named.key)
            except ObjectAbsent:
                continue
            except (ObjectTooLarge, UnreadableManifest):
                read.readable = False
            read.scope = scope
            break
        return read

    def _keys_in(self, named: NamedKey, physical: str) -> ManifestKeys:
        content = self.store.read(physical, self.manifest_limit_bytes)
        try:
            with self.parsing:
                return self.backend.read_manifest(named, content)
        except UnreadableManifest:
            refuse_cut_off(self.store, physical, len(content))
            raise
