"""Do the promises about shared images hold? Looked at from rows and bytes, at rest, without taking the service's word.

A snapshot that has a row shows each of its images. An image that a deletion took, and that no snapshot names, is gone with all
its versions, markers and copies, unless a client put it and gave up. No other image was touched.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from artifact_deletion.request import DeletionRequest
from demo.world import Snapshot
from tests.hidden_images import QUARANTINE
from tests.oracle import Evidence
from tests.uploader import hash_of

_IMAGE = re.compile(r"(?:^|/)([0-9a-f]{64})(?:\.\d+)?$")
_PROJECT = re.compile(r"/org\.\d+/project\.(\d+)/objects/")
Image = tuple[int, str]
"""A project and a hash."""


@dataclass
class Images:
    """What was uploaded, by the clients' own record."""

    snapshots: list[Snapshot] = field(default_factory=list)
    given_up: set[Image] = field(default_factory=set)
    """Put by a client that never committed: they may stay for the store's expiry."""

    def of(self, snapshot: Snapshot) -> set[Image]:
        return {(snapshot.artifact.project_id, hash_of(content)) for content in snapshot.images.values()}


def image_of(key: str) -> Image | None:
    """Which image a key holds, or a copy of it in quarantine."""
    found, project = _IMAGE.search(key), _PROJECT.search(key)
    return (int(project[1]), found[1]) if found and project else None


def without_images(evidence: Evidence) -> Evidence:
    """All that the other oracle judges."""
    rows, built = evidence.built
    return replace(
        evidence,
        objects={key: one for key, one in evidence.objects.items() if image_of(key) is None},
        versions={key: found for key, found in evidence.versions.items() if image_of(key) is None},
        built=(rows, {key for key in built if image_of(key) is None}),
    )


def image_violations(images: Images, before: Evidence, after: Evidence, requests: Iterable[DeletionRequest]) -> Iterator[str]:
    """Each promise that does not hold, and where. Every deletion has ended, and no image is on its way."""
    asked = [one for one in requests if one.images == "delete"]
    deleted = {
        artifact
        for one in asked
        if (receipt := after.receipts().get(one.deletion_id)) and receipt.complete
        for artifact in receipt.artifacts.deleted.ids
    }
    living, gone = _parted(images.snapshots, set(after.artifacts))
    taken, left = _parted(gone, deleted)
    shown, going = _all(images, living), _all(images, taken) - _all(images, left) - _all(images, living)
    readable, there = _by_image(after.objects), _by_image({**after.objects, **after.versions})
    for project, hash_ in sorted(shown - readable.keys()):
        yield f"image lost or hidden: {hash_} of project {project}, which a snapshot shows"
    for image in sorted((going - images.given_up) & there.keys()):
        yield f"image left: {sorted(there[image])}, which no snapshot shows"
    threatened, _ = _parted(images.snapshots, {artifact for one in asked for artifact in one.artifact_ids})
    yield from _touched(before, after, _all(images, threatened))
    yield from _unsettled(after)


def _parted(snapshots: Iterable[Snapshot], artifacts: Collection[int]) -> tuple[list[Snapshot], list[Snapshot]]:
    """Those of these artifacts, and the others. What a deletion left for another snapshot stays if that goes without it."""
    every = list(snapshots)
    return [one for one in every if one.id in artifacts], [one for one in every if one.id not in artifacts]


def _all(images: Images, snapshots: Iterable[Snapshot]) -> set[Image]:
    return {image for one in snapshots for image in images.of(one)}


def _unsettled(after: Evidence) -> Iterator[str]:
    """At rest nothing of ours is left beside images, and every page adds up."""
    for key in after.objects:
        if key.startswith(QUARANTINE):
            yield f"copy left in quarantine: {key}"
    for row in after.ledger["artifact_deletion_image"]:
        yield f"image still on its way at rest: {row['hash']} is {row['state']}"
    for page in after.ledger["artifact_deletion_image_page"]:
        parts = page["absent"] + page["kept"] + page["purged"] + page["restored"]
        if (parts, page["count"]) != (page["named"], 0):
            yield f"image page that does not add up, or is not settled: {dict(page, hashes=None)}"


def _touched(before: Evidence, after: Evidence, asked_for: set[Image]) -> Iterator[str]:
    for key, was in before.objects.items():
        image = image_of(key)
        if image is not None and image not in asked_for and after.objects.get(key) != was:
            yield f"trespassed: image {key}, which no deletion was asked for"


def _by_image(keys: Mapping[str, object]) -> dict[Image, set[str]]:
    found: dict[Image, set[str]] = defaultdict(set)
    for key in keys:
        if (image := image_of(key)) is not None and not key.startswith(QUARANTINE):
            found[image].add(key)
    return found
