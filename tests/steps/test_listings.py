"""A listing is input too: what it shows is deleted, so an answer that cannot be true is no answer, and its end is its end."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from activities.stores.documents import S3Documents
from activities.stores.objects import Found, Upload
from activities.stores.s3 import S3Objects
from artifact_deletion.errors import StoreUnavailable
from tests import answers as say
from tests.answers import Answers, FakeVersions, Reply, Version, answering, deleted, keys_of, objects, uploads, versions
from tests.fault_proxy import Request


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    with answering() as server:
        yield server


def list_objects(store: S3Objects, prefix: str = "mine/") -> Iterator[Any]:
    return iter(S3Objects(store.client, store.bucket, versioned=False).list_under(prefix))


def list_versions(store: S3Objects, prefix: str = "mine/") -> Iterator[Any]:
    return iter(S3Objects(store.client, store.bucket, versioned=True).list_under(prefix))


def list_uploads(store: S3Objects, prefix: str = "mine/") -> Iterator[Any]:
    return iter(store.uploads_under(prefix))


def page_of_objects(*keys: str, **said: object) -> bytes:
    return objects(*keys, **said)


def page_of_versions(*keys: str, **said: object) -> bytes:
    return versions(*((key, "v") for key in keys), **said)


def page_of_uploads(*keys: str, **said: object) -> bytes:
    return uploads(*((key, "u") for key in keys), **said)


Kind = tuple[Callable[..., Iterator[Any]], Callable[..., bytes], dict[str, object]]
KINDS: dict[str, Kind] = {
    "objects": (list_objects, page_of_objects, {"IsTruncated": "true", "NextContinuationToken": "t"}),
    "versions": (
        list_versions,
        page_of_versions,
        {"IsTruncated": "true", "NextKeyMarker": "mine/1", "NextVersionIdMarker": "v"},
    ),
    "uploads": (list_uploads, page_of_uploads, {"IsTruncated": "true", "NextKeyMarker": "mine/1", "NextUploadIdMarker": "u"}),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


# Keys outside the prefix ------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("others", [["theirs/1"], ["mine/2", "theirs/1", "mine/3"], ["mine"], ["Mine/1"], ["/mine/1"]], ids=str)
def test_a_page_with_a_key_outside_the_prefix_is_no_answer(answers: Answers, kind: Kind, others: list[str]) -> None:
    """Two servers were reported to pass over the prefix: all that they listed would be deleted, of other owners too."""
    listing, page, goes_on = kind
    parts = listing(answers.give(page("mine/1", **goes_on), page(*others)))
    assert keys_of([next(parts)]) == ["mine/1"]
    with pytest.raises(StoreUnavailable, match=r"has a key outside the prefix that it was asked for$"):
        next(parts)


def test_versions_outside_what_was_asked_for_are_not_deleted(answers: Answers) -> None:
    store = answers.give(versions(("mine/1", "v"), ("theirs/1", "v")), versioned=True)
    with pytest.raises(StoreUnavailable):
        store.delete(["mine/1"])
    assert answers.operations == ["ListObjectVersions"]


def test_documents_outside_their_prefix_are_not_read(answers: Answers) -> None:
    client = answers.give(objects("receipts/1", "theirs/1")).client
    with pytest.raises(StoreUnavailable):
        list(S3Documents(client, "private-bucket", "receipts/").read_since(datetime(2026, 1, 1, tzinfo=UTC)))
    assert answers.operations == ["ListObjectsV2"]


# The end of a listing ---------------------------------------------------------------------------------------------------


@every_kind
def test_a_listing_that_goes_on_and_does_not_say_how_is_no_answer(answers: Answers, kind: Kind) -> None:
    """Taken for the end, it would leave all the rest behind as "listed empty"."""
    listing, page, _ = kind
    with pytest.raises(StoreUnavailable, match=r"goes on, and does not say from where$"):
        list(listing(answers.give(page("mine/1", IsTruncated="true"))))
    with pytest.raises(StoreUnavailable, match=r"goes on, and does not say from where$"):
        list(listing(answers.give(page("mine/1", IsTruncated="true", NextKeyMarker="", NextContinuationToken=""))))


def test_a_version_is_no_place_without_its_key(answers: Answers) -> None:
    """S3 passes over a version marker that has no key beside it, and would begin anew."""
    store = answers.give(versions(("mine/1", "v"), IsTruncated="true", NextVersionIdMarker="v"))
    with pytest.raises(StoreUnavailable, match=r"goes on, and does not say from where$"):
        list(list_versions(store))


@every_kind
@pytest.mark.parametrize("again", [["a"], ["a", "b", "a"], ["a", "b", "c", "b"]], ids=str)
def test_a_listing_that_comes_back_to_where_it_was_is_no_answer(answers: Answers, kind: Kind, again: list[str]) -> None:
    """It would never end, or end in silence."""
    listing, page, goes_on = kind
    marks = [name for name in goes_on if name != "IsTruncated"]
    places = [dict.fromkeys(marks, f"mine/{one}") for one in again]
    replies = [page(f"mine/{number}", **{**goes_on, **place}) for number, place in enumerate(places)]
    parts = listing(answers.give(*replies))
    with pytest.raises(StoreUnavailable, match=r"comes back to a place where it was before$"):
        list(parts)
    assert len(answers.asked) == max(2, len(again))


@pytest.mark.parametrize("kind", [KINDS["versions"], KINDS["uploads"]], ids=["versions", "uploads"])
def test_a_listing_that_goes_on_outside_the_prefix_is_no_answer(answers: Answers, kind: Kind) -> None:
    """From there it could pass over what lies under the prefix."""
    listing, page, goes_on = kind
    with pytest.raises(StoreUnavailable, match=r"goes on outside the prefix that it was asked for$"):
        list(listing(answers.give(page("mine/1", **{**goes_on, "NextKeyMarker": "theirs/1"}))))


@every_kind
def test_a_listing_is_read_to_its_end_and_no_further(answers: Answers, kind: Kind) -> None:
    """S3 gives markers on the last page of uploads too; more may follow an empty page."""
    listing, page, goes_on = kind
    last = {**goes_on, "IsTruncated": "false"}
    replies = [page("mine/1", **goes_on), page(**{**goes_on, "NextKeyMarker": "mine/2", "NextContinuationToken": "2"})]
    parts = list(listing(answers.give(*replies, page("mine/3", **last))))
    assert keys_of(parts) == ["mine/1", "mine/3"]
    assert len(answers.asked) == 3


@every_kind
def test_a_listing_that_only_says_how_it_goes_on_goes_on(answers: Answers, kind: Kind) -> None:
    """Some servers leave out a false flag, and one might leave out a true one."""
    listing, page, goes_on = kind
    how = {name: text for name, text in goes_on.items() if name != "IsTruncated"}
    for first in (page("mine/1", **how), page("mine/1", **{**goes_on, "IsTruncated": "True"})):
        assert keys_of(list(listing(answers.give(first, page("mine/2"))))) == ["mine/1", "mine/2"]


# Entries ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [{}, {"missing": ""}], ids=["missing", "empty"])
@pytest.mark.parametrize(
    ("listing", "page", "missing"),
    [
        (list_versions, versions, "VersionId"),
        (list_versions, versions, "Key"),
        (list_uploads, uploads, "UploadId"),
        (list_uploads, uploads, "Key"),
    ],
)
def test_an_entry_without_what_its_deletion_needs_is_no_answer(
    answers: Answers, listing: Any, page: Any, missing: str, broken: dict[str, str]
) -> None:
    """A version without its id would only be hidden by a marker; the message says which part there is not."""
    whole = {"Key": "mine/1", "VersionId": "v", "UploadId": "u"}
    entry = {name: text for name, text in whole.items() if name != missing} | ({missing: ""} if broken else {})
    with pytest.raises(StoreUnavailable, match=rf"has an entry without {missing}$"):
        list(listing(answers.give(page(whole, entry))))


def test_an_object_without_its_key_is_no_answer(answers: Answers) -> None:
    page = b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>"
    with pytest.raises(StoreUnavailable, match=r"has an entry without Key$"):
        list(list_objects(answers.give(page)))


def test_a_marker_without_its_version_is_no_answer_either(answers: Answers) -> None:
    page = b"<ListVersionsResult><DeleteMarker><Key>mine/1</Key></DeleteMarker></ListVersionsResult>"
    with pytest.raises(StoreUnavailable, match=r"has an entry without VersionId$"):
        answers.give(page, versioned=True).delete(["mine/1"])


def test_all_else_may_be_missing(answers: Answers) -> None:
    """A size is for previews, and some servers have none."""
    for size in ("", "<Size/>", "<Size>many</Size>"):
        page = f"<ListBucketResult><Contents><Key>mine/1</Key>{size}</Contents></ListBucketResult>"
        ((found,),) = list_objects(answers.give(page.encode()))
        assert (found.key, found.version, found.size) == ("mine/1", None, 0)
    ((version,),) = list_versions(answers.give(versions(("mine/1", "v"))))
    assert version == Found("mine/1", "v")


@pytest.mark.parametrize("written", ["", "<LastModified>soon</LastModified>"], ids=["missing", "no time"])
def test_a_document_without_its_time_may_be_one_that_is_wanted(answers: Answers, written: str) -> None:
    """Passed over, a deletion would be forgotten when a database is restored."""
    page = f"<ListBucketResult><Contents><Key>receipts/1</Key>{written}</Contents></ListBucketResult>"
    client = answers.give(page.encode()).client
    with pytest.raises(StoreUnavailable, match=r"has an entry without LastModified$"):
        list(S3Documents(client, "private-bucket", "receipts/").read_since(datetime(2026, 1, 1, tzinfo=UTC)))


def test_more_than_a_thousand_in_one_page_come_in_parts(answers: Answers) -> None:
    """Each part is to fit into one request that deletes."""
    keys = [f"mine/{number}" for number in range(2500)]
    parts = list(list_objects(answers.give(objects(*keys))))
    assert [len(part) for part in parts] == [1000, 1000, 500]
    assert keys_of(parts) == keys


def test_a_null_version_has_a_mark_and_others_need_none(answers: Answers) -> None:
    """Where versioning was suspended, another object can be written under the same version."""
    dated = {"Key": "mine/1", "VersionId": "null", "ETag": '"e"', "LastModified": "2026-11-27T21:00:00Z"}
    found = [next(list_versions(answers.give(versions(entry))))[0] for entry in (dated, {**dated, "ETag": '"f"'})]
    assert found[0] != found[1]
    assert next(list_versions(answers.give(versions({**dated, "VersionId": "v"}))))[0] == Found("mine/1", "v")


# Encoded keys -----------------------------------------------------------------------------------------------------------

ODD = "mine/a%41+b c\x01\u00e4"
ENCODED = "mine/a%2541%2Bb+c%01%C3%A4"
LITERAL = "mine/a%41+b c\u00e4"


@every_kind
def test_every_listing_asks_for_encoded_keys_and_decodes_them_once(answers: Answers, kind: Kind) -> None:
    """XML has no way to write a control character; and decoded twice, a key would be another one."""
    listing, page, goes_on = kind
    said = {**goes_on, "EncodingType": "url"}
    if "NextKeyMarker" in said:
        said["NextKeyMarker"] = ENCODED
    parts = list(listing(answers.give(page(ENCODED, **said), page(ENCODED, EncodingType="url"))))
    assert keys_of(parts) == [ODD, ODD]
    assert [request.query["encoding-type"] for request in answers.asked] == [["url"], ["url"]]
    if "NextKeyMarker" in said:
        assert answers.asked[1].query["key-marker"] == [ODD]


@every_kind
def test_a_store_that_does_not_heed_it_has_its_keys_taken_literally(answers: Answers, kind: Kind) -> None:
    listing, page, goes_on = kind
    said = {**goes_on, "NextKeyMarker": LITERAL} if "NextKeyMarker" in goes_on else goes_on

    def answer(request: Request) -> Reply:
        return Reply(page(LITERAL, **({} if {"continuation-token", "key-marker"} & request.query.keys() else said)))

    assert keys_of(list(listing(answers.by(answer)))) == [LITERAL, LITERAL]
    if "NextKeyMarker" in said:
        assert answers.asked[-1].query["key-marker"] == [LITERAL]


@pytest.mark.parametrize("kind", [KINDS["versions"], KINDS["uploads"]], ids=["versions", "uploads"])
def test_a_marker_that_is_not_encoded_is_not_decoded(answers: Answers, kind: Kind) -> None:
    """Ceph encodes keys and leaves the marker as it is: decoded, it would be the place of another one."""
    listing, page, goes_on = kind
    first = page(*("mine/%01", "mine/a%2541%2Bb"), **{**goes_on, "NextKeyMarker": "mine/a%41+b", "EncodingType": "url"})
    parts = list(listing(answers.give(first, page("mine/b"))))
    assert keys_of(parts) == ["mine/\x01", "mine/a%41+b", "mine/b"]
    assert answers.asked[1].query["key-marker"] == ["mine/a%41+b"]


@pytest.mark.parametrize("kind", [KINDS["objects"], KINDS["versions"]], ids=["objects", "versions"])
def test_plus_signs_that_a_store_leaves_alone_are_found_out_by_the_prefix(answers: Answers, kind: Kind) -> None:
    """S3 writes a space as a plus sign: read so, the key would lie outside the prefix, and its deletion would never end."""
    listing, page, _ = kind
    store = answers.give(page("mine/a+b", "mine/a+b%20c", EncodingType="url"))
    assert keys_of(list(listing(store, "mine/a+b"))) == ["mine/a+b", "mine/a+b c"]


@pytest.mark.parametrize("kind", [KINDS["objects"], KINDS["versions"]], ids=["objects", "versions"])
def test_no_other_listing_is_asked_for_twice(answers: Answers, kind: Kind) -> None:
    """Every client of S3 has always asked for encoded objects and versions, so all stores know how; a look costs a request."""
    listing, page, _ = kind
    assert keys_of(list(listing(answers.give(page("mine/a%2Bb+c", EncodingType="url"))))) == ["mine/a+b c"]
    assert len(answers.asked) == 1


@pytest.mark.parametrize(
    ("says", "encodes"), [(True, True), (True, False), (False, True)], ids=["as S3 does", "as SeaweedFS does", "as Ceph does"]
)
def test_uploads_are_looked_at_again_where_it_matters_whether_they_are_encoded(
    answers: Answers, *, says: bool, encodes: bool
) -> None:
    """No word of a store tells. Taken for what it is not, an upload would be aborted under a name that it has not."""
    said = {"EncodingType": "url"} if says else {}

    def answer(request: Request) -> Reply:
        if "encoding-type" not in request.query:
            return Reply(uploads(("mine/a+b%41", "u")))
        return Reply(uploads(("mine/a%2Bb%2541" if encodes else "mine/a+b%41", "u"), **said))

    assert list(list_uploads(answers.by(answer))) == [[Upload("mine/a+b%41", "u")]]
    assert len(answers.asked) == 2
    plain = answers.give(uploads(("mine/a b", "u") if not encodes else ("mine/ab", "u"), **said))
    assert keys_of(list(list_uploads(plain))) == ["mine/ab" if encodes else "mine/a b"]
    assert len(answers.asked) == 1


@pytest.mark.parametrize("said", [{"EncodingType": "url"}, {}], ids=["S3", "Ceph"])
def test_uploads_that_xml_cannot_carry_are_encoded_whatever_the_store_says(answers: Answers, said: dict[str, str]) -> None:
    """Asked for as they are, they come in an answer that is no XML, for ever."""
    found = list(list_uploads(answers.give(uploads(("mine/a%01+%2B", "u"), **said))))
    assert found == [[Upload("mine/a\x01 +", "u")]]
    assert len(answers.asked) == 1


# Versions of single keys ------------------------------------------------------------------------------------------------


def many(*keys: str, each: int = 2) -> set[Version]:
    return {(key, f"v{number}") for key in keys for number in range(each)}


WANTED = ["o/4/b.png", "o/4/c.png", "o/4/d.png", "o/4/e.png", "o/4/f.png", "o/4/g.png", "o/4/h/1", "o/4/a"]
OTHERS = ["o/4/a.b", "o/4/aa", "o/4/h/2", "o/4/h", "o/42/a", "o/3/a", *(f"o/4/c/{number}" for number in range(40))]


@pytest.mark.parametrize("page", [1000, 7, 1])
@pytest.mark.parametrize(
    "quirk", [{}, {"refuses_markers_outside": True}, {"drops_after_missing": True}], ids=["S3", "MinIO", "moto"]
)
def test_every_version_of_every_key_goes_whatever_a_store_makes_of_markers(
    answers: Answers, page: int, quirk: dict[str, bool]
) -> None:
    """No marker of ours is sent: one outside the prefix was refused, and after one that is no key a version was passed over."""
    bucket = FakeVersions(many(*WANTED, *OTHERS), page=page, **quirk)
    outcome = answers.by(bucket, versioned=True).delete([*WANTED, "o/4/none", "o/5/none"])
    assert (sorted(outcome.deleted), outcome.absent, outcome.remaining) == (sorted(WANTED), ["o/4/none", "o/5/none"], {})
    assert bucket.data == many(*OTHERS)


@pytest.mark.parametrize(
    "quirk", [{}, {"refuses_markers_outside": True}, {"drops_after_missing": True}], ids=["S3", "MinIO", "moto"]
)
def test_an_exact_key_is_looked_for_by_its_name_and_without_a_marker(answers: Answers, quirk: dict[str, bool]) -> None:
    bucket = FakeVersions(many("o/4.zip", "o/4.zip2", "o/3.zip"), **quirk)
    store = answers.by(bucket, versioned=True)
    assert keys_of(list(store.list_under("o/4.zip"))) == ["o/4.zip", "o/4.zip", "o/4.zip2", "o/4.zip2"]
    (request,) = answers.asked
    assert (request.query["prefix"], request.query.get("key-marker")) == (["o/4.zip"], None)


def test_keys_of_a_full_folder_cost_one_listing(answers: Answers) -> None:
    keys = [f"o/4/diff/{number:03}.png" for number in range(1000)]
    store = answers.by(FakeVersions(many(*keys, each=1)), versioned=True)
    assert len(store.delete(keys).deleted) == 1000
    assert answers.operations == ["ListObjectVersions", "DeleteObjects"]


@pytest.mark.thorough
def test_few_keys_among_many_cost_no_long_listing(answers: Answers) -> None:
    """A scope's archives lie in one folder, a hundred thousand of them: those of one deletion are looked for by name."""
    archives = [f"archives/{number}.zip" for number in range(40_000)]
    bucket = FakeVersions(many(*archives, each=1))
    wanted = archives[::4000]
    assert answers.by(bucket, versioned=True).delete(wanted).deleted == wanted
    assert len(bucket.data) == 40_000 - len(wanted)
    assert len(answers.asked) < 20


