"""Hidden images on a real store: unreadable at once, with their bytes kept, until they are restored or purged."""

from dataclasses import replace

import pytest

from activities.stores.images import ImageStore
from activities.stores.s3 import S3Objects
from activities.stores.s3_images import images_of
from artifact_deletion.errors import StaleAttempt, StoreUnavailable
from demo.servers import S3Server
from tests.fault_proxy import FaultProxy, operation, unheard
from tests.hidden_images import (
    QUARANTINE,
    VERSIONINGS,
    Images,
    at_work,
    bucket_of,
    got,
    hidden,
    in_pages_of,
    left,
    new_hash,
    new_place,
    newer,
    purge,
    put,
    through,
)

pytestmark = pytest.mark.ceph


@pytest.fixture(scope="module")
def buckets(object_store: S3Server) -> dict[str, S3Objects]:
    return {name: bucket_of(object_store, name) for name in VERSIONINGS}


@pytest.fixture(params=VERSIONINGS)
def images(request: pytest.FixtureRequest, buckets: dict[str, S3Objects]) -> Images:
    return images_of(buckets[request.param], "auto", QUARANTINE)


# Hidden, restored, purged -----------------------------------------------------------------------------------------------


def test_what_is_hidden_is_unreadable_and_its_neighbours_are_not(images: Images, place: str) -> None:
    neighbours = [f"{place}0", f"{place}/1", place[:-1]]
    for one in (place, *neighbours):
        put(images, one)
    hidden(images, place)
    assert got(images, place) is None
    assert None not in [got(images, one) for one in neighbours]


def test_what_is_restored_is_what_it_was(images: Images, place: str) -> None:
    """Bytes, ETag, metadata, tags: a front may look at each of them."""
    put(images, place)
    before = got(images, place)
    ours = hidden(images, place)
    for _ in range(2):
        assert images.restore(ours, at_work).readable == {place}
        assert got(images, place) == before
    assert newer(images, ours) == {place}


def test_nothing_is_left_after_the_purge(images: Images, place: str) -> None:
    """No version, no marker, no copy, and only of this image."""
    put(images, place)
    put(images, f"{place}0")
    before = left(images, f"{place}0")
    purge(images, hidden(images, place))
    assert left(images, place) == left(images, f"{place}0") == before
    assert got(images, f"{place}0") is not None


def test_what_is_put_after_hiding_is_newer_and_stays(images: Images, place: str) -> None:
    """A client that was told 404 puts it again, perhaps between the last look and the purge."""
    put(images, place)
    ours = hidden(images, place)
    seen = list(images.look(ours).values())
    put(images, place)
    again = got(images, place)
    assert newer(images, ours) == {place}
    for looked in (seen, list(images.look(ours).values())):
        assert images.purge(looked).remaining == {}
        assert got(images, place) == again


@pytest.mark.parametrize("meanwhile", ["put again", "nothing"])
def test_another_round_hides_restores_and_purges_too(images: Images, place: str, meanwhile: str) -> None:
    put(images, place)
    ours = hidden(images, place, round_=1)
    if meanwhile == "put again":
        put(images, place)
    came = images.hide([place], 2, at_work)
    both = {place: [*ours[place], *came.ours.values()]}
    assert got(images, place) is None
    assert images.restore(both, at_work).readable == {place}
    assert got(images, place) is not None
    last = images.hide([place], 3, at_work)
    purge(images, {place: [*both[place], *last.ours.values()]})
    assert left(images, place) == []


@pytest.mark.parametrize("end", ["purge", "restore"])
def test_a_hiding_that_was_not_answered_is_hidden_again_in_the_same_round(
    images: Images, place: str, faults: FaultProxy, object_store: S3Server, end: str
) -> None:
    """The store has done its work, and a second attempt meets it: it must know of what the first one left."""
    put(images, place)
    before = got(images, place)
    lost = faults.begin(unheard, only=operation("DeleteObjects"))
    with pytest.raises(StoreUnavailable):
        through(images, faults, object_store).hide([place], 7, at_work)
    assert len(lost.struck) == 1
    assert got(images, place) is None
    ours = hidden(images, place)
    if end == "restore":
        assert images.restore(ours, at_work).readable == {place}
        assert got(images, place) == before
    else:
        purge(images, ours)
        assert left(images, place) == []


