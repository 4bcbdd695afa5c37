"""The doctor says how images are hidden in the bucket, with which rights, and that no rule of the bucket takes them early."""

from collections.abc import Iterator
from typing import Any

import pytest

from commands.exit_codes import DONE, FAILED
from demo.servers import Identity, ObjectStoreServer
from tests.fault_proxy import FaultProxy, answering
from tests.stack import Stack, s3_of
from tests.typed import Examine, examiner, runner

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def examine(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """`starter.py doctor --json` in this process."""
    return examiner(runner(stack, monkeypatch, capsys))


@pytest.fixture
def ruled(stack: Stack) -> Iterator[Stack]:
    """A stack whose bucket gets rules."""
    yield stack
    stack.s3.delete_bucket_lifecycle(Bucket=stack.bucket)


def rule(stack: Stack, **expires: Any) -> None:
    """Give the bucket one rule, beside one that is off."""
    off = {"ID": "off", "Status": "Disabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    on: Any = {"ID": "early", "Status": "Enabled"} | expires
    stack.s3.put_bucket_lifecycle_configuration(Bucket=stack.bucket, LifecycleConfiguration={"Rules": [on, off]})  # type: ignore[list-item]


async def test_a_bucket_without_versions_hides_by_copies(stack: Stack, examine: Examine) -> None:
    code, found = await examine()
    assert (code, found["images"]["state"]) == (DONE, "ok")
    assert found["images"]["found"] == "hidden by copies under quarantine/, for the bucket keeps no versions"
    assert (found["images, rights"]["state"], found["images, lifecycle"]["found"]) == ("ok", "the bucket has no rules")
    assert stack.world.objects() == {}, "nothing was put to find out"
    code, found = await examine(ARTIFACT_DELETION_IMAGES="keep")
    assert (code, found["images"]["state"], "images, rights" in found) == (DONE, "skipped", False)


async def test_a_bucket_with_versions_hides_by_markers(stack: Stack, examine: Examine, locking_bucket: str) -> None:
    stack.use_bucket(locking_bucket)
    code, found = await examine()
    assert (code, found["images"]["state"]) == (DONE, "ok")
    assert found["images"]["found"].startswith("hidden by delete markers, for the bucket keeps versions")
    assert stack.world.object_versions() == {}
    _, found = await examine(ARTIFACT_DELETION_IMAGES="copies")
    assert found["images"]["found"] == "hidden by copies under quarantine/, as IMAGES says"
    assert stack.world.object_versions() == {}


async def test_a_way_that_the_bucket_has_not_is_refused(stack: Stack, examine: Examine) -> None:
    """Markers would lie over nothing, and a quarantine among the images would hide none."""
    code, found = await examine(ARTIFACT_DELETION_IMAGES="markers")
    assert (code, found["images"]["state"]) == (FAILED, "bad")
    assert "versioning is not Enabled" in found["images"]["found"]
    code, found = await examine(ARTIFACT_DELETION_IMAGES_RESERVED="true")
    assert (code, found["images"]["state"]) == (FAILED, "bad")
    assert found["images"]["do"] == "set IMAGES_RESERVED to false, or switch the bucket's versioning on"
    code, found = await examine(ARTIFACT_DELETION_IMAGES_QUARANTINE="snapshots/hidden/")
    assert (code, found["images"]["state"]) == (FAILED, "bad")
    assert found["images"]["found"] == "copies of hidden images would lie under snapshots/, where images are read"


@pytest.mark.thorough
async def test_a_right_to_put_copies_that_is_missing_is_named(
    stack: Stack, examine: Examine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Found out at the first deletion, its rows would be gone and its images would wait."""
    usecases = ("preprod", "preprod_snapshots", "snapshots", "preprod_size")
    may = ["Read:narrow", "List:narrow", *(f"Write:narrow/{one}/*" for one in usecases)]
    user = Identity("narrow", may)
    with ObjectStoreServer(tmp_path_factory.mktemp("narrow"), identities=[user]) as server:
        s3_of(server).create_bucket(Bucket="narrow")
        stack.use_bucket("narrow", server)
        code, found = await examine(
            ARTIFACT_DELETION_S3_ACCESS_KEY=user.access_key,
            ARTIFACT_DELETION_S3_SECRET_KEY=user.secret_key,
            ARTIFACT_DELETION_BUCKET_VERSIONED="no",
        )
    rights = found["images, rights"]
    assert (code, rights["state"]) == (FAILED, "bad")
    assert rights["found"].startswith("s3:PutObject in quarantine: the object store answered AccessDenied")
    assert "where images lie" not in rights["found"]
    assert "of quarantine/, as deploy/iam-policy.json does" in rights["do"]


@pytest.mark.parametrize(
    ("expires", "is_refused"),
    [
        ({"Filter": {"Prefix": "quarantine/"}, "Expiration": {"Days": 1}}, True),
        ({"Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}, True),
        ({"Filter": {"Prefix": "quarantine/"}, "Expiration": {"Days": 2}}, False),
        ({"Filter": {"Prefix": "other/"}, "Expiration": {"Days": 1}}, False),
    ],
    ids=["quarantine", "all", "long enough", "elsewhere"],
)
async def test_a_rule_that_takes_copies_before_their_time_is_refused(
    ruled: Stack, examine: Examine, expires: dict[str, Any], *, is_refused: bool
) -> None:
    """What a client is told exists would be gone when its snapshot comes."""
    rule(ruled, **expires)
    code, found = await examine()
    assert (code, found["images, lifecycle"]["state"]) == ((FAILED, "bad") if is_refused else (DONE, "ok"))
    assert ("rules early" in found["images, lifecycle"]["found"]) is is_refused


async def test_a_grace_of_a_week_needs_rules_that_wait_for_longer(ruled: Stack, examine: Examine) -> None:
    rule(ruled, Filter={"Prefix": "quarantine/"}, Expiration={"Days": 7})
    _, found = await examine(ARTIFACT_DELETION_IMAGES_GRACE_S=str(7 * 86_400))
    assert found["images, lifecycle"]["do"] == "let these rules wait for at least 8 days"


@pytest.mark.parametrize(("days", "is_refused"), [(1, True), (2, False)])
async def test_a_rule_for_noncurrent_versions_is_refused_where_they_hold_what_is_hidden(
    stack: Stack, examine: Examine, locking_bucket: str, days: int, *, is_refused: bool
) -> None:
    """Under a marker the bytes are a noncurrent version."""
    stack.use_bucket(locking_bucket)
    rule(stack, Filter={"Prefix": "preprod_snapshots/"}, NoncurrentVersionExpiration={"NoncurrentDays": days})
    code, found = await examine()
    assert (code, found["images, lifecycle"]["state"]) == ((FAILED, "bad") if is_refused else (DONE, "ok"))


@pytest.mark.parametrize("code", ["NotImplemented", "AccessDenied"])
async def test_a_bucket_that_does_not_tell_its_rules_is_no_failure(stack: Stack, examine: Examine, code: str) -> None:
    """A person has to see to it, and is told."""
    with FaultProxy(stack.server.endpoint) as proxy:
        proxy.begin(answering(403, code), only=lambda one: "lifecycle" in one.query)
        done, found = await examine(ARTIFACT_DELETION_S3_ENDPOINT=proxy.endpoint)
    assert (done, found["images, lifecycle"]["state"]) == (DONE, "warn")
    assert code in found["images, lifecycle"]["found"]
