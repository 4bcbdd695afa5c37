"""All that crosses the wire: requests, receipts, and what each step takes and returns.

History keeps every one of these for weeks, so they hold ids, counts, codes and digests only: no keys, names or content.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Generic, Self, TypeVar

from annotated_types import Len
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

WORKFLOW_NAME = "DeleteArtifactsWorkflow"
PREVIEW_WORKFLOW_NAME = "PreviewDeletionWorkflow"
TASK_QUEUE = "artifact-deletion"
"""Workflow tasks and the activities that talk to the database."""
OBJECTS_TASK_QUEUE = "artifact-deletion-objects"
"""Every step that reads, lists or deletes objects, so that these workers alone need rights to the store."""
ROWS_DELETED_UPDATE_ID = "rows-deleted"
"""With the run's id behind it one id for every caller of a run: the server then answers all of them from one update."""
PAGE_KEYS = 1000
"""Keys of a page in the ledger: as many as one DeleteObjects request takes."""
MAX_ARTIFACTS = 10_000
MAX_REQUEST_BYTES = 2**19
"""JSON of 10,000 ids of 64 bits takes half of it. What is wrong with more would take longer to say than a workflow task may."""
ORGANIZATION_ATTRIBUTE = "OrganizationId"
STAGE_ATTRIBUTE = "DeletionStage"
LEFTOVERS_ATTRIBUTE = "Leftovers"
SEARCH_ATTRIBUTES = {ORGANIZATION_ATTRIBUTE: "Keyword", STAGE_ATTRIBUTE: "Keyword", LEFTOVERS_ATTRIBUTE: "Int"}
"""What operators filter lists by, with Temporal's type of each."""
IDS_IN_HISTORY = 100
"""How many ids of a kind a receipt carries through Temporal; the ledger's copy has all of them."""


