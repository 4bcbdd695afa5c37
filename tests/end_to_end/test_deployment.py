"""What deployments are told to do: least rights that suffice, one task queue a worker, a release at a time."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url, text
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.enums.v1 import TaskQueueType, VersioningBehavior
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentVersionRequest,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

import composition
import worker
from activities.database import Database
from activities.images import owed, rows
from activities.images.transitions import Image, ImageState
from activities.receipts import Closed
from activities.stores.s3 import S3Objects
from artifact_deletion import reserve_images
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import SEARCH_ATTRIBUTES, TASK_QUEUE
from demo.servers import Identity, ObjectStoreServer, TemporalServer
from demo.world import sample_world
from tests import stack as stacks
from tests.conftest import Command
from tests.manifests import DEPLOY, containers_of, pods
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import PROCESS, ROOT, Held, Stack, connect, eventually, pending_failures, resume, s3_of
from tests.workflow.test_images import AT_ONCE
from workflows.steps import OBJECTS_TASK_QUEUE

pytestmark = pytest.mark.thorough

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ROLES = ("artifact_deletion_worker", "artifact_deletion_backend", "artifact_deletion_operator")
UNLESS_IT_IS_THERE = "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;"
_logins = (f"login_{PROCESS}_{number}" for number in itertools.count(1))
# SeaweedFS's rights are coarser than S3's: each of these is the one that a call of that name asks for.
SEAWEEDFS = {
    "s3:AbortMultipartUpload": "Write",
    "s3:DeleteObject": "Write",
    "s3:DeleteObjectVersion": "Write",
    "s3:GetBucketVersioning": "Read",
    "s3:GetLifecycleConfiguration": "Read",
    "s3:GetObject": "Read",
    "s3:GetObjectTagging": "Tagging",
    "s3:ListBucket": "List",
    "s3:ListBucketMultipartUploads": "List",
    "s3:ListBucketVersions": "List",
    "s3:PutObject": "Write",
    "s3:PutObjectTagging": "Tagging",
}


def allowed(bucket: str) -> list[str]:
    """deploy/iam-policy.json as SeaweedFS's actions: `Write:bucket/prefix/*`. What it has for Ceph alone is left out."""
    actions = set()
    for statement in json.loads((DEPLOY / "iam-policy.json").read_text())["Statement"]:
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            place = resource.removeprefix("arn:aws:s3:::").replace("BUCKET", bucket)
            actions |= {f"{SEAWEEDFS[action]}:{place}" for action in statement["Action"] if "Ceph" not in statement["Sid"]}
    return sorted(actions)


@pytest.fixture(scope="module")
def narrow_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """A store with users of the policy's rights, and of less."""
    rights = {"suffices": allowed("narrow"), "reads": [one for one in allowed("narrow") if not one.startswith("Write")]}
    users = [Identity(name, actions, access_key=name, secret_key=f"secret-of-{name}") for name, actions in rights.items()]
    with ObjectStoreServer(tmp_path_factory.mktemp("narrow"), identities=users) as server:
        s3_of(server).create_bucket(Bucket="narrow")
        yield server


def as_role(database: Database, url: str, role: str, *, without: str = "") -> str:
    """Grant what deploy/grants.sql grants, make a login that has one role of it, and return its URL."""
    grants = (DEPLOY / "grants.sql").read_text()
    grants = re.sub(r"^-- (?=GRANT )", "", grants, flags=re.MULTILINE)  # what some need alone
    login = login_as(url, role)
    run_as_owner(url, grants, without)
    return login


def login_as(url: str, role: str) -> str:
    """Make a login that has one role of deploy/grants.sql, and return its URL."""
    login = next(_logins)
    made = (f"DO $$ BEGIN CREATE ROLE {name} NOLOGIN; {UNLESS_IT_IS_THERE} END $$" for name in ROLES)
    run_as_owner(url, *made, f"CREATE ROLE {login} LOGIN PASSWORD 'secret' IN ROLE {role}")
    return make_url(url).set(username=login, password="secret").render_as_string(hide_password=False)


def run_as_owner(url: str, *statements: str) -> None:
    """One after another, in one transaction."""
    with psycopg.connect(url.replace("+psycopg", "", 1)) as owner:
        for statement in statements:
            owner.execute(statement.encode())


