"""What a deletion did, and how far it is: the receipt for an auditor, the progress for an operator, the preview beforehand.

All of them pass through Temporal's history, so they hold ids, counts, codes and digests alone. docs/receipt.md explains each
field of a receipt.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import ConfigDict

from artifact_deletion.request import Message

IDS_IN_HISTORY = 100
"""How many ids of a kind a receipt carries through Temporal. The ledger's copy has all of them."""


class Answer(Message):
    """What the service says. It may be newer than a backend, which passes over the fields that it does not know."""

    model_config = ConfigDict(extra="ignore")


class Ids(Answer):
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
        """The same count, and as many ids as fit."""
        return self.model_copy(update={"ids": self.ids[:IDS_IN_HISTORY]})


class GoneBefore(Answer):
    """Artifacts whose rows were gone before this deletion came to them."""

    by_deletion: Mapping[str, Ids] = {}
    """Deleted by these other deletions, by workflow id; their receipts speak for the objects."""
    swept: Ids = Ids()
    """Deleted by no deletion of the ledger, and swept in the project that the request names or the ledger knows."""
    objects_unchecked: Ids = Ids()
    """Deleted by no deletion of the ledger; without a project there is no telling where their objects would lie."""


class ArtifactsReceipt(Answer):
    """What became of each artifact."""

    deleted: Ids = Ids()
    gone_before: GoneBefore = GoneBefore()
    moved: Ids = Ids()
    """Belong to another organization by now: left alone, and left over."""
    not_reached: Ids = Ids()
    """A step before their rows' deletion did not succeed in its time."""
    held: Ids = Ids()
    """A hold on them, their project or an artifact that they were compared with keeps them: they are whole, and left over."""
    not_expired: Ids = Ids()
    """Of what was asked for because it had expired: a policy or a newer comparison needs them by now, and they are whole."""
    reappeared: Ids = Ids()
    """Have rows again, which came after this deletion had deleted or missed them: only a re-run deletes those."""
    orphaned: Ids = Ids()
    """Of a report's deletion: had no row. What the report listed of them was deleted; younger objects were left alone."""
    living: Ids = Ids()
    """Of a report's deletion: have a row. Of what lies under them only comparisons went that the report listed without one."""


class FilesReceipt(Answer):
    """What became of `sentry_file` rows. Blobs stay: files share them, and the backend's own clean-up removes unused ones."""

    deleted: int = 0
    kept: Mapping[str, Ids] = {}
    """File ids by the reason for which another needs them."""
    blobs_left: int = 0
    """Blobs that deleted files named; their ids are in the ledger."""


class ObjectsReceipt(Answer):
    """What became of object keys. sealed = deleted + absent + kept + left over; what listing found is counted apart."""

    sealed: int = 0
    sealed_by_kind: Mapping[str, int] = {}
    deleted: int = 0
    """The store confirmed that the key is gone. An unversioned store does not say whether it was ever there."""
    absent: int = 0
    """Known to have been absent before."""
    kept: int = 0
    """Icons that another app info of the project names."""
    left_over: Mapping[str, int] = {}
    """Sealed keys that are still there, by the store's code."""
    found_by_listing: int = 0
    """Objects that no row or manifest named, found under the artifacts' own prefixes and deleted."""
    found_left_over: Mapping[str, int] = {}
    """Objects found by listing that are still there, by code."""
    prefixes: int = 0
    prefixes_listed_empty: int = 0
    prefixes_unchecked: int = 0
    """The store cannot list."""
    keys_looked_for: int = 0
    """Archives and icons, whose neighbours are others': each was looked for by its own name."""
    keys_listed_absent: int = 0
    """Of those: the store's own listing showed no such key, or an icon that another app info names."""
    uploads_aborted: int = 0
    """Unfinished multipart uploads under the artifacts' own prefixes and keys."""
    uploads_unchecked: int = 0
    """Prefixes under which no unfinished uploads were looked for: the store has none, or cannot list them."""
    listed_empty_from: datetime | None = None
    """When the first of the prefixes was listed empty; the others were later, until the deletion was closed."""
    digest: str = ""
    """SHA-256 over the digests of all sealed pages, hex."""


class ManifestsReceipt(Answer):
    """Manifests, as counts."""

    read: int = 0
    evicted: int = 0
    """Named by a row, absent from the store."""
    unreadable: int = 0
    """Not of a manifest's shape; the prefix they stand for was swept all the same, where the store can list."""
    masks_unknown: int = 0
    """Those of them that name diff masks, where the store cannot list: which masks is unknown. They are left over."""
    strays: int = 0
    """Keys that they, or columns, named outside the artifact's own prefixes: neither read nor deleted."""
    named_elsewhere: int = 0
    """Those of them that columns name under another project or organization but with the artifact's own id: it was moved. They
    are left over, for a person to look at."""
    images_kept: int = 0
    """References to images, which the project's snapshots share: kept for the store's expiry."""


