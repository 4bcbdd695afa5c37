"""Which selective snapshots inherit images from an artifact: Sentry tells by their commits, and so does this.

A selective snapshot has only the images that were taken anew. It shows the others as the snapshot of the commit has them from
which its own was made; if that is selective too, as the one before it has them, and so on.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, false, func, or_, select, union
from sqlalchemy.orm import Session, aliased

from activities.backend.tables import Artifact, CommitComparison, SnapshotMetrics
from activities.one_of import one_of

_heir, _ancestor = aliased(Artifact, name="heir"), aliased(Artifact, name="ancestor")
_theirs, _ours = aliased(CommitComparison, name="theirs"), aliased(CommitComparison, name="ours")

_IN_ONE_REPOSITORY = (
    _theirs.head_repo_name == _ours.head_repo_name,
    func.coalesce(func.nullif(_theirs.base_repo_name, ""), _ours.head_repo_name) == _ours.head_repo_name,
    _theirs.head_sha != _ours.head_sha,  # no commit is made of itself
)
_IN_A_FORK = (_theirs.base_repo_name == _ours.head_repo_name, _theirs.head_repo_name != _theirs.base_repo_name)


def _alike(artifact: Any) -> tuple[ColumnElement[Any], ...]:
    """What both have in common.

    By these no database is to look for either: a commit has few artifacts, a project many. PostgreSQL has no index for a
    null-safe comparison, SQLite none for a sum.
    """
    return artifact.project_id + 0, artifact.app_id + "", artifact.build_configuration_id + 0


def _inherits(ancestor: Any, where: tuple[ColumnElement[bool], ...]) -> tuple[ColumnElement[bool], ...]:
    """True of `ancestor` and `_heir`. Of several snapshots of one commit Sentry takes the newest; here each is needed."""
    of_ancestor, of_heir = aliased(SnapshotMetrics), aliased(SnapshotMetrics)
    return (
        of_ancestor.preprod_artifact_id == ancestor.id,
        _ours.id == ancestor.commit_comparison_id,
        _theirs.organization_id == _ours.organization_id,
        _theirs.base_sha == _ours.head_sha,
        *where,
        _heir.commit_comparison_id == _theirs.id,
        *(mine.is_not_distinct_from(others) for mine, others in zip(_alike(_heir), _alike(ancestor), strict=True)),
        of_heir.preprod_artifact_id == _heir.id,
        of_heir.is_selective != false(),  # for `= 1` SQLite would make itself an index, and begin with that
    )


def has_heirs() -> ColumnElement[bool]:
    """True of an artifact of the statement around it from which a selective snapshot inherits.

    No index leads from a repository to the commits of its forks. So these are looked for once a statement.
    """
    in_one = select(_heir.id).where(*_inherits(Artifact, _IN_ONE_REPOSITORY)).correlate(Artifact).exists()
    in_forks = select(_ancestor.id).where(*_inherits(_ancestor, _IN_A_FORK))
    return or_(in_one, Artifact.id.in_(in_forks))


def heirs_of(session: Session, artifact_ids: Collection[int]) -> set[int]:
    """The selective snapshots that inherit from these artifacts."""
    asked = one_of(_ancestor.id, artifact_ids)
    each = (select(_heir.id).where(asked, *_inherits(_ancestor, where)) for where in (_IN_ONE_REPOSITORY, _IN_A_FORK))
    return set(session.execute(union(*each)).scalars())
