"""What the backend's rows say of artifacts: where they are, and which keys and files their columns name."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from activities.storage.database import one_of
from activities.storage.keys import ArtifactRef, Scopes, column_key, icon_file_id, icon_key, lies_under, well_formed
from activities.storage.tables import Artifact, MobileAppInfo, Project, SnapshotComparison, SnapshotMetrics


@dataclass
class Places:
    """Where the artifacts of a chunk are."""

    present: list[ArtifactRef] = field(default_factory=list)
    gone: list[ArtifactRef] = field(default_factory=list)
    """No row any more; the ledger or the request knows in which project they were."""
    lost: list[int] = field(default_factory=list)
    """No row any more, and nothing says where they were."""
    moved: list[int] = field(default_factory=list)
    """In another organization by now."""


Comparisons = Mapping[ArtifactRef, Sequence[int]]
"""The base artifacts' ids by head, of comparisons of which at least one side is being deleted."""


@dataclass(frozen=True)
class NamedKey:
    """What a column names, of whatever type, with the artifact (for a comparison its head) in whose place it must lie."""

    kind: str
    artifact: ArtifactRef
    key: object
    base_id: int | None = None
    foreign: bool = False
    """The comparison's head is another organization's by now: nothing that it names is ours to delete."""

    @property
    def prefix(self) -> str:
        """Where the artifact's own keys of this kind lie, and those of a comparison. Icons have no such place."""
        return self.artifact.prefix if self.base_id is None else self.artifact.comparison_prefix(self.base_id)

    @property
    def owned(self) -> bool:
        """True if it is a key of the artifact's own (icons have rules of their own)."""
        return not self.foreign and self._in_place

    @property
    def _in_place(self) -> bool:
        if self.kind == "icon":
            return isinstance(self.key, str) and icon_key(self.artifact, self.key) is not None
        return lies_under(self.key, (self.prefix,))

    @property
    def elsewhere(self) -> bool:
        """True if it names the artifact's own object under another organization or project: the artifact was moved."""
        own = [str(self.artifact.id)] if self.base_id is None else [str(self.artifact.id), str(self.base_id)]
        if self._in_place or not isinstance(self.key, str) or not well_formed(self.key):
            return False
        return self.key.split("/")[2 : 2 + len(own)] == own


_PLACES = (
    select(Artifact.id, Artifact.project_id, Project.organization_id)
    .join(Project, Project.id == Artifact.project_id)
    .where(one_of(Artifact.id, "artifacts"))
    .order_by(Artifact.id)
)
_METRICS = select(SnapshotMetrics.id, SnapshotMetrics.preprod_artifact_id, SnapshotMetrics.extras).where(
    one_of(SnapshotMetrics.preprod_artifact_id, "artifacts")
)
_ICONS = select(MobileAppInfo.preprod_artifact_id, MobileAppInfo.app_icon_id).where(
    one_of(MobileAppInfo.preprod_artifact_id, "artifacts")
)
# By the comparison's own columns, which have indexes: asked by artifact, the database would read every comparison it has.
_COMPARISONS = (
    select(
        SnapshotComparison.id,
        SnapshotComparison.head_snapshot_metrics_id,
        SnapshotComparison.base_snapshot_metrics_id,
        SnapshotComparison.extras,
    )
    .where(
        or_(
            one_of(SnapshotComparison.head_snapshot_metrics_id, "metrics"),
            one_of(SnapshotComparison.base_snapshot_metrics_id, "metrics"),
        )
    )
    .order_by(SnapshotComparison.id)
)
_PLACES_OF_METRICS = (
    select(SnapshotMetrics.id, Artifact.id, Artifact.project_id, Project.organization_id)
    .join(Artifact, Artifact.id == SnapshotMetrics.preprod_artifact_id)
    .join(Project, Project.id == Artifact.project_id)
    .where(one_of(SnapshotMetrics.id, "metrics"))
)


def find_places(session: Session, known: Mapping[int, int | None], organization_id: int) -> Places:
    """Where each of the artifacts is now, given the projects in which they were last known."""
    places = Places()
    rows = session.execute(_PLACES, {"artifacts": known.keys()}).all()
    for artifact, project, organization in rows:
        if organization == organization_id:
            places.present.append(ArtifactRef(organization, project, artifact))
        else:
            places.moved.append(artifact)
    for artifact in sorted(set(known) - {row.id for row in rows}):
        if (project_id := known[artifact]) is None:
            places.lost.append(artifact)
        else:
            places.gone.append(ArtifactRef(organization_id, project_id, artifact))
    return places


