"""Requests that are carried out late, refused or held: an image that a snapshot shows is readable in the end all the same."""

import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from activities.images import index, owed
from activities.images.decisions import Decisions
from activities.images.rows import OnItsWay
from activities.ledger import holds
from activities.ledger.holds import On
from activities.stores import guards
from artifact_deletion.errors import Held, NotYet
from demo.world import screen
from tests.fault_proxy import Answer, Exchange, Fault, FaultProxy, Request, answering, operation, refusing_keys
from tests.image_steps import GRACE, LATE, MOMENT, ImageSteps, image_steps
from tests.stack import Stack, wait_for_waiters
from tests.uploader import Uploader, hash_of
from workflows.steps import Deletion

HOME, LOGIN = {"home": screen("home")}, {"login": screen("login")}
(IMAGE,) = HOME.values()
MINUTE = timedelta(minutes=1)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
by_markers_and_copies = pytest.mark.parametrize("versioning", ["enabled", "never"], indirect=True)


def carried_out_late(exchange: Exchange) -> Answer:
    """When the fault ends."""
    exchange.over.wait(60)
    return exchange.forward(exchange.request)


@pytest.mark.thorough
@on_sqlite
@pytest.mark.parametrize("until", ["restored", "hidden again", "put again"])
def test_a_request_that_is_carried_out_late_does_no_harm(
    stack: Stack, images: ImageSteps, uploader: Uploader, until: str
) -> None:
    """A marker or a delete of a step that was given up long ago, while another one has gone on with its work."""
    one, there = uploader.uploads(HOME), uploader.asks(HOME)
    deletion = images.delete(one)
    with FaultProxy(stack.server.endpoint) as proxy, ThreadPoolExecutor(1) as given_up, ExitStack() as ways:
        stuck = ways.enter_context(image_steps(stack, images.project, s3_endpoint=proxy.endpoint))
        late = proxy.begin(carried_out_late, only=lambda request: hides(request, uploader.key(IMAGE)))
        attempt = given_up.submit(stuck.hide, deletion)
        assert late.has_struck.wait(60)
        images.hide(deletion)
        uploader.puts(HOME, there)
        other = uploader.commits(HOME)
        images.settle()
        images.settle()
        assert uploader.reads(IMAGE), "it is still looked after"
        if until != "restored":
            images.hidden(other)
        if until == "put again":
            uploader.puts(HOME, uploader.asks(HOME))
        late.end()
        attempt.exception(60)
    if until == "restored":
        images.settle()
    else:
        uploader.puts(HOME, there)
        uploader.commits(HOME)
        images.settle()
    assert uploader.reads(IMAGE)
    images.pass_time(LATE)
    images.to_the_end()
    assert uploader.reads(IMAGE)
    assert uploader.left(IMAGE) == [uploader.key(IMAGE)]


