"""The object store: a small protocol, and S3 over boto3.

Every call is one attempt: Temporal alone retries, where an operator can see it. Per-key refusals come back as outcomes, so that
one bad key harms no other; whatever concerns the whole request is raised as StoreUnavailable. Facts about S3 are those of its
API reference (DeleteObjects, ListObjectVersions, GetBucketVersioning), and of what S3-compatible servers were seen to do.
"""

import base64
import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol
from xml.sax.saxutils import escape

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session
from botocore.utils import parse_timestamp

from workflows.errors import StoreUnavailable, plain_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_KEYS = 1000
"""What one DeleteObjects request takes, and one listing returns."""
_TRANSIENT = frozenset(
    {
        "InternalError",
        "InternalServerError",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "500",
        "502",
        "503",
        "504",
    }
)
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
# A store without the call, or one that cannot read what another reads: one key at a time is slower, but it goes.
# Nor may one key that is none spoil the others.
_BATCH_REFUSED = frozenset({"NotImplemented", "MethodNotAllowed", "MalformedXML", "KeyTooLongError", "405", "501"})
# These say nothing of the key that was asked for.
_WHOLE_REQUEST = frozenset(
    {"NoSuchBucket", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired"}
)
_USER_AGENT = f"artifact-deletion Boto3/{boto3.__version__}"
"""For the store's access log. Without one, botocore puts its own together twice a request."""
_REDIRECTIONS, _ERRORS = 300, 400
# What an answer of S3's has, and a page of something in between has not: 200 alone says nothing of who answered.
_ROOT_ELEMENTS = {
    "DeleteObjects": b"DeleteResult",
    "GetBucketVersioning": b"VersioningConfiguration",
    "ListMultipartUploads": b"ListMultipartUploadsResult",
    "ListObjectVersions": b"ListVersionsResult",
    "ListObjectsV2": b"ListBucketResult",
}
_WITHOUT_BODY = frozenset({"AbortMultipartUpload", "DeleteObject"})
_PROLOGUE = 1000
"""Bytes in which the root element has begun."""
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_WRITTEN = frozenset({"Key", "VersionId"})
_BATCH = "artifact-deletion-batch"
_DELETING = ("DeleteObjects", "DeleteObject", "AbortMultipartUpload")
# No object has a name that its store does not take: a scope before a key can make it too long.
_NO_SUCH_KEY = frozenset({"NoSuchKey", "KeyTooLongError"})
_ABSENT = frozenset({"NoSuchVersion"}) | _NO_SUCH_KEY
# XML 1.0 has no way to write most control characters, and some stores turn a backslash into a slash inside DeleteObjects.
_NOT_FOR_XML = re.compile("[\x00-\x1f\\\\\x7f\ufffe\uffff]")

Version = tuple[str, str | None]
"""A key and one of its versions, or what an unversioned bucket has."""


class ObjectAbsent(LookupError):
    """The store answered that there is no such key, and nothing less."""


class ObjectTooLarge(ValueError):
    """The object is larger than the caller is ready to read."""


@dataclass(frozen=True, slots=True)
class Found:
    """A thing that can be deleted: an object, or one version or delete marker of it."""

    key: str
    version: str | None = None
    size: int = field(default=0, compare=False)
    """Bytes; a delete marker has none."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and not completed: no object, but its parts are data."""

    key: str
    id: str


@dataclass(slots=True)
class Outcome:
    """What became of keys: each is in exactly one of these."""

    deleted: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Key to code: asking again would be answered the same."""
    not_yet: dict[str, str] = field(default_factory=dict)
    """Key to code: the store asks to try again."""

    @property
    def remaining(self) -> dict[str, str]:
        """Key to code of all that is still there."""
        return self.refused | self.not_yet


class ObjectStore(Protocol):
    """What a deletion needs of a store. Keys are physical: scope and key. All methods may be called from many threads."""

    @property
    def listable(self) -> bool:
        """False if the store cannot list: prefixes are then reported as unchecked."""

    @property
    def lists_uploads(self) -> bool:
        """False if the store has no multipart uploads, or cannot list them: then nobody can look for unfinished ones."""

    def read(self, key: str, limit: int) -> bytes:
        """The content of an object. Raises ObjectAbsent, ObjectTooLarge (more than `limit` bytes), StoreUnavailable."""

    def delete(self, keys: Sequence[str]) -> Outcome:
        """Delete at most 1000 keys with all their versions. Raises StoreUnavailable if the request as a whole failed."""

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        """All that lies under a prefix, by at most 1000: objects, or versions and delete markers. Raises StoreUnavailable."""

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        """Delete at most 1000 listed things literally as they were listed; the outcome's keys may repeat."""

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:
        """The unfinished multipart uploads whose keys begin with a prefix. Raises StoreUnavailable."""

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        """Abort listed uploads; the outcome's keys may repeat. A part that was on its way can outlive it: list again."""


@dataclass(frozen=True)
class GuardedObjects:
    """A store that somebody is asked about before it deletes: it reads and lists as ever."""

    store: ObjectStore
    before_deleting: Callable[[int], None]
    """Called before each request that deletes, with the number of keys; it may wait, and what it raises is raised."""

    @property
    def listable(self) -> bool:
        """See ObjectStore."""
        return self.store.listable

    @property
    def lists_uploads(self) -> bool:
        """See ObjectStore."""
        return self.store.lists_uploads

    def read(self, key: str, limit: int) -> bytes:
        """See ObjectStore."""
        return self.store.read(key, limit)

    def delete(self, keys: Sequence[str]) -> Outcome:
        """See ObjectStore."""
        self.before_deleting(len(keys))
        return self.store.delete(keys)

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        """See ObjectStore."""
        return self.store.list_under(prefix)

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        """See ObjectStore."""
        self.before_deleting(len(found))
        return self.store.delete_found(found)

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:
        """See ObjectStore."""
        return self.store.uploads_under(prefix)

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        """See ObjectStore."""
        self.before_deleting(len(uploads))
        return self.store.abort_uploads(uploads)


@dataclass(frozen=True)
class S3Objects:
    """A bucket of S3 or of a server that speaks its protocol."""

    client: "S3Client"
    bucket: str
    versioned: bool | None
    """Whether the bucket keeps versions; None: it is asked before the first delete or listing."""
    listable: bool = True
    lists_uploads: bool = True

    _answered: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def keeps_versions(self) -> bool:
        """Deletes go by version: a setting or the bucket's own answer, never inferred from a refusal, which is raised."""
        if self.versioned is not None:
            return self.versioned
        if not self._answered:  # threads ask beside each other at first: none of them waits for another's time-out
            self._answered.append(bucket_keeps_versions(self.client, self.bucket))
        return self._answered[0]

    def read(self, key: str, limit: int) -> bytes:
        """See ObjectStore."""
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
            # A proxy may send on without a length, in parts that say themselves which is the last.
            length: int | None = answer.get("ContentLength")
            # Entered by itself, the body would be the raw stream, whose errors are not boto3's.
            with contextlib.closing(answer["Body"]) as body:
                if length is not None and length > limit:
                    raise ObjectTooLarge
                content: bytes = body.read(limit + 1)
        except ClientError as error:
            if _code(error) in _NO_SUCH_KEY:
                raise ObjectAbsent from None
            raise _unavailable(error) from None
        except BotoCoreError as error:
            raise _unavailable(error) from None
        if "ETag" not in answer:
            raise _not_the_store(answer["ResponseMetadata"]["HTTPStatusCode"], "GetObject")
        if len(content) > limit:
            raise ObjectTooLarge
        if length is not None and len(content) != length:
            raise StoreUnavailable("the object store's answer was cut off")
        return content

    def delete(self, keys: Sequence[str]) -> Outcome:
        """See ObjectStore."""
        if not self.keeps_versions:
            return self._delete([(key, None) for key in keys])
        versions = [found for group in _beside_each_other(keys) for found in self._versions(group)]
        outcome = Outcome()
        for start in range(0, len(versions), MAX_KEYS):
            part = self.delete_found(versions[start : start + MAX_KEYS])
            outcome.refused |= part.refused
            outcome.not_yet |= part.not_yet
        with_versions = {found.key for found in versions}
        for key in keys:
            if key not in with_versions:
                outcome.absent.append(key)
            elif key not in outcome.refused and key not in outcome.not_yet:
                outcome.deleted.append(key)
        for key in outcome.not_yet:
            outcome.refused.pop(key, None)
        return outcome

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        """See ObjectStore."""
        if self.keeps_versions:
            yield from self._list_versions(prefix)
            return
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        for page in _raising_unavailable(pages):
            if contents := page.get("Contents"):
                yield [Found(entry["Key"], size=entry["Size"]) for entry in contents]

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        """See ObjectStore."""
        return self._delete([(one.key, one.version) for one in found])

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:
        """See ObjectStore."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
        for page in _raising_unavailable(pages):
            if uploads := page.get("Uploads"):
                yield [Upload(entry["Key"], entry["UploadId"]) for entry in uploads]

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        """See ObjectStore."""
        outcome = Outcome()
        for one in uploads:
            abort = partial(self.client.abort_multipart_upload, Bucket=self.bucket, Key=one.key, UploadId=one.id)
            _sort_answer(abort, one.key, outcome)
        return outcome

    def _delete(self, versions: Sequence[Version]) -> Outcome:
        outcome = Outcome()
        together, singly = versions, []
        if _NOT_FOR_XML.search("".join([key for key, _ in versions])):
            together = [one for one in versions if not _NOT_FOR_XML.search(one[0])]
            singly = [one for one in versions if _NOT_FOR_XML.search(one[0])]
        if together:
            self._delete_together(together, outcome)
        for key, version in singly:
            self._delete_singly(key, version, outcome)
        return outcome

    def _delete_together(self, versions: Sequence[Version], outcome: Outcome) -> None:
        objects: list[Any] = [
            {"Key": key} if version is None else {"Key": key, "VersionId": version} for key, version in versions
        ]
        try:
            answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
        except ClientError as error:
            if _code(error) not in _BATCH_REFUSED:
                raise _unavailable(error) from None
            for key, version in versions:
                self._delete_singly(key, version, outcome)
            return
        except BotoCoreError as error:
            raise _unavailable(error) from None
        if not answer.get("Errors"):
            outcome.deleted += [key for key, _ in versions]
            return
        failed = {(error.get("Key"), error.get("VersionId")): error.get("Code") or "Unknown" for error in answer["Errors"]}
        by_key = {key: code for (key, _), code in failed.items()}
        if not by_key.keys() <= {key for key, _ in versions}:
            raise StoreUnavailable(
                "the object store reported an error for a key that was not asked for: nothing is taken as deleted"
            )
        for key, version in versions:
            # Some servers name the version in an error, some do not; either way the key is not gone.
            _sort(key, failed.get((key, version), by_key.get(key)), outcome)

    def _delete_singly(self, key: str, version: str | None, outcome: Outcome) -> None:
        named: Any = {} if version is None else {"VersionId": version}
        _sort_answer(partial(self.client.delete_object, Bucket=self.bucket, Key=key, **named), key, outcome)

    def _list_versions(self, prefix: str, after: str | None = None) -> Iterator[Sequence[Found]]:
        start: Any = {} if after is None else {"KeyMarker": after}
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=prefix, **start)
        for page in _raising_unavailable(pages):
            entries: list[Any] = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            if entries:
                yield [Found(entry["Key"], entry["VersionId"], entry.get("Size", 0)) for entry in entries]

    def _versions(self, keys: Sequence[str]) -> list[Found]:
        """Every version and marker of these keys, which lie beside each other: one listing from the first to the last."""
        wanted, last = set(keys), max(key.encode() for key in keys)
        versions = []
        for page in self._list_versions(_common_prefix(keys), after=_just_before(min(keys))):
            versions += [found for found in page if found.key in wanted]
            if all(found.key.encode() > last for found in page):
                break
        return versions


@dataclass(frozen=True)
class S3Documents:
    """Small objects of our own under a prefix of our own, which no deletion looks at."""

    client: "S3Client"
    bucket: str
    prefix: str

    def put(self, name: str, content: bytes) -> None:
        """Write it, or write it again. Raises StoreUnavailable."""
        try:
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content, ContentType="application/json")
        except (ClientError, BotoCoreError) as error:
            raise _unavailable(error) from None

    def read_since(self, since: datetime) -> Iterator[bytes]:
        """The content of each that was written since then, by the store's clock. Raises StoreUnavailable."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        for page in _raising_unavailable(pages):
            for entry in page.get("Contents", ()):
                if entry["LastModified"] >= since:
                    try:
                        yield self.client.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read()
                    except (ClientError, BotoCoreError) as error:
                        raise _unavailable(error) from None


def s3_client(
    *,
    endpoint: str | None,
    region: str,
    access_key: str | None,
    secret_key: str | None,
    connections: int,
    connect_timeout_s: float,
    read_timeout_s: float,
    before_deleting: Callable[[], None] | None = None,
) -> "S3Client":
    """A client that makes one attempt a call. Without keys of its own it uses the machine's, as every AWS client does.

    `before_deleting` is called before each single request that deletes; what it raises, the call raises.
    """
    core = get_session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    session = boto3.session.Session(
        aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=region, botocore_session=core
    )
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        user_agent=_USER_AGENT,
        max_pool_connections=connections,
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        s3={"addressing_style": "path"} if endpoint else {},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.client("s3", endpoint_url=endpoint, config=config)
    client.meta.events.register("before-parameter-build.s3.DeleteObjects", _write_batch)
    client.meta.events.register("before-call.s3.DeleteObjects", _send_batch)
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    client.meta.events.register("before-parse.s3", _refuse_what_is_no_answer)
    if before_deleting is not None:
        for operation in _DELETING:
            client.meta.events.register(f"before-call.s3.{operation}", lambda **_: before_deleting())
    return client


def _timestamp(text: str) -> datetime:
    """A listing has a thousand of them, and botocore's own parser, which knows every notation, takes longer than all else.

    S3's are ISO 8601 in bodies and RFC 9110's in headers; any other is left to botocore.
    """
    with contextlib.suppress(AttributeError, ValueError):
        if text.endswith("Z"):
            return datetime.fromisoformat(text)
        if text.endswith("GMT"):
            return parsedate_to_datetime(text)
    parsed: datetime = parse_timestamp(text)
    return parsed


def _write_batch(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    """Write a thousand keys at once: boto3, which looks at each and makes elements of it, takes a third of our CPU for that.

    It is given the first key alone to look at, and makes the request around what is written here.
    """
    batch: dict[str, Any] = params["Delete"]
    if not all(one.keys() <= _WRITTEN for one in batch["Objects"]):
        return
    objects = "".join(
        [f"<Object>{''.join([_element(*member) for member in one.items()])}</Object>" for one in batch["Objects"]]
    )
    quiet = _element("Quiet", str(batch["Quiet"]).lower()) if "Quiet" in batch else ""
    context[_BATCH] = f'<Delete xmlns="{_NAMESPACE}">{objects}{quiet}</Delete>'.encode(errors="xmlcharrefreplace")
    params["Delete"] = {**batch, "Objects": batch["Objects"][:1]}


def _element(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def _send_batch(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    params["body"] = context.pop(_BATCH, params["body"])


def _add_content_md5(params: dict[str, Any], **_: object) -> None:
    # S3's first checksum: some servers still demand it for this call, and boto3 has sent newer ones instead since 1.36.
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


def _refuse_what_is_no_answer(operation_model: Any, response_dict: dict[str, Any], **_: object) -> None:
    """Raises StoreUnavailable for the page of a gateway, which boto3 would take for an answer that names no error."""
    status, headers, name = response_dict["status_code"], response_dict["headers"], operation_model.name
    if status >= _ERRORS:
        return
    if status >= _REDIRECTIONS:
        answered = "x-amz-bucket-region" in headers or b"<Error" in response_dict["body"]
    elif name in _ROOT_ELEMENTS:
        answered = _ROOT_ELEMENTS[name] in response_dict["body"][:_PROLOGUE]
    else:
        answered = name not in _WITHOUT_BODY or not response_dict["body"]
    if not answered:
        raise _not_the_store(status, name)


def _not_the_store(status: int, operation: str) -> StoreUnavailable:
    return StoreUnavailable(f"something else than the object store answered HTTP {status} to {operation}")


def bucket_keeps_versions(client: "S3Client", bucket: str) -> bool:
    """True if the bucket has or ever had versioning. Raises StoreUnavailable rather than take a refusal for a no."""
    try:
        return "Status" in client.get_bucket_versioning(Bucket=bucket)
    except (ClientError, BotoCoreError) as error:
        raise _unavailable(error) from None


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code") or "Unknown"


def _sort_answer(call: Callable[[], Any], key: str, outcome: Outcome) -> None:
    """Make a request that is about one key, and put the key where the answer says."""
    try:
        call()
    except ClientError as error:
        if _code(error) in _WHOLE_REQUEST:
            raise _unavailable(error) from None
        transient = error.response["ResponseMetadata"]["HTTPStatusCode"] in _TRANSIENT_STATUS
        _sort(key, _code(error), outcome, transient=transient)
    except BotoCoreError as error:
        raise _unavailable(error) from None
    else:
        _sort(key, None, outcome)


def _sort(key: str, code: str | None, outcome: Outcome, *, transient: bool = False) -> None:
    if code is None:
        outcome.deleted.append(key)
    elif code in _ABSENT:
        outcome.absent.append(key)
    elif transient or code in _TRANSIENT:
        outcome.not_yet[key] = plain_code(code)
    else:
        outcome.refused[key] = plain_code(code)


def _beside_each_other(keys: Iterable[str]) -> Iterator[list[str]]:
    """Keys by folder, since one listing from the first to the last of a folder is short."""
    for _, group in groupby(sorted(keys, key=_folder_first), key=lambda key: key.rpartition("/")[0]):
        yield list(group)


def _folder_first(key: str) -> tuple[str, str]:
    folder, _, name = key.rpartition("/")
    return folder, name


def _just_before(key: str) -> str | None:
    """A key marker that sorts before `key`, and has none of the keys after it begin with it; None where none is at hand.

    SeaweedFS passes over the keys that begin with a marker if an object has the marker's very name.
    """
    before = chr(ord(key[-1]) - 1)
    return f"{key[:-1]}{before}~" if before.isascii() and before.isalnum() else None


def _common_prefix(keys: Sequence[str]) -> str:
    first, last = min(keys), max(keys)
    return first[: next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _raising_unavailable(pages: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from pages
    except (ClientError, BotoCoreError) as error:
        raise _unavailable(error) from None


def _unavailable(error: ClientError | BotoCoreError) -> StoreUnavailable:
    """What may be said of a failed request: the call and the code. Messages carry keys and bucket names."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = plain_code(_code(error))
        return StoreUnavailable(f"the object store answered {code} (HTTP {status}) to {plain_code(error.operation_name)}")
    return StoreUnavailable(f"the object store could not be reached ({type(error).__name__})")
