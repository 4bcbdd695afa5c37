"""A client that uploads snapshots as CI does: it asks for every image, puts those that are absent, and commits the snapshot.

What it is told in the first step it believes in the last, however long that takes: "it exists" leaves no trace anywhere.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy.orm import Session

from activities.stores.s3_wire import is_readable
from artifact_deletion import reserve_images
from demo.world import SNAPSHOTS, Place, Project, Snapshot
from tests.hidden_images import QUARANTINE
from tests.stack import Stack

NOTHING: Mapping[str, int] = MappingProxyType({})


class Refused(Exception):
    """A commit names images that are hidden or gone."""

    def __init__(self, missing: Mapping[str, int]) -> None:
        super().__init__(missing)
        self.missing = missing


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Uploader:
    """Of one project and usecase. Older clients put an image under its bare hash."""

    stack: Stack
    project: Project
    usecase: str = SNAPSHOTS
    bare: bool = False

    def key(self, content: bytes) -> str:
        """Where an image lies in the bucket."""
        folder = "" if self.bare else f"{self.project.organization_id}/{self.project.id}/"
        return self.stack.world.physical(
            self.usecase, self.project.organization_id, self.project.id, f"{folder}{hash_of(content)}"
        )

    def asks(self, images: Mapping[str, bytes]) -> set[str]:
        """Which of them are there."""
        return {name for name, content in images.items() if self.reads(content)}

    def reads(self, content: bytes) -> bool:
        return is_readable(self.stack.s3, self.stack.bucket, self.key(content))

    def puts(self, images: Mapping[str, bytes], skipped: Collection[str] = ()) -> None:
        for name, content in images.items():
            if name not in skipped:
                self.stack.s3.put_object(Bucket=self.stack.bucket, Key=self.key(content), Body=content)

    def commits(self, images: Mapping[str, bytes]) -> Snapshot:
        """Its manifest is there a moment after the row."""
        return self.stack.world.snapshot(self.project, images, usecase=self.usecase, puts_images=False)

    def reserves(
        self, images: Mapping[str, bytes], put_again: Mapping[str, int] = NOTHING, *, then: Callable[[], None] = lambda: None
    ) -> Snapshot:
        """Commits as a backend does that asks first. Raises Refused. `then` is called before the commit."""

        def reserve(session: Session, artifact: Place) -> None:
            hashes = [hash_of(content) for content in images.values()]
            missing = reserve_images(
                session, project_id=self.project.id, artifact_id=artifact.id, images=hashes, put_again=put_again
            )
            if missing:
                raise Refused(missing)
            then()

        return self.stack.world.snapshot(self.project, images, usecase=self.usecase, puts_images=False, before_commit=reserve)

    def uploads(self, images: Mapping[str, bytes]) -> Snapshot:
        """All of it."""
        self.puts(images, self.asks(images))
        return self.commits(images)

    def is_of(self, key: str, content: bytes) -> bool:
        """Whether it is the image's key, or one of a copy in quarantine."""
        return self.key(content) in {key, key.removeprefix(QUARANTINE).rpartition(".")[0]}

    def left(self, content: bytes) -> list[str]:
        """The keys of all versions, markers and copies of an image."""
        return [key for key in self.stack.world.object_versions() if self.is_of(key, content)]
