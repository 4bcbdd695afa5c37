"""Adds up a deletion's receipt from the ledger: only what was written down when it was checked is claimed."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from activities.images import owed
from activities.images.owed import MANIFESTS_UNREADABLE
from activities.ledger import overlaps, pages
from activities.ledger.deletions import Closing
from activities.ledger.prefixes import EXACT
from activities.ledger.schema import (
    ChunkState,
    DeletionChunk,
    DeletionPage,
    DeletionPrefix,
    PrefixState,
    RowsState,
)
from activities.living import Living, Standing
from artifact_deletion.receipt import (
    ArtifactsReceipt,
    DeletionReceipt,
    FilesReceipt,
    GoneBefore,
    Ids,
    ImagesReceipt,
    ManifestsReceipt,
    ObjectsReceipt,
    TimesReceipt,
    TraceItemsReceipt,
)

NOT_LISTED = "PrefixNotListed"
"""The code of a prefix that was not listed empty before the deletion's time was over."""
_HUNDREDTH_OF_A_DAY = timedelta(days=1) / 100
_CHUNKS = select(DeletionChunk).where(DeletionChunk.deletion_id == bindparam("of")).order_by(DeletionChunk.chunk)
_PAGES = select(DeletionPage.chunk, DeletionPage.count, DeletionPage.codes).where(DeletionPage.deletion_id == bindparam("of"))
_PREFIXES = (
    select(DeletionPrefix.chunk, DeletionPrefix.kind, DeletionPrefix.state, DeletionPrefix.codes, func.count())
    .where(DeletionPrefix.deletion_id == bindparam("of"))
    .group_by(DeletionPrefix.chunk, DeletionPrefix.kind, DeletionPrefix.state, DeletionPrefix.codes)
)


def receipt_of(
    session: Session,
    living: Living,
    deletion: Closing,
    *,
    traces_configured: bool,
    grace: timedelta,
    promised_days: int,
) -> DeletionReceipt:
    """The receipt as it would be closed now."""
    request = deletion.request
    chunks = session.execute(_CHUNKS, {"of": deletion.id}).scalars().all()
    every = living.of_deletion(session, deletion.id)
    artifacts = _artifacts(session, deletion, chunks, every)
    manifests = _sum(chunk.manifests for chunk in chunks)
    receipt = DeletionReceipt(
        deletion_id=deletion.id,
        workflow_id=request.workflow_id,
        organization_id=request.organization_id,
        requested_artifacts=len(request.artifact_ids),
        requested_by=request.requested_by,
        reference=request.reference,
        report=request.report,
        complete=False,
        artifacts=artifacts,
        rows=dict(_sum(chunk.rows for chunk in chunks)),
        files=_files(session, living, chunks),
        objects=_objects(session, deletion.id, chunks),
        manifests=ManifestsReceipt(**manifests),
        trace_items=_trace_items(chunks, every, configured=traces_configured),
        images=_images(session, living, deletion, grace),
        times=_times(deletion, chunks, promised_days, rows_stay=bool(artifacts.held.count or artifacts.not_expired.count)),
    )
    return receipt.model_copy(update={"complete": not receipt.left_over})


def _artifacts(
    session: Session, deletion: Closing, chunks: Sequence[DeletionChunk], every: Sequence[Standing]
) -> ArtifactsReceipt:
    open_chunks = {chunk.chunk for chunk in chunks if chunk.state == ChunkState.OPEN}
    unlisted = {chunk.chunk for chunk in chunks if chunk.listed.get("prefixes_unchecked")}
    last = {artifact.id: artifact for artifact in every}  # one that came back counts as it is in its last chunk
    of_state: dict[RowsState, set[int]] = defaultdict(set)
    for artifact in last.values():
        of_state[RowsState.PENDING if artifact.chunk in open_chunks else artifact.rows_state].add(artifact.id)
    gone = of_state[RowsState.GONE]
    not_reached, held = Ids.of(of_state[RowsState.PENDING]), Ids.of(of_state[RowsState.HELD])
    ended = of_state[RowsState.DELETED] | gone
    reappeared = Ids.of(one for one in ended if last[one].organization_now == deletion.request.organization_id)
    if deletion.request.report:
        orphaned, living = Ids.of(gone), Ids.of(of_state[RowsState.MOVED])
        return ArtifactsReceipt(orphaned=orphaned, living=living, not_reached=not_reached, held=held, reappeared=reappeared)
    by_deletion: dict[str, list[int]] = defaultdict(list)
    for id_, other in overlaps.deleted_by_others(session, deletion.id) if gone else ():
        if id_ in gone:
            by_deletion[other].append(id_)
    unanswered = gone.difference(*by_deletion.values())
    unchecked = {one for one in unanswered if last[one].project_id is None or last[one].chunk in unlisted}
    return ArtifactsReceipt(
        deleted=Ids.of(of_state[RowsState.DELETED]),
        gone_before=GoneBefore(
            by_deletion={other: Ids.of(artifacts) for other, artifacts in sorted(by_deletion.items())},
            swept=Ids.of(unanswered - unchecked),
            objects_unchecked=Ids.of(unchecked),
        ),
        moved=Ids.of(of_state[RowsState.MOVED]),
        not_reached=not_reached,
        held=held,
        not_expired=Ids.of(of_state[RowsState.NOT_EXPIRED]),
        reappeared=reappeared,
    )


