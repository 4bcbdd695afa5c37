"""Every error that a deletion can end or be retried with, and the one way out for all of them.

A message is fixed words with counts, codes and ids in them: it ends up in Temporal's history, where no key, name, content, SQL
parameter or secret may stand. Any other exception leaves as `UnexpectedFailure` with the name of its class alone.
"""

import re
from datetime import timedelta
from typing import ClassVar

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def plain_code(code: object) -> str:
    """A store's error code, which a hostile answer could fill with anything, as text that may be written down."""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else "Unknown"


class DeletionError(Exception):
    """The root of the tree. `final` errors are not retried; `benign` ones are no failures, nor logged as such."""

    final: ClassVar[bool] = False
    benign: ClassVar[bool] = False
    retry_in: timedelta | None = None
    """When to try again; None: soon, then less and less often."""


class InvalidRequest(DeletionError):
    """The request is not one; the message names fields, never values."""

    final = True


class ArtifactNotInOrganization(DeletionError):
    """An artifact of the request belongs to another organization. Nothing was read from the store, nothing deleted."""

    final = True


class ProjectNotInOrganization(DeletionError):
    """The request's project belongs to another organization. Nothing was read from the store, nothing deleted."""

    final = True


class NotOpen(DeletionError):
    """The ledger says that this deletion was cancelled, refused or closed: a step came too late."""

    final = True


class StaleAttempt(DeletionError):
    """A newer attempt has taken over the chunk; this one must not write any more."""

    final = True


class StaleSeal(DeletionError):
    """The seal differs from the rows, or a newer attempt has begun: collect again. Nothing was deleted."""

    final = True


class ArtifactReappeared(DeletionError):
    """An artifact that was gone has a row again: its objects are left alone until a re-run deletes it."""

    final = True


class ObjectsRemain(DeletionError):
    """All else is done, but something is left over; the receipt says what and why."""

    final = True


class RowsNotDeleted(DeletionError):
    """The deletion ended before all rows were gone."""

    final = True


class BulkNotComplete(DeletionError):
    """A bulk deletion has come to its end: deletions of it are not complete, or artifacts are there that came meanwhile."""

    final = True


class ReconcileNotComplete(DeletionError):
    """A reconcile of an organization has come to its end: of some of its projects the look failed."""

    final = True


class Held(DeletionError):
    """A person holds deletions up: this one waits until the hold is lifted. This attempt deleted nothing since."""

    final = True
    benign = True


class NotYet(DeletionError):
    """There is nothing wrong: the step waits for something, and says for what."""

    benign = True

    def __init__(self, message: str, retry_in: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_in = retry_in


class RowsRemain(DeletionError):
    """A backend's own way of deleting rows left some behind. Nothing was deleted."""


class SchemaDrift(DeletionError):
    """The database has foreign keys to an artifact's tables that this version does not know. Nothing was deleted."""


class LedgerOutdated(DeletionError):
    """The ledger's tables are absent or of another version than this code."""


class Misconfigured(DeletionError):
    """A setting cannot be used; the message names it, and never its value."""


class TemporalUnreachable(DeletionError):
    """No Temporal server answers where it is looked for."""


class TemporalMisconfigured(TemporalUnreachable, Misconfigured):
    """Temporal's own variables or profile file name no server that could be looked for."""


class WorkflowIdTaken(DeletionError):
    """A workflow of another type, or on another task queue, runs under the deletion's id: it will never delete anything."""


class DatabaseUnavailable(DeletionError):
    """The database refused, could not be reached, or asked to try again."""


class StoreUnavailable(DeletionError):
    """The object store refused the whole request, could not be reached, or asked to slow down."""


class KeysNotDeletedYet(DeletionError):
    """The object store asked to try some keys again; they are still in their page."""


class TraceStoreUnavailable(DeletionError):
    """The trace store could not be reached, or asked to try again."""


class TraceStoreRefused(DeletionError):
    """The trace store will never do it; the trace items are reported as unconfirmed."""

    final = True


class UnexpectedFailure(DeletionError):
    """A fault of this service. The worker's log has the place in the code."""


def to_application_error(error: Exception, retry_in: timedelta | None = None) -> ApplicationError:
    """The part of an error that may be seen outside the process: our own words, or the name of a class."""
    if not isinstance(error, DeletionError):
        error = UnexpectedFailure(f"{type(error).__name__}: a fault of this service; the worker's log has the place")
    return ApplicationError(
        str(error),
        type=type(error).__name__,
        non_retryable=error.final,
        next_retry_delay=None if error.final else retry_in,
        category=ApplicationErrorCategory.BENIGN if error.benign else ApplicationErrorCategory.UNSPECIFIED,
    )
