"""A database restored to an earlier point: receipts that are kept outside it say what came back, and it is deleted again."""

import asyncio
import functools
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, type_coerce, update

from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.backend.tables import Artifact
from activities.close_deletion import CloseDeletion
from activities.ledger import deletions
from activities.ledger.schema import UtcDateTime
from activities.living import Living
from activities.receipts import Closed, StoredReceipts, receipts_of
from activities.stores.documents import S3Documents
from artifact_deletion.errors import StoreUnavailable
from artifact_deletion.outbox import DeletionState, NoSuchDeletion
from artifact_deletion.receipt import DeletionReceipt
from demo.servers import ObjectStoreServer
from demo.world import screen
from tests.backups import RestorePoint
from tests.conftest import Command
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import PROCESS, Seen, Stack, deletion_of, recorded, s3_of, steps_of
from workflows.steps import CLOSE_DELETION

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
BUCKET, PREFIX = f"receipts-{PROCESS}", "deletion-receipts/"


@pytest.fixture(scope="module")
def receipts_bucket(object_store: ObjectStoreServer) -> str:
    s3_of(object_store).create_bucket(Bucket=BUCKET)
    return BUCKET


@pytest.fixture
def kept(stack: Stack, command: Command, receipts_bucket: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a worker that keeps receipts in the store, and of commands that read them there."""
    place = f"s3://{receipts_bucket}/{PREFIX}{stack.organization_id}/"
    monkeypatch.setenv("ARTIFACT_DELETION_RECEIPT_EXPORT", place)
    return {"receipt_export": place}


def kept_receipts(stack: Stack) -> dict[str, Closed]:
    """Those of the test's own organization, by key."""
    listed = stack.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}{stack.organization_id}/")
    keys = [found["Key"] for found in listed.get("Contents", ())]
    contents = {key: stack.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode() for key in keys}
    assert all(content.count("\n") == 1 == content.endswith("\n") for content in contents.values())
    return {key: Closed.model_validate_json(content) for key, content in contents.items()}


def now_of(stack: Stack) -> datetime:
    with stack.database.read() as session:
        return session.execute(select(type_coerce(func.now(), UtcDateTime))).scalar_one()


@pytest.mark.thorough
async def test_what_a_restore_brought_back_is_deleted_again(
    stack: Stack, kept: dict[str, Any], restore_point: RestorePoint, command: Command
) -> None:
    """Deleted after the dump: back with its rows, and the ledger knows nothing. Deleted before it: still gone, and left so.

    An artifact that was uploaded after the restore can have the id of one that was deleted: that is another's.
    """
    early, one, two = stack.snapshots("early", "one", "two")
    stack.world.comparison(one, two)
    project = stack.world.project(stack.organization_id, "other")
    async with stack.worker(**kept):
        await stack.delete([early.id])
        restore = restore_point()
        since = now_of(stack)
        late = stack.world.snapshot(project, {"login": screen("login")})
        await stack.delete([one.id, two.id], requested_by="user:7", reference="TICKET-1")
        await stack.delete([late.id])
    receipts = kept_receipts(stack)
    restore()
    assert stack.world.rows()["sentry_preprodartifact"].keys() == {one.id, two.id}
    request = stack.request([one.id, two.id], requested_by="user:7", reference="TICKET-1")
    with pytest.raises(NoSuchDeletion):
        recorded(stack.database, request.workflow_id)
    uploaded = stack.world.snapshot(project, {"login": screen("login", 1)})
    assert uploaded.id == late.id, "the database counts on from where it was"
    if not stack.database.is_postgresql:  # which keeps whole seconds there: within one, older is not told from younger
        date_added_later(stack, uploaded.id)
    before = Evidence.of(stack)

    reapply = functools.partial(asyncio.to_thread, command, "reapply", "--since", since.isoformat())

    code, said = await reapply("--dry-run")
    assert f"2 of 2 artifacts are back  {request.workflow_id}\n" in said
    assert "2 artifacts of 1 deletions are back, and may be deleted again" in said
    assert "LEFT ALONE: 1 others have ids that it deleted, but were added later" in said
    assert code == 1, "a person should look at what was left alone"
    assert Seen.of(stack.world) == Seen(before.rows, before.objects)

    async with stack.worker(**kept):
        code, said = await reapply("--yes")
        assert (code, said.splitlines()[-1]) == (1, request.workflow_id)
        again = await stack.client.get_workflow_handle(request.workflow_id, result_type=DeletionReceipt).result()
    assert again.complete
    assert_promises_hold(stack, before, [request])
    assert stack.world.rows()["sentry_preprodartifact"].keys() == {uploaded.id}
    assert kept_receipts(stack).keys() == receipts.keys()
    assert "0 artifacts of 0 deletions are back" in (await reapply("--yes"))[1]


def date_added_later(stack: Stack, artifact: int) -> None:
    with stack.database.write() as session:
        later = datetime.now(UTC) + timedelta(minutes=1)
        session.execute(update(Artifact).where(Artifact.id == artifact).values(date_added=later))


