"""Which `sentry_file` rows may go with an artifact, and which must stay.

A file goes only when nothing names it any more and it is proven to be this organization's alone. Blobs stay, since files share
them; their ids are kept in the ledger.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from sqlalchemy import String, column, delete, exists, literal, select, table
from sqlalchemy.orm import Session

from activities.storage.database import slices
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


def delete_files(
    session: Session, file_ids: Collection[int], organization_id: int, references: Collection[Reference]
) -> dict[str, Any]:
    """Delete those of the files that may go, after the rows that named them.

    Returns {"deleted": n, "index_rows": n, "kept": {reason: [file ids]}, "blobs": [ids of blobs that the deleted files named]}.
    """
    index = FileBlobIndex
    blobs: dict[int, set[int]] = {}
    for ids in slices(sorted(file_ids)):
        locked = session.execute(select(File.id, File.blob_id).where(File.id.in_(ids)).order_by(File.id).with_for_update())
        blobs |= {file: {blob} if blob is not None else set() for file, blob in locked}
    for ids in slices(blobs):
        for file, blob in session.execute(select(index.file_id, index.blob_id).where(index.file_id.in_(ids))):
            blobs[file].add(blob)
    owners: dict[int, set[int]] = defaultdict(set)
    owned = select(FileBlobOwner.blob_id, FileBlobOwner.organization_id)
    for ids in slices(set().union(*blobs.values())):
        for blob, owner in session.execute(owned.where(FileBlobOwner.blob_id.in_(ids))):
            owners[blob].add(owner)
    kept: dict[str, list[int]] = defaultdict(list)
    going = []
    for file in sorted(blobs):
        if reason := _why_kept(session, file, [owners[blob] for blob in blobs[file]], organization_id, references):
            kept[reason].append(file)
        else:
            going.append(file)
    index_rows = deleted = 0
    for ids in slices(going):
        index_rows += len(session.execute(delete(index).where(index.file_id.in_(ids)).returning(index.id)).all())
        deleted += len(session.execute(delete(File).where(File.id.in_(ids)).returning(File.id)).all())
    return {
        "deleted": deleted,
        "index_rows": index_rows,
        "kept": dict(kept),
        "blobs": sorted(set().union(*(blobs[file] for file in going))),
    }


def rows_deleted(files: dict[str, Any]) -> dict[str, int]:
    """The part that files have in the count of deleted rows."""
    counts = {File.__tablename__: files["deleted"], FileBlobIndex.__tablename__: files["index_rows"]}
    return {name: count for name, count in counts.items() if count}


def _why_kept(
    session: Session, file: int, owners: list[set[int]], organization_id: int, references: Collection[Reference]
) -> str | None:
    if any(session.execute(select(exists().where(named == file))).scalar() for named in _NAMING_COLUMNS):
        return STILL_NAMED
    if session.execute(select(exists().where(MobileAppInfo.app_icon_id == literal(str(file), String)))).scalar():
        return STILL_NAMED
    for reference in references:
        # A table that we know by name only: another part of the backend refers to files too.
        other = table(reference.table, column(reference.column))
        if session.execute(select(exists(select(1).select_from(other).where(other.c[reference.column] == file)))).scalar():
            return STILL_NAMED
    if any(owned - {organization_id} for owned in owners):
        return OTHER_OWNER
    if not owners or not all(owners):
        return NO_OWNER
    return None
