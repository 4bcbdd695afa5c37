"""What a backend puts in place of ours: another store, another event store, rows deleted by its own ORM, a payload codec.

`ARTIFACT_DELETION_ADAPTERS=module:name` names an `Adapters` for workers and clients alike. docs/seams.md says how each is
written, and the package `conformance` has the tests that a store and a trace store must pass.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from temporalio.converter import PayloadCodec

from settings import AdaptersSettings
from workflows.errors import AdaptersUnusable

if TYPE_CHECKING:
    from activities.delete_rows import Rows
    from activities.storage.database import Database
    from activities.storage.objects import ObjectStore
    from activities.storage.traces import TraceStore
    from settings import Settings


@dataclass(frozen=True)
class Adapters:
    """Each is made once in a process that needs it; where there is none, ours is used."""

    object_store: "Callable[[Settings], ObjectStore] | None" = None
    trace_store: "Callable[[Settings, Database], TraceStore] | None" = None
    rows: "Callable[[Settings, Database], Rows] | None" = None
    codec: Callable[[], PayloadCodec] | None = None
    """For all that goes through Temporal. Clients in other languages then need the same one."""


def adapters() -> Adapters:
    """Those that the environment names. Raises AdaptersUnusable."""
    named = AdaptersSettings().adapters
    if named is None:
        return Adapters()
    module, _, name = named.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise AdaptersUnusable(f"ARTIFACT_DELETION_ADAPTERS: {named} cannot be imported ({type(error).__name__})") from error
    if not isinstance(found, Adapters):
        raise AdaptersUnusable(f"ARTIFACT_DELETION_ADAPTERS: {named} is no Adapters of artifact-deletion")
    return found