@on_sqlite
@by_markers_and_copies
def test_a_look_that_came_before_the_last_request_ends_no_watch(
    stack: Stack, images: ImageSteps, uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is looked at a minute before the time is over, and decided when it is. In between it is hidden."""
    one, there = uploader.uploads(HOME), uploader.asks(HOME)
    deletion = images.delete(one)
    with FaultProxy(stack.server.endpoint) as proxy, ThreadPoolExecutor(1) as given_up, ExitStack() as ways:
        stuck = ways.enter_context(image_steps(stack, images.project, s3_endpoint=proxy.endpoint))
        late = proxy.begin(carried_out_late, only=lambda request: hides(request, uploader.key(IMAGE)))
        attempt = given_up.submit(stuck.hide, deletion)
        assert late.has_struck.wait(60)
        images.hide(deletion)
        uploader.puts(HOME, there)
        uploader.commits(HOME)
        images.settle()
        images.pass_time(LATE - MINUTE)
        watched = Decisions.watched

        def a_minute_later(self: Decisions, asked: Collection[str], looked_at: datetime) -> dict[str, OnItsWay]:
            late.end()
            attempt.exception(60)
            images.pass_time(MINUTE)
            return watched(self, asked, looked_at - MINUTE)

        with monkeypatch.context() as slow:
            slow.setattr(Decisions, "watched", a_minute_later)
            images.settle()
    images.to_the_end()
    assert uploader.reads(IMAGE)


def hides(request: Request, key: str) -> bool:
    """A marker or a delete of the key."""
    return request.operation in {"DeleteObjects", "DeleteObject"} and key in request.keys


@pytest.mark.thorough
@on_sqlite
@by_markers_and_copies
def test_a_step_whose_round_is_over_sends_nothing_more(images: ImageSteps, uploader: Uploader) -> None:
    """It was about to: the image is restored, and no marker or delete of it comes any more."""
    one, there = uploader.uploads(HOME), uploader.asks(HOME)
    deletion = images.delete(one)
    images.catch_up()
    work = images.at_work()
    with images.stack.database.read() as session:
        hiding = work.decisions.begin(owed.undecided(session, deletion.deletion_id, images.project.id))
    uploader.puts(HOME, there)
    uploader.commits(HOME)
    images.catch_up()
    with pytest.raises(NotYet, match="looked at again"):
        work.requests.hide(hiding)
    assert uploader.left(IMAGE) == [uploader.key(IMAGE)]
    assert uploader.reads(IMAGE)


@pytest.mark.thorough
@on_sqlite
@by_markers_and_copies
def test_a_step_of_an_earlier_round_sends_nothing_in_a_later_one(images: ImageSteps, uploader: Uploader) -> None:
    one, there = uploader.uploads(HOME), uploader.asks(HOME)
    first = images.delete(one)
    images.catch_up()
    work = images.at_work()

    def begun(deletion: Deletion) -> dict[str, OnItsWay]:
        with images.stack.database.read() as session:
            return work.decisions.begin(owed.undecided(session, deletion.deletion_id, images.project.id))

    hiding = begun(first)
    uploader.puts(HOME, there)
    other = uploader.commits(HOME)
    images.catch_up()
    begun(images.delete(other))
    assert images.states() == {hash_of(IMAGE): "hiding"}
    with pytest.raises(NotYet, match="looked at again"):
        work.requests.hide(hiding)
    assert uploader.left(IMAGE) == [uploader.key(IMAGE)]


@on_sqlite
@by_markers_and_copies
def test_a_worker_whose_machine_slept_asks_again(
    images: ImageSteps, uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monotonic clock sleeps with the machine, and the clock of signatures does not."""
    one, there = uploader.uploads(HOME), uploader.asks(HOME)
    deletion = images.delete(one)
    images.catch_up()
    work = images.at_work()
    with images.stack.database.read() as session:
        hiding = work.decisions.begin(owed.undecided(session, deletion.deletion_id, images.project.id))
    still = work.requests._still(hiding, hiding[hash_of(IMAGE)].image)  # noqa: SLF001
    still()
    uploader.puts(HOME, there)
    uploader.commits(HOME)
    images.catch_up()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    with pytest.raises(NotYet):
        still()


@contextmanager
def one_of_two_refused(stack: Stack) -> Iterator[tuple[ImageSteps, Uploader, Deletion, Fault]]:
    """A deletion has hidden one of its images. The store refuses the other as long as the fault lasts."""
    with FaultProxy(stack.server.endpoint) as proxy, image_steps(stack, s3_endpoint=proxy.endpoint) as images:
        uploader = Uploader(stack, images.project)
        deletion = images.delete(uploader.uploads(HOME | LOGIN))
        refused = refusing_keys(
            "AccessDenied", lambda key: key == uploader.key(IMAGE), stack.server.access_key, stack.server.secret_key
        )
        fault = proxy.begin(refused, only=operation("DeleteObjects"))
        images.hide(deletion)
        yield images, uploader, deletion, fault


@pytest.mark.thorough
@on_sqlite
@by_markers_and_copies
def test_what_the_store_refuses_to_hide_is_left_over_and_tried_again(stack: Stack, versioning: str) -> None:
    """An hour later, by the project's own workflow. The page's counts are right all the while."""
    with one_of_two_refused(stack) as (images, uploader, deletion, fault):
        assert (uploader.reads(IMAGE), uploader.reads(LOGIN["login"])) == (True, False)
        total = images.total(deletion)
        assert (total.hidden, total.left_over) == (1, {"AccessDenied": 1})
        images.pass_time(GRACE)
        images.settle()
        total = images.total(deletion)
        assert (total.purged, total.left_over) == (1, {"AccessDenied": 1})
        fault.end()
        images.to_the_end()
    total = images.total(deletion)
    assert (total.purged, total.left_over) == (2, {})
    assert uploader.left(IMAGE) == []


@pytest.mark.thorough
@on_sqlite
def test_what_the_store_refuses_to_purge_stays_hidden_and_is_tried_again(stack: Stack, locking_bucket: str) -> None:
    """A legal hold keeps the bytes, and not a client from being told that they are gone."""
    stack.use_bucket(locking_bucket)
    with image_steps(stack) as images:
        uploader = Uploader(stack, images.project)
        one = uploader.uploads(HOME)
        held: Any = {"Bucket": stack.bucket, "Key": uploader.key(IMAGE)}
        (version,) = [found.id for found in stack.world.object_versions()[uploader.key(IMAGE)]]
        stack.s3.put_object_legal_hold(**held, VersionId=version, LegalHold={"Status": "ON"})
        deletion = images.hidden(one)
        for _ in range(2):
            images.pass_time(GRACE)
            images.settle()
            assert images.states() == {hash_of(IMAGE): "hidden"}
            assert not uploader.reads(IMAGE)
        stack.s3.put_object_legal_hold(**held, VersionId=version, LegalHold={"Status": "OFF"})
        images.pass_time(GRACE)
        images.to_the_end()
        assert uploader.left(IMAGE) == []
        assert images.total(deletion).purged == 1


@pytest.mark.thorough
@on_sqlite
@by_markers_and_copies
def test_a_hold_stops_what_hides_and_what_purges_and_nothing_that_restores(
    images: ImageSteps, uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "FRESH_S", 0.0)
    database = images.stack.database
    both = HOME | LOGIN
    one, there = uploader.uploads(both), uploader.asks(both)
    deletion = images.delete(one)

    def freeze() -> int:
        return holds.place(database, On.ORGANIZATION, str(images.project.organization_id), reason="a test", by="user:7").id

    def thaw(placed: int) -> None:
        with database.write() as session:
            holds.lift(session, [placed], by="user:7")

    placed = freeze()
    with pytest.raises(Held):
        images.hide(deletion)
    images.begins(deletion)
    images.pass_time(MOMENT)
    assert "held since" in images.settle()
    assert uploader.reads(IMAGE)
    thaw(placed)
    images.hide(deletion)
    placed = freeze()
    images.pass_time(GRACE)
    assert "held since" in images.settle()
    assert len(uploader.left(IMAGE)) == 1
    uploader.puts(HOME, there)
    uploader.commits(HOME)
    images.settle()
    assert uploader.reads(IMAGE)
    thaw(placed)
    images.to_the_end()
    assert (uploader.reads(IMAGE), uploader.left(LOGIN["login"])) == (True, [])
    total = images.total(deletion)
    assert (total.restored, total.purged) == (1, 1)


@on_sqlite
@by_markers_and_copies
def test_a_hold_on_a_deletion_keeps_its_images_readable(
    images: ImageSteps, uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are gone. The project's workflow finds nothing of it that was left behind."""
    monkeypatch.setattr(guards, "FRESH_S", 0.0)
    deletion = images.delete(uploader.uploads(HOME))
    placed = hold(images, deletion)
    with pytest.raises(Held):
        images.hide(deletion)
    assert images.states() == {}
    for passed in (MOMENT, GRACE):
        images.pass_time(passed)
        assert images.settle() != "", "it is owed"
    assert uploader.reads(IMAGE)
    lift(images, placed)
    images.hide(deletion)
    images.pass_time(GRACE)
    images.to_the_end()
    assert uploader.left(IMAGE) == []
    assert images.total(deletion).purged == 1


def hold(images: ImageSteps, deletion: Deletion) -> int:
    return holds.place(images.stack.database, On.DELETION, deletion.deletion_id, reason="a test", by="user:7").id


def lift(images: ImageSteps, placed: int) -> None:
    with images.stack.database.write() as session:
        holds.lift(session, [placed], by="user:7")


@pytest.mark.thorough
@by_markers_and_copies
def test_a_hold_on_a_deletion_that_has_begun_to_hide_stops_no_other(images: ImageSteps, uploader: Uploader) -> None:
    """It comes after the decision and before the requests. The other is over a ceiling, which keeps rows alone."""
    one, other = (images.delete(uploader.uploads(shown)) for shown in (HOME, LOGIN))
    images.begins(one)
    images.begins(other)
    placed = hold(images, one)
    with images.stack.database.write() as session:
        holds.place_ceiling(session, other.deletion_id, other.fence, "too large")
    images.pass_time(MOMENT)
    images.settle()
    assert (uploader.reads(IMAGE), uploader.reads(LOGIN["login"])) == (True, False)
    images.pass_time(GRACE)
    images.settle()
    assert uploader.reads(IMAGE)
    lift(images, placed)
    images.settle()
    assert not uploader.reads(IMAGE)


@pytest.mark.thorough
@on_sqlite
@by_markers_and_copies
def test_what_the_store_refuses_to_hide_is_not_tried_again_under_a_hold_on_its_deletion(stack: Stack, versioning: str) -> None:
    """What the deletion has hidden is purged when it is due all the same."""
    with one_of_two_refused(stack) as (images, uploader, deletion, fault):
        fault.end()
        placed = hold(images, deletion)
        images.pass_time(GRACE)
        images.settle()
        assert (uploader.reads(IMAGE), uploader.left(LOGIN["login"])) == (True, [])
        lift(images, placed)
        images.to_the_end()
    assert uploader.left(IMAGE) == []
    assert images.total(deletion).purged == 2


@on_sqlite
@by_markers_and_copies
def test_a_later_run_is_watched_before_it_hides(stack: Stack, images: ImageSteps, uploader: Uploader) -> None:
    """The first look may come before any image is on its way. The project's workflow must not end by it."""
    with image_steps(stack, images.project, images="keep") as keeping:
        deletion = keeping.hidden(uploader.uploads(HOME))
        assert keeping.total(deletion).left_over == {"ImagesStay": 1}
    assert images.settle() == ""
    (waits,) = images.watch(deletion)
    assert waits != ""
    images.hide(deletion)
    assert images.total(deletion).hidden == 1


@on_sqlite
@by_markers_and_copies
def test_a_step_that_is_run_again_hides_nothing_that_it_has_left_over(
    stack: Stack, images: ImageSteps, uploader: Uploader
) -> None:
    """By then the project's workflow may have ended, and no one would watch over it."""
    with image_steps(stack, images.project, images="keep") as keeping:
        deletion = keeping.hidden(uploader.uploads(HOME))
    assert images.settle() == ""
    assert images.hide(deletion).left_over == 1
    assert uploader.reads(IMAGE)


@pytest.mark.thorough
@on_sqlite
@by_markers_and_copies
def test_a_worker_that_keeps_images_sees_to_those_that_are_hidden(stack: Stack, images: ImageSteps, uploader: Uploader) -> None:
    images.hidden(uploader.uploads(HOME))
    with image_steps(stack, images.project, images="keep") as keeping:
        deletion = keeping.hidden(uploader.uploads(LOGIN))
        assert keeping.total(deletion).left_over == {"ImagesStay": 1}
        assert (uploader.reads(IMAGE), uploader.reads(LOGIN["login"])) == (False, True)
        keeping.pass_time(GRACE)
        keeping.to_the_end()
    assert uploader.left(IMAGE) == []


@pytest.mark.thorough
@on_sqlite
@by_markers_and_copies
def test_a_store_that_fails_in_the_middle_is_asked_again(stack: Stack, versioning: str) -> None:
    """Nothing of an attempt that failed is believed."""
    with FaultProxy(stack.server.endpoint) as proxy, image_steps(stack, s3_endpoint=proxy.endpoint) as images:
        uploader = Uploader(stack, images.project)
        deletion = images.delete(uploader.uploads(HOME))
        for step in (lambda: images.hide(deletion), images.settle):
            fault = proxy.begin(answering(503, "SlowDown"), only=operation("DeleteObjects"))
            with pytest.raises(Exception, match="SlowDown"):
                step()
            assert len(uploader.left(IMAGE)) >= 1
            fault.end()
            step()
            images.pass_time(GRACE + timedelta(minutes=2))
        images.to_the_end()
        assert uploader.left(IMAGE) == []
        assert images.total(deletion).purged == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@by_markers_and_copies
def test_nothing_is_decided_while_a_snapshot_is_written_down(images: ImageSteps, uploader: Uploader) -> None:
    """SQLite has one writer at a time."""
    one, _ = uploader.uploads(HOME), uploader.uploads(HOME)
    deletion = images.delete(one)
    images.catch_up()
    with ThreadPoolExecutor(1) as deciding:
        with images.stack.database.write() as session:
            index.lock_project(session, images.project.id)
            hidden = deciding.submit(images.hide, deletion)
            wait_for_waiters(images.stack.database)
        assert hidden.result(60).kept == 1
