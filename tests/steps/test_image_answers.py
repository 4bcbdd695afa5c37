"""Whatever answers in place of a store's yes, no image is taken for hidden, restored or purged by mistake."""

from collections.abc import Iterator, Mapping

import pytest

from activities.stores.s3_copies import CopyImages
from activities.stores.s3_images import images_of
from activities.stores.s3_markers import MarkerImages
from artifact_deletion.errors import StoreUnavailable
from tests.answers import NAMESPACE, Answers, Reply, answering, deleted, element, objects, refusal, versions
from tests.hidden_images import QUARANTINE, at_work

PLACES = ["1/2/private-a", "1/2/private-b"]
MARKED = [{"Key": key, "DeleteMarker": "true", "DeleteMarkerVersionId": f"m{key[-1]}"} for key in PLACES]


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    with answering() as server:
        yield server


def marking(*gone: Mapping[str, str], errors: tuple[dict[str, str], ...] = ()) -> bytes:
    entries = [element("Deleted", **one) for one in gone] + [element("Error", **one) for one in errors]
    return f"<DeleteResult {NAMESPACE}>{''.join(entries)}</DeleteResult>".encode()


def error(key: str, code: str) -> dict[str, str]:
    return {"Key": key, "Code": code}


def markers(answers: Answers, *replies: Reply | bytes) -> MarkerImages:
    return MarkerImages(answers.give(*replies, versioned=True))


def test_each_key_is_hidden_absent_or_refused(answers: Answers) -> None:
    said = marking(MARKED[0], errors=(error(PLACES[1], "AccessDenied"), error("1/2/long", "KeyTooLongError")))
    came = markers(answers, said).hide([*PLACES, "1/2/long", PLACES[0]], 1, at_work)
    assert (came.ours, came.refused, came.absent) == ({PLACES[0]: "ma"}, {PLACES[1]: "AccessDenied"}, {"1/2/long"})


NO_ANSWERS: dict[str, Reply | bytes] = {
    "a key fewer": marking(MARKED[0]),
    "none": deleted(),
    "another key": marking(*MARKED, {**MARKED[0], "Key": "1/2/private-c"}),
    "another in its place": marking(MARKED[0], {**MARKED[1], "Key": "1/2/private-c"}),
    "a key twice": marking(MARKED[0], MARKED[0]),
    "a key that is both": marking(*MARKED, errors=(error(PLACES[0], "AccessDenied"),)),
    "an error for another key": marking(*MARKED, errors=(error("1/2/private-c", "AccessDenied"),)),
    "a transient error": marking(MARKED[0], errors=(error(PLACES[1], "SlowDown"),)),
    "an element without a key": marking(MARKED[0], {"DeleteMarkerVersionId": "mb"}),
    "a page": b"<html>private</html>",
    "a refusal": refusal("AccessDenied", 403),
    "no call": refusal("NotImplemented", 501),
    "no bytes": Reply(b"", None),
}


@pytest.mark.parametrize("said", NO_ANSWERS)
def test_nothing_is_hidden_by_an_answer_that_is_none(answers: Answers, said: str) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        markers(answers, NO_ANSWERS[said]).hide(PLACES, 1, at_work)
    assert "private" not in str(raised.value)


def lying(*found: tuple[str, str, bool]) -> bytes:
    """A listing: element, version, whether it is the latest."""
    page = versions(
        *({"Key": PLACES[0], "VersionId": version, "IsLatest": str(latest).lower()} for _, version, latest in found)
    )
    parts = page.split(b"<Version>")
    kinds = [kind.encode() for kind, _, _ in found]
    told = [
        b"<%b>%b" % (kind, part.replace(b"</Version>", b"</%b>" % kind)) for kind, part in zip(kinds, parts[1:], strict=True)
    ]
    return parts[0] + b"".join(told)


MARKER_ABOVE = lying(("DeleteMarker", "ma", True), ("Version", "v", False))


def test_a_marker_that_is_deleted_and_still_listed_is_no_work_without_end(answers: Answers) -> None:
    """SeaweedFS reports some keys as deleted and leaves them."""
    restored = markers(answers, MARKER_ABOVE, deleted(), MARKER_ABOVE).restore({PLACES[0]: ["ma"]}, at_work)
    assert (restored.refused, restored.readable) == ({PLACES[0]: "StillThere"}, set())


