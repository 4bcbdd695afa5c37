"""Which object keys and prefixes belong to an artifact: pure rules, no I/O.

An object key is relative to a *scope*, the physical prefix of one usecase, organization and project. Key shapes are those of
Sentry's preprod code (`sentry/preprod/snapshots`, `sentry/preprod/api/models`); `o/p` stands for organization and project:

    o/p/{artifact}/…                    all of it is the artifact's: manifests, and the comparisons in which it is the head
    o/p/{head}/{artifact}/…             all of it belongs to the comparison in which the artifact is the base
    snapshot_archives/{artifact}.zip    the artifact's
    o/p/icn_…                           the app icon: the artifact's, unless another app info of the project names it too
    o/p/{content_hash}                  an image, shared by the project's snapshots: never an artifact's own
"""

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

MAX_KEY_BYTES = 1024
"""S3's limit for an object key, in UTF-8 bytes."""

MAX_MANIFEST_VALUES = 2**21
"""Brackets and commas of a manifest, those in its texts too. Real ones have one for each 25 bytes or more."""

_TRACE_NAMESPACE = uuid.UUID("31eca038-ed76-4e6d-b13b-ed30a6555213")
_ICON = re.compile(r"icn_[A-Za-z0-9_-]+", re.ASCII)
_FILE_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_ODD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")


@dataclass(frozen=True, slots=True, order=True)
class ArtifactRef:
    """An artifact where its objects lie: the organization and project that it was in when its keys were collected."""

    organization_id: int
    project_id: int
    id: int

    @property
    def prefix(self) -> str:
        """The prefix that is this artifact's alone, slash included: artifact 4 does not own 42's."""
        return f"{self.organization_id}/{self.project_id}/{self.id}/"

    def comparison_prefix(self, base_id: int) -> str:
        """The prefix of the comparison of this artifact, its head, against the base `base_id`. It is both artifacts' own."""
        return f"{self.prefix}{base_id}/"

    @property
    def archive_key(self) -> str:
        """The download archive of the artifact's images."""
        return f"snapshot_archives/{self.id}.zip"

    @property
    def trace_id(self) -> str:
        """The trace id of the artifact's trace items: 32 hex digits."""
        return uuid.uuid5(_TRACE_NAMESPACE, str(self.id)).hex


@dataclass(frozen=True)
class Scopes:
    """Where keys lie physically: one prefix for each usecase of an organization's project."""

    template: str
    usecases: tuple[str, ...]

    def of(self, organization_id: int, project_id: int) -> list[str]:
        """The physical prefixes of a project, one a usecase, in the order in which they are tried."""
        return list(_scopes(self.template, self.usecases, organization_id, project_id))


@lru_cache
def _scopes(template: str, usecases: tuple[str, ...], organization_id: int, project_id: int) -> tuple[str, ...]:
    return tuple(
        template.format(usecase=usecase, organization_id=organization_id, project_id=project_id) for usecase in usecases
    )


def well_formed(key: str) -> bool:
    """True if every store will take the key as the same path: no empty, `.` or `..` segment, backslash or control character."""
    return (
        0 < len(key) <= MAX_KEY_BYTES
        and _UNPRINTABLE.search(key) is None
        and (key.isascii() or len(key.encode()) <= MAX_KEY_BYTES)
        and _ODD_SEGMENT.search(key) is None
    )


def lies_under(key: object, prefixes: Iterable[str]) -> bool:
    """True if `key` is a well-formed key below one of the prefixes. It comes from a manifest or column: it may be anything."""
    return isinstance(key, str) and well_formed(key) and key.startswith(tuple(prefixes))


def icon_key(artifact: ArtifactRef, app_icon_id: str | None) -> str | None:
    """The object key of an app icon id of the form `icn_…`; None for any other."""
    if app_icon_id is None or not _ICON.fullmatch(app_icon_id):
        return None
    key = f"{artifact.organization_id}/{artifact.project_id}/{app_icon_id}"
    return key if well_formed(key) else None


