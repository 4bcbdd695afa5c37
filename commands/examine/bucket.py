"""What a bucket of S3 is asked beside permissions: how it lists, and what lies there beside the usecases that are known."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from artifact_deletion.errors import DeletionError
from commands.examine.advice import advice
from commands.examine.finding import BAD, OK, SKIPPED, WARN, Finding
from settings import Settings

if TYPE_CHECKING:
    from activities.stores.s3 import S3Objects

_SHOWN = 20


def listings(store: "S3Objects", prefix: str) -> Finding:
    """Keys that XML cannot hold are listed right only where the store encodes them, which it has to be asked for."""
    kinds = ["list_object_versions" if store.keeps_versions else "list_objects_v2"] if store.listable else []
    kinds += ["list_multipart_uploads"] if store.lists_uploads else []
    failed, literal = [], []
    for kind in kinds:
        for encoded in (True, False):
            try:
                answer = _list(store, kind, prefix, encoded=encoded)
            except DeletionError as error:
                failed.append(f"{kind} {'with' if encoded else 'without'} EncodingType: {error}")
                continue
            if encoded and answer.get("EncodingType") != "url":
                literal.append(kind)
    if len(failed) == 2 * len(kinds):
        return Finding("listings", SKIPPED, "the store answers none, as said above" if kinds else "the store is not to list")
    if failed:
        return Finding("listings", BAD, "; ".join(failed), "the store, or a proxy before it, has to take both forms")
    if literal:
        said = f"{', '.join(literal)}: keys come as they are, and one with a control character spoils the answer"
        return Finding("listings", WARN, said, "see to it that no such keys are written")
    return Finding("listings", OK, f"{' and '.join(kinds)} answer with EncodingType and without")


def _list(store: "S3Objects", kind: str, prefix: str, *, encoded: bool) -> dict[str, Any]:
    """One page. Raises StoreUnavailable."""
    from botocore.exceptions import ClientError  # noqa: PLC0415  slow to import, and not needed for the database alone

    from activities.stores.s3_wire import ask, unavailable  # noqa: PLC0415

    call, asked = getattr(store.client, kind), {"EncodingType": "url"} if encoded else {}
    try:
        with _unasked(store, kind) if not encoded else _as_asked():
            answer: dict[str, Any] = ask(call, Bucket=store.bucket, Prefix=prefix, **asked)
    except ClientError as error:
        raise unavailable(error) from None
    return answer


@contextmanager
def _as_asked() -> Iterator[None]:
    yield


@contextmanager
def _unasked(store: "S3Objects", kind: str) -> Iterator[None]:
    """boto3 asks for encoded keys of itself; here it does not."""
    event = f"before-parameter-build.s3.{store.client.meta.method_to_api_mapping[kind]}"

    def drop(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        params.pop("EncodingType", None)
        context.pop("encoding_type_auto_set", None)

    store.client.meta.events.register_last(event, drop)
    try:
        yield
    finally:
        store.client.meta.events.unregister(event, drop)


def beside(store: "S3Objects", settings: Settings) -> Finding:
    """The first level of the bucket: a usecase that is not among the settings is neither searched nor emptied."""
    name = "beside the usecases"
    before, _, after = settings.scope_template.partition("{usecase}")
    inside = before.rpartition("/")[0]
    start = f"{inside}/" if inside else ""
    if "{" in before + after.partition("/")[0]:
        return Finding(name, SKIPPED, "SCOPE_TEMPLATE does not begin with the usecase")
    known = {f"{before}{usecase}{after.partition('/')[0]}/" for usecase in settings.usecases}
    try:
        others = [one for one in _first_level(store, start) if one not in known and one not in _receipts(store, settings)]
    except DeletionError as error:
        do = advice(str(error), "allow s3:ListBucket on the bucket as a whole to have it looked at")
        return Finding(name, SKIPPED, str(error), do)
    if not others:
        return Finding(name, OK, "nothing lies there but they")
    shown = ", ".join(json.dumps(one, ensure_ascii=False) for one in others[:_SHOWN]) + (" …" if len(others) > _SHOWN else "")
    return Finding(name, WARN, f"there are {shown}, which no deletion looks at", "is one of them a usecase? add it to USECASES")


def _first_level(store: "S3Objects", start: str) -> list[str]:
    """Folders, by at most a thousand. Raises StoreUnavailable."""
    from botocore.exceptions import ClientError  # noqa: PLC0415  as above

    from activities.stores.s3_wire import ask, unavailable  # noqa: PLC0415

    try:
        answer = ask(store.client.list_objects_v2, Bucket=store.bucket, Prefix=start, Delimiter="/")
    except ClientError as error:
        raise unavailable(error) from None
    return sorted(str(one["Prefix"]) for one in answer.get("CommonPrefixes", ()))


def _receipts(store: "S3Objects", settings: Settings) -> set[str]:
    """The folder of our own receipts, if they are kept in the same bucket."""
    bucket, _, prefix = (settings.receipt_export or "").removeprefix("s3://").partition("/")
    return {f"{prefix.partition('/')[0]}/"} if bucket == store.bucket and prefix else set()
