"""The rules of a reconcile as tables: whose a key is, its age, and its class."""

from datetime import UTC, datetime, timedelta

import pytest

from activities.backend.keys import owner_of
from activities.backend.owners import FOREIGN, KeyKind, Owner, owner_by_number
from activities.reconcile.judge import Class, Facts, ImageFacts, judge_image, judge_key
from activities.reconcile.stored import AGES, stored
from activities.stores.objects import Found

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SHAPES = {
    "1/2/4/manifest.json": Owner(KeyKind.OWN, 4),
    "1/2/4/": Owner(KeyKind.OWN, 4),
    "1/2/4//x": Owner(KeyKind.OWN, 4),
    "1/2/4/../42/x": Owner(KeyKind.OWN, 4),
    "1/2/4/42": Owner(KeyKind.OWN, 4),
    "1/2/4/042/x": Owner(KeyKind.OWN, 4),
    "1/2/4/\x00\n": Owner(KeyKind.OWN, 4),
    "1/2/4/42/": Owner(KeyKind.COMPARISON, 4, 42),
    "1/2/4/42/diff/a.png": Owner(KeyKind.COMPARISON, 4, 42),
    f"1/2/4/{2**63}/x": Owner(KeyKind.OWN, 4),
    f"1/2/{2**63 - 1}/x": Owner(KeyKind.OWN, 2**63 - 1),
    "snapshot_archives/4.zip": Owner(KeyKind.OWN, 4),
    "1/2/icn_a-B_9": Owner(KeyKind.SHARED),
    "": FOREIGN,
    "1/2/": FOREIGN,
    "1/2/4": FOREIGN,
    "1/2/04/x": FOREIGN,
    "1/2/0/x": FOREIGN,
    "1/2/-4/x": FOREIGN,
    "1/2/٤/x": FOREIGN,
    "1/2/4 /x": FOREIGN,
    "1/2//4/x": FOREIGN,
    "1/21/4/x": FOREIGN,
    "11/2/4/x": FOREIGN,
    "/1/2/4/x": FOREIGN,
    f"1/2/{2**63}/x": FOREIGN,
    "1/2/icn_": FOREIGN,
    "1/2/icn_a/b": FOREIGN,
    "1/2/icn_a\n": FOREIGN,
    "snapshot_archives/04.zip": FOREIGN,
    "snapshot_archives/4.zip\n": FOREIGN,
    f"snapshot_archives/{2**63}.zip": FOREIGN,
    "snapshot_archives/4/5.zip": FOREIGN,
}


@pytest.mark.parametrize(("key", "owner"), SHAPES.items(), ids=map(repr, SHAPES))
def test_whose_a_key_is(key: str, owner: Owner) -> None:
    """By its shape alone; a key of project 2 that organization 1 has."""
    assert owner_of(key, 1, 2) == owner


@pytest.mark.parametrize(
    ("key", "artifact"),
    [("7/42/a.png", 42), ("7/4/2.png", 4), ("7/7/7", 7), ("7/042/a.png", 0), ("8/42/a.png", 0), (f"7/{2**63}/a", 0), ("a", 0)],
)
def test_an_artifact_is_found_by_its_number_and_prefix(key: str, artifact: int) -> None:
    """What a backend that says no more has. A prefix without an id in it finds none, and makes no orphans."""
    assert owner_by_number(key, lambda one: f"7/{one}/").artifact == artifact
    assert owner_by_number(key, lambda one: f"7/{one:064x}/") == FOREIGN


FACTS = Facts({1, 2}, {3}, {(1, 2)}, {4}, {"icn_named"}, {"scope/icn_owed"})
CLASSES = {
    (KeyKind.OWN, 1, 0): Class.LIVING,
    (KeyKind.OWN, 3, 0): Class.MOVED,
    (KeyKind.OWN, 4, 0): Class.OWED,
    (KeyKind.OWN, 5, 0): Class.ORPHAN,
    (KeyKind.COMPARISON, 1, 2): Class.LIVING,
    (KeyKind.COMPARISON, 2, 1): Class.LEFTOVER,
    (KeyKind.COMPARISON, 1, 9): Class.LEFTOVER,
    (KeyKind.COMPARISON, 1, 4): Class.OWED,
    (KeyKind.COMPARISON, 3, 1): Class.MOVED,
    (KeyKind.COMPARISON, 4, 1): Class.OWED,
    (KeyKind.COMPARISON, 5, 4): Class.OWED,
    (KeyKind.COMPARISON, 5, 1): Class.ORPHAN,
    (KeyKind.FOREIGN, 0, 0): Class.FOREIGN,
}