def named_by_columns(session: Session, places: Places) -> tuple[Comparisons, list[NamedKey]]:
    """The present artifacts' comparisons, as head or base, and every object key that a column of all these rows names."""
    by_id = {artifact.id: artifact for artifact in places.present}
    metrics = session.execute(_METRICS, {"artifacts": by_id.keys()}).all()
    icons = session.execute(_ICONS, {"artifacts": by_id.keys()})
    named = [key for _, artifact, extras in metrics for key in keys_of_metrics(by_id[artifact], extras)]
    named += [key for artifact, icon in icons for key in keys_of_app_info(by_id[artifact], icon)]
    if not metrics:
        return {}, named
    found = session.execute(_COMPARISONS, {"metrics": [row.id for row in metrics]}).all()
    comparisons, named_by_them = compared(session, found, places.present[0].organization_id)
    return comparisons, named + named_by_them


def icon_ids(session: Session, artifact_ids: Collection[int]) -> set[str]:
    """The app icon ids that these artifacts' rows name."""
    if not artifact_ids:
        return set()
    return {icon for _, icon in session.execute(_ICONS, {"artifacts": artifact_ids}) if icon}


def keys_of_metrics(artifact: ArtifactRef, extras: Any) -> list[NamedKey]:
    """What `SnapshotMetrics.extras` names."""
    pairs = (("manifest", "manifest_key"), ("head_images", "head_images_key"))
    return [NamedKey(kind, artifact, key) for kind, name in pairs if (key := column_key(extras, name)) is not None]


def keys_of_app_info(artifact: ArtifactRef, app_icon_id: str | None) -> list[NamedKey]:
    """What `MobileAppInfo.app_icon_id` names, unless it is a file's id."""
    if not app_icon_id or icon_file_id(app_icon_id) is not None:
        return []
    return [NamedKey("icon", artifact, app_icon_id)]


def own_prefixes(places: Places, comparisons: Comparisons, scopes: Scopes) -> list[tuple[str, str, bool]]:
    """(scope, prefix, exact) of all that belongs to these artifacts alone, in every usecase."""
    owned = [*places.present, *places.gone]
    heads = {artifact.id for artifact in owned}
    # A comparison under a head of ours lies under the head's own prefix already.
    as_base = [
        (head, head.comparison_prefix(base), False)
        for head, bases in comparisons.items()
        if head.id not in heads
        for base in bases
    ]
    return [
        (scope, prefix, exact)
        for artifact, prefix, exact in [
            *((artifact, artifact.prefix, False) for artifact in owned),
            *((artifact, artifact.archive_key, True) for artifact in owned),
            *as_base,
        ]
        for scope in scopes.of(artifact.organization_id, artifact.project_id)
    ]


def in_place(session: Session, comparisons: Collection[tuple[str, str]], places: Places) -> list[tuple[str, str]]:
    """Of (scope, prefix) of comparisons, those of which neither the base nor a head that is there has been moved away."""
    if not comparisons:
        return []
    heads = {int(prefix.split("/")[2]) for _, prefix in comparisons}
    rows = session.execute(_PLACES, {"artifacts": heads})
    of_head = {str(head): ArtifactRef(organization, project, head).prefix for head, project, organization in rows}
    bases = {str(artifact.id) for artifact in (*places.present, *places.gone)}
    found = []
    for scope, prefix in comparisons:
        _, _, head, base, _ = prefix.split("/")
        if base in bases and prefix.startswith(of_head.get(head, "")):
            found.append((scope, prefix))
    return found


def compared_with(artifacts: Iterable[ArtifactRef], comparisons: Comparisons, *, heads: bool) -> Iterator[int]:
    """The bases with which these artifacts were compared, which no prefix of their own leads to the objects.

    With `heads` also the heads that these were a base of: theirs does, but only where the store lists.
    """
    here = {artifact.id for artifact in artifacts}
    for head, bases in comparisons.items():
        if head.id in here:
            yield from bases
        elif heads:
            yield head.id


def compared(
    session: Session, comparisons: Sequence[tuple[int, int, int, Any]], organization_id: int
) -> tuple[Comparisons, list[NamedKey]]:
    """What rows of (id, head metrics, base metrics, extras) say.

    Returns who was compared with whom, where the head is in the organization, and what `SnapshotComparison.extras` names.
    """
    metrics = {head for _, head, _, _ in comparisons} | {base for _, _, base, _ in comparisons}
    rows = session.execute(_PLACES_OF_METRICS, {"metrics": metrics}) if metrics else ()
    place = {metrics: ArtifactRef(organization, project, artifact) for metrics, artifact, project, organization in rows}
    bases: dict[ArtifactRef, list[int]] = defaultdict(list)
    named = []
    for _, head_metrics, base_metrics, extras in comparisons:
        head, base = place.get(head_metrics), place.get(base_metrics)
        if head is None or base is None:
            continue
        foreign = head.organization_id != organization_id
        if not foreign:
            bases[head].append(base.id)
        if extras and (key := column_key(extras, "comparison_key")) is not None:
            named.append(NamedKey("comparison_manifest", head, key, base.id, foreign))
    return bases, named
