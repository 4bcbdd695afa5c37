"""Step 7: add up the receipt from the ledger, and forget the work if all of it is done."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, select, type_coerce
from sqlalchemy.orm import Session
from temporalio import activity

from activities.storage import ledger
from activities.storage.database import Database, slices
from activities.storage.ledger import (
    Deletion,
    DeletionArtifact,
    DeletionChunk,
    DeletionPage,
    DeletionPrefix,
    DeletionState,
    PrefixState,
    RowsState,
    UtcDateTime,
)
from activities.storage.receipts import Closed, Receipts
from activities.storage.tables import File
from workflows.errors import NotOpen
from workflows.messages import (
    CLOSE_DELETION,
    ArtifactsReceipt,
    DeletionReceipt,
    DeletionRequest,
    FilesReceipt,
    GoneBefore,
    Ids,
    ManifestsReceipt,
    ObjectsReceipt,
    TimesReceipt,
    TraceItemsReceipt,
)
from workflows.messages import Deletion as DeletionRef

NOT_LISTED = "PrefixNotListed"
"""The code of a prefix that was not listed empty before the deletion's time was over."""
_ACCEPTED = select(Deletion, type_coerce(func.now(), UtcDateTime)).where(Deletion.id == bindparam("of"))
_CHUNKS = select(DeletionChunk).where(DeletionChunk.deletion_id == bindparam("of")).order_by(DeletionChunk.chunk)
_ARTIFACTS = select(
    DeletionArtifact.artifact_id, DeletionArtifact.project_id, DeletionArtifact.rows_state, DeletionArtifact.chunk
).where(DeletionArtifact.deletion_id == bindparam("of"))
_PAGES = select(DeletionPage.chunk, DeletionPage.count, DeletionPage.codes).where(DeletionPage.deletion_id == bindparam("of"))
_PREFIXES = select(DeletionPrefix.chunk, DeletionPrefix.state, DeletionPrefix.codes).where(
    DeletionPrefix.deletion_id == bindparam("of")
)
_PREFIXES_BY_STATE = (
    select(
        DeletionPrefix.chunk,
        DeletionPrefix.state,
        DeletionPrefix.exact,
        func.count().label("prefixes"),
        func.sum(DeletionPrefix.found).label("found"),
        func.min(DeletionPrefix.listed_empty_at).label("listed_empty_from"),
        func.sum(DeletionPrefix.uploads_aborted).label("uploads_aborted"),
        func.count(DeletionPrefix.uploads_aborted).label("uploads_looked_for"),
    )
    .where(DeletionPrefix.deletion_id == bindparam("of"))
    .group_by(DeletionPrefix.chunk, DeletionPrefix.state, DeletionPrefix.exact)
)
_LISTED = "listed"
"""Where a chunk keeps what its prefixes said, once they are forgotten."""


