"""What users wrote stays out of Temporal and out of the log: both are kept for long, and read by many."""

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import pytest
from sentry_protos.snuba.v1.endpoint_delete_trace_items_pb2 import DeleteTraceItemsRequest
from sqlalchemy import text, update
from temporalio.client import WorkflowFailureError, WorkflowHandle

from activities.backend import tables
from activities.ledger import holds
from artifact_deletion.client import progress, start_deletion
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import PREVIEW_WORKFLOW, TASK_QUEUE
from demo.world import screen
from tests.snuba_server import Answer, SnubaServer, error
from tests.stack import Stack, eventually, pending_failures

MARKERS = {
    place: f"Leak{place}Leak"
    for place in (
        "OrganizationSlug",
        "ProjectSlug",
        "ImageName",
        "MaskName",
        "ManifestField",
        "ManifestValue",
        "StrayKey",
        "ColumnStray",
        "Extras",
        "AppName",
        "BuildVersion",
        "Icon",
        "UrlPath",
        "FileName",
        "Reason",
        "HoldReason",
        "DatabaseMessage",
        "SnubaMessage",
    )
}

# A worker in which one of the store's calls fails once with a key in its message, as any library's error might have.
FAILS_WITH_A_KEY = """
import worker
from activities.stores.s3 import S3Objects

whole = S3Objects.delete

def delete(self, keys):
    if not any("LeakMaskNameLeak" in key for key in keys):
        return whole(self, keys)
    S3Objects.delete = whole
    raise KeyError(sorted(keys))

S3Objects.delete = delete
worker.run()
"""

# A trigger that fails with content in its message, as a check of the backend's own might.
FAILING_TRIGGER = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'LeakDatabaseMessageLeak: %', OLD.app_name; END $$;
CREATE TRIGGER refuse BEFORE DELETE ON sentry_preprodartifactmobileappinfo FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@dataclass(frozen=True)
class Planted:
    """Artifacts with a marker wherever a user or a client can write."""

    organization_id: int
    artifacts: tuple[int, ...]
    mask: str
    """The physical key of a diff mask with a marker in it."""


def plant(stack: Stack, app_name: str = MARKERS["AppName"]) -> Planted:
    world, mark = stack.world, MARKERS
    organization = world.organization(mark["OrganizationSlug"])
    project = world.project(organization, mark["ProjectSlug"])
    base, head, third = (
        world.snapshot(project, {f"{mark['ImageName']}.png": screen("login", seed), "cart.png": screen("cart", seed)})
        for seed in range(3)
    )
    comparison = world.comparison(head, base, masks={f"{mark['MaskName']}.png": screen("home")})
    image = {"status": "changed", "diff_mask_key": f"elsewhere/{mark['StrayKey']}.png", mark["ManifestField"]: 1}
    hostile = {"images": {f"{mark['ImageName']}.png": image}, "note": mark["ManifestValue"]}
    world.comparison(third, base, masks=0, manifest=json.dumps(hostile).encode())
    build = world.mobile_build(project, app_name=app_name, version=mark["BuildVersion"], icon=f"icn_{mark['Icon']}")
    world.approval(head)
    world.installable(build)
    with stack.database.write() as session:
        url, approval = tables.InstallableArtifact, tables.ComparisonApproval
        session.execute(update(url).where(url.preprod_artifact_id == build.id).values(url_path=f"{mark['UrlPath']}/{build.id}"))
        session.execute(update(approval).where(approval.preprod_artifact_id == head.id).values(extras={"note": mark["Extras"]}))
        artifact = tables.Artifact
        session.execute(update(artifact).where(artifact.id == third.id).values(extras={mark["Extras"]: mark["Extras"]}))
        names = update(tables.File).where(tables.File.id.in_(build.file_ids))
        session.execute(names.values(name=mark["FileName"], headers=mark["FileName"]))
        stray = {"manifest_key": f"../{mark['ColumnStray']}/manifest.json", mark["Extras"]: mark["Extras"]}
        metrics = update(tables.SnapshotMetrics).where(tables.SnapshotMetrics.preprod_artifact_id == third.id)
        session.execute(metrics.values(extras=stray))
    scope = world.physical(head.usecase, organization, project.id, "")
    return Planted(organization, (base.id, head.id, third.id, build.id), scope + comparison.mask_keys[0])


