"""How long artifacts are kept: which policy counts, and what else keeps one."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from activities.backend import tables
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.ledger.policies import Scope, policies, remove, set_policy
from activities.selection import Expired, count, expired, expired_by_project, next_page, selected
from artifact_deletion.bulk import BulkRequest
from demo.world import Build, Project, Snapshot, screen
from tests.stack import Stack

Policies = Sequence[tuple[tuple[str | None, str | None, str | None], int | None]]
FOREVER = None
OLD = 100


@pytest.fixture
def backend(stack: Stack) -> SentryBackend:
    return SentryBackend(stack.database, Scopes("", ()))


def aged(stack: Stack, *artifacts: Snapshot | Build, days: float = OLD) -> None:
    """Let them have been added so long ago."""
    added = datetime.now(UTC) - timedelta(days=days)
    with stack.database.write() as session:
        of = tables.Artifact.id.in_([one.id for one in artifacts])
        session.execute(update(tables.Artifact).where(of).values(date_added=added))


def snapshot(stack: Stack, project: Project) -> Snapshot:
    return stack.world.snapshot(project, {"home": screen("home")})


def keep(
    stack: Stack, days: int | None, organization: int | None = None, project: int | None = None, kind: str | None = None
) -> None:
    with stack.database.write() as session:
        set_policy(session, Scope(organization, project, kind), days, by="user:7")


def expired_ids(stack: Stack, backend: SentryBackend) -> set[int]:
    with stack.database.read() as session:
        return {row[0] for row in session.execute(expired(backend))}


CASES: dict[str, tuple[Policies, set[str]]] = {
    "without any policy nothing expires": ([], set()),
    "the default": ([((None, None, None), 99)], {"snapshot", "build", "sibling", "stranger"}),
    "too young": ([((None, None, None), 101)], set()),
    "for ever": ([((None, None, None), FOREVER)], set()),
    "a kind": ([((None, None, "snapshots"), 90)], {"snapshot", "sibling", "stranger"}),
    "a kind before the default": ([((None, None, None), 90), ((None, None, "snapshots"), FOREVER)], {"build"}),
    "an organization before a kind": ([((None, None, "snapshots"), 90), (("acme", None, None), FOREVER)], {"stranger"}),
    "a kind of an organization before that": (
        [(("acme", None, None), 90), (("acme", None, "snapshots"), FOREVER)],
        {"build"},
    ),
    "a project before a kind of its organization": (
        [(("acme", None, "snapshots"), 90), (("acme", "shop", None), FOREVER)],
        {"sibling"},
    ),
    "a kind of a project before all": (
        [((None, None, None), FOREVER), (("acme", "shop", None), FOREVER), ((None, "shop", "snapshots"), 90)],
        {"snapshot"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_most_specific_policy_counts(stack: Stack, backend: SentryBackend, case: str) -> None:
    """Four artifacts of a hundred days: a snapshot and a build of a project, one of a sibling project, one of another's."""
    set_, wanted = CASES[case]
    ids: dict[str | None, int | None] = {None: None, "acme": stack.world.organization("acme")}
    ids["globex"] = stack.world.organization("globex")
    shop, app = (stack.world.project(ids["acme"] or 0, slug) for slug in ("shop", "app"))
    others = stack.world.project(ids["globex"] or 0, "app")
    ids["shop"] = shop.id
    artifacts: dict[str, Snapshot | Build] = {
        "snapshot": snapshot(stack, shop),
        "build": stack.world.mobile_build(shop),
        "sibling": snapshot(stack, app),
        "stranger": snapshot(stack, others),
    }
    aged(stack, *artifacts.values())
    young = snapshot(stack, shop)
    for (organization, project, kind), days in set_:
        keep(stack, days, ids[organization], ids[project], kind=kind)
    found = expired_ids(stack, backend)
    assert young.id not in found
    assert {name for name, one in artifacts.items() if one.id in found} == wanted