class ImagesReceipt(Answer):
    """What became of the images that the artifacts' manifests named, as counts.

    named = absent + kept + hidden + purged + restored + left over.
    """

    policy: str = "keep"
    """"keep": they were not asked for; "delete"."""
    how: str | None = None
    """"markers" or "copies": how the store hides them."""
    named: int = 0
    projects: Ids = Ids()
    """Whose images they are: after a restore of the database their hidden images are looked for."""
    absent: int = 0
    """The store had none of it."""
    kept: int = 0
    """Another snapshot of the project names it."""
    hidden: int = 0
    """Unreadable; the bytes stay until `due`, in case that a client skipped an upload because they existed."""
    purged: int = 0
    """Gone for good by the time that this was written."""
    restored: int = 0
    """Hidden, and readable again by then: a snapshot was uploaded that names it."""
    left_over: Mapping[str, int] = {}
    """Still readable, by the reason."""
    hidden_from: datetime | None = None
    """Since when all hidden ones are unreadable."""
    due: datetime | None = None
    """When the hidden ones are purged, unless a snapshot names them by then."""
    unreadable: Ids = Ids()
    """Artifacts of the same projects whose manifests say nothing: while they do, no image of their project goes."""


class TraceItemsReceipt(Answer):
    """Trace items, as counts."""

    state: str = "unchecked"
    """"confirmed": counted zero after the deletion; "unconfirmed"; or "unchecked": no trace store, or no project to ask in."""
    matched: int = 0
    unconfirmed_artifacts: int = 0
    unchecked_artifacts: int = 0
    """Gone before, in an unknown project: there was no place to ask in."""
    confirmed_at: datetime | None = None


class TimesReceipt(Answer):
    """When each claim became true, by the database's clock (UTC)."""

    accepted: datetime
    """When it was asked for; of one that had ended, when it was asked for anew."""
    rows_deleted: datetime | None = None
    """When the last of them went. None: some are there; in a complete one, they went before it was asked for anew."""
    closed: datetime
    days: float | None = None
    """From `accepted` to `closed`, in hundredths of a day, rounded up: at most `promised_days` if and only if that was kept."""
    promised_days: int | None = None
    """Within how many days the deletion was promised to be done, by the worker's settings when it was closed."""


class DeletionReceipt(Answer):
    """What a deletion did, for an auditor. Replicas and backups are out of its scope."""

    version: int = 1
    deletion_id: str
    workflow_id: str
    organization_id: int
    requested_artifacts: int
    requested_by: str | None
    reference: str | None
    report: str | None = None
    """Of `reconcile`: only objects that it listed and no row named were to go."""
    complete: bool
    """True if nothing is left over."""
    artifacts: ArtifactsReceipt
    rows: Mapping[str, int]
    """Deleted rows by table."""
    files: FilesReceipt
    objects: ObjectsReceipt
    manifests: ManifestsReceipt
    trace_items: TraceItemsReceipt
    images: ImagesReceipt = ImagesReceipt()
    owed_by_others: int = 0
    """Artifacts whose objects another deletion, named above, still owes."""
    times: TimesReceipt

    @property
    def left_over(self) -> dict[str, int]:
        """All that is still there, by reason."""
        counts = Counter(self.objects.left_over) + Counter(self.objects.found_left_over) + Counter(self.images.left_over)
        counts += Counter(
            {
                "Held": self.artifacts.held.count,
                "MasksUnknown": self.manifests.masks_unknown,
                "Moved": self.artifacts.moved.count,
                "NamedElsewhere": self.manifests.named_elsewhere,
                "RowsNotDeleted": self.artifacts.not_reached.count,
                "TraceItemsUnconfirmed": self.trace_items.unconfirmed_artifacts,
                "OwedByOthers": self.owed_by_others,
                "Reappeared": self.artifacts.reappeared.count,
            }
        )
        return dict(counts)

    def for_history(self) -> Self:
        """The same receipt with lists of ids that fit into a payload of Temporal's."""
        shortened: Self = _shortened(self)
        return shortened