@pytest.mark.parametrize("end", ["purge", "clear"])
def test_an_image_that_was_never_there_leaves_nothing(images: Images, place: str, end: str) -> None:
    """The same hash is looked for in each usecase. In a bucket with versions, an absent one gets a marker."""
    came = images.hide([place], 7, at_work)
    assert {*came.ours, *came.absent} == {place}
    assert (bool(came.absent), came.refused) == (images.how == "copies", {})
    places = {place: list(came.ours.values())}
    restored = images.restore(places, at_work)
    assert (restored.readable, restored.empty, restored.refused) == (set(), {place}, {})
    if end == "purge":
        purge(images, places)
    else:
        assert images.clear(places).remaining == {}
    assert left(images, place) == []


def test_a_restored_image_is_cleared_of_what_was_ours(images: Images, place: str) -> None:
    """Copies hold what users may delete later. Markers beneath the bytes hide nothing, and may stay."""
    put(images, place)
    ours = hidden(images, place)
    images.restore(ours, at_work)
    kept, before = got(images, place), left(images, place)
    assert images.clear(ours).remaining == {}
    assert got(images, place) == kept
    assert left(images, place) == [one for one in before if not one[0].startswith(QUARANTINE)]


# Whether the round is at work -------------------------------------------------------------------------------------------

