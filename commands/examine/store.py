"""Looks whether this worker may do with the object store what deletions need.

It is asked in the places where artifacts lie, one for each usecase, but of an organization 0, which there is not: about a key
that no one ever wrote. Where it answers that there is no such thing, it has let us in.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from activities.stores.objects import Found, ObjectAbsent, ObjectStore, Outcome, Upload
from activities.stores.s3 import S3Objects
from activities.stores.s3_wire import ask, bucket_keeps_versions, unavailable
from artifact_deletion.errors import DeletionError, Misconfigured
from commands.display import some
from commands.examine.finding import ADAPTERS, BAD, OK, SKIPPED, WARN, Finding
from commands.examine.images import examine_images
from composition import open_store
from settings import Settings

_NO_ONE = 0
"""Organizations and projects are numbered from 1."""
_KEYS = "S3_ACCESS_KEY and S3_SECRET_KEY"
_ADVICE = {
    r"\bNoSuchBucket\b": "set BUCKET: there is none of that name where S3_ENDPOINT leads",
    r"\bSSLError\b": "does S3_ENDPOINT speak TLS, with a certificate for its name that this machine trusts (AWS_CA_BUNDLE)?",
    r"\bRequestTimeTooSkewed\b": "this machine's clock and the store's differ too much: set them, as by NTP",
    r"\bInvalidAccessKeyId\b": f"set {_KEYS}: the store knows no such access key",
    r"\bSignatureDoesNotMatch\b": f"set {_KEYS}: the secret key is not the access key's, or a proxy changes requests",
    r"\b(NoCredentialsError|PartialCredentialsError|CredentialRetrievalError)\b": f"set {_KEYS}: there are no credentials",
    r"\b(ExpiredToken|InvalidToken)\b": "the credentials are temporary, and no longer valid: renew them",
    r"\b(AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocationConstraintException)\b": "set S3_REGION to the bucket's",
    r"could not be reached": "is the store up, and S3_ENDPOINT right? does a firewall or proxy stand between?",
    r"something else than the object store": "S3_ENDPOINT leads to something else: a login page, perhaps, or a proxy",
}


def advice(said: str, otherwise: str) -> str:
    """What to do about a failed request, by what our own error says of it."""
    return next((do for pattern, do in _ADVICE.items() if re.search(pattern, said)), otherwise)


def examine_store(settings: Settings) -> list[Finding]:
    """Look at a bucket in detail, and at another store by what it is asked for."""
    if settings.serves == "rows":
        but = " but for its receipts, whose place is not looked at" if (settings.receipt_export or "").startswith("s3:") else ""
        return [Finding("bucket", SKIPPED, f"a worker that serves rows needs no store{but}")]
    try:
        store = open_store(settings)
    except Misconfigured as error:
        return [Finding("bucket", BAD, str(error), ADAPTERS)]
    if not isinstance(store, S3Objects):
        return [_permissions(store, usecase, scope, "") for usecase, scope in _scopes(settings)]
    with closing(store.client):
        versioning, store = _versioning(settings, store)
        if store.versioned is None:
            return [versioning, Finding("bucket", SKIPPED, "a delete could leave a marker in a bucket that keeps versions")]
        versions = "Version" * store.versioned
        findings = [_permissions(store, usecase, scope, versions) for usecase, scope in _scopes(settings)]
        _, scope = next(_scopes(settings))
        images = examine_images(settings, store, scope)
        return [versioning, *findings, _listings(store, scope), *images, _beside(store, settings)]


def _scopes(settings: Settings) -> Iterator[tuple[str, str]]:
    """A place for each usecase where an artifact could lie, if there were an organization 0."""
    for usecase in settings.usecases:
        values = {"usecase": usecase, "organization_id": _NO_ONE, "project_id": _NO_ONE}
        yield usecase, settings.scope_template.format(**values)


def _versioning(settings: Settings, store: S3Objects) -> tuple[Finding, S3Objects]:
    """What the bucket says, and the store as it is to be asked: a delete without a version can leave a marker."""
    try:
        keeps = bucket_keeps_versions(store.client, store.bucket)
    except DeletionError as error:
        said = str(error)
        if store.versioned is None:
            do = advice(said, "allow s3:GetBucketVersioning, or set BUCKET_VERSIONED to yes or no")
            return Finding("versioning", BAD, said, do), store
        do = advice(said, "allow s3:GetBucketVersioning to have it checked")
        return Finding("versioning", WARN, f"taken as set, {settings.bucket_versioned}: {said}", do), store
    if keeps and store.versioned is False:
        said = "the bucket keeps versions, and would keep all data"
        return Finding("versioning", BAD, said, "set BUCKET_VERSIONED to ask"), replace(store, versioned=True)
    found = "every version is deleted" if keeps else "the bucket keeps no versions"
    return Finding("versioning", OK, found), replace(store, versioned=keeps)


def _permissions(store: ObjectStore, usecase: str, scope: str, versions: str) -> Finding:
    """Ask about a key that no one wrote, in every way in which a worker asks."""
    proven, refused = [], []
    for permission, request in _requests(store, f"{scope}artifact-deletion-doctor/{secrets.token_hex(16)}", versions):
        try:
            answer = request()
        except DeletionError as error:
            refused.append(f"{permission}: {error}")
            continue
        remaining = answer.remaining.values() if isinstance(answer, Outcome) else ()
        if codes := set(remaining) - {"NoSuchUpload", "NoSuchVersion"}:
            refused.append(f"{permission}: {', '.join(sorted(codes))}")
        else:
            proven.append(permission)
    name = f"bucket, usecase {usecase}"
    if not refused:
        return Finding(name, OK, f"allowed: {', '.join(proven)}")
    said = "; ".join(refused)
    do = f"allow these for the keys of {usecase}, as deploy/iam-policy.json does"
    if " to DeleteObjects" in said:
        do += "; some stores, Ceph's gateway for one, take DeleteObjects only with s3:DeleteObject on the bucket's own ARN too"
    return Finding(name, BAD, said, advice(said, do))


def _requests(store: ObjectStore, key: str, versions: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each permission, and a request that needs it."""
    one = Found(key, version="null") if versions else Found(key)
    yield "s3:GetObject", lambda: _read_absent(store, key)
    if store.listable:
        yield f"s3:ListBucket{versions}s" if versions else "s3:ListBucket", lambda: list(store.list_under(key))
    if store.lists_uploads:
        yield "s3:ListBucketMultipartUploads", lambda: list(store.uploads_under(key))
    yield f"s3:DeleteObject{versions}", lambda: store.delete_found([one])
    if store.lists_uploads:
        yield "s3:AbortMultipartUpload", lambda: store.abort_uploads([Upload(key, secrets.token_hex(16))])