@dataclass(frozen=True)
class CloseDeletion:
    """Needs the ledger, and the store if receipts are kept there too."""

    database: Database
    traces_configured: bool
    receipts: Receipts | None = None

    @activity.defn(name=CLOSE_DELETION.name, no_thread_cancel_exception=True)
    def close_deletion(self, deletion: DeletionRef) -> DeletionReceipt:
        """Returns the receipt, with id lists short enough for history; the ledger's copy has them whole.

        Where receipts are kept outside the database too, they are before the deletion counts as closed: after a crash in
        between it is closed again, and its receipt kept again. Raises StoreUnavailable while they cannot be.
        """
        kept: DeletionReceipt | None = None
        while True:
            with self.database.write() as session:
                state = ledger.lock_deletion(session, deletion.deletion_id)
                if state is DeletionState.CLOSED:
                    return stored_receipt(session, deletion.deletion_id).for_history()
                # Failed: closed before, by an attempt whose answer was lost, a late step or the run that a Reset took up again.
                if state not in {DeletionState.RUNNING, DeletionState.FAILED}:
                    raise NotOpen("the deletion is not running; nothing was closed")
                chunks = list(session.execute(_CHUNKS, {"of": deletion.deletion_id}).scalars())
                listed = _listed(session, deletion.deletion_id, chunks)
                receipt = self._add_up(session, deletion.deletion_id, chunks, listed)
                if self.receipts is None or (kept is not None and _same_but_for_the_time(receipt, kept)):
                    if receipt.complete:
                        _note_listed(chunks, listed)
                    ledger.close(session, kept or receipt)
                    return (kept or receipt).for_history()
                request = ledger.request_of(session, deletion.deletion_id)
            # No lock is held while a store is asked. What is closed is what was kept, or it is kept once more.
            self.receipts.write(Closed(request=request, receipt=receipt))
            kept = receipt

    def _add_up(
        self, session: Session, deletion_id: str, chunks: list[DeletionChunk], listed: "Mapping[int, Listed]"
    ) -> DeletionReceipt:
        accepted, now = session.execute(_ACCEPTED, {"of": deletion_id}).one()
        request = DeletionRequest.model_validate(accepted.request)
        collected = _sum(chunk.collected for chunk in chunks)
        all_rows = [chunk.rows_deleted_at for chunk in chunks]
        of_artifacts = session.execute(_ARTIFACTS, {"of": deletion_id}).all()
        artifacts = _artifacts(session, deletion_id, request.organization_id, of_artifacts)
        owed = ledger.deletions_owing(session, deletion_id, traces_configured=self.traces_configured)
        receipt = DeletionReceipt(
            deletion_id=deletion_id,
            workflow_id=request.workflow_id,
            organization_id=request.organization_id,
            requested_artifacts=len(request.artifact_ids),
            requested_by=request.requested_by,
            reference=request.reference,
            complete=False,
            artifacts=artifacts,
            rows=dict(_sum(chunk.rows for chunk in chunks)),
            files=_files(session, chunks),
            objects=_objects(session, deletion_id, chunks, listed),
            manifests=ManifestsReceipt(
                read=collected["manifests_read"],
                evicted=collected["manifests_evicted"],
                unreadable=collected["manifests_unreadable"],
                strays=collected["strays"],
                named_elsewhere=collected["named_elsewhere"],
                images_kept=collected["images_kept"],
                masks_unknown=collected["masks_unknown"],
            ),
            trace_items=self._trace_items(of_artifacts, chunks, artifacts.gone_before.objects_unchecked.count),
            owed_by_others=sum(other.artifacts for other in owed),
            times=TimesReceipt(
                accepted=accepted.accepted_at,
                rows_deleted=max(at for at in all_rows if at) if all(all_rows) and all_rows else None,
                closed=now,
            ),
        )
        return receipt.model_copy(update={"complete": not receipt.left_over})

    def _trace_items(self, listed: Sequence[Any], chunks: list[DeletionChunk], unplaced: int) -> TraceItemsReceipt:
        matched = sum(chunk.trace_items_matched for chunk in chunks)
        if not self.traces_configured:
            return TraceItemsReceipt(state="unchecked", matched=matched)
        unconfirmed = {chunk.chunk for chunk in chunks if chunk.trace_items_confirmed_at is None and chunk.rows_deleted_at}
        confirmed = [chunk.trace_items_confirmed_at for chunk in chunks if chunk.trace_items_confirmed_at]
        reached = {RowsState.DELETED, RowsState.GONE}
        asked = [one.chunk for one in listed if one.project_id is not None and one.rows_state in reached]
        waiting = sum(chunk in unconfirmed for chunk in asked)
        return TraceItemsReceipt(
            state="unchecked" if not asked else "unconfirmed" if waiting or not confirmed else "confirmed",
            matched=matched,
            unconfirmed_artifacts=waiting,
            unchecked_artifacts=unplaced,
            confirmed_at=max(confirmed, default=None) if asked else None,
        )


def _same_but_for_the_time(one: DeletionReceipt, other: DeletionReceipt) -> bool:
    return one == other.model_copy(update={"times": other.times.model_copy(update={"closed": one.times.closed})})


def stored_receipt(session: Session, deletion_id: str) -> DeletionReceipt:
    """The receipt as it was closed."""
    stored = session.execute(select(Deletion.receipt).where(Deletion.id == deletion_id)).scalar_one()
    return DeletionReceipt.model_validate(stored)


def _artifacts(session: Session, deletion_id: str, organization_id: int, listed: Sequence[Any]) -> ArtifactsReceipt:
    by_state: dict[RowsState, list[tuple[int, int | None]]] = defaultdict(list)
    for artifact, project, state, _ in listed:
        by_state[RowsState(state)].append((artifact, project))
    gone = dict(by_state[RowsState.GONE])
    by_deletion = defaultdict(list)
    for artifact, other in ledger.deleted_by_others(session, deletion_id) if gone else ():
        by_deletion[other].append(artifact)
    answered = {artifact for artifacts in by_deletion.values() for artifact in artifacts}
    return ArtifactsReceipt(
        deleted=Ids.of(artifact for artifact, _ in by_state[RowsState.DELETED]),
        gone_before=GoneBefore(
            by_deletion={other: Ids.of(artifacts) for other, artifacts in sorted(by_deletion.items())},
            swept=Ids.of(artifact for artifact, project in gone.items() if project is not None and artifact not in answered),
            objects_unchecked=Ids.of(
                artifact for artifact, project in gone.items() if project is None and artifact not in answered
            ),
        ),
        moved=Ids.of(artifact for artifact, _ in by_state[RowsState.MOVED]),
        not_reached=Ids.of(artifact for state in (RowsState.PENDING, RowsState.SEALED) for artifact, _ in by_state[state]),
        reappeared=Ids.of(ledger.reappeared_artifacts(session, deletion_id, organization_id)),
    )


