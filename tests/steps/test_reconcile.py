"""A reconcile tells what the store holds and no row names, and what rows name in vain. It changes nothing."""

import csv
import hashlib
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

import composition
from activities.backend import tables
from activities.reconcile.facts import Project
from activities.reconcile.reconcile import Reconciliation
from activities.stores.objects import Found, ObjectStore
from commands.exit_codes import OUTPUT_LOST
from demo.world import Project as WorldProject
from demo.world import screen
from tests.conftest import Command
from tests.image_steps import ImageSteps
from tests.memory_store import MemoryStore
from tests.oracle import Evidence
from tests.stack import Stack, steps_of

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
IN_TEN_DAYS = timedelta(days=10)
WEEK = timedelta(days=7)
NEVER = 7_000_000_001
"""An artifact's id that no row ever had."""


@contextmanager
def looking(stack: Stack, project: WorldProject, *, later: timedelta = IN_TEN_DAYS, **changes: Any) -> Iterator[Reconciliation]:
    """A look of a later time: no object can be made old."""
    parts = composition.open_parts(stack.settings(**changes), stack.database)
    with ThreadPoolExecutor(4) as requests:
        look = parts.reconciling(requests, Project(project.organization_id, project.id), WEEK, datetime.now(UTC) + later)
        yield look
        look.tally.close()


def run(look: Reconciliation) -> dict[str, tuple[int, int]]:
    """Objects and bytes by class."""
    for _ in (*look.list_objects(), *look.check_rows()):
        pass
    return {name: (one.sum.objects, one.sum.size) for name, one in look.tally.by_class().items()}


