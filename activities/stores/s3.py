"""A bucket of S3, or of a server that speaks its protocol, as an ObjectStore.

Every request is one attempt: Temporal alone retries, where an operator can see it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from activities.stores.objects import MAX_KEYS, Found, Outcome, Upload
from activities.stores.s3_listing import ELEMENT, MARKER, OBJECTS, UPLOADS, VERSIONS, Entry, pages, versions_of
from activities.stores.s3_memory import Memory
from activities.stores.s3_wire import (
    ABSENT,
    MAX_BODY,
    TRANSIENT,
    WHOLE_REQUEST,
    Batch,
    Version,
    ask,
    asks_again,
    bucket_keeps_versions,
    code_of,
    lacks_call,
    read_object,
    refuses_form,
    text_in,
    unavailable,
    write_batch,
)
from artifact_deletion.errors import StoreUnavailable, plain_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# XML 1.0 has no way to write most control characters, and some stores turn a backslash into a slash inside DeleteObjects.
_NOT_FOR_XML = re.compile("[\x00-\x1f\\\\\x7f\ufffe\uffff]")
_FEW = 8
"""Keys of a batch that was refused for its form which are no longer worth a smaller batch."""
T = TypeVar("T")


@dataclass(frozen=True)
class S3Objects:
    """Copies that dataclasses.replace makes share one memory of the bucket.

    A version whose delete the store did not answer is listed first and deleted first, whether the store shows it or not, until
    the store answers for it. A worker that dies loses this memory, and another worker never had it: see Memory.
    """

    client: "S3Client"
    bucket: str
    versioned: bool | None
    """Whether the bucket keeps versions; None: it is asked before the first delete or listing."""
    listable: bool = True
    lists_uploads: bool = True
    before_deleting: Callable[[int], None] = field(default=lambda _keys: None, repr=False, compare=False)
    """Called right before each request that deletes, with its number of keys; the caller raises what it raises."""
    memory: Memory = field(default_factory=Memory, repr=False, compare=False)

    @property
    def keeps_versions(self) -> bool:
        """Deletes go by version: a setting or the bucket's own answer, never inferred from a refusal, which is raised."""
        if self.versioned is not None:
            return self.versioned
        if self.memory.keeps_versions is None:  # threads ask beside each other at first: none waits for another's time-out
            self.memory.keeps_versions = bucket_keeps_versions(self.client, self.bucket)
        return self.memory.keeps_versions

    def read(self, key: str, limit: int) -> bytes:
        """See ObjectStore."""
        return read_object(self.client, self.bucket, key, limit)

    def delete(self, keys: Sequence[str]) -> Outcome:
        """See ObjectStore."""
        if not self.keeps_versions:
            return self._delete([(key, None) for key in keys])
        again = self.memory.unanswered(frozenset(keys).__contains__)
        before = self._delete(list(again))  # nothing is listed before these are answered
        listed = list(versions_of(self.client, self.bucket, keys))
        versions = [(one["Key"], one["VersionId"]) for one in listed]
        try:
            after = self._delete(versions)
        finally:
            self.memory.describe(map(_found, listed))
        there = {key for key, _ in (*again, *versions)}
        not_yet = before.not_yet | after.not_yet
        refused = {key: code for key, code in (before.refused | after.refused).items() if key not in not_yet}
        outcome = Outcome(refused=refused, not_yet=not_yet)
        for key in keys:
            if key not in there:
                outcome.absent.append(key)
            elif key not in refused and key not in not_yet:
                outcome.deleted.append(key)
        return outcome

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        """See ObjectStore."""
        if self.keeps_versions:
            yield from self._list_versions(prefix)
            return
        for page in pages(self.client, self.bucket, OBJECTS, prefix):
            yield from _parts([Found(one["Key"], None, _mark(one), _size(one), _written(one)) for one in page.entries])

    def holds_any(self, prefix: str, *, directly: bool) -> bool:
        """Whether anything lies under a prefix, versions that are hidden included; `directly`: outside of its folders."""
        kind = VERSIONS if self.keeps_versions else OBJECTS
        if not directly:
            return any(page.entries for page in pages(self.client, self.bucket, kind, prefix, MaxKeys=1))
        found = pages(self.client, self.bucket, kind, prefix, Delimiter="/")
        names = (one["Key"][len(prefix) :] for page in found for one in page.entries)
        return any(name and "/" not in name for name in names)  # SeaweedFS lists a folder itself that has become empty

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        """See ObjectStore."""
        try:
            return self._delete([(one.key, one.version) for one in found])
        finally:
            self.memory.describe(found)

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:
        """See ObjectStore."""
        for page in pages(self.client, self.bucket, UPLOADS, prefix):
            yield from _parts([Upload(one["Key"], one["UploadId"]) for one in page.entries])

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        """See ObjectStore."""
        outcome = Outcome()
        for one in uploads:
            self._ask_singly((one.key, None), outcome, self.client.abort_multipart_upload, UploadId=one.id)
        return outcome

    # Deleting -----------------------------------------------------------------------------------------------------------

    def _delete(self, versions: Sequence[Version]) -> Outcome:
        outcome = Outcome()
        together, singly = versions, []
        if _NOT_FOR_XML.search("".join([key for key, _ in versions])):
            together = [one for one in versions if not _NOT_FOR_XML.search(one[0])]
            singly = [one for one in versions if _NOT_FOR_XML.search(one[0])]
        for start in range(0, len(together), MAX_KEYS):
            self._delete_together(together[start : start + MAX_KEYS], outcome)
        self._delete_singly(singly, outcome)
        return outcome

    def _delete_together(self, versions: Sequence[Version], outcome: Outcome) -> None:
        body = write_batch(versions)
        if len(body) > MAX_BODY:
            self._delete_halves(versions, outcome)
            return
        self.before_deleting(len(versions))
        try:
            with self.memory.until_answered(versions):
                answer = ask(self.client.delete_objects, Bucket=self.bucket, Delete=Batch(body))
        except ClientError as error:
            if lacks_call(error):
                self._delete_singly(versions, outcome)
            elif refuses_form(error):
                self._delete_halves(versions, outcome)
            else:
                raise unavailable(error) from None
            return
        if errors := answer.get("Errors"):
            self._sort_errors(versions, errors, outcome)
            return
        outcome.deleted += [key for key, _ in versions]
        self.memory.forget(versions)

    def _delete_halves(self, versions: Sequence[Version], outcome: Outcome) -> None:
        """For a batch that is too large, or holds a key that the store cannot read: the rest goes without it."""
        if len(versions) <= _FEW:
            self._delete_singly(versions, outcome)
            return
        half = len(versions) // 2
        for part in (versions[:half], versions[half:]):
            self._delete_together(part, outcome)

    def _sort_errors(self, versions: Sequence[Version], errors: Iterable[Any], outcome: Outcome) -> None:
        failed = {(text_in(error, "Key"), text_in(error, "VersionId")): text_in(error, "Code") or "Unknown" for error in errors}
        by_key = {key: code for (key, _), code in failed.items()}
        if not by_key.keys() <= {key for key, _ in versions}:
            self.memory.remember(versions)
            raise StoreUnavailable(
                "the object store reported an error for a key that was not asked for: nothing is taken as deleted"
            )
        for one in versions:
            # Some servers name the version in an error, some do not; either way the key is not gone.
            self._sort(one, failed.get(one, by_key.get(one[0])), outcome)

    def _delete_singly(self, versions: Iterable[Version], outcome: Outcome) -> None:
        for one in versions:
            named = {} if one[1] is None else {"VersionId": one[1]}
            self._ask_singly(one, outcome, self.client.delete_object, **named)

    def _ask_singly(self, one: Version, outcome: Outcome, call: Callable[..., Any], **named: str) -> None:
        """Make a request that is about one key, and put the key where the answer says."""
        self.before_deleting(1)
        try:
            with self.memory.until_answered([one]):
                ask(call, Bucket=self.bucket, Key=one[0], **named)
        except ClientError as error:
            if code_of(error) in WHOLE_REQUEST:
                raise unavailable(error) from None
            self._sort(one, code_of(error), outcome, is_transient=asks_again(error))
        else:
            self._sort(one, None, outcome)

    def _sort(self, one: Version, code: str | None, outcome: Outcome, *, is_transient: bool = False) -> None:
        key = one[0]
        if is_transient or code in TRANSIENT:
            outcome.not_yet[key] = plain_code(code)
            self.memory.remember([one])  # it may be half gone
            return
        self.memory.forget([one])
        if code is None:
            outcome.deleted.append(key)
        elif code in ABSENT:
            outcome.absent.append(key)
        else:
            outcome.refused[key] = plain_code(code)

    # Versions -----------------------------------------------------------------------------------------------------------

    def _list_versions(self, prefix: str) -> Iterator[Sequence[Found]]:
        again = self.memory.unanswered(lambda key: key.startswith(prefix))
        # The store is asked for its list when these have been dealt with, and not again in the same listing.
        yield from _parts([again[one] for one in sorted(again)])
        for page in pages(self.client, self.bucket, VERSIONS, prefix):
            yield from _parts([_found(one) for one in page.entries if (one["Key"], one["VersionId"]) not in again])


def _found(entry: Entry) -> Found:
    """A version or a marker."""
    return Found(
        entry["Key"],
        version := entry["VersionId"],
        _mark(entry) if version == "null" else "",
        _size(entry),
        _written(entry),
        is_marker=entry[ELEMENT] == MARKER,
        is_latest=entry.get("IsLatest", "").strip().lower() == "true",
    )


def _mark(entry: Entry) -> str:
    return f"{entry.get('ETag')} {entry.get('LastModified')}"


def _size(entry: Entry) -> int:
    """It is for previews; a marker has none."""
    size = entry.get("Size", "")
    return int(size) if size.isdecimal() else 0


def _written(entry: Entry) -> datetime | None:
    try:
        moment = datetime.fromisoformat(entry.get("LastModified", ""))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _parts(entries: Sequence[T]) -> Iterator[Sequence[T]]:
    """By as many as one request deletes: a store may list more at a time."""
    return (entries[start : start + MAX_KEYS] for start in range(0, len(entries), MAX_KEYS))
