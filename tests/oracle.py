"""Do the promises hold? One function looks at the whole world, before and after, and takes no word of the service for it.

What belongs to whom it asks the builder's own record (`World.rows_of`, `World.objects_of`) and the rules of keys and trace
ids, spelled out here a second time; what is owed it reads from the ledger's tables as they stand. `unit/test_oracle.py` breaks
a world in every way that we could think of, and sees it named.

It looks twice and not in between: what came and went again without the builder it does not see.
"""

import dataclasses
import json
import re
import uuid
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from sqlalchemy import select

from activities.backend.files import STILL_NAMED
from activities.backend.tables import BackendTable
from activities.database import Database
from activities.ledger.schema import ChunkState, LedgerTable, PrefixState, RowsState
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt, Ids
from artifact_deletion.request import DeletionRequest
from demo.world import SCOPE_TEMPLATE, World

Row = dict[str, Any]
_USECASES = ("preprod", "preprod_snapshots", "snapshots", "preprod_size")
_PLACE = re.compile(rf"(?:{'|'.join(_USECASES)})/org\.(\d+)/project\.(\d+)/objects/(.+)", re.DOTALL)
_TRACES = uuid.UUID("31eca038-ed76-4e6d-b13b-ed30a6555213")
_PREPROD = 11
_NUMBER = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_ENDED = {DeletionState.CLOSED, DeletionState.FAILED, DeletionState.REFUSED, DeletionState.CANCELLED}
_DONE = {DeletionState.CLOSED, DeletionState.FAILED}
_UNTOUCHED = {DeletionState.REFUSED, DeletionState.CANCELLED}
_WAITING = {PrefixState.OWED, PrefixState.SWEPT}
_FILES = (
    ("sentry_preprodartifact", "file_id"),
    ("sentry_preprodartifact", "installable_app_file_id"),
    ("sentry_preprodartifactsizemetrics", "analysis_file_id"),
    ("sentry_preprodartifactsizecomparison", "file_id"),
)


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
    built: tuple[set[tuple[str, int]], set[str]]
    """All rows of artifacts and all objects that the builder had put there by then."""

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
            built=stack.world.built(),
        )

    @property
    def artifacts(self) -> Collection[int]:
        """The artifacts that have rows."""
        return self.rows["sentry_preprodartifact"].keys()

    def everything(self) -> set[str]:
        """Every key under which the store holds anything."""
        return {*self.objects, *self.versions, *self.uploads}

    def deletions(self) -> dict[str, Row]:
        """The deletions that were asked for, by id. One with an ask that no run has served is not at rest, unless it runs."""
        found: dict[str, Row] = {}
        for ask in self.ledger["artifact_deletion_ask"]:
            asked = {"id": ask["deletion_id"], "request": ask["request"], "state": DeletionState.ACCEPTED, "receipt": None}
            found[ask["deletion_id"]] = asked
        found |= {row["id"]: row for row in self.ledger["artifact_deletion"]}
        unserved = {ask["deletion_id"] for ask in self.ledger["artifact_deletion_ask"] if ask["served_at"] is None}
        waits = {"state": DeletionState.ACCEPTED}
        return {
            id_: {**row, **waits} if id_ in unserved and row.get("state") != DeletionState.RUNNING else row
            for id_, row in found.items()
        }

    def of_deletion(self, table: str, deletion_id: str) -> list[Row]:
        """A deletion's rows of one of the ledger's tables."""
        return [row for row in self.ledger[f"artifact_deletion_{table}"] if row["deletion_id"] == deletion_id]

    def state_of(self, deletion_id: str) -> str | None:
        row = self.deletions().get(deletion_id)
        return None if row is None else row["state"]

    def request(self, deletion_id: str) -> DeletionRequest:
        return DeletionRequest.model_validate(self.deletions()[deletion_id]["request"])

    def receipts(self) -> dict[str, DeletionReceipt]:
        found = {id_: row["receipt"] for id_, row in self.deletions().items()}
        return {id_: DeletionReceipt.model_validate(receipt) for id_, receipt in found.items() if receipt is not None}

    def place(self, artifact: int) -> tuple[int, int] | None:
        """(organization, project) of an artifact that has a row."""
        if (row := self.rows["sentry_preprodartifact"].get(artifact)) is None:
            return None
        project = self.rows["sentry_project"].get(row["project_id"])
        return None if project is None else (project["organization_id"], row["project_id"])