def _shortened(value: Any) -> Any:
    """The value with its `Ids` cut, however deep they lie, and at most twenty other deletions."""
    if isinstance(value, Ids):
        return value.for_history()
    if isinstance(value, Answer):
        return value.model_copy(update={name: _shortened(getattr(value, name)) for name in type(value).model_fields})
    if isinstance(value, Mapping) and any(isinstance(one, Ids) for one in value.values()):
        return {name: _shortened(one) for name, one in list(value.items())[:20]}
    return value


class Stage(StrEnum):
    """Where a deletion is. The order is that of the work."""

    OPENING = "opening"
    WAITING = "waiting"
    """For its time: nothing is deleted yet."""
    COLLECTING = "collecting keys"
    DELETING_ROWS = "deleting rows"
    """Some are gone: from here on there is no way back."""
    DELETING_OBJECTS = "deleting objects and trace items"
    CLOSING = "closing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AtWork(Answer):
    """Steps of one kind that were asked for and have not ended."""

    step: str
    count: int = 1
    since: datetime
    """When the oldest of them was asked for. Temporal's pending activities say how it has fared since."""


class Progress(Answer):
    """The answer of the query `progress`: counts alone."""

    stage: Stage = Stage.OPENING
    artifacts: int = 0
    chunks: int = 0
    chunks_rows_deleted: int = 0
    rows_deleted: int = 0
    artifacts_held: int = 0
    """Artifacts that a hold keeps, with all that is theirs."""
    keys: int = 0
    keys_done: int = 0
    left_over: int = 0
    """Keys and found objects that are still there after their step."""
    chunks_swept: int = 0
    """Chunks whose prefixes were listed empty after a quiet period, or that need no further listing."""
    found_by_listing: int = 0
    trace_items_matched: int = 0
    trace_chunks: int = 0
    trace_chunks_done: int = 0
    trace_chunks_confirmed: int = 0
    images: bool = False
    """Whether images go too, of which no other snapshot needs any."""
    images_hidden: int | None = None
    """Images that are unreadable by now; None until that is known, or where they stay."""
    images_kept: int = 0
    """Images that other snapshots show."""
    cancel_refused: bool = False
    """A cancel came after rows were deleted: the rest is finished all the same."""
    waits_until: datetime | None = None
    """Its time, while it waits for it; it begins sooner if one asks for that."""
    held: str | None = None
    """Why the deletion waits: a person has placed a hold, or has to lift one."""
    at_work: tuple[AtWork, ...] = ()


class RowsGone(Answer):
    """The answer of the update `rows_deleted`."""

    artifacts: int
    rows: int


class ObjectsFound(Answer):
    """Objects of a kind that a deletion would take. In a bucket with versions, each version and delete marker counts."""

    count: int = 0
    size: int | None = 0
    """Bytes; None where the store cannot list."""


class ImagesFound(Answer):
    """What a deletion would do about images, as counts. named = named_by_others + to_hide + left over.

    By the index of the projects' snapshots and by up to 200 manifests that it does not have yet.
    """

    policy: str = "keep"
    """"keep": they were not asked for; "delete"."""
    named: int = 0
    """The artifacts' own manifests name them."""
    named_by_others: int = 0
    """Other snapshots of the same project name them too: they would stay."""
    to_hide: int = 0
    """They would be hidden, then purged after a grace. At most so many, unless `unknown` is 0."""
    unknown: int = 0
    """Other snapshots of these projects whose manifests were not looked at: `images index` reads them."""
    left_over: Mapping[str, int] = {}
    """They would stay, by the reason."""
    closed: Mapping[str, Ids] = {}
    """By project, artifacts whose manifests say nothing: while they do, no image of the project goes. At most 20 projects."""


class Preview(Answer):
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
    """Have none, in an unknown project."""
    held: Ids = Ids()
    """A hold on them, their project or an artifact that they were compared with would keep them: all else is about the rest."""
    not_expired: Ids = Ids()
    """Where only what has expired is to go: these have not."""
    heirs: Ids = Ids()
    """Selective snapshots that would stay, and inherit images from one that would go: they show nothing for those then."""
    overlapping: tuple[str, ...] = ()
    """Workflow ids of open deletions of the same artifacts, at most twenty."""
    rows: Mapping[str, int] = {}
    files_kept: Mapping[str, Ids] = {}
    objects: Mapping[str, ObjectsFound] = {}
    """By kind: its name among columns, manifests and ids, or "found by listing"."""
    icons_kept: int = 0
    unfinished_uploads: int | None = None
    """None where the store cannot list them."""
    manifests: ManifestsReceipt = ManifestsReceipt()
    images: ImagesFound = ImagesFound()
    strays: Mapping[str, int] = {}
    """Keys that are left alone, by the reason."""
