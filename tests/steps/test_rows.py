"""What goes with an artifact's rows and what stays: neighbours, files, icons; and requests and schemas that are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.orm import Session

from activities.backend import files, tables
from activities.ledger.schema import DeletionArtifact
from artifact_deletion.errors import SchemaDrift, StaleSeal
from artifact_deletion.outbox import DeletionState
from demo.world import Build, screen
from tests.shop import ONE_DATABASE, POSTGRESQL, USECASES, shop_of
from tests.stack import Seen, Stack, eventually, pending_failures, recorded, steps_of

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

# Requests that are refused, and schemas that are not ours ---------------------------------------------------------------


@pytest.mark.thorough
@ONE_DATABASE
async def test_a_request_with_one_foreign_artifact_is_refused_whole_before_the_store_is_asked(stack: Stack) -> None:
    """No store answers at this address: had anything been read or deleted, the deletion would wait for it for days."""
    shop = shop_of(stack.world)
    theirs = stack.world.snapshot(stack.world.project(stack.world.organization("globex"), "intranet"), {"a": screen("login")})
    before = Seen.of(stack.world)
    async with stack.worker(s3_endpoint="http://127.0.0.1:1"):
        handle = await stack.start([shop.head.id, theirs.id])
        error = await stack.failure(handle)
    assert (error.type, str(theirs.id) in error.message) == ("ArtifactNotInOrganization", True)
    assert Seen.of(stack.world) == before
    assert recorded(stack.database, handle.id).state is DeletionState.REFUSED
    with stack.database.read() as session:
        assert session.execute(select(DeletionArtifact)).all() == []


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


@pytest.mark.thorough
def test_an_unknown_table_that_refers_to_what_goes_blocks_with_its_name(stack: Stack) -> None:
    """Its rows would make every COMMIT fail, or dangle where the database does not look; a person has to decide first."""
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


@pytest.mark.thorough
@ONE_DATABASE
def test_an_unknown_table_that_refers_to_projects_or_files_blocks_nothing(stack: Stack) -> None:
    """Half the backend refers to those."""
    shop = shop_of(stack.world)
    unknown_table(stack, "sentry_project")
    request = stack.request([shop.head.id])
    with steps_of(stack) as steps:
        assert steps.finish(request, steps.open_and_collect(request)).complete


@pytest.mark.thorough
@POSTGRESQL
async def test_a_deletion_that_an_unknown_table_blocks_says_so_and_goes_on_when_it_is_repaired(stack: Stack) -> None:
    """The whole path: no person has to start it again."""
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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
        assert steps.delete_rows(steps.collect(sealed)) == first, "collecting again finds the seal of then"
        assert Seen.of(stack.world) == after
        steps.delete_what_was_released(sealed, first)
        again = steps.delete_rows(sealed)
        assert (again.rows, again.keys, again.first_page) == (first.rows, first.keys, first.end_page)
        receipt = steps.close(request)
    traces = sum(table == "trace_items" for table, _ in stack.world.rows_of(going))
    assert sum(receipt.rows.values()) == first.rows == len(stack.world.rows_of(going)) - traces


@pytest.mark.thorough
@ONE_DATABASE
def test_a_seal_that_is_not_the_ledgers_releases_nothing(stack: Stack) -> None:
    """delete_rows is told what it may release, and releases exactly that or nothing."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.head.id]), Seen.of(stack.world)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        seal = sealed.seal
        others: list[dict[str, Any]] = [{"epoch": seal.epoch + 1}, {"pages": seal.pages + 1}, {"digest": "0" * 64}]
        for other in others:
            with pytest.raises(StaleSeal):
                steps.delete_rows(sealed.model_copy(update={"seal": seal.model_copy(update=other)}))
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
    other_owner_instead: files.OTHER_OWNER,
    an_old_blob_of_another: files.OTHER_OWNER,
    another_owner: None,
    no_owner: None,
    no_blob: None,
    a_second_blob_without_owner: None,
}


@pytest.mark.thorough
def test_a_file_goes_unless_there_is_evidence_that_another_needs_it(stack: Stack) -> None:
    """Files have no keys that guard them: a wrong one would take another artifact's download, or another customer's file.

    Those that a server made have blobs without an owner, and some have no blob at all: that keeps none.
    """
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
    assert receipt.complete, "a file that is kept is another's, not a leftover"
    assert {name: set(ids.ids) for name, ids in receipt.files.kept.items()} == kept
    gone = {file for build in going.values() for file in build.file_ids} - set().union(*kept.values())
    assert before.rows["sentry_file"].keys() - now.rows["sentry_file"].keys() == gone
    index = before.rows["sentry_fileblobindex"]
    assert index.keys() - now.rows["sentry_fileblobindex"].keys() == {
        row for row, one in index.items() if one["file_id"] in gone
    }
    blobs = {one["blob_id"] for one in index.values() if one["file_id"] in gone}
    assert (receipt.files.deleted, receipt.files.blobs_left, receipt.rows["sentry_file"]) == (len(gone), len(blobs), len(gone))
    for table in ("sentry_fileblob", "sentry_fileblobowner"):
        assert now.rows[table] == before.rows[table]
    assert now.objects == before.objects, "blobs belong to the backend's own clean-up"


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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
