"""Which `sentry_file` rows go with an artifact, and which must stay.

A file goes with the rows that named it, unless there is evidence that another needs it: a row names it, or a blob of it is
another organization's and not this one's. Files that a server made have blobs without any owner: that is no evidence. Blobs
stay, since files share them; the backend's own clean-up removes those that no file names.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from sqlalchemy import BigInteger, column, delete, func, select, table
from sqlalchemy.orm import Session

from activities.backend.contract import Files
from activities.backend.drift import Reference, Schema
from activities.backend.tables import (
    Artifact,
    File,
    FileBlob,
    FileBlobIndex,
    FileBlobOwner,
    MobileAppInfo,
    SizeComparison,
    SizeMetrics,
)
from activities.one_of import one_of, slices

STILL_NAMED = "still named by another row"
OTHER_OWNER = "a blob of it is another organization's"
_NAMING_COLUMNS = (
    Artifact.file_id,
    Artifact.installable_app_file_id,
    SizeMetrics.analysis_file_id,
    SizeComparison.file_id,
)
NONE_GOING: Mapping[str, Collection[int]] = MappingProxyType({})


def references(schema: Schema) -> list[Reference]:
    """Foreign keys to `sentry_file` other than its own index."""
    index = FileBlobIndex.__tablename__
    return sorted(found for found in schema.references() if found.target == File.__tablename__ and found.table != index)


def judge_files(
    session: Session,
    file_ids: Collection[int],
    organization_id: int,
    references: Collection[Reference],
    going: Mapping[str, Collection[int]] = NONE_GOING,
) -> Files:
    """Decide for each file that is there. Rows that are `going` themselves, ids by table, keep none."""
    blobs = _blobs_of(session, file_ids)
    owners = _owners_of(session, set().union(*blobs.values()))
    named = _still_named(session, blobs, references, going)
    files, kept = Files(), defaultdict[str, list[int]](list)
    for file in sorted(blobs):
        theirs = (owners[blob] for blob in blobs[file] if blob in owners)
        if file in named:
            kept[STILL_NAMED].append(file)
        elif any(organization_id not in of_blob for of_blob in theirs):
            kept[OTHER_OWNER].append(file)
        else:
            files.going.append(file)
            files.blobs |= blobs[file]
    files.kept = dict(kept)
    return files


def delete_files(session: Session, file_ids: Collection[int], organization_id: int, references: Collection[Reference]) -> Files:
    """Delete those of the files that may go, after the rows that named them."""
    if not file_ids:
        return Files()
    for ids in slices(sorted(file_ids)):
        session.execute(select(File.id).where(one_of(File.id, ids)).order_by(File.id).with_for_update()).all()
    files = judge_files(session, file_ids, organization_id, references)
    index, index_rows = FileBlobIndex, 0
    deleted: list[int] = []
    for ids in slices(files.going):
        index_rows += len(session.execute(delete(index).where(one_of(index.file_id, ids)).returning(index.id)).all())
        deleted += session.execute(delete(File).where(one_of(File.id, ids)).returning(File.id)).scalars()
    files.going, files.rows = deleted, _counted(len(deleted), index_rows)
    return files


def rows_going(session: Session, files: Collection[int]) -> dict[str, int]:
    """How many rows would go with these files, by table."""
    index = FileBlobIndex
    counts = (select(func.count()).where(one_of(index.file_id, ids)) for ids in slices(files))
    return _counted(len(files), sum(session.execute(count).scalar_one() for count in counts))


def _counted(files: int, index_rows: int) -> dict[str, int]:
    counts = {File.__tablename__: files, FileBlobIndex.__tablename__: index_rows}
    return {table: count for table, count in counts.items() if count}


def files_there(session: Session, file_ids: Collection[int]) -> set[int]:
    """Those of the files that are there."""
    there = (session.execute(select(File.id).where(one_of(File.id, ids))).scalars() for ids in slices(file_ids))
    return {file for part in there for file in part}


def blobs_waiting(session: Session, blob_ids: Collection[int]) -> set[int]:
    """Those of the blobs that are there and that no file names: the backend's own clean-up has yet to take them."""
    index, waiting = FileBlobIndex, set[int]()
    for ids in slices(sorted(blob_ids)):
        waiting |= set(session.execute(select(FileBlob.id).where(one_of(FileBlob.id, ids))).scalars())
        waiting -= set(session.execute(select(index.blob_id).where(one_of(index.blob_id, ids))).scalars())
        waiting -= set(session.execute(select(File.blob_id).where(one_of(File.blob_id, ids))).scalars())
    return waiting


def _blobs_of(session: Session, file_ids: Collection[int]) -> dict[int, set[int]]:
    """The blobs of each file that is there."""
    index, blobs = FileBlobIndex, dict[int, set[int]]()
    for ids in slices(sorted(file_ids)):
        rows = session.execute(select(File.id, File.blob_id).where(one_of(File.id, ids)))
        blobs |= {file: {blob} if blob is not None else set() for file, blob in rows}
    for ids in slices(blobs):
        for file, blob in session.execute(select(index.file_id, index.blob_id).where(one_of(index.file_id, ids))):
            blobs[file].add(blob)
    return blobs


def _owners_of(session: Session, blobs: Collection[int]) -> dict[int, set[int]]:
    """The organizations that own each blob; a blob without any is left out."""
    owners, owner = defaultdict[int, set[int]](set), FileBlobOwner
    for ids in slices(blobs):
        for blob, organization in session.execute(
            select(owner.blob_id, owner.organization_id).where(one_of(owner.blob_id, ids))
        ):
            owners[blob].add(organization)
    return dict(owners)


def _still_named(
    session: Session, files: Collection[int], references: Collection[Reference], going: Mapping[str, Collection[int]]
) -> set[int]:
    """Those of the files that a row names which stays."""
    return {file for ids in slices(files) for file in _named_among(session, ids, references, going)}


def _named_among(
    session: Session, ids: Sequence[int], references: Collection[Reference], going: Mapping[str, Collection[int]]
) -> Iterator[int]:
    for attribute in _NAMING_COLUMNS:
        leaving = going.get(attribute.class_.__tablename__, ())
        naming = session.execute(select(attribute.class_.id, attribute).where(one_of(attribute, ids)))
        yield from (file for row, file in naming if row not in leaving and file is not None)
    leaving, info = going.get(MobileAppInfo.__tablename__, ()), MobileAppInfo
    icons = select(info.id, info.app_icon_id).where(one_of(info.app_icon_id, [str(one) for one in ids]))
    yield from (int(icon) for row, icon in session.execute(icons) if icon is not None and row not in leaving)
    for reference in references:
        # A table that we know by name only: another part of the backend refers to files too.
        column_of_other = table(reference.table, column(reference.column, BigInteger)).c[reference.column]
        naming_others = session.execute(select(column_of_other).where(column_of_other.in_(ids)).distinct())
        yield from (int(file) for file in naming_others.scalars())  # SQLite gives what was written, a text too
