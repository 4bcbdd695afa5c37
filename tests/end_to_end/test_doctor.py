"""The doctor finds what keeps deletions from their end, says what to do, and changes nothing."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Column, Engine, event, make_url, text
from sqlalchemy.sql.visitors import iterate
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

from activities.backend.contract import Backend
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.backend.tables import BackendTable
from activities.backend.used import columns_used
from activities.ledger import holds
from activities.ledger.holds import On
from activities.selection import expired_by_project
from activities.stores.sql_traces import SqlTraces
from adapters import Adapters
from artifact_deletion.errors import SchemaDrift
from artifact_deletion.request import SEARCH_ATTRIBUTES, TASK_QUEUE
from commands.examine import temporal
from commands.examine.finding import WARN
from commands.exit_codes import DONE, FAILED
from demo.servers import TemporalServer
from tests.oracle import Evidence
from tests.snuba_server import SnubaServer
from tests.stack import Stack, connect
from tests.typed import NOWHERE, Examine, examiner, runner, states
from workflows.steps import OBJECTS_TASK_QUEUE

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def examine(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """`starter.py doctor --json` in this process."""
    return examiner(runner(stack, monkeypatch, capsys))


PERMISSIONS = ["s3:GetObject", "s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:DeleteObject", "s3:AbortMultipartUpload"]


@pytest.mark.thorough
@on_sqlite
async def test_where_all_is_well_it_says_what_that_rests_on(stack: Stack, examine: Examine) -> None:
    """Every permission that a worker uses is named, in each usecase, and nothing is other than it was."""
    stack.s3.create_bucket(Bucket="well")  # where no other test has left an empty folder
    stack.use_bucket("well")
    stack.snapshots("one")
    before = Evidence.of(stack)
    async with stack.worker():
        code, found = await examine()
    assert (code, set(states(found).values())) == (DONE, {"ok"}), found
    for usecase in ("preprod", "preprod_snapshots", "snapshots", "preprod_size"):
        assert found[f"bucket, usecase {usecase}"]["found"] == f"allowed: {', '.join(PERMISSIONS)}"
    assert found["versioning"]["found"] == "the bucket keeps no versions"
    assert found["listings"]["found"] == "list_objects_v2 and list_multipart_uploads answer with EncodingType and without"
    assert found["workers"]["found"] == f"at work on {TASK_QUEUE} and {OBJECTS_TASK_QUEUE}"
    assert Evidence.of(stack) == before


@pytest.mark.thorough
@on_sqlite
async def test_for_a_person_each_finding_is_a_line_with_what_to_do_below(stack: Stack) -> None:
    done = await stack.run_command("doctor", TEMPORAL_ADDRESS=NOWHERE)
    assert (done.returncode, done.stderr) == (FAILED, "")
    said = done.stdout.splitlines()
    assert said[0].startswith("bad     Temporal: Temporal cannot be reached")
    assert said[1] == "        do: set TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, its key or TLS"
    assert "ok      ledger: at this code's version" in said


@on_sqlite
async def test_what_is_put_in_place_of_ours_and_cannot_be_found_is_named(stack: Stack, examine: Examine) -> None:
    code, found = await examine(ARTIFACT_DELETION_ADAPTERS="no_such_module:name")
    assert code == FAILED
    for name in ("Temporal", "tables", "schema drift", "bucket", "trace store"):
        assert "no_such_module:name cannot be imported" in found[name]["found"]
    assert (
        found["bucket"]["do"]
        == found["trace store"]["do"]
        == "install the packages that it names, or mend ARTIFACT_DELETION_ADAPTERS"
    )


class Elsewhere:
    """As much of a backend of another schema as the doctor asks for."""

    def refuse_unknown_tables(self) -> None:
        raise SchemaDrift("a table of that backend's own is not known")


ELSEWHERE = Adapters(backend=lambda _settings, _database: cast("Backend", Elsewhere()))


@on_sqlite
async def test_a_backend_of_another_schema_says_itself_what_it_does_not_know(stack: Stack, examine: Examine) -> None:
    """Our list of tables is not its own."""
    code, found = await examine(ARTIFACT_DELETION_ADAPTERS="tests.end_to_end.test_doctor:ELSEWHERE")
    assert (code, found["tables"]["state"], found["schema drift"]["state"]) == (FAILED, "skipped", "bad")
    assert found["schema drift"]["found"] == "a table of that backend's own is not known"
    assert found["rights"]["state"] == "ok"


@on_sqlite
async def test_a_schema_that_has_grown_and_a_ledger_that_is_absent_are_named(stack: Stack, examine: Examine) -> None:
    """A backend's own tests run it with nothing but the database."""
    code, found = await examine("--database-only")
    assert (code, list(found)) == (DONE, ["database", "ledger", "tables", "schema drift", "rights", "holds"])
    with stack.database.write() as session:
        session.execute(text("CREATE TABLE extra (id INTEGER PRIMARY KEY, a INTEGER REFERENCES sentry_preprodartifact (id))"))
        session.execute(text("ALTER TABLE sentry_preprodartifact DROP COLUMN extras"))
        session.execute(text("ALTER TABLE sentry_preprodsnapshotmetrics DROP COLUMN extras"))
        session.execute(text("DELETE FROM artifact_deletion_version"))
    code, found = await examine("--database-only")
    assert (code, states(found)) == (
        FAILED,
        {
            "database": "ok",
            "ledger": "bad",
            "tables": "bad",
            "schema drift": "bad",
            "rights": "skipped",
            "holds": "skipped",
        },
    )
    assert "extra.a → sentry_preprodartifact" in found["schema drift"]["found"]
    assert found["tables"]["found"] == "absent: sentry_preprodsnapshotmetrics.extras", "no deletion reads the artifact's own"
    assert found["ledger"]["do"] == "run `python starter.py setup`, unless this code is too old"
    code, found = await examine(
        "--database-only", ARTIFACT_DELETION_DATABASE_URL="postgresql+psycopg://u:private@127.0.0.1:1/x"
    )
    assert (code, states(found)["database"], states(found)["ledger"]) == (FAILED, "bad", "skipped")
    assert "private" not in json.dumps(found)


