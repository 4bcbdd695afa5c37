"""Images hidden by copies on a real store: only what was copied is deleted, and all of it comes back."""

import pytest

from activities.stores.s3_copies import CopyImages
from activities.stores.s3_images import images_of
from artifact_deletion.errors import StaleAttempt, StoreUnavailable
from demo.servers import S3Server
from tests.fault_proxy import Answer, Exchange, FaultProxy, Kind, Request, answering, operation, unheard
from tests.hidden_images import (
    QUARANTINE,
    at_work,
    bucket_of,
    got,
    hidden,
    left,
    new_place,
    purge,
    put,
    set_versioning,
    through,
)

pytestmark = pytest.mark.ceph


@pytest.fixture(scope="module", params=["suspended", "never"])
def copies(request: pytest.FixtureRequest, object_store: S3Server) -> CopyImages:
    found = images_of(bucket_of(object_store, request.param), "auto", QUARANTINE)
    assert isinstance(found, CopyImages)
    return found


def test_a_round_that_ends_between_copy_and_delete_deletes_nothing(copies: CopyImages, place: str) -> None:
    put(copies, place)
    before = got(copies, place)
    turns = iter([None, StaleAttempt("over")])

    def over() -> None:
        if error := next(turns):
            raise error

    with pytest.raises(StaleAttempt):
        copies.hide([place], 7, over)
    assert got(copies, place) == before
    assert next(turns, "asked twice") == "asked twice"
    purge(copies, hidden(copies, place))
    assert left(copies, place) == []


def test_a_round_that_is_over_copies_nothing_back(copies: CopyImages, place: str) -> None:
    put(copies, place)
    ours = hidden(copies, place)

    def over() -> None:
        raise StaleAttempt("over")

    with pytest.raises(StaleAttempt):
        copies.restore(ours, over)
    assert got(copies, place) is None


def test_in_a_suspended_bucket_older_versions_go_too(object_store: S3Server) -> None:
    """A delete by key would leave a marker, and them below it."""
    images, place = images_of(bucket_of(object_store, "suspended"), "auto", QUARANTINE), new_place()
    for status in ("Enabled", "Suspended"):
        set_versioning(images.objects, status)
        put(images, place)
    assert len(left(images, place)) == 2
    ours = hidden(images, place)
    assert [key for key, _ in left(images, place)] == ours[place]
    purge(images, ours)
    assert left(images, place) == []


def test_the_newest_copy_that_is_there_comes_back(copies: CopyImages, place: str) -> None:
    put(copies, place, b"first")
    first = hidden(copies, place, round_=1)[place]
    put(copies, place, b"second")
    second = hidden(copies, place, round_=2)[place]
    put(copies, place, b"third")
    third = hidden(copies, place, round_=3)[place]
    assert copies.clear({place: third}).remaining == {}
    every = {place: [*first, *second, *third]}
    assert copies.restore(every, at_work).readable == {place}
    assert (got(copies, place) or {})["Body"] == b"second"
    assert copies.clear(every).remaining == {}
    assert len(left(copies, place)) == 1


def test_a_store_without_copies_gets_them_by_hand(
    copies: CopyImages, place: str, faults: FaultProxy, object_store: S3Server
) -> None:
    """Ours and what the store says of them: headers, metadata, tags."""
    proxied = through(copies, faults, object_store)
    lacking = faults.begin(answering(501, "NotImplemented"), only=copying)
    put(copies, place)
    before = got(copies, place)
    ours = hidden(proxied, place)
    assert got(copies, ours[place][0]) == before
    assert got(copies, place) is None
    assert proxied.restore(ours, at_work).readable == {place}
    assert got(copies, place) == before
    assert len(lacking.struck) == 2
    assert proxied.hide([f"{place}0"], 7, at_work).absent == {f"{place}0"}


def test_a_round_that_is_over_puts_nothing_by_hand(copies: CopyImages, faults: FaultProxy, object_store: S3Server) -> None:
    place = new_place()
    faults.begin(answering(501, "NotImplemented"), only=copying)
    put(copies, place)
    before = left(copies, place)
    turns = iter([None, StaleAttempt("over")])

    def over() -> None:
        if error := next(turns):
            raise error

    with pytest.raises(StaleAttempt):
        through(copies, faults, object_store).hide([place], 7, over)
    assert left(copies, place) == before