@on_sqlite
async def test_a_receipt_is_kept_before_its_deletion_counts_as_closed(
    stack: Stack, kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever crashes in between: no closed deletion is without the receipt that would undo a restore."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    keys = stack.world.objects_of([one.id])
    stack.accept(request)
    whole_put, whole_close = S3Documents.put, deletions.close

    def store_is_down(*_: object) -> None:
        raise StoreUnavailable("the object store could not be reached (EndpointConnectionError)")

    def crash(*_: object) -> None:
        raise RuntimeError("killed between the store's answer and COMMIT")

    def state() -> DeletionState:
        return recorded(stack.database, request.workflow_id).state

    with steps_of(stack, **kept) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        monkeypatch.setattr(S3Documents, "put", store_is_down)
        with pytest.raises(StoreUnavailable):
            steps.close(request)
        assert (state(), kept_receipts(stack)) == (DeletionState.RUNNING, {})
        monkeypatch.setattr(S3Documents, "put", whole_put)
        monkeypatch.setattr(deletions, "close", crash)
        with pytest.raises(RuntimeError):
            steps.close(request)
        assert state() == DeletionState.RUNNING
        (first,) = kept_receipts(stack).items()
        monkeypatch.setattr(deletions, "close", whole_close)
        receipt = steps.close(request)
    (last,) = kept_receipts(stack).items()
    assert last[0] == first[0] == f"{PREFIX}{stack.organization_id}/{stack.organization_id}/{request.deletion_id}.json"
    assert (state(), last[1]) == (DeletionState.CLOSED, Closed(request=request, receipt=receipt))
    content = last[1].line
    assert not any(key.rpartition("/")[2] in content for key in keys), "no keys"


@on_sqlite
def test_what_is_kept_is_what_is_closed(stack: Stack) -> None:
    """A late attempt may settle keys while the receipt is being kept: then it is added up and kept once more."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    written: list[Closed] = []
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        deleted = steps.delete_rows(sealed)

        class Late:
            def write(self, closed: Closed) -> None:
                if not written:
                    steps.delete_objects(sealed, deleted)
                written.append(closed)

        living = Living(SentryBackend(stack.database, Scopes("", ())))
        close = CloseDeletion(stack.database, living, traces_configured=False, promised_days=30, receipts=Late())
        steps.environment.run(close.close_deletion, deletion_of(request))
    receipt = stack.receipt(request.workflow_id)
    assert [sum(one.receipt.objects.left_over.values()) for one in written] == [receipt.objects.sealed, 0]
    assert written[-1].receipt == receipt


@pytest.mark.thorough
@on_sqlite
def test_receipts_that_were_printed_can_be_read_again(
    stack: Stack,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a collector keeps what workers print. A person is asked first, and Temporal may be down then."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    with steps_of(stack, receipt_export="stdout") as steps:
        before = Evidence.of(stack)
        capsys.readouterr()
        steps.finish(request, steps.open_and_collect(request))
        printed = capsys.readouterr().out
    file = tmp_path / "collected.jsonl"
    file.write_text(f"{printed}\n{printed}not a receipt\n")
    all_closed, unreadable = receipts_of(file.read_text().splitlines(), datetime(2000, 1, 1, tzinfo=UTC))
    assert ([closed.request for closed in all_closed], unreadable) == ([request], 1)
    assert receipts_of(printed.splitlines(), datetime.now(UTC) + timedelta(days=1)) == ([], 0)

    code, said = command("reapply", "--since", "2000-01-01", "--receipts", file, "--yes")
    assert (code, "1 lines are no receipts" in said, "0 artifacts of 0 deletions" in said) == (1, True, True)
    bring_back(stack, before)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, said = command("reapply", "--since", "2000-01-01", "--receipts", file)
    assert (code, "nothing was done" in said) == (1, True)
    assert recorded(stack.database, request.workflow_id).state == DeletionState.CLOSED
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    code, said = command("reapply", "--since", "2000-01-01", "--receipts", file)
    assert (code, "all are accepted" in said) == (3, True)
    assert recorded(stack.database, request.workflow_id).state == DeletionState.ACCEPTED
    monkeypatch.setenv("ARTIFACT_DELETION_ADAPTERS", "nowhere:adapters")
    assert command("reapply", "--since", "2000-01-01", "--receipts", file, "--yes")[0] == 2


@on_sqlite
def test_the_receipt_that_is_kept_is_the_one_that_closed_it(
    stack: Stack, kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts close it, and the request of the one that comes too late is the last to reach the store."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    stack.accept(request)
    with steps_of(stack, **kept) as steps:
        whole, late = StoredReceipts.write, list[Closed]()

        def write(self: StoredReceipts, closed: Closed) -> None:
            if not late:
                late.append(closed)
                steps.run(CLOSE_DELETION, deletion_of(request))
            whole(self, closed)

        monkeypatch.setattr(StoredReceipts, "write", write)
        steps.finish(request, steps.open_and_collect(request))
    (found,) = kept_receipts(stack).values()
    assert found.receipt == stack.receipt(request.workflow_id) != late[0].receipt


def bring_back(stack: Stack, before: Evidence) -> None:
    """The artifacts' rows as they were."""
    with stack.database.write() as session:
        for row in before.rows["sentry_preprodartifact"].values():
            session.add(Artifact(**row))


@on_sqlite
def test_without_a_place_to_read_them_from_reapply_says_so(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, said = command("reapply", "--since", "yesterday")
    assert (code, "must be a time such as" in said) == (2, True)
    code, said = command("reapply", "--since", "2026-01-01", "--receipts", tmp_path / "absent")
    assert (code, said) == (2, "the file of receipts cannot be read (FileNotFoundError)\n")
    monkeypatch.setenv("ARTIFACT_DELETION_RECEIPT_EXPORT", "stdout")
    code, said = command("reapply", "--since", "2026-01-01")
    assert (code, "names no place in the store" in said) == (2, True)
