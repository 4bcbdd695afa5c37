"""Commits that ask first: none shows a hidden image, and what no snapshot names goes without waiting for late ones."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pydantic import ValidationError
from sqlalchemy import text, update
from sqlalchemy.orm import Session
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig

from activities.images import owed, rows
from activities.images.decisions import new_round
from activities.images.index import lock_project
from activities.images.transitions import ON_THE_WAY, Image, ImageState
from activities.ledger.image_schema import ImageRow
from artifact_deletion import images as contract
from artifact_deletion import reserve_images
from artifact_deletion.errors import Misconfigured, StoreUnavailable
from demo.world import Snapshot, screen
from tests.image_steps import GRACE, LATE, MOMENT, ImageSteps, image_steps
from tests.stack import Stack, wait_for_waiters
from tests.uploader import Refused, Uploader, hash_of

HOME, LOGIN = screen("home"), screen("login")
SHOWN, BOTH = {"home": HOME}, {"home": HOME, "login": LOGIN}
HASH = hash_of(HOME)
REMEMBERED = GRACE - LATE
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def images(stack: Stack, image_buckets: dict[str, str]) -> Iterator[ImageSteps]:
    stack.use_bucket(image_buckets["enabled"])
    with image_steps(stack, images_reserved=True) as steps:
        yield steps


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def first(uploader: Uploader, shown: dict[str, bytes] = SHOWN) -> Snapshot:
    uploader.puts(shown)
    return uploader.reserves(shown)


def missing(uploader: Uploader, shown: dict[str, bytes], put_again: dict[str, int] | None = None) -> dict[str, int]:
    """What a commit is refused."""
    before = uploader.stack.world.rows()
    with pytest.raises(Refused) as refused:
        uploader.reserves(shown, put_again or {})
    assert uploader.stack.world.rows() == before
    return dict(refused.value.missing)


def begins_to_hide(images: ImageSteps, uploader: Uploader) -> None:
    """A step that dies before its first request."""
    deletion = images.delete(first(uploader))
    with images.stack.database.read() as session:
        pages = owed.undecided(session, deletion.deletion_id, images.project.id)
    images.at_work().decisions.begin(pages)


@pytest.mark.thorough
def test_a_client_that_skipped_what_is_hidden_is_refused_puts_it_and_commits(images: ImageSteps, uploader: Uploader) -> None:
    one = first(uploader)
    there = uploader.asks(SHOWN)
    deletion = images.hidden(one)
    uploader.puts(SHOWN, there)
    refused = missing(uploader, SHOWN)
    assert refused.keys() == {HASH}
    uploader.puts(SHOWN)
    uploader.reserves(SHOWN, refused)
    assert (uploader.reads(HOME), images.states()) == (True, {HASH: "restored"})
    images.to_the_end()
    assert (uploader.reads(HOME), images.states(), images.total(deletion).restored) == (True, {}, 1)


def test_what_was_put_in_another_round_does_not_count(images: ImageSteps, uploader: Uploader) -> None:
    images.hidden(first(uploader))
    refused = missing(uploader, SHOWN)
    assert missing(uploader, SHOWN, {HASH: refused[HASH] + 1}) == refused


@pytest.mark.thorough
def test_an_image_is_purged_once_no_late_request_can_hide_it(images: ImageSteps, uploader: Uploader) -> None:
    deletion = images.hidden(first(uploader))
    images.pass_time(LATE - MOMENT)
    images.settle()
    assert images.states() == {HASH: "hidden"}
    images.pass_time(MOMENT)
    assert "1 purged, remembered until 20" in images.settle()
    assert (uploader.left(HOME), images.states(), images.total(deletion).purged) == ([], {HASH: "purged"}, 1)


@pytest.mark.thorough
def test_a_client_that_skipped_before_the_hiding_is_refused_after_the_purge(images: ImageSteps, uploader: Uploader) -> None:
    one = first(uploader)
    there = uploader.asks(SHOWN)
    images.hidden(one)
    images.pass_time(LATE)
    images.settle()
    uploader.puts(SHOWN, there)
    refused = missing(uploader, SHOWN)
    uploader.puts(SHOWN)
    uploader.reserves(SHOWN, refused)
    assert uploader.reads(HOME)
    images.to_the_end()
    assert (uploader.reads(HOME), images.states()) == (True, {})


@pytest.mark.thorough
def test_what_was_purged_is_remembered_for_a_grace(images: ImageSteps, uploader: Uploader) -> None:
    images.hidden(first(uploader))
    images.pass_time(LATE)
    images.settle()
    images.pass_time(REMEMBERED - MOMENT)
    images.settle()
    assert missing(uploader, SHOWN).keys() == {HASH}
    images.pass_time(MOMENT)
    images.settle()
    assert images.states() == {}
    first(uploader)


@pytest.mark.thorough
def test_what_is_put_after_the_purge_and_never_committed_is_hidden_again(images: ImageSteps, uploader: Uploader) -> None:
    images.hidden(first(uploader))
    images.pass_time(LATE)
    images.settle()
    uploader.puts(SHOWN)
    images.pass_time(REMEMBERED)
    images.settle()
    assert images.states() == {HASH: "hiding"}
    images.pass_time(MOMENT)
    images.settle()
    assert not uploader.reads(HOME)
    images.to_the_end()
    assert uploader.left(HOME) == []


@pytest.mark.thorough
def test_a_deletion_of_what_was_purged_and_came_back_hides_it_again(images: ImageSteps, uploader: Uploader) -> None:
    images.hidden(first(uploader))
    images.pass_time(LATE)
    images.settle()
    refused = missing(uploader, SHOWN)
    uploader.puts(SHOWN)
    deletion = images.hidden(uploader.reserves(SHOWN, refused))
    assert (uploader.reads(HOME), images.total(deletion).hidden) == (False, 1)
    images.to_the_end()
    assert (uploader.left(HOME), images.total(deletion).purged) == ([], 1)


@pytest.mark.thorough
def test_what_is_put_while_the_image_is_being_hidden_does_not_count(images: ImageSteps, uploader: Uploader) -> None:
    """The marker may come after it: no answer to such a commit can be used for another one."""
    begins_to_hide(images, uploader)
    refused = missing(uploader, SHOWN)
    assert refused == {HASH: contract.BEING_HIDDEN}
    uploader.puts(SHOWN)
    assert missing(uploader, SHOWN, refused) == refused
    with images.stack.database.read() as session:
        (row,) = rows.read(session, images.project.id, [HASH]).values()
    assert missing(uploader, SHOWN, {HASH: row.image.round}) == refused
    images.pass_time(MOMENT)
    images.settle()
    assert not uploader.reads(HOME)
    refused = missing(uploader, SHOWN, refused)
    assert refused == {HASH: row.image.round}
    uploader.puts(SHOWN)
    uploader.reserves(SHOWN, refused)
    assert uploader.reads(HOME)


def test_what_the_store_refuses_to_hide_does_not_keep_uploads_out(images: ImageSteps, uploader: Uploader) -> None:
    """It may refuse for as long as a hold of its own lasts."""
    begins_to_hide(images, uploader)
    with images.stack.database.write() as session:
        session.execute(update(ImageRow).values(codes={"AccessDenied": 1}))
    refused = missing(uploader, SHOWN)
    uploader.puts(SHOWN)
    uploader.reserves(SHOWN, refused)
    assert (uploader.reads(HOME), images.states()) == (True, {HASH: "restored"})


@pytest.mark.thorough
def test_a_commit_in_the_middle_of_a_purge_keeps_what_its_client_put(images: ImageSteps, uploader: Uploader) -> None:
    images.hidden(first(uploader))
    refused = missing(uploader, SHOWN)
    images.pass_time(LATE)
    work = images.at_work()
    work.decisions.take_due()
    seen = work.requests.store.look({uploader.key(HOME): images.places()[HASH][uploader.key(HOME)]})
    uploader.puts(SHOWN)
    uploader.reserves(SHOWN, refused)
    work.requests.store.purge(list(seen.values()))
    assert uploader.reads(HOME)
    images.to_the_end()
    assert uploader.reads(HOME)


@pytest.mark.thorough
def test_images_of_another_project_are_untouched(images: ImageSteps, uploader: Uploader) -> None:
    world = images.stack.world
    elsewhere = replace(uploader, project=world.project(images.project.organization_id, "another"))
    first(elsewhere)
    images.hidden(first(uploader))
    elsewhere.reserves(SHOWN)
    assert missing(uploader, SHOWN)
    assert images.states() == {HASH: "hidden"}
    images.pass_time(LATE)
    images.settle()
    assert (elsewhere.reads(HOME), uploader.left(HOME)) == (True, [])


@pytest.mark.thorough
def test_two_clients_are_refused_put_the_same_images_and_commit(images: ImageSteps, uploader: Uploader) -> None:
    images.hidden(first(uploader, BOTH))
    refused = missing(uploader, BOTH)
    assert (len(refused), missing(uploader, BOTH)) == (2, refused)
    uploader.puts(BOTH)
    uploader.puts(BOTH)
    for _ in range(2):
        uploader.reserves(BOTH, refused)
    images.to_the_end()
    assert (uploader.reads(HOME), uploader.reads(LOGIN)) == (True, True)


@pytest.mark.thorough
@on_postgresql
def test_two_commits_at_once_lock_what_both_name_in_one_order(
    images: ImageSteps, uploader: Uploader, others: ThreadPoolExecutor
) -> None:
    images.hidden(first(uploader, BOTH))
    refused = missing(uploader, BOTH)
    uploader.puts(BOTH)
    second = []

    def begin_the_other() -> None:
        turned = dict(reversed(BOTH.items()))
        second.append(others.submit(uploader.reserves, turned, refused))
        wait_for_waiters(images.stack.database)
        with images.stack.database.read() as session:
            waiting = session.execute(text("SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock'")).scalar_one()
        assert "ORDER BY" in waiting, "or it may hold another row by now"

    uploader.reserves(BOTH, refused, then=begin_the_other)
    second[0].result()
    assert images.states() == {hash_of(HOME): "restored", hash_of(LOGIN): "restored"}


@pytest.mark.thorough
@on_postgresql
def test_a_deletion_decides_after_the_commits_that_are_at_work(
    images: ImageSteps, uploader: Uploader, others: ThreadPoolExecutor
) -> None:
    """The commit found nothing hidden: nothing may be hidden before it ends, and then its snapshot names the image."""
    deletion = images.delete(first(uploader))
    hiding = []

    def begin_to_hide() -> None:
        hiding.append(others.submit(images.hide, deletion))
        wait_for_waiters(images.stack.database)

    uploader.reserves(SHOWN, then=begin_to_hide)
    hiding[0].result()
    assert (uploader.reads(HOME), images.total(deletion).kept, images.states()) == (True, 1, {})


@on_postgresql
def test_a_commit_looks_after_the_decision_that_is_at_work(
    images: ImageSteps, uploader: Uploader, others: ThreadPoolExecutor
) -> None:
    project = images.project
    with images.stack.database.write() as session:
        lock_project(session, project.id)
        committing = others.submit(uploader.reserves, SHOWN)
        wait_for_waiters(images.stack.database)
        rows.begin(session, project.organization_id, project.id, [HASH], Image(ImageState.HIDING, new_round()))
    with pytest.raises(Refused):
        committing.result()


@on_postgresql
def test_a_transaction_that_sees_an_older_state_is_refused(images: ImageSteps) -> None:
    plain = images.stack.database.engine.execution_options(begin="BEGIN ISOLATION LEVEL REPEATABLE READ")
    with Session(plain) as session, session.begin(), pytest.raises(Misconfigured, match="READ COMMITTED"):
        reserve_images(session, project_id=1, artifact_id=1, images=[HASH])


@on_sqlite
@pytest.mark.parametrize("name", [HASH.upper(), HASH[1:], f"{HASH}\n", "1/2/manifest.json"])
def test_only_hashes_name_images(images: ImageSteps, name: str) -> None:
    with images.stack.database.write() as session:
        with pytest.raises(ValueError, match="SHA-256"):
            reserve_images(session, project_id=1, artifact_id=1, images=[HASH, name])
        assert session.execute(text("SELECT count(*) FROM artifact_deletion_snapshot")).scalar_one() == 0


@on_sqlite
def test_a_snapshot_of_many_images_is_registered_whole(images: ImageSteps) -> None:
    """More than one statement takes."""
    many = [f"{number:064x}" for number in range(2500)]
    project = images.project
    with images.stack.database.write() as session:
        rows.begin(session, project.organization_id, project.id, many, Image(ImageState.HIDDEN, 7))
    with images.stack.database.write() as session:
        refused = reserve_images(session, project_id=project.id, artifact_id=1, images=many)
        assert refused == dict.fromkeys(many, 7)
        assert reserve_images(session, project_id=project.id, artifact_id=1, images=many, put_again=refused) == {}
    assert set(images.states().values()) == {"restored"}


@on_sqlite
@pytest.mark.parametrize("kind", ["suspended", "never"])
def test_a_bucket_without_versions_is_refused(stack: Stack, image_buckets: dict[str, str], kind: str) -> None:
    """A late delete by key would hit what a client has put since."""
    stack.use_bucket(image_buckets[kind])
    with image_steps(stack, images_reserved=True) as images:
        uploader = Uploader(stack, images.project)
        deletion = images.delete(first(uploader))
        with pytest.raises(StoreUnavailable, match="not Enabled"):
            images.hide(deletion)
        assert uploader.reads(HOME)


@pytest.mark.thorough
@on_sqlite
def test_snapshots_that_were_committed_without_asking_are_counted_once(images: ImageSteps, uploader: Uploader) -> None:
    """What they name may have been purged before they came."""
    metrics = MetricBuffer(1000)
    images.steps.environment.metric_meter = Runtime(telemetry=TelemetryConfig(metrics=metrics)).metric_meter
    one, _ = first(uploader), first(uploader)
    uploader.uploads(BOTH)
    images.hidden(one)
    images.settle()
    counted = [found.value for found in metrics.retrieve_updates() if found.attributes.get("outcome") == "unregistered"]
    assert counted == [1]


@on_sqlite
def test_an_image_that_a_commit_skipped_without_asking_is_restored_all_the_same(images: ImageSteps, uploader: Uploader) -> None:
    one = first(uploader)
    images.hidden(one)
    uploader.commits(SHOWN)
    images.settle()
    assert (uploader.reads(HOME), images.states()) == (True, {HASH: "restored"})


@on_sqlite
async def test_settings_that_delete_by_key_are_refused(stack: Stack) -> None:
    with pytest.raises(ValidationError, match="IMAGES_RESERVED"):
        stack.settings(images="copies", images_reserved=True)


def test_the_contract_names_the_states_that_the_rules_have() -> None:
    assert set(contract.GONE_STATES) == set(ON_THE_WAY)
