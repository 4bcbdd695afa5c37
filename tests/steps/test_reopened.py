"""Rows that come back, icons that others share, steps that come late: what a deletion must not take for done."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import make_url, text, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.backend.tables import Artifact, Project, SnapshotMetrics
from activities.ledger import chunks, deletions
from activities.ledger.schema import ChunkState, RowsState
from activities.living import Living
from artifact_deletion.client import start_deletion
from artifact_deletion.errors import ArtifactReappeared, NotOpen, NotYet
from artifact_deletion.outbox import DeletionState, accept_deletion, deletions_to_start
from demo.world import Snapshot
from tests.stack import Pause, Seen, Stack, deletion_of, steps_of
from workflows.steps import CLOSE_DELETION, Chunk

LOOKS = ("SELECT artifact_deletion.artifact_deletion_ask", "SELECT artifact_deletion.artifact_deletion_artifact")
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def restore(stack: Stack, snapshot: Snapshot) -> str:
    """The snapshot's rows and manifest as a backup would bring them back. Returns the object's key."""
    ref = snapshot.artifact
    key = f"{ref.prefix}manifest.json"
    with stack.database.write() as session:
        session.add(Artifact(id=ref.id, project_id=ref.project_id))
        session.flush()
        session.add(SnapshotMetrics(preprod_artifact_id=ref.id, is_selective=False, extras={"manifest_key": key}))
    physical = stack.world.physical("snapshots", ref.organization_id, ref.project_id, key)
    stack.s3.put_object(Bucket=stack.bucket, Key=physical, Body=b'{"images": {}}')
    return physical


@pytest.mark.thorough
@on_postgresql
async def test_an_icon_goes_with_the_last_build_that_names_it(stack: Stack) -> None:
    """Two transactions at once each see the other's app info still there: only a look after the commit finds none."""
    organization = stack.world.organization("acme")
    project = stack.world.project(organization, "shop")
    builds = [stack.world.mobile_build(project, icon="icn_same") for _ in range(4)]
    kept = stack.world.mobile_build(project, icon="icn_other")
    before = Seen.of(stack.world)
    async with stack.worker(chunk_artifacts=1):
        receipt = await stack.delete([build.id for build in builds])
    assert receipt.complete
    stack.assert_only_these_are_gone([build.id for build in builds], before)
    assert kept.id in stack.world.rows()["sentry_preprodartifact"]


