"""Steps about images that die, are late or come twice: what the ledger says next is true, and nothing is lost by it."""

import pytest

from activities.images import owed
from demo.world import screen
from tests.image_steps import GRACE, LATE, MOMENT, ImageSteps
from tests.uploader import Uploader, hash_of

HOME = {"home": screen("home")}
(IMAGE,) = HOME.values()


@pytest.mark.thorough
def test_a_step_that_died_after_the_store_s_answer_is_done_again(images: ImageSteps, uploader: Uploader) -> None:
    """By then nothing else may lie where the image was, as in a project whose every snapshot goes."""
    one, there = uploader.uploads(HOME), uploader.asks(HOME)
    deletion = images.delete(one)
    images.dies_before_it_is_written_down(deletion)
    assert not uploader.reads(IMAGE)
    images.hide(deletion)
    assert images.total(deletion).hidden == 1
    uploader.puts(HOME, there)
    uploader.commits(HOME)
    images.settle()
    assert uploader.reads(IMAGE)


@pytest.mark.thorough
def test_what_a_step_that_died_has_hidden_is_purged_without_it(images: ImageSteps, uploader: Uploader) -> None:
    deletion = images.delete(uploader.uploads(HOME))
    images.dies_before_it_is_written_down(deletion)
    images.hide(deletion)
    images.pass_time(GRACE)
    images.to_the_end()
    assert uploader.left(IMAGE) == []
    assert images.total(deletion).purged == 1


@pytest.mark.thorough
def test_what_a_step_that_died_has_hidden_is_restored(images: ImageSteps, uploader: Uploader) -> None:
    one, there = uploader.uploads(HOME), uploader.asks(HOME)
    images.dies_before_it_is_written_down(images.delete(one))
    uploader.puts(HOME, there)
    uploader.commits(HOME)
    images.settle()
    assert uploader.reads(IMAGE)


@pytest.mark.thorough
def test_what_a_step_that_died_has_hidden_is_known_in_the_round_that_follows(images: ImageSteps, uploader: Uploader) -> None:
    """A snapshot that names it came and went before anyone could restore it; another client skipped the upload too."""
    one, there = uploader.uploads(HOME), uploader.asks(HOME)
    first = images.delete(one)
    images.dies_before_it_is_written_down(first)
    uploader.puts(HOME, there)
    other = uploader.commits(HOME)
    images.catch_up()
    assert images.states() == {hash_of(IMAGE): "restored"}
    second = images.hidden(other)
    assert images.total(second).hidden == 1
    uploader.puts(HOME, there)
    uploader.commits(HOME)
    images.settle()
    assert uploader.reads(IMAGE)
    images.hide(first)
    images.pass_time(LATE)
    images.to_the_end()
    assert (uploader.reads(IMAGE), uploader.left(IMAGE)) == (True, [uploader.key(IMAGE)])


@pytest.mark.thorough
def test_what_was_hidden_in_two_rounds_is_purged_of_both(images: ImageSteps, uploader: Uploader) -> None:
    one, there = uploader.uploads(HOME), uploader.asks(HOME)
    first = images.delete(one)
    images.dies_before_it_is_written_down(first)
    uploader.puts(HOME, there)
    other = uploader.commits(HOME)
    images.catch_up()
    images.hidden(other)
    images.hide(first)
    images.pass_time(GRACE)
    images.to_the_end()
    assert uploader.left(IMAGE) == []


@pytest.mark.thorough
def test_an_image_that_a_step_left_behind_is_hidden_by_the_project_s_own(images: ImageSteps, uploader: Uploader) -> None:
    deletion = images.delete(uploader.uploads(HOME))
    with images.stack.database.read() as session:
        pages = owed.undecided(session, deletion.deletion_id, images.project.id)
    images.at_work().decisions.begin(pages)
    images.settle()
    assert uploader.reads(IMAGE)
    images.pass_time(MOMENT)
    images.settle()
    assert not uploader.reads(IMAGE)


def test_a_page_whose_images_are_all_kept_is_decided_after_a_crash(images: ImageSteps, uploader: Uploader) -> None:
    """Or the project would be watched for ever."""
    one, _ = uploader.uploads(HOME), uploader.uploads(HOME)
    deletion = images.delete(one)
    images.dies_before_it_is_written_down(deletion)
    images.hide(deletion)
    assert images.total(deletion).kept == 1
    assert images.settle() == ""
