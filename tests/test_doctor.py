"""The doctor finds what keeps deletions from their end, says what to do, and changes nothing."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import starter
from demo.servers import Identity, ObjectStoreServer, TemporalServer
from tests.oracle import Evidence
from tests.snuba_server import SnubaServer
from tests.stack import Stack, connect, s3_of
from workflows.messages import SEARCH_ATTRIBUTES

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

DONE, FAILED = 0, 1
NOBODY = "127.0.0.1:1"
Findings = dict[str, dict[str, str]]
Examine = Callable[..., Awaitable[tuple[int, Findings]]]


@pytest.fixture
def examine(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """`starter.py doctor --json` in this process: its exit code, and what it found by name."""

    async def command(*arguments: str, **environment: str) -> tuple[int, Findings]:
        with monkeypatch.context() as changed:
            for name, value in (stack.environment() | environment).items():
                changed.setenv(name, value)
            capsys.readouterr()
            code = await asyncio.to_thread(starter.main, ["doctor", "--json", *arguments])
        return code, {one["name"]: one for one in json.loads(capsys.readouterr().out)}

    return command


def states(found: Findings) -> dict[str, str]:
    return {name: one["state"] for name, one in found.items()}


PERMISSIONS = ["s3:GetObject", "s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:DeleteObject", "s3:AbortMultipartUpload"]


async def test_where_all_is_well_it_says_what_that_rests_on(stack: Stack, examine: Examine) -> None:
    """Every permission that a worker uses is named, in each usecase, and nothing is other than it was."""
    stack.snapshots("one")
    before = Evidence.of(stack)
    async with stack.worker():
        code, found = await examine()
    assert (code, set(states(found).values())) == (DONE, {"ok"}), found
    for usecase in ("preprod", "snapshots", "preprod_size"):
        assert found[f"bucket, usecase {usecase}"]["found"] == f"allowed: {', '.join(PERMISSIONS)}"
    assert found["versioning"]["found"] == "the bucket keeps no versions"
    assert Evidence.of(stack) == before


async def test_for_a_person_each_finding_is_a_line_with_what_to_do_below(stack: Stack) -> None:
    done = await stack.run_command("doctor", TEMPORAL_ADDRESS=NOBODY)
    assert (done.returncode, done.stderr) == (FAILED, "")
    said = done.stdout.splitlines()
    assert said[0].startswith("bad     Temporal: Temporal cannot be reached")
    assert said[1] == "        do: set TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, its key or TLS"
    assert "ok      ledger: at this code's version" in said


@pytest.fixture(scope="module")
def guarded_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ObjectStoreServer, dict[str, Identity]]]:
    """A store whose users may do only so much."""
    actions = {"worker": ("Read", "List", "Write"), "reader": ("Read", "List"), "writer": ("Write",), "nobody": ("Tagging",)}
    users = {name: Identity(name, [f"{action}:guarded" for action in may]) for name, may in actions.items()}
    with ObjectStoreServer(tmp_path_factory.mktemp("guarded"), identities=list(users.values())) as server:
        s3_of(server).create_bucket(Bucket="guarded")
        yield server, users


@pytest.mark.parametrize(
    ("user", "refused"),
    [
        ("worker", []),
        ("reader", ["s3:DeleteObject: AccessDenied", "s3:AbortMultipartUpload: AccessDenied"]),
        ("nobody", [*(f"{one}: " for one in PERMISSIONS)]),
    ],
)
async def test_a_permission_that_is_lacking_is_named(
    stack: Stack, examine: Examine, guarded_store: tuple[ObjectStoreServer, dict[str, Identity]], user: str, refused: list[str]
) -> None:
    """Before a deletion finds out, with rows that are gone by then."""
    server, users = guarded_store
    stack.use_bucket("guarded", server)
    keys = {
        "ARTIFACT_DELETION_S3_ACCESS_KEY": users[user].access_key,
        "ARTIFACT_DELETION_S3_SECRET_KEY": users[user].secret_key,
        "ARTIFACT_DELETION_BUCKET_VERSIONED": "no",
    }
    code, found = await examine(**keys)
    bucket = found["bucket, usecase preprod"]
    assert (code, bucket["state"]) == ((FAILED, "bad") if refused else (DONE, "ok"))
    for permission in refused:
        assert permission in bucket["found"]


async def test_a_bucket_that_keeps_versions_is_asked_without_leaving_one(
    stack: Stack, examine: Examine, locking_bucket: str
) -> None:
    """A delete without a version would add a marker; and a worker that is told “no” would leave all data behind."""
    stack.use_bucket(locking_bucket)
    code, found = await examine()
    assert (code, found["versioning"]["found"]) == (DONE, "every version is deleted")
    assert "s3:ListBucketVersions" in found["bucket, usecase preprod"]["found"]
    assert "s3:DeleteObjectVersion" in found["bucket, usecase preprod"]["found"]
    code, found = await examine(ARTIFACT_DELETION_BUCKET_VERSIONED="no")
    assert (code, found["versioning"]["state"]) == (FAILED, "bad")
    assert stack.world.object_versions() == {}


async def test_where_nobody_knows_of_versions_nothing_is_deleted_to_find_out(
    stack: Stack, examine: Examine, guarded_store: tuple[ObjectStoreServer, dict[str, Identity]]
) -> None:
    """Every delete and listing of a worker would fail; and a delete of the doctor's could leave a marker behind."""
    server, users = guarded_store
    stack.use_bucket("guarded", server)
    stack.s3.put_bucket_versioning(Bucket="guarded", VersioningConfiguration={"Status": "Enabled"})
    keys = {
        "ARTIFACT_DELETION_S3_ACCESS_KEY": users["writer"].access_key,
        "ARTIFACT_DELETION_S3_SECRET_KEY": users["writer"].secret_key,
    }
    try:
        code, found = await examine(**keys)
        assert (code, found["versioning"]["state"], found["bucket"]["state"]) == (FAILED, "bad", "skipped")
        assert "AccessDenied" in found["versioning"]["found"]
        assert stack.world.object_versions() == {}
    finally:
        stack.s3.put_bucket_versioning(Bucket="guarded", VersioningConfiguration={"Status": "Suspended"})