@pytest.mark.thorough
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@on_postgresql
async def test_a_closed_deletion_is_asked_for_again_in_an_async_session(stack: Stack, driver: str) -> None:
    """Drivers differ in what they take for an array."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    engine = create_async_engine(make_url(stack.database_url).set(drivername=f"postgresql+{driver}"))
    async with stack.worker():
        for _ in range(2):
            async with AsyncSession(engine) as session, session.begin():
                await session.run_sync(accept_deletion, request)
            assert (await (await start_deletion(stack.client, request)).result()).complete
    await engine.dispose()


@pytest.mark.thorough
async def test_rows_that_came_back_are_deleted_when_asked_again(stack: Stack) -> None:
    """A database restored to an earlier point brings artifacts back: the old receipt must not stand in the way."""
    one, two = stack.snapshots("home", "menu")
    async with stack.worker():
        first = await stack.delete([one.id, two.id])
        manifest = restore(stack, one)
        second = await stack.delete([one.id, two.id])
    assert first.complete
    assert second.complete
    assert manifest not in stack.world.objects()
    assert one.id not in stack.world.rows()["sentry_preprodartifact"]
    assert second.rows["sentry_preprodartifact"] == 3


@on_sqlite
async def test_asking_again_for_a_finished_one_changes_nothing(stack: Stack) -> None:
    (one,) = stack.snapshots("home")
    async with stack.worker():
        first = await stack.delete([one.id])
        again = await (await stack.start([one.id])).result()
    assert again == first


@on_sqlite
async def test_objects_of_an_artifact_with_a_row_are_left_alone(stack: Stack) -> None:
    """Whatever the ledger owes: no live row may lose an object."""
    (one,) = stack.snapshots("home")
    request = stack.request([one.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        restore(stack, one)
        objects = stack.world.objects()
        for step in (
            lambda: steps.delete_objects(sealed, released),
            lambda: steps.sweep(sealed),
            lambda: steps.delete_trace_items(sealed),
        ):
            with pytest.raises(ArtifactReappeared):
                step()
    assert stack.world.objects() == objects


@on_sqlite
def test_objects_of_an_artifact_that_came_back_twice_are_left_alone_in_every_chunk_that_it_was_in(stack: Stack) -> None:
    """The first of its chunks may still owe objects, whose names are those of the row that is there now."""
    one, other = stack.snapshots("home", "menu")
    request, project = stack.request([one.id, other.id]), one.artifact.project_id
    living = Living(SentryBackend(stack.database, Scopes("", ())))
    chunks_ = [Chunk(**deletion_of(request).model_dump(), chunk=number) for number in range(4)]
    with stack.database.write() as session:
        deletions.make(session, request, DeletionState.RUNNING, None)
        for chunk in chunks_[:3]:
            chunks.make_chunks(session, request.deletion_id, 0, [(one.id, project)], 100, first=chunk.chunk)
        chunks.make_chunks(session, request.deletion_id, 0, [(other.id, project)], 100, first=3)
        chunks.set_artifacts(session, chunks_[3], [other.id], rows_state=RowsState.MOVED)
        for chunk in chunks_:
            chunks.lock_chunk(session, chunk).state = ChunkState.ROWS_DELETED
    with stack.database.read() as session:
        for chunk in chunks_[:3]:
            with pytest.raises(ArtifactReappeared):
                living.read_released(session, chunk)
        living.read_released(session, chunks_[3])


@pytest.mark.thorough
@on_sqlite
async def test_an_artifact_that_moved_away_and_back_is_deleted_by_a_re_run(stack: Stack) -> None:
    one, two = stack.snapshots("home", "menu")
    other = stack.world.organization("globex")

    def transfer(organization: int) -> None:
        with stack.database.write() as session:
            session.execute(update(Project).where(Project.id == one.artifact.project_id).values(organization_id=organization))

    async with stack.worker():
        request = stack.request([one.id, two.id])
        stack.accept(request)
        with steps_of(stack) as steps:
            steps.open(request)
        transfer(other)
        failed = await stack.failure(await start_deletion(stack.client, request))
        assert failed.type == "ObjectsRemain"
        assert "Moved 2" in failed.message
        assert one.id in stack.world.rows()["sentry_preprodartifact"]
        transfer(stack.organization_id)
        receipt = await stack.delete([one.id, two.id])
    assert receipt.complete
    assert receipt.artifacts.deleted.ids == (one.id, two.id)


@pytest.mark.thorough
@on_sqlite
async def test_objects_that_stayed_where_an_artifact_was_before_it_moved_are_reported(stack: Stack) -> None:
    """They carry its id under another project: not ours to delete there, but not to be forgotten either."""
    (one,) = stack.snapshots("home")
    elsewhere = stack.world.project(stack.organization_id, "new-shop")
    with stack.database.write() as session:
        session.execute(update(Artifact).where(Artifact.id == one.id).values(project_id=elsewhere.id))
    async with stack.worker():
        failed = await stack.failure(await stack.start([one.id]))
    assert failed.type == "ObjectsRemain"
    assert "NamedElsewhere 2" in failed.message


@on_sqlite
async def test_a_close_that_comes_after_the_cancel_closes_nothing(stack: Stack) -> None:
    (one,) = stack.snapshots("home")
    request = stack.request([one.id])
    with steps_of(stack) as steps:
        steps.open(request)
        assert steps.cancel(request).nothing_deleted
        with pytest.raises(NotOpen):
            steps.run(CLOSE_DELETION, deletion_of(request))
        with pytest.raises(NotOpen):
            steps.close(request)


@pytest.mark.thorough
@on_sqlite
async def test_a_project_that_was_known_is_not_forgotten_when_rows_disappear(stack: Stack) -> None:
    """Another hand deletes the rows after the deletion was opened: its objects are found all the same."""
    (one,) = stack.snapshots("home")
    request = stack.request([one.id])
    stack.accept(request)
    with steps_of(stack) as steps:
        steps.open(request)
    with stack.database.write() as session:
        session.execute(text("DELETE FROM sentry_preprodsnapshotmetrics"))
        session.execute(text("DELETE FROM sentry_preprodartifact"))
    async with stack.worker():
        receipt = await stack.delete([one.id])
    assert receipt.complete
    assert receipt.artifacts.gone_before.swept.ids == (one.id,)
    assert not stack.world.objects_of([one.id]) & stack.world.objects().keys()


@pytest.mark.thorough
@on_sqlite
def test_rows_that_come_back_before_the_end_are_left_over_and_go_with_a_re_run(stack: Stack) -> None:
    """After its chunk's last step, as while it waits for others: a caller who asks again finds it running."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        manifest = restore(stack, one)
        stack.accept(request)
        receipt = steps.close(request)
        assert (receipt.complete, receipt.left_over, receipt.artifacts.reappeared.ids) == (False, {"Reappeared": 1}, (one.id,))
        stack.accept(request)
        (chunk,) = steps.open(request)
        assert steps.finish(request, steps.collect(chunk)).complete
    assert manifest not in stack.world.objects()


