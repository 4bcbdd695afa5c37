"""What the backend's rows and ids say of objects: the keys that columns name, and who was compared with whom."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, aliased

from activities.backend import keys
from activities.backend.contract import ArtifactRef, NamedKey, Names, OwnPrefix, Places, PrefixKind, Stray, places_of
from activities.backend.tables import Artifact, MobileAppInfo, Project, SnapshotComparison, SnapshotMetrics
from activities.one_of import one_of

LIVING = select(Artifact.id, Artifact.project_id, Project.organization_id).join(Project, Project.id == Artifact.project_id)
FIND = LIVING.where(one_of(Artifact.id, "artifacts"))
# An artifact has at most one of each.
_ARTIFACTS = (
    LIVING.add_columns(SnapshotMetrics.id, SnapshotMetrics.extras, MobileAppInfo.app_icon_id)
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
LOCKED_COMPARISONS = COMPARISONS.with_for_update(of=SnapshotComparison)


def find(session: Session, artifact_ids: Collection[int]) -> dict[int, tuple[int, int]]:
    """(project id, organization id) of those artifacts that have a row."""
    rows = session.execute(FIND, {"artifacts": artifact_ids})
    return {artifact: (project, organization) for artifact, project, organization in rows}


def added(session: Session, artifact_ids: Collection[int], organization_id: int) -> dict[int, datetime]:
    """When each of those artifacts was added that has a row in the organization."""
    of = Project.organization_id == organization_id
    rows = session.execute(LIVING.add_columns(Artifact.date_added).where(one_of(Artifact.id, artifact_ids), of))
    return {artifact: at.replace(tzinfo=UTC) if at.tzinfo is None else at for artifact, _, _, at in rows}


def survey(session: Session, known: Mapping[int, int | None], organization_id: int) -> tuple[Places, Names]:
    """Where these artifacts are, and every object key that columns of their rows, and their ids, name."""
    rows = session.execute(_ARTIFACTS, {"artifacts": known.keys()}).all()
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
    _add(names, artifact, "manifest", keys.column_key(extras, "manifest_key"), is_manifest=True)
    _add(names, artifact, "head_images", keys.column_key(extras, "head_images_key"))


def add_app_info(names: Names, artifact: ArtifactRef, app_icon_id: str | None) -> None:
    """What `MobileAppInfo.app_icon_id` names, unless it is a file's id."""
    if not app_icon_id or keys.icon_file_id(app_icon_id) is not None:
        return
    if (key := keys.icon_key(artifact, app_icon_id)) is None:
        names.strays.append(Stray(artifact, app_icon_id))
    else:
        names.keys.append(NamedKey("icon", artifact, key, is_alone=True, is_shared=True))


def add_comparisons(names: Names, rows: Iterable[Sequence[Any]], organization_id: int) -> None:
    """What rows of (head, its project and organization, base, extras) say: who was compared with whom, and `comparison_key`.

    A head that is another organization's by now keeps its objects.
    """
    bases: dict[ArtifactRef, list[int]] = defaultdict(list)
    for artifact, project, organization, base_id, extras in rows:
        head, key = ArtifactRef(organization, project, artifact), keys.column_key(extras, "comparison_key")
        if organization == organization_id:
            bases[head].append(base_id)
            _add(names, head, "comparison_manifest", key, base_id, is_manifest=True)
        elif key is not None:
            in_place = keys.lies_under(key, keys.comparison_prefix(head, base_id))
            names.strays.append(Stray(head, key, keys.is_elsewhere(key, head, base_id) and not in_place))
    names.comparisons = {**names.comparisons, **bases}


def _add(
    names: Names, artifact: ArtifactRef, kind: str, key: object | None, base_id: int | None = None, *, is_manifest: bool = False
) -> None:
    if key is None:
        return
    prefix = keys.artifact_prefix(artifact) if base_id is None else keys.comparison_prefix(artifact, base_id)
    if keys.lies_under(key, prefix):
        names.keys.append(NamedKey(kind, artifact, str(key), is_manifest=is_manifest, under=prefix))
    else:
        names.strays.append(Stray(artifact, key, keys.is_elsewhere(key, artifact, base_id)))


def own_prefixes(places: Places, names: Names, scopes: keys.Scopes) -> list[OwnPrefix]:
    """All that belongs to these artifacts alone, in every usecase, and the icons that they share."""
    mine = {artifact.id for artifact in places.owned}
    found = []
    for artifact in places.owned:
        for scope in scopes.of(artifact):
            found.append(OwnPrefix(scope, keys.artifact_prefix(artifact), PrefixKind.ARTIFACT, artifact.id))
            found.append(OwnPrefix(scope, keys.archive_key(artifact), PrefixKind.KEY, artifact.id))
    for head, bases in names.comparisons.items():
        if head.id not in mine:  # a comparison under a head of ours lies under the head's own prefix already
            for base in bases:
                prefix = keys.comparison_prefix(head, base)
                found += [OwnPrefix(scope, prefix, PrefixKind.COMPARISON, base) for scope in scopes.of(head)]
    for named in names.keys:
        if named.is_shared:
            found += [OwnPrefix(scope, named.key, PrefixKind.SHARED, named.artifact.id) for scope in scopes.of(named.artifact)]
    return found


def still_ours(session: Session, sealed: Collection[OwnPrefix], places: Places) -> set[OwnPrefix]:
    """Of comparisons and icons that were sealed before, those that are still to be deleted here.

    Rows may not name them any more: others deleted those. But they stay with an artifact that was moved away, with a head that
    was, or with a living app info.
    """
    moved = set(places.moved)
    theirs = {one for one in sealed if one.artifact_id in moved}
    comparisons = {one for one in sealed if one.kind is PrefixKind.COMPARISON} - theirs
    icons = {one for one in sealed if one.kind is PrefixKind.SHARED} - theirs
    named = icons_named(session, {one.prefix for one in icons}, {artifact.id for artifact in places.present})
    return {one for one in icons if one.prefix not in named} | _in_place(session, comparisons, places)


def _in_place(session: Session, comparisons: Collection[OwnPrefix], places: Places) -> set[OwnPrefix]:
    """Those of which neither the base nor a head that is there has been moved."""
    if not comparisons:
        return set()
    heads = {int(one.prefix.split("/")[2]) for one in comparisons}
    of_head = {
        str(head): keys.artifact_prefix(ArtifactRef(organization, project, head))
        for head, (project, organization) in find(session, heads).items()
    }
    bases = {str(artifact.id) for artifact in places.owned}
    found = set()
    for one in comparisons:
        _, _, head, base, _ = one.prefix.split("/")
        if base in bases and one.prefix.startswith(of_head.get(head, "")):
            found.add(one)
    return found


def icons_named(session: Session, icon_keys: Iterable[str], going: Collection[int] = ()) -> set[str]:
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