@dataclass
class Built:
    """A project with keys of every class, as they were put there."""

    stack: Stack
    project: WorldProject
    keys: dict[str, set[str]]
    """Physical, by class."""
    dangling: dict[str, int]
    """The artifact by kind of key."""

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Objects and bytes by class, by a listing of our own: every version is an object."""
        versions: dict[str, list[int]] = {}
        for page in self.stack.s3.get_paginator("list_object_versions").paginate(Bucket=self.stack.bucket):
            for one in page.get("Versions", ()):
                versions.setdefault(one["Key"], []).append(one["Size"])
        found = {name: [size for key in keys for size in versions[key]] for name, keys in self.keys.items()}
        return {name: (len(sizes), sum(sizes)) for name, sizes in found.items() if sizes}

    def put(self, of_class: str, key: str, body: bytes = b"some bytes", usecase: str = "preprod") -> str:
        physical = self.stack.world.physical(usecase, self.project.organization_id, self.project.id, key)
        self.stack.s3.put_object(Bucket=self.stack.bucket, Key=physical, Body=body)
        self.keys.setdefault(of_class, set()).add(physical)
        return physical

    @property
    def folder(self) -> str:
        return f"{self.project.organization_id}/{self.project.id}"


def build(stack: Stack) -> Built:
    """Rows and objects as uploads leave them, then what must not be."""
    world = stack.world
    head, base, gone, moved = stack.snapshots("head", "base", "gone", "moved")
    place = head.artifact
    project = WorldProject(place.project_id, place.organization_id, "shop")
    built = Built(stack, project, {}, {})
    world.comparison(head, base)
    world.comparison(head, gone)
    owed = world.objects_of([gone.id])
    world.mobile_build(project, icon="icn_named")
    before = set(world.objects())
    world.comparison(base, head, committed=False)
    leftovers = set(world.objects()) - before
    read_all(stack, project)
    elsewhere = world.project(place.organization_id, "elsewhere")
    with stack.database.write() as session:
        session.execute(update(tables.Artifact).where(tables.Artifact.id == moved.id).values(project_id=elsewhere.id))
    images = {key for one in (head, base, gone, moved) for key in stack.image_keys(one).values()}
    of_moved = world.objects_of([moved.id])
    built.keys |= {"owed": owed, "comparison_leftover": leftovers, "moved": of_moved}
    living = before - owed - of_moved - images
    built.keys["living"] = {key for key in living if f"/org.{place.organization_id}/" in key}
    put_strange_keys(built, base.id)
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(stack.request([gone.id])))
    shown = {key for one in (head, base, moved) for key in stack.image_keys(one).values()}
    built.keys["image_named"] = shown
    built.keys.setdefault("image_unnamed", set()).update(images - shown)
    spoil(built, base, head.id)
    return built


def put_strange_keys(built: Built, artifact: int) -> None:
    """Of no row, and of no shape."""
    folder = built.folder
    for name in ("manifest.json", "4/comparison.json", "日本語/🙂", " +%20&?#'\"<>", "a/.hidden/..twice"):
        built.put("orphan", f"{folder}/{NEVER}/{name}")
    built.put("orphan", f"snapshot_archives/{NEVER}.zip", usecase="snapshots")
    built.put("shared_unnamed", f"{folder}/icn_unnamed")
    built.put("image_unnamed", f"{folder}/{hashlib.sha256(b'new').hexdigest()}")
    built.put("image_unnamed", hashlib.sha256(b"old").hexdigest(), usecase="preprod_size")
    foreign = (
        f"{folder}/0{artifact}/manifest.json",
        f"{folder}/{artifact}",
        f"{folder}/{artifact}x/manifest.json",
        f"{folder}/{2**63}/manifest.json",
        f"{folder}/feed{artifact:060}x",
        f"{folder}7/{artifact}/manifest.json",
        f"snapshot_archives/{artifact}.zip.part",
        f"x/{folder}/{artifact}/manifest.json",
        f"{folder}/٣/manifest.json",
        f"{folder}/icn_é",
        "\N{RIGHT-TO-LEFT OVERRIDE}txt.exe",
    )
    for key in foreign:
        built.put("foreign", key)


def spoil(built: Built, base: Any, head_id: int) -> None:
    """Take objects away that rows name."""
    world, stack = built.stack.world, built.stack
    place = base.artifact
    icon = world.physical("preprod_size", place.organization_id, place.project_id, f"{built.folder}/icn_named")
    report = f"{built.folder}/{head_id}/{base.id}/comparison.json"
    keys = {
        world.physical("preprod", place.organization_id, place.project_id, base.manifest_key),
        world.physical("preprod", place.organization_id, place.project_id, report),
        icon,
    }
    assert keys <= built.keys["living"]
    for key in keys:
        versions = stack.s3.list_object_versions(Bucket=stack.bucket, Prefix=key).get("Versions", [])
        for one in versions:
            stack.s3.delete_object(Bucket=stack.bucket, Key=key, VersionId=one["VersionId"])
    built.keys["living"] -= keys
    built.dangling |= {"dangling_manifest": base.id, "dangling_comparison_manifest": head_id}


def read_all(stack: Stack, project: WorldProject) -> None:
    """The index of shared images has every snapshot."""
    parts = composition.open_parts(stack.settings(), stack.database)
    with ThreadPoolExecutor(2) as reads:
        catching_up = parts.catching_up(parts.planner(reads))
        assert catching_up is not None
        assert list(catching_up.parts(project.id))


@pytest.mark.thorough
@pytest.mark.parametrize("keeps", ["objects", "versions"])
def test_every_key_is_counted_in_its_class_and_nothing_is_changed(
    stack: Stack, keeps: str, image_buckets: dict[str, str]
) -> None:
    """Each class is there, by objects and by bytes; every version counts, and no delete marker."""
    if keeps == "versions":
        stack.use_bucket(image_buckets["enabled"])
    built = build(stack)
    if keeps == "versions":
        built.put("orphan", f"{built.folder}/{NEVER}/manifest.json", b"a second version")
        hidden = built.put("image_hidden_unowed", f"{built.folder}/{hashlib.sha256(b'hidden').hexdigest()}")
        stack.s3.delete_object(Bucket=stack.bucket, Key=hidden)
        stack.s3.delete_object(Bucket=stack.bucket, Key=next(iter(built.keys["owed"])))
    before, versions = Evidence.of(stack), stack.world.object_versions()
    with looking(stack, built.project) as look:
        found = run(look)
        dangling = {line.name: line.artifact for line in look.tally.lines() if line.name.startswith("dangling_")}
        orphans = {line.artifact for line in look.tally.lines("orphan")}
    assert {name: counts for name, counts in found.items() if name not in dangling} == built.sizes
    assert dangling.pop("dangling_icon") > 0
    assert dangling == built.dangling
    assert orphans == {NEVER}
    assert (Evidence.of(stack), stack.world.object_versions()) == (before, versions)


@pytest.mark.thorough
@on_sqlite
def test_what_is_younger_is_no_orphan_yet(stack: Stack) -> None:
    """An upload puts its manifest before its row is committed."""
    built = build(stack)
    with looking(stack, built.project, later=timedelta()) as look:
        found = run(look)
    sizes = built.sizes
    of_both = [sum(counts) for counts in zip(sizes["orphan"], sizes["comparison_leftover"], strict=True)]
    assert found["recent"] == tuple(of_both)
    assert not {"orphan", "comparison_leftover"} & found.keys()


@on_sqlite
def test_of_images_nothing_is_said_before_every_manifest_was_read(stack: Stack) -> None:
    (one,) = stack.snapshots("one")
    place = one.artifact
    built = Built(stack, WorldProject(place.project_id, place.organization_id, "shop"), {}, {})
    built.keys["image_unknown"] = set(stack.image_keys(one).values())
    with looking(stack, built.project) as look:
        assert run(look)["image_unknown"] == built.sizes["image_unknown"]


@pytest.mark.thorough
@on_sqlite
def test_images_that_a_deletion_has_hidden_are_on_its_list(images: ImageSteps, versioning: str) -> None:
    """Under markers or as copies in quarantine; before that they are owed."""
    stack, project = images.stack, images.project
    world = stack.world
    one = world.snapshot(project, {"a": screen("a"), "b": screen("b")})
    world.snapshot(project, {"b": screen("b")})
    deletion = images.delete(one)
    images.catch_up()
    with looking(stack, project) as look:
        assert run(look)["image_owed"][0] == 1, "it waits for its decision"
    images.hide(deletion)
    with looking(stack, project) as look:
        found = run(look)
    assert (found["image_hidden"][0], found["image_named"][0]) == (1, 1), versioning
    assert found.keys() <= {"image_hidden", "image_named", "living", "owed"}


@on_sqlite
def test_an_icon_that_a_deletion_still_owes_is_owed(stack: Stack) -> None:
    organization = stack.world.organization("acme")
    project = stack.world.project(organization, "shop")
    build_ = stack.world.mobile_build(project, icon="icn_only")
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(stack.request([build_.id])))
    with looking(stack, project) as look:
        assert {name: count for name, (count, _) in run(look).items()} == {"owed": 1}


@pytest.mark.thorough
@on_sqlite
def test_other_organizations_deletions_owe_nothing_here(stack: Stack) -> None:
    """A request is believed where artifacts without a row lay, so another organization's may name any id."""
    built = build(stack)
    other = stack.world.organization("other")
    theirs = stack.world.project(other, "theirs")
    mine = stack.world.snapshot(theirs, {"a": screen("a")})
    request = stack.request([NEVER, mine.id], organization_id=other, project_id=theirs.id)
    with steps_of(stack) as steps:
        steps.delete_rows(steps.open_and_collect(request))
    with looking(stack, built.project) as look:
        assert run(look)["orphan"] == built.sizes["orphan"]


