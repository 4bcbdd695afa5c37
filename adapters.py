"""What an installation puts in place of ours: another store, another event store, a backend of its own, a payload codec.

`ARTIFACT_DELETION_ADAPTERS=module:name` names an `Adapters` for workers and the command line. docs/seams.md says how each is
written, and the package `conformance` has the tests that a store, a trace store and a backend must pass.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from temporalio.converter import PayloadCodec

from artifact_deletion.errors import Misconfigured
from settings import AdaptersSettings

if TYPE_CHECKING:
    from activities.backend.contract import Backend
    from activities.database import Database
    from activities.stores.objects import ObjectStore
    from activities.stores.traces import TraceStore
    from settings import Settings


@dataclass(frozen=True)
class Adapters:
    """Each is made once in a process that needs it; where there is none, ours is used."""

    object_store: "Callable[[Settings], ObjectStore] | None" = None
    trace_store: "Callable[[Settings, Database], TraceStore] | None" = None
    backend: "Callable[[Settings, Database], Backend] | None" = None
    codec: Callable[[], PayloadCodec] | None = None
    """For all that goes through Temporal. The backend's own clients then need the same one (`connect(codec=…)`)."""


def adapters() -> Adapters:
    """Those that the environment names. Raises Misconfigured."""
    named = AdaptersSettings().adapters
    if named is None:
        return Adapters()
    module, _, name = named.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Misconfigured(f"ARTIFACT_DELETION_ADAPTERS: {named} cannot be imported ({type(error).__name__})") from error
    if not isinstance(found, Adapters):
        raise Misconfigured(f"ARTIFACT_DELETION_ADAPTERS: {named} is no Adapters of artifact-deletion")
    return found