async def test_what_is_put_in_place_of_ours_and_cannot_be_found_is_named(stack: Stack, examine: Examine) -> None:
    code, found = await examine(ARTIFACT_DELETION_ADAPTERS="no_such_module:name")
    assert code == FAILED
    for name in ("Temporal", "bucket", "trace store"):
        assert "no_such_module:name cannot be imported" in found[name]["found"]
    assert (
        found["bucket"]["do"]
        == found["trace store"]["do"]
        == "install the extra that it names, or mend ARTIFACT_DELETION_ADAPTERS"
    )


async def test_a_bucket_that_is_not_there_is_no_permission(stack: Stack, examine: Examine) -> None:
    code, found = await examine(ARTIFACT_DELETION_BUCKET="no-such-bucket")
    assert code == FAILED
    assert "NoSuchBucket" in found["versioning"]["found"]


async def test_a_schema_that_has_grown_and_a_ledger_that_is_absent_are_named(stack: Stack, examine: Examine) -> None:
    """A backend's own tests run it with nothing but the database."""
    code, found = await examine("--database-only")
    assert (code, list(found)) == (DONE, ["database", "ledger", "tables", "schema drift"])
    with stack.database.write() as session:
        session.execute(text("CREATE TABLE extra (id INTEGER PRIMARY KEY, a INTEGER REFERENCES sentry_preprodartifact (id))"))
        session.execute(text("ALTER TABLE sentry_preprodartifact DROP COLUMN extras"))
        session.execute(text("DELETE FROM artifact_deletion_version"))
    code, found = await examine("--database-only")
    assert (code, states(found)) == (FAILED, {"database": "ok", "ledger": "bad", "tables": "bad", "schema drift": "bad"})
    assert "extra.a → sentry_preprodartifact" in found["schema drift"]["found"]
    assert found["tables"]["found"] == "absent: sentry_preprodartifact.extras"
    assert found["ledger"]["do"] == "run `python starter.py setup`, unless this code is too old"
    code, found = await examine(
        "--database-only", ARTIFACT_DELETION_DATABASE_URL="postgresql+psycopg://u:private@127.0.0.1:1/x"
    )
    assert (code, states(found)["database"], states(found)["ledger"]) == (FAILED, "bad", "skipped")
    assert "private" not in json.dumps(found)


@pytest.mark.parametrize(
    ("attributes", "state", "said"),
    [
        ({}, "warn", "without DeletionStage, Leftovers, OrganizationId lists cannot be filtered"),
        (SEARCH_ATTRIBUTES | {"Leftovers": "Keyword"}, "bad", "Leftovers is Keyword"),
    ],
    ids=["none", "another type"],
)
async def test_search_attributes_that_are_absent_or_of_another_type_are_named(
    stack: Stack, examine: Examine, tmp_path: Path, attributes: dict[str, str], state: str, said: str
) -> None:
    """Deletions run in either namespace: without attributes that they could not set."""
    (one,) = stack.snapshots("one")
    with TemporalServer(tmp_path / "temporal", in_memory=True, ui=False, search_attributes=attributes) as server:
        stack.use_temporal(await connect(server.address))
        code, found = await examine()
        assert (found["search attributes"]["state"], found["search attributes"]["found"]) == (state, said)
        assert code == (FAILED if state == "bad" else DONE)
        assert (found["workers"]["state"], found["workers"]["do"]) == ("warn", "start `python worker.py`")
        async with stack.worker():
            assert (await stack.delete([one.id])).complete


async def test_the_trace_store_is_asked_about_a_trace_of_nobody(stack: Stack, examine: Examine) -> None:
    (one,) = stack.snapshots("one")
    place = one.artifact
    items = {(place.organization_id, place.project_id, place.trace_id): 3}
    with SnubaServer(items) as snuba:
        asked: dict[str, Any] = {"ARTIFACT_DELETION_TRACE_STORE": "snuba", "ARTIFACT_DELETION_SNUBA_URL": snuba.url}
        _, found = await examine(**asked)
        assert (states(found)["trace store"], len(snuba.requests)) == ("ok", 1)
    code, found = await examine(**asked)
    assert (code, states(found)["trace store"]) == (FAILED, "bad")
    code, found = await examine(ARTIFACT_DELETION_TRACE_STORE="none")
    assert (code, states(found)["trace store"]) == (DONE, "warn")
