"""A database restored to an earlier point has forgotten what was hidden since: what the store hides is adopted.

No image that a snapshot shows again stays hidden for ever, and none that no snapshot shows stays for ever.
"""

import pytest

from activities.images.adopt import Adopted
from artifact_deletion.errors import NotYet
from demo.world import screen
from tests.backups import RestorePoint
from tests.hidden_images import QUARANTINE
from tests.image_steps import GRACE, MOMENT, ImageSteps
from tests.uploader import Uploader, hash_of

HOME, LOGIN, CART = screen("home"), screen("login"), screen("cart")
NONE = Adopted(restored=0, hidden=0, known=0)
pytestmark = pytest.mark.parametrize("versioning", ["enabled", "never"], indirect=True)


@pytest.mark.thorough
def test_what_a_snapshot_that_came_back_shows_is_readable_again(
    images: ImageSteps, uploader: Uploader, restore_point: RestorePoint
) -> None:
    """The dump is of before its deletion."""
    one, _ = uploader.uploads({"home": HOME, "login": LOGIN}), uploader.uploads({"login": LOGIN})
    images.catch_up()
    restore = restore_point()
    images.hidden(one)
    restore()
    assert (images.settle(), uploader.reads(HOME)) == ("", False)
    assert images.adopt() == Adopted(restored=1, hidden=0, known=0)
    images.settle()
    assert uploader.reads(HOME)
    images.to_the_end()
    assert (uploader.reads(HOME), uploader.reads(LOGIN)) == (True, True)
    assert not [key for key in uploader.left(HOME) if key.startswith(QUARANTINE)]


@pytest.mark.thorough
def test_what_none_shows_is_purged_after_a_whole_grace(
    images: ImageSteps, uploader: Uploader, restore_point: RestorePoint
) -> None:
    """The dump is of before its snapshot was uploaded: a client that asked right before it was hidden may commit still."""
    uploader.uploads({"home": HOME})
    restore = restore_point()
    images.hidden(uploader.uploads({"home": HOME, "cart": CART}))
    restore()
    images.pass_time(GRACE)
    assert images.adopt() == Adopted(restored=0, hidden=1, known=0)
    images.pass_time(GRACE - MOMENT)
    images.settle()
    assert (images.states(), uploader.reads(CART)) == ({hash_of(CART): "hidden"}, False)
    assert uploader.left(CART) != []
    images.to_the_end()
    assert (uploader.left(CART), uploader.reads(HOME)) == ([], True)


def test_a_client_that_asked_before_the_restore_and_commits_after_it_finds_its_image(
    images: ImageSteps, uploader: Uploader, restore_point: RestorePoint
) -> None:
    restore = restore_point()
    images.hidden(uploader.uploads({"cart": CART}))
    restore()
    images.adopt()
    uploader.commits({"cart": CART})
    images.settle()
    assert uploader.reads(CART)
    images.to_the_end()
    assert uploader.reads(CART)


@pytest.mark.thorough
def test_what_is_to_be_deleted_again_stays_hidden_all_the_while(
    images: ImageSteps, uploader: Uploader, restore_point: RestorePoint
) -> None:
    """Its snapshot is back until then. That its manifest is gone keeps no other image of the project waiting."""
    one, young = uploader.uploads({"home": HOME}), uploader.uploads({"cart": CART})
    images.catch_up()
    restore = restore_point()
    images.hidden(one, young)
    restore()
    assert images.adopt(one) == Adopted(restored=1, hidden=1, known=0)
    assert images.states() == {hash_of(HOME): "hidden", hash_of(CART): "restored"}
    images.settle()
    assert (uploader.reads(HOME), uploader.reads(CART)) == (False, True)
    images.hidden(one)
    assert not uploader.reads(HOME)
    images.to_the_end()
    assert (uploader.left(HOME), uploader.reads(CART)) == ([], True)


@pytest.mark.thorough
def test_nothing_is_adopted_before_it_is_known_what_all_others_name(
    images: ImageSteps, uploader: Uploader, restore_point: RestorePoint
) -> None:
    """The manifest went with the deletion, and nothing had read it: a young snapshot's may still come."""
    one = uploader.uploads({"home": HOME})
    restore = restore_point()
    images.hidden(one)
    restore()
    with pytest.raises(NotYet, match="no manifest that could be read yet"):
        images.adopt()
    assert images.states() == {}
    assert images.adopt(one) == Adopted(restored=0, hidden=1, known=0)


@pytest.mark.thorough
def test_the_rows_of_a_dump_within_the_grace_stay_as_they_are(
    images: ImageSteps, uploader: Uploader, restore_point: RestorePoint
) -> None:
    images.hidden(uploader.uploads({"home": HOME}))
    images.pass_time(MOMENT)
    restore, before = restore_point(), images.rows()
    images.to_the_end()
    restore()
    assert images.adopt() == NONE, "it is purged"
    assert images.rows() == before
    images.to_the_end()
    assert uploader.left(HOME) == []


