"""What users wrote stays out of Temporal and out of the log: both are kept for long, and read by many."""

import json
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text, update
from temporalio.client import WorkflowHandle

import starter
from activities.storage import tables
from demo.world import screen
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
        "Reason",
        "DatabaseMessage",
    )
}

# A worker in which one of the store's calls fails once with a key in its message, as any library's error might have.
FAILS_WITH_A_KEY = """
import sys
import worker
from activities.storage.objects import S3Objects

whole = S3Objects.delete

def delete(self, keys):
    if not any("LeakMaskNameLeak" in key for key in keys):
        return whole(self, keys)
    S3Objects.delete = whole
    raise KeyError(sorted(keys))

S3Objects.delete = delete
sys.exit(worker.main([]))
"""

# A trigger that fails with content in its message, as a check of the backend's own might.
FAILING_TRIGGER = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'LeakDatabaseMessageLeak: %', OLD.app_name; END $$;
CREATE TRIGGER refuse BEFORE DELETE ON sentry_preprodartifactmobileappinfo FOR EACH ROW EXECUTE FUNCTION refuse();
"""


def plant(stack: Stack) -> tuple[list[int], str]:
    """Artifacts with a marker wherever a user or a client can write, and the key of a diff mask with one in it."""
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
    build = world.mobile_build(project, app_name=mark["AppName"], version=mark["BuildVersion"], icon=f"icn_{mark['Icon']}")
    world.approval(head)
    world.installable(build)
    with stack.database.write() as session:
        session.execute(update(tables.InstallableArtifact).values(url_path=mark["UrlPath"]))
        session.execute(update(tables.ComparisonApproval).values(extras={"note": mark["Extras"]}))
        stray = {"manifest_key": f"../{mark['ColumnStray']}/manifest.json", mark["Extras"]: mark["Extras"]}
        metrics = update(tables.SnapshotMetrics).where(tables.SnapshotMetrics.preprod_artifact_id == third.id)
        session.execute(metrics.values(extras=stray))
    scope = world.physical(head.usecase, organization, project.id, "")
    return [base.id, head.id, third.id, build.id], scope + comparison.mask_keys[0]


async def said_by_temporal(handle: WorkflowHandle[object, object]) -> bytes:
    """The history with its payloads, failures, summaries and search attributes, and what a description adds to it."""
    history = [event.SerializeToString() async for event in handle.fetch_history_events()]
    return b"\n".join([*history, (await handle.describe()).raw_description.SerializeToString()])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_nothing_that_users_wrote_reaches_temporal_or_the_log(stack: Stack, locking_bucket: str) -> None:
    """Of a deletion in which the database fails, a library fails, and the store refuses a key for good."""
    stack.use_bucket(locking_bucket)
    artifacts, mask = plant(stack)
    stack.s3.put_object_legal_hold(Bucket=locking_bucket, Key=mask, LegalHold={"Status": "ON"})
    request = stack.request(artifacts, requested_by="user:7", reference="TICKET-9")
    with stack.database.write() as session:
        session.execute(text(FAILING_TRIGGER))
        starter.accept_deletion(session, request, reason=MARKERS["Reason"])
    stack.worker_process("-c", FAILS_WITH_A_KEY)
    handle = await starter.start_deletion(stack.client, request)

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
    progress = (await starter.progress(stack.client, handle.id)).model_dump_json()
    log = (stack.folder / "worker-0.log").read_bytes()
    assert b"KeyError at" in log
    said = {
        "history": await said_by_temporal(handle),
        "description": meanwhile,
        "progress": progress.encode(),
        "receipt": receipt.model_dump_json().encode(),
        "log": log,
    }
    assert b"TICKET-9" in said["history"]
    assert b"KeyError" in said["history"]
    assert b"Traceback" not in said["history"]
    assert b'File "' not in said["history"]
    secrets = {
        "S3Secret": stack.server.secret_key,
        "S3AccessKey": stack.server.access_key,
        "DatabasePassword": str(urlsplit(stack.database_url).password),
        "Bucket": locking_bucket,
        "Mask": mask,
    }
    found = [
        f"{place} in the {where}"
        for place, marker in (MARKERS | secrets).items()
        for where, content in said.items()
        if marker.encode() in content
    ]
    assert found == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_markers_are_where_users_write(stack: Stack) -> None:
    """A marker that is nowhere in the backend could not leak, and the test above would have proved nothing."""
    artifacts, mask = plant(stack)
    stack.accept(stack.request(artifacts))
    objects = b"".join(
        [*map(str.encode, stack.world.objects()), mask.encode()]
        + [
            stack.s3.get_object(Bucket=stack.bucket, Key=key)["Body"].read()
            for key in stack.world.objects()
            if key.endswith(".json")
        ]
    )
    planted = json.dumps(stack.world.rows(), default=str).encode() + objects
    elsewhere = {"Reason", "DatabaseMessage"}
    assert [place for place, marker in MARKERS.items() if place not in elsewhere and marker.encode() not in planted] == []
