"""How this service speaks S3 through boto3: the client, the one request that it writes itself, and what counts as an answer.

Facts about S3 are those of its API reference, and of what S3-compatible servers were seen to do.
"""

import base64
import contextlib
import functools
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader, create_loader
from botocore.parsers import ResponseParserError
from botocore.session import get_session
from botocore.utils import parse_timestamp

from activities.stores.last_word import CHANGING_KEYS, take_last_word
from activities.stores.objects import ObjectAbsent, ObjectTooLarge
from artifact_deletion.errors import StoreUnavailable, plain_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

AddressingStyle = Literal["auto", "path", "virtual"]
Version = tuple[str, str | None]
"""A key and one of its versions, or None for the object of a bucket that keeps no versions."""

MAX_BODY = 900 * 1024
"""Bytes of one DeleteObjects request. Ceph's gateway and many a proxy refuse 1 MiB, which a thousand long keys exceed."""
TRANSIENT = frozenset(
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
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
WHOLE_REQUEST = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "InvalidSecurity",
        "InvalidToken",
        "NoSuchBucket",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
"""Codes that say nothing of the key that was asked for."""
# No object has a name that its store does not take: a scope before a key can make it too long.
_NO_SUCH_KEY = frozenset({"NoSuchKey", "KeyTooLongError"})
ABSENT = frozenset({"NoSuchVersion"}) | _NO_SUCH_KEY

# One key at a time is slower, but it goes: also where a proxy refuses the call with a page of its own.
_NO_CALL = frozenset({"MethodNotAllowed", "NotImplemented"})
_NO_CALL_STATUS = frozenset({405, 501})
# Length required, content too large, unsupported media type, range not satisfiable, expectation failed: all said of a body.
_FORM_STATUS = frozenset({411, 413, 415, 416, 417})
_BAD_REQUEST = frozenset({400, 422})

_USER_AGENT = f"artifact-deletion Boto3/{boto3.__version__}"
"""For the store's access log. Without one, botocore puts its own together twice a request."""
_REDIRECTIONS, _ERRORS, _NOT_FOUND, _SERVER_ERRORS = 300, 400, 404, 500
# Only S3's own answers have these: 200 alone does not say that it was the store that answered.
_ROOT_ELEMENTS = {
    "CopyObject": b"CopyObjectResult",
    "DeleteObjects": b"DeleteResult",
    "GetBucketLifecycleConfiguration": b"LifecycleConfiguration",
    "GetBucketVersioning": b"VersioningConfiguration",
    "GetObjectTagging": b"Tagging",
    "ListMultipartUploads": b"ListMultipartUploadsResult",
    "ListObjectVersions": b"ListVersionsResult",
    "ListObjectsV2": b"ListBucketResult",
}
_WITHOUT_BODY = frozenset({"AbortMultipartUpload", "DeleteObject", "PutObject"})
_PROLOGUE = 1000
"""Bytes in which the root element has begun."""
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_BATCH = "artifact-deletion-batch"
TREE = "artifact-deletion-tree"
"""The part of an answer that has it as XML."""
_UNKNOWN = "Unknown"


# The client -------------------------------------------------------------------------------------------------------------


def s3_client(
    *,
    endpoint: str | None,
    region: str,
    access_key: str | None,
    secret_key: str | None,
    connections: int,
    connect_timeout_s: float,
    read_timeout_s: float,
    addressing_style: AddressingStyle | None = None,
) -> "S3Client":
    """A client that makes one attempt a call. Without keys of its own it uses the machine's, as every AWS client does.

    Without an `addressing_style` the AWS profile has the say; without a word there, boto3 addresses an endpoint by path.
    """
    core = get_session()
    core.register_component("data_loader", _loader(core.get_config_variable("data_path")))
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=timestamp)
    session = boto3.session.Session(
        aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=region, botocore_session=core
    )
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        user_agent=_USER_AGENT,
        max_pool_connections=connections,
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        s3={} if addressing_style is None else {"addressing_style": addressing_style},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.client("s3", endpoint_url=endpoint, config=config)
    client.meta.events.register("before-parameter-build.s3.DeleteObjects", _take_batch)
    client.meta.events.register("before-call.s3.DeleteObjects", _send_batch)
    client.meta.events.register("before-parse.*.*", _take_tree)
    client.meta.events.register("before-parse.s3", _look_at_answer)
    for call in CHANGING_KEYS:
        client.meta.events.register(f"before-send.s3.{call}", take_last_word)
    return client


