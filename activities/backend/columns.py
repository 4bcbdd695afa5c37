"""What the backend's rows and ids say of objects: the keys that columns name, and who was compared with whom."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import join, or_, select
from sqlalchemy.orm import Session, aliased

from activities.backend import keys
from activities.backend.contract import ArtifactRef, NamedKey, Names, OwnPrefix, Places, PrefixKind, Stray, places_of
from activities.backend.own_keys import lies_under
from activities.backend.tables import Artifact, MobileAppInfo, Project, SnapshotComparison, SnapshotMetrics
from activities.one_of import one_of

ICON = "icon"
ARTIFACTS = select(Artifact.id, Artifact.project_id, Project.organization_id, Artifact.date_added).select_from(
    join(Artifact, Project, Project.id == Artifact.project_id)
)
# An artifact has at most one of each.
_NAMING = (
    select(
        Artifact.id,
        Artifact.project_id,
        Project.organization_id,
        SnapshotMetrics.id,
        SnapshotMetrics.extras,
        MobileAppInfo.app_icon_id,
    )
    .join(Project, Project.id == Artifact.project_id)
    .outerjoin(SnapshotMetrics, SnapshotMetrics.preprod_artifact_id == Artifact.id)
    .outerjoin(MobileAppInfo, MobileAppInfo.preprod_artifact_id == Artifact.id)
    .where(one_of(Artifact.id, "artifacts"))
    .order_by(Artifact.id)
)
_HEAD, _BASE = aliased(SnapshotMetrics), aliased(SnapshotMetrics)
# By the comparison's own columns, which have indexes: asked by artifact, the database would read every comparison it has.
_PAIRS = (
    select(Artifact.id, Artifact.project_id, Project.organization_id, _BASE.preprod_artifact_id, SnapshotComparison.extras)
    .select_from(SnapshotComparison)
    .join(_HEAD, _HEAD.id == SnapshotComparison.head_snapshot_metrics_id)
    .join(_BASE, _BASE.id == SnapshotComparison.base_snapshot_metrics_id)
    .join(Artifact, Artifact.id == _HEAD.preprod_artifact_id)
    .join(Project, Project.id == Artifact.project_id)
    .order_by(SnapshotComparison.id)
)
COMPARISONS = _PAIRS.where(
    or_(
        one_of(SnapshotComparison.head_snapshot_metrics_id, "metrics"),
        one_of(SnapshotComparison.base_snapshot_metrics_id, "metrics"),
    )
)


def survey(session: Session, known: Mapping[int, int | None], organization_id: int) -> tuple[Places, Names]:
    """Where these artifacts are, and every object key that columns of their rows, and their ids, name."""
    rows = session.execute(_NAMING, {"artifacts": known.keys()}).all()
    places = places_of({row[0]: (row[1], row[2]) for row in rows}, known, organization_id)
    names, metrics = Names(), []
    for artifact, project, organization, metrics_id, extras, icon in rows:
        if organization == organization_id:
            ref = ArtifactRef(organization, project, artifact)
            add_metrics(names, ref, extras)
            add_app_info(names, ref, icon)
            metrics += [metrics_id] if metrics_id is not None else []
    if metrics:
        add_comparisons(names, session.execute(COMPARISONS, {"metrics": metrics}).all(), organization_id)
    names.keys += [
        NamedKey("comparison_response", head, keys.response_key(head, base), is_derived=True)
        for head, bases in names.comparisons.items()
        for base in bases
    ]
    names.keys += [
        NamedKey("archive", artifact, keys.archive_key(artifact), is_derived=True, is_alone=True) for artifact in places.owned
    ]
    return places, names


def add_metrics(names: Names, artifact: ArtifactRef, extras: Any) -> None:
    """What `SnapshotMetrics.extras` names."""
    _add(names, artifact, "manifest", keys.column_key(extras, "manifest_key"), is_manifest=True, names_own=False)
    _add(names, artifact, "head_images", keys.column_key(extras, "head_images_key"))


def add_app_info(names: Names, artifact: ArtifactRef, app_icon_id: str | None) -> None:
    """What `MobileAppInfo.app_icon_id` names, unless it is a file's id."""
    if not app_icon_id or keys.icon_file_id(app_icon_id) is not None:
        return
    if (key := keys.icon_key(artifact, app_icon_id)) is None:
        names.strays.append(Stray(artifact, app_icon_id))
    else:
        names.keys.append(NamedKey(ICON, artifact, key, is_alone=True, is_shared=True))