@pytest.mark.thorough
@on_sqlite
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


@pytest.mark.thorough
@on_sqlite
async def test_the_trace_store_is_asked_about_a_trace_of_no_artifact(stack: Stack, examine: Examine) -> None:
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


# The database ---------------------------------------------------------------------------------------------------------


@on_postgresql
async def test_a_role_that_may_only_read_is_found_out_table_by_table(stack: Stack, examine: Examine) -> None:
    """Before a deletion is, with every right that a worker uses; trying them changes nothing."""
    stack.snapshots("one")
    before = Evidence.of(stack)
    owner = make_url(stack.database_url)
    role = f"reader_of_{owner.database}"
    with stack.database.write() as session:
        session.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'reads'"))
        for schema in ("public", "artifact_deletion"):
            session.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
            session.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"))
    reader = owner.set(username=role, password="reads").render_as_string(hide_password=False)
    code, found = await examine("--database-only", ARTIFACT_DELETION_DATABASE_URL=reader)
    assert (code, states(found)) == (
        FAILED,
        {"database": "ok", "ledger": "ok", "tables": "ok", "schema drift": "ok", "rights": "bad", "holds": "ok"},
    )
    lacking = found["rights"]["found"]
    for table in ("artifact", "chunk", "page", "prefix"):
        assert f"INSERT, UPDATE, DELETE on artifact_deletion_{table}" in lacking
    for table in ("sentry_file", "sentry_preprodartifact", "sentry_preprodsnapshotmetrics"):
        assert f"FOR UPDATE, DELETE on {table}" in lacking
    assert f"role {role} lacks" in lacking
    assert "SELECT" not in lacking
    _, owners = await examine("--database-only")
    assert owners["rights"]["state"] == "ok"

    with stack.database.write() as session:
        session.execute(text(f"ALTER ROLE {role} SET default_transaction_read_only = on"))
        session.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA public, artifact_deletion TO {role}"))
    _, read_only = await examine("--database-only", ARTIFACT_DELETION_DATABASE_URL=reader)
    assert read_only["rights"]["found"] == "the database takes no writes: it is read-only"
    assert Evidence.of(stack) == before