@pytest.mark.parametrize("named", [None, "", "null"])
def test_a_marker_that_is_not_named_is_looked_for(answers: Answers, named: str | None) -> None:
    """Ceph puts no second one over a first. A suspended bucket has `null` ones, with no object below them."""
    said = {"Key": PLACES[0]} if named is None else {**MARKED[0], "DeleteMarkerVersionId": named}
    assert markers(answers, marking(said), MARKER_ABOVE).hide(PLACES[:1], 1, at_work).ours == {PLACES[0]: "ma"}
    on_top = [
        lying(),
        lying(("DeleteMarker", "null", True)),
        lying(("Version", "v", True), ("DeleteMarker", "ma", False)),
        lying(("DeleteMarker", "ma", False)),
        lying(("DeleteMarker", "ma", True), ("DeleteMarker", "mb", True)),
    ]
    for listing in on_top:
        with pytest.raises(StoreUnavailable, match="does the bucket keep versions"):
            markers(answers, marking(said), listing).hide(PLACES[:1], 1, at_work)


@pytest.mark.parametrize(
    "said",
    [
        lying(("DeleteMarker", "ma", False), ("Version", "v", False)),
        lying(("DeleteMarker", "ma", True), ("Version", "v", True)),
        b"<html>private</html>",
    ],
    ids=["no latest", "two latest", "a page"],
)
def test_nothing_is_restored_by_a_listing_that_does_not_say_what_is_on_top(answers: Answers, said: bytes) -> None:
    with pytest.raises(StoreUnavailable):
        markers(answers, said).restore({PLACES[0]: ["ma"]}, at_work)
    assert answers.operations == ["ListObjectVersions"]


@pytest.mark.parametrize("code", ["SlowDown", "AccessDenied"])
def test_a_marker_that_the_store_does_not_delete_leaves_the_image_hidden(answers: Answers, code: str) -> None:
    images = markers(answers, MARKER_ABOVE, deleted({"Key": PLACES[0], "VersionId": "ma", "Code": code}))
    if code == "SlowDown":
        with pytest.raises(StoreUnavailable, match="SlowDown"):
            images.restore({PLACES[0]: ["ma"]}, at_work)
    else:
        assert images.restore({PLACES[0]: ["ma"]}, at_work).refused == {PLACES[0]: code}


@pytest.mark.parametrize("latest", ["v", "neither"])
def test_data_that_a_store_calls_the_latest_are_looked_at_closely(answers: Answers, latest: str) -> None:
    """Only our marker on top shows by itself that all data lie below: else the store is asked what does."""
    all_of_it = lying(("DeleteMarker", "ma", False), ("Version", "v", latest == "v"))
    seen = markers(answers, all_of_it, lying(), all_of_it).look({PLACES[0]: ["ma"]})
    assert seen[PLACES[0]].is_newer
    assert len(answers.asked) == 3
    assert answers.asked[1].query["version-id-marker"] == ["ma"]


def test_our_marker_that_is_gone_shows_nothing_of_what_lies_below(answers: Answers) -> None:
    """A listing after it may hold what lay above it too."""
    before, newer = lying(("Version", "v", True), ("DeleteMarker", "ma", False)), lying(("Version", "v", True))
    seen = markers(answers, before, newer, newer).look({PLACES[0]: ["ma"]})
    assert seen[PLACES[0]].is_newer


def test_other_markers_are_looked_at_closely(answers: Answers) -> None:
    listing = lying(("DeleteMarker", "ma", True), ("DeleteMarker", "mb", False), ("Version", "v", False))
    seen = markers(answers, listing, lying(("Version", "v", False)), listing).look({PLACES[0]: ["mb", "ma"]})[PLACES[0]]
    assert (seen.is_newer, seen.data) == (False, [(PLACES[0], "v")])
    assert seen.markers == [(PLACES[0], "ma"), (PLACES[0], "mb")]
    assert len(answers.asked) == 3


@pytest.mark.parametrize("code", ["AccessDenied", "InternalError"])
def test_markers_stay_where_data_stay(answers: Answers, code: str) -> None:
    """Without them the data would be readable."""
    images = markers(answers, MARKER_ABOVE, deleted({"Key": PLACES[0], "VersionId": "v", "Code": code}))
    seen = images.look({PLACES[0]: ["ma"]})
    assert images.purge(list(seen.values())).remaining == {PLACES[0]: code}
    assert answers.operations == ["ListObjectVersions", "DeleteObjects"]


# What is hidden, whatever the ledger knows ------------------------------------------------------------------------------

GOES_ON = {"IsTruncated": "true", "NextKeyMarker": PLACES[0], "NextVersionIdMarker": "ma"}


