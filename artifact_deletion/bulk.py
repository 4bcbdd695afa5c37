"""All artifacts of a project or an organization, or those that have expired: what is asked for, how far it is, what it did.

A bulk deletion is many ordinary deletions, one after another and a few at a time. Each has a receipt of its own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import ConfigDict

from artifact_deletion.receipt import Answer
from artifact_deletion.request import DeletionRequest, Id, Message, OpaqueId

BULK_WORKFLOW = "DeleteInBulkWorkflow"
PAUSE_SIGNAL, UNPAUSE_SIGNAL = "pause", "unpause"
CONFIRM_UPDATE = "confirm"
BULK_PRIORITY = 5
"""Temporal's priority key of all that belongs to it: what a person waits for has a lower one, and is served first."""
BULK_KINDS = ("project", "organization", "expired")
COMPLETE = "complete"
"""How most of its deletions end; all others end with the name of an error."""
_WORKFLOW_ID = re.compile(r"delete-(project/[0-9]+/[0-9]+|organization/[0-9]+|expired/[0-9]+(/[0-9]+)?)")


class BulkRequest(Message):
    """All artifacts of a project or, where none is named, of the whole organization, for good."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    organization_id: Id
    project_id: Id | None = None
    images: Literal["keep", "delete"] = "keep"
    """`delete`: the images that their snapshots show go too, as far as no other snapshot of the project shows them."""
    requested_by: OpaqueId | None = None
    """Who asked, as an id that means nothing outside the backend. Above the ceiling another person has to confirm it."""
    reference: OpaqueId | None = None
    """A ticket or request id; else the deletions name the workflow's id."""
    artifacts_an_hour: Id | None = None
    """At most so many. None: as fast as a few deletions at a time are."""
    expired: bool = False
    """Only those that have expired, by the policies of `starter.py retention`."""

    @property
    def kind(self) -> str:
        """One of BULK_KINDS."""
        return "expired" if self.expired else "organization" if self.project_id is None else "project"

    @property
    def workflow_id(self) -> str:
        """The id under which Temporal runs it, once at a time."""
        of = f"{self.organization_id}" if self.project_id is None else f"{self.organization_id}/{self.project_id}"
        return f"delete-{self.kind}/{of}"

    @property
    def summary(self) -> str:
        """One line for Temporal's list of workflows."""
        of = f"organization {self.organization_id}"
        which = "the expired" if self.expired else "all"
        return f"Delete {which} artifacts of {of if self.project_id is None else f'project {self.project_id} of {of}'}"

    @property
    def details(self) -> str:
        """Markdown for the workflow's page: who asked, and what an operator may do."""
        rate = "none" if self.artifacts_an_hour is None else f"{self.artifacts_an_hour:,} artifacts an hour"
        return "\n".join(
            [
                f"- **Asked by**: {self.requested_by or 'not said'}, **reference**: {self.reference or 'not said'}",
                f"- **Images**: {self.images}, **limit**: {rate}",
                f"- **Follow it**: `python starter.py status {self.workflow_id}`; each deletion is a child workflow",
                f"- **Pause**: signal `{PAUSE_SIGNAL}`, or `python starter.py pause {self.workflow_id}`; then `unpause`",
                "- **Cancel**: no further deletion begins; those that run come to their end. Asked for anew, it goes on.",
            ]
        )

    def deletion_of(self, artifact_ids: Sequence[int]) -> DeletionRequest:
        """The ordinary deletion of some of the artifacts."""
        return DeletionRequest(
            organization_id=self.organization_id,
            artifact_ids=artifact_ids,
            project_id=self.project_id,
            requested_by=self.requested_by,
            reference=self.reference or self.workflow_id,
            images=self.images,
            expired=self.expired,
        )


class BulkCounts(Answer):
    """What its deletions did so far, as counts."""

    artifacts: int = 0
    """There were so many before anything began."""
    confirmed_by: str | None = None
    """The second person, where there had to be one."""
    asked: int = 0
    """Artifacts of all deletions that were begun."""
    deleted: int = 0
    """Artifacts whose rows they deleted."""
    not_expired: int = 0
    """Artifacts that had expired when they were asked for, and were needed again when their rows were to go: they stay."""
    deletions: Mapping[str, int] = {}
    """Deletions that have ended: "complete", or by the name of the error."""
    waiting: int = 0
    """Deletions that were begun and wait for their time, by the grace of a policy: how they end is in no count here."""
    failed: tuple[str, ...] = ()
    """Workflow ids of the first twenty that are not complete."""
    blobs_left: int = 0
    """Blobs that deleted files named; the backend's own clean-up takes those that no file names."""
    images_hidden: int = 0
    """An image that snapshots of several deletions showed may count in each of them."""
    images_kept: int = 0
    """References to images that stay."""

    @property
    def incomplete(self) -> int:
        """Deletions that ended and are not complete."""
        return sum(self.deletions.values()) - self.deletions.get(COMPLETE, 0)


class BulkProgress(BulkCounts):
    """The answer of the query `progress`."""

    running: tuple[str, ...] = ()
    """Workflow ids of the deletions that run."""
    waits: str | None = None
    """Why no further deletion begins, unless so many run."""


class BulkReceipt(BulkCounts):
    """What it did. The project's and the organization's own rows stay: they are the backend's to delete."""

    version: int = 1
    workflow_id: str
    organization_id: int
    project_id: int | None
    expired: bool = False
    requested_by: str | None
    reference: str | None
    remaining: int
    """Of the artifacts asked for, those with rows at its end: of deletions that are not complete, or that came meanwhile."""
    rows: Mapping[str, int] = {}
    """Rows that hung from the project beside its artifacts and went after the last of them, by table."""

    @property
    def complete(self) -> bool:
        """True if nothing is left over, and no artifact is there any more: but some expire while the expired ones go."""
        return not self.incomplete and (self.expired or not self.remaining)


def is_bulk(workflow_id: str) -> bool:
    """True for the id of a bulk deletion."""
    return _WORKFLOW_ID.fullmatch(workflow_id) is not None
