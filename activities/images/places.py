"""Where the images of a project may lie: one place for each key shape in each usecase that holds anything of the project."""

from collections.abc import Sequence
from dataclasses import dataclass

from activities.backend.contract import ArtifactRef, Backend
from activities.images.rows import OnItsWay
from activities.stores.images import ImageStore


@dataclass(frozen=True)
class ImageProject:
    """A project, and where its images may lie."""

    organization_id: int
    project_id: int
    prefixes: Sequence[str]
    """Each is the beginning of a place, which ends with the hash."""

    def of(self, image: str) -> list[str]:
        """The image's places. Where it is uploaded later, the last look before a purge finds it."""
        return [prefix + image for prefix in self.prefixes]

    def with_ours(self, image: str, row: OnItsWay, store: ImageStore) -> dict[str, list[str]]:
        """Each of its places, now and when it was hidden, with all that may be ours there."""
        names = dict.fromkeys([*row.places, *self.of(image)])
        return {place: _ours(row, place, store) for place in names}


def _ours(row: OnItsWay, place: str, store: ImageStore) -> list[str]:
    written = row.places.get(place, [])
    left = store.left_by(place, row.image.round)
    return written if left is None or left in written else [*written, left]


def project_of(backend: Backend, store: ImageStore, organization_id: int, project_id: int) -> ImageProject:
    """Asks the store which usecases hold anything: most of a project's images lie in one. Raises StoreUnavailable."""
    shared = backend.shared_images
    shapes = shared.keys(organization_id, project_id, "") if shared is not None else ()
    scopes = backend.scopes(ArtifactRef(organization_id, project_id, 0))
    found = [scope + shape for scope in scopes for shape in shapes if store.in_use(scope + shape, directly=shape == "")]
    return ImageProject(organization_id, project_id, found)
