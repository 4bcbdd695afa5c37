"""How images are hidden in a bucket of S3: by what the bucket itself answers of its versions."""

from dataclasses import replace
from typing import Literal

from activities.stores.s3 import S3Objects
from activities.stores.s3_copies import CopyImages
from activities.stores.s3_markers import MarkerImages
from activities.stores.s3_wire import versioning_of
from artifact_deletion.errors import StoreUnavailable

Hiding = Literal["auto", "markers", "copies"]


def images_of(objects: S3Objects, hiding: Hiding, quarantine: str) -> MarkerImages | CopyImages:
    """The image store of a bucket. Raises StoreUnavailable, also for `markers` where a delete would leave none over the bytes.

    `objects` must be unguarded. For a hold, give a copy of the store another `before_deleting`, by dataclasses.replace.
    """
    if hiding == "copies":
        return CopyImages(objects, quarantine)
    status = versioning_of(objects.client, objects.bucket)
    if status == "Enabled":
        return MarkerImages(replace(objects, versioned=True))
    if hiding == "markers":
        raise StoreUnavailable("the bucket's versioning is not Enabled: images cannot be hidden by delete markers")
    return CopyImages(replace(objects, versioned=status is not None), quarantine)
