"""Images that the snapshots of a project share: what a backend says of them, if it has any.

An image is known by the SHA-256 of its content, as 64 hex digits. A snapshot's manifest names its images, and never changes
once the snapshot's row is committed.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Select

if TYPE_CHECKING:
    from activities.backend.contract import ArtifactRef, Names

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


def is_image(name: str) -> bool:
    """True of a hash that can be an image's. A manifest may name anything."""
    return _HASH.fullmatch(name) is not None


class SharedImages(Protocol):
    """Which snapshots there are, what names their images, and where those lie."""

    @property
    def snapshots(self) -> Select[int, int, int, datetime, Any]:
        """(artifact id, project id, organization id, when it was added, what names its manifests) of each that has a row."""

    def manifests(self, artifact: "ArtifactRef", naming: Any) -> "Names":
        """The keys of its manifests, in the order in which they are tried, and what is no key of its own."""

    def read(self, content: bytes) -> set[str]:
        """The images that a manifest names, of any form. Raises UnreadableManifest."""

    def keys(self, organization_id: int, project_id: int, image: str) -> Sequence[str]:
        """Where the image may lie, relative to a scope of the project. Each ends with its hash."""