@pytest.mark.thorough
@pytest.mark.parametrize("which", LOOKS, ids=["before it looks for asks", "before it looks at rows"])
@on_postgresql
def test_asking_again_for_rows_that_came_back_is_seen_by_whoever_closes(stack: Stack, which: str) -> None:
    """It commits while the deletion is being closed: the look for asks comes before that for rows, so neither misses it."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    with steps_of(stack) as steps, ThreadPoolExecutor(1) as threads:
        sealed = steps.open_and_collect(request)
        steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        pause = Pause(stack.database.engine, which)
        closing = threads.submit(steps.close, request)
        pause.wait()
        with stack.database.write() as session:
            session.add(Artifact(id=one.id, project_id=one.artifact.project_id))
            session.flush()
            accept_deletion(session, request)
        pause.let_go()
        assert closing.result().left_over == {"Reappeared": 1}
        assert stack.recorded(request.workflow_id).state == "accepted"
        (chunk,) = steps.open(request)
        assert steps.finish(request, steps.collect(chunk)).complete


@pytest.mark.thorough
@on_postgresql
def test_asking_again_when_a_deletion_has_looked_at_rows_for_the_last_time_is_served_by_the_next_run(stack: Stack) -> None:
    """The receipt is true of the moment that it names. The ask is not answered by it, so `resume` finds it."""
    (one,) = stack.snapshots("one")
    request = stack.request([one.id])
    with steps_of(stack) as steps, ThreadPoolExecutor(1) as threads:
        sealed = steps.open_and_collect(request)
        steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        pause = Pause(stack.database.engine, "UPDATE artifact_deletion.artifact_deletion SET state")
        closing = threads.submit(steps.close, request)
        pause.wait()
        with stack.database.write() as session:
            session.add(Artifact(id=one.id, project_id=one.artifact.project_id))
            session.flush()
            accept_deletion(session, request)
        pause.let_go()
        assert closing.result().complete
        with stack.database.read() as session:
            assert list(deletions_to_start(session)) == [request]
        (chunk,) = steps.open(request)
        assert steps.finish(request, steps.collect(chunk)).complete
        with stack.database.read() as session:
            assert list(deletions_to_start(session)) == []


@pytest.mark.thorough
@pytest.mark.parametrize("closed_before", [True, False])
@on_sqlite
def test_an_artifact_that_came_back_and_went_with_another_deletion_is_waited_for(
    stack: Stack,
    closed_before: bool,  # noqa: FBT001
) -> None:
    """The first one deleted it once; what the second took is not deleted yet."""
    one, two = stack.snapshots("one", "two")
    first, second = stack.request([one.id]), stack.request([one.id, two.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(first)
        steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        if closed_before:
            assert steps.close(first).complete
        manifest = restore(stack, one)
        stack.accept(first)
        steps.delete_rows(steps.open_and_collect(second))
        assert steps.open(first) == []
        with pytest.raises(NotYet, match=second.workflow_id):
            steps.run(CLOSE_DELETION, deletion_of(first))
        assert steps.close(first).left_over == {"OwedByOthers": 1}
    assert manifest in stack.world.objects()


@on_sqlite
def test_a_receipt_counts_what_was_listed_before_rows_came_back(stack: Stack) -> None:
    """A complete deletion forgets its prefixes; what they said is in its next receipt all the same."""
    one, two = stack.snapshots("one", "two")
    stack.world.comparison(one, two)
    request = stack.request([one.id, two.id])
    with steps_of(stack) as steps:
        first = steps.finish(request, steps.open_and_collect(request)).objects
        restore(stack, one)
        stack.accept(request)
        (chunk,) = steps.open(request)
        second = steps.finish(request, steps.collect(chunk)).objects
    assert first.found_by_listing > 0
    assert (second.found_by_listing, second.prefixes) == (first.found_by_listing, first.prefixes + first.prefixes // 2)
    assert second.prefixes_listed_empty == second.prefixes
    assert second.listed_empty_from == first.listed_empty_from
