"""Hiding in a bucket that keeps versions: a delete marker lies over the bytes, and is taken away again or goes with them.

A marker's id is the only order that is believed: a server may list versions and markers apart, and times have whole seconds.
What a listing gives after our marker lies below it, and is what the round has hidden. What does not came later.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from botocore.exceptions import ClientError

from activities.stores.images import Hidden, Places, Restored, Seen, StillAtWork
from activities.stores.last_word import with_last_word
from activities.stores.objects import Found, Outcome
from activities.stores.s3 import S3Objects
from activities.stores.s3_listing import ELEMENT, MARKER, VERSIONS, Entry, pages, versions_of
from activities.stores.s3_wire import ABSENT, TRANSIENT, Batch, Version, ask, text_in, unavailable, write_batch
from artifact_deletion.errors import StoreUnavailable, plain_code

_STILL_THERE = "StillThere"
"""The store said that a marker is deleted, and lists it again."""
_NO_LATEST = "the object store's ListObjectVersions does not say which version of a key is the latest"
_NO_ID = (None, "", "null")
"""Of a marker in a bucket whose versioning is suspended: the object has gone, and not under the marker."""


@dataclass(frozen=True)
class MarkerImages:
    """An ImageStore. Its bucket's versioning must be Enabled: see images_of."""

    objects: S3Objects
    """Unguarded: restoring waits for no hold."""
    before_deleting: Callable[[int], None] = field(default=lambda _keys: None, repr=False, compare=False)
    """Called right before each request that hides or purges, with its number of keys; the caller raises what it raises."""

    @property
    def how(self) -> str:
        """See ImageStore."""
        return "markers"

    def in_use(self, prefix: str, *, directly: bool) -> bool:
        """See ImageStore."""
        return self.objects.holds_any(prefix, directly=directly)

    def hidden_under(self, prefix: str) -> Iterator[tuple[str, str]]:
        """See ImageStore. A marker over nothing hides nothing; its data may be on a later page."""
        tops: dict[str, str] = {}
        last = ""
        for page in pages(self.objects.client, self.objects.bucket, VERSIONS, prefix, Delimiter="/"):
            entries = [one for one in page.entries if "/" not in one["Key"][len(prefix) :]]
            latest, markers, keys = _latest(entries), set(_markers(entries)), {one["Key"] for one in entries}
            said = [key for key, _ in latest]
            if len(said) > len(set(said)) or keys - {last, *said}:
                raise StoreUnavailable(_NO_LATEST)
            tops |= {key: version for key, version in latest if (key, version) in markers and version not in _NO_ID}
            for key in dict.fromkeys(key for key, _ in _data(entries)):
                if (top := tops.pop(key, None)) is not None:
                    yield key, top
            last = max(keys, default=last)

    def hide(self, places: Sequence[str], round_: int, still: StillAtWork) -> Hidden:  # noqa: ARG002  its markers have ids
        """See ImageStore. A key that has no object gets a marker too."""
        keys = list(dict.fromkeys(places))
        if not keys:
            return Hidden()
        self.before_deleting(len(keys))
        body = write_batch([(key, None) for key in keys], quiet=False)
        try:
            with with_last_word(still):
                answer = ask(self.objects.client.delete_objects, Bucket=self.objects.bucket, Delete=Batch(body))
        except ClientError as error:
            raise unavailable(error) from None
        hidden, unnamed = _hidden(keys, answer)
        # Ceph puts no second marker over one, and names none.
        hidden.ours |= {place: _on_top(entries) for place, entries in self._listed(unnamed).items()}
        return hidden

    def restore(self, places: Places, still: StillAtWork) -> Restored:
        """See ImageStore. A marker that was listed may be of a round that has begun since: then `still` raises."""
        restored = Restored()
        tried: set[Version] = set()
        listed = self._listed(places)
        while listed:
            tops = _tops(listed, restored)
            restored.refused |= {key: _STILL_THERE for key, _ in tops & tried}
            still()
            outcome = _answered(self.objects.delete_found([Found(*one) for one in sorted(tops - tried)]))
            restored.refused |= outcome.refused
            tried |= tops
            listed = self._listed({key for key, _ in tops} - restored.refused.keys())
        return restored

    def look(self, places: Places) -> dict[str, Seen]:
        """See ImageStore."""
        listed = self._listed(places)
        seen = {place: self._seen(place, listed[place], ours[-1] if ours else None) for place, ours in places.items()}
        # Versions that the store may have lost from its index alone: see Memory.
        for one in self.objects.memory.unanswered(places.__contains__):
            at = seen[one[0]]
            if not at.is_newer and one not in (*at.data, *at.markers):
                at.data = [*at.data, one]
        return seen

    def purge(self, seen: Sequence[Seen]) -> Outcome:
        """See ImageStore. Where data stay, so do the markers that hide them."""
        store = replace(self.objects, before_deleting=self.before_deleting)
        data = store.delete_found([Found(*one) for each in seen for one in each.data])
        remaining = data.remaining
        markers = store.delete_found([Found(*one) for each in seen for one in each.markers if one[0] not in remaining])
        return _together(data, markers)

    def clear(self, places: Places) -> Outcome:
        """See ImageStore."""
        over_nothing = [entries for entries in self._listed(places).values() if not _data(entries)]
        return self.objects.delete_found([Found(*one) for entries in over_nothing for one in _markers(entries)])

    def left_by(self, place: str, round_: int) -> None:
        """See ImageStore. The store alone gives ids to markers."""

    # What lies at a place -----------------------------------------------------------------------------------------------

    def _listed(self, places: Iterable[str]) -> dict[str, list[Entry]]:
        listed: dict[str, list[Entry]] = {place: [] for place in places}
        for one in versions_of(self.objects.client, self.objects.bucket, listed):
            listed[one["Key"]].append(one)
        return listed

    def _seen(self, place: str, entries: Sequence[Entry], ours: str | None) -> Seen:
        """`ours`: the newest, if there is any."""
        data, markers = _data(entries), _markers(entries)
        if not data or [(place, ours)] == markers == _latest(entries):
            return Seen(data=data, markers=markers)
        return Seen(is_newer=True) if ours is None else self._seen_below(place, ours)

    def _seen_below(self, place: str, ours: str) -> Seen:
        """Other markers are there, or data above ours, or ours is gone."""
        below = set(self._of_one(place, KeyMarker=place, VersionIdMarker=ours))
        # Asked for in this order, ours was there all the while: after an id that is gone a server may list anything.
        entries = self._of_one(place).values()
        data, markers = _data(entries), _markers(entries)
        if (place, ours) not in markers or not below.issuperset(data):
            return Seen(is_newer=True)
        return Seen(data=data, markers=markers)

    def _of_one(self, place: str, **after: str) -> dict[Version, Entry]:
        found = pages(self.objects.client, self.objects.bucket, VERSIONS, place, **after)
        return {_version(one): one for page in found for one in page.entries if one["Key"] == place}


