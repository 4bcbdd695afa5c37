"""What goes with an artifact's rows and what stays: rows that change meanwhile, neighbours, files, icons and strays."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.orm import Session

import starter
import worker
from activities.delete_rows import cascade_of, deleted
from activities.storage import files, ledger, tables
from activities.storage.database import Database
from activities.storage.ledger import DeletionArtifact, DeletionChunk, DeletionState, RowsState
from activities.storage.objects import Found, ObjectStore, Outcome, Upload
from demo.world import Build, Comparison, Project, Snapshot, World, screen
from tests.stack import Seen, Stack, eventually, pending_failures, steps_of, wait_for_waiters
from workflows.errors import SchemaDrift, StaleSeal, StoreUnavailable
from workflows.messages import SealedChunk

USECASES = ("preprod", "snapshots", "preprod_size")
GOES_WITH_AN_ARTIFACT = (
    "sentry_preprodartifact",
    "sentry_installablepreprodartifact",
    "sentry_preprodartifactmobileappinfo",
    "sentry_preprodartifactsizemetrics",
    "sentry_preprodartifactsizecomparison",
    "sentry_preprodcomparisonapproval",
    "sentry_preprodsnapshotmetrics",
    "sentry_preprodsnapshotcomparison",
)
ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@dataclass(frozen=True)
class Shop:
    """Two snapshots, compared, and a build beside them."""

    project: Project
    head: Snapshot
    base: Snapshot
    comparison: Comparison
    build: Build

    @property
    def organization_id(self) -> int:
        return self.project.organization_id

    def key(self, name: str) -> str:
        """A key of the head's own."""
        return f"{self.organization_id}/{self.project.id}/{self.head.id}/{name}"


def shop_of(world: World, **of_comparison: Any) -> Shop:
    project = world.project(world.organization("acme"), "shop")
    base = world.snapshot(project, {"login": screen("login"), "cart": screen("cart")})
    head = world.snapshot(project, {"login": screen("login", 1), "cart": screen("cart")})
    comparison = world.comparison(head, base, **of_comparison)
    return Shop(project, head, base, comparison, world.mobile_build(project, icon="icn_first"))


def put(stack: Stack, usecase: str, project: Project, key: str, content: bytes = b"{}") -> str:
    physical = stack.world.physical(usecase, project.organization_id, project.id, key)
    stack.s3.put_object(Bucket=stack.bucket, Key=physical, Body=content)
    return physical


def set_extras(session: Session, table: Any, row: int | None, **names: object) -> None:
    extras = session.execute(select(table.extras).where(table.id == row)).scalar_one()
    session.execute(update(table).where(table.id == row).values(extras={**(extras or {}), **names}))


def sealed_keys(stack: Stack, sealed: SealedChunk) -> set[tuple[str, str]]:
    with stack.database.read() as session:
        return {(page.scope, key) for page in ledger.read_pages(session, sealed.deletion_id, sealed.chunk) for key in page.keys}


# Rows that change between the collecting and the deleting ---------------------------------------------------------------