@functools.cache
def _loader(data_path: str | None) -> Loader:
    """What knows S3's operations. It reads megabytes of JSON, once for all clients of a process."""
    return create_loader(data_path)


def timestamp(text: str) -> datetime:
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


# The request that deletes many ------------------------------------------------------------------------------------------


class Batch(dict[str, Any]):
    """A DeleteObjects request that is written already: boto3 is given one key to look at, and sends `body` in its place."""

    def __init__(self, body: bytes) -> None:
        super().__init__(Objects=[{"Key": "-"}])
        self.body = body


def write_batch(versions: Sequence[Version], *, quiet: bool = True) -> bytes:
    """The body of a DeleteObjects request, byte for byte as boto3 would write it, but at once and not element by element.

    `quiet`: only errors are answered.
    """
    objects = "".join(
        [
            f"<Object><Key>{escape(key)}</Key></Object>"
            if version is None
            else f"<Object><Key>{escape(key)}</Key><VersionId>{escape(version)}</VersionId></Object>"
            for key, version in versions
        ]
    )
    body = f'<Delete xmlns="{_NAMESPACE}">{objects}<Quiet>{str(quiet).lower()}</Quiet></Delete>'
    return body.encode(errors="xmlcharrefreplace")


def _take_batch(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    if isinstance(batch := params["Delete"], Batch):
        context[_BATCH] = batch.body


def _send_batch(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    """Send exactly one checksum, S3's first: some servers demand it, and some refuse a request that has another as well."""
    params["body"] = context.pop(_BATCH, params["body"])
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
    # botocore chose CRC32 when it built the request, since it takes a checksum to be required here, and would add it now.
    context.pop("checksum", None)


def lacks_call(error: ClientError) -> bool:
    """True if the store, or a proxy before it, has no such call at all."""
    return code_of(error) in _NO_CALL or _status(error) in _NO_CALL_STATUS


def refuses_form(error: ClientError) -> bool:
    """True if a DeleteObjects request was refused for its size, its form or its headers: smaller ones may be taken.

    A 400 without a code of S3's is a page that says nothing of the request.
    """
    if _status(error) in _FORM_STATUS:
        return True
    return _status(error) in _BAD_REQUEST and refuses_key(error)


def refuses_key(error: ClientError) -> bool:
    """True if the store itself refused a request for good, and for what was asked, not for who asked or how often."""
    code = code_of(error)
    spoken = code.isidentifier() and code != _UNKNOWN
    return spoken and not asks_again(error) and code not in WHOLE_REQUEST


# Answers ----------------------------------------------------------------------------------------------------------------


def ask(call: Callable[..., Any], **asked: Any) -> Any:
    """Make one request. Raises ClientError for the store's refusal, StoreUnavailable for all that is no answer of its own."""
    try:
        return call(**asked)
    except BotoCoreError as error:
        raise StoreUnavailable(f"the object store could not be reached ({type(error).__name__})") from None
    except (ResponseParserError, ET.ParseError, ValueError, TypeError, AttributeError) as error:
        # A number that is none, an element twice or inside another: botocore takes none of them for a store's fault.
        raise StoreUnavailable(f"the object store's answer could not be read ({type(error).__name__})") from None


def _take_tree(
    operation_model: Any, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Before botocore itself looks for an error under HTTP 200, for which it would read all of a listing. It reads the rest."""
    if not _as_tree.get() or response_dict["status_code"] >= _REDIRECTIONS:
        return
    expected = _ROOT_ELEMENTS[operation_model.name]
    with contextlib.suppress(ET.ParseError):
        root = ET.fromstring(response_dict["body"])  # noqa: S314  botocore reads all answers so
        if root.tag.rpartition("}")[2] == expected.decode():
            customized_response_dict[TREE] = root
            response_dict["body"] = b"<%b/>" % expected


def _look_at_answer(
    operation_model: Any, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Raises StoreUnavailable for the page of a gateway, which boto3 would take for an answer that names no error."""
    name, status, body = operation_model.name, response_dict["status_code"], response_dict["body"]
    if status >= _ERRORS:
        return
    if status >= _REDIRECTIONS:
        answered = "x-amz-bucket-region" in response_dict["headers"] or b"<Error" in body
    elif _as_tree.get():
        answered = TREE in customized_response_dict
    elif name in _ROOT_ELEMENTS:
        answered = _ROOT_ELEMENTS[name] in body[:_PROLOGUE]
    else:
        answered = name not in _WITHOUT_BODY or not body
    if not answered:
        raise _not_the_store(status, name)


_as_tree: ContextVar[bool] = ContextVar("as_tree", default=False)


@contextlib.contextmanager
def answered_as_tree() -> Iterator[None]:
    """Listings asked for in this context are not taken apart by boto3, which takes four times as long: their XML is in TREE."""
    token = _as_tree.set(True)
    try:
        yield
    finally:
        _as_tree.reset(token)


def _not_the_store(status: int, operation: str) -> StoreUnavailable:
    return StoreUnavailable(f"something else than the object store answered HTTP {status} to {operation}")


def bucket_keeps_versions(client: "S3Client", bucket: str) -> bool:
    """True if the bucket has or ever had versioning. Raises StoreUnavailable rather than take a refusal for a no."""
    return versioning_of(client, bucket) is not None


def versioning_of(client: "S3Client", bucket: str) -> str | None:
    """`Enabled` or `Suspended`; None if the bucket never had versioning. Raises StoreUnavailable."""
    try:
        status: str | None = ask(client.get_bucket_versioning, Bucket=bucket).get("Status")
    except ClientError as error:
        raise unavailable(error) from None
    return status


def is_readable(client: "S3Client", bucket: str, key: str) -> bool:
    """Whether a reader finds an object there. Raises StoreUnavailable: an answer to HEAD has no word of what was refused."""
    try:
        answer = ask(client.head_object, Bucket=bucket, Key=key)
    except ClientError as error:
        if _status(error) == _NOT_FOUND:
            return False
        raise unavailable(error) from None
    if "ETag" not in answer:
        raise _not_the_store(answer["ResponseMetadata"]["HTTPStatusCode"], "HeadObject")
    return True


def read_object(client: "S3Client", bucket: str, key: str, limit: int) -> bytes:
    """The content of an object. Raises ObjectAbsent, ObjectTooLarge (more than `limit` bytes), StoreUnavailable."""
    return get_object(client, bucket, key, limit)[0]


def get_object(client: "S3Client", bucket: str, key: str, limit: int) -> tuple[bytes, dict[str, Any]]:
    """The content of an object, and what is said of it. Raises as read_object does."""
    try:
        answer = ask(client.get_object, Bucket=bucket, Key=key)
    except ClientError as error:
        if code_of(error) in _NO_SUCH_KEY:
            raise ObjectAbsent from None
        raise unavailable(error) from None
    # A proxy may send on without a length, in parts that say themselves which is the last.
    length: int | None = answer.get("ContentLength")
    # Entered by itself, the body would be the raw stream, whose errors are not boto3's.
    with contextlib.closing(answer["Body"]) as body:
        if length is not None and length > limit:
            raise ObjectTooLarge
        content: bytes = ask(body.read, amt=limit + 1)
    if "ETag" not in answer:
        raise _not_the_store(answer["ResponseMetadata"]["HTTPStatusCode"], "GetObject")
    if len(content) > limit:
        raise ObjectTooLarge
    if length is not None and len(content) != length:
        raise StoreUnavailable("the object store's answer was cut off")
    return content, answer


def text_in(part: dict[str, Any], name: str) -> str | None:
    """boto3 makes a list of an element that stands there twice."""
    text = part.get(name)
    return text if isinstance(text, str) else None


def code_of(error: ClientError) -> str:
    """The store's own word for a refusal, unchecked."""
    code = error.response.get("Error", {}).get("Code")
    return code if isinstance(code, str) and code else _UNKNOWN


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def asks_again(error: ClientError) -> bool:
    """True if the same request may be answered otherwise soon."""
    return _status(error) in TRANSIENT_STATUS or code_of(error) in TRANSIENT


def leaves_open(error: ClientError) -> bool:
    """True if the store may have done a part of the work: it failed inside, and says no more."""
    return _status(error) >= _SERVER_ERRORS


def unavailable(error: ClientError) -> StoreUnavailable:
    """Only the call, the code and the status may be said of a failed request: messages carry keys and bucket names."""
    code, operation = plain_code(code_of(error)), plain_code(error.operation_name)
    return StoreUnavailable(f"the object store answered {code} (HTTP {_status(error)}) to {operation}")
