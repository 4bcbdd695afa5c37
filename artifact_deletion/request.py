"""What a backend asks for, and the ids that follow from it.

Temporal's history keeps a request for weeks, so it holds ids alone. The names that other languages need to start a deletion
with plain JSON stand here too.
"""

import hashlib
import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from annotated_types import Len
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

DELETE_WORKFLOW = "DeleteArtifactsWorkflow"
PREVIEW_WORKFLOW = "PreviewDeletionWorkflow"
TASK_QUEUE = "artifact-deletion"
"""Workflow tasks, and the steps that need the database alone."""
ROWS_DELETED_UPDATE = "rows_deleted"
PROGRESS_QUERY = "progress"
SEARCH_ATTRIBUTES = {"OrganizationId": "Keyword", "DeletionStage": "Keyword", "Leftovers": "Int"}
"""What operators filter lists of workflows by, with Temporal's type of each."""
MAX_ARTIFACTS = 10_000
MAX_REQUEST_BYTES = 2**19
"""JSON of 10,000 ids of 63 bits takes half of it."""
_NAMED_ERRORS = 100


class Message(BaseModel):
    """A frozen message that knows all its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")  # noqa: TRY004  pydantic turns only ValueError into a validation error
    return value


def _sorted_once(values: Any) -> tuple[int, ...]:
    if not isinstance(values, Sequence | AbstractSet) or isinstance(values, str | bytes):
        raise ValueError("must be a list of whole numbers")  # noqa: TRY004  as above
    # Checked here, where the first bad one ends it: half a million errors take longer than a workflow task may.
    return tuple(sorted({_whole(value) for value in values}))


def utc_time(value: object) -> datetime:
    """A time that says its zone, in UTC. Raises ValueError, which names no value."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(found, datetime) and found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a time with its zone, such as 2026-11-25T02:00:00Z")


_IMAGES = {
    "keep": "they stay, for the project's other snapshots and for the store's expiry.",
    "delete": "those that no other snapshot shows are hidden, then purged (`python starter.py images status --project N`).",
}
Id = Annotated[int, Field(gt=0, lt=2**63), BeforeValidator(_whole)]
OPAQUE_ID = r"^[A-Za-z0-9][A-Za-z0-9_.:/#-]{0,127}$"
OpaqueId = Annotated[str, StringConstraints(pattern=OPAQUE_ID)]


_REPORT_AND_EXPIRED: dict[str, Any] = {
    "properties": {"report": {"type": "string"}, "expired": {"const": True}},
    "required": ["report", "expired"],
}
"""What no request may be, for the schema."""


class DeletionRequest(Message):
    """What a backend asks for: these artifacts of this organization, for good."""

    model_config = ConfigDict(
        use_attribute_docstrings=True,  # they are the schema's descriptions
        json_schema_extra={"not": _REPORT_AND_EXPIRED},
    )

    organization_id: Id
    """Every artifact must belong to it, or nothing is deleted."""
    artifact_ids: Annotated[Sequence[Id], Len(1, MAX_ARTIFACTS), BeforeValidator(_sorted_once), AfterValidator(tuple)]
    """Ids of `sentry_preprodartifact`, 1 to 10,000. Duplicates are dropped, order does not matter."""
    project_id: Id | None = None
    """Where artifacts lay whose rows are already gone: with it, their objects and trace items are deleted all the same."""
    requested_by: OpaqueId | None = None
    """Who asked, as an id that means nothing outside the backend (no e-mail address): it stays in Temporal's history."""
    reference: OpaqueId | None = None
    """A ticket or request id. It stays in Temporal's history."""
    images: Literal["keep", "delete"] = "keep"
    """`delete`: the images that their snapshots show go too, as far as no other snapshot of the project shows them."""
    report: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    """Of `reconcile`: only objects that it listed and no row names go, and no row. It must list all of the artifacts."""
    expired: bool = False
    """Only those of them that have expired by the policies of `retention` when their rows are deleted. The others stay, and are
    not left over."""
    not_before: Annotated[datetime, BeforeValidator(utc_time)] | None = None
    """The deletion waits until this time, which says its zone; a cancel undoes it until then. It is no part of the deletion's
    id. Where the same artifacts are asked for with several times, the earliest counts, and no time is at once."""

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.report and self.expired:
            raise ValueError("report and expired do not go together: what a report lists has no row that could expire")
        return self

    @property
    def deletion_id(self) -> str:
        """32 hex digits: the same artifacts asked for in the same way are the same deletion for every caller.

        The first half of the SHA-256 of JSON without spaces, names in order, ids sorted: other languages compute the same.
        """
        return self._digest(f"report {self.report}" if self.report else "expired" if self.expired else "delete")

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
        what = "what is left of " if self.report else "what has expired of " if self.expired else ""
        return f"Delete {what}{count:,} artifact{'s' * (count != 1)} of organization {self.organization_id}"

    @property
    def details(self) -> str:
        """Markdown for the workflow's page: who asked, and how an operator follows it and runs it again."""
        waits = [] if self.not_before is None else [f"- **Begins**: not before {self.not_before:%Y-%m-%d %H:%M:%S} UTC"]
        return "\n".join(
            [
                *waits,
                f"- **Asked by**: {self.requested_by or 'not said'}, **reference**: {self.reference or 'not said'}",
                f"- **Images**: {_IMAGES[self.images]}",
                f"- **Follow it**: `python starter.py status {self.workflow_id} --follow`",
                f"- **When it has failed**: mend its failure's cause, then `python starter.py rerun {self.workflow_id}`.",
                "- **In here**: *Reset* to the first workflow task does the same: the rest, and nothing else.",
                "- **No current details here**: no worker answers, or it has ended and its result or failure says all.",
            ]
        )

    def _digest(self, mode: str) -> str:
        asked = {
            "organization": self.organization_id,
            "artifacts": self.artifact_ids,
            "project": self.project_id,
            "mode": mode,
            "images": self.images,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def workflow_id(organization_id: int, deletion_id: str) -> str:
    """The id under which Temporal runs a deletion."""
    return f"delete-artifacts/{organization_id}/{deletion_id}"


def refused_fields(error: ValidationError) -> str:
    """Says of a request which fields are wrong, and never their values: "artifact_ids: List should have …"."""
    if (count := error.error_count()) > _NAMED_ERRORS:  # a workflow task has two seconds
        return f"request: {count:,} of its fields and values are wrong"
    reasons: dict[str, str] = {}
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = problem["loc"][0] if problem["loc"] else "request"
        reason = problem["msg"].removeprefix("Value error, ")
        reasons.setdefault("an unknown field" if problem["type"] == "extra_forbidden" else str(name), reason)
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def request_schema() -> str:
    """The JSON Schema of a request, for clients in other languages: docs/request.schema.json."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | DeletionRequest.model_json_schema(), indent=2)
