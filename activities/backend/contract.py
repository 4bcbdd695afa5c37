"""What a deletion needs to know of a backend: where an artifact is, what its rows name, what is its own, how its rows go.

`Backend` is the seam. Sentry's schema is the one in this folder (sentry.py); docs/your-backend.md leads to another.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

from activities.backend.bulk import Bulk
from activities.backend.drift import Reference, Schema
from activities.backend.own_keys import lies_under
from activities.backend.owners import Owner, owner_by_number
from activities.backend.part import Part, Verb
from activities.backend.placed import Placed
from activities.backend.shared_images import SharedImages
from activities.database import Database


@dataclass(frozen=True, slots=True, order=True)
class ArtifactRef:
    """An artifact where its objects lie: the organization and project that it was in when its keys were collected."""

    organization_id: int
    project_id: int
    id: int


@dataclass
class Places:
    """Where the artifacts of a chunk are."""

    present: list[ArtifactRef] = field(default_factory=list)
    gone: list[ArtifactRef] = field(default_factory=list)
    """No row any more; the ledger or the request knows in which project they were."""
    lost: list[int] = field(default_factory=list)
    """No row any more, in an unknown project."""
    moved: list[int] = field(default_factory=list)
    """In another organization by now."""

    @property
    def owned(self) -> list[ArtifactRef]:
        """Those whose objects are to be deleted."""
        return [*self.present, *self.gone]


class PrefixKind(StrEnum):
    """Which objects a prefix covers."""

    ARTIFACT = "artifact"
    COMPARISON = "comparison"
    """Under another artifact's prefix, with an artifact of the chunk as its base."""
    KEY = "key"
    """One exact key, whose neighbours are others'."""
    SHARED = "shared"
    """One exact key that others' columns may name too."""


@dataclass(frozen=True, order=True)
class OwnPrefix:
    """A physical prefix, or one exact key, that is an artifact's own."""

    scope: str
    """The physical prefix of the artifact's project in one usecase."""
    prefix: str
    kind: PrefixKind
    artifact_id: int

    @cached_property
    def name(self) -> str:
        """The physical prefix or key."""
        return self.scope + self.prefix


@dataclass(frozen=True)
class NamedKey:
    """A key of an artifact's own, which a column names or which follows from its id."""

    kind: str
    """For receipts, such as "manifest" or "archive"."""
    artifact: ArtifactRef
    """In whose place it lies; of a comparison that is the head."""
    key: str
    """Relative to a scope."""
    is_manifest: bool = False
    """It names further keys."""
    is_derived: bool = False
    """No column names it."""
    is_alone: bool = False
    """It lies under no prefix of the artifact's own, so no listing of one would find it."""
    is_shared: bool = False
    """Other artifacts may name it too: it goes only if none does."""
    under: str = ""
    """The prefix under which the keys that a manifest names must lie."""
    names_own: bool = True
    """False of a manifest that names shared objects alone: of one that cannot be read, nothing is missed."""


@dataclass(frozen=True)
class Stray:
    """A key that a column names and that is not the artifact's own: it is counted, and neither read nor deleted."""

    artifact: ArtifactRef
    key: object
    is_elsewhere: bool = False
    """The artifact's own, in another project or organization: it was moved."""


