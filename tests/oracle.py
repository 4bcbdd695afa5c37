"""Do the promises hold? One function looks at the whole world, before and after, and takes no word of the service for it.

What belongs to whom it asks the builder's own record (`World.rows_of`, `World.objects_of`), in which keys are spelled out a
second time; what is owed it reads from the ledger's tables as they stand.
"""

import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import select

from activities.storage.database import Database
from activities.storage.ledger import DeletionState, LedgerTable, PrefixState
from demo.world import SCOPE_TEMPLATE, World
from workflows.messages import DeletionReceipt, DeletionRequest

Row = dict[str, Any]
_USECASES = ("preprod", "snapshots", "preprod_size")
_ENDED = {DeletionState.CLOSED, DeletionState.FAILED, DeletionState.REFUSED, DeletionState.CANCELLED}


class Backend(Protocol):
    """What there is to look at: a test's stack, or whatever else has a database and a builder's record."""

    @property
    def database(self) -> Database: ...

    @property
    def world(self) -> World: ...


@dataclass(frozen=True)
class Evidence:
    """All that can be seen of the world at a moment."""

    rows: dict[str, dict[int, Row]]
    objects: dict[str, Any]
    """Etag and size by physical key."""
    versions: dict[str, list[Any]]
    """Versions and delete markers by physical key: what is in here holds data, or says that it did."""
    uploads: Counter[str]
    ledger: dict[str, list[Row]]

    @classmethod
    def of(cls, stack: Backend) -> "Evidence":
        with stack.database.read() as session:
            ledger = {
                table.name: [dict(row) for row in session.execute(select(table)).mappings()]
                for table in LedgerTable.metadata.sorted_tables
            }
        return cls(
            rows=stack.world.rows(),
            objects=dict(stack.world.objects()),
            versions=dict(stack.world.object_versions()),
            uploads=stack.world.uploads(),
            ledger=ledger,
        )

    @property
    def artifacts(self) -> Collection[int]:
        """The artifacts that have rows."""
        return self.rows["sentry_preprodartifact"].keys()

    def everything(self) -> set[str]:
        """Every key under which the store holds anything."""
        return {*self.objects, *self.versions, *self.uploads}

    def deletions(self) -> dict[str, Row]:
        """The deletions that were accepted, by id."""
        return {row["id"]: row for row in self.ledger["artifact_deletion"]}


def assert_promises_hold(
    stack: Backend, before: Evidence, requests: Iterable[DeletionRequest], *, also_owned: Iterable[str] = ()
) -> None:
    """Everything has come to rest: each deletion has ended, whatever struck it, and each promise holds.

    `before` was taken when all was there that is not to be touched; `also_owned` are keys under the artifacts' own prefixes
    that were put there without the builder.
    """
    broken = list(violations(stack, before, Evidence.of(stack), list(requests), set(also_owned)))
    assert not broken, "\n".join(broken)


def violations(
    stack: Backend, before: Evidence, after: Evidence, requests: list[DeletionRequest], also_owned: set[str]
) -> Iterator[str]:
    """Each promise that does not hold, and where."""
    asked = {artifact for request in requests for artifact in request.artifact_ids}
    gone = {artifact for artifact in asked if artifact not in after.artifacts}
    own_rows, own_keys = stack.world.rows_of(gone), stack.world.objects_of(gone) | also_owned
    yield from _orphaned(before, after, own_rows, own_keys)
    yield from _dangling(before, after)
    yield from _trespassed(before, after, own_rows, own_keys)
    yield from _forgotten(after, requests)
    yield from _untrue(after)


