"""More images than fit into one page, one batch or one request."""

from collections import Counter
from typing import Any

import pytest

from activities.images import rows
from activities.images.rows import Note
from activities.images.transitions import Image, ImageState
from tests.hidden_images import QUARANTINE
from tests.image_steps import GRACE, ImageSteps
from tests.uploader import Uploader

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.parametrize("versioning", ["enabled", "never"], indirect=True),
]
MANY = 2500


def test_thousands_of_images_are_hidden_restored_and_purged(images: ImageSteps, uploader: Uploader) -> None:
    """Some stay for another snapshot; a client skips some that are hidden by the time of its commit; none needs the rest."""
    every = {f"{number}.png": b"image %d of %d" % (number, images.project.organization_id) for number in range(MANY)}
    names = list(every)
    kept, skipped = ({name: every[name] for name in part} for part in (names[:20], names[20:1220]))
    world = images.stack.world
    one = world.snapshot(images.project, every)
    uploader.commits(kept)
    deletion = images.hidden(one)
    total = images.total(deletion)
    assert (total.named, total.kept, total.hidden) == (MANY, 20, MANY - 20)
    keys = {uploader.key(content) for content in every.values()}
    assert keys & world.objects().keys() == {uploader.key(content) for content in kept.values()}

    uploader.commits(skipped)
    images.settle()
    shown = {uploader.key(content) for content in (kept | skipped).values()}
    assert keys & world.objects().keys() == shown

    images.pass_time(GRACE)
    images.to_the_end()
    total = images.total(deletion)
    assert (total.kept, total.restored, total.purged) == (20, 1200, MANY - 1220)
    left = {key for key in world.object_versions() if f"/org.{images.project.organization_id}/" in key}
    assert keys & left == shown
    assert not [key for key in left if key.startswith(QUARANTINE)]


def test_notes_cost_no_more_each_where_there_are_more_of_them(images: ImageSteps) -> None:
    """In SQLite's own instructions: a plan may go through all that is to be written for each image of the project."""
    cost = Counter[int]()
    for count in (400, 1600):
        hashes, project = [f"{number:064x}" for number in range(count)], count
        with images.stack.database.write() as session:
            rows.begin(session, images.project.organization_id, project, hashes, Image(ImageState.HIDING, 1))
            connection: Any = session.connection().connection.driver_connection
            connection.set_progress_handler(lambda count=count: cost.update([count]), 1000)
            rows.note(session, project, [Note(one, ImageState.HIDDEN, {"a": ["b"]}, {}) for one in hashes])
            connection.set_progress_handler(None, 0)
    assert cost[400] > 10
    assert cost[1600] < 6 * cost[400]
