"""Hiding in a bucket that keeps no versions: the bytes go into quarantine by a copy and a delete, and come back by a copy.

Each round has copies of its own. A delete that is carried out late can hit an object that was put meanwhile: the quarantine has
its bytes, for the key is their digest.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from activities.stores.images import Hidden, Places, Restored, Seen, StillAtWork
from activities.stores.last_word import with_last_word
from activities.stores.objects import ObjectAbsent, ObjectTooLarge, Outcome
from activities.stores.s3 import S3Objects
from activities.stores.s3_listing import OBJECTS, pages
from activities.stores.s3_wire import ask, code_of, get_object, is_readable, lacks_call, refuses_key, unavailable
from artifact_deletion.errors import StoreUnavailable, plain_code

MAX_BY_HAND = 64 * 2**20
"""Bytes of an object that goes through this process where the store has no CopyObject."""
_ABSENT, _TOO_LARGE = "NoSuchKey", "EntityTooLarge"
_HEADERS = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType", "Expires", "Metadata")


@dataclass(frozen=True)
class CopyImages:
    """An ImageStore. All versions of a hidden key go, where there are any."""

    objects: S3Objects
    """Unguarded: restoring waits for no hold."""
    quarantine: str
    """The prefix of the copies: readers of images must not reach it."""
    before_deleting: Callable[[int], None] = field(default=lambda _keys: None, repr=False, compare=False)
    """Called right before each request that hides or purges, with its number of keys; the caller raises what it raises."""

    @property
    def how(self) -> str:
        """See ImageStore."""
        return "copies"

    def in_use(self, prefix: str, *, directly: bool) -> bool:
        """See ImageStore. Hidden images lie in quarantine alone."""
        return any(self.objects.holds_any(where + prefix, directly=directly) for where in ("", self.quarantine))

    def hidden_under(self, prefix: str) -> Iterator[tuple[str, str]]:
        """See ImageStore. Where a round died before its delete, the place is readable too."""
        under = self.quarantine + prefix
        for page in pages(self.objects.client, self.objects.bucket, OBJECTS, under, Delimiter="/"):
            for copy in (one["Key"] for one in page.entries):
                place, _, round_ = copy.removeprefix(self.quarantine).rpartition(".")
                if round_.isdecimal() and place.startswith(prefix) and "/" not in place[len(prefix) :]:
                    yield place, copy

    def hide(self, places: Sequence[str], round_: int, still: StillAtWork) -> Hidden:
        """See ImageStore. Where there was nothing to copy, nothing is deleted."""
        hidden = Hidden()
        copies = {place: self.left_by(place, round_) for place in places}
        with with_last_word(still):
            copied = [place for place, copy in copies.items() if self._put_aside(place, copy, hidden)]
            deleted = _answered(self._guarded().delete(copied))
            # Of a key that is only half gone, the copy may be all that is left.
            hidden.ours |= {place: copies[place] for place in copied}
            hidden.refused |= deleted.refused
        return hidden

    def restore(self, places: Places, still: StillAtWork) -> Restored:
        """See ImageStore."""
        restored = Restored()
        with with_last_word(still):
            for place, ours in places.items():
                if self._is_readable(place):
                    restored.readable.add(place)
                else:
                    self._put_back(place, ours, restored)
        return restored

    def look(self, places: Places) -> dict[str, Seen]:
        """See ImageStore. The purge deletes the copies, and never what is readable."""
        return {
            place: Seen(is_newer=True) if self._is_readable(place) else Seen(data=[(copy, None) for copy in ours])
            for place, ours in places.items()
        }

    def purge(self, seen: Sequence[Seen]) -> Outcome:
        """See ImageStore. The outcome's keys are those of the copies."""
        return self._guarded().delete(_each(key for each in seen for key, _ in each.data))

    def clear(self, places: Places) -> Outcome:
        """See ImageStore. The outcome's keys are those of the copies."""
        return self.objects.delete(_each(copy for ours in places.values() for copy in ours))

    def left_by(self, place: str, round_: int) -> str:
        """See ImageStore."""
        return f"{self.quarantine}{place}.{round_}"

    # One object ---------------------------------------------------------------------------------------------------------

    def _put_aside(self, place: str, copy: str, hidden: Hidden) -> bool:
        """Copy it into quarantine. False if it is not to be deleted: noted as what else it is."""
        self.before_deleting(1)
        refusal = self._copy(place, copy)
        if refusal is None:
            return True
        if refusal != _ABSENT:
            hidden.refused[place] = refusal
        elif self._is_readable(copy):  # an earlier attempt has hidden it, and could not say so
            hidden.ours[place] = copy
        else:
            hidden.absent.add(place)
        return False

    def _put_back(self, place: str, ours: Sequence[str], restored: Restored) -> None:
        for copy in reversed(ours):
            refusal = self._copy(copy, place)
            if refusal is None:
                restored.readable.add(place)
                return
            if refusal != _ABSENT:
                restored.refused[place] = refusal
                return
        restored.empty.add(place)

    def _copy(self, source: str, target: str) -> str | None:
        """Copy an object with all that is said of it. Returns the store's code if it refuses, NoSuchKey if there is none."""
        client, bucket = self.objects.client, self.objects.bucket
        try:
            answer = ask(client.copy_object, Bucket=bucket, Key=target, CopySource={"Bucket": bucket, "Key": source})
        except ClientError as error:
            return self._copy_by_hand(source, target) if lacks_call(error) else _refusal(error)
        if not answer.get("CopyObjectResult", {}).get("ETag"):
            raise StoreUnavailable("the object store's answer to CopyObject names no object")
        return None

    def _copy_by_hand(self, source: str, target: str) -> str | None:
        client, bucket = self.objects.client, self.objects.bucket
        try:
            content, said = get_object(client, bucket, source, MAX_BY_HAND)
        except ObjectAbsent:
            return _ABSENT
        except ObjectTooLarge:
            return _TOO_LARGE
        told = {name: said[name] for name in _HEADERS if name in said}
        try:
            if tags := self._tags(source):
                told["Tagging"] = tags
            answer = ask(client.put_object, Bucket=bucket, Key=target, Body=content, **told)
        except ClientError as error:
            return _refusal(error)
        if "ETag" not in answer:
            raise StoreUnavailable("the object store's answer to PutObject names no object")
        return None

    def _tags(self, key: str) -> str:
        """As a header has them. A store without tags has none to copy."""
        try:
            answer = ask(self.objects.client.get_object_tagging, Bucket=self.objects.bucket, Key=key)
        except ClientError as error:
            if lacks_call(error):
                return ""
            raise
        return urlencode([(tag["Key"], tag["Value"]) for tag in answer["TagSet"]])

    def _is_readable(self, key: str) -> bool:
        return is_readable(self.objects.client, self.objects.bucket, key)

    def _guarded(self) -> S3Objects:
        return replace(self.objects, before_deleting=self.before_deleting)


def _refusal(error: ClientError) -> str:
    """Raises StoreUnavailable unless it is the store's word on this one object."""
    if refuses_key(error):
        return plain_code(code_of(error))
    raise unavailable(error) from None


def _answered(outcome: Outcome) -> Outcome:
    for code in outcome.not_yet.values():
        raise StoreUnavailable(f"the object store answered {code} for a key")
    return outcome


def _each(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(keys))