def test_a_manifest_beside_full_folders_costs_no_look_into_them(answers: Answers) -> None:
    """The beginning that it shares with its neighbour is the folder, and the folder's folders hold thousands of masks."""
    masks = [f"o/4/{base}/diff/{number}.png" for base in (8, 9) for number in range(2000)]
    wanted = ["o/4/manifest.json", "o/4/snapshot_head_images.json"]
    bucket = FakeVersions(many(*wanted, *masks, each=1))
    assert answers.by(bucket, versioned=True).delete(wanted).deleted == wanted
    prefixes = [request.query["prefix"][0] for request in answers.asked if request.operation == "ListObjectVersions"]
    assert sorted(prefixes) == wanted


@pytest.mark.thorough
def test_keys_that_begin_with_one_another_are_told_apart(answers: Answers) -> None:
    """Each look for some of them shows others, down to the last."""
    keys = [f"o/{'a' * length}" for length in range(1, 60)]
    bucket = FakeVersions(many(*keys), page=10)
    assert sorted(answers.by(bucket, versioned=True).delete(keys[::2]).deleted) == keys[::2]
    assert bucket.data == many(*keys[1::2])


def test_a_document_that_cannot_be_put_or_read_says_so(answers: Answers) -> None:
    client = answers.give(say.refusal("AccessDenied", 403)).client
    documents = S3Documents(client, "private-bucket", "receipts/")
    with pytest.raises(StoreUnavailable, match=r"AccessDenied \(HTTP 403\) to PutObject"):
        documents.put("1", b"content")
    since = datetime(2026, 1, 1, tzinfo=UTC)
    answers.give(objects("receipts/1"), say.refusal("AccessDenied", 403))
    with pytest.raises(StoreUnavailable, match=r"AccessDenied \(HTTP 403\) to GetObject"):
        list(documents.read_since(since))
    answers.give(objects("receipts/1"), say.refusal("NoSuchKey", 404))
    with pytest.raises(StoreUnavailable, match="went after it was listed"):
        list(documents.read_since(since))
    answers.give(objects("receipts/1"), Reply(deleted()))
    with pytest.raises(StoreUnavailable, match="something else than the object store"):
        list(documents.read_since(since))