@dataclass(frozen=True)
class Changing(MemoryStore):
    """The store, with something done between its listing of a scope and the look at rows. The listing is real."""

    store: ObjectStore | None = None
    after: Callable[[], object] = lambda: None

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        assert self.store is not None
        listed = list(self.store.list_under(prefix))
        if any(listed):
            self.after()
        yield from listed


@on_sqlite
@pytest.mark.parametrize("what", ["an upload commits", "a deletion takes rows"])
def test_what_uploads_and_deletions_do_meanwhile_makes_no_orphan(stack: Stack, what: str) -> None:
    """Between the listing and the look at rows: a row that came makes its keys living, and a deletion owes what it took."""
    one, two = stack.snapshots("one", "two")
    project = WorldProject(one.artifact.project_id, one.artifact.organization_id, "shop")
    folder = f"{project.organization_id}/{project.id}/{NEVER}"
    upload = stack.world.physical("preprod", project.organization_id, project.id, f"{folder}/manifest.json")
    stack.s3.put_object(Bucket=stack.bucket, Key=upload, Body=b"{}")

    def commits() -> None:
        with stack.database.write() as session:
            session.execute(insert(tables.Artifact).values(id=NEVER, project_id=project.id).prefix_with("OR IGNORE"))

    def takes() -> None:
        with steps_of(stack) as steps:
            for chunk in steps.open(stack.request([two.id])):
                steps.delete_rows(steps.collect(chunk))

    with looking(stack, project) as look:
        changing = replace(look, store=Changing(store=look.store, after=commits if what == "an upload commits" else takes))
        found = run(changing)
    if what == "an upload commits":
        assert "orphan" not in found
    else:
        assert (found["orphan"][0], found["owed"][0]) == (1, len(stack.world.objects_of([two.id])))


