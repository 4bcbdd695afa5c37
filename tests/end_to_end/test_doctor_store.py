"""The doctor asks the object store for all that a deletion will ask it for, and has an advice for each answer that is a no."""

from collections.abc import Iterator

import pytest

from commands.examine.store import advice
from commands.exit_codes import DONE, FAILED
from demo.servers import Identity, ObjectStoreServer
from tests.fault_proxy import FaultProxy, answering, operation
from tests.stack import Stack, s3_of
from tests.typed import NOWHERE, Examine, examiner, runner

pytestmark = pytest.mark.thorough

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def examine(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """`starter.py doctor --json` in this process."""
    return examiner(runner(stack, monkeypatch, capsys))


PERMISSIONS = ["s3:GetObject", "s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:DeleteObject", "s3:AbortMultipartUpload"]


@pytest.fixture(scope="module")
def guarded_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ObjectStoreServer, dict[str, Identity]]]:
    """A store whose users may do only so much."""
    actions = {"worker": ("Read", "List", "Write"), "reader": ("Read", "List"), "writer": ("Write",), "stranger": ("Tagging",)}
    users = {name: Identity(name, [f"{action}:guarded" for action in may]) for name, may in actions.items()}
    with ObjectStoreServer(tmp_path_factory.mktemp("guarded"), identities=list(users.values())) as server:
        s3_of(server).create_bucket(Bucket="guarded")
        yield server, users