@pytest.mark.parametrize(("owner", "judged"), CLASSES.items(), ids=map(str, CLASSES))
def test_the_class_of_a_key(owner: tuple[KeyKind, int, int], judged: Class) -> None:
    """A recent one is neither orphan nor leftover."""
    assert judge_key("scope/", "key", Owner(*owner), FACTS, is_old=True) is judged
    recent = Class.RECENT if judged in {Class.ORPHAN, Class.LEFTOVER} else judged
    assert judge_key("scope/", "key", Owner(*owner), FACTS, is_old=False) is recent


@pytest.mark.parametrize(
    ("key", "judged"), [("icn_named", Class.LIVING), ("icn_owed", Class.OWED), ("icn_other", Class.UNNAMED)]
)
def test_the_class_of_an_icon(key: str, judged: Class) -> None:
    assert judge_key("scope/", key, Owner(KeyKind.SHARED), FACTS, is_old=True) is judged


@pytest.mark.parametrize(
    ("image", "is_hidden", "judged"),
    [
        ("named", False, Class.IMAGE_NAMED),
        ("both", False, Class.IMAGE_NAMED),
        ("listed", False, Class.IMAGE_OWED),
        ("other", False, Class.IMAGE_UNNAMED),
        ("named", True, Class.IMAGE_FORGOTTEN),
        ("listed", True, Class.IMAGE_HIDDEN),
    ],
)
def test_the_class_of_an_image(image: str, is_hidden: bool, judged: Class) -> None:  # noqa: FBT001  a table's cell
    facts = ImageFacts({"named", "both"}, {"listed", "both"}, all_read=True)
    assert judge_image(image, facts, is_hidden=is_hidden) is judged
    unread = ImageFacts(facts.named, facts.on_list)
    assert judge_image(image, unread, is_hidden=is_hidden) is (Class.IMAGE_UNKNOWN if judged is Class.IMAGE_UNNAMED else judged)


def test_versions_are_one_key_and_markers_are_none() -> None:
    """Even where a server lists markers apart from versions, or a page ends between two versions."""
    pages = [
        [version("a", 0.5), version("a", 400, is_latest=False), version("b", 8, is_latest=False), marker("b"), marker("c")],
        [version("b", 40, is_latest=False), version("d", None)],
    ]
    found = {one.key: one for one in stored(pages, NOW)}
    assert {key: one.is_readable for key, one in found.items()} == {"a": True, "b": False, "d": True}
    ages = {key: {age for age, count in zip(AGES, one.sum.ages, strict=True) if count} for key, one in found.items()}
    assert ages == {"a": {"under 1 day", "older"}, "b": {"under 30 days", "under 1 year"}, "d": {"unknown"}}
    assert (found["a"].sum.objects, found["a"].sum.size) == (2, 20)


@pytest.mark.parametrize(
    ("days", "is_older"),
    [((7,), True), ((6.99,), False), ((8, 1), False), ((8, None), False), ((None,), False), ((-1,), False)],
)
def test_only_what_is_known_to_be_old_is_old(days: tuple[float | None, ...], is_older: bool) -> None:  # noqa: FBT001
    """By its newest version. A store whose clock is ahead writes in our future."""
    (one,) = stored([[version("a", day) for day in days]], NOW)
    assert one.sum.is_older(7 * DAY, NOW) is is_older


def version(key: str, days: float | None, *, is_latest: bool = True) -> Found:
    return Found(key, "v", size=10, written=None if days is None else NOW - days * DAY, is_latest=is_latest)


def marker(key: str) -> Found:
    return Found(key, "m", is_marker=True)
