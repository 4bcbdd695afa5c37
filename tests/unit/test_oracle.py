"""The oracle is shown worlds that are broken in one place each, and must name the breakage."""

import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from activities.backend.files import STILL_NAMED
from activities.ledger.schema import Deletion
from activities.stores.s3 import S3Objects
from artifact_deletion.errors import ArtifactNotInOrganization
from artifact_deletion.request import DeletionRequest
from demo.world import Build, ObjectVersion, Place, Snapshot, screen
from tests.oracle import Evidence, violations
from tests.stack import Stack, Steps, steps_of
from tests.steps.test_uploads import begin_upload

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Case:
    """A world in which all went well, as far as it could: what each breakage starts from, as a copy of its own."""

    stack: Stack
    before: Evidence
    after: Evidence
    head: Snapshot
    base: Snapshot
    kept: Snapshot
    held: Snapshot
    theirs: Snapshot
    build: Build
    closed: DeletionRequest
    """head, base and build: all gone."""
    failed: DeletionRequest
    """base and held: the one was gone before, an object of the other the store refuses."""
    cancelled: DeletionRequest
    refused: DeletionRequest

    @property
    def requests(self) -> list[DeletionRequest]:
        return [self.closed, self.failed, self.cancelled, self.refused]

    def broken(self) -> list[str]:
        return list(violations(self.stack, self.before, self.after, self.requests))

    def key(self, of: Snapshot, name: str = "manifest.json") -> str:
        place = of.artifact
        return self.stack.world.physical(of.usecase, place.organization_id, place.project_id, f"{place.prefix}{name}")

    def restore(self, key: str) -> None:
        self.after.objects[key] = self.before.objects[key]
        self.after.versions[key] = self.before.versions[key]

    def remove(self, key: str) -> None:
        assert self.after.objects.pop(key, None)
        del self.after.versions[key]

    def row(self, table: str, **columns: Any) -> dict[str, Any]:
        """The row as it was, of those that have these values."""
        return next(row for row in self.before.rows[table].values() if columns.items() <= row.items())

    def deletion(self, request: DeletionRequest) -> dict[str, Any]:
        return self.after.deletions()[request.deletion_id]

    def receipt(self, request: DeletionRequest) -> dict[str, Any]:
        found: dict[str, Any] = self.deletion(request)["receipt"]
        return found

    def page(self, request: DeletionRequest, key: str) -> None:
        """One more page that the deletion owes."""
        page = copy.deepcopy(self.after.of_deletion("page", self.failed.deletion_id)[0])
        page |= {"deletion_id": request.deletion_id, "scope": "", "keys": zlib.compress(key.encode()), "count": 1}
        self.after.ledger["artifact_deletion_page"].append(page)


@pytest.fixture
def case(stack: Stack, locking_bucket: str) -> Iterator[Case]:
    """Deletions of every ending: closed, failed, cancelled, refused; two of them overlap."""
    stack.use_bucket(locking_bucket)
    head, base, kept, held = stack.snapshots("head", "base", "kept", "held")
    place = stack.world.project(stack.organization_id, "app")
    build, other = (stack.world.mobile_build(place, icon="icn_same", version=version) for version in ("1", "2"))
    theirs = stack.world.snapshot(stack.world.project(stack.world.organization("globex"), "app"), {"x": screen("login")})
    for pair in ((head, base), (kept, head), (held, kept)):
        stack.world.comparison(*pair)
    stack.world.size_comparison(build, other)
    for one in (head, kept, theirs):
        stack.world.approval(one)

    def request(*artifacts: Place) -> DeletionRequest:
        return stack.request([one.id for one in artifacts])

    requests = (
        request(head.artifact, base.artifact, build.artifact),
        request(base.artifact, held.artifact),
        request(kept.artifact),
        request(theirs.artifact),
    )
    nothing = Evidence.of(stack)
    made = Case(stack, nothing, nothing, head, base, kept, held, theirs, build, *requests)
    stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=made.key(held), LegalHold={"Status": "ON"})
    begin_upload(stack, made.key(kept, "chunks/9.json"))
    made.before = Evidence.of(stack)
    with steps_of(stack, S3Objects(stack.s3, stack.bucket, versioned=True)) as steps:
        run(stack, steps, made)
    made.after = Evidence.of(stack)
    yield made
    stack.s3.put_object_legal_hold(Bucket=stack.bucket, Key=made.key(held), LegalHold={"Status": "OFF"})


