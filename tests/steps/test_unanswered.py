"""A store that dies in the middle of a delete can lose a version from its index and keep its data: then no listing shows it."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from activities.stores import s3_memory
from activities.stores.objects import Found
from activities.stores.s3 import S3Objects
from activities.stores.s3_wire import code_of
from artifact_deletion.errors import StoreUnavailable
from demo.servers import S3Server
from tests.answers import Answers, FakeVersions, Reply, Version, answering, asked_for, deleted, keys_of, refusal, versions
from tests.fault_proxy import Request

BOTH: set[Version] = {("mine/1", "v1"), ("mine/2", "v2")}
DIES: dict[str, Reply] = {
    "the connection ends": Reply(b"", None),
    "500": refusal("InternalError", 500),
    "503": refusal("ServiceUnavailable", 503),
    "a gateway's 502": Reply(b"<html>bad gateway</html>", 502),
    "a gateway's page": Reply(b"<html>please wait</html>"),
    "an error behind 200": Reply(refusal("InternalError", 200).body),
    "half an answer": Reply(deleted()[:-5]),
}


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    with answering() as server:
        yield server


@dataclass
class Dying:
    """A bucket that is killed in its next deletes, as Ceph's gateway was: the index is changed by then, the data are not."""

    bucket: FakeVersions = field(default_factory=lambda: FakeVersions(set(BOTH)))
    deaths: list[Reply] = field(default_factory=lambda: [Reply(b"", None)])

    def __call__(self, request: Request) -> Reply:
        if request.operation == "DeleteObjects" and self.deaths:
            self.bucket.index.difference_update(asked_for(request))
            return self.deaths.pop(0)
        return self.bucket(request)


def unanswered(store: S3Objects) -> None:
    with pytest.raises(StoreUnavailable):
        store.delete_found([Found(*one) for one in sorted(BOTH)])


@pytest.mark.parametrize("death", DIES.values(), ids=DIES)
def test_keys_whose_deletion_was_not_answered_are_asked_for_again_before_anything_is_listed(
    answers: Answers, death: Reply
) -> None:
    """The very same versions: the index shows none of them any more, and their data could be read for ever."""
    dying = Dying(deaths=[death])
    store = answers.by(dying, versioned=True)
    with pytest.raises(StoreUnavailable):
        store.delete(["mine/1", "mine/2"])
    assert (dying.bucket.index, dying.bucket.data) == (set(), BOTH)
    asked_before = len(answers.asked)
    outcome = store.delete(["mine/1", "mine/2"])
    assert (sorted(outcome.deleted), outcome.absent) == (["mine/1", "mine/2"], [])
    assert answers.operations[asked_before] == "DeleteObjects"
    assert {*asked_for(answers.asked[asked_before])} == BOTH
    assert "ListObjectVersions" in answers.operations[asked_before:]
    assert dying.bucket.data == set()


@pytest.mark.thorough
@pytest.mark.ceph
def test_a_store_that_was_killed_in_the_middle_keeps_no_version(
    object_store_server: Callable[[Path], S3Server], tmp_path: Path
) -> None:
    """Asked for by their names: of Ceph's gateway, some were seen to be readable and in no listing."""
    with object_store_server(tmp_path) as server, ThreadPoolExecutor(8) as threads:
        s3 = server.client()
        s3.create_bucket(Bucket="mortal")
        s3.put_bucket_versioning(Bucket="mortal", VersioningConfiguration={"Status": "Enabled"})
        keys = [f"mine/{number:03}" for number in range(200)]
        put = list(threads.map(lambda key: s3.put_object(Bucket="mortal", Key=key, Body=b"x")["VersionId"], keys))
        store = S3Objects(s3, "mortal", versioned=True)
        deleting = threads.submit(store.delete, keys)
        while s3.list_objects_v2(Bucket="mortal")["KeyCount"] == len(keys):
            pass
        server.kill()
        with contextlib.suppress(StoreUnavailable):  # SeaweedFS can have been done before
            deleting.result()
        server.start()
        assert not store.delete(keys).remaining
        assert list(store.list_under("")) == []

        def is_read(key: str, version: str) -> bool:
            try:
                s3.get_object(Bucket="mortal", Key=key, VersionId=version)
            except ClientError as error:
                return code_of(error) not in {"NoSuchKey", "NoSuchVersion"}
            return True

        assert not any(threads.map(is_read, keys, put))