def _times(deletion: Closing, chunks: Sequence[DeletionChunk], promised_days: int, *, rows_stay: bool) -> TimesReceipt:
    gone = [chunk.rows_deleted_at for chunk in chunks if chunk.rows_deleted_at]
    last = max(gone) if len(gone) == len(chunks) and gone and not rows_stay else None
    return TimesReceipt(
        accepted=deletion.accepted_at,
        rows_deleted=last if last and last >= deletion.accepted_at else None,  # else they went before it was asked for anew
        closed=deletion.now,
        days=-(-(deletion.now - deletion.accepted_at) // _HUNDREDTH_OF_A_DAY) / 100,
        promised_days=promised_days,
    )


def _files(session: Session, living: Living, chunks: Sequence[DeletionChunk]) -> FilesReceipt:
    kept: dict[str, set[int]] = defaultdict(set)
    for chunk in chunks:
        for reason, files in chunk.files.get("kept", {}).items():
            kept[reason].update(files)
    # A file that one chunk kept for another's sake went with that one.
    there = living.backend.files_there(session, set().union(*kept.values())) if kept else set()
    return FilesReceipt(
        deleted=sum(chunk.files.get("deleted", 0) for chunk in chunks),
        kept={reason: Ids.of(files & there) for reason, files in sorted(kept.items()) if files & there},
        blobs_left=len({blob for chunk in chunks for blob in chunk.files.get("blobs", [])}),
    )


def _objects(session: Session, deletion_id: str, chunks: Sequence[DeletionChunk]) -> ObjectsReceipt:
    sealed, deleted = sum(one.sealed for one in chunks), sum(one.deleted for one in chunks)
    absent, kept = sum(one.absent for one in chunks), sum(one.kept for one in chunks)
    with_pages: set[int] = set()
    left_over = Counter[str]()
    if sealed > deleted + absent + kept:
        for chunk, count, codes in session.execute(_PAGES, {"of": deletion_id}):
            with_pages.add(chunk)
            left_over += Counter(codes)
            left_over[pages.NOT_ATTEMPTED] += count - sum(codes.values())
    listed = _sum(chunk.listed for chunk in chunks)
    found_left_over = _unfinished_prefixes(session, deletion_id, with_pages, listed)
    digest = hashlib.sha256("".join(chunk.digest for chunk in chunks).encode()).hexdigest()
    return ObjectsReceipt(
        sealed=sealed,
        sealed_by_kind=dict(_sum(chunk.kinds for chunk in chunks)),
        deleted=deleted,
        absent=absent,
        kept=kept,
        left_over=dict(+left_over),
        found_left_over=dict(+found_left_over),
        listed_empty_from=min((one.listed_empty_from for one in chunks if one.listed_empty_from), default=None),
        digest=digest,
        **listed,
    )


def _unfinished_prefixes(session: Session, deletion_id: str, with_pages: set[int], listed: Counter[str]) -> Counter[str]:
    """Codes of what is still there under prefixes. Adds to `listed` the prefixes and keys that listing did not prove empty."""
    listed["prefixes"] += listed["prefixes_listed_empty"] + listed["prefixes_unchecked"]
    listed["keys_looked_for"] += listed["keys_listed_absent"]
    left_over = Counter[str]()
    for chunk, kind, state, codes, count in session.execute(_PREFIXES, {"of": deletion_id}):
        for code, of_code in codes.items():
            left_over[code] += of_code * count
        listed["keys_looked_for" if kind in EXACT else "prefixes"] += count
        # Left over because of a page alone, which has gone since: it was never seen empty.
        outlived_page = state == PrefixState.LEFT_OVER and chunk not in with_pages
        waits = state in {PrefixState.OWED, PrefixState.SWEPT}
        left_over[NOT_LISTED] += count * (not codes and (outlived_page or waits))
    return left_over


def _trace_items(chunks: Sequence[DeletionChunk], every: Sequence[Standing], *, configured: bool) -> TraceItemsReceipt:
    matched = sum(chunk.trace_items_matched for chunk in chunks)
    if not configured:
        return TraceItemsReceipt(state="unchecked", matched=matched)
    reached = {RowsState.DELETED, RowsState.GONE}
    asked = [one for one in every if one.project_id is not None and one.rows_state in reached]
    unconfirmed = {chunk.chunk for chunk in chunks if chunk.trace_items_confirmed_at is None and chunk.rows_deleted_at}
    counted = [one.trace_items_confirmed_at for one in chunks if one.trace_items_asked_at and one.trace_items_confirmed_at]
    confirmed_at = max(counted, default=None)
    waiting = {one.id for one in asked if one.chunk in unconfirmed}
    return TraceItemsReceipt(
        state="unchecked" if not asked else "unconfirmed" if waiting or confirmed_at is None else "confirmed",
        matched=matched,
        unconfirmed_artifacts=len(waiting),
        unchecked_artifacts=len({one.id for one in every if one.rows_state is RowsState.GONE and one.project_id is None}),
        confirmed_at=confirmed_at,
    )


def _images(session: Session, living: Living, deletion: Closing, grace: timedelta) -> ImagesReceipt:
    if deletion.request.images == "keep":
        return ImagesReceipt()
    total = owed.total(session, deletion.id)
    left_over = Counter(total.left_over)
    left_over[pages.NOT_ATTEMPTED] += total.undecided
    unreadable: Collection[int] = ()
    if MANIFESTS_UNREADABLE in left_over:  # of artifacts that others have deleted since nothing is to be mended
        unreadable = living.backend.find(session, owed.unreadable(session, deletion.id)).keys()
    return ImagesReceipt(
        policy="delete",
        how=total.how,
        named=total.named,
        projects=Ids.of(total.projects),
        absent=total.absent,
        kept=total.kept,
        hidden=total.hidden,
        purged=total.purged,
        restored=total.restored,
        left_over=dict(+left_over),
        hidden_from=total.hidden_from,
        due=total.hidden_from + grace if total.hidden_from and total.hidden else None,
        unreadable=Ids.of(unreadable),
    )


def _sum(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total = Counter[str]()
    for one in counts:
        total.update(one)
    return total