@on_postgresql
async def test_the_least_rights_suffice_for_all_that_a_deletion_does(stack: Stack, narrow_store: ObjectStoreServer) -> None:
    """The owner migrates, the backend accepts, the worker deletes, each with no more than deploy/ grants it."""
    stack.use_bucket("narrow", narrow_store)
    with stack.database.write() as session:
        session.execute(text("CREATE TABLE sentry_releasefile (id BIGINT, file_id BIGINT REFERENCES sentry_file (id))"))
    sample = sample_world(stack.world)
    request = stack.request(sample.to_delete)
    upload = next(key for key in sorted(stack.world.objects_of(sample.to_delete)) if key.startswith("preprod/")) + ".part"
    stack.s3.create_multipart_upload(Bucket="narrow", Key=upload)
    before = Evidence.of(stack)
    backend = Database(as_role(stack.database, stack.database_url, ROLES[1]))
    with backend.write() as session:
        accept_deletion(session, request)
    rights = {
        "database_url": as_role(stack.database, stack.database_url, ROLES[0]),
        "s3_access_key": "suffices",
        "s3_secret_key": "secret-of-suffices",
        "metrics_address": "127.0.0.1:1",
    }
    async with stack.worker(**rights):
        assert await resume(stack.client, backend) == [request.workflow_id]
        await asyncio.wait_for(stack.client.get_workflow_handle(request.workflow_id).result(), 60)
    receipt = stacks.receipt(backend, request.workflow_id)
    backend.dispose()
    found = stack.verify(request, **rights)
    assert (found.lying, found.blobs_waiting > 0) == ([], True)
    assert receipt is not None
    assert receipt.complete
    assert receipt.objects.uploads_aborted == 1
    assert_promises_hold(stack, before, [request], also_owned=[upload])


@on_postgresql
async def test_the_least_rights_suffice_to_hide_and_purge_images(stack: Stack, narrow_store: ObjectStoreServer) -> None:
    """Copies in quarantine, the index, and a relay that looks which projects need a watch."""
    stack.use_bucket("narrow", narrow_store)
    one, other = stack.snapshots("one", "other")
    rights = {"database_url": as_role(stack.database, stack.database_url, ROLES[0])}
    keys = {"s3_access_key": "suffices", "s3_secret_key": "secret-of-suffices"}
    async with stack.worker(**rights, **keys, **AT_ONCE):
        receipt = await stack.delete([one.id], images="delete")
        watch = f"project-images/{stack.organization_id}/{one.artifact.project_id}"
        await asyncio.wait_for(stack.client.get_workflow_handle(watch).result(), 40)
    assert (receipt.complete, receipt.images.left_over) == (True, {})
    there = stack.world.objects()
    assert not [key for key in there if stack.image_keys(one)["one"].rpartition("/")[2] in key]
    assert set(stack.image_keys(other).values()) <= there.keys()
    backend = Database(as_role(stack.database, stack.database_url, ROLES[1]))
    with backend.read() as session:
        assert owed.to_watch(session) == []
    backend.dispose()


@on_postgresql
@pytest.mark.parametrize(
    ("revoked", "step"),
    [
        ("REVOKE UPDATE (id) ON sentry_project FROM artifact_deletion_worker", "delete_rows"),
        ("REVOKE INSERT ON artifact_deletion.artifact_deletion_page FROM artifact_deletion_worker", "collect_keys"),
    ],
    ids=["lock", "ledger"],
)
async def test_a_right_that_is_missing_is_waited_for_by_its_sqlstate(stack: Stack, revoked: str, step: str) -> None:
    """So the rights of the test above are what lets it pass; and an operator reads of the refusal, and mends it."""
    one, _ = stack.snapshots("one", "two")
    url = as_role(stack.database, stack.database_url, ROLES[0], without=revoked)
    async with stack.worker(database_url=url):
        handle = await stack.start([one.id])

        async def refused() -> str | None:
            return (await pending_failures(handle)).get(step)

        assert "ProgrammingError 42501" in await eventually(refused)
        as_role(stack.database, stack.database_url, ROLES[0])
        await asyncio.wait_for(handle.result(), 40)