def test_a_prefix_is_not_empty_before_the_store_has_answered(answers: Answers) -> None:
    """They come first, and the store lists when they have been dealt with."""
    dying = Dying()
    store = answers.by(dying, versioned=True)
    unanswered(store)
    parts = store.list_under("mine/")
    found = next(parts)
    assert {(one.key, one.version) for one in found} == BOTH
    assert answers.operations == ["DeleteObjects"]
    assert sorted(store.delete_found(found).deleted) == ["mine/1", "mine/2"]
    assert list(parts) == []
    assert answers.operations == ["DeleteObjects", "DeleteObjects", "ListObjectVersions"]
    assert dying.bucket.data == set()


def test_once_they_are_answered_for_they_are_forgotten(answers: Answers) -> None:
    store = answers.by(Dying(), versioned=True)
    unanswered(store)
    assert store.delete(["mine/1", "mine/2"]).remaining == {}
    asked_before = len(answers.asked)
    assert store.delete(["mine/1", "mine/2"]).absent == ["mine/1", "mine/2"]
    assert list(store.list_under("mine/")) == []
    assert {*answers.operations[asked_before:]} == {"ListObjectVersions"}


def test_what_is_not_answered_again_is_asked_for_again_each_time(answers: Answers) -> None:
    dying = Dying(deaths=3 * [Reply(b"", None)])
    store = answers.by(dying, versioned=True)
    unanswered(store)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.delete(["mine/1", "mine/2"])
    assert answers.operations == 3 * ["DeleteObjects"]
    assert store.delete(["mine/2"]).deleted == ["mine/2"]
    assert store.delete(["mine/1"]).deleted == ["mine/1"]
    assert dying.bucket.data == set()


def test_other_keys_and_prefixes_are_not_concerned(answers: Answers) -> None:
    """A deletion asks for nothing on another one's behalf: that one may be held by now."""
    store = answers.by(Dying(), versioned=True)
    unanswered(store)
    assert list(store.list_under("mine/3")) == []
    assert store.delete(["mine/3"]).absent == ["mine/3"]
    assert answers.operations == ["DeleteObjects", "ListObjectVersions", "ListObjectVersions"]


def test_who_only_looks_deletes_nothing(answers: Answers) -> None:
    """A preview lists without a guard: it is shown what counts as there, and asks for no deletion."""
    dying = Dying()
    store = answers.by(dying, versioned=True)
    unanswered(store)
    assert sorted(keys_of(list(store.list_under("")))) == ["mine/1", "mine/2"]
    assert answers.operations == ["DeleteObjects", "ListObjectVersions"]


def test_what_the_store_still_shows_is_listed_once(answers: Answers) -> None:
    dying = Dying(deaths=[])
    store = answers.by(dying, versioned=True)
    store.memory.remember([("mine/1", "v1")])
    parts = list(store.list_under("mine/"))
    assert [keys_of([part]) for part in parts] == [["mine/1"], ["mine/2"]]


def test_what_is_remembered_is_described_as_it_was_listed(answers: Answers) -> None:
    """When it was written, for one: a report deletes nothing younger."""
    store = answers.by(Dying(), versioned=True)
    listed = [one for part in store.list_under("mine/") for one in part]
    with pytest.raises(StoreUnavailable):
        store.delete(["mine/1", "mine/2"])
    remembered = store.memory.unanswered(lambda _: True).values()
    assert {(one.key, one.written) for one in remembered} == {(one.key, one.written) for one in listed}
    assert None not in {one.written for one in remembered}


def test_copies_of_a_store_share_what_it_remembers(answers: Answers) -> None:
    """Each step has a copy of its own, with a guard of its own."""
    told: list[int] = []
    store = answers.by(Dying(), versioned=None)
    store.memory.keeps_versions = True
    unanswered(replace(store, before_deleting=lambda _keys: None))
    assert replace(store, before_deleting=told.append).delete(["mine/1", "mine/2"]).remaining == {}
    assert told == [2]
    assert "GetBucketVersioning" not in answers.operations
    assert store.delete(["mine/1"]).absent == ["mine/1"]