def run(stack: Stack, steps: Steps, case: Case) -> None:
    assert steps.finish(case.closed, steps.open_and_collect(case.closed)).complete
    assert steps.finish(case.failed, steps.open_and_collect(case.failed)).objects.left_over == {"AccessDenied": 1}
    steps.open_and_collect(case.cancelled)
    assert steps.cancel(case.cancelled).nothing_deleted
    with pytest.raises(ArtifactNotInOrganization):
        steps.open(case.refused)


def removed(case: Case, *artifacts: int) -> None:
    """The artifacts' rows and objects are gone from all that is seen at the end."""
    for table, row in case.stack.world.rows_of(artifacts):
        case.after.rows[table].pop(row, None)
    for key in case.stack.world.objects_of(artifacts) & case.after.objects.keys():
        case.remove(key)


def no_owner_check(case: Case) -> None:
    """Deleted with a receipt, and another organization's."""
    removed(case, case.theirs.id)
    receipt = copy.deepcopy(case.receipt(case.closed))
    receipt |= {"deletion_id": case.refused.deletion_id, "workflow_id": case.refused.workflow_id, "requested_artifacts": 1}
    case.deletion(case.refused).update(state="closed", receipt=receipt)


def claimed_by_one_and_owed_by_another(case: Case) -> None:
    """A complete deletion says that the base is gone; a failed one still owes a key of it."""
    case.restore(case.key(case.base))
    case.page(case.failed, case.key(case.base))
    case.receipt(case.failed)["objects"]["left_over"]["AccessDenied"] = 2
    case.receipt(case.failed)["objects"]["sealed"] += 1


def kept_for_no_row(case: Case) -> None:
    file = case.build.file_ids[0]
    case.after.rows["sentry_file"][file] = case.before.rows["sentry_file"][file]
    case.receipt(case.closed)["files"]["kept"] = {STILL_NAMED: {"count": 1, "ids": [file]}}


def said_to_be_kept(case: Case) -> None:
    kept = {"count": 1, "ids": [case.build.file_ids[0]]}
    case.receipt(case.closed)["files"]["kept"] = {STILL_NAMED: kept}


def deleted_twice(case: Case) -> None:
    for one in case.after.ledger["artifact_deletion_artifact"]:
        if (one["deletion_id"], one["artifact_id"]) == (case.failed.deletion_id, case.base.id):
            one["rows_state"] = "deleted"


def outlived(table: str, **columns: Any) -> Callable[[Case], None]:
    def happens(case: Case) -> None:
        row = case.row(table, **{name: getattr(case, value).id for name, value in columns.items()})
        case.after.rows[table][row["id"]] = row

    return happens


def trace_item(case: Case) -> dict[str, Any]:
    return case.row("trace_items", trace_id=case.head.artifact.trace_id)


def image(case: Case) -> str:
    return next(key for key in sorted(case.after.objects) if len(key.rpartition("/")[2]) == 64)


def blob(case: Case) -> str:
    return next(key for key in sorted(case.after.objects) if key.startswith("filestore/"))


def first(rows: dict[int, dict[str, Any]]) -> int:
    return min(rows)


