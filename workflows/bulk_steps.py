"""The steps of a bulk deletion, and what one of its runs hands on to the next. See steps.py."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from artifact_deletion.bulk import BulkCounts, BulkRequest
from artifact_deletion.request import DeletionRequest, Id, Message, OpaqueId
from workflows.steps import Step

RETENTION_WORKFLOW = "RunRetentionWorkflow"


class BulkOpened(Message):
    """What there is to delete, and how much of it at a time: settings of the worker that opened it."""

    artifacts: int
    too_many: bool
    """More than may go without a second person's word."""
    artifacts_a_deletion: int = 250
    deletions_at_once: int = 4
    search_attributes: bool = False
    """Whether the namespace has the search attributes."""


class After(Message):
    """A page of artifacts, by key."""

    request: BulkRequest
    after: int
    at_most: int
    last: str | None = None
    """The deletion that was begun last: how many keys it has is not known before they are collected."""


class ArtifactsFound(Message):
    """The page; empty at the end."""

    artifact_ids: tuple[int, ...]
    not_before: datetime | None = None
    """By their policies their deletion waits until then, so that a person can undo it."""


class OthersEnded(Message):
    """No run is at work on that deletion any more."""


class BulkClosed(Message):
    """What is there at the end, and what went beside the artifacts."""

    remaining: int
    rows: Mapping[str, int] = {}


class SoFar(Message):
    """What one run hands on to the next, so that no history grows without bounds."""

    opened: BulkOpened
    counts: BulkCounts
    after: int = 0
    """The last artifact of the last deletion that was begun."""
    not_before: datetime | None = None
    """Where so many artifacts an hour are the limit: when the next deletion may begin."""
    paused: bool = False
    running: tuple[tuple[int, ...], ...] = ()
    """Artifacts of deletions that were begun and have not ended, each by itself."""


class BulkRun(BulkRequest):
    """The workflow's input: a client sends the request alone."""

    so_far: SoFar | None = None

    @property
    def request(self) -> BulkRequest:
        """What the client sent."""
        return BulkRequest(**self.model_dump(exclude={"so_far"}))


class Retention(Message):
    """Of which organizations what has expired is to be deleted, and how."""

    organization_id: Id | None = None
    """None: of all."""
    images: Literal["keep", "delete"] = "keep"
    requested_by: OpaqueId | None = None
    artifacts_an_hour: Id | None = None
    """Of each organization."""


class RetentionStarted(Message):
    """For how many organizations a bulk deletion runs."""

    organizations: int


OPEN_BULK = Step("open_bulk", BulkRequest, BulkOpened)
NEXT_ARTIFACTS = Step("next_artifacts", After, ArtifactsFound)
WAIT_FOR_OTHERS = Step("wait_for_others", DeletionRequest, OthersEnded)
CLOSE_BULK = Step("close_bulk", BulkRequest, BulkClosed)
START_RETENTION = Step("start_retention", Retention, RetentionStarted)
BULK_STEPS = (OPEN_BULK, NEXT_ARTIFACTS, WAIT_FOR_OTHERS, CLOSE_BULK, START_RETENTION)