def _orphaned(before: Evidence, after: Evidence, own_rows: set[tuple[str, int]], own_keys: set[str]) -> Iterator[str]:
    """1: what was the artifacts' is gone, or somebody still owes it and says so."""
    owed = dict(_owed(after))
    failed = {id_ for id_, row in after.deletions().items() if row["state"] == DeletionState.FAILED}
    for key in sorted(own_keys & after.everything()):
        owing = {
            id_ for name, ids in owed.items() if key == name or (name.endswith("/") and key.startswith(name)) for id_ in ids
        }
        if not owing & failed:
            yield f"orphaned: {key} is still there, and no failed deletion owes it"
    kept = {
        ("sentry_file", file)
        for receipt in _receipts(after).values()
        for ids in receipt.files.kept.values()
        for file in ids.ids
    }
    kept |= {
        ("sentry_fileblobindex", row["id"])
        for row in after.rows["sentry_fileblobindex"].values()
        if ("sentry_file", row["file_id"]) in kept
    }
    unconfirmed = any(receipt.trace_items.state != "confirmed" for receipt in _receipts(after).values())
    for table, row in sorted(own_rows - kept):
        if row in after.rows[table] and not (table == "trace_items" and unconfirmed):
            yield f"orphaned: row {row} of {table} outlived its artifact"
    for table, row in sorted(kept) if len(_receipts(after)) == 1 else ():  # another may have taken what the first kept
        if row in before.rows[table] and row not in after.rows[table]:
            yield f"untrue: row {row} of {table} is said to be kept, and is gone"


def _owed(after: Evidence) -> Iterator[tuple[str, set[str]]]:
    """Physical keys, and prefixes with their slash, that the ledger says are left over, with the deletions that owe them."""
    found: dict[str, set[str]] = {}
    for page in after.ledger["artifact_deletion_page"]:
        for key in zlib.decompress(page["keys"]).decode().split("\n"):
            found.setdefault(page["scope"] + key, set()).add(page["deletion_id"])
    for prefix in after.ledger["artifact_deletion_prefix"]:
        if prefix["state"] == PrefixState.LEFT_OVER and prefix["codes"]:
            found.setdefault(prefix["scope"] + prefix["prefix"], set()).add(prefix["deletion_id"])
    yield from found.items()


def _dangling(before: Evidence, after: Evidence) -> Iterator[str]:
    """2: no live row names an object, or a file, that was there and is not any more."""
    for artifact, key in _named(after):
        for physical in (_physical(after, artifact, key, usecase) for usecase in _USECASES):
            if physical in before.objects and physical not in after.objects:
                yield f"dangling: a row of artifact {artifact} names {physical}, which is gone"
    files = {
        ("sentry_preprodartifact", "file_id"),
        ("sentry_preprodartifact", "installable_app_file_id"),
        ("sentry_preprodartifactsizemetrics", "analysis_file_id"),
        ("sentry_preprodartifactsizecomparison", "file_id"),
    }
    for table, column in sorted(files):
        for row in after.rows[table].values():
            if row[column] in before.rows["sentry_file"] and row[column] not in after.rows["sentry_file"]:
                yield f"dangling: {table}.{column} of row {row['id']} names file {row[column]}, which is gone"


def _named(after: Evidence) -> Iterator[tuple[int, str]]:
    """(artifact, key) of every object key of its own that a column of a live row names."""
    metrics = after.rows["sentry_preprodsnapshotmetrics"]
    for row in metrics.values():
        for name in ("manifest_key", "head_images_key"):
            yield from _key(after, row["preprod_artifact_id"], None, row["extras"], name)
    for row in after.rows["sentry_preprodsnapshotcomparison"].values():
        head, base = (metrics[row[f"{end}_snapshot_metrics_id"]]["preprod_artifact_id"] for end in ("head", "base"))
        yield from _key(after, head, base, row["extras"], "comparison_key")
    for row in after.rows["sentry_preprodartifactmobileappinfo"].values():
        icon, artifact = row["app_icon_id"], row["preprod_artifact_id"]
        if icon and icon.startswith("icn_"):
            organization, project = _place(after, artifact)
            yield artifact, f"{organization}/{project}/{icon}"


def _key(after: Evidence, artifact: int, base: int | None, extras: Any, name: str) -> Iterator[tuple[int, str]]:
    """A hostile column may name what is another's, which goes with its owner: an artifact's comparisons are not its alone."""
    own = "/".join(map(str, [*_place(after, artifact), artifact] + ([] if base is None else [base])))
    key = extras.get(name) if isinstance(extras, dict) else None
    if not isinstance(key, str) or not key.startswith(f"{own}/"):
        return
    if base is not None or not key.removeprefix(f"{own}/").split("/")[0].isdigit():
        yield artifact, key