ORPHANED: dict[str, Callable[[Case], Any]] = {
    "an object": lambda case: case.restore(case.key(case.head)),
    "an object of the base": lambda case: case.restore(case.key(case.base)),
    "a delete marker alone": lambda case: case.after.versions.update(
        {case.key(case.head): [ObjectVersion("1", is_marker=True)]}
    ),
    "an unfinished upload": lambda case: case.after.uploads.update([case.key(case.head, "late.png")]),
    "an object that no one recorded": lambda case: case.after.objects.update({case.key(case.head, "x/late.png"): ("tag", 1)}),
    "an archive that no one recorded": lambda case: case.after.objects.update(
        {case.key(case.head).partition("objects/")[0] + f"objects/snapshot_archives/{case.head.id}.zip": ("tag", 1)}
    ),
    "a mask that came for a base": lambda case: case.after.objects.update(
        {case.key(case.kept, f"{case.head.id}/diff/late.png"): ("tag", 1)}
    ),
    "a row": outlived("sentry_preprodcomparisonapproval", preprod_artifact_id="head"),
    "a trace item": lambda case: case.after.rows["trace_items"].update({trace_item(case)["id"]: trace_item(case)}),
    "a trace item that came late": lambda case: case.after.rows["trace_items"].update({9999: {**trace_item(case), "id": 9999}}),
    "a file kept for no row": kept_for_no_row,
    "a refused object that no page owes": lambda case: case.after.ledger["artifact_deletion_page"].clear(),
}
DANGLING: dict[str, Callable[[Case], Any]] = {
    "an object that a row names": lambda case: case.remove(case.key(case.kept)),
    "an icon that a row names": lambda case: case.remove(next(key for key in case.after.objects if key.endswith("icn_same"))),
    "a file that a row names": lambda case: case.after.rows["sentry_file"].pop(
        next(row["file_id"] for row in case.after.rows["sentry_preprodartifact"].values() if row["file_id"])
    ),
    "a row that a row refers to": lambda case: case.after.rows["sentry_project"].pop(case.theirs.artifact.project_id),
}
TRESPASSED: dict[str, Callable[[Case], Any]] = {
    "a shared image": lambda case: case.remove(image(case)),
    "a blob's object": lambda case: case.remove(blob(case)),
    "a blob's row": lambda case: case.after.rows["sentry_fileblob"].pop(first(case.after.rows["sentry_fileblob"])),
    "an object changed in place": lambda case: case.after.objects.update({case.key(case.kept): ("other", 3)}),
    "an older version": lambda case: case.after.versions[case.key(case.kept)].clear(),
    "a marker on a neighbour": lambda case: case.after.versions[case.key(case.kept)].insert(
        0, ObjectVersion("1", is_marker=True)
    ),
    "a marker on what never was": lambda case: case.after.versions.update({"never": [ObjectVersion("1", is_marker=True)]}),
    "a neighbour's upload": lambda case: case.after.uploads.clear(),
    "a row changed in place": lambda case: case.after.rows["sentry_preprodartifact"][case.kept.id].update(app_id="other"),
    "a neighbour's row": lambda case: case.after.rows["sentry_preprodcomparisonapproval"].pop(
        case.row("sentry_preprodcomparisonapproval", preprod_artifact_id=case.kept.id)["id"]
    ),
    "a neighbour's trace items": lambda case: case.after.rows["trace_items"].clear(),
    "what came later to a neighbour": lambda case: case.after.built[1].add(case.key(case.kept, "later.json")),
    "another organization's artifact": no_owner_check,
    "a refused deletion's artifact": lambda case: removed(case, case.theirs.id),
    "a cancelled deletion's artifact": lambda case: removed(case, case.kept.id),
    "a page with a neighbour's key": lambda case: case.page(case.failed, case.key(case.kept)),
    "a page with a longer id's key": lambda case: case.page(
        case.failed, case.key(case.held).replace("/manifest", "9/manifest")
    ),
}
FORGOTTEN: dict[str, Callable[[Case], Any]] = {
    "a deletion that is not there": lambda case: case.after.ledger["artifact_deletion"].remove(case.deletion(case.closed)),
    "one that goes on": lambda case: case.deletion(case.closed).update(state="running"),
    "one that no run began": lambda case: case.deletion(case.cancelled).update(state="accepted"),
    "one that was asked for anew and not begun": lambda case: case.after.of_deletion("ask", case.closed.deletion_id)[0].update(
        served_at=None
    ),
    "one that is closed with its artifact there": lambda case: case.deletion(case.cancelled).update(
        state="closed", receipt=case.receipt(case.closed)
    ),
    "one that is closed and owes": lambda case: case.page(case.closed, case.key(case.head)),
    "one that is closed without a receipt": lambda case: case.deletion(case.closed).update(receipt=None),
    "one that failed without a receipt": lambda case: case.deletion(case.failed).update(receipt=None),
    "one that was cancelled and owes": lambda case: case.page(case.cancelled, case.key(case.kept)),
    "one that is closed with open chunks": lambda case: case.after.of_deletion("chunk", case.closed.deletion_id)[0].update(
        state="open"
    ),
}
UNTRUE: dict[str, Callable[[Case], Any]] = {
    "what one says is gone and another owes": claimed_by_one_and_owed_by_another,
    "trace items that are confirmed": lambda case: case.after.rows["trace_items"].update(
        {trace_item(case)["id"]: trace_item(case)}
    ),
    "the number of keys": lambda case: case.receipt(case.closed)["objects"].update(sealed=1),
    "the number of leftovers": lambda case: case.receipt(case.failed)["objects"]["left_over"].update(AccessDenied=7),
    "the number of listed leftovers": lambda case: case.receipt(case.failed)["objects"]["found_left_over"].update(
        AccessDenied=7
    ),
    "the number of prefixes": lambda case: case.receipt(case.closed)["objects"].update(prefixes=99),
    "the number of rows": lambda case: case.receipt(case.closed)["rows"].update(sentry_preprodartifact=2),
    "the number of rows in ledger and receipt": lambda case: [
        counts.update(sentry_preprodartifact=7)
        for counts in (
            case.receipt(case.closed)["rows"],
            case.after.of_deletion("chunk", case.closed.deletion_id)[0]["rows"],
        )
    ],
    "that it is complete": lambda case: case.receipt(case.failed).update(complete=True),
    "when it was closed": lambda case: case.receipt(case.closed)["times"].update(
        closed=str(case.deletion(case.closed)["accepted_at"] - timedelta(hours=1))
    ),
    "whose it is": lambda case: case.receipt(case.closed).update(organization_id=7),
    "that a file was kept": said_to_be_kept,
    "that all artifacts are accounted for": lambda case: case.receipt(case.closed)["artifacts"]["deleted"]["ids"].pop(),
    "that an artifact is gone": lambda case: case.after.rows["sentry_preprodartifact"].update(
        {case.head.id: case.before.rows["sentry_preprodartifact"][case.head.id]}
    ),
    "that another deleted it": lambda case: [
        one.update(rows_state="gone")
        for one in case.after.of_deletion("artifact", case.closed.deletion_id)
        if one["artifact_id"] == case.base.id
    ],
    "that two deleted it": deleted_twice,
}


