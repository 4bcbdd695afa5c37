"""Looks whether this worker may do with the object store what deletions need.

It is asked in the places where artifacts lie, one for each usecase, but of an organization 0, which there is not: about a key
that no one ever wrote. Where it answers that there is no such thing, it has let us in.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from activities.stores.objects import Found, ObjectAbsent, ObjectStore, Upload
from artifact_deletion.errors import DeletionError, Misconfigured
from commands.examine.advice import advice
from commands.examine.bucket import beside, listings
from commands.examine.finding import ADAPTERS, BAD, OK, SKIPPED, WARN, Finding
from settings import Settings

_NO_ONE = 0
"""Organizations and projects are numbered from 1."""


def examine_store(settings: Settings) -> list[Finding]:
    """A bucket in detail; another store by what it is asked for."""
    if settings.serves == "rows":
        but = " but for its receipts, whose place is not looked at" if (settings.receipt_export or "").startswith("s3:") else ""
        return [Finding("bucket", SKIPPED, f"a worker that serves rows needs no store{but}")]
    from activities.stores.s3 import S3Objects  # noqa: PLC0415  slow to import, and not needed for the database alone
    from composition import open_store  # noqa: PLC0415

    try:
        store = open_store(settings)
    except Misconfigured as error:
        return [Finding("bucket", BAD, str(error), ADAPTERS)]
    if not isinstance(store, S3Objects):
        return [_permissions(store, usecase, scope, "") for usecase, scope in _scopes(settings)]
    with contextlib.closing(store.client):
        versioning, store = _versioning(settings, store)
        if store.versioned is None:
            return [versioning, Finding("bucket", SKIPPED, "a delete could leave a marker in a bucket that keeps versions")]
        versions = "Version" * store.versioned
        findings = [_permissions(store, usecase, scope, versions) for usecase, scope in _scopes(settings)]
        scope = next(scope for _, scope in _scopes(settings))
        return [versioning, *findings, listings(store, scope), beside(store, settings)]


def _scopes(settings: Settings) -> Iterator[tuple[str, str]]:
    """A place for each usecase where an artifact could lie, if there were an organization 0."""
    for usecase in settings.usecases:
        values = {"usecase": usecase, "organization_id": _NO_ONE, "project_id": _NO_ONE}
        yield usecase, settings.scope_template.format(**values)


def _versioning(settings: Settings, store: Any) -> tuple[Finding, Any]:
    """What the bucket says, and the store as it is to be asked: a delete without a version can leave a marker."""
    from activities.stores.s3_wire import bucket_keeps_versions  # noqa: PLC0415  as above

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
    for permission, ask in _asks(store, f"{scope}artifact-deletion-doctor/{secrets.token_hex(16)}", versions):
        try:
            answer = ask()
        except DeletionError as error:
            refused.append(f"{permission}: {error}")
            continue
        codes = set(answer.values()) - {"NoSuchUpload", "NoSuchVersion"} if isinstance(answer, dict) else set()
        if codes:
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


def _asks(store: ObjectStore, key: str, versions: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(permission, request) for each way."""
    one = Found(key, version="null") if versions else Found(key)
    yield "s3:GetObject", lambda: _absent(store, key)
    if store.listable:
        yield f"s3:ListBucket{versions}s" if versions else "s3:ListBucket", lambda: list(store.list_under(key))
    if store.lists_uploads:
        yield "s3:ListBucketMultipartUploads", lambda: list(store.uploads_under(key))
    yield f"s3:DeleteObject{versions}", lambda: store.delete_found([one]).remaining
    if store.lists_uploads:
        yield "s3:AbortMultipartUpload", lambda: store.abort_uploads([Upload(key, secrets.token_hex(16))]).remaining


def _absent(store: ObjectStore, key: str) -> None:
    with contextlib.suppress(ObjectAbsent):
        store.read(key, 1)
