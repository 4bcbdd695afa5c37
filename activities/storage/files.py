"""Which `sentry_file` rows may go with an artifact, and which must stay.

A file goes only when nothing names it any more and it is proven to be this organization's alone. Blobs stay, since files share
them; their ids are kept in the ledger.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sqlalchemy import BigInteger, column, delete, func, select, table
from sqlalchemy.orm import Session

from activities.storage.database import one_of, slices
from activities.storage.drift import Reference
from activities.storage.tables import (
    Artifact,
    File,
    FileBlobIndex,
    FileBlobOwner,
    MobileAppInfo,
    SizeComparison,
    SizeMetrics,
)

STILL_NAMED = "still named by another row"
OTHER_OWNER = "its blobs are another organization's too"
NO_OWNER = "its blobs have no recorded owner"
_NAMING_COLUMNS = (
    Artifact.file_id,
    Artifact.installable_app_file_id,
    SizeMetrics.analysis_file_id,
    SizeComparison.file_id,
)


@dataclass
class SortedFiles:
    """Which of the files go, and why others are kept."""

    going: list[int] = field(default_factory=list)
    kept: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    blobs: set[int] = field(default_factory=set)
    """Blobs that the going files name."""


def sort_files(
    session: Session,
    file_ids: Collection[int],
    organization_id: int,
    references: Collection[Reference],
    going: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> SortedFiles:
    """Decide for each file. Rows that are `going` themselves, ids by table, keep none."""
    index = FileBlobIndex
    blobs: dict[int, set[int]] = {}
    for ids in slices(sorted(file_ids)):
        rows = session.execute(select(File.id, File.blob_id).where(File.id.in_(ids)))
        blobs |= {file: {blob} if blob is not None else set() for file, blob in rows}
    for ids in slices(blobs):
        for file, blob in session.execute(select(index.file_id, index.blob_id).where(index.file_id.in_(ids))):
            blobs[file].add(blob)
    owners: dict[int, set[int]] = defaultdict(set)
    owned = select(FileBlobOwner.blob_id, FileBlobOwner.organization_id)
    for ids in slices(set().union(*blobs.values())):
        for blob, owner in session.execute(owned.where(FileBlobOwner.blob_id.in_(ids))):
            owners[blob].add(owner)
    files = SortedFiles()
    still_named = _still_named(session, blobs, references, going)
    for file in sorted(blobs):
        if file in still_named:
            files.kept[STILL_NAMED].append(file)
        elif reason := _why_kept([owners[blob] for blob in blobs[file]], organization_id):
            files.kept[reason].append(file)
        else:
            files.going.append(file)
            files.blobs |= blobs[file]
    return files


def delete_files(
    session: Session, file_ids: Collection[int], organization_id: int, references: Collection[Reference]
) -> dict[str, Any]:
    """Delete those of the files that may go, after the rows that named them.

    Returns {"deleted": n, "index_rows": n, "kept": {reason: [file ids]}, "blobs": [ids of blobs that the deleted files named]}.
    """
    for ids in slices(sorted(file_ids)):
        session.execute(select(File.id).where(File.id.in_(ids)).order_by(File.id).with_for_update()).all()
    files = sort_files(session, file_ids, organization_id, references)
    index = FileBlobIndex
    index_rows = deleted = 0
    for ids in slices(files.going):
        index_rows += len(session.execute(delete(index).where(index.file_id.in_(ids)).returning(index.id)).all())
        deleted += len(session.execute(delete(File).where(File.id.in_(ids)).returning(File.id)).all())
    return {"deleted": deleted, "index_rows": index_rows, "kept": dict(files.kept), "blobs": sorted(files.blobs)}


def index_rows(session: Session, files: Collection[int]) -> int:
    """How many rows of the index go with these files."""
    index = FileBlobIndex
    counts = (select(func.count()).where(index.file_id.in_(ids)) for ids in slices(files))
    return sum(session.execute(count).scalar_one() for count in counts)


def rows_deleted(files: dict[str, Any]) -> dict[str, int]:
    """The part that files have in the count of deleted rows."""
    counts = {File.__tablename__: files["deleted"], FileBlobIndex.__tablename__: files["index_rows"]}
    return {name: count for name, count in counts.items() if count}


def _still_named(
    session: Session, files: Collection[int], references: Collection[Reference], going: Mapping[str, Collection[int]]
) -> set[int]:
    """Those of the files that a row names which stays."""
    named = set[int]()
    for ids in slices(files):
        for attribute in _NAMING_COLUMNS:
            leaving = going.get(attribute.class_.__tablename__, ())
            naming = session.execute(select(attribute.class_.id, attribute).where(one_of(attribute, ids)))
            named.update(file for row, file in naming if row not in leaving)
        leaving = going.get(MobileAppInfo.__tablename__, ())
        icons = select(MobileAppInfo.id, MobileAppInfo.app_icon_id).where(MobileAppInfo.app_icon_id.in_([*map(str, ids)]))
        named.update(int(icon) for row, icon in session.execute(icons) if icon is not None and row not in leaving)
        for reference in references:
            # A table that we know by name only: another part of the backend refers to files too.
            column_of_other = table(reference.table, column(reference.column, BigInteger)).c[reference.column]
            naming_others = session.execute(select(column_of_other).where(column_of_other.in_(ids)).distinct())
            named.update(int(file) for file in naming_others.scalars())  # SQLite gives what was written, a text too
    return named


def _why_kept(owners: list[set[int]], organization_id: int) -> str | None:
    if any(owned - {organization_id} for owned in owners):
        return OTHER_OWNER
    if not owners or not all(owners):
        return NO_OWNER
    return None