def _files(session: Session, chunks: list[DeletionChunk]) -> FilesReceipt:
    kept: dict[str, set[int]] = defaultdict(set)
    for chunk in chunks:
        for reason, files in chunk.files.get("kept", {}).items():
            kept[reason].update(files)
    # What one chunk kept for another's sake went with that one.
    there = {
        file
        for ids in slices(set().union(*kept.values()))
        for file in session.execute(select(File.id).where(File.id.in_(ids))).scalars()
    }
    return FilesReceipt(
        deleted=sum(chunk.files.get("deleted", 0) for chunk in chunks),
        kept={reason: Ids.of(files & there) for reason, files in sorted(kept.items()) if files & there},
        blobs_left=len({blob for chunk in chunks for blob in chunk.files.get("blobs", [])}),
    )


def _objects(session: Session, deletion_id: str, chunks: list[DeletionChunk], listed: "Mapping[int, Listed]") -> ObjectsReceipt:
    left_over: Counter[str] = Counter()
    with_pages = set()
    for chunk, count, codes in session.execute(_PAGES, {"of": deletion_id}):
        with_pages.add(chunk)
        left_over += Counter(codes)
        left_over[ledger.NOT_ATTEMPTED] += count - sum(codes.values())
    found_left_over: Counter[str] = Counter()
    for chunk, state, codes in session.execute(_PREFIXES, {"of": deletion_id}):
        found_left_over += Counter(codes)
        # Left over because of a page alone, which has gone since: nobody has seen the prefix empty.
        outlived_page = state == PrefixState.LEFT_OVER and not codes and chunk not in with_pages
        found_left_over[NOT_LISTED] += outlived_page or state in {PrefixState.OWED, PrefixState.SWEPT}
    counts = sum((one.counts for one in listed.values()), Counter[str]())
    digest = hashlib.sha256("".join(chunk.digest for chunk in chunks).encode()).hexdigest()
    return ObjectsReceipt(
        sealed=sum(chunk.sealed for chunk in chunks),
        sealed_by_kind=dict(_sum(chunk.collected.get("kinds", {}) for chunk in chunks)),
        deleted=sum(chunk.deleted for chunk in chunks),
        absent=sum(chunk.absent for chunk in chunks),
        kept=sum(chunk.kept for chunk in chunks),
        left_over=dict(+left_over),
        found_by_listing=counts["found"],
        found_left_over=dict(+found_left_over),
        prefixes=counts["prefixes"],
        prefixes_listed_empty=counts[PrefixState.EMPTY],
        prefixes_unchecked=counts[PrefixState.UNCHECKED],
        uploads_aborted=counts["uploads_aborted"],
        uploads_unchecked=counts["uploads_unchecked"],
        listed_empty_from=min((one.empty_from for one in listed.values() if one.empty_from), default=None),
        digest=digest,
    )


@dataclass
class Listed:
    """What a chunk's prefixes say, now and before they were last forgotten."""

    counts: Counter[str] = field(default_factory=Counter)
    empty_from: datetime | None = None

    @classmethod
    def noted_in(cls, chunk: DeletionChunk) -> "Listed":
        """As it was when the deletion was complete: rows that come back open it again."""
        noted = dict(chunk.collected.get(_LISTED, {}))
        empty_from = noted.pop("empty_from", None)
        return cls(Counter(noted), datetime.fromisoformat(empty_from) if empty_from else None)

    @property
    def note(self) -> dict[str, Any]:
        """For a chunk's `collected`."""
        return {_LISTED: {**+self.counts, "empty_from": self.empty_from.isoformat() if self.empty_from else None}}


def _listed(session: Session, deletion_id: str, chunks: Iterable[DeletionChunk]) -> dict[int, Listed]:
    listed = {chunk.chunk: Listed.noted_in(chunk) for chunk in chunks}
    for one in session.execute(_PREFIXES_BY_STATE, {"of": deletion_id}):
        of_chunk = listed[one.chunk]
        of_chunk.counts["uploads_aborted"] += int(one.uploads_aborted or 0)
        if one.exact:
            continue
        unlooked = one.prefixes - one.uploads_looked_for
        of_chunk.counts.update({one.state: one.prefixes, "prefixes": one.prefixes, "uploads_unchecked": unlooked})
        of_chunk.counts["found"] += int(one.found or 0)
        of_chunk.empty_from = min((at for at in (of_chunk.empty_from, one.listed_empty_from) if at), default=None)
    return listed


def _note_listed(chunks: Iterable[DeletionChunk], listed: Mapping[int, Listed]) -> None:
    for chunk in chunks:
        chunk.collected = {**chunk.collected, **listed[chunk.chunk].note}


def _sum(counts: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update({name: count for name, count in one.items() if not isinstance(count, Mapping)})
    return total