ERRORS = [StaleAttempt("over"), StoreUnavailable("no database"), ValueError("a fault"), AttributeError("a fault")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_round_that_is_over_sends_nothing(images: Images, error: Exception) -> None:
    """It is asked when the request is signed, and what it raises arrives as it is."""
    place = new_place()
    put(images, place)
    before, lying = got(images, place), left(images, place)

    def over() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        images.hide([place], 7, over)
    assert raised.value is error
    assert (got(images, place), left(images, place)) == (before, lying)
    assert got(images, place) is not None


def test_the_question_comes_after_the_signature(images: Images, place: str) -> None:
    """The store refuses the signature soon: a worker that is stopped after the answer can do no harm for long."""
    put(images, place)
    order: list[str] = []
    events = images.objects.client.meta.events

    def signed(**_: object) -> None:
        order.append("signed")

    events.register("before-sign.s3", signed)
    images.hide([place], 7, lambda: order.append("asked"))
    events.unregister("before-sign.s3", signed)
    assert order[:2] == ["signed", "asked"]
    assert order.count("asked") == {"markers": 1, "copies": 2}[images.how]


# Holds ------------------------------------------------------------------------------------------------------------------


def test_a_hold_is_asked_about_before_each_request_that_hides_or_purges(images: Images, place: str) -> None:
    put(images, place)
    counted: list[int] = []
    guarded: Images = replace(images, before_deleting=counted.append)
    ours = hidden(guarded, place)
    assert counted == {"markers": [1], "copies": [1, 1]}[images.how]
    del counted[:]
    guarded.restore(ours, at_work)
    guarded.clear(ours)
    assert counted == [], "what is restored waits for no hold"
    ours = hidden(images, place)
    purge(guarded, ours)
    assert counted == {"markers": [1, 1], "copies": [1]}[images.how]


def test_a_held_request_is_not_made(images: Images, place: str) -> None:
    put(images, place)
    before = left(images, place)

    def held(_keys: int) -> None:
        raise StaleAttempt("held")

    guarded: Images = replace(images, before_deleting=held)
    with pytest.raises(StaleAttempt):
        guarded.hide([place], 7, at_work)
    assert left(images, place) == before
    seen = list(images.look(hidden(images, place)).values())
    before = left(images, place)
    with pytest.raises(StaleAttempt):
        guarded.purge(seen)
    assert left(images, place) == before


# Of the bucket ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_in_use_while_anything_lies_there_hidden_or_not(images: Images) -> None:
    """A usecase without images of a project needs no request for each of them."""
    folder, image = f"used-{new_hash()}/1/2/", new_hash()

    def directly_and_at_all() -> tuple[bool, bool]:
        return images.in_use(folder, directly=True), images.in_use(folder, directly=False)

    assert directly_and_at_all() == (False, False)
    for number in range(5):
        put(images, f"{folder}{number}/snapshot.json")
    with in_pages_of(images, 2):
        assert directly_and_at_all() == (False, True)
        put(images, f"{folder}{image}")
        assert directly_and_at_all() == (True, True)
        ours = hidden(images, f"{folder}{image}")
        assert directly_and_at_all() == (True, True)
        purge(images, ours)
        assert directly_and_at_all() == (False, True)


def test_the_bucket_itself_says_how_images_are_hidden(buckets: dict[str, S3Objects]) -> None:
    how = {name: images_of(objects, "auto", QUARANTINE).how for name, objects in buckets.items()}
    assert how == {"enabled": "markers", "suspended": "copies", "never": "copies"}
    assert {images_of(objects, "copies", QUARANTINE).how for objects in buckets.values()} == {"copies"}
    for name in ("suspended", "never"):
        with pytest.raises(StoreUnavailable, match="not Enabled"):
            images_of(buckets[name], "markers", QUARANTINE)


def test_both_are_image_stores(images: ImageStore) -> None:
    """By types, which mypy looks at; nothing is asked for without places."""
    assert images.hide([], 7, at_work).ours == {}
    assert (images.restore({}, at_work).readable, images.look({})) == (set(), {})
    assert (images.purge([]).remaining, images.clear({}).remaining) == ({}, {})


# What is hidden, whatever the ledger knows ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("shape", ["folder", "bare"])
def test_all_that_is_hidden_directly_under_a_prefix_is_found(images: Images, shape: str, size: int) -> None:
    """Whatever else lies there, and wherever the store's pages end."""
    scope = f"scope-{new_hash()}/"
    prefix = scope if shape == "bare" else f"{scope}1/2/"
    twice, newer_again, once, readable, nowhere = sorted(new_place(prefix) for _ in range(5))
    nested, beside = new_place(f"{prefix}3/"), new_place(f"{scope}1/22/")
    for one in (twice, newer_again, once, readable, nested, beside):
        put(images, one)
    ours = hidden(images, twice, newer_again, once, nested, beside)
    for one in (twice, newer_again):
        put(images, one)
    again = hidden(images, twice, round_=8)
    images.hide([nowhere], 7, at_work)
    found: dict[str, set[str]] = {}
    with in_pages_of(images, size, "ListObjectVersions" if images.how == "markers" else "ListObjectsV2"):
        for place, left_there in images.hidden_under(prefix):
            found.setdefault(place, set()).add(left_there)
    if images.how == "markers":
        assert found == {twice: set(again[twice]), once: set(ours[once])}
    else:  # a copy of one that was put again is in quarantine all the same
        assert found == {
            twice: {*ours[twice], *again[twice]},
            newer_again: set(ours[newer_again]),
            once: set(ours[once]),
        }


def test_what_is_found_hidden_is_restored_and_purged_as_what_is_known(images: Images) -> None:
    prefix = f"scope-{new_hash()}/1/2/"
    shown, shown_by_none = new_place(prefix), new_place(prefix)
    for one in (shown, shown_by_none):
        put(images, one)
    before = got(images, shown)
    hidden(images, shown, shown_by_none)
    found = {place: [ours] for place, ours in images.hidden_under(prefix)}
    assert images.restore({shown: found[shown]}, at_work).readable == {shown}
    purge(images, {shown_by_none: found[shown_by_none]})
    assert (got(images, shown), left(images, shown_by_none)) == (before, [])
