"""Looks whether the trace store answers.

It is asked to delete what no artifact has: a trace id that is made at random, where theirs are made of names.
"""

from uuid import uuid4

from activities.database import Database
from artifact_deletion.errors import DeletionError, Misconfigured
from commands.examine.database import hold_on_everything
from commands.examine.finding import ADAPTERS, BAD, OK, SKIPPED, WARN, Finding
from composition import open_traces
from settings import Settings

_NAME = "trace store"


def examine_traces(settings: Settings) -> Finding:
    """Ask the trace store, unless every deletion is held: then nothing is asked to delete, not even this."""
    if settings.serves == "objects":
        return Finding(_NAME, SKIPPED, "a worker that serves objects needs none; without one `reconcile` finds no trace items")
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        traces = open_traces(settings, database)
        if traces is None:
            do = "set TRACE_STORE, unless there are no trace items"
            return Finding(_NAME, WARN, "none is configured: receipts will say “unchecked”", do)
        if (why := _not_now(database)) is not None:
            return Finding(_NAME, SKIPPED, why)
        traces.delete(1, 1, [uuid4().hex])
    except Misconfigured as error:
        return Finding(_NAME, BAD, str(error), ADAPTERS)
    except DeletionError as error:
        return Finding(_NAME, BAD, str(error), "are TRACE_STORE and SNUBA_URL right, and is it up?")
    finally:
        database.dispose()
    return Finding(_NAME, OK, "it answers")


def _not_now(database: Database) -> str | None:
    """Why nothing may be deleted now."""
    try:
        return "a hold is on everything" if hold_on_everything(database) else None
    except DeletionError:
        return "the ledger does not say whether a hold is on everything"