@pytest.mark.thorough
def test_a_base_is_kept_until_its_last_head_has_expired(stack: Stack, backend: SentryBackend) -> None:
    """A comparison goes with either side. A chain of them expires link by link, and does not hold on to its beginning."""
    shop = stack.world.project(stack.world.organization("acme"), "shop")
    oldest, old, young, alone = (snapshot(stack, shop) for _ in range(4))
    stack.world.comparison(old, oldest)
    stack.world.comparison(young, old)
    builds = [stack.world.mobile_build(shop) for _ in range(2)]
    stack.world.size_comparison(builds[1], builds[0])
    aged(stack, oldest, alone, builds[0], days=300)
    aged(stack, old, days=100)
    keep(stack, 90)
    assert expired_ids(stack, backend) == {oldest.id, alone.id}
    keep(stack, 101)
    assert expired_ids(stack, backend) == {alone.id}, "its head is younger"


def test_a_build_that_can_be_installed_is_for_distribution(stack: Stack, backend: SentryBackend) -> None:
    """Whatever was made of it besides: it is kept as long as these are."""
    shop = stack.world.project(stack.world.organization("acme"), "shop")
    plain, installable = (stack.world.mobile_build(shop) for _ in range(2))
    with stack.database.write() as session:
        session.execute(update(tables.Artifact).values(installable_app_file_id=None))
    stack.world.installable(installable)
    aged(stack, plain, installable)
    keep(stack, 90, kind="distribution")
    assert expired_ids(stack, backend) == {installable.id}
    keep(stack, FOREVER, kind="distribution")
    keep(stack, 90, kind="size_analysis")
    assert expired_ids(stack, backend) == {plain.id}


def test_a_preview_counts_what_a_run_would_delete(stack: Stack, backend: SentryBackend) -> None:
    """By project, kind and age."""
    shop = stack.world.project(stack.world.organization("acme"), "shop")
    snapshots = [snapshot(stack, shop) for _ in range(5)]
    for one, days in zip(snapshots, (10, 29.9, 30.1, 200, 4000), strict=True):
        aged(stack, one, days=days)
    keep(stack, 20)
    with stack.database.read() as session:
        found = expired_by_project(session, backend)
        asked = BulkRequest(organization_id=shop.organization_id, expired=True)
        every = session.execute(selected(backend, asked)).all()
        assert len(every) == count(session, backend, asked) == 4
    assert found == [Expired(shop.organization_id, shop.id, "snapshots", (1, 1, 0, 1, 1))]


def test_what_expires_together_waits_for_the_longest_grace(stack: Stack, backend: SentryBackend) -> None:
    """A page of several policies is one deletion. None waits where none of its policies has a grace."""
    organization = stack.world.organization("acme")
    shop, app = (stack.world.project(organization, slug) for slug in ("shop", "app"))
    snapshots = [snapshot(stack, one) for one in (shop, shop, app)]
    aged(stack, *snapshots)
    keep(stack, 90)
    with stack.database.write() as session:
        set_policy(session, Scope(None, app.id, None), 90, by="user:7", grace_s=3600)
        asked = BulkRequest(organization_id=shop.organization_id, expired=True)
        ids, not_before = next_page(session, backend, asked, 0, 2)
        assert (ids, not_before) == (tuple(one.id for one in snapshots[:2]), None)
        ids, not_before = next_page(session, backend, asked, 0, 3)
        assert len(ids) == 3
        assert not_before is not None
        assert timedelta(minutes=59) < not_before - datetime.now(UTC) < timedelta(minutes=61)
        assert [one.grace_s for one in expired_by_project(session, backend)] == [0, 3600]


def test_a_policy_takes_the_place_of_the_one_before_it(stack: Stack) -> None:
    """One for each scope, where null is a value like any other."""
    for days in (90, 30):
        keep(stack, days)
        keep(stack, days, 1)
        keep(stack, days, 1, kind="snapshots")
    with stack.database.write() as session:
        assert [(one.scope, one.days) for one in policies(session)] == [
            (Scope(None, None, None), 30),
            (Scope(1, None, None), 30),
            (Scope(1, None, "snapshots"), 30),
        ]
        assert remove(session, Scope(1, None, None))
        assert not remove(session, Scope(1, None, None))
        assert [one.scope for one in policies(session)] == [Scope(None, None, None), Scope(1, None, "snapshots")]
