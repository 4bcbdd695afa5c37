"""Every error that a deletion can end or be retried with, and the one way out for all of them.

A message is fixed words with counts, codes and ids in them: it ends up in Temporal's history, where no key, name, content, SQL
parameter or secret may stand. What is not one of these errors leaves as `UnexpectedFailure` with the name of its class alone.
"""

from __future__ import annotations

import re
from typing import ClassVar

from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter, PayloadConverter
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, FailureError

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def plain_code(code: object) -> str:
    """A store's error code, which a hostile answer could fill with anything, as something that may be written down."""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else "Unknown"


class DeletionError(Exception):
    """The root of the tree. `final` errors are not retried; `benign` ones are no failures, nor logged as such."""

    final: ClassVar[bool] = False
    benign: ClassVar[bool] = False


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
    """What was sealed is not what the rows say, or not of the last to begin: collect again. Nothing was deleted."""

    final = True


class RowsRemain(DeletionError):
    """A backend's own way of deleting rows left some behind. Nothing was deleted."""


class ArtifactReappeared(DeletionError):
    """An artifact that was gone has a row again: its objects are left alone until a re-run deletes it."""

    final = True


class AskAgain(DeletionError):
    """The deletion goes on in another run, which answers."""

    final = True


class ObjectsRemain(DeletionError):
    """All else is done, but something is left over; the receipt says what and why."""

    final = True


class RowsNotDeleted(DeletionError):
    """The deletion ended before all rows were gone."""

    final = True


class Frozen(DeletionError):
    """Somebody has stopped all deletions: this one waits for a thaw. Nothing was deleted by this attempt since."""

    benign = True


class Unconfirmed(DeletionError):
    """The deletion is larger than what may be deleted unconfirmed: it waits for somebody to confirm it."""

    benign = True


class SchemaDrift(DeletionError):
    """The database has foreign keys to an artifact's tables that this version does not know. Nothing was deleted."""


class LedgerOutdated(DeletionError):
    """The ledger's tables are absent or of another version than this code."""


class AdaptersUnusable(DeletionError):
    """What was to be put in place of ours, or what a setting asks for, cannot be found."""


class EndpointUnusable(DeletionError):
    """Metrics cannot be served, or traces not be sent, as the settings ask for."""


class TemporalUnreachable(DeletionError):
    """No Temporal server answers where it is looked for."""


class TemporalMisconfigured(TemporalUnreachable):
    """Temporal's own variables or profile file say nothing that a server could be looked for with."""


class DatabaseUnavailable(DeletionError):
    """The database refused, could not be reached, or asked to try again."""


class StoreUnavailable(DeletionError):
    """The object store refused the whole request, could not be reached, or asked to slow down."""


class KeysNotDeletedYet(DeletionError):
    """The object store asked to try some keys again; they are still in their page."""


class TraceStoreUnavailable(DeletionError):
    """The trace store could not be reached, or asked to try again."""


class TraceStoreRefused(DeletionError):
    """The trace store will never do what was asked; the trace items are reported as unconfirmed."""

    final = True


class UnexpectedFailure(DeletionError):
    """A fault of ours. The worker's log has the place in the code."""


def to_application_error(error: Exception) -> ApplicationError:
    """What of an error may be seen outside the process: our own words, or the name of a class."""
    if not isinstance(error, DeletionError):
        error = UnexpectedFailure(f"{type(error).__name__}: a fault of this service; the worker's log has the place")
    category = ApplicationErrorCategory.BENIGN if error.benign else ApplicationErrorCategory.UNSPECIFIED
    return ApplicationError(str(error), type=type(error).__name__, non_retryable=error.final, category=category)


class FailuresWithoutData(DefaultFailureConverter):
    """Lets out our own errors and Temporal's, without causes of other kinds and without stack traces."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Encode what may be seen of an exception."""
        if isinstance(exception, Exception) and not isinstance(exception, FailureError):
            exception = to_application_error(exception)
        super().to_failure(exception, payload_converter, failure)
        _drop_traces(failure)


def _drop_traces(failure: Failure) -> None:
    failure.stack_trace = ""
    if failure.HasField("cause"):
        _drop_traces(failure.cause)