def leaks(stack: Stack, said: dict[str, bytes], also: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Which markers and secrets stand where."""
    secrets = {
        "S3Secret": stack.server.secret_key,
        "S3AccessKey": stack.server.access_key,
        "DatabasePassword": str(urlsplit(stack.database_url).password),
        "Bucket": stack.bucket,
    }
    return [
        f"{place} in the {where}"
        for place, marker in (MARKERS | secrets | dict(also)).items()
        for where, content in said.items()
        if marker.encode() in content
    ]


async def said_by_temporal(handle: WorkflowHandle[object, object]) -> bytes:
    """The history with its payloads, failures, summaries and search attributes, and what a description adds to it."""
    history = [event.SerializeToString() async for event in handle.fetch_history_events()]
    return b"\n".join([*history, (await handle.describe()).raw_description.SerializeToString()])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_nothing_that_users_wrote_reaches_temporal_or_the_log(stack: Stack, locking_bucket: str) -> None:
    """Of a deletion in which the database fails, a library fails, and the store refuses a key for good."""
    stack.use_bucket(locking_bucket)
    planted = plant(stack)
    artifacts, mask = planted.artifacts, planted.mask
    stack.s3.put_object_legal_hold(Bucket=locking_bucket, Key=mask, LegalHold={"Status": "ON"})
    request = stack.request(artifacts, requested_by="user:7", reference="TICKET-9")
    with stack.database.write() as session:
        session.execute(text(FAILING_TRIGGER))
        accept_deletion(session, request, reason=MARKERS["Reason"])
    stack.worker_process("-c", FAILS_WITH_A_KEY)
    handle = await start_deletion(stack.client, request)

    async def refused_by_the_trigger() -> str | None:
        return (await pending_failures(handle)).get("delete_rows")

    assert "P0001" in await eventually(refused_by_the_trigger)
    meanwhile = (await handle.describe()).raw_description.SerializeToString()
    with stack.database.write() as session:
        session.execute(text("DROP TRIGGER refuse ON sentry_preprodartifactmobileappinfo"))
    failure = await stack.failure(handle)
    assert (failure.type, "AccessDenied 1" in failure.message) == ("ObjectsRemain", True)

    receipt = stack.receipt(handle.id)
    assert receipt.manifests.strays == 2
    shown = (await progress(stack.client, handle.id)).model_dump_json()
    log = (stack.folder / "worker-0.log").read_bytes()
    assert b"KeyError at" in log
    said = {
        "history": await said_by_temporal(handle),
        "description": meanwhile,
        "progress": shown.encode(),
        "receipt": receipt.model_dump_json().encode(),
        "log": log,
    }
    assert b"TICKET-9" in said["history"]
    assert b"KeyError" in said["history"]
    assert b"Traceback" not in said["history"]
    assert b'File "' not in said["history"]
    assert leaks(stack, said, {"Mask": mask}) == []


# Every ending ------------------------------------------------------------------------------------------------------------

VIOLATED = f"{MARKERS['AppName']}Violated"
# Whose messages carry values: a unique key, "DETAIL: Key (name)=(…) already exists".
VIOLATING_TRIGGER = f"""
CREATE TABLE taken (name text UNIQUE);
INSERT INTO taken VALUES ('{VIOLATED}');
CREATE FUNCTION violate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO taken VALUES (OLD.app_name); RETURN OLD; END $$;
CREATE TRIGGER violate BEFORE DELETE ON sentry_preprodartifactmobileappinfo FOR EACH ROW
WHEN (OLD.app_name = '{VIOLATED}') EXECUTE FUNCTION violate();
"""
UNKNOWN_TABLE = "CREATE TABLE later (artifact_id bigint REFERENCES sentry_preprodartifact (id))"

# A worker that logs all that it has to say itself, and whose store once answers with keys wherever an answer has room for text,
# as no real store can be made to.
WORKER = """
import logging
import worker
from botocore.exceptions import ClientError
from activities.stores.s3 import S3Objects

for name in ("activities", "artifact_deletion", "workflows", "temporalio.activity", "temporalio.workflow"):
    logging.getLogger(name).setLevel(logging.DEBUG)

def fails_once(name, key_of):
    whole = getattr(S3Objects, name)
    def failing(self, *given):
        key = str(key_of(*given))
        if "Leak" not in key:
            return whole(self, *given)
        setattr(S3Objects, name, whole)
        class Client:
            def __getattr__(self, operation):
                def call(**_):
                    response = {"Error": {"Code": key, "Message": key, "Key": key}, "ResponseMetadata": {"HTTPStatusCode": 500}}
                    raise ClientError(response, key)
                return call
        return whole(S3Objects(Client(), self.bucket, versioned=False), *given)
    setattr(S3Objects, name, failing)

fails_once("delete", lambda keys: next((key for key in keys if "Leak" in key), ""))
fails_once("delete_found", lambda found: next((one.key for one in found if "Leak" in one.key), ""))
worker.run()
"""


@dataclass
class RefusingSnuba(SnubaServer):
    """Refuses one organization for good, in a message with data."""

    refused_organization: int = 0

    def answer(self, path: str, body: bytes, referer: str | None) -> Answer:
        if DeleteTraceItemsRequest.FromString(body).meta.organization_id == self.refused_organization:
            return error(500, f"Invalid value {MARKERS['SnubaMessage']}")
        return super().answer(path, body, referer)


async def listed(stack: Stack, workflows: Collection[str]) -> bytes:
    """The entries of a list of workflows: memo, search attributes, and whatever else stands there."""

    async def entries() -> bytes | None:
        found = {
            one.id: one.raw_info.SerializeToString() async for one in stack.client.list_workflows("") if one.id in workflows
        }
        return b"".join(found.values()) if len(found) == len(workflows) else None

    return await eventually(entries)


def execute(stack: Stack, sql: str) -> None:
    with stack.database.write() as session:
        session.execute(text(sql))


@pytest.mark.thorough
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_no_ending_lets_out_what_users_wrote(stack: Stack, locking_bucket: str) -> None:
    """Completed, failed, owed by another, refused, cancelled, previewed; held up by drift, a person, database, store, Snuba."""
    stack.use_bucket(locking_bucket)
    worlds = {name: plant(stack) for name in ("completed", "cancelled", "others", "previewed")}
    worlds |= {"held": plant(stack), "violating": plant(stack, VIOLATED)}
    requests = {
        name: stack.request(one.artifacts, organization_id=one.organization_id, reference="TICKET-9")
        for name, one in worlds.items()
        if name != "others"
    }
    mixed = (worlds["completed"].artifacts[0], worlds["others"].artifacts[0])
    requests["refused"] = stack.request(mixed, organization_id=worlds["completed"].organization_id)
    previewed = requests.pop("previewed")
    held = worlds["held"]
    stack.s3.put_object_legal_hold(Bucket=locking_bucket, Key=held.mask, LegalHold={"Status": "ON"})
    execute(stack, VIOLATING_TRIGGER)
    execute(stack, UNKNOWN_TABLE)
    with stack.database.write() as session:
        for request in requests.values():
            accept_deletion(session, request, reason=MARKERS["Reason"])
    organization = str(worlds["violating"].organization_id)
    hold = holds.place(stack.database, holds.On.ORGANIZATION, organization, reason=MARKERS["HoldReason"], by="user:7")
    handles = {name: await start_deletion(stack.client, request) for name, request in requests.items()}
    await handles["cancelled"].cancel()
    said: dict[str, bytes] = {}
    with RefusingSnuba(refused_organization=held.organization_id) as snuba:
        snuba.answers += [
            lambda: error(503, MARKERS["SnubaMessage"]),
            lambda: (502, MARKERS["SnubaMessage"].encode()),
        ]
        stack.worker_process("-c", WORKER, ARTIFACT_DELETION_TRACE_STORE="snuba", ARTIFACT_DELETION_SNUBA_URL=snuba.url)

        async def failing(name: str, step: str, word: str) -> None:
            async def seen() -> bool:
                return word in (await pending_failures(handles[name])).get(step, "")

            await eventually(seen)
            said[f"{name}, meanwhile"] = (await handles[name].describe()).raw_description.SerializeToString()

        await failing("completed", "open_deletion", "does not know")
        execute(stack, "DROP TABLE later")
        await failing("violating", "wait_while_held", f"organization {organization} is held since")
        with stack.database.write() as session:
            holds.lift(session, [hold.id], by="user:7")
        await failing("violating", "delete_rows", "23505")
        execute(stack, "DROP TRIGGER violate ON sentry_preprodartifactmobileappinfo")
        preview = await stack.client.start_workflow(PREVIEW_WORKFLOW, previewed, id=previewed.preview_id, task_queue=TASK_QUEUE)
        await preview.result()
        ended = {name: str(await ending(handle)) for name, handle in handles.items()}
        # One more deletion wants what is left over: it names the one that owes it.
        again = stack.request(held.artifacts[:1], organization_id=held.organization_id)
        stack.accept(again)
        handles["waiting"] = await start_deletion(stack.client, again)
        ended["waiting"] = str(await ending(handles["waiting"]))
    handles |= {"preview": preview}
    assert {name: words.partition(":")[0] for name, words in ended.items()} == {
        "completed": "completed",
        "cancelled": "Workflow cancelled",
        "violating": "completed",
        "refused": "ArtifactNotInOrganization",
        "held": "ObjectsRemain",
        "waiting": "ObjectsRemain",
    }
    said |= {f"{name}, in words": words.encode() for name, words in ended.items()}
    said |= {name: await said_by_temporal(handle) for name, handle in handles.items()}
    said["list"] = await listed(stack, {handle.id for handle in handles.values()})
    said["log"] = (stack.folder / "worker-0.log").read_bytes()
    owing = requests["held"].workflow_id
    for word, where in (
        ("TICKET-9", "completed"),
        ("TraceItemsUnconfirmed", "held"),
        ("OwedByOthers", "waiting"),
        (owing, "waiting"),
    ):
        assert word.encode() in said[where]
    assert len(said["log"]) > 100
    assert leaks(stack, said, {"SnubaUrl": snuba.url, "Mask": held.mask}) == []


async def ending(handle: WorkflowHandle[Any, Any]) -> str:
    """How it ended, in the words of its failure."""
    try:
        await asyncio.wait_for(handle.result(), 60)
    except WorkflowFailureError as failed:
        return f"{failed.cause}"
    return "completed"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_markers_are_where_users_write(stack: Stack) -> None:
    """A marker that is nowhere in the backend could not leak, and the test above would have proved nothing."""
    found = plant(stack)
    stack.accept(stack.request(found.artifacts))
    objects = b"".join(
        [*map(str.encode, stack.world.objects()), found.mask.encode()]
        + [
            stack.s3.get_object(Bucket=stack.bucket, Key=key)["Body"].read()
            for key in stack.world.objects()
            if key.endswith(".json")
        ]
    )
    planted = json.dumps(stack.world.rows(), default=str).encode() + objects
    elsewhere = {"Reason", "HoldReason", "DatabaseMessage", "SnubaMessage"}
    assert [place for place, marker in MARKERS.items() if place not in elsewhere and marker.encode() not in planted] == []