@dataclass
class Names:
    """What the rows of artifacts say of objects."""

    keys: list[NamedKey] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    comparisons: Mapping[ArtifactRef, Sequence[int]] = field(default_factory=dict)
    """The base artifacts' ids by head, of comparisons of which at least one side is being deleted."""

    def add(
        self, kind: str, artifact: ArtifactRef, key: object, under: str, *, is_elsewhere: bool = False, **of_key: bool
    ) -> None:
        """What a column says, if it says anything: the artifact's own key if it lies under its prefix, else a stray."""
        if lies_under(key, under):
            self.keys.append(NamedKey(kind, artifact, str(key), under=under, **of_key))
        elif key is not None:
            self.strays.append(Stray(artifact, key, is_elsewhere))

    @property
    def digest(self) -> str:
        """SHA-256 of what columns say: two surveys with the same digest name the same. Hex."""
        lines = [f"{one.kind} {one.artifact} {one.key!r}" for one in self.keys if not one.is_derived]
        lines += [f"stray {one.artifact} {one.key!r}" for one in self.strays]
        lines += [f"{head} {sorted(bases)}" for head, bases in self.comparisons.items()]
        return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogatepass")).hexdigest()

    def compared_with(self, artifacts: Iterable[ArtifactRef], *, heads: bool) -> set[int]:
        """The bases with which these artifacts were compared, which no prefix of their own leads to the objects.

        With `heads` also the heads that these were a base of: theirs does, but only where the store lists.
        """
        here = {artifact.id for artifact in artifacts}
        bases = {base for head, of_head in self.comparisons.items() if head.id in here for base in of_head}
        return bases | {head.id for head in self.comparisons if heads and head.id not in here}


@dataclass
class ManifestKeys:
    """What a manifest names."""

    kind: str = ""
    owned: set[str] = field(default_factory=set)
    strays: list[object] = field(default_factory=list)
    images: set[str] = field(default_factory=set)
    """The images that it names, which a project's snapshots share."""


class UnreadableManifest(ValueError):
    """The manifest does not have its shape, or holds more values than a worker is ready to keep."""


@dataclass(frozen=True)
class Locked:
    """Artifacts that cannot change any more before this transaction ends."""

    places: Mapping[int, tuple[int, int]]
    """(project id, organization id) by artifact, looked up after they were locked."""
    rows: Mapping[str, Collection[int]] = field(default_factory=dict)
    """Ids of their rows that the backend's `delete` needs, by names of its own."""


@dataclass
class Cascade:
    """The rows that go with artifacts, and what they said."""

    ids: dict[str, set[int]] = field(default_factory=dict)
    """By table."""
    names: Names = field(default_factory=Names)
    file_ids: set[int] = field(default_factory=set)

    @property
    def rows(self) -> dict[str, int]:
        """How many, by table."""
        return {table: len(ids) for table, ids in self.ids.items()}


@dataclass
class Files:
    """What becomes of the files that a cascade named."""

    going: list[int] = field(default_factory=list)
    kept: dict[str, list[int]] = field(default_factory=dict)
    """By the evidence that another needs them."""
    blobs: set[int] = field(default_factory=set)
    """Blobs that the going files name. They stay."""
    rows: dict[str, int] = field(default_factory=dict)
    """How many rows go with them, by table."""


