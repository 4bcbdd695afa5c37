"""Rows that change between the collecting and the deleting, and artifacts that move: no key is lost or trespassed."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from sqlalchemy import delete, event, select, update
from sqlalchemy.orm import Session

from activities.backend import tables
from activities.backend.cascade import cascade_of, metrics_of
from activities.backend.contract import ArtifactRef, NamedKey, Names, Stray
from activities.ledger.chunks import artifacts_of as artifacts_of_chunk
from activities.ledger.schema import DeletionArtifact, RowsState
from activities.plan import Planner
from artifact_deletion.errors import StaleSeal, StoreUnavailable
from demo.world import screen
from tests.shop import (
    ONE_DATABASE,
    POSTGRESQL,
    RENAMES,
    USECASES,
    Shop,
    move,
    put,
    ref,
    rename_icon,
    rename_manifest,
    sealed_keys,
    set_extras,
    shop_of,
)
from tests.stack import Seen, Stack, steps_of, wait_for_waiters


def unavailable(*_: object) -> None:
    raise StoreUnavailable("the object store could not be reached")


@ONE_DATABASE
@pytest.mark.parametrize("halfway", [0, 1, 2], ids=["collected once more", "after an attempt that ended", "after two"])
def test_what_rows_named_stays_sealed_when_another_deletes_them_in_between(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, halfway: int
) -> None:
    """Nothing else names a comparison under another's head, or an icon: collecting again must not forget them."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.base.id, shop.build.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        steps.collect(chunk)
        with stack.database.write() as session:
            going = [ref(shop.base.artifact), ref(shop.build.artifact)]
            cascade_of(session, going, metrics_of(session, going), "delete")
        with monkeypatch.context() as interrupted:
            interrupted.setattr(Planner, "keys", unavailable)
            for _ in range(halfway):
                with pytest.raises(StoreUnavailable):
                    steps.collect(chunk)
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


def test_a_key_that_a_row_names_only_at_the_last_moment_is_sealed_with_its_deletion(stack: Stack) -> None:
    """The row is the only one that knows this key, and it is about to go. What it named before goes too."""
    shop = shop_of(stack.world)
    going = [shop.head.id, shop.build.id]
    request, before = stack.request(going), Seen.of(stack.world)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        with stack.database.write() as session:
            late = {change: change(session, shop) for change in RENAMES}
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


def another_comparison(stack: Stack, shop: Shop) -> str:
    """Under another's head, so that no prefix of the artifacts' own leads to its objects."""
    third = stack.world.snapshot(shop.project, {"login": screen("login", 2)})
    return stack.world.comparison(third, shop.head).key


def renamed(rename: Callable[[Session, Shop], str]) -> Callable[[Stack, Shop], str]:
    def happens(stack: Stack, shop: Shop) -> str:
        with stack.database.write() as session:
            key = rename(session, shop)
        put(stack, "preprod_size" if rename is rename_icon else shop.head.usecase, shop.project, key)
        return key

    return happens


LATE: dict[str, Callable[[Stack, Shop], str | None]] = {"nothing": lambda _stack, _shop: None}
LATE |= {rename.__name__: renamed(rename) for rename in RENAMES} | {"another comparison": another_comparison}


@ONE_DATABASE
@pytest.mark.parametrize("late", LATE)
def test_the_seal_is_read_again_only_if_rows_say_something_else_by_now(stack: Stack, late: str) -> None:
    """While the rows are locked each statement counts; and whatever is named since must be sealed, each of it by itself."""
    shop = shop_of(stack.world)
    request, reads = stack.request([shop.head.id, shop.build.id]), list[str]()
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        key = LATE[late](stack, shop)
        before = Seen.of(stack.world)

        @event.listens_for(stack.database.engine, "before_cursor_execute")
        def note(_connection: object, _cursor: object, sql: str, *_: object) -> None:
            if "artifact_deletion_page" in sql or "artifact_deletion_prefix" in sql:
                reads.append(sql)

        released = steps.delete_rows(sealed)
        event.remove(stack.database.engine, "before_cursor_execute", note)
        assert bool(reads) is (key is not None), reads
        if key is not None:
            assert key in {named for _, named in sealed_keys(stack, sealed)}
        steps.delete_what_was_released(sealed, released)
        receipt = steps.close(request)
    assert (receipt.complete, sum(receipt.objects.sealed_by_kind.values())) == (True, receipt.objects.sealed)
    named_late = {there for there in before.objects if key is not None and there.endswith(key)}
    assert len(named_late) == (key is not None)
    stack.assert_only_these_are_gone(request.artifact_ids, before, also_gone=named_late)