def add_comparisons(names: Names, rows: Iterable[Sequence[Any]], organization_id: int) -> None:
    """What rows of (head, its project and organization, base, extras) say: who was compared with whom, and `comparison_key`.

    A head that is another organization's by now keeps its objects.
    """
    bases: dict[tuple[int, int, int], list[int]] = defaultdict(list)  # there are many more comparisons than heads
    for artifact, project, organization, base_id, extras in rows:
        if organization == organization_id:
            bases[organization, project, artifact].append(base_id)
        if (key := keys.column_key(extras, "comparison_key")) is None:
            continue
        head = ArtifactRef(organization, project, artifact)
        if organization == organization_id:
            _add(names, head, "comparison_manifest", key, base_id, is_manifest=True)
        else:
            in_place = lies_under(key, keys.comparison_prefix(head, base_id))
            names.strays.append(Stray(head, key, keys.is_elsewhere(key, head, base_id) and not in_place))
    names.comparisons = {**names.comparisons, **{ArtifactRef(*head): of_head for head, of_head in bases.items()}}


def _add(
    names: Names, artifact: ArtifactRef, kind: str, key: object | None, base_id: int | None = None, **of_manifest: bool
) -> None:
    if key is None:
        return
    prefix = keys.artifact_prefix(artifact) if base_id is None else keys.comparison_prefix(artifact, base_id)
    names.add(kind, artifact, key, prefix, is_elsewhere=keys.is_elsewhere(key, artifact, base_id), **of_manifest)


def comparison_prefixes(places: Places, names: Names, scopes: keys.Scopes) -> list[OwnPrefix]:
    """Of comparisons under heads that are not deleted here: under a head of ours they lie under its own prefix already."""
    mine = {artifact.id for artifact in places.owned}
    others = ((head, base) for head, bases in names.comparisons.items() if head.id not in mine for base in bases)
    return prefixes_of(others, scopes)


def prefixes_of(comparisons: Iterable[tuple[ArtifactRef, int]], scopes: keys.Scopes) -> list[OwnPrefix]:
    """Of each head and base, in each usecase."""
    return [
        OwnPrefix(scope, keys.comparison_prefix(head, base), PrefixKind.COMPARISON, base)
        for head, base in comparisons
        for scope in scopes.of(head)
    ]


def heads_of(comparisons: Iterable[OwnPrefix]) -> set[int]:
    """The artifacts under whose prefix these lie."""
    return {int(one.prefix.split("/")[2]) for one in comparisons}


def in_place(comparisons: Iterable[OwnPrefix], heads: Mapping[int, tuple[int, int]], places: Places) -> set[OwnPrefix]:
    """Those of which neither the base nor a head that is there, (project, organization) by id, has been moved."""
    of_head = {
        str(head): keys.artifact_prefix(ArtifactRef(organization, project, head))
        for head, (project, organization) in heads.items()
    }
    bases = {str(artifact.id) for artifact in places.owned}
    found = set()
    for one in comparisons:
        _, _, head, base, _ = one.prefix.split("/")
        if base in bases and one.prefix.startswith(of_head.get(head, "")):
            found.add(one)
    return found


def icons_named(session: Session, icon_keys: Collection[str], going: Collection[int] = ()) -> set[str]:
    """Of these icon keys, those that an app info of their project names: icon ids may be derived from content.

    The app infos of artifacts that are `going` do not count.
    """
    parts = {key: key.split("/") for key in icon_keys}
    if not parts:
        return set()
    naming = (
        select(Artifact.id, Artifact.project_id, MobileAppInfo.app_icon_id)
        .join(Artifact, Artifact.id == MobileAppInfo.preprod_artifact_id)
        .where(one_of(MobileAppInfo.app_icon_id, {icon for _, _, icon in parts.values()}))
    )
    going = set(going)
    living = {(str(project), icon) for artifact, project, icon in session.execute(naming) if artifact not in going}
    return {key for key, (_, project, icon) in parts.items() if (project, icon) in living}