def test_a_guard_that_says_no_leaves_nothing_unanswered(answers: Answers) -> None:
    """It was never asked for."""

    def held(_keys: int) -> None:
        raise PermissionError

    store = answers.by(Dying(), versioned=True)
    with pytest.raises(PermissionError):
        replace(store, before_deleting=held).delete(["mine/1", "mine/2"])
    assert {*answers.operations} == {"ListObjectVersions"}
    assert store.delete(["mine/3"]).absent == ["mine/3"]
    assert store.memory.unanswered(lambda _: True) == {}


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_a_version_that_the_store_asks_to_try_again_may_be_half_gone_too(answers: Answers, code: str) -> None:
    """One of two, and the other is answered for."""
    dying = Dying(deaths=[Reply(deleted({"Key": "mine/1", "VersionId": "v1", "Code": code}))])
    store = answers.by(dying, versioned=True)
    outcome = store.delete(["mine/1", "mine/2"])
    assert (outcome.not_yet, outcome.deleted) == ({"mine/1": code}, ["mine/2"])
    assert store.delete(["mine/1"]).deleted == ["mine/1"]
    assert dying.bucket.data == {("mine/2", "v2")}  # this store said that it had deleted it


def test_a_single_delete_that_is_not_answered_is_remembered_too(answers: Answers) -> None:
    key = "mine/\x01"
    for death in (Reply(b"", None), refusal("InternalError", 500)):
        store = answers.give(death, Reply(b"", 204), Reply(versions()), versioned=True)
        if death.status is None:
            with pytest.raises(StoreUnavailable):
                store.delete_found([Found(key, "v")])
        else:
            assert store.delete_found([Found(key, "v")]).not_yet == {key: "InternalError"}
        assert store.delete([key]).deleted == [key]
        assert [request.query.get("versionId") for request in answers.asked] == [["v"], ["v"], None]
        assert store.delete([key]).absent == [key]


def test_an_answer_about_other_keys_leaves_all_of_ours_open(answers: Answers) -> None:
    store = answers.give(deleted({"Key": "theirs/1", "Code": "InternalError"}), versioned=True)
    unanswered(store)
    assert {*store.memory.unanswered(lambda _: True)} == BOTH


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchVersion"])
def test_a_key_that_is_answered_for_with_an_error_is_forgotten_too(answers: Answers, code: str) -> None:
    """It is left over, or gone: the store said so, and its listing is believed again."""
    store = answers.give(Reply(b"", None), deleted({"Key": "mine/1", "Code": code}), versions(), versioned=True)
    unanswered(store)
    assert "mine/2" in store.delete(["mine/1", "mine/2"]).deleted
    assert store.memory.unanswered(lambda _: True) == {}


@pytest.mark.parametrize("refused", [refusal("AccessDenied", 403), refusal("NoSuchBucket", 404)], ids=["403", "404"])
def test_a_refusal_of_the_whole_request_leaves_nothing_unanswered(answers: Answers, refused: Reply) -> None:
    """The store did not begin: its listing is to be believed."""
    store = answers.give(refused, versioned=True)
    unanswered(store)
    assert store.memory.unanswered(lambda _: True) == {}


@pytest.mark.parametrize("version", [None, "null"])
def test_a_name_that_another_object_can_have_by_then_is_not_asked_for_again(answers: Answers, version: str | None) -> None:
    """An icon may be uploaded anew for another artifact, in a bucket without versions or with suspended ones."""
    store = answers.give(Reply(b"", None), Reply(versions()), versioned=True)
    with pytest.raises(StoreUnavailable):
        store.delete_found([Found("mine/icn_1", version)])
    assert store.delete(["mine/icn_1"]).absent == ["mine/icn_1"]
    assert answers.operations == ["DeleteObjects", "ListObjectVersions"]


def test_memory_has_a_limit(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is down for long must not fill the worker; the versions that were asked for last are kept."""
    monkeypatch.setattr(s3_memory, "MAX_UNANSWERED", 10)
    store = answers.give(Reply(b"", None), versioned=True)
    for start in (0, 8):
        with pytest.raises(StoreUnavailable):
            store.delete_found([Found(f"mine/{number}", "v") for number in range(start, start + 8)])
    assert [key for key, _ in store.memory.unanswered(lambda _: True)] == [f"mine/{number}" for number in range(6, 16)]


def test_many_threads_share_one_memory(answers: Answers) -> None:
    store = answers.give(Reply(b"", None), versioned=True)

    def ask(number: int) -> None:
        with pytest.raises(StoreUnavailable):
            store.delete_found([Found(f"mine/{number}", f"v{one}") for one in range(50)])
        store.memory.forget([(f"mine/{number}", "v0")])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(40)))
    assert len(store.memory.unanswered(lambda key: key.startswith("mine/"))) == 40 * 49