@on_sqlite
async def test_the_columns_that_are_demanded_are_those_that_a_deletion_and_looks_around_it_name(stack: Stack) -> None:
    """One that the list lacks would be found out by a deletion, one too many by a backend's CI. In every kind of row."""
    head, base = stack.snapshots("head", "base")
    world, organization = stack.world, stack.organization_id
    world.comparison(head, base)
    project = world.project(organization, "builds")
    builds = [world.mobile_build(project, icon="icn_one"), world.mobile_build(project)]
    world.size_comparison(*builds)
    for one in (head, builds[0]):
        world.approval(one)
        world.installable(one)
    every = [head.id, base.id, *(build.id for build in builds)]
    named: set[tuple[str, str]] = set()

    def collect(_connection: object, statement: Any, *_: object) -> None:
        for column in iterate(statement) if hasattr(statement, "get_children") else ():
            bases = column.base_columns if isinstance(column, Column) else ()
            named.update((of.table.name, of.name) for of in bases if of.table in BackendTable.metadata.tables.values())

    event.listen(Engine, "before_execute", collect)
    try:
        async with stack.worker():
            assert (await stack.delete(every, images="delete")).complete
        stack.verify(stack.request(every, images="delete"))
        list(SqlTraces(stack.database).list_traces(organization, project.id))
        with stack.database.read() as session:
            expired_by_project(session, backend := SentryBackend(stack.database, Scopes("", ())))
            backend.bulk.delete_rest(session, organization, project.id)
    finally:
        event.remove(Engine, "before_execute", collect)
    demanded = {(table, column) for table, columns in columns_used(sql_traces=True).items() for column in columns}
    assert demanded == named


@on_sqlite
async def test_a_hold_on_everything_is_said_and_how_it_ends(stack: Stack, examine: Examine) -> None:
    """Else all is well, and nothing is deleted, nor the trace store asked; its reason is for the table of holds."""
    holds.place(stack.database, On.ORGANIZATION, "1", reason="PRIVATE", by="user:7")
    _, found = await examine()
    assert found["holds"]["state"] == "ok"
    placed = holds.place(stack.database, On.EVERYTHING, "", reason="PRIVATE", by="user:7")
    code, found = await examine()
    assert (code, states(found)["holds"], states(found)["trace store"]) == (DONE, "warn", "skipped")
    assert f"python starter.py lift {placed.id} --by WHO" in found["holds"]["found"]
    assert "PRIVATE" not in json.dumps(found)


# Workers, and what one with its settings needs ------------------------------------------------------------------------


@on_sqlite
async def test_a_worker_that_has_not_asked_for_work_lately_is_none(
    stack: Stack, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal remembers it for minutes after its death. The test waits for none: here lately is this very moment."""
    async with stack.worker():
        _, found = await examine()
    assert found["workers"]["state"] == "ok"
    queue = TaskQueue(name=TASK_QUEUE)
    kind = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    asked = DescribeTaskQueueRequest(namespace=stack.client.namespace, task_queue=queue, task_queue_type=kind)
    assert (await stack.client.workflow_service.describe_task_queue(asked)).pollers
    monkeypatch.setattr(temporal, "_SEEN_WITHIN", timedelta(0))
    code, found = await examine()
    assert (code, found["workers"]["state"]) == (DONE, WARN)
    assert TASK_QUEUE in found["workers"]["found"]
    assert OBJECTS_TASK_QUEUE in found["workers"]["found"]


@on_sqlite
async def test_a_worker_that_serves_one_queue_is_asked_for_what_that_needs(stack: Stack, examine: Examine) -> None:
    """One that deletes rows has no rights to the store; one that deletes objects has no trace store."""
    async with stack.worker(serves="objects"):
        code, found = await examine(ARTIFACT_DELETION_SERVES="objects", ARTIFACT_DELETION_TRACE_STORE="none")
        assert (code, found["trace store"]["state"]) == (DONE, "skipped")
        assert found["workers"]["found"] == f"at work on {OBJECTS_TASK_QUEUE}"
        assert found["bucket, usecase preprod"]["state"] == "ok"
    code, found = await examine(ARTIFACT_DELETION_SERVES="rows", ARTIFACT_DELETION_S3_ENDPOINT=f"http://{NOWHERE}")
    assert (code, found["bucket"]["state"], found["trace store"]["state"]) == (DONE, "skipped", "ok")
    assert OBJECTS_TASK_QUEUE not in found["workers"]["found"]
    assert not [name for name in found if name.startswith(("bucket,", "versioning", "listings", "beside"))]
