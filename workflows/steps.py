"""The steps of a deletion: their names, what each takes and returns.

The workflow knows them by these alone; activities/ has one file for each. Histories keep all inputs and results for weeks, so
they hold ids, counts and digests, and no keys, names or content.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from artifact_deletion.receipt import DeletionReceipt, Preview
from artifact_deletion.request import DeletionRequest, Message

OBJECTS_TASK_QUEUE = "artifact-deletion-objects"
"""Every step that reads, lists or deletes objects, so that these workers alone need rights to the store."""
PAGE_KEYS = 1000
"""Keys of a page in the ledger: as many as one DeleteObjects request takes."""
WATCH_WORKFLOW = "WatchProjectImagesWorkflow"
LOOK_SIGNAL = "look"
MAX_CHUNKS = 100
"""Of a run. With MAX_OBJECT_STEPS and SEALS_TRIED it bounds a history: tests/workflow/test_history.py computes by how much."""
MAX_OBJECT_STEPS = 600
QUIET_PERIODS = 5
"""A prefix that is written to gets so many before it is left over."""


class Opening(Message):
    """A request, and whether this run is a fresh start or one that Reset took up again."""

    request: DeletionRequest
    fresh: bool


class Deletion(Message):
    """A deletion as this run opened it. A cancel raises the fence in the ledger: steps with an older one do nothing."""

    deletion_id: str
    organization_id: int
    fence: int
    images: bool = False
    """Whether images go too, of which no other snapshot needs any."""
    report: str | None = None
    """Only what this report listed and no row names is to go."""
    expired: bool = False
    """Only what has expired is to go."""

    @classmethod
    def of(cls, request: DeletionRequest, fence: int) -> "Deletion":
        """Of a request that was opened with this fence."""
        return cls(
            deletion_id=request.deletion_id,
            organization_id=request.organization_id,
            fence=fence,
            images=request.images == "delete",
            report=request.report,
            expired=request.expired,
        )


class Chunk(Deletion):
    """Some of its artifacts, 250 by default, whose rows go in one transaction."""

    chunk: int


class Seal(Message):
    """The keys of a chunk as one attempt wrote them down. Only this very set can be released."""

    epoch: int
    pages: int
    digest: str
    """SHA-256 over the sealed pages, hex."""


class SealedChunk(Chunk):
    """A chunk, and the seal that delete_rows is to release."""

    seal: Seal


class Released(Message):
    """The rows of a chunk are gone, and its keys may be deleted."""

    rows: int
    first_page: int
    end_page: int
    """Pages from `first_page` up to this one, not included, are owed to the object store."""
    keys: int
    trace_items_owed: bool
    """There are artifacts whose trace items are not confirmed as gone."""
    held: int = 0
    """Artifacts that a hold keeps, with their rows."""


class UnfinishedChunk(Message):
    """A chunk that owes anything: a later run does not ask again for the rest."""

    chunk: int
    released: Released | None
    """None: its rows are still there."""


class Pace(Message):
    """How much a deletion does at a time: settings of the worker that opened it, the same for the whole run."""

    chunks_at_once: int = 4
    object_steps_at_once: int = 16
    pages_a_step: int = 4
    quiet_period: timedelta = timedelta(0)
    """How long a prefix must be quiet before the listing that confirms it."""
    trace_store: bool = False
    trace_items_within: timedelta = timedelta(hours=2)
    """Trace items that are still counted after this are reported as unconfirmed."""
    search_attributes: bool = False
    """Whether the namespace has the three search attributes."""
    quick_steps: bool = False
    """Whether steps may run within the workflow task: its worker has the store too."""


class Opened(Message):
    """The deletion stands in the ledger, its artifacts in chunks."""

    fence: int
    chunks: tuple[UnfinishedChunk, ...]
    """All of them at first; the unfinished ones when a deletion is run again, at most MAX_CHUNKS."""
    rows_deleted: int
    """Rows that earlier runs deleted."""
    pace: Pace
    begins_at: datetime | None = None
    """It waits for that time, unless it has come by now."""
    held: int = 0
    """Artifacts that a hold has kept out of earlier runs, and keeps."""


class Due(Message):
    """The deletion's time has come."""


class PageRange(Chunk):
    """Pages `first` up to `end`, not included: one step's share."""

    first: int
    end: int


class ObjectsDeleted(Message):
    """What became of the pages' keys."""

    settled: int
    """Keys of the whole chunk that are deleted, absent or kept by now."""
    left_over: int
    """Keys of these pages that the store refuses to delete."""


class TraceItemsDeleted(Message):
    """What the trace store counted."""

    matched: int
    confirmed: bool
    """It counts none any more, or there is none to ask."""


class Swept(Message):
    """What listing the chunk's prefixes found until they were quiet."""

    found: int
    left_over: int


class ImagesHidden(Message):
    """What became of the images that the deletion's snapshots named."""

    hidden: int
    kept: int
    """Other snapshots name them."""
    left_over: int


class ImageProject(Message):
    """A project whose images are on their way."""

    organization_id: int
    project_id: int

    @property
    def workflow_id(self) -> str:
        """The id under which Temporal watches them, one run at a time."""
        return f"project-images/{self.organization_id}/{self.project_id}"


class ImagesWatched(Message):
    """How many projects are watched until the deletion's images are purged or restored."""

    projects: int


class ImagesSettled(Message):
    """No image of the project is on its way any more."""


class Cancelled(Message):
    """Whether the cancel came before the point of no return."""

    nothing_deleted: bool


class Waiting(Deletion):
    """A deletion of which a step is held."""

    rows: bool
    """Whether rows wait, or what comes after them: a ceiling keeps rows alone."""


class Lifted(Message):
    """No hold is on the deletion any more."""


In = TypeVar("In", bound=Message)
Out = TypeVar("Out", bound=Message)


@dataclass(frozen=True)
class Step(Generic[In, Out]):
    """The name and types of an activity."""

    name: str
    takes: type[In]
    returns: type[Out]


OPEN_DELETION = Step("open_deletion", Opening, Opened)
WAIT_TO_BEGIN = Step("wait_to_begin", Deletion, Due)
COLLECT_KEYS = Step("collect_keys", Chunk, Seal)
DELETE_ROWS = Step("delete_rows", SealedChunk, Released)
DELETE_OBJECTS = Step("delete_objects", PageRange, ObjectsDeleted)
DELETE_TRACE_ITEMS = Step("delete_trace_items", Chunk, TraceItemsDeleted)
SWEEP_PREFIXES = Step("sweep_prefixes", Chunk, Swept)
WATCH_IMAGES = Step("watch_images", Deletion, ImagesWatched)
HIDE_IMAGES = Step("hide_images", Deletion, ImagesHidden)
SETTLE_IMAGES = Step("settle_images", ImageProject, ImagesSettled)
CLOSE_DELETION = Step("close_deletion", Deletion, DeletionReceipt)
CANCEL_DELETION = Step("cancel_deletion", Deletion, Cancelled)
WAIT_WHILE_HELD = Step("wait_while_held", Waiting, Lifted)
PREVIEW_DELETION = Step("preview_deletion", DeletionRequest, Preview)
STEPS = (
    OPEN_DELETION,
    WAIT_TO_BEGIN,
    COLLECT_KEYS,
    DELETE_ROWS,
    DELETE_OBJECTS,
    DELETE_TRACE_ITEMS,
    SWEEP_PREFIXES,
    WATCH_IMAGES,
    HIDE_IMAGES,
    SETTLE_IMAGES,
    CLOSE_DELETION,
    CANCEL_DELETION,
    WAIT_WHILE_HELD,
    PREVIEW_DELETION,
)