def icon_file_id(app_icon_id: str | None) -> int | None:
    """The id of the `sentry_file` that an app icon id names; None where it is no positive 64-bit number."""
    if app_icon_id is None or not _FILE_ID.fullmatch(app_icon_id) or int(app_icon_id) >= 2**63:
        return None
    return int(app_icon_id)


def column_key(extras: Any, name: str) -> object | None:
    """What a JSON column names under `name`; None where it names nothing, or is no object at all."""
    return (extras.get(name) or None) if isinstance(extras, dict) else None


class WhyStray(StrEnum):
    """Why a key that a manifest or column names is not the artifact's own."""

    NO_TEXT = "no text"
    MALFORMED = "no well-formed key"
    ORGANIZATION = "another organization's"
    PROJECT = "another project's"
    ARTIFACT = "another artifact's"
    COMPARISON = "another comparison's"
    SHARED = "shared by the project"
    ELSEWHERE = "under no artifact's prefix"


def why_stray(key: object, artifact: ArtifactRef) -> WhyStray:
    """Why `key`, named by a column or manifest of the artifact, is left alone."""
    if not isinstance(key, str):
        return WhyStray.NO_TEXT
    if not well_formed(key):
        return WhyStray.MALFORMED
    place = [int(part) if _FILE_ID.fullmatch(part) else None for part in key.split("/")[:3]]
    own = [artifact.organization_id, artifact.project_id, artifact.id]
    if len(place) < 2 or None in place[:2]:  # noqa: PLR2004  organization and project
        return WhyStray.ELSEWHERE
    reasons = (WhyStray.ORGANIZATION, WhyStray.PROJECT, WhyStray.ARTIFACT)
    for found, mine, reason in zip(place, own, reasons, strict=False):
        if found is None:
            return WhyStray.SHARED
        if found != mine:
            return reason
    return WhyStray.COMPARISON if len(place) == len(own) else WhyStray.SHARED


def stray_text(key: object) -> str:
    """A stray as it may be kept for a look."""
    return key if isinstance(key, str) else f"({type(key).__name__})"


@dataclass(frozen=True, slots=True)
class SortedKeys:
    """The keys that a manifest or column named, sorted into ours and not ours."""

    owned: set[str] = field(default_factory=set)
    strays: list[object] = field(default_factory=list)

    def sort(self, key: object, prefixes: Iterable[str]) -> None:
        """Put a named key where it belongs. A stray is neither read nor deleted."""
        if lies_under(key, prefixes):
            self.owned.add(str(key))
        else:
            self.strays.append(key)


class UnreadableManifest(ValueError):
    """The manifest is no JSON object with an object `images` in it, or has more values than a worker is ready to hold."""


def parse_manifest(content: bytes) -> dict[str, Any]:
    """The `images` of a snapshot or comparison manifest, by the names that users gave them.

    Raises UnreadableManifest for anything else than an object of objects: truncated, deeply nested, a list, another encoding.
    """
    # An empty list takes two bytes here and ninety in memory: a small manifest could fill a worker.
    if sum(map(content.count, (b"[", b"{", b","))) > MAX_MANIFEST_VALUES:
        raise UnreadableManifest
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        raise UnreadableManifest from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("images"), dict):
        raise UnreadableManifest
    images: dict[str, Any] = manifest["images"]
    return images


def diff_mask_keys(images: dict[str, Any]) -> Iterator[object]:
    """The diff-mask keys that a comparison manifest names, as they stand there: of any type, owned or not."""
    for image in images.values():
        if isinstance(image, dict) and image.get("diff_mask_key") is not None:
            yield image["diff_mask_key"]


def image_hashes(images: dict[str, Any]) -> set[str]:
    """The content hashes of a snapshot manifest: `content_hash`, or, in older ones, the name under which an image stands."""
    return {
        found
        for name, image in images.items()
        if isinstance(found := (image.get("content_hash", name) if isinstance(image, dict) else name), str)
    }
