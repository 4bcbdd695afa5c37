"""What selective snapshots inherit from stays as long as they do, and a look for it follows indexes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import delete, event, update
from sqlalchemy.orm import Session

from activities import selection
from activities.backend import tables
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.database import Database
from activities.selection import next_page, not_expired
from artifact_deletion.bulk import BulkRequest
from demo.world import Project, Snapshot, screen
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack, steps_of
from tests.steps.test_held_artifacts import run
from tests.steps.test_retention import aged, backend, expired_ids, keep, snapshot

__all__ = ["backend"]  # a fixture

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@dataclass(frozen=True)
class Family:
    """Snapshots of one project by their commits, each named by a letter."""

    stack: Stack
    shop: Project
    young: Snapshot
    """Of no commit."""

    def upload(self, of: str, made_of: str | None = None, *, selective: bool = False, **commit: str) -> Snapshot:
        at = self.stack.world.commit(self.shop.organization_id, of, made_of, **commit)
        return self.upload_of(at, self.shop, selective=selective)

    def upload_of(self, commit: int, project: Project, *, selective: bool = True) -> Snapshot:
        base = self.young if selective else None
        return self.stack.world.snapshot(project, {"home": screen("home")}, base=base, commit=commit)

    def heir(self, of: str, made_of: str, **commit: str) -> Snapshot:
        """A selective one."""
        return self.upload(of, made_of, selective=True, **commit)

    def change(self, one: Snapshot, **columns: Any) -> None:
        with self.stack.database.write() as session:
            session.execute(update(tables.Artifact).where(tables.Artifact.id == one.id).values(**columns))

    def configuration(self, name: str) -> int:
        with self.stack.database.write() as session:
            session.add(row := tables.BuildConfiguration(name=name, project_id=self.shop.id))
            session.flush()
            return row.id


@pytest.fixture
def family(stack: Stack) -> Family:
    shop = stack.world.project(stack.world.organization("acme"), "shop")
    return Family(stack, shop, snapshot(stack, shop))


def next_in_a_fork(family: Family) -> None:
    family.heir("b", "a", repository="fork/shop", fork_of="acme/shop")


def same_in_a_fork(family: Family) -> None:
    """The fork has the same commits, until it has some of its own."""
    family.heir("a", "a", repository="fork/shop", fork_of="acme/shop")


def without_an_app(family: Family) -> None:
    family.change(family.heir("b", "a"), app_id=None)
    with family.stack.database.write() as session:
        session.execute(update(tables.Artifact).values(app_id=None))


def of_a_configuration(family: Family) -> None:
    family.heir("b", "a")
    release = family.configuration("Release")
    with family.stack.database.write() as session:
        session.execute(update(tables.Artifact).values(build_configuration_id=release))


def without_metrics(family: Family) -> None:
    """The older one is no snapshot any more."""
    heir = family.heir("b", "a")
    metrics = tables.SnapshotMetrics
    with family.stack.database.write() as session:
        session.execute(delete(metrics).where(metrics.preprod_artifact_id != heir.id))


def of_another_project(family: Family) -> None:
    world, organization = family.stack.world, family.shop.organization_id
    family.upload_of(world.commit(organization, "b", "a"), world.project(organization, "app"))


def of_another_organization(family: Family) -> None:
    world = family.stack.world
    family.upload_of(world.commit(world.organization("globex"), "b", "a"), family.shop)


INHERITS: dict[str, Callable[[Family], object]] = {
    "the next commit": lambda family: family.heir("b", "a"),
    "the next commit, whose repository is named twice": lambda family: family.heir("b", "a", fork_of="acme/shop"),
    "the next commit, of no fork": lambda family: family.heir("b", "a", fork_of=""),
    "the next commit of a fork": next_in_a_fork,
    "the same commit of a fork": same_in_a_fork,
    "neither has an app": without_an_app,
    "both are of a configuration": of_a_configuration,
}
INHERITS_NOT: dict[str, Callable[[Family], object]] = {
    "a complete one": lambda family: family.upload("b", "a"),
    "the one after the next": lambda family: family.heir("c", "b"),
    "another commit": lambda family: family.heir("b", "z"),
    "the same commit": lambda family: family.heir("a", "a"),
    "another repository": lambda family: family.heir("b", "a", repository="acme/app"),
    "a fork of another": lambda family: family.heir("b", "a", repository="fork/app", fork_of="acme/app"),
    "made of a fork": lambda family: family.heir("b", "a", fork_of="fork/shop"),
    "another app": lambda family: family.change(family.heir("b", "a"), app_id="com.example.other"),
    "no app": lambda family: family.change(family.heir("b", "a"), app_id=None),
    "another configuration": lambda family: family.change(
        family.heir("b", "a"), build_configuration_id=family.configuration("Release")
    ),
    "another project": of_another_project,
    "another organization's commit": of_another_organization,
    "no snapshot any more": without_metrics,
}


@pytest.mark.parametrize("case", [*INHERITS, *INHERITS_NOT])
def test_what_a_selective_snapshot_inherits_from_has_not_expired(
    stack: Stack, backend: SentryBackend, family: Family, case: str
) -> None:
    """Its commit is the one that the other's was made of, by the rule by which Sentry finds it."""
    aged(stack, ancestor := family.upload("a"))
    (INHERITS | INHERITS_NOT)[case](family)
    keep(stack, 90)
    assert expired_ids(stack, backend) == (set() if case in INHERITS else {ancestor.id})


