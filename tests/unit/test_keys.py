"""The rules of ownership as tables: what a manifest, a column or an id may name, and what no one may make us touch."""

import json

import pytest

from activities.backend.contract import ArtifactRef, UnreadableManifest
from activities.backend.keys import (
    Scopes,
    WhyStray,
    archive_key,
    artifact_prefix,
    column_key,
    comparison_prefix,
    icon_file_id,
    icon_key,
    trace_id,
    why_stray,
)
from activities.backend.manifests import comparison_manifest, image_hashes, parse_manifest, snapshot_manifest
from activities.backend.own_keys import MAX_KEY_BYTES, lies_under, well_formed

FOUR = ArtifactRef(1, 2, 4)
FORTY_TWO = ArtifactRef(1, 2, 42)

ODD_BUT_PLAIN = [
    "a",
    "1/2/4/manifest.json",
    "1/2/4/Écran d'accueil.png",
    "1/2/4/日本語/🙂.png",
    "1/2/4/.hidden",
    "1/2/4/...",
    "1/2/4/a..b",
    "1/2/4/..b",
    "1/2/4/ ",
    "1/2/4/%2e%2e/42",  # a store takes it letter by letter
    "1/2/4/a?b#c&d",
    "\u00a0",
    "x" * MAX_KEY_BYTES,
    "é" * (MAX_KEY_BYTES // 2),
    "🙂" * (MAX_KEY_BYTES // 4),
]
MALFORMED = [
    "",
    "/",
    "/1/2/4/a",
    "1/2/4/",
    "1/2/4//a",
    "1/2/4/./a",
    ".",
    "./a",
    "..",
    "../a",
    "1/2/4/../42/a",
    "1/2/4/a/..",
    "1/2/4\\..\\42",
    "1/2/4/a\\b",
    *(f"1/2/4/a{chr(code)}b" for code in (0, 1, 9, 10, 13, 0x1F, 0x7F, 0x80, 0x85, 0x9F)),
    "1/2/4/a\n",
    "1/2/4/\ud800",
    "1/2/4/\udfff",
    "x" * (MAX_KEY_BYTES + 1),
    "é" * (MAX_KEY_BYTES // 2) + "x",
    "🙂" * (MAX_KEY_BYTES // 4) + "x",
]


@pytest.mark.parametrize("key", ODD_BUT_PLAIN)
def test_a_key_that_every_store_takes_alike_is_well_formed(key: str) -> None:
    """Users name images: whatever is merely unusual must be deleted like all else."""
    assert well_formed(key)


@pytest.mark.parametrize("key", MALFORMED)
def test_a_key_that_a_store_might_read_as_another_is_not_well_formed(key: str) -> None:
    """A path that is resolved, folded or cut on its way would hit another's object."""
    assert not well_formed(key)
    assert not lies_under(key, artifact_prefix(FOUR))
    assert not lies_under(key, key)


@pytest.mark.parametrize(
    ("key", "owned"),
    [
        ("1/2/4/manifest.json", True),
        ("1/2/4/3/diff/a.png", True),
        ("1/2/4/42/comparison.json", True),
        ("1/2/42/manifest.json", False),
        ("1/2/42/4/diff/a.png", False),
        ("1/2/4", False),
        ("1/2/4.json", False),
        ("1/2/04/manifest.json", False),
        ("1/2/4 /manifest.json", False),
        ("1/2/\uff14/manifest.json", False),
        ("1/3/4/manifest.json", False),
        ("2/2/4/manifest.json", False),
        ("11/2/4/manifest.json", False),
        ("x/1/2/4/manifest.json", False),
        ("preprod/org.1/project.2/objects/1/2/4/manifest.json", False),
        ("1/2/" + "a" * 64, False),
        ("1/2/icn_1", False),
        ("snapshot_archives/4.zip", False),
    ],
)
def test_only_what_lies_under_the_artifacts_own_prefix_is_its_own(key: str, *, owned: bool) -> None:
    """Artifact 4 does not own 42's objects, nor those of another project or organization, nor the shared images."""
    assert lies_under(key, artifact_prefix(FOUR)) is owned


@pytest.mark.parametrize("key", [None, True, 4, 4.0, float("nan"), b"1/2/4/a", ["1/2/4/a"], {"1/2/4/a": 1}, ("1/2/4/a",)])
def test_a_value_that_is_no_string_is_no_key(key: object) -> None:
    """JSON may hold anything where a key is expected."""
    assert not lies_under(key, artifact_prefix(FOUR))


def test_without_a_prefix_nothing_is_owned() -> None:
    """A prefix that was never set must not come to mean everything."""
    assert not lies_under("1/2/4/a", "")
    found = comparison_manifest(b'{"images": {"a": {"diff_mask_key": "1/2/4/3/diff/a.png"}}}', "")
    assert (found.owned, found.strays) == (set(), ["1/2/4/3/diff/a.png"])


def test_a_comparisons_prefix_is_the_heads_and_not_that_of_the_pair_the_other_way_round() -> None:
    """Head 4 against base 42 and head 42 against base 4 are two comparisons."""
    assert comparison_prefix(FOUR, 42) == "1/2/4/42/"
    assert comparison_prefix(FORTY_TWO, 4) == "1/2/42/4/"
    assert not lies_under("1/2/4/421/comparison.json", comparison_prefix(FOUR, 42))
    assert not lies_under("1/2/42/4/comparison.json", comparison_prefix(FOUR, 42))


def test_ids_derive_the_archive_and_the_trace_id() -> None:
    """Both are spelled out by the backend too, so they are fixed here to the letter."""
    assert (archive_key(FOUR), archive_key(FORTY_TWO)) == ("snapshot_archives/4.zip", "snapshot_archives/42.zip")
    assert trace_id(FORTY_TWO) == "c8fba221175f54549b7079f9156efce9"
    assert trace_id(ArtifactRef(7, 8, 42)) == trace_id(FORTY_TWO) != trace_id(FOUR)


def test_every_usecase_of_a_project_is_a_scope_in_the_order_given() -> None:
    """Manifests are looked for in this order, and prefixes swept in all of them."""
    scopes = Scopes("{usecase}/org.{organization_id}/project.{project_id}/objects/", ("preprod", "snapshots"))
    assert scopes.of(FOUR) == ("preprod/org.1/project.2/objects/", "snapshots/org.1/project.2/objects/")


@pytest.mark.parametrize(
    ("app_icon_id", "key"),
    [
        ("icn_9f2c41d07be3", "1/2/icn_9f2c41d07be3"),
        ("icn_A-b_9", "1/2/icn_A-b_9"),
        ("icn_" + "a" * 1016, "1/2/icn_" + "a" * 1016),
        ("icn_" + "a" * 1017, None),
        ("icn_", None),
        ("icn", None),
        ("ICN_1", None),
        (" icn_1", None),
        ("icn_1\n", None),
        ("icn_1/2", None),
        ("icn_1/../4/manifest.json", None),
        ("icn_..", None),
        ("icn_é", None),
        ("icn_\uff11", None),
        ("icn_a.png", None),
        ("xicn_1", None),
        ("17", None),
        ("", None),
        (None, None),
    ],
)
def test_an_icon_is_one_plain_segment_of_its_project(app_icon_id: str | None, key: str | None) -> None:
    """Anything more could name a neighbour's object: icons lie beside the artifacts, not under them."""
    assert icon_key(FOUR, app_icon_id) == key


@pytest.mark.parametrize(
    ("app_icon_id", "file_id"),
    [
        ("1", 1),
        ("17", 17),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
        ("9" * 40, None),
        ("0", None),
        ("007", None),
        ("-1", None),
        ("+1", None),
        (" 1", None),
        ("1\n", None),
        ("1.0", None),
        ("1e3", None),
        ("1_000", None),
        ("0x1", None),
        ("\uff11\uff17", None),
        ("²", None),
        ("icn_1", None),
        ("", None),
        (None, None),
    ],
)
def test_a_file_id_is_a_plain_positive_number_that_a_bigint_holds(app_icon_id: str | None, file_id: int | None) -> None:
    """Whatever else int() takes for a number is no id that the backend wrote; beyond 63 bits the query would fail."""
    assert icon_file_id(app_icon_id) == file_id


@pytest.mark.parametrize(
    ("extras", "found"),
    [
        ({"manifest_key": "1/2/4/manifest.json"}, "1/2/4/manifest.json"),
        ({"manifest_key": ["a"]}, ["a"]),
        ({"manifest_key": 7}, 7),
        ({"manifest_key": ""}, None),
        ({"manifest_key": None}, None),
        ({"Manifest_key": "a"}, None),
        ({}, None),
        (None, None),
        ([], None),
        (["manifest_key"], None),
        ("manifest_key", None),
        (7, None),
    ],
)
def test_a_json_column_names_something_or_nothing_whatever_it_holds(extras: object, found: object) -> None:
    """A JSON column may be no object at all; what it names is judged later, whatever its type."""
    assert column_key(extras, "manifest_key") == found


MANIFEST = json.dumps(
    {"summary": {"total": 1}, "images": {"É.png": {"status": "changed", "diff_mask_key": "1/2/4/a"}}}
).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"null",
        b"true",
        b"7",
        b"NaN",
        b'"images"',
        b"[]",
        b'[{"images": {}}]',
        b"{}",
        b'{"Images": {}}',
        b'{"images": null}',
        b'{"images": []}',
        b'{"images": [{"a": {}}]}',
        b'{"images": "a"}',
        b'{"images": 1}',
        b'{"images": NaN}',
        b'{"images": {}} trailing',
        b'{"images": {}}{"images": {}}',
        b"{'images': {}}",
        b'{"images": {"a": {"size": ' + b"1" * 5000 + b"}}}",
        b'{"images": {"\xe9.png": {}}}',
        b"\x89PNG\r\n\x1a\n",
        b"\x00" * 16,
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"images": ' * 100_000,
        b'{"images": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b"<Error><Code>NoSuchKey</Code></Error>",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_no_manifest_is_unreadable_and_never_empty(content: bytes) -> None:
    """An empty manifest would say that there are no masks; an unreadable one is recorded as such."""
    with pytest.raises(UnreadableManifest):
        parse_manifest(content)


def test_a_manifest_cut_off_anywhere_is_unreadable() -> None:
    """Half a manifest names half the masks."""
    for length in range(len(MANIFEST)):
        with pytest.raises(UnreadableManifest):
            parse_manifest(MANIFEST[:length])
    assert list(parse_manifest(MANIFEST)) == ["É.png"]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b'{"images": {}}', []),
        (b'{"images": {"a": {}, "": {}}, "later": [1, null]}', ["a", ""]),
        (b'{"images": {"a": {"threshold": NaN, "size": Infinity}}}', ["a"]),
        (b'{"images": {"a": null, "b": 7, "c": []}}', ["a", "b", "c"]),
        (b'\xef\xbb\xbf{"images": {"a": {}}}', ["a"]),
        ('{"images": {"É.png": {}}}'.encode("utf-16"), ["É.png"]),
    ],
)
def test_a_manifest_may_hold_more_than_we_know(content: bytes, names: list[str]) -> None:
    """Unknown fields are normal, and one odd image must not hide the others' masks."""
    assert list(parse_manifest(content)) == names


def test_masks_are_named_by_any_image_and_sorted_by_whose_they_are() -> None:
    """A mask key may be of any type and point anywhere: outside of the comparison's prefix it is a stray, and counted."""
    images = {
        "mine": {"diff_mask_key": "1/2/4/3/diff/a.png"},
        "versioned": {"status": "changed", "diff_mask_key": "1/2/4/3/runs/f/diff/b.png"},
        "another base's": {"diff_mask_key": "1/2/4/33/diff/a.png"},
        "another's": {"diff_mask_key": "1/2/42/3/diff/a.png"},
        "another organization's": {"diff_mask_key": "9/2/4/3/diff/a.png"},
        "up": {"diff_mask_key": "1/2/4/3/../../42/manifest.json"},
        "empty": {"diff_mask_key": ""},
        "number": {"diff_mask_key": 7},
        "false": {"diff_mask_key": False},
        "list": {"diff_mask_key": ["1/2/4/3/diff/a.png"]},
        "object": {"diff_mask_key": {"key": "1/2/4/3/diff/a.png"}},
        "null": {"diff_mask_key": None},
        "none": {"status": "unchanged"},
        "text": "1/2/4/3/diff/c.png",
        "nothing": None,
    }
    masks = comparison_manifest(json.dumps({"images": images}).encode(), comparison_prefix(FOUR, 3))
    assert (masks.kind, sorted(masks.owned)) == ("diff_mask", ["1/2/4/3/diff/a.png", "1/2/4/3/runs/f/diff/b.png"])
    assert masks.strays == [
        "1/2/4/33/diff/a.png",
        "1/2/42/3/diff/a.png",
        "9/2/4/3/diff/a.png",
        "1/2/4/3/../../42/manifest.json",
        "",
        7,
        False,
        ["1/2/4/3/diff/a.png"],
        {"key": "1/2/4/3/diff/a.png"},
    ]


def test_images_are_counted_by_content_in_both_formats() -> None:
    """Two names of one image are one object; in older manifests the name is the hash."""
    images = {
        "login.png": {"content_hash": "aa"},
        "again.png": {"content_hash": "aa"},
        "bb": {"display_name": "old format"},
        "cc": "old format too",
        "broken.png": {"content_hash": None},
        "odd.png": {"content_hash": ["aa"]},
    }
    assert image_hashes(images) == {"aa", "bb", "cc"}
    of_snapshot = snapshot_manifest(json.dumps({"images": images}).encode())
    assert (of_snapshot.images, of_snapshot.owned, of_snapshot.strays) == ({"aa", "bb", "cc"}, set(), [])


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (7, WhyStray.NO_TEXT),
        (None, WhyStray.NO_TEXT),
        ("", WhyStray.MALFORMED),
        ("/1/2/4/3/diff/a.png", WhyStray.MALFORMED),
        ("1/2/4/../42/manifest.json", WhyStray.MALFORMED),
        ("1/2/4/3/diff/a\n.png", WhyStray.MALFORMED),
        ("1/2/4/" + "x" * 2000, WhyStray.MALFORMED),
        ("9/2/4/3/diff/a.png", WhyStray.ORGANIZATION),
        ("1/9/4/3/diff/a.png", WhyStray.PROJECT),
        ("1/2/42/3/diff/a.png", WhyStray.ARTIFACT),
        ("1/2/4/33/diff/a.png", WhyStray.COMPARISON),
        ("1/2/icn_first", WhyStray.SHARED),
        ("1/2", WhyStray.SHARED),
        ("1/2/" + "a" * 64, WhyStray.SHARED),
        ("snapshot_archives/42.zip", WhyStray.ELSEWHERE),
        ("preprod/org.1/project.2/objects/1/2/4/manifest.json", WhyStray.ELSEWHERE),
        ("01/2/4/3/diff/a.png", WhyStray.ELSEWHERE),
        ("manifest.json", WhyStray.ELSEWHERE),
    ],
)
def test_a_stray_has_a_reason_in_words(key: object, reason: WhyStray) -> None:
    """For a person who looks at a preview: whose it seems to be, from the key alone."""
    assert why_stray(key, FOUR) == reason