def test_what_a_marker_hides_may_be_on_a_later_page(answers: Answers) -> None:
    """And so may a key's other versions be, of which none is the latest."""
    more = "".join(f"<{name}>{text}</{name}>" for name, text in GOES_ON.items()).encode()
    first = lying(("DeleteMarker", "ma", True)).replace(b"</ListVersionsResult>", more + b"</ListVersionsResult>")
    rest = lying(("DeleteMarker", "mb", False), ("Version", "v", False), ("Version", "u", False))
    assert list(markers(answers, first, rest).hidden_under("1/2/")) == [(PLACES[0], "ma")]
    assert list(markers(answers, first, lying()).hidden_under("1/2/")) == [], "it lies over nothing"
    assert list(markers(answers, MARKER_ABOVE).hidden_under("1/")) == [], "it lies in a folder"


@pytest.mark.parametrize(
    "found",
    [
        [("DeleteMarker", "null", True), ("Version", "v", False)],
        [("Version", "v", True), ("DeleteMarker", "ma", False)],
    ],
    ids=["of a suspended bucket", "below data"],
)
def test_a_marker_that_hides_nothing_of_ours_is_not_found(answers: Answers, found: list[tuple[str, str, bool]]) -> None:
    assert list(markers(answers, lying(*found)).hidden_under("1/2/")) == []


@pytest.mark.parametrize(
    "said",
    [
        lying(("DeleteMarker", "ma", False), ("Version", "v", False)),
        lying(("DeleteMarker", "ma", True), ("Version", "v", True)),
        versions({"Key": "private/3", "VersionId": "v", "IsLatest": "true"}),
        versions({"Key": PLACES[0], "IsLatest": "true"}),
        versions(IsTruncated="true"),
        refusal("AccessDenied", 403),
        b"<html>private</html>",
    ],
    ids=["no latest", "two latest", "another prefix", "no version", "no place to go on", "a refusal", "a page"],
)
def test_nothing_is_found_hidden_in_a_listing_that_is_none(answers: Answers, said: Reply | bytes) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        list(markers(answers, said).hidden_under("1/2/"))
    assert "private" not in str(raised.value)


def test_a_copy_is_known_by_its_place_and_round(answers: Answers) -> None:
    """What else lies in quarantine is another's."""
    first = [f"{QUARANTINE}{PLACES[0]}.7", f"{QUARANTINE}{PLACES[0]}.12", f"{QUARANTINE}1/2/folder/x.7", f"{QUARANTINE}1/2/x"]
    page = objects(*first, IsTruncated="true", NextContinuationToken="t")
    images = CopyImages(answers.give(page, objects(f"{QUARANTINE}{PLACES[1]}.7", f"{QUARANTINE}1/2/x.y")), QUARANTINE)
    found = [(PLACES[0], first[0]), (PLACES[0], first[1]), (PLACES[1], f"{QUARANTINE}{PLACES[1]}.7")]
    assert list(images.hidden_under("1/2/")) == found


@pytest.mark.parametrize(
    "said",
    [objects("1/2/private.7"), objects(IsTruncated="true"), refusal("AccessDenied", 403), b"<html>private</html>"],
    ids=["not in quarantine", "no place to go on", "a refusal", "a page"],
)
def test_no_copy_is_found_in_a_listing_that_is_none(answers: Answers, said: Reply | bytes) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        list(CopyImages(answers.give(said), QUARANTINE).hidden_under("1/2/"))
    assert "private" not in str(raised.value)


# Copies -----------------------------------------------------------------------------------------------------------------


def test_a_yes_without_an_object_is_not_taken_for_one(answers: Answers) -> None:
    """HEAD has no body: a page of a gateway and the store's word look alike, but for the ETag."""
    images = CopyImages(answers.give(b"<html>private</html>"), QUARANTINE)
    for asked in (images.look, lambda places: images.restore(places, at_work)):
        with pytest.raises(StoreUnavailable, match="something else than the object store"):
            asked({PLACES[0]: ["copy"]})


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_head_that_is_refused_says_nothing(answers: Answers, status: int) -> None:
    images = CopyImages(answers.give(Reply(b"", status)), QUARANTINE)
    with pytest.raises(StoreUnavailable, match=f"HTTP {status}"):
        images.look({PLACES[0]: ["copy"]})


@pytest.mark.parametrize("said", [refusal("AccessDenied", 403), Reply(b"<html>private</html>"), Reply(b"", None)])
@pytest.mark.parametrize("hiding", ["auto", "markers"])
def test_a_bucket_that_does_not_answer_is_taken_for_neither_kind(answers: Answers, said: Reply, hiding: str) -> None:
    with pytest.raises(StoreUnavailable):
        images_of(answers.give(said), hiding, QUARANTINE)  # type: ignore[arg-type]