@dataclass(frozen=True)
class Backend(ABC):
    """A backend's schema: subclass it. All methods run within a transaction of the caller's, and none commits.

    What is abstract is every backend's to say. The rest has defaults for one that has rows and keys, and no projects, files,
    manifests, shared keys or trace items. conformance/backend.py has the tests that each must pass.
    """

    database: Database
    schema: Schema = field(init=False)
    placed: Placed = field(init=False)
    shared_kind: ClassVar[str] = "shared"
    """The kind of shared keys, for receipts."""
    shared_images: ClassVar[SharedImages | None] = None
    """None: artifacts share no images."""
    bulk: ClassVar[Bulk] = Bulk()

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", Schema(self.database, [part.of for part in self.parts]))
        object.__setattr__(self, "placed", Placed(self.artifacts))

    @property
    @abstractmethod
    def artifacts(self) -> Select[int, int, int, datetime]:
        """(artifact id, project id, organization id, when it was added, in UTC) of every artifact that has a row.

        The organization is the owner in whose name artifacts are deleted. Without projects it is the project too.
        """

    @property
    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """The rows that go with artifacts, children before parents.

        Foreign keys to their tables that none of these declares stop every deletion.
        """

    @abstractmethod
    def prefix_of(self, artifact: ArtifactRef) -> str:
        """The prefix that is the artifact's alone, slash included, with its organization in it: all under it is deleted."""

    def read_row(  # noqa: B027  rows need not name any
        self, names: Names, part: Part, row: Any, artifacts: Mapping[int, ArtifactRef]
    ) -> None:
        """Add to `names` what a row of a part names, if it names any object. The artifacts by id."""

    # Where artifacts are

    @property
    def living(self) -> Select[int, int, int]:
        """(artifact id, project id, organization id) of every artifact that has a row."""
        return self.placed.living

    def find(self, session: Session, artifact_ids: Collection[int]) -> dict[int, tuple[int, int]]:
        """(project id, organization id) of those artifacts that have a row."""
        rows = session.execute(self.placed.found, {"artifacts": artifact_ids})
        return {artifact: (project, organization) for artifact, project, organization in rows}

    def added(self, session: Session, artifact_ids: Collection[int], organization_id: int) -> dict[int, datetime]:
        """When each of those artifacts was added that has a row in the organization."""
        rows = session.execute(self.placed.added, {"artifacts": artifact_ids})
        ours = {artifact: at for artifact, _, organization, at in rows if organization == organization_id}
        return {artifact: at.replace(tzinfo=UTC) if at.tzinfo is None else at for artifact, at in ours.items()}

    def organization_of(self, session: Session, project_id: int) -> int | None:  # noqa: ARG002
        """The project's organization; None if there is no such project."""
        return project_id

    def refuse_unknown_tables(self) -> None:
        """Raises SchemaDrift if tables refer to an artifact's that a deletion does not know. In a transaction of its own."""
        self.schema.refuse_unknown_tables()

    def unknown_references(self) -> Sequence[Reference]:
        """Those references, for a metric. In a transaction of its own."""
        return self.schema.unknown_references()

    # Their objects

    def survey(self, session: Session, known: Mapping[int, int | None], organization_id: int) -> tuple[Places, Names]:
        """Where these artifacts are, given the projects last known, and every object key that their rows and ids name."""
        places = places_of(self.find(session, known.keys()), known, organization_id)
        return places, self.look(session, places.present).names

    def scopes(self, artifact: ArtifactRef) -> Sequence[str]:  # noqa: ARG002
        """The physical prefixes in which the artifact's keys may lie, in the order in which they are tried."""
        return ("",)

    def own_prefixes(self, places: Places, names: Names) -> list[OwnPrefix]:
        """All that belongs to these artifacts alone, and the keys that they share."""
        found = [(artifact, self.prefix_of(artifact), PrefixKind.ARTIFACT) for artifact in places.owned]
        found += [(one.artifact, one.key, PrefixKind.SHARED) for one in names.keys if one.is_shared]
        found += [(one.artifact, one.key, PrefixKind.KEY) for one in names.keys if one.is_alone and not one.is_shared]
        return [OwnPrefix(scope, name, kind, of.id) for of, name, kind in found for scope in self.scopes(of)]

    def still_ours(self, session: Session, sealed: Collection[OwnPrefix], places: Places) -> set[OwnPrefix]:
        """Of prefixes that were sealed before, and that no row may name any more, those that are still to be deleted here.

        Others may have deleted those rows. But a key stays with an artifact that was moved away, or that names it.
        """
        shared = {one for one in sealed if one.kind is PrefixKind.SHARED and one.artifact_id not in places.moved}
        named = self.still_named(session, {one.prefix for one in shared}, {artifact.id for artifact in places.present})
        return {one for one in shared if one.prefix not in named}

    def still_named(self, session: Session, keys: Collection[str], going: Collection[int] = ()) -> set[str]:  # noqa: ARG002
        """Of these shared keys, those that a row names, other than rows of artifacts that are `going`."""
        if keys:
            raise NotImplementedError("a backend with shared keys says which of them are still named (still_named)")
        return set()

    def why_stray(self, stray: Stray) -> str:  # noqa: ARG002
        """A few fixed words."""
        return "not under the artifact's own prefix"

    def owner_of(self, key: str, organization_id: int, project_id: int) -> Owner:
        """Whose a key in the project's scopes is, by its shape. This default needs an artifact's id in its prefix."""
        return owner_by_number(key, lambda one: self.prefix_of(ArtifactRef(organization_id, project_id, one)))

    def read_manifest(self, named: NamedKey, content: bytes) -> ManifestKeys:
        """The keys that a manifest names. Raises UnreadableManifest."""
        raise NotImplementedError("a backend with manifests reads them (read_manifest)")

    def trace_id(self, artifact: ArtifactRef) -> str:
        """Of the artifact's trace items: 32 hex digits. No worker starts with a trace store and a backend without this."""
        raise NotImplementedError("a backend with trace items says which are an artifact's (trace_id)")

    def without_rows(self, session: Session, comparisons: Collection[tuple[ArtifactRef, int]]) -> list[OwnPrefix]:
        """Prefixes of those, (head, base), with no row and no key that one names, while their head has one in its project."""
        raise NotImplementedError("a backend with comparisons says which of them have rows (without_rows)")

    # How their rows go

    def transaction(self) -> AbstractContextManager[Session]:
        """One transaction that is committed at the end, or leaves nothing. Raises DatabaseUnavailable: it is run again.

        The session finds the ledger's tables as that of `Database.write` does.
        """
        return self.database.write()

    def lock(self, session: Session, artifact_ids: Collection[int], organization_id: int) -> Locked:  # noqa: ARG002
        """Lock the artifacts that are there, and of those of the organization all that new children would refer to.

        In order of ids, then look where they are: one statement would look before it had locks.
        """
        there = session.execute(self.placed.locked, {"artifacts": artifact_ids}).scalars().all()
        return Locked(self.find(session, there))

    def delete(self, session: Session, artifacts: Sequence[ArtifactRef], locked: Locked) -> Cascade:  # noqa: ARG002
        """Delete artifacts of those locked, and all rows that hang from them. Raises RowsRemain."""
        return self._cascade(session, artifacts, "delete")

    def look(self, session: Session, artifacts: Sequence[ArtifactRef]) -> Cascade:
        """The rows that would go."""
        return self._cascade(session, artifacts, "look")

    def _cascade(self, session: Session, artifacts: Sequence[ArtifactRef], verb: Verb) -> Cascade:
        cascade, by_id = Cascade(), {artifact.id: artifact for artifact in artifacts}
        for part in self.parts if artifacts else ():
            if rows := part.rows(session, verb, {"artifacts": by_id.keys()}):
                cascade.ids[part.of.name] = {row[0] for row in rows}
            for row in rows:
                self.read_row(cascade.names, part, row, by_id)
        return cascade

    def delete_files(self, session: Session, cascade: Cascade, organization_id: int) -> Files:  # noqa: ARG002
        """Delete those files of a deleted cascade that no other needs. They are locked last of all."""
        return Files()

    def judge_files(self, session: Session, cascade: Cascade, organization_id: int) -> Files:  # noqa: ARG002
        """What would become of the files of a cascade whose rows are still there."""
        return Files()

    def files_there(self, session: Session, file_ids: Collection[int]) -> set[int]:  # noqa: ARG002
        """Those of the files that are there."""
        return set()

    def blobs_waiting(self, session: Session, blob_ids: Collection[int]) -> set[int]:  # noqa: ARG002
        """Those of the blobs that are there and that no file names: the backend's own clean-up has yet to take them."""
        return set()


def places_of(found: Mapping[int, tuple[int, int]], known: Mapping[int, int | None], organization_id: int) -> Places:
    """Where each artifact is, given (project, organization) of those with rows, and the projects last known."""
    places = Places()
    for artifact, project_id in sorted(known.items()):
        project, organization = found.get(artifact, (None, None))
        if project is not None and organization == organization_id:
            places.present.append(ArtifactRef(organization, project, artifact))
        elif project is not None:
            places.moved.append(artifact)
        elif project_id is None:
            places.lost.append(artifact)
        else:
            places.gone.append(ArtifactRef(organization_id, project_id, artifact))
    return places