@ONE_DATABASE
@pytest.mark.parametrize("halfway", [0, 1, 2], ids=["collected once more", "after an attempt that ended", "after two"])
def test_what_rows_named_stays_sealed_when_somebody_else_deletes_them_in_between(stack: Stack, halfway: int) -> None:
    """Nothing else names a comparison under another's head, or an icon: collecting again must not forget them."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.base.id, shop.build.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        steps.collect(chunk)
        with stack.database.write() as session:
            cascade_of(session, [shop.base.artifact, shop.build.artifact], shop.organization_id, deleted)
        for _ in range(halfway):
            with stack.database.write() as session:
                ledger.begin_epoch(session, ledger.lock_chunk(session, chunk.deletion_id, chunk.chunk))
        assert steps.finish(request, steps.collect(chunk)).complete
    assert before.objects.keys() - stack.world.objects().keys() == stack.world.objects_of(request.artifact_ids)


@ONE_DATABASE
def test_what_was_sealed_of_an_artifact_that_moves_away_meanwhile_is_forgotten(stack: Stack) -> None:
    """It is another organization's by now, and the comparisons in which it was the base are too."""
    shop = shop_of(stack.world)
    there = stack.world.project(stack.world.organization("globex"), "site")
    request, before = stack.request([shop.base.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        steps.collect(chunk)
        with stack.database.write() as session:
            move(session, shop.base.id, there)
        assert steps.finish(request, steps.collect(chunk)).left_over == {"Moved": 1}
    assert stack.world.objects().keys() == before.objects.keys()


@ONE_DATABASE
def test_what_was_sealed_of_an_artifact_that_moves_away_and_back_is_remembered(stack: Stack) -> None:
    """Collected before, while and after; the comparison's row goes in between, so that in the end nothing names it."""
    shop = shop_of(stack.world)
    there = stack.world.project(stack.world.organization("globex"), "site")
    request, before = stack.request([shop.base.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        for place in (there, shop.project):
            steps.collect(chunk)
            with stack.database.write() as session:
                move(session, shop.base.id, place)
                session.execute(delete(tables.SnapshotComparison).where(tables.SnapshotComparison.id == shop.comparison.id))
        assert steps.finish(request, steps.collect(chunk)).complete
    assert before.objects.keys() - stack.world.objects().keys() == stack.world.objects_of([shop.base.id])


@ONE_DATABASE
def test_a_comparison_whose_head_moves_away_after_it_was_sealed_is_left_where_it_is_when_collected_again(stack: Stack) -> None:
    """As one that was collected for the first time then: not deleted, and left over."""
    shop = shop_of(stack.world)
    there = stack.world.project(stack.world.organization("globex"), "site")
    request, before = stack.request([shop.base.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        steps.collect(chunk)
        with stack.database.write() as session:
            move(session, shop.head.id, there)
        assert steps.finish(request, steps.collect(chunk)).left_over == {"NamedElsewhere": 1}
    gone = before.objects.keys() - stack.world.objects().keys()
    assert gone == {key for key in stack.world.objects_of([shop.base.id]) if f"/{shop.head.id}/" not in key}


def rename_manifest(session: Session, shop: Shop) -> str:
    key = shop.key("second/manifest.json")
    set_extras(session, tables.SnapshotMetrics, shop.head.metrics_id, manifest_key=key)
    return key


def rename_head_images(session: Session, shop: Shop) -> str:
    key = shop.key("second/snapshot_head_images.json")
    set_extras(session, tables.SnapshotMetrics, shop.head.metrics_id, head_images_key=key)
    return key


def rename_comparison(session: Session, shop: Shop) -> str:
    key = shop.key(f"{shop.base.id}/runs/second/comparison.json")
    set_extras(session, tables.SnapshotComparison, shop.comparison.id, comparison_key=key)
    return key


def rename_icon(session: Session, shop: Shop) -> str:
    of_build = tables.MobileAppInfo.preprod_artifact_id == shop.build.id
    session.execute(update(tables.MobileAppInfo).where(of_build).values(app_icon_id="icn_second"))
    return f"{shop.organization_id}/{shop.project.id}/icn_second"


CHANGES = [rename_manifest, rename_head_images, rename_comparison, rename_icon]


def test_a_key_that_a_row_names_only_at_the_last_moment_is_sealed_with_its_deletion(stack: Stack) -> None:
    """The row is the only one that knows this key, and it is about to go. What it named before goes too."""
    shop = shop_of(stack.world)
    going = [shop.head.id, shop.build.id]
    request, before = stack.request(going), Seen.of(stack.world)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as session:
            late = {change: change(session, shop) for change in CHANGES}
        for change, key in late.items():
            put(stack, "preprod_size" if change is rename_icon else shop.head.usecase, shop.project, key)
        released = steps.delete_rows(sealed)
        everywhere = {
            (stack.world.physical(usecase, shop.organization_id, shop.project.id, ""), key)
            for key in late.values()
            for usecase in USECASES
        }
        assert everywhere <= sealed_keys(stack, sealed)
        steps.delete_what_was_released(sealed, released)
        receipt = steps.close(request)
    stack.assert_only_these_are_gone(going, before)
    assert receipt.complete
    assert (
        receipt.objects.sealed
        == receipt.objects.deleted + receipt.objects.absent
        == sum(receipt.objects.sealed_by_kind.values())
    )


@ONE_DATABASE
def test_where_a_store_cannot_list_a_changed_row_is_collected_again(stack: Stack) -> None:
    """No listing would find what a new manifest names, so it must be read before its row goes."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.head.id, shop.build.id]), Seen.of(stack.world)
    with steps_of(stack, bucket_listable=False) as steps:
        (chunk,) = steps.open(request)
        for change in CHANGES:
            stale = steps.collect(chunk)
            with stack.database.write() as session:
                late = change(session, shop)
            changed = Seen.of(stack.world)
            with pytest.raises(StaleSeal):
                steps.delete_rows(stale)
            assert Seen.of(stack.world) == changed
        again = steps.collect(chunk)
        assert late in {key for _, key in sealed_keys(stack, again)}
        receipt = steps.finish(request, again)
    assert receipt.objects.left_over == {}
    gone = {(table, row) for table, rows in before.rows.items() for row in rows if row not in stack.world.rows()[table]}
    assert gone == stack.world.rows_of(request.artifact_ids)


def test_an_artifact_that_has_moved_is_never_deleted_by_what_was_sealed_before(stack: Stack) -> None:
    """What was sealed lies where the artifact no longer is: nothing happens, and its keys are collected again."""
    shop = shop_of(stack.world)
    other = stack.world.organization("globex")
    site, theirs = stack.world.project(shop.organization_id, "site"), stack.world.project(other, "site")
    request = stack.request([shop.head.id, shop.base.id])

    def change_hands(session: Session) -> None:
        session.execute(update(tables.Project).where(tables.Project.id == shop.project.id).values(organization_id=other))

    def give_back(session: Session) -> None:
        session.execute(
            update(tables.Project).where(tables.Project.id == shop.project.id).values(organization_id=shop.organization_id)
        )

    moves: list[tuple[Callable[[Session], None], tuple[RowsState, int | None]]] = [
        (lambda session: move(session, shop.head.id, site), (RowsState.SEALED, site.id)),
        (lambda session: move(session, shop.head.id, theirs), (RowsState.MOVED, None)),
        (lambda session: move(session, shop.head.id, shop.project), (RowsState.SEALED, shop.project.id)),
        (change_hands, (RowsState.MOVED, None)),
        (give_back, (RowsState.SEALED, shop.project.id)),
    ]
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        for happens, then in moves:
            sealed = steps.collect(chunk)
            with stack.database.write() as session:
                happens(session)
            before = Seen.of(stack.world)
            with pytest.raises(StaleSeal):
                steps.delete_rows(sealed)
            assert Seen.of(stack.world) == before
            steps.collect(chunk)
            with stack.database.read() as session:
                known = {one.id: one for one in ledger.chunk_artifacts(session, request.deletion_id, chunk.chunk)}
            assert (known[shop.head.id].rows_state, known[shop.head.id].project_id) == then
            with pytest.raises(StaleSeal):
                steps.delete_rows(sealed)


def move(session: Session, artifact: int, project: Project) -> None:
    session.execute(update(tables.Artifact).where(tables.Artifact.id == artifact).values(project_id=project.id))


def test_an_artifact_of_another_organization_by_now_is_left_alone_and_left_over(stack: Stack) -> None:
    """It was ours when it was asked for. Its new owner did not ask, and whoever did must hear of it."""
    shop = shop_of(stack.world)
    theirs = stack.world.project(stack.world.organization("globex"), "intranet")
    request = stack.request([shop.head.id, shop.build.id])
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        with stack.database.write() as session:
            move(session, shop.head.id, theirs)
        before = Seen.of(stack.world)
        receipt = steps.finish(request, steps.collect(chunk))
    stack.assert_only_these_are_gone([shop.build.id], before)
    assert (receipt.complete, receipt.left_over) == (False, {"Moved": 1})
    assert (receipt.artifacts.moved.ids, receipt.artifacts.deleted.ids) == ((shop.head.id,), (shop.build.id,))


@ONE_DATABASE
def test_an_artifact_that_moves_away_after_its_keys_were_collected_keeps_its_icon_too(stack: Stack) -> None:
    """What an earlier attempt sealed of it is no longer ours to delete: left alone means all of it."""
    shop = shop_of(stack.world)
    theirs = stack.world.project(stack.world.organization("globex"), "intranet")
    request = stack.request([shop.head.id, shop.build.id])
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        steps.collect(chunk)
        with stack.database.write() as session:
            move(session, shop.build.id, theirs)
        before = Seen.of(stack.world)
        receipt = steps.finish(request, steps.collect(chunk))
    assert receipt.artifacts.moved.ids == (shop.build.id,)
    stack.assert_only_these_are_gone([shop.head.id], before)


@ONE_DATABASE
@pytest.mark.parametrize("where", ["behind", "there"])
def test_a_comparison_with_a_head_that_has_moved_away_is_never_touched_and_left_over_where_nobody_owns_it(
    stack: Stack, where: str
) -> None:
    """Its row goes with its base. What it names goes with the head, where that is now; behind it a person has to look."""
    shop = shop_of(stack.world)
    there = stack.world.project(stack.world.organization("globex"), "site")
    request, before = stack.request([shop.base.id]), Seen.of(stack.world)
    with stack.database.write() as session:
        move(session, shop.head.id, there)
        if where == "there":
            key = f"{there.organization_id}/{there.id}/{shop.head.id}/{shop.base.id}/comparison.json"
            set_extras(session, tables.SnapshotComparison, shop.comparison.id, comparison_key=key)
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    assert receipt.left_over == ({"NamedElsewhere": 1} if where == "behind" else {})
    gone = before.objects.keys() - stack.world.objects().keys()
    assert gone == {key for key in stack.world.objects_of([shop.base.id]) if f"/{shop.head.id}/" not in key}


@ONE_DATABASE
def test_objects_that_an_artifact_left_behind_when_it_changed_its_project_are_left_over(stack: Stack) -> None:
    """Its columns name them where they are somebody else's by our rules: neither deleted nor forgotten."""
    shop = shop_of(stack.world)
    site = stack.world.project(shop.organization_id, "site")
    with stack.database.write() as session:
        move(session, shop.head.id, site)
    request, before = stack.request([shop.head.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    named = ("manifest", "head_images", "comparison")
    assert (receipt.complete, receipt.left_over) == (False, {"NamedElsewhere": len(named)})
    assert Seen.of(stack.world).objects == before.objects
    assert receipt.artifacts.deleted.ids == (shop.head.id,)


@POSTGRESQL
@pytest.mark.parametrize("ours", [True, False], ids=["another project", "another organization"])
async def test_an_artifact_that_moves_while_its_rows_are_being_deleted_is_found_where_it_is(
    stack: Stack, *, ours: bool
) -> None:
    """The whole path: somebody holds the artifact, and has moved it by the time that delete_rows gets its lock."""
    shop = shop_of(stack.world)
    theirs = stack.world.organization("globex")
    there = stack.world.project(shop.organization_id if ours else theirs, "site")
    new_key = f"{there.organization_id}/{there.id}/{shop.head.id}/manifest.json"
    new_object = put(stack, "preprod", there, new_key, b'{"images": {}}')
    before = Seen.of(stack.world)
    async with stack.worker():
        with stack.database.write() as mover:
            move(mover, shop.head.id, there)
            set_extras(mover, tables.SnapshotMetrics, shop.head.metrics_id, manifest_key=new_key, head_images_key=None)
            set_extras(mover, tables.SnapshotComparison, shop.comparison.id, comparison_key=None)
            handle = await stack.start([shop.head.id, shop.build.id])
            await asyncio.to_thread(wait_for_waiters, stack.database)
        if ours:
            await handle.result()
        else:
            error = await stack.failure(handle)
            assert (error.type, "Moved 1" in error.message) == ("ObjectsRemain", True)
    receipt = stack.receipt(handle.id)
    now = Seen.of(stack.world)
    assert {one.artifact_id: one.project_id for one in artifacts_of(stack)}[shop.head.id] == (there.id if ours else None)
    if ours:
        assert receipt.artifacts.deleted.ids == tuple(sorted([shop.head.id, shop.build.id]))
        assert new_object not in now.objects
        assert shop.head.id not in now.rows["sentry_preprodartifact"]
    else:
        assert (receipt.artifacts.moved.ids, receipt.artifacts.deleted.ids) == ((shop.head.id,), (shop.build.id,))
        assert new_object in now.objects
        assert shop.head.metrics_id in now.rows["sentry_preprodsnapshotmetrics"]
        assert before.objects.keys() - now.objects.keys() == stack.world.objects_of([shop.build.id])


def artifacts_of(stack: Stack) -> Sequence[DeletionArtifact]:
    with stack.database.read() as session:
        found = session.execute(select(DeletionArtifact)).scalars().all()
        session.expunge_all()
        return found


# Requests that are refused, and schemas that are not ours ---------------------------------------------------------------


@ONE_DATABASE
async def test_a_request_with_one_foreign_artifact_is_refused_whole_before_the_store_is_asked(stack: Stack) -> None:
    """The store's address answers nobody: had anything been read or deleted, the deletion would wait for it for days."""
    shop = shop_of(stack.world)
    theirs = stack.world.snapshot(stack.world.project(stack.world.organization("globex"), "intranet"), {"a": screen("login")})
    before = Seen.of(stack.world)
    async with stack.worker(s3_endpoint="http://127.0.0.1:1"):
        handle = await stack.start([shop.head.id, theirs.id])
        error = await stack.failure(handle)
    assert (error.type, str(theirs.id) in error.message) == ("ArtifactNotInOrganization", True)
    assert Seen.of(stack.world) == before
    assert starter.recorded(stack.database, handle.id).state is DeletionState.REFUSED
    assert artifacts_of(stack) == []


@ONE_DATABASE
def test_a_request_that_names_another_organizations_project_is_refused_whole(stack: Stack) -> None:
    """The project says where the objects of artifacts lie that are gone: it must not point into another's."""
    shop = shop_of(stack.world)
    theirs = stack.world.project(stack.world.organization("globex"), "intranet")
    before = Seen.of(stack.world)
    with steps_of(stack) as steps, pytest.raises(Exception, match=f"project {theirs.id} is not one of") as caught:
        steps.open(stack.request([shop.head.id], project_id=theirs.id))
    assert type(caught.value).__name__ == "ProjectNotInOrganization"
    assert Seen.of(stack.world) == before


def unknown_table(stack: Stack, target: str) -> None:
    key = f"REFERENCES {target} (id) DEFERRABLE INITIALLY DEFERRED"
    with stack.database.write() as session:
        session.execute(text(f"CREATE TABLE sentry_newcomer (id bigint PRIMARY KEY, that_id bigint NOT NULL {key})"))


def drop_unknown_table(stack: Stack) -> None:
    with stack.database.write() as session:
        session.execute(text("DROP TABLE sentry_newcomer"))


def test_an_unknown_table_that_refers_to_what_goes_blocks_with_its_name(stack: Stack) -> None:
    """Its rows would make every COMMIT fail, or dangle where the database does not look; somebody has to decide first."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.head.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        for target in GOES_WITH_AN_ARTIFACT:
            unknown_table(stack, target)
            # Steps of a new worker, since one that has found nothing looks again only after a minute.
            with steps_of(stack) as started, pytest.raises(SchemaDrift, match=f"sentry_newcomer.that_id → {target}"):
                started.open(request)
            drop_unknown_table(stack)
        assert Seen.of(stack.world) == before
        assert steps.finish(request, steps.open_and_collect(request)).complete
    stack.assert_only_these_are_gone([shop.head.id], before)


@ONE_DATABASE
def test_an_unknown_table_that_refers_to_projects_or_files_blocks_nothing(stack: Stack) -> None:
    """Half the backend refers to those."""
    shop = shop_of(stack.world)
    unknown_table(stack, "sentry_project")
    request = stack.request([shop.head.id])
    with steps_of(stack) as steps:
        assert steps.finish(request, steps.open_and_collect(request)).complete


@POSTGRESQL
async def test_a_deletion_that_an_unknown_table_blocks_says_so_and_goes_on_when_it_is_repaired(stack: Stack) -> None:
    """The whole path: nobody has to start it again."""
    shop = shop_of(stack.world)
    before = Seen.of(stack.world)
    unknown_table(stack, "sentry_preprodartifact")
    async with stack.worker():
        handle = await stack.start([shop.head.id])
        said = await eventually(lambda: pending_failures(handle))
        assert "sentry_newcomer.that_id → sentry_preprodartifact; nothing was deleted" in said["open_deletion"]
        assert Seen.of(stack.world) == before
        drop_unknown_table(stack)
        assert (await handle.result()).complete
    stack.assert_only_these_are_gone([shop.head.id], before)


# Neighbours -------------------------------------------------------------------------------------------------------------


async def test_artifact_4_goes_and_leaves_42_whole(stack: Stack) -> None:
    """The whole path, with ids of which one's digits begin the other's, in every place where they may stand."""
    world = stack.world
    project = world.project(world.organization("acme"), "shop")
    images = {"login": screen("login"), "cart": screen("cart")}
    four, forty_two, more, seven = (
        world.snapshot(project, {**images, "login": screen("login", one)}, id=one) for one in (4, 42, 421, 7)
    )
    for head, base in ((four, seven), (seven, four), (four, forty_two), (forty_two, four)):
        world.comparison(head, base)
    for head, base in ((forty_two, seven), (seven, forty_two), (forty_two, more), (more, forty_two)):
        world.comparison(head, base)
    before = Seen.of(world)
    async with stack.worker():
        receipt = await stack.delete([4])
    stack.assert_only_these_are_gone([4], before)
    assert (receipt.complete, receipt.manifests.strays) == (True, 0)
    left = Seen.of(world).objects
    assert {key for key in left if f"/{project.id}/42/" in key} == {
        key for key in before.objects if f"/{project.id}/42/" in key and f"/{project.id}/42/4/" not in key
    }


@pytest.mark.parametrize(("which", "versioned"), [("head", False), ("base", True), ("both", False)])
def test_a_comparison_goes_with_its_head_or_its_base(stack: Stack, which: str, *, versioned: bool) -> None:
    """It shows both, and the other one stays whole."""
    shop = shop_of(stack.world, versioned=versioned)
    third = stack.world.snapshot(shop.project, {"login": screen("login", 2)})
    for head, base in ((third, shop.base), (shop.head, third), (third, shop.head)):
        stack.world.comparison(head, base)
    going = {"head": [shop.head.id], "base": [shop.base.id], "both": [shop.head.id, shop.base.id]}[which]
    request, before = stack.request(going), Seen.of(stack.world)
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    stack.assert_only_these_are_gone(going, before)
    assert (receipt.complete, receipt.objects.found_left_over, receipt.manifests.strays) == (True, {}, 0)


def test_rows_are_deleted_once_and_counted_alike_however_often_the_step_runs(stack: Stack) -> None:
    """A COMMIT whose answer was lost is settled by asking again: a receipt must not say zero then."""
    shop = shop_of(stack.world)
    going = [shop.head.id, shop.build.id]
    request = stack.request(going)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        first = steps.delete_rows(sealed)
        after = Seen.of(stack.world)
        assert steps.delete_rows(sealed) == first
        assert steps.delete_rows(steps.collect(sealed)) == first, "collecting again finds what was sealed then"
        assert Seen.of(stack.world) == after
        steps.delete_what_was_released(sealed, first)
        again = steps.delete_rows(sealed)
        assert (again.rows, again.sealed, again.first_page) == (first.rows, first.sealed, first.pages)
        receipt = steps.close(request)
    traces = sum(table == "trace_items" for table, _ in stack.world.rows_of(going))
    assert sum(receipt.rows.values()) == first.rows == len(stack.world.rows_of(going)) - traces


@ONE_DATABASE
def test_a_seal_that_is_not_the_ledgers_releases_nothing(stack: Stack) -> None:
    """delete_rows is told what it may release, and releases exactly that or nothing."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.head.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        others: list[dict[str, Any]] = [{"epoch": sealed.epoch + 1}, {"pages": sealed.pages + 1}, {"digest": "0" * 64}]
        for other in others:
            with pytest.raises(StaleSeal):
                steps.delete_rows(sealed.model_copy(update=other))
            assert Seen.of(stack.world) == before
        assert steps.finish(request, sealed).complete


# Files and icons --------------------------------------------------------------------------------------------------------


def no_one_else(session: Session, file: int, other: Build) -> None:
    """Nothing names the file but its own build."""


def another_artifact(session: Session, file: int, other: Build) -> None:
    session.execute(update(tables.Artifact).where(tables.Artifact.id == other.id).values(installable_app_file_id=file))


def another_icon(session: Session, file: int, other: Build) -> None:
    of_other = tables.MobileAppInfo.preprod_artifact_id == other.id
    session.execute(update(tables.MobileAppInfo).where(of_other).values(app_icon_id=str(file)))


def another_analysis(session: Session, file: int, other: Build) -> None:
    one = tables.SizeMetrics
    session.execute(update(one).where(one.id == other.size_metrics_ids[0]).values(analysis_file_id=file))


def another_size_comparison(session: Session, file: int, other: Build) -> None:
    head, base = other.size_metrics_ids
    values = {"organization_id": other.artifact.organization_id, "file_id": file}
    session.execute(insert(tables.SizeComparison).values(**values, head_size_analysis_id=head, base_size_analysis_id=base))


def another_table(session: Session, file: int, other: Build) -> None:
    key = "REFERENCES sentry_file (id) DEFERRABLE INITIALLY DEFERRED"
    session.execute(text(f"CREATE TABLE sentry_releasefile (id bigint PRIMARY KEY, file_id bigint {key})"))
    session.execute(text(f"INSERT INTO sentry_releasefile VALUES (1, {file})"))


def another_owner(session: Session, file: int, other: Build) -> None:
    stranger = session.execute(insert(tables.Organization).values(slug="globex").returning(tables.Organization.id)).scalar_one()
    session.execute(insert(tables.FileBlobOwner).values(organization_id=stranger, blob_id=blob_of(session, file)))


def other_owner_instead(session: Session, file: int, other: Build) -> None:
    another_owner(session, file, other)
    one = tables.FileBlobOwner
    ours = (one.blob_id == blob_of(session, file), one.organization_id == other.artifact.organization_id)
    session.execute(delete(one).where(*ours))


def no_owner(session: Session, file: int, other: Build) -> None:
    session.execute(delete(tables.FileBlobOwner).where(tables.FileBlobOwner.blob_id == blob_of(session, file)))


def no_blob(session: Session, file: int, other: Build) -> None:
    session.execute(delete(tables.FileBlobIndex).where(tables.FileBlobIndex.file_id == file))


def a_second_blob_without_owner(session: Session, file: int, other: Build) -> None:
    blob = session.execute(insert(tables.FileBlob).values(checksum="f" * 40).returning(tables.FileBlob.id)).scalar_one()
    session.execute(insert(tables.FileBlobIndex).values(file_id=file, blob_id=blob, offset=9))


def an_old_blob_of_another(session: Session, file: int, other: Build) -> None:
    """In old rows the file itself names its blob."""
    blob = session.execute(insert(tables.FileBlob).values(checksum="e" * 40).returning(tables.FileBlob.id)).scalar_one()
    session.execute(update(tables.File).where(tables.File.id == file).values(blob_id=blob))
    session.execute(insert(tables.FileBlobOwner).values(organization_id=other.artifact.organization_id + 1, blob_id=blob))


def blob_of(session: Session, file: int) -> int:
    found: int = session.execute(select(tables.FileBlobIndex.blob_id).where(tables.FileBlobIndex.file_id == file)).scalar_one()
    return found


TIES: dict[Callable[[Session, int, Build], None], str | None] = {
    no_one_else: None,
    another_artifact: files.STILL_NAMED,
    another_icon: files.STILL_NAMED,
    another_analysis: files.STILL_NAMED,
    another_size_comparison: files.STILL_NAMED,
    another_table: files.STILL_NAMED,
    another_owner: files.OTHER_OWNER,
    other_owner_instead: files.OTHER_OWNER,
    an_old_blob_of_another: files.OTHER_OWNER,
    no_owner: files.NO_OWNER,
    no_blob: files.NO_OWNER,
    a_second_blob_without_owner: files.NO_OWNER,
}


def test_a_file_goes_only_if_nobody_else_names_or_owns_it(stack: Stack) -> None:
    """Files have no keys that guard them: a wrong one would take another artifact's download, or another customer's file."""
    world = stack.world
    project = world.project(world.organization("acme"), "shop")
    going = {tie: world.mobile_build(project, icon=None) for tie in TIES}
    staying = {tie: world.mobile_build(project, icon=None) for tie in TIES}
    with stack.database.write() as session:
        for tie, build in going.items():
            tie(session, build.file_ids[0], staying[tie])
    request, before = stack.request(build.id for build in going.values()), Seen.of(world)
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    now = Seen.of(world)
    kept: dict[str, set[int]] = {}
    for tie, reason in TIES.items():
        if reason:
            kept.setdefault(reason, set()).add(going[tie].file_ids[0])
    assert receipt.complete, "a file that is kept is somebody else's, not a leftover"
    assert {name: set(ids.ids) for name, ids in receipt.files.kept.items()} == kept
    gone = {file for build in going.values() for file in build.file_ids} - set().union(*kept.values())
    assert before.rows["sentry_file"].keys() - now.rows["sentry_file"].keys() == gone
    index = before.rows["sentry_fileblobindex"]
    assert index.keys() - now.rows["sentry_fileblobindex"].keys() == {
        row for row, one in index.items() if one["file_id"] in gone
    }
    assert (receipt.files.deleted, receipt.files.blobs_left, receipt.rows["sentry_file"]) == (len(gone), len(gone), len(gone))
    for table in ("sentry_fileblob", "sentry_fileblobowner"):
        assert now.rows[table] == before.rows[table]
    assert now.objects == before.objects, "blobs belong to the backend's own clean-up"


@ONE_DATABASE
def test_a_file_is_kept_in_whatever_place_it_was_named(stack: Stack) -> None:
    """Each of the columns that name a file is asked by itself, the artifact's own last."""
    world = stack.world
    project = world.project(world.organization("acme"), "shop")
    going = [world.mobile_build(project, app_name=f"App {place}") for place in range(5)]
    staying = [world.mobile_build(project, icon=None) for _ in going]
    tied = {build.file_ids[place] for place, build in enumerate(going)}
    with stack.database.write() as session:
        for file, other in zip(tied, staying, strict=True):
            another_artifact(session, file, other)
    request = stack.request(build.id for build in going)
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    assert {name: set(ids.ids) for name, ids in receipt.files.kept.items()} == {files.STILL_NAMED: tied}
    assert world.rows()["sentry_file"].keys() & {file for build in going for file in build.file_ids} == tied


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_file_is_kept_for_a_row_that_names_it_in_another_type(stack: Stack) -> None:
    """SQLite lets a text refer to a number, and gives a text back. PostgreSQL knows no such foreign key."""
    build = stack.world.mobile_build(stack.world.project(stack.world.organization("acme"), "shop"), icon=None)
    file = build.file_ids[0]
    with stack.database.write() as session:
        session.execute(text("CREATE TABLE sentry_newcomer (id bigint PRIMARY KEY, that_id TEXT REFERENCES sentry_file (id))"))
        session.execute(text(f"INSERT INTO sentry_newcomer VALUES (1, '{file}')"))
    request = stack.request([build.id])
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    assert {name: ids.ids for name, ids in receipt.files.kept.items()} == {files.STILL_NAMED: (file,)}


@ONE_DATABASE
def test_a_file_that_a_later_chunk_deletes_is_not_said_to_be_kept(stack: Stack) -> None:
    """Two artifacts name it, and go in transactions of their own: the first keeps it for the second's sake."""
    world = stack.world
    project = world.project(world.organization("acme"), "shop")
    first, second = world.mobile_build(project, icon=None), world.mobile_build(project, icon=None)
    shared = first.file_ids[0]
    with stack.database.write() as session:
        another_artifact(session, shared, second)
    request = stack.request([first.id, second.id])
    with steps_of(stack, chunk_artifacts=1) as steps:
        for chunk in steps.open(request):
            sealed = steps.collect(chunk)
            steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        receipt = steps.close(request)
    assert shared not in world.rows()["sentry_file"]
    assert receipt.files.kept == {}


@POSTGRESQL
def test_the_result_of_a_size_comparison_goes_with_either_side(stack: Stack) -> None:
    """Its file is named by the comparison alone, which the reference implementation forgets."""
    world = stack.world
    project = world.project(world.organization("acme"), "shop")
    first, second, third = (world.mobile_build(project, version=version) for version in ("1", "2", "3"))
    for head, base in ((second, first), (third, second), (third, first)):
        world.size_comparison(head, base)
    request, before = stack.request([second.id]), Seen.of(world)
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    stack.assert_only_these_are_gone([second.id], before)
    assert receipt.rows["sentry_preprodartifactsizecomparison"] == 2
    assert receipt.files.deleted == len(second.file_ids) + 2


def test_an_icon_stays_while_a_build_of_the_project_names_it_and_goes_with_the_last(stack: Stack) -> None:
    """An icon's id may be derived from its content: every version of an app then has the same."""
    world = stack.world
    organization = world.organization("acme")
    project, site = world.project(organization, "shop"), world.project(organization, "site")
    first, second = (world.mobile_build(project, icon="icn_same", version=version) for version in ("1", "2"))
    elsewhere = world.mobile_build(site, icon="icn_same", version="1")
    before = Seen.of(world)
    kept = []
    with steps_of(stack) as steps:
        for build in (first, second):
            request = stack.request([build.id])
            receipt = steps.finish(request, steps.open_and_collect(request))
            assert receipt.complete
            kept.append(receipt.objects.kept)
            stack.assert_only_these_are_gone([first.id] if build is first else [first.id, second.id], before)
    assert kept == [len(USECASES), 0]
    assert world.objects_of([elsewhere.id]) < world.objects().keys()


@ONE_DATABASE
def test_an_icon_that_was_uploaded_again_meanwhile_is_not_deleted(stack: Stack) -> None:
    """Between the rows' commit and the store's turn hours may pass, and the next upload may have the same icon."""
    world = stack.world
    project = world.project(world.organization("acme"), "shop")
    going = world.mobile_build(project, icon="icn_same")
    request = stack.request([going.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        late = world.mobile_build(project, icon="icn_same", version="2")
        steps.delete_what_was_released(sealed, released)
        receipt = steps.close(request)
    assert world.objects_of([going.id, late.id]) <= world.objects().keys()
    assert (receipt.complete, receipt.objects.kept) == (True, len(USECASES))


# Manifests --------------------------------------------------------------------------------------------------------------

UNREADABLE = {
    "empty": b"",
    "truncated": b'{"images": {"login": {"diff_mask_key": "1/2',
    "a list": b"[]",
    "null": b'{"images": null}',
    "deep": b'{"images": ' * 50_000,
    "not text": b"\x89PNG\r\n\x1a\n",
    "too large": b'{"images": {}}' + b" " * 5000,
}


@ONE_DATABASE
def test_an_unreadable_manifest_is_said_to_be_one_and_its_masks_go_all_the_same(stack: Stack) -> None:
    """The prefix that it stands for is the comparison's alone, so nothing has to be known of it."""
    world = stack.world
    project = world.project(world.organization("acme"), "shop")
    images = {"login": screen("login")}
    base, readable = (world.snapshot(project, images) for _ in range(2))
    world.comparison(readable, base, masks=1)
    for content in UNREADABLE.values():
        world.comparison(world.snapshot(project, images), base, manifest=content, masks=1, chunks=0)
    request, before = stack.request([base.id]), Seen.of(world)
    with steps_of(stack, manifest_limit_bytes=4096) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    stack.assert_only_these_are_gone([base.id], before)
    assert (receipt.complete, receipt.manifests.unreadable, receipt.manifests.evicted) == (True, len(UNREADABLE), 0)
    assert (receipt.manifests.read, receipt.objects.sealed_by_kind["diff_mask"]) == (2, 1)


@ONE_DATABASE
def test_an_evicted_manifest_is_said_to_be_one_and_its_masks_go_all_the_same(stack: Stack) -> None:
    """Objects expire after thirty idle days, a report perhaps before its masks."""
    shop = shop_of(stack.world, masks=3)
    absent = [
        stack.world.physical("preprod", shop.organization_id, shop.project.id, key)
        for key in (shop.comparison.key, shop.base.manifest_key)
    ]
    for key in absent:
        stack.s3.delete_object(Bucket=stack.bucket, Key=key)
    request, before = stack.request([shop.base.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    stack.assert_only_these_are_gone([shop.base.id], before)
    assert (receipt.complete, receipt.manifests.evicted, receipt.manifests.read, receipt.objects.absent) == (True, 2, 0, 2)


@ONE_DATABASE
def test_a_manifest_that_could_not_be_fetched_is_neither_evicted_nor_empty(stack: Stack) -> None:
    """NoSuchBucket is a 404 too. Nothing is sealed, and no row goes, on anything less than NoSuchKey."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.head.id]), Seen.of(stack.world)
    ways: list[dict[str, Any]] = [{"s3_endpoint": "http://127.0.0.1:1"}, {"bucket": "no-such-bucket"}, {"s3_secret_key": "no"}]
    for broken in ways:
        with steps_of(stack, **broken) as steps:
            (chunk,) = steps.open(request)
            with pytest.raises(StoreUnavailable):
                steps.collect(chunk)
            for epoch in (0, 1):
                with pytest.raises(StaleSeal):
                    steps.delete_rows(SealedChunk(**chunk.model_dump(), epoch=epoch, pages=0, digest=""))
        assert Seen.of(stack.world) == before
    with steps_of(stack) as steps:
        assert steps.finish(request, steps.collect(chunk)).complete
    stack.assert_only_these_are_gone([shop.head.id], before)


@dataclass
class Watched:
    """The real store, with a record of every key that it is asked about."""

    store: ObjectStore
    touched: list[str] = field(default_factory=list)

    @property
    def listable(self) -> bool:
        return self.store.listable

    def read(self, key: str, limit: int) -> bytes:
        self.touched.append(key)
        return self.store.read(key, limit)

    def delete(self, keys: Sequence[str]) -> Outcome:
        self.touched += keys
        return self.store.delete(keys)

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        self.touched.append(prefix)
        return self.store.list_under(prefix)

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        self.touched += [one.key for one in found]
        return self.store.delete_found(found)

    @property
    def lists_uploads(self) -> bool:
        return self.store.lists_uploads

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:
        self.touched.append(prefix)
        return self.store.uploads_under(prefix)

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:
        self.touched += [one.key for one in uploads]
        return self.store.abort_uploads(uploads)


@ONE_DATABASE
def test_what_a_manifest_or_a_column_names_of_others_is_left_alone_and_counted(stack: Stack) -> None:
    """A manifest is an upload and may name whatever it likes. A stray is neither read nor deleted, and kept for a look."""
    world = stack.world
    shop = shop_of(world)
    org, here = shop.organization_id, shop.project
    neighbour = world.snapshot(here, {"login": screen("login", 7)})
    theirs = world.snapshot(world.project(world.organization("globex"), "intranet"), {"login": screen("login", 8)})
    going = world.snapshot(here, {"login": screen("login", 9)})
    others = {
        "neighbour": neighbour.manifest_key,
        "base": shop.base.manifest_key,
        "organization": theirs.manifest_key,
        "mask": shop.comparison.mask_keys[0],
        "image": f"{org}/{here.id}/{'a' * 64}",
        "up": f"{org}/{here.id}/{going.id}/{shop.base.id}/../../{neighbour.id}/manifest.json",
        "double": f"{org}/{here.id}/{going.id}/{shop.base.id}//diff/a.png",
        "absolute": f"/{org}/{here.id}/{going.id}/{shop.base.id}/diff/a.png",
        "backslash": f"{org}/{here.id}/{going.id}/{shop.base.id}/..\\{neighbour.id}\\manifest.json",
        "line": f"{org}/{here.id}/{going.id}/{shop.base.id}/diff/a\n{neighbour.manifest_key}",
        "physical": world.physical("preprod", org, here.id, neighbour.manifest_key),
        "archive": f"snapshot_archives/{neighbour.id}.zip",
        "icon": f"{org}/{here.id}/icn_first",
        "everything": "",
    }
    odd = {"number": 7, "list": [neighbour.manifest_key], "object": {"key": neighbour.manifest_key}}
    manifest = json.dumps({"images": {name: {"diff_mask_key": key} for name, key in (others | odd).items()}}).encode()
    comparison = world.comparison(going, shop.base, manifest=manifest, masks=1)
    build = world.mobile_build(here, icon=f"../{here.id}/{neighbour.id}/manifest.json")
    second = world.snapshot(here, {"login": screen("login", 10)})
    backwards = world.comparison(second, shop.base)
    reversed_key = f"{org}/{here.id}/{shop.base.id}/{second.id}/comparison.json"
    with stack.database.write() as session:
        set_extras(session, tables.SnapshotMetrics, going.metrics_id, head_images_key=neighbour.manifest_key)
        set_extras(session, tables.SnapshotComparison, backwards.id, comparison_key=reversed_key)
        set_extras(session, tables.SnapshotMetrics, second.metrics_id, manifest_key=[second.manifest_key])

    request, before = stack.request([going.id, build.id, second.id]), Seen.of(world)
    strange = [(org, here.id, key) for key in (*others.values(), reversed_key)]
    with steps_of(stack, watched := Watched(worker.open_store(stack.settings()))) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    stack.assert_only_these_are_gone(request.artifact_ids, before)
    assert comparison.id not in world.rows()["sentry_preprodsnapshotcomparison"]
    named = len(others) + len(odd)
    assert (receipt.complete, receipt.manifests.strays) == (
        True,
        named + len(["head_images", "icon", "comparison", "manifest"]),
    )
    physical = {world.physical(usecase, o, p, key) for o, p, key in strange for usecase in USECASES if key}
    assert physical.isdisjoint(watched.touched)
    with stack.database.read() as session:
        packed = session.execute(select(DeletionChunk.strays)).scalar_one()
    assert packed, "kept for a look"


@ONE_DATABASE
def test_images_that_snapshots_share_are_counted_and_kept(stack: Stack) -> None:
    """Another snapshot's upload may rely on an image being there without any row that says so."""
    one, two = stack.snapshots("home", "search")
    request = stack.request([one.id])
    with steps_of(stack) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    images = {key for key in stack.world.objects() if key.count("/") == 6 and not key.endswith((".zip", ".json"))}
    assert (receipt.manifests.images_kept, len(images)) == (3, 4)
    assert two.id in stack.world.rows()["sentry_preprodartifact"]


@ONE_DATABASE
def test_a_key_that_a_manifest_names_twice_is_sealed_and_counted_once(stack: Stack) -> None:
    """The receipt's kinds add up to its keys, whatever a manifest repeats."""
    shop = shop_of(stack.world)
    prefix = shop.key(f"{shop.base.id}/")
    names = [f"{prefix}diff/a.png"] * 3 + [f"{prefix}comparison.json"]
    manifest = json.dumps({"images": {str(n): {"diff_mask_key": key} for n, key in enumerate(names)}}).encode()
    put(stack, "preprod", shop.project, shop.comparison.key, manifest)
    request = stack.request([shop.head.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.read() as session:
            pages = list(ledger.read_pages(session, request.deletion_id, 0))
        keys = [(page.scope, key) for page in pages for key in page.keys]
        receipt = steps.finish(request, sealed)
    assert len(keys) == len(set(keys))
    assert sum(receipt.objects.sealed_by_kind.values()) == receipt.objects.sealed


@ONE_DATABASE
def test_a_column_that_names_anothers_mask_does_not_hide_it(stack: Stack) -> None:
    """A stray of one artifact may be another's own key, and where nothing can be listed only the manifest names it."""
    shop = shop_of(stack.world, masks=1)
    (mask,) = shop.comparison.mask_keys
    with stack.database.write() as session:
        set_extras(session, tables.SnapshotMetrics, shop.base.metrics_id, head_images_key=mask)
    request = stack.request([shop.head.id, shop.base.id])
    with steps_of(stack, bucket_listable=False) as steps:
        steps.finish(request, steps.open_and_collect(request))
    assert not [key for key in stack.world.objects() if key.endswith(mask)]


def test_kinds_add_up_where_two_builds_name_one_icon_at_the_last_moment(stack: Stack) -> None:
    """It is sealed once."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    builds = [stack.world.mobile_build(project, icon=f"icn_{name}") for name in "ab"]
    request = stack.request([build.id for build in builds])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as session:
            session.execute(update(tables.MobileAppInfo).values(app_icon_id="icn_new"))
        receipt = steps.finish(request, sealed)
    assert sum(receipt.objects.sealed_by_kind.values()) == receipt.objects.sealed


@ONE_DATABASE
def test_what_a_column_names_elsewhere_at_the_last_moment_is_left_over(stack: Stack) -> None:
    """Collected, nothing named the objects that the artifact left behind in its other project."""
    shop = shop_of(stack.world)
    site = stack.world.project(shop.organization_id, "site")
    request, of_head = stack.request([shop.head.id]), tables.SnapshotMetrics.preprod_artifact_id == shop.head.id
    with stack.database.write() as session:
        move(session, shop.head.id, site)
        extras = session.execute(select(tables.SnapshotMetrics.extras).where(of_head)).scalar_one()
        session.execute(update(tables.SnapshotMetrics).where(of_head).values(extras={}))
        session.execute(update(tables.SnapshotComparison).values(extras={}))
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as session:
            session.execute(update(tables.SnapshotMetrics).where(of_head).values(extras=extras))
        receipt = steps.finish(request, sealed)
    assert receipt.left_over == {"NamedElsewhere": 2}


@ONE_DATABASE
def test_a_session_that_does_not_flush_by_itself_seals_what_is_named_at_the_last_moment(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a backend's own may be made, whose ORM deletes the rows."""
    shop = shop_of(stack.world)
    request = stack.request([shop.build.id])
    icon = put(stack, "preprod", shop.project, f"{shop.organization_id}/{shop.project.id}/icn_new")
    whole = Database.write

    @contextlib.contextmanager
    def without_autoflush(self: Database) -> Iterator[Session]:
        with whole(self) as session:
            session.autoflush = False
            yield session

    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as session:
            of_build = update(tables.MobileAppInfo).where(tables.MobileAppInfo.preprod_artifact_id == shop.build.id)
            session.execute(of_build.values(app_icon_id="icn_new"))
        with monkeypatch.context() as patched:
            patched.setattr(Database, "write", without_autoflush)
            released = steps.delete_rows(sealed)
        steps.delete_what_was_released(sealed, released)
        receipt = steps.close(request)
    assert receipt.complete
    assert receipt.objects.sealed == receipt.objects.deleted + receipt.objects.absent
    assert icon not in stack.world.objects()


@ONE_DATABASE
def test_masks_that_an_unreadable_manifest_names_are_left_over_where_no_store_lists(stack: Stack) -> None:
    """Nobody knows which they are."""
    shop = shop_of(stack.world, masks=2, manifest=b"[]")
    request = stack.request([shop.head.id])
    with steps_of(stack, bucket_listable=False) as steps:
        receipt = steps.finish(request, steps.open_and_collect(request))
    assert (receipt.complete, receipt.left_over) == (False, {"MasksUnknown": 1})