def test_a_chain_expires_from_its_young_end(stack: Stack, backend: SentryBackend, family: Family) -> None:
    """Although all are as old. A complete one needs none before it."""
    before, complete = family.upload("a"), family.upload("b", "a")
    link, last = family.heir("c", "b"), family.heir("d", "c")
    aged(stack, before, complete, link, last)
    keep(stack, 90)
    request = BulkRequest(organization_id=family.shop.organization_id, expired=True)
    gone: list[set[int]] = []
    with steps_of(stack) as steps:
        while found := expired_ids(stack, backend):
            gone.append(found)
            stack.accept(deletion := request.deletion_of(sorted(found)))
            assert run(steps, deletion).complete
    assert gone == [{before.id, last.id}, {link.id}, {complete.id}]


def test_one_that_goes_with_what_inherits_from_it_goes_a_run_later(stack: Stack, family: Family) -> None:
    """Until that is gone it is needed: a deletion may fail."""
    aged(stack, ancestor := family.upload("a"), heir := family.heir("b", "a"))
    keep(stack, 90)
    request = BulkRequest(organization_id=family.shop.organization_id, expired=True).deletion_of([ancestor.id, heir.id])
    before = Evidence.of(stack)
    with steps_of(stack, chunk_artifacts=1) as steps:
        stack.accept(request)
        first = run(steps, request)
        assert_promises_hold(stack, before, [request])
        stack.accept(request)
        second = run(steps, request)
    assert (first.artifacts.deleted.ids, first.artifacts.not_expired.ids) == ((heir.id,), (ancestor.id,))
    assert second.artifacts.not_expired.count == 0
    assert ancestor.id not in Evidence.of(stack).artifacts
    assert_promises_hold(stack, before, [request])


@pytest.mark.parametrize("days", [0, 1])
def test_no_policy_is_too_short_for_what_is_needed(stack: Stack, backend: SentryBackend, family: Family, days: int) -> None:
    """No command sets one of no days; a row of the table can."""
    aged(stack, ancestor := family.upload("a"), other := family.upload("z"), days=2)
    aged(stack, family.heir("b", "a"), days=2)
    keep(stack, days)
    found = expired_ids(stack, backend)
    assert other.id in found
    assert ancestor.id not in found