def _read_absent(store: ObjectStore, key: str) -> None:
    with suppress(ObjectAbsent):
        store.read(key, 1)


def _listings(store: S3Objects, prefix: str) -> Finding:
    """Keys that XML cannot hold are listed right only where the store encodes them, which it has to be asked for."""
    kinds = ["list_object_versions" if store.keeps_versions else "list_objects_v2"] if store.listable else []
    kinds += ["list_multipart_uploads"] if store.lists_uploads else []
    failed, literal = [], []
    for kind in kinds:
        try:
            if _answer(store, kind, Prefix=prefix, EncodingType="url").get("EncodingType") != "url":
                literal.append(kind)
        except DeletionError as error:
            failed.append(f"{kind} with EncodingType: {error}")
        try:
            with _unencoded(store, kind):
                _answer(store, kind, Prefix=prefix)
        except DeletionError as error:
            failed.append(f"{kind} without EncodingType: {error}")
    if len(failed) == 2 * len(kinds):
        return Finding("listings", SKIPPED, "the store answers none, as said above" if kinds else "the store is not to list")
    if failed:
        return Finding("listings", BAD, "; ".join(failed), "the store, or a proxy before it, has to take both forms")
    if literal:
        said = f"{', '.join(literal)}: keys come as they are, and one with a control character spoils the answer"
        return Finding("listings", WARN, said, "see to it that no such keys are written")
    return Finding("listings", OK, f"{' and '.join(kinds)} answer with EncodingType and without")


@contextmanager
def _unencoded(store: S3Objects, kind: str) -> Iterator[None]:
    """Keep boto3 from asking for encoded keys, as it does of itself."""
    event = f"before-parameter-build.s3.{store.client.meta.method_to_api_mapping[kind]}"

    def drop(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        params.pop("EncodingType", None)
        context.pop("encoding_type_auto_set", None)

    store.client.meta.events.register_last(event, drop)
    try:
        yield
    finally:
        store.client.meta.events.unregister(event, drop)


def _answer(store: S3Objects, kind: str, **asked: Any) -> dict[str, Any]:
    """Make one request of the bucket. Raises StoreUnavailable."""
    try:
        answer: dict[str, Any] = ask(getattr(store.client, kind), Bucket=store.bucket, **asked)
    except ClientError as error:
        raise unavailable(error) from None
    return answer


def _beside(store: S3Objects, settings: Settings) -> Finding:
    """The first level of the bucket: a usecase that is not among the settings is neither searched nor emptied."""
    name = "beside the usecases"
    before, _, after = settings.scope_template.partition("{usecase}")
    end = f"{after.partition('/')[0]}/"
    if "{" in before + end:
        return Finding(name, SKIPPED, "SCOPE_TEMPLATE does not begin with the usecase")
    known = {f"{before}{usecase}{end}" for usecase in settings.usecases} | _receipts(store, settings)
    known.add(f"{settings.images_quarantine.partition('/')[0]}/")
    try:
        answer = _answer(store, "list_objects_v2", Prefix=before[: before.rfind("/") + 1], Delimiter="/")
    except DeletionError as error:
        do = advice(str(error), "allow s3:ListBucket on the bucket as a whole to have it looked at")
        return Finding(name, SKIPPED, str(error), do)
    others = sorted({str(one["Prefix"]) for one in answer.get("CommonPrefixes", ())} - known)
    if not others:
        return Finding(name, OK, "nothing lies there but they")
    shown = some([json.dumps(one, ensure_ascii=False) for one in others])
    return Finding(name, WARN, f"there are {shown}, which no deletion looks at", "is one of them a usecase? add it to USECASES")


def _receipts(store: S3Objects, settings: Settings) -> set[str]:
    """The folder of our own receipts, if they are kept in the same bucket."""
    bucket, _, prefix = (settings.receipt_export or "").removeprefix("s3://").partition("/")
    return {f"{prefix.partition('/')[0]}/"} if bucket == store.bucket and prefix else set()