def assert_promises_hold(
    stack: Backend,
    before: Evidence,
    requests: Iterable[DeletionRequest],
    *,
    also_owned: Iterable[str] = (),
    also_rows: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Everything has come to rest: each deletion has ended, whatever struck it, and each promise holds.

    `before` was taken when all was there that is not to be touched, and nothing was moved after it. `also_owned` are keys under
    the artifacts' own prefixes, `also_rows` counts by table of rows that went with them, both put there without the builder.
    """
    broken = list(violations(stack, before, Evidence.of(stack), list(requests), set(also_owned), also_rows))
    assert not broken, "\n".join(broken)


def violations(
    stack: Backend,
    before: Evidence,
    after: Evidence,
    requests: list[DeletionRequest],
    also_owned: Collection[str] = (),
    also_rows: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[str]:
    """Each promise that does not hold, and where."""
    acting = [request for request in requests if after.state_of(request.deletion_id) not in _UNTOUCHED]
    own = Own.of(stack, before, after, acting, also_owned)
    ended = (Done.of(stack, before, after, id_) for id_ in after.deletions() if after.state_of(id_) in _DONE)
    done = [one for one in ended if one is not None]
    yield from _orphaned(before, after, own, done)
    yield from _dangling(before, after)
    yield from _trespassed(before, after, own)
    yield from _forgotten(before, after, requests)
    for one in done:
        yield from _untrue(after, one)
        yield from _untrue_files(before, after, one, [other for other in done if other is not one])
    yield from _untrue_together(before, after, done, also_rows)


Places = tuple[int, frozenset[int]]
"""An organization, and the projects in which an artifact may have left something; none: in any of them."""


@dataclass(frozen=True)
class Own:
    """What is the own of those of the requests' artifacts that have no row any more, and may be taken."""

    keys: frozenset[str]
    rows: frozenset[tuple[str, int]]

    @classmethod
    def of(
        cls,
        stack: Backend,
        before: Evidence,
        after: Evidence,
        requests: Iterable[DeletionRequest],
        also_owned: Collection[str] = (),
        besides: Collection[int] = (),
    ) -> "Own":
        """`besides` are artifacts that do not count. One without a row lies where its request says, or anywhere."""
        places: dict[int, Places] = {}
        for request in requests:
            named = frozenset() if request.project_id is None else frozenset([request.project_id])
            for artifact in set(request.artifact_ids) - set(besides) - set(after.artifacts):
                if (place := before.place(artifact)) is not None:
                    if place[0] == request.organization_id:
                        places[artifact] = place[0], frozenset([place[1]])
                else:
                    _, projects = places.get(artifact, (0, frozenset[int]()))
                    places[artifact] = request.organization_id, projects | named
        record = stack.world.objects_of(places)
        organizations = {str(organization) for organization, _ in places.values()}
        pairs = set(_pairs(before))
        keys = {
            key
            for key in record | before.everything() | after.everything()
            if _lies_at(key, places, pairs)
            or (key in record and (found := _PLACE.fullmatch(key)) and found[1] in organizations)
        }
        rows = stack.world.rows_of(places) | set(_hanging(before, places)) | set(_traced(after, places))
        return cls(frozenset(keys | set(also_owned)), frozenset(rows))


def _lies_at(key: str, places: Mapping[int, Places], pairs: Collection[tuple[str, str]]) -> bool:
    """True if a physical key is one of the artifacts' that are, or were, at these (organization, project)."""
    if not (found := _PLACE.fullmatch(key)):
        return False
    organization, project, rest = found[1], found[2], found[3]

    def here(artifact: str) -> bool:
        place = places.get(int(artifact)) if _NUMBER.fullmatch(artifact) else None
        return place is not None and str(place[0]) == organization and (not place[1] or int(project) in place[1])

    parts = rest.split("/")
    if len(parts) == 2 and parts[0] == "snapshot_archives":
        return parts[1].endswith(".zip") and here(parts[1].removesuffix(".zip"))
    if len(parts) <= 3 or parts[:2] != [organization, project]:
        return False
    return here(parts[2]) or (len(parts) > 4 and (parts[2], parts[3]) in pairs and here(parts[3]))


def _hanging(before: Evidence, artifacts: Iterable[int]) -> Iterator[tuple[str, int]]:
    """The rows that refer to the artifacts, and those that refer to these."""
    found = {"sentry_preprodartifact": set(artifacts)}
    for table in BackendTable.metadata.sorted_tables:  # parents first
        for reference in table.foreign_keys:
            targets, column = found.get(reference.column.table.name, set()), reference.parent.name
            found.setdefault(table.name, set()).update(
                id_ for id_, row in before.rows[table.name].items() if row[column] in targets
            )
    return ((table, id_) for table, ids in found.items() for id_ in ids)


def _traced(after: Evidence, places: Mapping[int, Places]) -> Iterator[tuple[str, int]]:
    """The artifacts' trace items."""
    traces = {_trace_id(artifact): place for artifact, place in places.items()}
    for id_, row in after.rows["trace_items"].items():
        organization, projects = traces.get(row["trace_id"], (None, frozenset[int]()))
        here = not projects or row["project_id"] in projects
        if (row["organization_id"], row["item_type"]) == (organization, _PREPROD) and here:
            yield "trace_items", id_


def _trace_id(artifact: int) -> str:
    return uuid.uuid5(_TRACES, str(artifact)).hex


@dataclass(frozen=True)
class Done:
    """A deletion that ended with a receipt, and what it speaks of."""

    request: DeletionRequest
    receipt: DeletionReceipt
    closed: bool
    own: Own
    unchecked: frozenset[str]
    """The keys that are still there and that no listing could look for, as its receipt says."""

    @property
    def id(self) -> str:
        return self.request.deletion_id

    @property
    def name(self) -> str:
        return self.request.workflow_id

    @classmethod
    def of(cls, stack: Backend, before: Evidence, after: Evidence, deletion_id: str) -> "Done | None":
        """None if there is no receipt."""
        if (receipt := after.receipts().get(deletion_id)) is None:
            return None
        request = after.request(deletion_id)
        own = Own.of(stack, before, after, [request])
        there, unchecked = own.keys & after.everything(), set[str]()
        if receipt.objects.prefixes_unchecked:
            # What columns name, and what readable manifests name, needs no listing.
            unchecked |= {key for key in there - set(_physical_names(before)) if "/diff/" not in key}
        if receipt.objects.uploads_unchecked:
            unchecked |= there - after.objects.keys() - after.versions.keys()
        if lost := receipt.artifacts.gone_before.objects_unchecked.ids:
            own = Own.of(stack, before, after, [request], besides=lost)
            unchecked |= there - own.keys
        closed = after.state_of(deletion_id) == DeletionState.CLOSED
        return cls(request, receipt, closed, own, frozenset(unchecked))


def _pairs(before: Evidence) -> Iterator[tuple[str, str]]:
    """(head, base) of the comparisons that have rows, as they stand in keys."""
    metrics = before.rows["sentry_preprodsnapshotmetrics"]
    for row in before.rows["sentry_preprodsnapshotcomparison"].values():
        sides = (metrics[row[side]]["preprod_artifact_id"] for side in ("head_snapshot_metrics_id", "base_snapshot_metrics_id"))
        head, base = map(str, sides)
        yield head, base


def _orphaned(before: Evidence, after: Evidence, own: Own, done: Sequence[Done]) -> Iterator[str]:
    """1: what was the artifacts' is gone, or a deletion still owes it and says so."""
    owed = [name for one in done if not one.closed for name in _owed(after, one)]
    unchecked = {key for one in done for key in one.unchecked}
    for key in sorted(own.keys & after.everything() - unchecked):
        if not any(key == name or (name.endswith("/") and key.startswith(name)) for name in owed):
            yield f"orphaned: {key} is still there, and no failed deletion owes it"
    unconfirmed = {
        _trace_id(artifact)
        for one in done
        if one.receipt.trace_items.state != "confirmed" or "NamedElsewhere" in one.receipt.left_over
        for artifact in one.request.artifact_ids
    }
    kept = {row for one in done for row in _kept_files(after, one.receipt)}
    for table, row in sorted(own.rows - kept):
        now = after.rows[table].get(row)
        if now is not None and not (table == "trace_items" and now["trace_id"] in unconfirmed):
            yield f"orphaned: row {row} of {table} outlived its artifact"


def _owed(after: Evidence, one: Done) -> Iterator[str]:
    """Physical keys, and prefixes with their slash, that the ledger says are left over of a deletion."""
    for page in after.of_deletion("page", one.id):
        for key in _keys(page):
            yield page["scope"] + key
    for prefix in after.of_deletion("prefix", one.id):
        if prefix["codes"] or prefix["state"] in _WAITING:
            yield prefix["scope"] + prefix["prefix"]
    if "NamedElsewhere" in one.receipt.left_over:
        # Where an artifact was before it moved is known from what its columns name: all of that is for a person to look at.
        strays = (chunk["strays"] for chunk in after.of_deletion("chunk", one.id) if chunk["strays"])
        for _, key in (stray for packed in strays for stray in json.loads(zlib.decompress(packed))):
            organization, project, artifact = [*key.split("/"), "", "", ""][:3]
            if artifact in map(str, one.request.artifact_ids):
                for scope in _scopes(organization, project):
                    yield f"{scope}{organization}/{project}/{artifact}/"
                    yield f"{scope}snapshot_archives/{artifact}.zip"


def _keys(page: Row) -> list[str]:
    return zlib.decompress(page["keys"]).decode().split("\n")


def _kept_files(after: Evidence, receipt: DeletionReceipt) -> set[tuple[str, int]]:
    """The rows of files, and of their index, that the receipt says were kept."""
    files = {file for ids in receipt.files.kept.values() for file in ids.ids}
    index = (row for row in after.rows["sentry_fileblobindex"].values() if row["file_id"] in files)
    return {("sentry_file", file) for file in files} | {("sentry_fileblobindex", row["id"]) for row in index}


def _dangling(before: Evidence, after: Evidence) -> Iterator[str]:
    """2: no live row refers to a row, object or file that was there and is not any more."""
    there = before.objects.keys() | after.built[1]
    for key in sorted(set(_physical_names(after)) & there - after.objects.keys()):
        yield f"dangling: a row names {key}, which is gone"
    gone = before.rows["sentry_file"].keys() - after.rows["sentry_file"].keys()
    for file in sorted(gone & _named_files(after)):
        yield f"dangling: a row names file {file}, which is gone"
    for table in BackendTable.metadata.sorted_tables:
        for reference in table.foreign_keys:
            column, there_are = reference.parent.name, {None, *after.rows[reference.column.table.name]}
            for id_, row in after.rows[table.name].items():
                if row[column] not in there_are:
                    yield f"dangling: {table.name}.{column} of row {id_} refers to a row that is gone"


def _named_files(evidence: Evidence) -> set[int]:
    named = {row[column] for table, column in _FILES for row in evidence.rows[table].values()}
    icons = (row["app_icon_id"] or "" for row in evidence.rows["sentry_preprodartifactmobileappinfo"].values())
    return named - {None} | {int(icon) for icon in icons if _NUMBER.fullmatch(icon)}


def _physical_names(evidence: Evidence) -> Iterator[str]:
    """Where the objects lie that the columns of rows name."""
    for key in _named(evidence):
        organization, project = [*key.split("/"), ""][:2]
        for scope in _scopes(organization, project):
            yield scope + key


def _scopes(organization: object, project: object) -> list[str]:
    return [SCOPE_TEMPLATE.format(usecase=one, organization_id=organization, project_id=project) for one in _USECASES]


def _named(evidence: Evidence) -> Iterator[str]:
    """Every key of its own that a column of a row names: a hostile column may name another's, which goes with its owner."""
    metrics = evidence.rows["sentry_preprodsnapshotmetrics"]
    for row in metrics.values():
        for name in ("manifest_key", "head_images_key"):
            yield from _own_key(evidence, row["extras"], name, row["preprod_artifact_id"])
    for row in evidence.rows["sentry_preprodsnapshotcomparison"].values():
        head, base = (metrics[row[f"{side}_snapshot_metrics_id"]]["preprod_artifact_id"] for side in ("head", "base"))
        yield from _own_key(evidence, row["extras"], "comparison_key", head, base)
    for row in evidence.rows["sentry_preprodartifactmobileappinfo"].values():
        icon, place = row["app_icon_id"], evidence.place(row["preprod_artifact_id"])
        if icon and icon.startswith("icn_") and place:
            yield f"{place[0]}/{place[1]}/{icon}"


def _own_key(evidence: Evidence, extras: Any, name: str, artifact: int, base: int | None = None) -> Iterator[str]:
    key, place = extras.get(name) if isinstance(extras, dict) else None, evidence.place(artifact)
    if not isinstance(key, str) or place is None:
        return
    own = f"{place[0]}/{place[1]}/{artifact}/{'' if base is None else f'{base}/'}"
    # Below a number lie the artifact's comparisons, which are not its alone.
    if key.startswith(own) and (base is not None or not key.removeprefix(own).split("/")[0].isdigit()):
        yield key


def _trespassed(before: Evidence, after: Evidence, own: Own) -> Iterator[str]:
    """3: all that is not the artifacts' own is byte for byte as it was."""
    for key in sorted(before.everything() - own.keys):
        if before.objects.get(key) != after.objects.get(key) or before.versions.get(key) != after.versions.get(key):
            yield f"trespassed: {key} was another's"
        if before.uploads[key] > after.uploads[key]:
            yield f"trespassed: an upload of {key} was another's"
    for key in sorted(after.versions.keys() - before.versions.keys() - own.keys):
        if any(one.is_marker for one in after.versions[key]):
            yield f"trespassed: {key} was deleted, and was never the artifacts'"
    for key in sorted(after.built[1] - before.built[1] - own.keys - after.objects.keys()):
        yield f"trespassed: {key} came later, and was another's"
    yield from _trespassed_rows(before, after, own)
    for id_ in after.deletions():
        yield from _threatened(after, after.request(id_))


def _trespassed_rows(before: Evidence, after: Evidence, own: Own) -> Iterator[str]:
    for table, rows in before.rows.items():
        for row, was in rows.items():
            now = after.rows[table].get(row)
            if now is None and (table, row) not in own.rows:
                yield f"trespassed: row {row} of {table} was another's"
            if now is not None and now != was:
                yield f"trespassed: row {row} of {table} was changed in place"
    for table, row in sorted(after.built[0] - before.built[0] - own.rows):
        if row not in after.rows[table]:
            yield f"trespassed: row {row} of {table} came later, and was another's"


def _threatened(after: Evidence, request: DeletionRequest) -> Iterator[str]:
    """What a deletion still owes, and would delete, is its own artifacts'."""
    ids, organization = set(map(str, request.artifact_ids)), str(request.organization_id)
    pages = ((page["scope"] + key) for page in after.of_deletion("page", request.deletion_id) for key in _keys(page))
    prefixes = (prefix["scope"] + prefix["prefix"] for prefix in after.of_deletion("prefix", request.deletion_id))
    for name in [*pages, *prefixes]:
        found = _PLACE.fullmatch(name)
        first, second, *rest = (found[3] if found else name).split("/") if "/" in name else (name, "")
        if first == "snapshot_archives":
            mine = second.removesuffix(".zip") in ids
        else:
            icon = len(rest) == 1 and rest[0].startswith("icn_")
            named = {*rest[:1], *rest[1:-1][:1]} if len(rest) > 1 else set()
            mine = found is not None and (first, second) == (organization, found[2]) and (icon or bool(ids & named))
        if not mine or found is None or found[1] != organization:
            yield f"trespassed: {request.workflow_id} owes {name}, which is not its own"


def _forgotten(before: Evidence, after: Evidence, requests: Sequence[DeletionRequest]) -> Iterator[str]:
    """4: no deletion was accepted and forgotten; how each ended agrees with what is there."""
    for id_ in before.deletions().keys() - after.deletions().keys():
        yield f"forgotten: {id_} was accepted, and the ledger knows nothing of it any more"
    for request in requests:
        if request.deletion_id not in after.deletions():
            yield f"forgotten: {request.workflow_id} is not in the ledger"
    for id_, row in after.deletions().items():
        name, state = after.request(id_).workflow_id, row["state"]
        if state not in _ENDED:
            yield f"forgotten: {name} is {state}"
        receipt = after.receipts().get(id_)
        stay = receipt.artifacts.not_expired.ids if receipt and after.request(id_).expired else ()
        living = [one for one in after.request(id_).artifact_ids if one in after.artifacts and one not in stay]
        work = len(after.of_deletion("page", id_)) + len(after.of_deletion("prefix", id_))
        chunks = [chunk["state"] for chunk in after.of_deletion("chunk", id_)]
        if state == DeletionState.CLOSED and (
            living or work or ChunkState.OPEN in chunks or not receipt or not receipt.complete
        ):
            yield f"forgotten: {name} is closed with {len(living)} artifacts and {work} pages or prefixes"
        if state == DeletionState.FAILED and (receipt is None or not receipt.left_over):
            yield f"forgotten: {name} failed, and no receipt says what is left over"
        if state in _UNTOUCHED and (work or ChunkState.ROWS_DELETED in chunks):
            yield f"forgotten: {name} was {state}, and still owes {work} pages or prefixes"


def _untrue(after: Evidence, one: Done) -> Iterator[str]:
    """5: what a receipt claims is so, and what the ledger holds beside it agrees."""
    name, receipt = one.name, one.receipt
    whose = receipt.deletion_id, receipt.workflow_id, receipt.organization_id, receipt.requested_artifacts
    if whose != (one.id, name, one.request.organization_id, len(one.request.artifact_ids)):
        yield f"untrue: the receipt of {name} is about another request"
    if not receipt.complete == one.closed == (not receipt.left_over):
        yield f"untrue: {name} is complete and has leftovers, or neither"
    if not receipt.times.accepted <= (receipt.times.rows_deleted or receipt.times.accepted) <= receipt.times.closed:
        yield f"untrue: {name} was closed before it was done"
    if one.closed:
        for key in sorted(one.own.keys & after.everything() - one.unchecked):
            yield f"untrue: {name} says that all is gone, and {key} is still there"
    if one.closed and receipt.trace_items.state == "confirmed":
        for table, row in sorted(one.own.rows):
            if table == "trace_items" and row in after.rows[table]:
                yield f"untrue: {name} says that trace items are gone, and item {row} is still there"
    yield from _untrue_objects(after, one)
    yield from _untrue_artifacts(after, one)


def _untrue_objects(after: Evidence, one: Done) -> Iterator[str]:
    name, objects = one.name, one.receipt.objects
    settled = objects.deleted + objects.absent + objects.kept + sum(objects.left_over.values())
    if objects.sealed != settled:
        yield f"untrue: {name} sealed {objects.sealed} keys and accounts for {settled}"
    pages, prefixes = after.of_deletion("page", one.id), after.of_deletion("prefix", one.id)
    owed, said = sum(len(_keys(page)) for page in pages), sum(objects.left_over.values())
    if not owed == sum(page["count"] for page in pages) == said:
        yield f"untrue: {name} says that {said} sealed keys are left over, and owes {owed}"
    with_pages = {page["chunk"] for page in pages}
    waiting = [
        not prefix["codes"]
        and (prefix["state"] in _WAITING or (prefix["state"] == PrefixState.LEFT_OVER and prefix["chunk"] not in with_pages))
        for prefix in prefixes
    ]
    owed = sum(sum(prefix["codes"].values()) for prefix in prefixes) + sum(waiting)
    if owed != (said := sum(objects.found_left_over.values())):
        yield f"untrue: {name} says that {said} listed objects are left over, and owes {owed}"
    if one.closed and objects.prefixes_listed_empty + objects.prefixes_unchecked != objects.prefixes:
        yield f"untrue: {name} does not say of each of its {objects.prefixes} prefixes what became of it"


def _untrue_files(before: Evidence, after: Evidence, one: Done, others: Sequence[Done]) -> Iterator[str]:
    # The deletion of the last row that named it took it along.
    taken = {row for other in others for row in other.own.rows}
    going = {table: {id_: row for id_, row in rows.items() if (table, id_) in taken} for table, rows in before.rows.items()}
    named = _named_files(dataclasses.replace(before, rows=going))
    for table, row in sorted(_kept_files(after, one.receipt)):
        if row in before.rows[table] and row not in after.rows[table] and not (table == "sentry_file" and row in named):
            yield f"untrue: row {row} of {table} is said to be kept, and is gone"
    # Another hand that deleted that row later may have had a reason of its own.
    kept_since = {file for other in others for ids in other.receipt.files.kept.values() for file in ids.ids}
    kept_since |= {file for why, ids in one.receipt.files.kept.items() if why != STILL_NAMED for file in ids.ids}
    for file in set(one.receipt.files.kept.get(STILL_NAMED, Ids()).ids) - kept_since:
        if file in after.rows["sentry_file"] and file not in _named_files(after):
            yield f"orphaned: file {file} was kept for a row that is not there"


def _untrue_artifacts(after: Evidence, one: Done) -> Iterator[str]:
    found, gone = one.receipt.artifacts, one.receipt.artifacts.gone_before
    answered = {artifact for ids in gone.by_deletion.values() for artifact in ids.ids}
    parts = [found.deleted.ids, answered, gone.swept.ids, gone.objects_unchecked.ids]
    stay = found.not_expired.ids if one.request.expired else ()
    parts += [found.moved.ids, found.not_reached.ids, found.held.ids, stay]
    if sorted(artifact for part in parts for artifact in part) != sorted(one.request.artifact_ids):
        yield f"untrue: {one.name} does not account for each of its artifacts once"
    said_to_be_there = {*found.moved.ids, *found.not_reached.ids, *found.held.ids, *found.reappeared.ids, *stay}
    for artifact in set(one.request.artifact_ids) & set(after.artifacts) - said_to_be_there:
        yield f"untrue: {one.name} says that artifact {artifact} is gone, and it has a row"
    deleted = _deleted(after)
    for other, ids in gone.by_deletion.items():
        if not {(other.rpartition("/")[2], artifact) for artifact in ids.ids} <= deleted:
            yield f"untrue: {one.name} says that {other} deleted artifacts which that one did not"


def _deleted(evidence: Evidence) -> set[tuple[str, int]]:
    """(deletion, artifact) where the ledger says that the one deleted the other."""
    last: dict[tuple[str, int], Row] = {}  # one that came back counts as it is in its last chunk
    for one in sorted(evidence.ledger["artifact_deletion_artifact"], key=lambda row: row["chunk"]):
        if one["rows_state"] != RowsState.COMPARED:
            last[one["deletion_id"], one["artifact_id"]] = one
    return {which for which, one in last.items() if one["rows_state"] == RowsState.DELETED}


def _untrue_together(before: Evidence, after: Evidence, done: Sequence[Done], also_rows: Mapping[str, int]) -> Iterator[str]:
    """5: all receipts together account for every row that is gone, and for no other."""
    for one in done:
        if _rows(after.of_deletion("chunk", one.id)) != Counter(one.receipt.rows):
            yield f"untrue: {one.name} claims other rows than its chunks have deleted"
    claimed = _rows(after.ledger["artifact_deletion_chunk"])
    claimed.subtract(_rows(before.ledger["artifact_deletion_chunk"]))
    there = {(table, row) for table, rows in before.rows.items() for row in rows} | (after.built[0] - before.built[0])
    claimed.subtract(table for table, row in there if table != "trace_items" and row not in after.rows[table])
    claimed.subtract(also_rows)
    if wrong := {table: count for table, count in sorted(claimed.items()) if count}:
        yield f"untrue: the claims differ from the rows that are gone: {wrong}"
    for artifact, times in Counter(artifact for _, artifact in _deleted(after) - _deleted(before)).items():
        if times > 1:
            yield f"untrue: {times} deletions say that they deleted artifact {artifact}"


def _rows(chunks: Iterable[Row]) -> Counter[str]:
    return sum((Counter(chunk["rows"]) for chunk in chunks), Counter[str]())
