"""Images hidden by delete markers on a real store: what came before ours is purged, and nothing else."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from activities.stores.s3 import S3Objects
from activities.stores.s3_images import images_of
from activities.stores.s3_markers import MarkerImages
from artifact_deletion.errors import StoreUnavailable
from demo.servers import S3Server
from tests.fault_proxy import FaultProxy, Request, answering, unheard
from tests.hidden_images import (
    QUARANTINE,
    at_work,
    bucket_of,
    delete,
    got,
    hidden,
    in_pages_of,
    left,
    new_hash,
    new_place,
    newer,
    purge,
    put,
    requests_of,
    through,
)

pytestmark = pytest.mark.ceph


@pytest.fixture(scope="module")
def markers(object_store: S3Server) -> MarkerImages:
    found = images_of(bucket_of(object_store, "enabled"), "markers", QUARANTINE)
    assert isinstance(found, MarkerImages)
    return found


def test_many_are_hidden_by_one_request_and_purged(markers: MarkerImages) -> None:
    places = [f"many/1/2/{new_hash()}" for _ in range(30)]
    for one in places:
        put(markers, one)
    with requests_of(markers) as requests:
        ours = hidden(markers, *places)
        assert requests == ["DeleteObjects"]
        purge(markers, ours)
    assert requests[1:] == 2 * ["ListObjectVersions"] + 2 * ["DeleteObjects"], "data and then markers, never together"
    assert [left(markers, one) for one in places] == 30 * [[]]


def test_versions_page_by_page(markers: MarkerImages) -> None:
    """A key may have more versions than a listing shows at once."""
    place = f"paged/1/2/{new_hash()}"
    for _ in range(3):
        put(markers, place)
    ours = hidden(markers, place)
    with in_pages_of(markers, 2):
        assert len(markers.look(ours)[place].data) == 3
        delete(markers, place)
        assert markers.restore(ours, at_work).readable == {place}
        ours = hidden(markers, place)
        delete(markers, place)
        put(markers, place)
        assert newer(markers, ours) == {place}
        purge(markers, hidden(markers, place))
    assert left(markers, place) == []


def test_a_marker_that_came_late_is_purged_and_restored_like_ours(markers: MarkerImages, place: str) -> None:
    """A request that was believed lost is carried out above our marker. It makes no data newer."""
    put(markers, place)
    put(markers, f"{place}0")
    ours = hidden(markers, place)
    delete(markers, place)
    assert newer(markers, ours) == set()
    assert markers.restore(ours, at_work).readable == {place}
    assert got(markers, place) is not None
    ours = hidden(markers, place)
    delete(markers, place)
    purge(markers, ours)
    assert [key for key, _ in left(markers, place)] == [f"{place}0"], "a longer key is another's"


def test_a_marker_over_data_is_never_cleared(markers: MarkerImages, place: str) -> None:
    """It may be of another round, and then the image would be readable again."""
    put(markers, place)
    ours = hidden(markers, place)
    before = left(markers, place)
    assert markers.clear(ours).deleted == []
    assert left(markers, place) == before


def test_what_lies_above_our_marker_is_newer_even_under_another_marker(markers: MarkerImages, place: str) -> None:
    """It was readable after us: who read it then may commit until its own grace is over."""
    put(markers, place)
    ours = hidden(markers, place)
    put(markers, place)
    later = hidden(markers, place)
    assert newer(markers, ours) == {place}
    assert newer(markers, {place: [*ours[place], *later[place]]}) == set()


def test_an_object_that_is_copied_onto_itself_is_newer(markers: MarkerImages, place: str) -> None:
    """So fronts prolong what expires: the copy lies above our marker."""
    put(markers, place)
    ((key, version),) = left(markers, place)
    ours = hidden(markers, place)
    bucket = markers.objects.bucket
    source: Any = {"Bucket": bucket, "Key": key, "VersionId": version}
    markers.objects.client.copy_object(Bucket=bucket, Key=key, CopySource=source)
    assert newer(markers, ours) == {place}
    assert markers.purge(list(markers.look(ours).values())).deleted == []
    assert got(markers, place) is not None


@pytest.mark.parametrize("known", ["gone", "unknown"])
def test_data_without_our_marker_is_newer(markers: MarkerImages, place: str, known: str) -> None:
    """Its place in the order is not known, so none of it is purged, whatever other markers are there."""
    put(markers, place)
    ours = hidden(markers, place)[place][0]
    delete(markers, place)
    if known == "gone":
        markers.objects.client.delete_object(Bucket=markers.objects.bucket, Key=place, VersionId=ours)
    places = {place: [ours] if known == "gone" else []}
    assert newer(markers, places) == {place}
    assert markers.purge(list(markers.look(places).values())).deleted == []


def test_our_marker_that_goes_between_two_listings_proves_nothing(markers: MarkerImages, place: str) -> None:
    """After a version that is gone, a store may list what lies above it too."""
    put(markers, place)
    ours = hidden(markers, place)
    put(markers, place)
    s3, bucket, turns = markers.objects.client, markers.objects.bucket, iter([None, ours[place][0]])

    def restored(**_: object) -> None:
        if marker := next(turns, None):
            with ThreadPoolExecutor(1) as another:
                another.submit(s3.delete_object, Bucket=bucket, Key=place, VersionId=marker).result()

    s3.meta.events.register("before-call.s3.ListObjectVersions", restored)
    seen = markers.look(ours)[place]
    s3.meta.events.unregister("before-call.s3.ListObjectVersions", restored)
    assert (seen.is_newer, seen.data) == (True, ())
    assert len(left(markers, place)) == 2


def test_a_purge_that_was_cut_short_is_finished(
    markers: MarkerImages, place: str, faults: FaultProxy, object_store: S3Server
) -> None:
    """Its data are gone and not all of its markers: nothing is newer, and the markers are still to go."""
    put(markers, place)
    ours = hidden(markers, place)
    seen = list(markers.look(ours).values())
    faults.begin(answering(503, "SlowDown"), only=lambda request: b"VersionId" in request.body and is_of(request, ours[place]))
    with pytest.raises(StoreUnavailable):
        through(markers, faults, object_store).purge(seen)
    assert left(markers, place) == [(place, ours[place][0])]
    purge(markers, ours)
    assert left(markers, place) == []


def is_of(request: Request, versions: list[str]) -> bool:
    return any(version.encode() in request.body for version in versions)


def test_a_purged_version_that_the_store_did_not_answer_for_is_asked_for_again(
    markers: MarkerImages, place: str, faults: FaultProxy, object_store: S3Server
) -> None:
    """A store that dies meanwhile may lose it from its index alone."""
    put(markers, place)
    ((_, version),) = left(markers, place)
    ours = hidden(markers, place)
    proxied = through(markers, faults, object_store)
    lost = faults.begin(unheard, times=1)
    with pytest.raises(StoreUnavailable):
        proxied.purge(list(markers.look(ours).values()))
    assert len(lost.struck) == 1
    assert proxied.look(ours)[place].data == [(place, version)]
    purge(proxied, ours)
    assert (proxied.look(ours)[place].data, left(markers, place)) == ([], [])


def test_object_lock_hides_and_refuses_to_purge(object_store: S3Server, locking_bucket: str) -> None:
    """The marker stays, or the image would be readable again. Others go."""
    images = images_of(S3Objects(object_store.client(), locking_bucket, versioned=None), "auto", QUARANTINE)
    held, free = new_place(), new_place()
    for one in (held, free):
        put(images, one)
    hold: Any = {"Bucket": locking_bucket, "Key": held}
    images.objects.client.put_object_legal_hold(**hold, LegalHold={"Status": "ON"})
    ((_, version),) = left(images, held)
    ours = hidden(images, held, free)
    outcome = images.purge(list(images.look(ours).values()))
    assert outcome.remaining == {held: "AccessDenied"}
    assert (got(images, held), left(images, free)) == (None, [])
    assert left(images, held) == sorted([(held, version), (held, ours[held][0])])
    images.objects.client.put_object_legal_hold(**hold, VersionId=version, LegalHold={"Status": "OFF"})
    purge(images, {held: ours[held]})
    assert left(images, held) == []


def test_markers_are_not_taken_for_hiding_where_versioning_was_suspended(object_store: S3Server) -> None:
    """An operator changed the bucket meanwhile. The store names the marker `null`, and the object is not below it."""
    images, place = MarkerImages(bucket_of(object_store, "suspended")), new_place()
    put(images, place)
    with pytest.raises(StoreUnavailable, match="does the bucket keep versions"):
        images.hide([place], 7, at_work)