@dataclass(frozen=True)
class Generated(MemoryStore):
    """A listing that is made while it is read.

    A server would take an hour to be filled with a million objects, and the test is about what this process keeps of a listing.
    """

    scope: str = ""
    folder: str = ""
    objects: int = 0

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        if prefix != self.scope:
            return
        written = datetime(2026, 1, 1, tzinfo=UTC)
        for start in range(0, self.objects, 1000):
            keys = (f"{prefix}{self.folder}/{1 + number // 1000}/{number:07}.png" for number in range(start, start + 1000))
            yield [Found(key, size=1, written=written) for key in keys]


@pytest.mark.thorough
@on_sqlite
@pytest.mark.timeout(900)  # tracing makes it many times slower
@pytest.mark.parametrize(("objects", "before"), [(50_000, 10_000), (1_000_000, 900_000)])
def test_memory_does_not_grow_with_the_listing(stack: Stack, objects: int, before: int) -> None:
    """The same bound for fifty thousand as for the last of a million, traced when what is made once is there."""
    organization = stack.world.organization("acme")
    project = stack.world.project(organization, "shop")
    scope = stack.world.physical("preprod", organization, project.id, "")
    store = Generated(scope=scope, folder=f"{organization}/{project.id}", objects=objects)
    with looking(stack, project) as look:
        counts = iter(replace(look, store=store).list_objects())
        while next(counts) < before:
            pass
        tracemalloc.start(1)
        try:
            for _ in counts:
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert look.tally.by_class()["orphan"].sum.objects == objects
    assert peak < 4 * 2**20


@pytest.mark.thorough
@on_sqlite
def test_the_command_says_it_in_words_json_and_lines(stack: Stack, command: Command, tmp_path: Path) -> None:
    built = build(stack)
    project = ("reconcile", "--project", built.project.id, "--older-than", "0.001s")
    code, said = command(*project)
    assert code == 1
    assert "Orphan " in said
    assert re.search(
        r"^Report +[0-9a-f]{32}, nothing may be deleted by it: it counts as orphans what was hardly", said, re.MULTILINE
    )
    assert "may be acted on until" not in said
    assert "Dangling manifest" in said
    assert f"{NEVER}" not in said
    code, said = command(*project, "--keys", "--json", "--csv", tmp_path / "lines.csv")
    answer = json.loads(said)
    orphans = answer["classes"]["orphan"]
    assert (orphans["objects"], orphans["bytes"]) == built.sizes["orphan"]
    assert (orphans["artifacts"], orphans["ages"]["under 1 day"]) == (1, orphans["objects"])
    assert answer["dangling"]["manifest"] == {"count": 1, "artifacts": [built.dangling["dangling_manifest"]]}
    assert {one["key"].rpartition("/")[2] for one in answer["dangling_keys"]} == {
        "manifest.json",
        "comparison.json",
        "icn_named",
    }
    with (tmp_path / "lines.csv").open() as file:
        lines = list(csv.DictReader(file))
    (line,) = [one for one in lines if one["class"] == "orphan"]
    assert (int(line["artifact"]), int(line["objects"]), int(line["bytes"])) == (NEVER, *built.sizes["orphan"])
    assert line["oldest"] <= line["newest"]
    code, said = command(*project, "--csv", "/dev/full")
    assert (code, "Orphan " in said) == (OUTPUT_LOST, True)
    assert said.endswith("\nthe file of --csv is incomplete: it could not be written (No space left on device)\n")
    code, said = command("reconcile", "--project", 2**40)
    assert (code, said.strip()) == (2, f"there is no project {2**40}")


@pytest.mark.thorough
@on_sqlite
def test_a_share_of_orphans_that_a_wrong_join_would_show_is_told_loudly(stack: Stack, command: Command) -> None:
    built = build(stack)
    words = ("reconcile", "--project", built.project.id, "--older-than", "0.001s", "--implausible")
    assert "WARNING" not in command(*words, 99)[1]
    said = command(*words, 1)[1]
    assert "WARNING: nothing may be deleted by this report: no row stands for " in said