@ONE_DATABASE
@pytest.mark.parametrize("late", [another_comparison, renamed(rename_manifest)], ids=["another comparison", "another manifest"])
def test_only_a_manifest_of_images_that_was_not_read_is_collected_again(
    stack: Stack, late: Callable[[Stack, Shop], str]
) -> None:
    """A prefix shows what else a row names. The images that a manifest names lie under none."""
    shop = shop_of(stack.world)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(stack.request([shop.head.id], images="delete"))
        late(stack, shop)
        if late is another_comparison:
            assert steps.delete_rows(sealed).rows
        else:
            with pytest.raises(StaleSeal, match="not collected"):
                steps.delete_rows(sealed)


def test_the_digest_of_names_is_another_one_for_whatever_else_rows_may_say() -> None:
    """It alone tells delete_rows whether anything has changed. What follows from ids says nothing of rows."""
    one, other = ArtifactRef(1, 2, 4), ArtifactRef(1, 2, 42)
    key = NamedKey("manifest", one, "1/2/4/manifest.json")
    derived = NamedKey("archive", one, "snapshot_archives/4.zip", is_derived=True)
    stray = Stray(one, "1/2/42/manifest.json")
    different = [
        Names(),
        Names(keys=[key]),
        Names(keys=[replace(key, key="1/2/4/other.json")]),
        Names(keys=[replace(key, kind="head_images")]),
        Names(keys=[replace(key, artifact=other)]),
        Names(keys=[key], strays=[stray]),
        Names(strays=[stray]),
        Names(strays=[replace(stray, key=7)]),
        Names(strays=[replace(stray, key="7")]),
        Names(strays=[replace(stray, key="\ud800")]),
        Names(comparisons={one: [42]}),
        Names(comparisons={one: [42, 421]}),
        Names(comparisons={other: [4]}),
    ]
    assert len({names.digest for names in different}) == len(different)
    assert Names(keys=[key, derived]).digest == Names(keys=[key]).digest
    in_any_order = [Names(keys=keys, comparisons={one: bases}) for keys, bases in (([key, derived], [1, 3]), ([key], [3, 1]))]
    assert in_any_order[0].digest == in_any_order[1].digest


@pytest.mark.thorough
@ONE_DATABASE
def test_where_a_store_cannot_list_a_changed_row_is_collected_again(stack: Stack) -> None:
    """No listing would find what a new manifest names, so it must be read before its row goes."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.head.id, shop.build.id]), Seen.of(stack.world)
    with steps_of(stack, bucket_listable=False) as steps:
        (chunk,) = steps.open(request)
        for change in RENAMES:
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


@pytest.mark.thorough
def test_an_artifact_that_has_moved_is_never_deleted_by_what_was_sealed_before(stack: Stack) -> None:
    """The sealed keys lie where the artifact no longer is: nothing happens, and its keys are collected again."""
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
        (lambda session: move(session, shop.head.id, site), (RowsState.PENDING, site.id)),
        (lambda session: move(session, shop.head.id, theirs), (RowsState.MOVED, None)),
        (lambda session: move(session, shop.head.id, shop.project), (RowsState.PENDING, shop.project.id)),
        (change_hands, (RowsState.MOVED, None)),
        (give_back, (RowsState.PENDING, shop.project.id)),
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
                known = {one.id: one for one in artifacts_of_chunk(session, chunk)}
            assert (known[shop.head.id].rows_state, known[shop.head.id].project_id) == then
            with pytest.raises(StaleSeal):
                steps.delete_rows(sealed)


@pytest.mark.thorough
def test_an_artifact_of_another_organization_by_now_is_left_alone_and_left_over(stack: Stack) -> None:
    """It was ours when it was asked for. Its new owner did not ask, and the one who did must hear of it."""
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


@pytest.mark.thorough
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
def test_a_comparison_with_a_head_that_has_moved_away_is_never_touched_and_left_over_where_none_owns_it(
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
    """Its columns name them where they are another's by our rules: neither deleted nor forgotten."""
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
    """The whole path: another transaction holds the artifact, and has moved it by the time that delete_rows gets its lock."""
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