@pytest.mark.thorough
def test_what_is_known_stays_as_it_is(images: ImageSteps, uploader: Uploader) -> None:
    """Nothing was restored, and the project is at work."""
    images.hidden(uploader.uploads({"home": HOME}))
    images.pass_time(MOMENT)
    before = images.rows()
    assert images.adopt() == Adopted(restored=0, hidden=0, known=1)
    assert images.rows() == before
    images.to_the_end()
    assert uploader.left(HOME) == []


@pytest.mark.thorough
@pytest.mark.parametrize("commits", [True, False], ids=["committed", "never committed"])
def test_what_was_hidden_anew_after_a_dump_within_the_grace(
    images: ImageSteps, uploader: Uploader, restore_point: RestorePoint, *, commits: bool
) -> None:
    """The row knows the first round alone. What the second left is no one's otherwise, and its grace is another."""
    images.hidden(uploader.uploads({"home": HOME}))
    restore = restore_point()
    uploader.puts({"home": HOME})
    images.pass_time(GRACE)
    images.settle()
    images.pass_time(MOMENT)
    images.settle()
    assert (uploader.reads(HOME), images.states()) == (False, {hash_of(HOME): "hidden"})
    restore()
    images.pass_time(GRACE)
    assert images.adopt() == Adopted(restored=0, hidden=1, known=0)
    assert images.adopt() == Adopted(restored=0, hidden=0, known=1)
    images.pass_time(GRACE - MOMENT)
    images.settle()
    assert images.states() == {hash_of(HOME): "hidden"}
    if commits:
        uploader.commits({"home": HOME})
    images.to_the_end()
    assert (uploader.reads(HOME), uploader.left(HOME) == []) == (commits, not commits)


@pytest.mark.thorough
def test_a_dump_of_after_the_purge_has_nothing_to_adopt(
    images: ImageSteps, uploader: Uploader, restore_point: RestorePoint
) -> None:
    images.hidden(uploader.uploads({"home": HOME}))
    images.to_the_end()
    restore = restore_point()
    uploader.uploads({"login": LOGIN})
    restore()
    assert (images.adopt(), images.states()) == (NONE, {})
    assert uploader.reads(LOGIN)


@pytest.mark.thorough
def test_an_image_that_a_step_is_about_to_hide_goes_its_way(images: ImageSteps, uploader: Uploader) -> None:
    """The store has answered, and its answer is lost."""
    deletion = images.delete(uploader.uploads({"home": HOME}))
    images.dies_before_it_is_written_down(deletion)
    images.adopt()
    assert images.states() == {hash_of(HOME): "hiding"}
    images.hide(deletion)
    assert images.states() == {hash_of(HOME): "hidden"}
    images.to_the_end()
    assert uploader.left(HOME) == []


@pytest.mark.thorough
def test_twice_is_once_and_nothing_else_is_touched(images: ImageSteps, uploader: Uploader, restore_point: RestorePoint) -> None:
    """Of the whole bucket. Another project's image is another's, of the same content and hidden too."""
    world, s3, bucket = images.stack.world, images.stack.s3, images.stack.bucket
    bare = Uploader(images.stack, images.project, "preprod", bare=True)
    other = Uploader(images.stack, world.project(images.project.organization_id, "other"))
    restore = restore_point()
    other.puts({"home": HOME})
    s3.delete_object(Bucket=bucket, Key=other.key(HOME))
    other.puts({"login": LOGIN})
    for name in ("icn_app", f"{hash_of(HOME)}0", f"{hash_of(HOME)}/{hash_of(CART)}"):
        key = uploader.key(HOME).replace(hash_of(HOME), name)
        s3.put_object(Bucket=bucket, Key=key, Body=b"no image")
        s3.delete_object(Bucket=bucket, Key=key)
    one = uploader.uploads({"home": HOME, "cart": CART})
    bare.puts({"home": HOME})
    images.hidden(one)
    restore()
    before = world.object_versions()
    assert images.adopt() == Adopted(restored=0, hidden=2, known=0)
    adopted = images.rows()
    assert {(row["project_id"], row["hash"]) for row in adopted} == {
        (images.project.id, hash_of(HOME)),
        (images.project.id, hash_of(CART)),
    }
    places = images.places()
    assert places[hash_of(HOME)].keys() == {uploader.key(HOME), bare.key(HOME)}
    assert images.adopt() == Adopted(restored=0, hidden=0, known=2)
    assert (images.rows(), world.object_versions()) == (adopted, before)
    images.to_the_end()
    others = {
        key: found
        for key, found in before.items()
        if not any(at.is_of(key, one) for at in (uploader, bare) for one in (HOME, CART))
    }
    assert world.object_versions() == others
