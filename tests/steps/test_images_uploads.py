"""Clients that upload while images are hidden, restored and purged: what a committed snapshot shows is there."""

import pytest

from demo.world import screen
from tests.hidden_images import QUARANTINE
from tests.image_steps import GRACE, LATE, MOMENT, ImageSteps
from tests.uploader import Uploader, hash_of

HOME, LOGIN, CART = screen("home"), screen("login"), screen("cart")


@pytest.mark.thorough
def test_what_another_snapshot_shows_stays_and_what_none_shows_goes(images: ImageSteps, uploader: Uploader) -> None:
    one, _ = uploader.uploads({"home": HOME, "login": LOGIN}), uploader.uploads({"login": LOGIN})
    deletion = images.hidden(one)
    assert (uploader.reads(HOME), uploader.reads(LOGIN)) == (False, True)
    total = images.total(deletion)
    assert (total.named, total.kept, total.hidden) == (2, 1, 1)
    images.pass_time(GRACE)
    images.to_the_end()
    assert (uploader.left(HOME), uploader.reads(LOGIN)) == ([], True)
    assert images.total(deletion).purged == 1


@pytest.mark.ceph
def test_a_client_that_asked_before_and_commits_after_finds_its_image_again(images: ImageSteps, uploader: Uploader) -> None:
    """It skipped the upload, for it was told that the image exists."""
    shown = {"home": HOME}
    one, there = uploader.uploads(shown), uploader.asks(shown)
    deletion = images.hidden(one)
    uploader.puts(shown, there)
    uploader.commits(shown)
    assert not uploader.reads(HOME)
    images.settle()
    assert uploader.reads(HOME)
    images.pass_time(LATE)
    assert images.settle() != ""
    assert images.settle() == ""
    assert uploader.reads(HOME)
    assert images.total(deletion).restored == 1
    assert not [key for key in uploader.left(HOME) if key.startswith(QUARANTINE)]


def test_a_client_that_commits_at_the_very_end_of_the_grace_finds_it_again(images: ImageSteps, uploader: Uploader) -> None:
    shown = {"home": HOME}
    one, there = uploader.uploads(shown), uploader.asks(shown)
    images.hidden(one)
    images.pass_time(GRACE)
    uploader.puts(shown, there)
    uploader.commits(shown)
    images.settle()
    assert uploader.reads(HOME)
    images.to_the_end()
    assert uploader.reads(HOME)


def test_nothing_is_purged_as_long_as_a_client_may_commit_or_a_request_come_late(
    images: ImageSteps, uploader: Uploader
) -> None:
    """A client may commit until the grace is over, and a late request of its own come after that."""
    shown = {"home": HOME}
    one, there = uploader.uploads(shown), uploader.asks(shown)
    images.hidden(one)
    images.pass_time(GRACE - LATE / 2)
    images.settle()
    assert images.states() == {hash_of(HOME): "hidden"}
    uploader.puts(shown, there)
    uploader.commits(shown)
    images.settle()
    assert uploader.reads(HOME)


@pytest.mark.ceph
@pytest.mark.parametrize("commits", [True, False], ids=["committed", "never committed"])
def test_what_was_put_while_it_was_hidden_outlives_the_purge_if_it_is_shown(
    images: ImageSteps, uploader: Uploader, *, commits: bool
) -> None:
    """A client that is told that the image is not there puts it. What it never commits is hidden once more, for a grace."""
    shown = {"home": HOME}
    deletion = images.hidden(uploader.uploads(shown))
    uploader.puts(shown, uploader.asks(shown))
    assert uploader.reads(HOME)
    images.pass_time(GRACE)
    if commits:
        uploader.commits(shown)
        images.to_the_end()
        assert uploader.reads(HOME)
        assert images.total(deletion).restored == 1
        return
    images.settle()
    assert images.states() == {hash_of(HOME): "hiding"}
    images.pass_time(MOMENT)
    images.settle()
    assert (uploader.reads(HOME), images.states()) == (False, {hash_of(HOME): "hidden"})
    images.to_the_end()
    assert uploader.left(HOME) == []
    assert images.total(deletion).purged == 1


@pytest.mark.thorough
def test_a_client_that_saw_what_another_put_in_the_grace_finds_its_image_again(images: ImageSteps, uploader: Uploader) -> None:
    """The grace of the first round is over, its own is not: the look before the purge finds the image readable."""
    shown = {"home": HOME}
    images.hidden(uploader.uploads(shown))
    uploader.puts(shown)
    there = uploader.asks(shown)
    images.pass_time(GRACE)
    images.settle()
    images.pass_time(MOMENT)
    images.settle()
    assert not uploader.reads(HOME)
    uploader.puts(shown, there)
    uploader.commits(shown)
    images.to_the_end()
    assert uploader.reads(HOME)