class Message(BaseModel):
    """A frozen message that knows all its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")  # noqa: TRY004  pydantic turns only ValueError into a validation error
    return value


def _sorted_once(values: Any) -> Any:
    # Other shapes are left for the checks that follow to refuse in words.
    if isinstance(values, list | tuple | set | frozenset):
        # Once for all: half a million errors of half a million members take longer than a workflow task may.
        return tuple(sorted({_whole(value) for value in values}))
    return values


Id = Annotated[int, Field(gt=0, lt=2**63), BeforeValidator(_whole)]
OPAQUE_ID = r"^[A-Za-z0-9][A-Za-z0-9_.:/#-]{0,127}$"
OpaqueId = Annotated[str, StringConstraints(pattern=OPAQUE_ID)]


class DeletionRequest(Message):
    """What a backend asks for: these artifacts of this organization, for good."""

    model_config = ConfigDict(use_attribute_docstrings=True)  # they are the schema's descriptions

    organization_id: Id
    """Every artifact must belong to it, or nothing is deleted."""
    artifact_ids: Annotated[tuple[Id, ...], Len(1, MAX_ARTIFACTS), BeforeValidator(_sorted_once)]
    """Ids of `sentry_preprodartifact`, 1 to 10,000. Duplicates are dropped, order does not matter."""
    project_id: Id | None = None
    """Where artifacts lay whose rows are already gone: with it, their objects and trace items are deleted all the same."""
    requested_by: OpaqueId | None = None
    """Who asked, as an id that means nothing outside the backend (no e-mail address): it stays in Temporal's history."""
    reference: OpaqueId | None = None
    """A ticket or request id. It stays in Temporal's history."""

    @property
    def deletion_id(self) -> str:
        """32 hex digits: the same artifacts asked for in the same way are the same deletion, whoever asks.

        The first half of the SHA-256 of JSON without spaces, names in order, ids sorted: what other languages compute too.
        """
        return self._digest("delete")

    @property
    def workflow_id(self) -> str:
        """The id under which Temporal runs this deletion, once at a time."""
        return workflow_id(self.organization_id, self.deletion_id)

    @property
    def preview_id(self) -> str:
        """The id under which Temporal runs a dry run of this deletion."""
        return f"preview-artifacts/{self.organization_id}/{self._digest('preview')}"

    @property
    def summary(self) -> str:
        """One line for Temporal's list of workflows."""
        count = len(self.artifact_ids)
        return f"Delete {count:,} artifact{'s' * (count != 1)} of organization {self.organization_id}"

    @property
    def details(self) -> str:
        """Markdown for the workflow's page: who asked, and what an operator can do."""
        return "\n".join(
            [
                f"- **Asked by**: {self.requested_by or 'not said'}, **reference**: {self.reference or 'not said'}",
                f"- **Follow it**: `python starter.py status {self.workflow_id} --follow`",
                f"- **When it has failed**: mend what its failure names, then `python starter.py rerun {self.workflow_id}`.",
                "- **In here**: *Reset* to the first workflow task does the same: what is left, and nothing else.",
                "- **No current details here**: no worker is at work, or it has ended and its result says it all.",
            ]
        )

    def _digest(self, mode: str) -> str:
        asked = {
            "organization": self.organization_id,
            "artifacts": self.artifact_ids,
            "project": self.project_id,
            "mode": mode,
            "images": "keep",
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def workflow_id(organization_id: int, deletion_id: str) -> str:
    """The id under which Temporal runs a deletion."""
    return f"delete-artifacts/{organization_id}/{deletion_id}"


def refused_fields(error: ValidationError) -> str:
    """What is wrong with a request, naming fields and never values: "artifact_ids: List should have …"."""
    known = set(DeletionRequest.model_fields)
    reasons: dict[str, str] = {}
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = problem["loc"][0] if problem["loc"] else "request"
        reason = problem["msg"].removeprefix("Value error, ")
        reasons.setdefault(str(name) if name in known or name == "request" else "an unknown field", reason)
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


class Stage(StrEnum):
    """Where a deletion is. The order is that of the work."""

    OPENING = "opening"
    COLLECTING = "collecting keys"
    DELETING_ROWS = "deleting rows"
    """Some are gone: from here on there is no way back."""
    DELETING_OBJECTS = "deleting objects and trace items"
    SWEEPING = "sweeping prefixes"
    CLOSING = "closing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Pace(Message):
    """How much a deletion does at a time: settings of the worker that opened it, the same for the whole run."""

    chunks_at_once: int = 4
    activities_at_once: int = 16
    pages_an_activity: int = 4
    quiet_period: timedelta = timedelta(0)
    trace_items_pause: timedelta = timedelta(minutes=1)
    """Before trace items are counted again; it doubles each time, up to a quarter of an hour."""
    trace_items_within: timedelta = timedelta(hours=2)
    """Trace items that are still counted after this are reported as unconfirmed."""
    search_attributes: bool = False
    """Whether the namespace has the three search attributes."""
    exports_receipts: bool = False
    """Whether closing a deletion calls a store, to keep its receipt there too."""


class RowsDeleted(Message):
    """The rows of a chunk are gone, and its keys are released."""

    rows: int
    first_page: int
    pages: int
    """Pages from `first_page` up to this one, not included, are owed to the object store."""
    sealed: int
    trace_items_owed: bool
    """There are artifacts whose trace items are not confirmed as gone."""


class UnfinishedChunk(Message):
    """A chunk that owes anything, and what: a later run does not ask again for what is done."""

    chunk: int
    released: RowsDeleted | None
    """None: its rows are still there."""
    swept: bool
    """Its prefixes wait for nothing but the listing that confirms them."""


class Opened(Message):
    """The deletion stands in the ledger, its artifacts in chunks."""

    chunks: tuple[UnfinishedChunk, ...]
    """All of them at first, what is left when a deletion is run again."""
    rows_deleted: int
    """Rows that earlier runs deleted."""
    pace: Pace


class Chunk(Message):
    """Some artifacts, 250 by default, whose rows go in one transaction."""

    deletion_id: str
    chunk: int


class Collected(Message):
    """The keys of a chunk as one attempt sealed them. Without an epoch of its own nothing can be released."""

    epoch: int
    pages: int
    digest: str
    """SHA-256 over the sealed pages, hex."""
    artifacts: int
    sealed: int
    """Object keys."""


class SealedChunk(Chunk):
    """A chunk with the seal that delete_rows is to release: exactly this set, or none."""

    epoch: int
    pages: int
    digest: str


class PageRange(Chunk):
    """Pages `first` to `last`, both included: one activity's share."""

    first: int
    last: int


class ObjectsDeleted(Message):
    """What became of the pages' keys. Nothing else is left of them than what is left over."""

    settled: int
    """Keys of the whole chunk that are settled by now: deleted, absent or kept."""
    left_over: int
    """Keys of these pages that are still there."""


class Sweep(Chunk):
    """List what is still under the chunk's own prefixes and delete it."""

    number: int
    """0 right after the rows, then one after each quiet period."""
    last: bool = False
    """No further sweep follows: what is still being written is left over."""

    @property
    def confirm(self) -> bool:
        """After a quiet period: what is listed empty now is recorded as gone."""
        return self.number > 0


class Swept(Message):
    """What the listing found."""

    found: int
    left_over: int
    quiet: bool
    """Nothing is left to be confirmed by another sweep."""


class TraceItemsAsked(Message):
    """The trace store matched so many items of the chunk: zero means that they are gone."""

    matched: int
    settled: bool
    """Confirmed gone, or nobody to ask."""


class OwedElsewhere(Message):
    """Another deletion deleted the rows of artifacts of ours, and still owes their objects."""

    deletion_id: str
    workflow_id: str
    artifacts: int


class Owed(Message):
    """All that others still owe of this deletion's artifacts."""

    deletions: tuple[OwedElsewhere, ...] = ()


class Deletion(Message):
    """A deletion as a whole, for the steps that are not about one chunk."""

    deletion_id: str


class Allowed(Message):
    """What held a step up is over."""


class Cancelled(Message):
    """Whether the cancel came before the point of no return."""

    nothing_deleted: bool


class UnderWay(Message):
    """Steps of one kind that are at work, or a time that is waited for."""

    what: str
    """A step's name; of a pause its reason."""
    count: int = 1
    since: datetime
    """When the oldest of them was asked for; what it was tried since then, Temporal's pending activities say."""
    until: datetime | None = None
    """The end of a pause."""


class Progress(Message):
    """The answer of the query `progress`: counts only."""

    stage: Stage = Stage.OPENING
    artifacts: int = 0
    chunks: int = 0
    chunks_rows_deleted: int = 0
    rows_deleted: int = 0
    pages: int = 0
    pages_done: int = 0
    keys: int = 0
    keys_done: int = 0
    left_over: int = 0
    found_by_listing: int = 0
    found_left_over: int = 0
    """Of those: still there."""
    chunks_quiet: int = 0
    """Chunks whose prefixes were listed empty after a quiet period, or need no further listing."""
    trace_items_matched: int = 0
    trace_chunks: int = 0
    trace_chunks_settled: int = 0
    waiting_for: tuple[str, ...] = ()
    """Workflow ids of other deletions that still owe objects of these artifacts."""
    cancel_refused: bool = False
    """A cancel came after rows were deleted: the rest is finished all the same."""
    held_up: dict[str, str] = {}
    """Why steps wait, by the error's name: deletions are frozen, or this one is to be confirmed."""
    under_way: tuple[UnderWay, ...] = ()


class AllRowsDeleted(Message):
    """The answer of the update `rows_deleted`."""

    artifacts: int
    rows: int


class Ids(Message):
    """Ids of one kind."""

    count: int = 0
    ids: tuple[int, ...] = ()
    """Complete in the ledger; at most 100 in Temporal's history."""

    @classmethod
    def of(cls, ids: Iterable[int]) -> Self:
        """All of them, in order."""
        every = tuple(sorted(ids))
        return cls(count=len(every), ids=every)

    def for_history(self) -> Self:
        """The same count, and ids that fit."""
        return self.model_copy(update={"ids": self.ids[:IDS_IN_HISTORY]})


class GoneBefore(Message):
    """Artifacts whose rows were gone before this deletion came to them."""

    by_deletion: dict[str, Ids] = {}
    """Deleted by these other deletions, by workflow id; their receipts speak for the objects."""
    swept: Ids = Ids()
    """Not deleted by any deletion of the ledger, and swept in the project that the request names or the ledger knows."""
    objects_unchecked: Ids = Ids()
    """Not deleted by any deletion of the ledger; without a project nobody can say where their objects would lie."""


class ArtifactsReceipt(Message):
    """What became of each artifact."""

    deleted: Ids = Ids()
    gone_before: GoneBefore = GoneBefore()
    moved: Ids = Ids()
    """Belong to another organization by now: left alone, and left over."""
    not_reached: Ids = Ids()
    """A step before their rows' deletion did not succeed in its time."""
    reappeared: Ids = Ids()
    """Have rows again, which came after this deletion had deleted or missed them: only a re-run deletes those."""


class FilesReceipt(Message):
    """What became of `sentry_file` rows. Blobs stay: other files may share them, and the backend's own clean-up knows them."""

    deleted: int = 0
    kept: dict[str, Ids] = {}
    """File ids by reason."""
    blobs_left: int = 0
    """Blobs that deleted files named; their ids are in the ledger."""


class ObjectsReceipt(Message):
    """What became of object keys. sealed = deleted + absent + kept + left over; what listing found is counted apart."""

    sealed: int = 0
    sealed_by_kind: dict[str, int] = {}
    deleted: int = 0
    """The store confirmed that the key is gone. An unversioned store does not say whether it was ever there."""
    absent: int = 0
    """Known to have been absent before."""
    kept: int = 0
    """Icons that another app info of the project names."""
    left_over: dict[str, int] = {}
    """Sealed keys that are still there, by the store's code."""
    found_by_listing: int = 0
    """Objects that no row or manifest named, found under the artifacts' own prefixes and deleted."""
    found_left_over: dict[str, int] = {}
    """Objects found by listing that are still there, by the store's code."""
    prefixes: int = 0
    prefixes_listed_empty: int = 0
    prefixes_unchecked: int = 0
    """The store cannot list."""
    uploads_aborted: int = 0
    """Unfinished multipart uploads under the artifacts' own prefixes and keys."""
    uploads_unchecked: int = 0
    """Prefixes under which nobody could look for unfinished uploads: the store has none, or cannot list them."""
    listed_empty_from: datetime | None = None
    """When the first of the prefixes was listed empty; the others were later, until the deletion was closed."""
    digest: str
    """SHA-256 over the digests of all sealed pages, hex."""


class ManifestsReceipt(Message):
    """Manifests, as counts."""

    read: int = 0
    evicted: int = 0
    """Named by a row, absent from the store."""
    unreadable: int = 0
    """Not what a manifest looks like; the prefix they stand for was swept all the same, where the store can list."""
    masks_unknown: int = 0
    """Those of them that name diff masks, where the store cannot list: nobody knows which. They are left over."""
    strays: int = 0
    """Keys that they, or columns, named outside the artifact's own prefixes: neither read nor deleted."""
    named_elsewhere: int = 0
    """Those of them that columns name under another project or organization but with the artifact's own id: it was moved. They
    are left over, for a person to look at."""
    images_kept: int = 0
    """References to images, which the project's snapshots share: kept for the store's expiry."""


class TraceItemsReceipt(Message):
    """Trace items, as counts."""

    state: str
    """"confirmed": counted zero after the deletion; "unconfirmed"; or "unchecked": no trace store, or nowhere to ask."""
    matched: int = 0
    unconfirmed_artifacts: int = 0
    unchecked_artifacts: int = 0
    """Gone before, and nothing says in which project: nobody could ask for theirs."""
    confirmed_at: datetime | None = None


class TimesReceipt(Message):
    """When each claim became true, by the database's clock (UTC)."""

    accepted: datetime
    rows_deleted: datetime | None = None
    closed: datetime


class DeletionReceipt(Message):
    """What a deletion did, for whoever has to prove it. Replicas and backups are out of its scope."""

    version: int = 1
    deletion_id: str
    workflow_id: str
    organization_id: int
    requested_artifacts: int
    requested_by: str | None
    reference: str | None
    complete: bool
    """True if nothing is left over."""
    artifacts: ArtifactsReceipt
    rows: dict[str, int]
    """Deleted rows by table."""
    files: FilesReceipt
    objects: ObjectsReceipt
    manifests: ManifestsReceipt
    trace_items: TraceItemsReceipt
    owed_by_others: int = 0
    """Artifacts whose objects another deletion, named above, still owes."""
    times: TimesReceipt

    @property
    def left_over(self) -> dict[str, int]:
        """All that is still there, by reason."""
        counts: dict[str, int] = {}
        for codes in (self.objects.left_over, self.objects.found_left_over):
            for code, count in codes.items():
                counts[code] = counts.get(code, 0) + count
        artifacts = {
            "MasksUnknown": self.manifests.masks_unknown,
            "Moved": self.artifacts.moved.count,
            "NamedElsewhere": self.manifests.named_elsewhere,
            "RowsNotDeleted": self.artifacts.not_reached.count,
            "TraceItemsUnconfirmed": self.trace_items.unconfirmed_artifacts,
            "OwedByOthers": self.owed_by_others,
            "Reappeared": self.artifacts.reappeared.count,
        }
        return counts | {code: count for code, count in artifacts.items() if count}

    def for_history(self) -> Self:
        """The same receipt with id lists that fit into a payload."""
        gone = self.artifacts.gone_before
        return self.model_copy(
            update={
                "artifacts": ArtifactsReceipt(
                    deleted=self.artifacts.deleted.for_history(),
                    gone_before=GoneBefore(
                        by_deletion={name: ids.for_history() for name, ids in list(gone.by_deletion.items())[:20]},
                        swept=gone.swept.for_history(),
                        objects_unchecked=gone.objects_unchecked.for_history(),
                    ),
                    moved=self.artifacts.moved.for_history(),
                    not_reached=self.artifacts.not_reached.for_history(),
                    reappeared=self.artifacts.reappeared.for_history(),
                ),
                "files": self.files.model_copy(
                    update={"kept": {reason: ids.for_history() for reason, ids in self.files.kept.items()}}
                ),
            }
        )


class ObjectsFound(Message):
    """Objects of a kind that a deletion would take. In a bucket with versions, each version and delete marker counts."""

    count: int = 0
    size: int | None = 0
    """Bytes; None where the store cannot list."""


class Preview(Message):
    """What a deletion would do if it ran now: counts alone. Nothing was changed, and nothing is kept."""

    organization_id: int
    requested_artifacts: int
    refused: tuple[str, ...] = ()
    """Why the deletion would be refused, in the words in which it would be; all that follows is about the rest."""
    artifacts: Ids = Ids()
    """Have rows that would be deleted."""
    gone_swept: Ids = Ids()
    """Have none; objects and trace items are looked for in the project that the request names, or that the ledger knows."""
    gone_unchecked: Ids = Ids()
    """Have none, and nothing says where their objects would lie."""
    overlapping: tuple[str, ...] = ()
    """Workflow ids of open deletions of the same artifacts, at most twenty."""
    rows: dict[str, int] = {}
    files_kept: dict[str, Ids] = {}
    objects: dict[str, ObjectsFound] = {}
    """By kind: what names it, or "found by listing" for what nobody names."""
    icons_kept: int = 0
    unfinished_uploads: int | None = None
    """None where nobody can look for any."""
    manifests: ManifestsReceipt = ManifestsReceipt()
    strays: dict[str, int] = {}
    """Keys that are left alone, by the reason."""


In = TypeVar("In", bound=Message)
Out = TypeVar("Out", bound=Message)


@dataclass(frozen=True)
class Step(Generic[In, Out]):
    """The name and types of an activity, known to the workflow without importing what it is made of."""

    name: str
    takes: type[In]
    returns: type[Out]


OPEN_DELETION = Step("open_deletion", DeletionRequest, Opened)
COLLECT_KEYS = Step("collect_keys", Chunk, Collected)
DELETE_ROWS = Step("delete_rows", SealedChunk, RowsDeleted)
DELETE_OBJECTS = Step("delete_objects", PageRange, ObjectsDeleted)
DELETE_TRACE_ITEMS = Step("delete_trace_items", Chunk, TraceItemsAsked)
SWEEP_PREFIXES = Step("sweep_prefixes", Sweep, Swept)
READ_REQUEST = Step("read_request", Deletion, DeletionRequest)
FIND_OWED_ELSEWHERE = Step("find_owed_elsewhere", Deletion, Owed)
CANCEL_DELETION = Step("cancel_deletion", DeletionRequest, Cancelled)
PREVIEW_DELETION = Step("preview_deletion", DeletionRequest, Preview)
CLOSE_DELETION = Step("close_deletion", Deletion, DeletionReceipt)
WAIT_UNTIL_THAWED = Step("wait_until_thawed", Deletion, Allowed)
WAIT_UNTIL_CONFIRMED = Step("wait_until_confirmed", Deletion, Allowed)
STEPS = (
    OPEN_DELETION,
    COLLECT_KEYS,
    DELETE_ROWS,
    DELETE_OBJECTS,
    DELETE_TRACE_ITEMS,
    SWEEP_PREFIXES,
    READ_REQUEST,
    FIND_OWED_ELSEWHERE,
    CANCEL_DELETION,
    CLOSE_DELETION,
    PREVIEW_DELETION,
    WAIT_UNTIL_THAWED,
    WAIT_UNTIL_CONFIRMED,
)
