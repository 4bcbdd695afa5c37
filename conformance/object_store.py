"""What every object store must do: subclass `ObjectStoreConformance`, and give it a `store` and a way to `put`.

class TestMyStore(ObjectStoreConformance):
    @pytest.fixture
    def store(self) -> ObjectStore: ...

    def put(self, store: ObjectStore, key: str, content: bytes = b"x") -> None: ...
"""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from activities.stores.objects import Found, ObjectAbsent, ObjectStore, ObjectTooLarge

# Each is one key of its own, and none of them another's neighbour by accident.
ODD_KEYS = (
    "odd/ space and + and %20",
    "odd/quote'\"<>&;",
    unicodedata.normalize("NFC", "odd/écran"),
    unicodedata.normalize("NFD", "odd/écran"),
    "odd/日本語/🙂",
    "odd/.hidden/..twice",
    "odd/UPPER",
    "odd/upper",
    f"odd/{'long/' * 40}end",
)


class ObjectStoreConformance(ABC):
    """The contract of `activities.stores.objects.ObjectStore`, on an empty store."""

    odd_keys: tuple[str, ...] = ODD_KEYS
    """Leave out what the server behind the adapter cannot hold at all, with a comment that says so."""

    @abstractmethod
    def put(self, store: ObjectStore, key: str, content: bytes = b"x") -> None:
        """Put an object where the store finds it."""

    def put_all(self, store: ObjectStore, keys: Iterable[str]) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: self.put(store, key), keys))

    def keys_under(self, store: ObjectStore, prefix: str) -> list[str]:
        return sorted({one.key for page in store.list_under(prefix) for one in page})

    def test_what_was_put_is_read(self, store: ObjectStore) -> None:
        self.put(store, "a/b", b"content")
        assert store.read("a/b", 7) == b"content"

    def test_more_than_the_limit_is_not_read(self, store: ObjectStore) -> None:
        """A manifest of any size must not fill the worker's memory."""
        self.put(store, "a/b", b"content")
        with pytest.raises(ObjectTooLarge):
            store.read("a/b", 6)

    def test_an_absent_object_is_absent(self, store: ObjectStore) -> None:
        """Not empty, and no other error: absent is what evicted manifests are known by."""
        with pytest.raises(ObjectAbsent):
            store.read("a/b", 10)

    def test_what_was_deleted_is_gone_and_each_key_is_in_one_place(self, store: ObjectStore) -> None:
        """An absent key is no trouble; whether it counts as deleted or absent is the store's to know."""
        self.put_all(store, there := ["a/1", "a/2", "b/1"])
        asked = [*there, "a/none"]
        outcome = store.delete(asked)
        assert sorted([*outcome.deleted, *outcome.absent]) == sorted(asked)
        assert not outcome.remaining
        assert set(there) & set(outcome.absent) == set()
        assert self.keys_under(store, "") == []

    def test_a_thousand_keys_go_at_once(self, store: ObjectStore) -> None:
        self.put_all(store, keys := [f"many/{number:04}" for number in range(1000)])
        assert not store.delete(keys).remaining
        assert self.keys_under(store, "") == []

    def test_a_long_listing_is_complete(self, store: ObjectStore) -> None:
        """In pages of at most a thousand, so that each fits into one request to delete."""
        self.put_all(store, keys := [f"many/{number:04}" for number in range(1203)])
        pages = list(store.list_under("many/"))
        assert max(len(page) for page in pages) <= 1000
        assert sorted(one.key for page in pages for one in page) == keys

    def test_a_prefix_is_literal(self, store: ObjectStore) -> None:
        """No folder, no pattern: artifact 4 is not artifact 42, and a slash is a slash."""
        self.put_all(store, ["1/2/4/a", "1/2/4/b/c", "1/2/42/a", "1/2/4", "1/2/4*/a"])
        assert self.keys_under(store, "1/2/4/") == ["1/2/4/a", "1/2/4/b/c"]
        assert self.keys_under(store, "1/2/4*") == ["1/2/4*/a"]

    def test_neighbours_stay(self, store: ObjectStore) -> None:
        self.put_all(store, ["1/2/4/a", "1/2/4/ab", "1/2/4", "1/2/42/a", "1/2/4/a/b"])
        assert not store.delete(["1/2/4/a"]).remaining
        assert self.keys_under(store, "") == ["1/2/4", "1/2/4/a/b", "1/2/4/ab", "1/2/42/a"]

    def test_listed_things_go_literally(self, store: ObjectStore) -> None:
        """What the store itself named is deleted as it was named, however odd."""
        self.put_all(store, self.odd_keys)
        assert self.keys_under(store, "odd/") == sorted(self.odd_keys)
        for page in list(store.list_under("odd/")):
            assert not store.delete_found(page).remaining
        assert self.keys_under(store, "") == []

    def test_odd_keys_harm_no_other(self, store: ObjectStore) -> None:
        """One by one out of all of them: each is a key of its own."""
        self.put_all(store, self.odd_keys)
        for number, key in enumerate(self.odd_keys):
            assert not store.delete([key]).remaining
            assert self.keys_under(store, "odd/") == sorted(self.odd_keys[number + 1 :])

    def test_a_listing_knows_sizes(self, store: ObjectStore) -> None:
        """For previews."""
        self.put(store, "a/b", b"12345")
        ((found,),) = store.list_under("a/")
        assert (found.key, found.size) == ("a/b", 5)

    def test_deleting_twice_is_deleting_once(self, store: ObjectStore) -> None:
        """Attempts overlap: what another has deleted is no trouble."""
        self.put(store, "a/b")
        found: list[Found] = [one for page in store.list_under("a/") for one in page]
        for _ in range(2):
            assert not store.delete_found(found).remaining
            assert not store.delete(["a/b"]).remaining

    def test_many_threads_share_a_store(self, store: ObjectStore) -> None:
        self.put_all(store, keys := [f"t/{number}" for number in range(64)])
        with ThreadPoolExecutor(8) as threads:
            outcomes = list(threads.map(lambda key: store.delete([key]), keys))
        assert not [outcome for outcome in outcomes if outcome.remaining]
        assert self.keys_under(store, "") == []

    def test_without_unfinished_uploads_none_are_listed(self, store: ObjectStore) -> None:
        """A store that cannot look for any says so instead, by `lists_uploads`."""
        if store.lists_uploads:
            assert [one for page in store.uploads_under("") for one in page] == []