@pytest.mark.thorough
@pytest.mark.ceph
def test_what_is_put_between_the_look_and_the_purge_stays(images: ImageSteps, uploader: Uploader) -> None:
    shown = {"home": HOME}
    images.hidden(uploader.uploads(shown))
    images.pass_time(GRACE)
    work = images.at_work()
    work.decisions.take_due()
    look = work.requests.store.look
    seen = look({uploader.key(HOME): next(iter(images.places().values())).get(uploader.key(HOME), [])})
    uploader.puts(shown, uploader.asks(shown))
    uploader.commits(shown)
    work.requests.store.purge(list(seen.values()))
    assert uploader.reads(HOME)
    images.to_the_end()
    assert uploader.reads(HOME)


@pytest.mark.thorough
@pytest.mark.ceph
def test_a_snapshot_that_was_uploaded_and_deleted_in_the_grace_of_another(images: ImageSteps, uploader: Uploader) -> None:
    """The second deletion says hidden of what is hidden: what was put for its snapshot is readable until it sees to that."""
    shown = {"home": HOME}
    first = images.hidden(uploader.uploads(shown))
    other = uploader.uploads(shown)
    assert uploader.reads(HOME)
    second = images.hidden(other)
    assert images.total(second).hidden == 1
    assert not uploader.reads(HOME)
    images.pass_time(GRACE)
    images.to_the_end()
    assert uploader.left(HOME) == []
    assert [images.total(one).purged for one in (first, second)] == [1, 1]


@pytest.mark.thorough
def test_a_restored_image_whose_snapshot_is_deleted_too(images: ImageSteps, uploader: Uploader) -> None:
    shown = {"home": HOME}
    one, there = uploader.uploads(shown), uploader.asks(shown)
    first = images.hidden(one)
    uploader.puts(shown, there)
    other = uploader.commits(shown)
    images.settle()
    assert uploader.reads(HOME)
    second = images.hidden(other)
    assert not uploader.reads(HOME)
    images.pass_time(GRACE)
    images.to_the_end()
    assert uploader.left(HOME) == []
    assert [images.total(one).purged for one in (first, second)] == [1, 1]


@pytest.mark.thorough
def test_a_lower_id_that_commits_after_a_higher_one_was_read(images: ImageSteps, uploader: Uploader) -> None:
    """Ids do not commit in order."""
    shown = {"home": HOME}
    one = uploader.uploads(shown)
    low = one.id + 1000
    there = uploader.asks(shown)
    images.stack.world.snapshot(images.project, {"login": LOGIN}, id=low + 1)
    images.hidden(one)
    uploader.puts(shown, there)
    images.stack.world.snapshot(images.project, shown, id=low, puts_images=False)
    images.settle()
    assert uploader.reads(HOME)
    images.to_the_end()
    assert uploader.reads(HOME)


@pytest.mark.thorough
@pytest.mark.parametrize(("usecase", "bare"), [("snapshots", False), ("preprod", True), ("snapshots", True)])
def test_an_image_is_hidden_wherever_it_may_lie(images: ImageSteps, uploader: Uploader, usecase: str, *, bare: bool) -> None:
    shown = {"home": HOME}
    elsewhere = Uploader(images.stack, images.project, usecase, bare)
    one = uploader.uploads(shown)
    elsewhere.puts(shown)
    images.hidden(one)
    assert [where.reads(HOME) for where in (uploader, elsewhere)] == [False, False]
    uploader.commits(shown)
    images.settle()
    assert [where.reads(HOME) for where in (uploader, elsewhere)] == [True, True]


@pytest.mark.thorough
@pytest.mark.ceph
@pytest.mark.parametrize("usecase", ["preprod", "snapshots"])
def test_no_other_object_is_touched(images: ImageSteps, uploader: Uploader, usecase: str) -> None:
    """Of the whole bucket: another project's image of the same content, and another image of the same project."""
    world = images.stack.world
    mine = Uploader(images.stack, images.project, usecase)
    other = Uploader(images.stack, world.project(images.project.organization_id, "other"), usecase)
    one = mine.uploads({"home": HOME, "login": LOGIN})
    mine.uploads({"login": LOGIN})
    other.uploads({"home": HOME})
    longer = mine.key(HOME) + "0"
    images.stack.s3.put_object(Bucket=images.stack.bucket, Key=longer, Body=b"a key that begins alike")
    before, own = world.object_versions(), world.objects_of([one.id]) | {mine.key(HOME)}
    images.hidden(one)
    hidden, others = world.object_versions(), {key: found for key, found in before.items() if key not in own}
    assert {key: found for key, found in hidden.items() if not mine.is_of(key, HOME)} == others
    images.pass_time(GRACE)
    images.to_the_end()
    assert world.object_versions() == others