# Answers and listings ---------------------------------------------------------------------------------------------------


def _hidden(keys: Sequence[str], answer: Mapping[str, Any]) -> tuple[Hidden, list[str]]:
    """What became of each key, and the keys whose marker is not named.

    Raises StoreUnavailable unless the answer is about each key once, and about no other.
    """
    marked = {text_in(one, "Key"): text_in(one, "DeleteMarkerVersionId") for one in answer.get("Deleted", ())}
    failed = {text_in(one, "Key"): text_in(one, "Code") or "Unknown" for one in answer.get("Errors", ())}
    said = len(answer.get("Deleted", ())) + len(answer.get("Errors", ()))
    if said != len(keys) or {*marked, *failed} != set(keys):
        raise StoreUnavailable("the object store's answer to DeleteObjects is not about the keys that were asked for")
    hidden, unnamed = Hidden(), []
    for key in keys:
        code = failed.get(key)
        if code in TRANSIENT:
            raise StoreUnavailable(f"the object store answered {plain_code(code)} for a key of DeleteObjects")
        if code in ABSENT:
            hidden.absent.add(key)
        elif code is not None:
            hidden.refused[key] = plain_code(code)
        elif (marker := marked[key]) is None or marker in _NO_ID:
            unnamed.append(key)
        else:
            hidden.ours[key] = marker
    return hidden, unnamed


def _on_top(entries: Sequence[Entry]) -> str:
    """The id of the marker that hides a place. Raises StoreUnavailable if none is on top."""
    latest = _latest(entries)
    if len(latest) != 1 or latest[0] not in _markers(entries) or latest[0][1] in _NO_ID:
        raise StoreUnavailable("the object store has no delete marker of a key that it deleted: does the bucket keep versions?")
    return latest[0][1]


def _tops(listed: Mapping[str, Sequence[Entry]], restored: Restored) -> set[Version]:
    """The markers that hide data. What needs no more work is noted as restored."""
    tops: set[Version] = set()
    for place, entries in listed.items():
        latest = _latest(entries)
        if not _data(entries):
            restored.empty.add(place)
        elif len(latest) != 1:
            raise StoreUnavailable(_NO_LATEST)
        elif latest[0] in _markers(entries):
            tops.add(latest[0])
        else:
            restored.readable.add(place)
    return tops


def _answered(outcome: Outcome) -> Outcome:
    for code in outcome.not_yet.values():
        raise StoreUnavailable(f"the object store answered {code} for a version")
    return outcome


def _together(one: Outcome, other: Outcome) -> Outcome:
    return Outcome(
        deleted=one.deleted + other.deleted,
        absent=one.absent + other.absent,
        refused=one.refused | other.refused,
        not_yet=one.not_yet | other.not_yet,
    )


def _version(entry: Entry) -> tuple[str, str]:
    return entry["Key"], entry["VersionId"]


def _data(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    return [_version(one) for one in entries if one[ELEMENT] != MARKER]


def _markers(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    return [_version(one) for one in entries if one[ELEMENT] == MARKER]


def _latest(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    return [_version(one) for one in entries if one.get("IsLatest", "").strip().lower() == "true"]