def test_an_object_too_large_for_a_copy_by_hand_is_refused_and_stays(
    copies: CopyImages, place: str, faults: FaultProxy, object_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.stores.s3_copies.MAX_BY_HAND", 7)
    faults.begin(answering(501, "NotImplemented"), only=copying)
    put(copies, place)
    came = through(copies, faults, object_store).hide([place], 7, at_work)
    assert (came.ours, came.refused) == ({}, {place: "EntityTooLarge"})
    assert got(copies, place) is not None


def copying(request: Request) -> bool:
    return any(name.lower() == "x-amz-copy-source" for name, _ in request.headers)


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        (answering(403, "AccessDenied"), "AccessDenied"),
        (answering(200, body=b"<html>hello</html>"), None),
        (answering(200, body=b"<Error><Code>InternalError</Code></Error>"), None),
        (answering(200, body=b"<CopyObjectResult/>"), None),
        (answering(404, body=b"<html>no page</html>"), None),
        (answering(503, "SlowDown"), None),
        (answering(404, "NoSuchBucket"), None),
        (unheard, None),
    ],
    ids=["refused", "a page", "an error in a 200", "no object", "a page of a 404", "slow down", "no bucket", "unheard"],
)
def test_only_what_was_copied_is_deleted(
    copies: CopyImages, faults: FaultProxy, object_store: S3Server, fault: Kind, refusal: str | None
) -> None:
    """What the store does not answer for is as good as not copied."""
    place, other = new_place(), new_place()
    for one in (place, other):
        put(copies, one)
    faults.begin(fault, only=lambda request: copying(request) and request.keys[0].endswith(f"{place}.7"))
    proxied = through(copies, faults, object_store)
    if refusal is None:
        with pytest.raises(StoreUnavailable):
            proxied.hide([other, place], 7, at_work)
        assert got(copies, other) is not None
    else:
        came = proxied.hide([other, place], 7, at_work)
        assert (came.ours.keys(), came.refused) == ({other}, {place: refusal})
        assert got(copies, other) is None
    assert got(copies, place) is not None


def test_a_copy_back_that_is_refused_is_told(copies: CopyImages, faults: FaultProxy, object_store: S3Server) -> None:
    place = new_place()
    put(copies, place)
    ours = hidden(copies, place)
    faults.begin(answering(403, "AccessDenied"), only=copying)
    restored = through(copies, faults, object_store).restore(ours, at_work)
    assert (restored.readable, restored.empty, restored.refused) == (set(), set(), {place: "AccessDenied"})


@pytest.mark.parametrize("code", ["AccessDenied", "SlowDown"])
def test_an_object_whose_delete_is_refused_stays_beside_its_copy(
    copies: CopyImages, faults: FaultProxy, object_store: S3Server, code: str
) -> None:
    """The copy is told of, and goes with the row. Another attempt may have deleted the object meanwhile."""
    place = new_place()
    put(copies, place)
    refused = f"<DeleteResult><Error><Key>{place}</Key><Code>{code}</Code></Error></DeleteResult>"
    faults.begin(answering(200, body=refused.encode()), only=operation("DeleteObjects"), times=1)
    proxied = through(copies, faults, object_store)
    if code == "AccessDenied":
        came = proxied.hide([place], 7, at_work)
        assert (came.ours, came.refused) == ({place: f"{QUARANTINE}{place}.7"}, {place: code})
    else:
        with pytest.raises(StoreUnavailable, match=code):
            proxied.hide([place], 7, at_work)
    assert [key for key, _ in left(copies, place)] == [f"{QUARANTINE}{place}.7", place]
    assert got(copies, place) is not None


def test_a_copy_that_may_be_all_that_is_left_stays(copies: CopyImages, faults: FaultProxy, object_store: S3Server) -> None:
    """The store calls the delete refused, and has done it: the next attempt of the round finds the copy."""
    place = new_place()
    put(copies, place)
    before = got(copies, place)

    def done_and_refused(exchange: Exchange) -> Answer:
        done = exchange.forward(exchange.request)
        error = f"<Error><Key>{place}</Key><Code>AccessDenied</Code></Error>"
        return Answer(200, done.headers, f"<DeleteResult>{error}</DeleteResult>".encode())

    faults.begin(done_and_refused, only=operation("DeleteObjects"), times=1)
    assert through(copies, faults, object_store).hide([place], 7, at_work).refused == {place: "AccessDenied"}
    assert copies.restore(hidden(copies, place), at_work).readable == {place}
    assert got(copies, place) == before


@pytest.mark.thorough
def test_copies_in_a_bucket_with_versions_leave_none(object_store: S3Server) -> None:
    """An operator may ask for copies there too."""
    images, place = images_of(bucket_of(object_store, "enabled"), "copies", QUARANTINE), new_place()
    for _ in range(2):
        put(images, place)
    ours = hidden(images, place)
    assert [key for key, _ in left(images, place)] == ours[place]
    purge(images, ours)
    assert left(images, place) == []
