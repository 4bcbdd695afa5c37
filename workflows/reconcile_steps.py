"""The steps of a reconcile that runs by itself, and what its workflow takes and returns. See steps.py."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from artifact_deletion.receipt import Answer
from artifact_deletion.request import Id, Message, OpaqueId
from workflows.steps import Step

RECONCILE_WORKFLOW = "ReconcileWorkflow"


class Reconcile(Message):
    """Which projects are compared with the store, and what counts as an orphan."""

    organization_id: Id
    project_id: Id | None = None
    """None: each of the organization's."""
    older_than: timedelta = timedelta(days=7)
    """An orphan is at least so old."""
    implausible: Annotated[int, Field(ge=1, le=100)] = 50
    """If more percent of a project's objects are orphans, or of its artifacts' traces, none may be deleted by its report."""
    usable_for: timedelta = timedelta(days=7)
    """How long a report may be acted on."""
    requested_by: OpaqueId | None = None

    @property
    def of(self) -> str:
        """What it is about, for a person."""
        of = f"organization {self.organization_id}"
        return of if self.project_id is None else f"project {self.project_id} of {of}"


class ProjectAfter(Message):
    """The next project by its id."""

    request: Reconcile
    after: int


class ProjectFound(Message):
    """That project; none at the end."""

    project_id: int | None


class Look(Message):
    """A look at one project."""

    request: Reconcile
    project_id: int


class ProjectReport(Answer):
    """A report in the ledger, in counts."""

    project_id: int
    report: str
    """Its id there: `starter.py reconcile --delete` takes it."""
    rows: int
    """Artifacts that have a row."""
    objects: Mapping[str, int]
    """By class; those that have none are left out. Of classes of traces, trace items."""
    orphan_bytes: int
    dangling: int
    """Artifacts of which a row names an object that cannot be read."""
    implausible: bool
    """Nothing may be deleted by it."""
    why_no_traces: str | None = None
    """Why the project's trace items were not looked at, if they were not."""

    @property
    def orphans(self) -> int:
        """Objects that no row names."""
        return self.objects.get("orphan", 0)

    @property
    def trace_orphans(self) -> int:
        """Trace items of artifacts that have no row."""
        return self.objects.get("trace_orphan", 0)

    @property
    def leftovers(self) -> int:
        """Objects of comparisons that have no row."""
        return self.objects.get("comparison_leftover", 0)


class Reports(Answer):
    """The workflow's result. Each project's report is in the ledger, whether anything was found or not."""

    projects: int = 0
    """Those that were looked at."""
    orphans: int = 0
    """Objects of all projects together that no row names."""
    orphan_bytes: int = 0
    trace_orphans: int = 0
    """Trace items of all projects together, of artifacts that have no row."""
    dangling: int = 0
    """Artifacts of all projects of which a row names an object that cannot be read."""
    without_traces: int = 0
    """Projects whose trace items were not looked at: the trace store could not be asked."""
    implausible: int = 0
    """Reports by which nothing may be deleted."""
    reports: tuple[ProjectReport, ...] = ()
    """The first twenty in which anything is left behind or dangles, and that of one asked for alone."""
    failed: tuple[int, ...] = ()
    """The first twenty projects of which the look failed."""
    failures: Mapping[str, int] = {}
    """How many failed, by the name of the error."""


class ReconcileRun(Reconcile):
    """The workflow's input: a schedule sends the request alone, and a run that is long hands on the rest."""

    after: int = 0
    so_far: Reports = Reports()
    failed_in_a_row: int = 0
    """Looks that have failed since the last that did not."""

    @property
    def request(self) -> Reconcile:
        """What the schedule sent."""
        return Reconcile(**self.model_dump(exclude={"after", "so_far", "failed_in_a_row"}))


NEXT_PROJECT = Step("next_project", ProjectAfter, ProjectFound)
RECONCILE_PROJECT = Step("reconcile_project", Look, ProjectReport)
RECONCILE_STEPS = (NEXT_PROJECT, RECONCILE_PROJECT)
