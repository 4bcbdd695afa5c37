"""S3's listings, page by page, none of which is believed before it was looked at.

boto3's own paginators end in silence where a listing goes on and does not say how, and its decoding of keys differs from call
to call. What a listing shows is deleted: so a page with a key outside the prefix, or without what a delete needs, is no answer.
All looks are at a whole page at once: a thousand entries a request are most of our CPU.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, unquote_plus

from botocore import xform_name
from botocore.exceptions import ClientError

from activities.stores.s3_wire import TREE, answered_as_tree, ask, unavailable
from artifact_deletion.errors import StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONTROLS = re.compile("[\x00-\x1f]")
_SEARCHED_SINGLY = 4
"""Keys of one folder that are looked for one by one: all that its folders hold may begin as they do."""
Entry = dict[str, str]
ELEMENT = ""
"""The part of an entry that names its element: no part of an answer has an empty name."""
MARKER = "DeleteMarker"


@dataclass(frozen=True)
class Kind:
    """A kind of listing."""

    operation: str
    """S3's name for it."""
    results: frozenset[str]
    """The elements that are entries."""
    needed: Sequence[str]
    """What an entry must have to be deleted."""
    marks: Mapping[str, str]
    """The parameters of the next request, and which element of the answer each is."""
    says_encoding: bool = True
    """False for uploads: SeaweedFS says that it encoded their keys and did not, Ceph encodes them and does not say so."""