def _place(after: Evidence, artifact: int) -> tuple[int, int]:
    project = after.rows["sentry_preprodartifact"][artifact]["project_id"]
    return after.rows["sentry_project"][project]["organization_id"], project


def _physical(after: Evidence, artifact: int, key: str, usecase: str) -> str:
    organization, project = _place(after, artifact)
    return SCOPE_TEMPLATE.format(usecase=usecase, organization_id=organization, project_id=project) + key


def _trespassed(before: Evidence, after: Evidence, own_rows: set[tuple[str, int]], own_keys: set[str]) -> Iterator[str]:
    """3: all that is not the artifacts' own is byte for byte as it was."""
    for key, was in before.objects.items():
        if key not in own_keys and after.objects.get(key) != was:
            yield f"trespassed: {key} was another's"
    for key, was in before.versions.items():
        if key not in own_keys and after.versions.get(key) != was:
            yield f"trespassed: versions of {key} were another's"
    for key in before.uploads - after.uploads:
        if key not in own_keys:
            yield f"trespassed: an upload of {key} was another's"
    for table, rows in before.rows.items():
        for row, was_row in rows.items():
            if (table, row) not in own_rows and after.rows[table].get(row) != was_row:
                yield f"trespassed: row {row} of {table} was another's"


def _forgotten(after: Evidence, requests: list[DeletionRequest]) -> Iterator[str]:
    """4: no deletion was accepted and forgotten; how each ended agrees with what is there."""
    deletions, receipts = after.deletions(), _receipts(after)
    for request in requests:
        row = deletions.get(request.deletion_id)
        if row is None or row["state"] not in _ENDED:
            yield f"forgotten: {request.workflow_id} is {row['state'] if row else 'not in the ledger'}"
            continue
        living = [artifact for artifact in request.artifact_ids if artifact in after.artifacts]
        receipt = receipts.get(request.deletion_id)
        work = [
            found for table in ("artifact_deletion_page", "artifact_deletion_prefix") for found in after.ledger[table]
            if found["deletion_id"] == request.deletion_id
        ]  # fmt: skip
        if row["state"] == DeletionState.CLOSED and (living or work or receipt is None or not receipt.complete):
            yield f"forgotten: {request.workflow_id} is closed with {len(living)} artifacts and {len(work)} pages or prefixes"
        if row["state"] == DeletionState.FAILED and (receipt is None or not receipt.left_over):
            yield f"forgotten: {request.workflow_id} failed, and no receipt says what is left over"
        if row["state"] == DeletionState.CANCELLED and work:
            yield f"forgotten: {request.workflow_id} was cancelled, and still owes {len(work)} pages or prefixes"


def _untrue(after: Evidence) -> Iterator[str]:
    """5: what receipts and ledger claim is so."""
    for id_, receipt in _receipts(after).items():
        objects = receipt.objects
        settled = objects.deleted + objects.absent + objects.kept + sum(objects.left_over.values())
        if objects.sealed != settled:
            yield f"untrue: {id_} sealed {objects.sealed} keys and accounts for {settled}"
        if receipt.complete != (not receipt.left_over):
            yield f"untrue: {id_} is complete and has leftovers"
    for prefix in after.ledger["artifact_deletion_prefix"]:
        name = prefix["scope"] + prefix["prefix"]
        if prefix["state"] == PrefixState.EMPTY and any(
            key == name or (not prefix["exact"] and key.startswith(name)) for key in after.everything()
        ):
            yield f"untrue: {name} is said to be empty"


def _receipts(after: Evidence) -> dict[str, DeletionReceipt]:
    return {
        id_: DeletionReceipt.model_validate(row["receipt"])
        for id_, row in after.deletions().items()
        if row["receipt"] is not None
    }