@pytest.mark.thorough
@on_postgresql
async def test_an_operator_may_do_at_the_command_line_what_the_runbook_says(
    stack: Stack, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stop everything, look, confirm, run again, reapply, keep one: rights found missing at night are found too late."""
    one, two, three = stack.snapshots("one", "two", "three")
    monkeypatch.setenv("ARTIFACT_DELETION_DATABASE_URL", as_role(stack.database, stack.database_url, ROLES[2]))
    own, by = ("--organization", stack.organization_id), ("--by", "user:7")

    async def succeeds(*line: object) -> str:
        code, said = await asyncio.to_thread(command, *line)
        assert code == 0, said
        return said

    async with stack.worker(max_artifacts_unconfirmed=1, database_url=as_role(stack.database, stack.database_url, ROLES[0])):
        await succeeds("hold", "--everything", "--reason", "wrong ones", *by)
        deletion = stack.request([one.id, two.id])
        assert await succeeds("delete", one.id, two.id, *own, "--images", "keep") == f"{deletion.workflow_id}\n"
        assert "wrong ones" in await succeeds("holds")
        await succeeds("lift", "--everything", *by)
        await succeeds("confirm", deletion.workflow_id, *by)
        await asyncio.wait_for(stack.client.get_workflow_handle(deletion.workflow_id).result(), 40)
        closed = Closed(request=deletion, receipt=stack.receipt(deletion.workflow_id))
        receipts = tmp_path / "receipts.jsonl"
        receipts.write_text(closed.line)
        since = closed.receipt.times.accepted.isoformat()
        await succeeds("status", deletion.workflow_id)
        await succeeds("receipt", deletion.workflow_id)
        await succeeds("rerun", deletion.workflow_id)
        await succeeds("list", *own)
        await succeeds("reapply", "--since", since, "--receipts", receipts, "--dry-run")
        await succeeds("doctor", "--role", "operator")
        await succeeds("images", "status", "--project", one.artifact.project_id)
        held = re.match("hold ([0-9]+)", (await succeeds("hold", "--artifact", three.id, "--reason", "x", *by)).splitlines()[0])
        await stack.failure(await stack.start([three.id]))
        assert held
        assert "runs again for what was held" in await succeeds("lift", held[1], *by)
        await succeeds("retention", "set", *own, "--days", 90, *by)
        await succeeds("retention", "list")
        await succeeds("retention", "preview", *own)
        await succeeds("retention", "run", *own, *by)
        await succeeds("retention", "remove", *own)
        await succeeds("delete-project", one.artifact.project_id, *own, *by, "--wait")


@on_postgresql
def test_the_least_rights_suffice_for_a_commit_that_asks_first(stack: Stack) -> None:
    """A backend that does not call reserve_images is granted none of these."""
    at: Any = {"project_id": 7, "artifact_id": 1, "images": ["a" * 64]}
    with stack.database.write() as session:
        rows.begin(session, 1, 7, ["a" * 64], Image(ImageState.HIDDEN, 3))
    backend = Database(as_role(stack.database, stack.database_url, ROLES[1]))
    with backend.write() as session:
        assert reserve_images(session, **at) == {"a" * 64: 3}
    with backend.write() as session:
        assert reserve_images(session, **at, put_again={"a" * 64: 3}) == {}
    backend.dispose()


@on_postgresql
@pytest.mark.parametrize("role", ["worker", "backend", "operator"])
def test_doctor_finds_the_granted_rights_enough_and_says_which_one_is_missing(
    stack: Stack, command: Command, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """What deploy/grants.sql grants and what `doctor` looks for are two lists: neither is longer than the other."""
    granted = as_role(stack.database, stack.database_url, f"artifact_deletion_{role}")
    monkeypatch.setenv("ARTIFACT_DELETION_DATABASE_URL", granted)
    code, said = command("doctor", "--database-only", "--role", role)
    assert (code, "may do what a" in said) == (0, True), said
    with psycopg.connect(stack.database_url.replace("+psycopg", "", 1), autocommit=True) as owner:
        missing = "INSERT (deletion_id, request, reason), INSERT ON artifact_deletion.artifact_deletion_ask"
        owner.execute(f"REVOKE {missing} FROM artifact_deletion_{role}".encode())
    code, said = command("doctor", "--database-only", "--role", role)
    assert code == 1
    assert "INSERT on artifact_deletion_ask" in said


def run_job(container: str, environment: dict[str, str]) -> tuple[int, str]:
    """A container of the Job that sets up, by its very command, in this tree instead of the image's."""
    (command,) = [one["command"] for one in containers_of(pods()["setup"]) if one["name"] == container]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, cwd=ROOT, env=environment | {"PATH": path}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.thorough
@on_postgresql
def test_the_job_sets_up_a_ledger_with_rights_for_every_role(stack: Stack) -> None:
    """Before the first worker, and again with each release: in the order in which Kubernetes runs its containers."""
    logins = {role: login_as(stack.database_url, f"artifact_deletion_{role}") for role in ("worker", "backend", "operator")}
    run_as_owner(stack.database_url, "DROP SCHEMA artifact_deletion CASCADE")
    environment = stack.environment()
    for _ in range(2):
        for container in containers_of(pods()["setup"]):
            code, said = run_job(container["name"], environment)
            assert code == 0, (container["name"], said)
    doctor = [sys.executable, "starter.py", "doctor", "--database-only", "--role"]
    for role, login in logins.items():
        asked = environment | {"ARTIFACT_DELETION_DATABASE_URL": login}
        done = subprocess.run([*doctor, role], cwd=ROOT, env=asked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.thorough
@on_postgresql
def test_the_job_ends_where_a_step_of_it_fails(stack: Stack) -> None:
    """Search attributes may be missing only where they are made by hand; rights and tables never."""
    login = login_as(stack.database_url, ROLES[0])
    run_as_owner(stack.database_url, "DROP SCHEMA artifact_deletion CASCADE")
    away = stack.environment(TEMPORAL_ADDRESS="127.0.0.1:1")
    code, said = run_job("doctor", away)
    assert (code, "starter.py setup" in said) == (1, True), said
    code, said = run_job("grants", away)
    assert (code, 'schema "artifact_deletion" does not exist' in said) == (1, True), said
    assert run_job("ledger", away)[0] != 0
    code, said = run_job("ledger", away | {"ARTIFACT_DELETION_SEARCH_ATTRIBUTES": "yes"})
    assert (code, said) == (0, "the ledger is up to date\nsearch attributes: not asked for (SEARCH_ATTRIBUTES=yes)\n")
    code, said = run_job("grants", away | {"ARTIFACT_DELETION_DATABASE_URL": login})
    assert (code, "nothing was granted: permission denied" in said) == (1, True), said
    code, said = run_job("grants", away | {"ARTIFACT_DELETION_DATABASE_URL": "postgresql+psycopg2://owner:SECRET@here/x"})
    assert (code, "nothing was granted" in said, "SECRET" in said) == (1, True, False), said


@on_postgresql
def test_a_backend_that_is_broken_can_only_ask(stack: Stack) -> None:
    """It can neither confirm what it asks for, nor lift a hold, nor change an earlier ask."""
    stack.accept(stack.request([1]))
    with psycopg.connect(as_role(stack.database, stack.database_url, ROLES[1]).replace("+psycopg", "", 1)) as backend:
        for statement in (
            "UPDATE artifact_deletion.artifact_deletion_ask SET served_at = now()",
            "DELETE FROM artifact_deletion.artifact_deletion_ask",
            "INSERT INTO artifact_deletion.artifact_deletion_ask (deletion_id, request, run_id) VALUES ('', '{}', '')",
            "UPDATE artifact_deletion.artifact_deletion SET state = 'closed'",
            "UPDATE artifact_deletion.artifact_deletion_hold SET lifted_at = now()",
            "INSERT INTO artifact_deletion.artifact_deletion_hold (on_what, on_id, reason) VALUES ('', '', '')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                backend.execute(statement.encode())
            backend.rollback()


@on_sqlite
async def test_a_worker_that_may_not_delete_objects_leaves_them_over(stack: Stack, narrow_store: ObjectStoreServer) -> None:
    """So the policy's rights to delete are what the first test deletes with."""
    stack.use_bucket("narrow", narrow_store)
    (one,) = stack.snapshots("one")
    async with stack.worker(s3_access_key="reads", s3_secret_key="secret-of-reads"):
        handle = await stack.start([one.id])
        failed = await stack.failure(handle)
    assert failed.type == "ObjectsRemain"
    assert stack.receipt(handle.id).objects.left_over.keys() == {"AccessDenied"}


@pytest.mark.thorough
@on_sqlite
async def test_a_worker_serves_the_one_task_queue_that_it_is_told_to(stack: Stack) -> None:
    """Rows' workers do without any right to the store, and objects' workers scale and restart by themselves."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    stranger = {"s3_access_key": "stranger", "s3_secret_key": "stranger"}
    async with stack.worker(serves="rows", **stranger):
        handle = await stack.start([one.id])

        async def waits_for_objects() -> bool:
            pending = (await handle.describe()).raw_description.pending_activities
            return [one.activity_type.name for one in pending if not one.HasField("last_started_time")] == ["collect_keys"]

        await eventually(waits_for_objects)
        async with stack.worker(serves="objects"):
            await asyncio.wait_for(handle.result(), 40)
    assert_promises_hold(stack, before, [stack.request([one.id])])


POLLED = {
    (TASK_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW),
    (TASK_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY),
    (OBJECTS_TASK_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY),
}
"""Each is heard of by itself: a queue's name alone can be known while one of its kinds is not."""


async def set_current(client: Client, build: str) -> None:
    """Once all that the version polls is known of it, as docs/deployment.md says."""
    version = WorkerDeploymentVersion(deployment_name=worker.DEPLOYMENT, build_id=build)

    async def polled() -> bool:
        try:
            found = await client.workflow_service.describe_worker_deployment_version(
                DescribeWorkerDeploymentVersionRequest(namespace=client.namespace, deployment_version=version)
            )
        except RPCError:
            return False
        return {(queue.name, queue.type) for queue in found.version_task_queues} >= POLLED

    await eventually(polled)
    await client.workflow_service.set_worker_deployment_current_version(
        SetWorkerDeploymentCurrentVersionRequest(
            namespace=client.namespace, deployment_name=worker.DEPLOYMENT, build_id=build, identity="test"
        )
    )


async def ran_on(handle: WorkflowHandle[Any, Any]) -> str:
    """The build that a deletion is pinned to."""
    versioning = (await handle.describe()).raw_description.workflow_execution_info.versioning_info
    assert versioning.behavior == VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
    return versioning.deployment_version.build_id


@pytest.mark.thorough
@on_sqlite
async def test_a_release_gets_what_begins_after_it_is_current_and_the_old_one_ends_its_own(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pinned: no deletion changes its code in the middle, and none waits for a build that is gone as long as it drains."""
    old, new = stack.snapshots("old", "new")
    own = stack.world.objects_of([old.id])
    held = Held(monkeypatch, S3Objects, "delete", lambda _store, keys: bool(own & set(keys)))
    with TemporalServer(tmp_path / "temporal", in_memory=True, ui=False, search_attributes=SEARCH_ATTRIBUTES) as server:
        stack.use_temporal(await connect(server.address))
        async with stack.worker(build_id="one"):
            begun = await stack.start([old.id])
            await set_current(stack.client, "one")
            await held.reached()
            async with stack.worker(build_id="two"):
                await set_current(stack.client, "two")
                later = await stack.start([new.id])
                await asyncio.wait_for(later.result(), 40)
                held.let_go()
                await asyncio.wait_for(begun.result(), 40)
        assert (await ran_on(begun), await ran_on(later)) == ("one", "two")


@pytest.mark.thorough
@on_sqlite
@pytest.mark.parametrize(("said", "shown"), [("yes", True), ("no", False)])
async def test_a_namespace_that_refuses_to_be_asked_may_have_search_attributes_all_the_same(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, said: str, *, shown: bool
) -> None:
    """Temporal Cloud has them made in its own settings, and is not asked where a setting has the answer."""

    async def refused(_client: Client) -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(composition, "has_search_attributes", refused)
    (one,) = stack.snapshots("one")
    async with stack.worker(search_attributes=said):
        handle = await stack.start([one.id])
        await asyncio.wait_for(handle.result(), 40)
    found = {pair.key.name for pair in (await handle.describe()).typed_search_attributes}
    assert (set(SEARCH_ATTRIBUTES) <= found) == shown