OBJECTS = Kind("ListObjectsV2", frozenset({"Contents"}), ("Key",), {"ContinuationToken": "NextContinuationToken"})
VERSIONS = Kind(
    "ListObjectVersions",
    frozenset({"Version", MARKER}),
    ("Key", "VersionId"),
    {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"},
)
UPLOADS = Kind(
    "ListMultipartUploads",
    frozenset({"Upload"}),
    ("Key", "UploadId"),
    {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
    says_encoding=False,
)


class Page(NamedTuple):
    """One answer."""

    entries: list[Entry]
    is_last: bool


def pages(client: "S3Client", bucket: str, kind: Kind, prefix: str, **more: object) -> Iterator[Page]:
    """Every page of a listing, from its beginning to its end. Raises StoreUnavailable, and yields nothing of such a page.

    `more`: parameters of S3's, such as a Delimiter, or a marker to begin after.
    """
    place: dict[str, str] = {}
    places = set()
    while True:
        answer = _ask(client, kind, {"Bucket": bucket, "Prefix": prefix, **more, **place})
        entries = _checked(answer, kind, prefix)
        place = _next_place(answer, kind, prefix)
        if place:
            if (here := tuple(place.items())) in places:
                raise StoreUnavailable(f"the object store's {kind.operation} comes back to a place where it was before")
            places.add(here)
        yield Page(entries, is_last=not place)
        if not place:
            return


def versions_of(client: "S3Client", bucket: str, keys: Iterable[str]) -> Iterator[Entry]:
    """Every version and marker of these keys. Raises StoreUnavailable.

    No listing begins at a marker of ours: MinIO refused one outside the prefix, and moto passes over the first version
    after one that is no key. So keys that lie beside each other are looked for under the beginning that they share.
    """
    groups = [[*group] for _, group in groupby(sorted(set(keys), key=_folder_first), key=lambda key: _folder_first(key)[0])]
    while groups:
        group = groups.pop()
        if 1 < len(group) <= _SEARCHED_SINGLY:
            groups += [[key] for key in group]
            continue
        found, unsure = _look_for(client, bucket, group)
        yield from found
        groups += unsure


def _look_for(client: "S3Client", bucket: str, keys: Sequence[str]) -> tuple[list[Entry], list[list[str]]]:
    """The versions of keys of one folder, and groups of keys that are to be looked for again, under longer prefixes."""
    prefix, wanted = commonprefix(keys), frozenset(keys)  # noqa: RUF071  the store compares character by character too
    found: list[Entry] = []
    others = read = 0
    for page in pages(client, bucket, VERSIONS, prefix):
        read += 1
        of_ours = [one for one in page.entries if one["Key"] in wanted]
        found += of_ours
        others += len(page.entries) - len(of_ours)
        if len(keys) > 1 and others >= len(keys) and not page.is_last:
            by_next = groupby(keys, key=lambda key: key[len(prefix) : len(prefix) + 1])
            return [], [[*group] for _, group in by_next]
    if len(keys) == 1 or read == 1:
        return found, []
    # Between two pages SeaweedFS loses keys beside a folder of their name: only a listing of one page says absent.
    return found, [[key] for key in sorted(wanted - {one["Key"] for one in found})]


def _folder_first(key: str) -> tuple[str, str]:
    folder, _, name = key.rpartition("/")
    return folder, name


class _Answer(NamedTuple):
    entries: list[Entry]
    said: Entry
    """All that is no entry."""
    is_encoded: bool


def _ask(client: "S3Client", kind: Kind, asked: dict[str, Any]) -> _Answer:
    """XML has no way to write some characters that keys may have: they are asked for as they stand in a URL."""
    # Said by ourselves, it keeps botocore from decoding some listings and not others.
    answer = _ask_once(client, kind, {**asked, "EncodingType": "url"})
    keys = [one.get("Key", "") for one in answer.entries]
    decoded = keys if kind.says_encoding else [unquote_plus(key) for key in keys]
    if decoded == keys:
        return answer
    if any(_CONTROLS.search(key) for key in decoded):
        return answer._replace(is_encoded=True)
    # Unasked, every store writes keys as they are.
    return _ask_once(client, kind, asked)


def _ask_once(client: "S3Client", kind: Kind, asked: dict[str, Any]) -> _Answer:
    try:
        with answered_as_tree():
            root = ask(getattr(client, xform_name(kind.operation)), **asked)[TREE]
    except ClientError as error:
        raise unavailable(error) from None
    name = root.tag.rfind("}") + 1
    entries: list[Entry] = []
    said: Entry = {}
    for one in root:
        if one.tag[name:] in kind.results:
            entry = {part.tag[name:]: part.text or "" for part in one}
            entry[ELEMENT] = one.tag[name:]
            entries.append(entry)
        else:
            said[one.tag[name:]] = one.text or ""
    return _Answer(entries, said, said.get("EncodingType") == "url")


def _checked(answer: _Answer, kind: Kind, prefix: str) -> list[Entry]:
    for name in kind.needed:
        if not all(one.get(name) for one in answer.entries):
            raise StoreUnavailable(f"the object store's {kind.operation} has an entry without {name}")
    if answer.is_encoded:
        keys = _decoded([one["Key"] for one in answer.entries], prefix)
        for one, key in zip(answer.entries, keys, strict=True):
            one["Key"] = key
    if not all(one["Key"].startswith(prefix) for one in answer.entries):
        raise StoreUnavailable(f"the object store's {kind.operation} has a key outside the prefix that it was asked for")
    return answer.entries


def _decoded(keys: Sequence[str], prefix: str) -> list[str]:
    """S3 writes a space as a plus sign. A store that leaves plus signs alone is found out where the prefix has one."""
    decoded = [unquote_plus(key) for key in keys]
    if "+" in prefix and not all(key.startswith(prefix) for key in decoded):
        return [unquote(key) for key in keys]
    return decoded


def _next_place(answer: _Answer, kind: Kind, prefix: str) -> dict[str, str]:
    """The parameters that the next page is asked for with; none after the last."""
    place = {name: text for name, element in kind.marks.items() if (text := answer.said.get(element))}
    # A last page may have markers too, if it says that it is the last.
    if answer.said.get("IsTruncated", str(bool(place))).strip().lower() != "true":
        return {}
    marker = place.get("KeyMarker")
    # Ceph encodes the keys and not the marker, which is the last of them.
    if answer.is_encoded and marker and [marker] != [one["Key"] for one in answer.entries[-1:]]:
        (place["KeyMarker"],) = _decoded([marker], prefix)
    if not place or ("VersionIdMarker" in place and "KeyMarker" not in place):
        raise StoreUnavailable(f"the object store's {kind.operation} goes on, and does not say from where")
    if not place.get("KeyMarker", prefix).startswith(prefix):
        raise StoreUnavailable(f"the object store's {kind.operation} goes on outside the prefix that it was asked for")
    return place
