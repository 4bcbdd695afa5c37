"""Looks whether images can be hidden in the bucket, restored and purged: in which way, with which rights, and for long enough.

Nothing is written to find out: the copy that it asks for has no source.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from activities.stores.s3 import S3Objects
from activities.stores.s3_copies import CopyImages
from activities.stores.s3_images import images_of
from activities.stores.s3_markers import MarkerImages
from activities.stores.s3_wire import ABSENT, ask, code_of, unavailable
from artifact_deletion.errors import DeletionError
from commands.examine.finding import BAD, OK, SKIPPED, WARN, Finding
from settings import Settings

_NAME, _RIGHTS, _LIFECYCLE = "images", "images, rights", "images, lifecycle"
_DAY = timedelta(days=1)
_NO_RULES = "NoSuchLifecycleConfiguration"


def examine_images(settings: Settings, store: S3Objects, scope: str) -> list[Finding]:
    """`scope`: where images of an organization could lie that there is not."""
    if settings.images == "keep":
        said = "IMAGES=keep: a deletion that asks for them has them left over"
        return [Finding(_NAME, SKIPPED, said)]
    try:
        images = images_of(store, settings.hiding, settings.images_quarantine)
    except DeletionError as error:
        other = "IMAGES_RESERVED to false" if settings.images_reserved else "IMAGES to auto"
        do = f"set {other}, or switch the bucket's versioning on"
        return [Finding(_NAME, BAD, str(error), do)]
    findings = [_way(settings, store, images), _lifecycle(settings, store, images)]
    if isinstance(images, CopyImages):
        findings.insert(1, _copies(store, images, scope))
    return findings


def _way(settings: Settings, store: S3Objects, images: MarkerImages | CopyImages) -> Finding:
    """In which way, and why."""
    if isinstance(images, MarkerImages):
        said = "hidden by delete markers, for the bucket keeps versions: that needs s3:DeleteObject, which is not tried"
        return Finding(_NAME, OK, said)
    within = [one for one in _roots(settings) if one and images.quarantine.startswith(one)]
    if within:
        said = f"copies of hidden images would lie under {within[0]}, where images are read"
        return Finding(_NAME, BAD, said, "set IMAGES_QUARANTINE to a prefix of its own")
    asked = "as IMAGES says" if settings.images == "copies" else "for the bucket keeps no versions"
    if store.versioned and settings.images != "copies":
        asked = "for the bucket's versioning is suspended"
    return Finding(_NAME, OK, f"hidden by copies under {images.quarantine}, {asked}")


def _copies(store: S3Objects, images: CopyImages, scope: str) -> Finding:
    """Ask for each request that hides, restores or purges a copy, about a key that no one wrote."""
    key = f"{scope}artifact-deletion-doctor/{secrets.token_hex(16)}"
    copy = images.left_by(key, 0)
    refused = []
    for permission, request in _requests(store, key, copy):
        if (code := _refusal(request)) is not None:
            refused.append(f"{permission}: {code}")
    if not refused:
        return Finding(_RIGHTS, OK, f"copies can be put under {images.quarantine}, read, put back and deleted")
    do = f"allow these for the keys of the usecases and of {images.quarantine}, as deploy/iam-policy.json does"
    return Finding(_RIGHTS, BAD, "; ".join(refused), do)


def _requests(store: S3Objects, key: str, copy: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each permission, and a request that needs it and changes nothing."""
    client, bucket = store.client, store.bucket
    for name, source, target in (("in quarantine", key, copy), ("where images lie", copy, key)):
        copied = {"Bucket": bucket, "Key": source}
        yield f"s3:PutObject {name}", partial(ask, client.copy_object, Bucket=bucket, Key=target, CopySource=copied)
    yield "s3:GetObject in quarantine", partial(ask, client.get_object, Bucket=bucket, Key=copy)
    if not store.versioned:  # or it would leave a marker
        yield "s3:DeleteObject in quarantine", partial(ask, client.delete_object, Bucket=bucket, Key=copy)


def _refusal(request: Callable[[], Any]) -> str | None:
    """The store's code, unless it says that there is no such thing; a store without CopyObject gets its copies by PUT."""
    try:
        request()
    except ClientError as error:
        return None if code_of(error) in ABSENT | {"NotImplemented"} else str(unavailable(error))
    except DeletionError as error:
        return str(error)
    return None


def _lifecycle(settings: Settings, store: S3Objects, images: MarkerImages | CopyImages) -> Finding:
    """Rules of the bucket's own may not take hidden images before their time."""
    try:
        rules = ask(store.client.get_bucket_lifecycle_configuration, Bucket=store.bucket).get("Rules", [])
    except ClientError as error:
        if code_of(error) == _NO_RULES:
            return Finding(_LIFECYCLE, OK, "the bucket has no rules")
        do = "allow s3:GetLifecycleConfiguration to have it checked, or see to it that no rule takes hidden images"
        return Finding(_LIFECYCLE, WARN, str(unavailable(error)), do)
    except DeletionError as error:
        return Finding(_LIFECYCLE, WARN, str(error), "see to it that no rule takes hidden images")
    keeps = settings.images_grace + _DAY
    places = _roots(settings) if isinstance(images, MarkerImages) else [images.quarantine]
    early = [_named(rule) for rule in rules if _takes(rule, images, places, keeps)]
    if early:
        what = "noncurrent versions" if isinstance(images, MarkerImages) else images.quarantine
        said = f"{what} would expire before hidden images can be restored: rules {', '.join(early)}"
        return Finding(_LIFECYCLE, BAD, said, f"let these rules wait for at least {-(-keeps // _DAY)} days")
    return Finding(_LIFECYCLE, OK, "no rule takes hidden images before its time")


def _takes(rule: Mapping[str, Any], images: MarkerImages | CopyImages, places: Sequence[str], keeps: timedelta) -> bool:
    """Whether a rule takes bytes of hidden images too early, whatever tags or sizes it asks for besides."""
    prefix = _prefix(rule)
    if rule.get("Status") != "Enabled" or not any(prefix.startswith(one) or one.startswith(prefix) for one in places):
        return False
    if isinstance(images, MarkerImages):
        days = rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays")
    else:
        expiration = rule.get("Expiration", {})
        if "Date" in expiration:
            return True
        days = expiration.get("Days")
    return days is not None and timedelta(days=days) < keeps


def _prefix(rule: Mapping[str, Any]) -> str:
    filtered = rule.get("Filter", {})
    found: str = filtered.get("Prefix") or filtered.get("And", {}).get("Prefix") or rule.get("Prefix") or ""
    return found


def _named(rule: Mapping[str, Any]) -> str:
    return str(rule.get("ID") or f"of prefix {_prefix(rule)!r}")


def _roots(settings: Settings) -> list[str]:
    """The folder of each usecase; an empty text where the template begins with something else."""
    begins = [settings.scope_template.replace("{usecase}", one).partition("{")[0] for one in settings.usecases]
    return [one[: one.rfind("/") + 1] for one in begins]
