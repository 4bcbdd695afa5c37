"""Which object keys and prefixes belong to an artifact: pure rules, no I/O.

An object key is relative to a *scope*, the physical prefix of one usecase, organization and project. Key shapes are those of
Sentry's preprod code (`sentry/preprod/snapshots`, `sentry/preprod/api/models`); `o/p` stands for organization and project:

    o/p/{artifact}/…                    all of it is the artifact's: manifests, and the comparisons in which it is the head
    o/p/{head}/{artifact}/…             all of it belongs to the comparison in which the artifact is the base
    snapshot_archives/{artifact}.zip    the artifact's
    o/p/icn_…                           the app icon: the artifact's, unless another app info of the project names it too
    o/p/{content_hash}                  an image, shared by the project's snapshots: never an artifact's own
"""

import re
import uuid
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from activities.backend.contract import ArtifactRef
from activities.backend.own_keys import well_formed
from activities.backend.owners import FOREIGN, KeyKind, Owner

_TRACE_NAMESPACE = uuid.UUID("31eca038-ed76-4e6d-b13b-ed30a6555213")
_ICON = re.compile(r"icn_[A-Za-z0-9_-]+", re.ASCII)
_FILE_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_ARCHIVE = re.compile(r"snapshot_archives/([1-9][0-9]{0,18})\.zip", re.ASCII)
_ARTIFACT_AND_BASE = re.compile(r"([1-9][0-9]{0,18})/(?:([1-9][0-9]{0,18})/)?", re.ASCII)
_IDS_END = 2**63


def artifact_prefix(artifact: ArtifactRef) -> str:
    """The prefix that is this artifact's alone, slash included: artifact 4 does not own 42's."""
    return f"{artifact.organization_id}/{artifact.project_id}/{artifact.id}/"


def comparison_prefix(head: ArtifactRef, base_id: int) -> str:
    """The prefix of a comparison. It is both artifacts' own."""
    return f"{artifact_prefix(head)}{base_id}/"


def archive_key(artifact: ArtifactRef) -> str:
    """The download archive of the artifact's images."""
    return f"snapshot_archives/{artifact.id}.zip"


def response_key(head: ArtifactRef, base_id: int) -> str:
    """The stored answer to requests for a comparison."""
    return f"{comparison_prefix(head, base_id)}snapshot_comparison_response.json"


def trace_id(artifact: ArtifactRef) -> str:
    """The trace id of the artifact's trace items: 32 hex digits."""
    return uuid.uuid5(_TRACE_NAMESPACE, str(artifact.id)).hex


@dataclass(frozen=True)
class Scopes:
    """Where keys lie physically: one prefix for each usecase of an organization's project."""

    template: str
    usecases: tuple[str, ...]

    def of(self, artifact: ArtifactRef) -> tuple[str, ...]:
        """The physical prefixes of the artifact's project, one a usecase, in the order in which they are tried."""
        return _scopes(self.template, self.usecases, artifact.organization_id, artifact.project_id)


@lru_cache
def _scopes(template: str, usecases: tuple[str, ...], organization_id: int, project_id: int) -> tuple[str, ...]:
    return tuple(
        template.format(usecase=usecase, organization_id=organization_id, project_id=project_id) for usecase in usecases
    )


def icon_key(artifact: ArtifactRef, app_icon_id: object) -> str | None:
    """The object key of an app icon id of the form `icn_…`; None for any other."""
    if not isinstance(app_icon_id, str) or not _ICON.fullmatch(app_icon_id):
        return None
    key = f"{artifact.organization_id}/{artifact.project_id}/{app_icon_id}"
    return key if well_formed(key) else None


def icon_file_id(app_icon_id: str | None) -> int | None:
    """The id of the `sentry_file` that an app icon id names; None where it is no positive 63-bit number."""
    if app_icon_id is None or not _FILE_ID.fullmatch(app_icon_id) or int(app_icon_id) >= _IDS_END:
        return None
    return int(app_icon_id)


def owner_of(key: str, organization_id: int, project_id: int) -> Owner:
    """Whose a key in a scope of the project is. Below an artifact's prefix all is its own, however odd: the store named it."""
    home = f"{organization_id}/{project_id}/"
    if not key.startswith(home):
        archive = _ARCHIVE.fullmatch(key)
        return FOREIGN if archive is None else _owner(archive[1], None)
    if (own := _ARTIFACT_AND_BASE.match(key, len(home))) is not None:
        return _owner(own[1], own[2])
    is_icon = icon_key(ArtifactRef(organization_id, project_id, 0), key[len(home) :]) == key
    return Owner(KeyKind.SHARED) if is_icon else FOREIGN


@lru_cache
def _owner(artifact: str, base: str | None) -> Owner:
    """A listing has an artifact's keys beside each other."""
    own, other = int(artifact), int(base or 0)
    if own >= _IDS_END:
        return FOREIGN
    return Owner(KeyKind.COMPARISON, own, other) if 0 < other < _IDS_END else Owner(KeyKind.OWN, own)


def column_key(extras: Any, name: str) -> object | None:
    """What a JSON column names under `name`; None where it names nothing, or is no object at all."""
    return (extras.get(name) or None) if isinstance(extras, dict) else None


def is_elsewhere(key: object, artifact: ArtifactRef, base_id: int | None = None) -> bool:
    """True if it names the artifact's own object under another organization or project: the artifact was moved."""
    own = [str(artifact.id)] if base_id is None else [str(artifact.id), str(base_id)]
    return isinstance(key, str) and well_formed(key) and key.split("/")[2 : 2 + len(own)] == own


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