BROKEN = {"orphaned": ORPHANED, "dangling": DANGLING, "trespassed": TRESPASSED, "forgotten": FORGOTTEN, "untrue": UNTRUE}


def test_the_oracle_names_what_is_broken_and_nothing_where_all_is_well(case: Case) -> None:
    """A test that ends in an oracle which sees nothing shows nothing. A failure that says what it owes breaks no promise."""
    assert case.broken() == []
    unnoticed = []
    before, after = case.before, case.after
    for promise, worlds in BROKEN.items():
        for name, breaks in worlds.items():
            case.before, case.after = copy.deepcopy(before), copy.deepcopy(after)
            breaks(case)
            if not any(one.startswith(promise) for one in case.broken()):
                unnoticed.append(f"{promise}: {name}")
    assert unnoticed == []


def test_the_oracle_looks_at_the_real_world(stack: Stack) -> None:
    """Rows, objects, versions and uploads that were tampered with in their own places, not in a copy of the evidence."""
    head, kept = stack.snapshots("head", "kept")
    before, request = Evidence.of(stack), stack.request([head.id])
    with steps_of(stack) as steps:
        assert steps.finish(request, steps.open_and_collect(request)).complete
    assert not list(violations(stack, before, Evidence.of(stack), [request]))
    scope = stack.world.physical(head.usecase, stack.organization_id, head.artifact.project_id, "")
    late, upload = f"{scope}{head.artifact.prefix}late", f"{scope}{head.artifact.prefix}begun"
    stack.s3.put_object(Bucket=stack.bucket, Key=late, Body=b"late")
    begin_upload(stack, upload)
    stack.s3.put_object(Bucket=stack.bucket, Key=scope + kept.manifest_key, Body=b"other")
    lost = next(key for key in before.objects if len(key.rpartition("/")[2]) == 64)
    stack.s3.delete_object(Bucket=stack.bucket, Key=lost)
    with stack.database.write() as session:
        session.execute(update(Deletion).values(state="running"))
    named = "\n".join(violations(stack, before, Evidence.of(stack), [request]))
    for part in (f"orphaned: {late}", f"orphaned: {upload}", f"trespassed: {lost}", kept.manifest_key, "is running"):
        assert part in named
