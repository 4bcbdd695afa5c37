"""The rows that go with artifacts: children before parents, each asked for every column that can name a key or a file.

The database cascades nothing by itself; it refuses at COMMIT. So each table has its statement here, in the order that satisfies
every constraint.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import CompoundSelect, Select, literal, or_, select, union, union_all
from sqlalchemy.orm import Session, aliased

from activities.backend.columns import add_app_info, add_comparisons, add_metrics
from activities.backend.contract import ArtifactRef, Cascade, Locked
from activities.backend.keys import icon_file_id
from activities.backend.part import Part, Verb
from activities.backend.tables import (
    Artifact,
    ComparisonApproval,
    InstallableArtifact,
    MobileAppInfo,
    Project,
    SizeComparison,
    SizeMetrics,
    SnapshotComparison,
    SnapshotMetrics,
)
from activities.one_of import one_of

SIZE, SNAPSHOT = "size_metrics", "snapshot_metrics"


def _ties(metrics: Any, comparison: Any, head_id: Any, base_id: Any) -> CompoundSelect[int, int]:
    """Two statements, as each finds its way by an index."""
    head, base = aliased(metrics), aliased(metrics)
    each = [
        select(one.preprod_artifact_id, other.preprod_artifact_id)
        .select_from(comparison)
        .join(head, head.id == head_id)
        .join(base, base.id == base_id)
        .where(one_of(one.preprod_artifact_id, "artifacts"))
        for one, other in ((head, base), (base, head))
    ]
    return union(*each)


SIZE_COMPARISONS = Part(
    SizeComparison,
    or_(
        one_of(SizeComparison.head_size_analysis_id, "size_metrics"),
        one_of(SizeComparison.base_size_analysis_id, "size_metrics"),
    ),
    (SizeComparison.file_id,),
    _ties(SizeMetrics, SizeComparison, SizeComparison.head_size_analysis_id, SizeComparison.base_size_analysis_id),
)
SNAPSHOT_COMPARISONS = Part(
    SnapshotComparison,
    or_(
        one_of(SnapshotComparison.head_snapshot_metrics_id, "snapshot_metrics"),
        one_of(SnapshotComparison.base_snapshot_metrics_id, "snapshot_metrics"),
    ),
    (SnapshotComparison.head_snapshot_metrics_id, SnapshotComparison.base_snapshot_metrics_id, SnapshotComparison.extras),
    ties=_ties(
        SnapshotMetrics,
        SnapshotComparison,
        SnapshotComparison.head_snapshot_metrics_id,
        SnapshotComparison.base_snapshot_metrics_id,
    ),
)
INSTALLABLES = Part(InstallableArtifact, one_of(InstallableArtifact.preprod_artifact_id, "artifacts"))
APP_INFOS = Part(
    MobileAppInfo,
    one_of(MobileAppInfo.preprod_artifact_id, "artifacts"),
    (MobileAppInfo.preprod_artifact_id, MobileAppInfo.app_icon_id),
)
APPROVALS = Part(ComparisonApproval, one_of(ComparisonApproval.preprod_artifact_id, "artifacts"))
SIZE_METRICS = Part(SizeMetrics, one_of(SizeMetrics.preprod_artifact_id, "artifacts"), (SizeMetrics.analysis_file_id,))
SNAPSHOT_METRICS = Part(
    SnapshotMetrics,
    one_of(SnapshotMetrics.preprod_artifact_id, "artifacts"),
    (SnapshotMetrics.preprod_artifact_id, SnapshotMetrics.extras),
)
ARTIFACTS = Part(Artifact, one_of(Artifact.id, "artifacts"), (Artifact.file_id, Artifact.installable_app_file_id))
PARTS = (
    SIZE_COMPARISONS,
    SNAPSHOT_COMPARISONS,
    INSTALLABLES,
    APP_INFOS,
    APPROVALS,
    SIZE_METRICS,
    SNAPSHOT_METRICS,
    ARTIFACTS,
)
"""Children before parents."""
_HANGS_FROM = {
    SIZE_COMPARISONS: SIZE,
    SIZE_METRICS: SIZE,
    SNAPSHOT_COMPARISONS: SNAPSHOT,
    SNAPSHOT_METRICS: SNAPSHOT,
}
"""Most artifacts have metrics of one kind: of the other there is nothing to ask for."""

_LOCKED_ARTIFACTS = (
    select(Artifact.id, Artifact.project_id).where(one_of(Artifact.id, "artifacts")).order_by(Artifact.id).with_for_update()
)
_LOCKED_PROJECTS = (
    select(Project.id, Project.organization_id)
    .where(one_of(Project.id, "projects"))
    .order_by(Project.id)
    .with_for_update(read=True)
)
_METRICS = {
    SIZE: select(SizeMetrics.id).where(one_of(SizeMetrics.preprod_artifact_id, "artifacts")).order_by(SizeMetrics.id),
    SNAPSHOT: select(SnapshotMetrics.id)
    .where(one_of(SnapshotMetrics.preprod_artifact_id, "artifacts"))
    .order_by(SnapshotMetrics.id),
}


def _all_metrics(each: Mapping[str, Select[int]]) -> CompoundSelect[str, int]:
    """Their ids, each with its kind. PostgreSQL locks no rows of a union, but those of queries within it."""
    return union_all(*(select(literal(name), statement.subquery().c.id) for name, statement in each.items()))


_OF_ARTIFACTS = _all_metrics(_METRICS)
_LOCKED_OF_ARTIFACTS = _all_metrics({name: statement.with_for_update() for name, statement in _METRICS.items()})
_OF_METRICS = (
    select(SnapshotMetrics.id, Artifact.id, Artifact.project_id, Project.organization_id)
    .join(Artifact, Artifact.id == SnapshotMetrics.preprod_artifact_id)
    .join(Project, Project.id == Artifact.project_id)
    .where(one_of(SnapshotMetrics.id, "metrics"))
)


def lock_artifacts(session: Session, artifact_ids: Collection[int], organization_id: int) -> Locked:
    """Lock the rows that new children would refer to, then look where they are: one statement would look before it had locks.

    A child that was committed before is seen by the statements that follow; one that commits later fails on its foreign key.
    """
    locked = session.execute(_LOCKED_ARTIFACTS, {"artifacts": artifact_ids}).all()
    if not locked:
        return Locked({})
    projects = session.execute(_LOCKED_PROJECTS, {"projects": {project for _, project in locked}})
    organization = {row.id: row.organization_id for row in projects}
    ours = {"artifacts": [artifact for artifact, project in locked if organization[project] == organization_id]}
    metrics = _by_kind(session.execute(_LOCKED_OF_ARTIFACTS, ours))
    return Locked({artifact: (project, organization[project]) for artifact, project in locked}, metrics)


def metrics_of(session: Session, artifacts: Sequence[ArtifactRef]) -> Mapping[str, Collection[int]]:
    """The ids of their metrics, without any lock."""
    return _by_kind(session.execute(_OF_ARTIFACTS, {"artifacts": [artifact.id for artifact in artifacts]}))


def _by_kind(metrics: Iterable[Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in _METRICS}
    for name, one in metrics:
        found[name].append(one)
    return found


def cascade_of(
    session: Session, artifacts: Sequence[ArtifactRef], metrics: Mapping[str, Collection[int]], verb: Verb
) -> Cascade:
    """Look at, lock or delete the rows that hang from these artifacts and their metrics, children before parents."""
    cascade = Cascade()
    if not artifacts:
        return cascade
    by_id = {artifact.id: artifact for artifact in artifacts}
    ids = {"artifacts": by_id.keys(), **metrics}
    rows: dict[Part, Sequence[Any]] = {}
    for part in PARTS:
        needed = metrics[_HANGS_FROM[part]] if part in _HANGS_FROM else by_id
        rows[part] = part.rows(session, verb, ids) if needed else ()
        if part is SNAPSHOT_COMPARISONS:  # now, before the metrics go
            add_comparisons(cascade.names, _compared(session, rows[part]), artifacts[0].organization_id)
    cascade.ids = {part.table.__tablename__: {row[0] for row in found} for part, found in rows.items() if found}
    for _, artifact, icon in rows[APP_INFOS]:
        add_app_info(cascade.names, by_id[artifact], icon)
    for _, artifact, extras in rows[SNAPSHOT_METRICS]:
        add_metrics(cascade.names, by_id[artifact], extras)
    cascade.file_ids = _files_named(rows)
    return cascade


def _compared(session: Session, comparisons: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """As `add_comparisons` takes them. Many have a side in common, so whose it is is asked once for all."""
    if not comparisons:
        return
    sides = {side for _, head, base, _ in comparisons for side in (head, base)}
    whose = {metrics: place for metrics, *place in session.execute(_OF_METRICS, {"metrics": sides})}
    for _, head, base, extras in comparisons:
        if head in whose and base in whose:
            yield *whose[head], whose[base][0], extras


def _files_named(rows: Mapping[Part, Sequence[Any]]) -> set[int]:
    named = [file for part in (SIZE_COMPARISONS, SIZE_METRICS) for _, file in rows[part]]
    named += [file for _, *files in rows[ARTIFACTS] for file in files]
    named += [icon_file_id(icon) for _, _, icon in rows[APP_INFOS]]
    return {file for file in named if file is not None}