def test_a_page_is_full_however_many_are_judged_at_once(
    stack: Stack, backend: SentryBackend, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between expired artifacts lie others, also more of them than are judged at once."""
    snapshots = [snapshot(stack, family.shop) for _ in range(9)]
    old = [snapshots[number] for number in (0, 1, 5, 6, 8)]
    aged(stack, *old)
    keep(stack, 90)
    monkeypatch.setattr(selection, "_JUDGED_AT_ONCE", 2)
    request = BulkRequest(organization_id=family.shop.organization_id, expired=True)
    pages, after = [], 0
    with stack.database.read() as session:
        while ids := next_page(session, backend, request, after, 2)[0]:
            pages.append(ids)
            after = ids[-1]
    first, second, third, fourth, fifth = (one.id for one in old)
    assert pages == [(first, second), (third, fourth), (fifth,)]


# What it costs ------------------------------------------------------------------------------------------------------------

ARTIFACTS, REPOSITORIES, A_PAGE = 10_000, 20, 250
MANY = f"""
INSERT INTO sentry_organization (id, slug) VALUES (1, 'acme');
INSERT INTO sentry_project (id, slug, organization_id) VALUES (1, 'shop', 1);
INSERT INTO sentry_commitcomparison (id, organization_id, head_sha, base_sha, head_repo_name, base_repo_name)
    SELECT n, 1, md5(n::text), md5((n - {REPOSITORIES})::text),
        CASE mod(n, 10) WHEN 0 THEN 'fork/' ELSE 'acme/' END || mod(n, {REPOSITORIES}), 'acme/' || mod(n, {REPOSITORIES})
    FROM generate_series(1, {ARTIFACTS}) AS n;
INSERT INTO sentry_preprodartifact (id, project_id, app_id, commit_comparison_id, date_added)
    SELECT n, 1, 'com.example.shop', n, now() - interval '100 days' FROM generate_series(1, {ARTIFACTS}) AS n;
INSERT INTO sentry_preprodsnapshotmetrics (preprod_artifact_id, is_selective)
    SELECT n, mod(n, 3) = 0 FROM generate_series(1, {ARTIFACTS}) AS n;
INSERT INTO artifact_deletion.artifact_deletion_policy (days, set_by) VALUES (90, 'user:7');
ANALYZE;
"""


def visited(plan: dict[str, Any]) -> Iterator[float]:
    """How many rows each part of a plan looked at."""
    thrown_away = sum(plan.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Join Filter", "Index Recheck"))
    yield plan["Actual Loops"] * (plan["Actual Rows"] + thrown_away)
    for part in plan.get("Plans", ()):
        yield from visited(part)


@on_postgresql
@pytest.mark.parametrize("look", ["a page", "a chunk"])
def test_of_ten_thousand_artifacts_a_page_looks_at_few_rows_each(database: Database, look: str) -> None:
    """And once at all commits, for those of forks: fewer than twelve rows an artifact.

    A page held against all artifacts would be two and a half million.
    """
    with database.write() as session:
        session.connection().exec_driver_sql(MANY)
    backend, statements = SentryBackend(database, Scopes("", ())), list[tuple[str, Any]]()
    with database.read() as session:
        places = backend.find(session, range(5000, 5000 + A_PAGE))
        event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append((given[2], given[3])))
        found = looked_for(session, backend, look, places)
        rows = 0.0
        for statement, parameters in [one for one in statements if "policy" in one[0]]:
            explained = session.connection().exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            rows += sum(visited(explained.scalar_one()[0]["Plan"]))
    assert found == A_PAGE if look == "a page" else 0 < found < A_PAGE
    assert rows < 12 * ARTIFACTS, rows


def looked_for(session: Session, backend: SentryBackend, look: str, places: dict[int, tuple[int, int]]) -> int:
    if look == "a chunk":
        return len(not_expired(session, backend, places, 1))
    return len(next_page(session, backend, BulkRequest(organization_id=1, expired=True), 4999, A_PAGE)[0])
