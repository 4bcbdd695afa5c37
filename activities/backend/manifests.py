"""What a manifest names: pure rules on bytes that may hold anything. Every name in it is a user's text."""

import json
from collections.abc import Iterator
from typing import Any

from activities.backend.contract import ManifestKeys, UnreadableManifest
from activities.backend.own_keys import lies_under

MAX_MANIFEST_VALUES = 2**21
"""Brackets and commas of a manifest, those in its texts too. Real ones have one for each 25 bytes or more."""
MASK = "diff_mask"


def snapshot_manifest(content: bytes) -> ManifestKeys:
    """A snapshot's: images alone, by content hash. Raises UnreadableManifest."""
    return ManifestKeys(images=image_hashes(parse_manifest(content)))


def comparison_manifest(content: bytes, under: str) -> ManifestKeys:
    """A comparison's: diff masks, which are its own if they lie under its prefix. Raises UnreadableManifest."""
    found = ManifestKeys(MASK)
    for key in diff_mask_keys(parse_manifest(content)):
        if lies_under(key, under):
            found.owned.add(str(key))
        else:
            found.strays.append(key)
    return found


def parse_manifest(content: bytes) -> dict[str, Any]:
    """The `images` of a snapshot or comparison manifest, by the names that users gave them.

    Raises UnreadableManifest for anything else than an object of objects: truncated, deeply nested, a list, another encoding.
    """
    images = _images(content)
    if not isinstance(images, dict):
        raise UnreadableManifest
    return images


def shown_images(content: bytes) -> set[str]:
    """The content hashes of a snapshot manifest, or those that `snapshot_head_images.json` lists. Raises UnreadableManifest."""
    images = _images(content)
    if isinstance(images, dict):
        return image_hashes(images)
    if not isinstance(images, list) or not all(_shows_an_image(image) for image in images):
        raise UnreadableManifest
    return {image["content_hash"] for image in images}


def _shows_an_image(image: Any) -> bool:
    return isinstance(image, dict) and isinstance(image.get("content_hash"), str)


def _images(content: bytes) -> Any:
    # An empty list takes two bytes here and ninety in memory: a small manifest could fill a worker.
    if sum(map(content.count, (b"[", b"{", b","))) > MAX_MANIFEST_VALUES:
        raise UnreadableManifest
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        raise UnreadableManifest from None
    return manifest.get("images") if isinstance(manifest, dict) else None


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