@on_sqlite
@pytest.mark.parametrize(
    ("user", "refused"),
    [
        ("worker", []),
        ("reader", ["s3:DeleteObject: AccessDenied", "s3:AbortMultipartUpload: AccessDenied"]),
        ("stranger", [*(f"{one}: " for one in PERMISSIONS)]),
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
    if refused:
        assert bucket["do"].startswith("allow these for the keys of preprod")


@on_sqlite
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


@on_sqlite
async def test_where_no_one_knows_of_versions_nothing_is_deleted_to_find_out(
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


@on_sqlite
async def test_a_bucket_that_is_not_there_is_no_permission(stack: Stack, examine: Examine) -> None:
    code, found = await examine(ARTIFACT_DELETION_BUCKET="no-such-bucket")
    assert code == FAILED
    assert "NoSuchBucket" in found["versioning"]["found"]
    assert found["versioning"]["do"].startswith("set BUCKET: ")


@on_sqlite
@pytest.mark.parametrize(
    ("changes", "found", "do"),
    [
        ({"BUCKET": "no-such-bucket"}, "NoSuchBucket", "set BUCKET: "),
        ({"S3_ENDPOINT": f"http://{NOWHERE}"}, "EndpointConnectionError", "is the store up, and S3_ENDPOINT right?"),
        ({"S3_ENDPOINT": "https://{}"}, "SSLError", "does S3_ENDPOINT speak TLS"),
        ({"S3_ACCESS_KEY": "unknown"}, "InvalidAccessKeyId", "the store knows no such access key"),
        ({"S3_SECRET_KEY": "wrong"}, "SignatureDoesNotMatch", "the secret key is not the access key's"),
    ],
)
async def test_a_store_that_cannot_be_used_is_said_why_and_what_to_do(
    stack: Stack, examine: Examine, changes: dict[str, str], found: str, do: str
) -> None:
    """One advice each: they have nothing in common but that nothing works."""
    host = stack.server.endpoint.removeprefix("http://")
    code, findings = await examine(**{f"ARTIFACT_DELETION_{name}": value.format(host) for name, value in changes.items()})
    assert (code, findings["versioning"]["state"]) == (FAILED, "bad")
    assert found in findings["versioning"]["found"]
    assert do in findings["versioning"]["do"]


@on_sqlite
async def test_clocks_that_differ_and_rights_on_the_bucket_itself_have_their_own_advice(stack: Stack, examine: Examine) -> None:
    """A store that looks at the time says so; Ceph's gateway takes DeleteObjects for a matter of the bucket."""
    with FaultProxy(stack.server.endpoint) as proxy:
        through = {"ARTIFACT_DELETION_S3_ENDPOINT": proxy.endpoint, "ARTIFACT_DELETION_BUCKET_VERSIONED": "no"}
        fault = proxy.begin(answering(403, "RequestTimeTooSkewed"))
        code, found = await examine(**through)
        fault.end()
        assert (code, "clock" in found["bucket, usecase preprod"]["do"]) == (FAILED, True)
        proxy.begin(answering(403, "AccessDenied"), only=operation("DeleteObjects"))
        code, found = await examine(**through)
    bucket = found["bucket, usecase preprod"]
    assert (code, bucket["found"]) == (
        FAILED,
        "s3:DeleteObject: the object store answered AccessDenied (HTTP 403) to DeleteObjects",
    )
    assert "s3:DeleteObject on the bucket's own ARN too" in bucket["do"]


@on_sqlite
@pytest.mark.parametrize("encoded", [True, False])
async def test_listings_are_tried_in_both_forms(stack: Stack, examine: Examine, *, encoded: bool) -> None:
    """A proxy that knows the store's requests by heart can refuse the one or the other."""
    with FaultProxy(stack.server.endpoint) as proxy:
        asks = ("ListObjectsV2", "ListMultipartUploads")
        proxy.begin(
            answering(400, "InvalidArgument"),
            only=lambda one: one.operation in asks and ("encoding-type" in one.query) is encoded,
        )
        code, found = await examine(ARTIFACT_DELETION_S3_ENDPOINT=proxy.endpoint)
    form = "with" if encoded else "without"
    assert (code, found["listings"]["state"]) == (FAILED, "bad")
    for name in ("list_objects_v2", "list_multipart_uploads"):
        assert f"{name} {form} EncodingType: the object store answered InvalidArgument" in found["listings"]["found"]


@on_sqlite
async def test_folders_beside_the_usecases_are_named(stack: Stack, examine: Examine) -> None:
    """One of them may be a usecase that no setting names, whose objects no deletion would find."""
    stack.s3.create_bucket(Bucket="shared")  # where no other test has left an empty folder
    stack.use_bucket("shared")
    for key in ("preprod/x", "preprod_new/org.1/x", "receipts/1.json", "attachments/1", "top-level"):
        stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"x")
    receipts = {"ARTIFACT_DELETION_RECEIPT_EXPORT": f"s3://{stack.bucket}/receipts/"}
    code, found = await examine(**receipts)
    beside = found["beside the usecases"]
    assert (code, beside["state"]) == (DONE, "warn")
    assert beside["found"] == 'there are "attachments/", "preprod_new/", which no deletion looks at'
    _, found = await examine(ARTIFACT_DELETION_USECASES="preprod,preprod_new,attachments", **receipts)
    assert found["beside the usecases"]["state"] == "ok"
    _, found = await examine(ARTIFACT_DELETION_SCOPE_TEMPLATE="{organization_id}/{usecase}/{project_id}/")
    assert found["beside the usecases"]["state"] == "skipped"


@pytest.mark.parametrize(
    ("said", "do"),
    [
        ("the object store could not be reached (NoCredentialsError)", "there are no credentials"),
        ("the object store answered ExpiredToken (HTTP 400) to GetObject", "renew them"),
        ("the object store answered PermanentRedirect (HTTP 301) to GetObject", "set S3_REGION"),
        ("the object store could not be reached (ReadTimeoutError)", "is the store up"),
        ("something else than the object store answered HTTP 200 to GetObject", "leads to something else"),
        ("the object store answered AccessDenied (HTTP 403) to GetObject", "otherwise"),
    ],
)
def test_advice_goes_by_the_words_of_our_own_errors(said: str, do: str) -> None:
    assert do in advice(said, "otherwise")
