"""What a deletion needs to know of a backend: where an artifact is, what its rows name, what is its own, how its rows go.

`Backend` is the seam. Sentry's schema is the one in this folder (sentry.py); docs/seams.md says how to write another.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from sqlalchemy import Select
from sqlalchemy.orm import Session


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

    @property
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


@dataclass(frozen=True)
class Stray:
    """A key that a column names and that is not the artifact's own: it is counted, and neither read nor deleted."""

    artifact: ArtifactRef
    key: object
    is_elsewhere: bool = False
    """The artifact's own, in another project or organization: it was moved."""


Comparisons = Mapping[ArtifactRef, Sequence[int]]
"""The base artifacts' ids by head, of comparisons of which at least one side is being deleted."""


@dataclass
class Names:
    """What the rows of artifacts say of objects."""

    keys: list[NamedKey] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    comparisons: Comparisons = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of what columns say: two surveys with the same digest name the same. Hex."""
        lines = [f"{one.kind} {one.artifact} {one.key!r}" for one in self.keys if not one.is_derived]
        lines += [f"stray {one.artifact} {one.key!r}" for one in self.strays]
        lines += [f"{head} {base}" for head, bases in self.comparisons.items() for base in bases]
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
    images: int = 0
    """References to images, which are shared by a project and stay."""


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


class Backend(Protocol):
    """A backend's schema. All methods run within a transaction of the caller's; none commits."""

    @property
    def living(self) -> Select[int, int, int]:
        """(artifact id, project id, organization id) of every artifact that has a row."""

    def organization_of(self, session: Session, project_id: int) -> int | None:
        """The project's organization; None if there is no such project."""

    def refuse_unknown_tables(self) -> None:
        """Raises SchemaDrift if tables refer to an artifact's that a deletion does not know. In a transaction of its own."""

    def unknown_references(self) -> Sequence[object]:
        """Those references, for a metric. In a transaction of its own."""

    def find(self, session: Session, artifact_ids: Collection[int]) -> dict[int, tuple[int, int]]:
        """(project id, organization id) of those artifacts that have a row."""

    def added(self, session: Session, artifact_ids: Collection[int], organization_id: int) -> dict[int, datetime]:
        """When each of those artifacts was added that has a row in the organization."""

    def survey(self, session: Session, known: Mapping[int, int | None], organization_id: int) -> tuple[Places, Names]:
        """Where these artifacts are, given the projects last known, and every object key that their rows and ids name."""

    def read_manifest(self, named: NamedKey, content: bytes) -> ManifestKeys:
        """The keys that a manifest names. Raises UnreadableManifest."""

    def scopes(self, artifact: ArtifactRef) -> Sequence[str]:
        """The physical prefixes in which the artifact's keys may lie, in the order in which they are tried."""

    def own_prefixes(self, places: Places, names: Names) -> list[OwnPrefix]:
        """All that belongs to these artifacts alone."""

    def still_ours(self, session: Session, sealed: Collection[OwnPrefix], places: Places) -> set[OwnPrefix]:
        """Of prefixes that were sealed before, and that no row may name any more, those that are still to be deleted here."""

    def why_stray(self, stray: Stray) -> str:
        """A few fixed words."""

    def transaction(self) -> AbstractContextManager[Session]:
        """One transaction that is committed at the end, or leaves nothing. Raises DatabaseUnavailable: it is run again.

        The session finds the ledger's tables as that of `Database.write` does.
        """

    def lock(self, session: Session, artifact_ids: Collection[int], organization_id: int) -> Locked:
        """Lock the artifacts that are there, and of those of the organization all that new children would refer to."""

    def delete(self, session: Session, artifacts: Sequence[ArtifactRef], locked: Locked) -> Cascade:
        """Delete artifacts of those locked, and all rows that hang from them. Raises RowsRemain."""

    def look(self, session: Session, artifacts: Sequence[ArtifactRef]) -> Cascade:
        """The rows that would go."""

    def delete_files(self, session: Session, cascade: Cascade, organization_id: int) -> Files:
        """Delete those files of a deleted cascade that no other needs. They are locked last of all."""

    def judge_files(self, session: Session, cascade: Cascade, organization_id: int) -> Files:
        """What would become of the files of a cascade whose rows are still there."""

    def files_there(self, session: Session, file_ids: Collection[int]) -> set[int]:
        """Those of the files that are there."""

    def still_named(self, session: Session, keys: Iterable[str], going: Collection[int] = ()) -> set[str]:
        """Of these shared keys, those that a row names, other than rows of artifacts that are `going`."""

    def trace_id(self, artifact: ArtifactRef) -> str:
        """Of the artifact's trace items: 32 hex digits."""


def places_of(found: Mapping[int, tuple[int, int]], known: Mapping[int, int | None], organization_id: int) -> Places:
    """Where each artifact is, given (project, organization) of those with rows, and the projects last known."""
    places = Places()
    for artifact, project_id in sorted(known.items()):
        if artifact in found:
            project, organization = found[artifact]
            if organization == organization_id:
                places.present.append(ArtifactRef(organization, project, artifact))
            else:
                places.moved.append(artifact)
        elif project_id is None:
            places.lost.append(artifact)
        else:
            places.gone.append(ArtifactRef(organization_id, project_id, artifact))
    return places
