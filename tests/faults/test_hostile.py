"""In any world and for any request the promises hold, as far as thousands of drawn worlds can show.

    EXAMPLES=20000 python -m pytest --all tests/faults/test_hostile.py -rP

tries so many worlds, drawn anew each time, and says how often what happened; without `EXAMPLES` the same thousand every time.
"""

import contextlib
import dataclasses
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from pydantic import SecretStr
from sqlalchemy.event import listens_for

import composition
from activities.backend.files import STILL_NAMED
from activities.database import Database
from activities.stores.objects import ObjectStore
from activities.stores.s3 import S3Objects
from artifact_deletion.errors import ArtifactNotInOrganization, ProjectNotInOrganization, StaleSeal
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest
from conformance.object_store import ObjectStoreConformance
from demo.servers import ObjectStoreServer
from settings import Settings
from tests.hostile import CHUNK_SIZES, TAILS, USECASES, Drawn, HostileWorld, HostileWorldInMemory, Scene, worlds
from tests.memory_store import MemoryStore
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Steps, s3_of
from workflows.steps import Pace

# A world that broke a promise is long, and worth seeing.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
Test = TypeVar("Test", bound=Callable[..., None])
EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
PARTS = 8
"""Tests that may run side by side."""
PACE: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


def drawn_anew_or_from(number: int) -> Callable[[Test], Test]:
    """The same worlds every time, so that a failure does not depend on the day; other ones where a person looks for more."""
    return (lambda test: test) if EXAMPLES else seed(number)


@pytest.fixture(autouse=True)
def nothing_else_is_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis draws constants of the modules that are imported too: worlds would differ by our code, and by tests before."""
    if not EXAMPLES:
        monkeypatch.setattr(providers, "_get_local_constants", Constants)
        providers.CONSTANTS_CACHE.cache.clear()


class TestMemoryStore(ObjectStoreConformance):
    """What the worlds below are deleted from behaves as every store must."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()

    def put(self, store: ObjectStore, key: str, content: bytes = b"x") -> None:
        assert isinstance(store, MemoryStore)
        store.content[key] = content


@pytest.fixture
def hurried(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite that does not wait for the disk: no power is cut here."""
    shutil.copy(sqlite_template, tmp_path / "backend.db")
    database = Database(f"sqlite:///{tmp_path / 'backend.db'}")

    @listens_for(database.engine, "connect")
    def hurry(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    yield database
    database.dispose()


@contextlib.contextmanager
def steps_over(scene: Scene) -> Iterator[dict[int, Steps]]:
    """A worker's steps by the number of artifacts a chunk has, over a store that may be none of the settings'."""
    with ThreadPoolExecutor(4, thread_name_prefix="store") as requests:
        yield {size: Steps(scene.database, steps_named(scene, size, requests)) for size in CHUNK_SIZES}


def steps_named(scene: Scene, chunk_artifacts: int, requests: Executor) -> dict[str, Callable[..., Any]]:
    settings = Settings(
        database_url=SecretStr("sqlite://"),
        bucket="none",
        usecases=USECASES,
        trace_store="sql",
        chunk_artifacts=chunk_artifacts,
        quiet_period_s=0,
    )
    parts = dataclasses.replace(composition.open_parts(settings, scene.database), store=scene.store)
    return {one.__name__: one for queue in parts.steps(requests, requests, Pace(trace_store=True)) for one in queue}


def delete_all(steps: Steps, request: DeletionRequest, *, seal_all_first: bool) -> DeletionReceipt:
    """The workflow's order, with its chunks one after the other or side by side."""
    chunks = steps.open(request)
    sealed = {chunk.chunk: steps.collect(chunk) for chunk in chunks} if seal_all_first else {}
    for chunk in chunks:
        one = sealed.get(chunk.chunk) or steps.collect(chunk)
        try:
            deleted = steps.delete_rows(one)
        except StaleSeal:
            one = steps.collect(chunk)
            deleted = steps.delete_rows(one)
        steps.delete_what_was_released(one, deleted)
    return steps.close(request)


def judge(scene: Scene, steps: dict[int, Steps], drawn: Drawn) -> Iterator[str]:
    """Delete as requested, one request after the other, and let the oracle look at the rest. Yields what happened."""
    scene.world.put_down(drawn)
    before, requests = Evidence.of(scene), []
    scene.world.remember(before.rows, before.objects)
    for asked in drawn.requests:
        request = DeletionRequest(**dataclasses.asdict(asked))
        requests.append(request)
        if scene.world.must_be_refused(asked):
            with pytest.raises((ArtifactNotInOrganization, ProjectNotInOrganization)):
                steps[drawn.chunk_artifacts].open(request)
            yield "refused"
            continue
        scene.world.accepted.append(asked)
        receipt = delete_all(steps[drawn.chunk_artifacts], request, seal_all_first=drawn.seal_all_first)
        yield from happened(receipt)
    assert_promises_hold(scene, before, requests)


def happened(receipt: DeletionReceipt) -> Iterator[str]:
    """What the receipt says, as a few words: a property that never meets what it is about proves nothing."""
    yield "complete" if receipt.complete else "left over: " + ", ".join(receipt.left_over)
    if receipt.artifacts.deleted.count:
        yield "artifacts deleted"
    for what, count in {
        "files deleted": receipt.files.deleted,
        **{f"file kept: {reason}": ids.count for reason, ids in receipt.files.kept.items()},
        "found by listing": receipt.objects.found_by_listing,
        "icons kept": receipt.objects.kept,
        "strays": receipt.manifests.strays,
        "unreadable": receipt.manifests.unreadable,
        "evicted": receipt.manifests.evicted,
        "gone, swept": receipt.artifacts.gone_before.swept.count,
        "gone, unchecked": receipt.artifacts.gone_before.objects_unchecked.count,
        "gone by another deletion": len(receipt.artifacts.gone_before.by_deletion),
        "comparisons": receipt.rows.get("sentry_preprodsnapshotcomparison", 0),
        "masks named": receipt.objects.sealed_by_kind.get("diff_mask", 0),
    }.items():
        if count:
            yield what


MET_AGAIN_AND_AGAIN = {
    "refused", "complete", "artifacts deleted", "comparisons", "strays", "unreadable", "evicted", "found by listing",
    "files deleted", f"file kept: {STILL_NAMED}",
}  # fmt: skip
"""What no few hundred worlds do without; the rarer things come within the thousand."""


@pytest.mark.timeout(0)  # a thousand worlds take a minute or two, and a person may ask for a million
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.thorough) for part in range(1, PARTS))])
def test_whatever_a_world_holds_and_a_request_asks_the_promises_hold(hurried: Database, part: int) -> None:
    """Tenants, projects and artifacts whose ids begin with each other, and hostile rows, columns, keys and manifests."""
    store = MemoryStore()
    scene = Scene(hurried, HostileWorldInMemory(hurried.engine, store), store)
    seen: Counter[str] = Counter()
    with steps_over(scene) as steps:

        @drawn_anew_or_from(part)
        @settings(max_examples=(EXAMPLES or 1000) // PARTS, **PACE)
        @given(worlds())
        def promises_hold(drawn: Drawn) -> None:
            scene.world.empty_database()
            store.content.clear()
            seen["worlds"] += 1
            seen.update(judge(scene, steps, drawn))

        promises_hold()
    sys.stdout.write("\n".join(f"{count:7,} {what}" for what, count in seen.most_common()))
    assert seen["worlds"] >= (EXAMPLES or 1000) // PARTS
    assert not MET_AGAIN_AND_AGAIN - seen.keys(), "the worlds have become too tame to prove anything"


@pytest.mark.timeout(0)
def test_the_same_holds_on_a_real_object_store(
    hurried: Database, object_store: ObjectStoreServer, bucket: str, pytestconfig: pytest.Config
) -> None:
    """In fewer worlds, with the keys that an S3 server on a file system can hold."""
    seen: Counter[str] = Counter()
    examples = max(25 if pytestconfig.getoption("--all") else 10, EXAMPLES // 40)
    s3 = s3_of(object_store)
    scene = Scene(hurried, HostileWorld(hurried.engine, s3, bucket), S3Objects(s3, bucket, versioned=False))

    with steps_over(scene) as steps:

        @drawn_anew_or_from(PARTS)
        @settings(max_examples=examples, **PACE)
        @given(worlds(tails=TAILS))
        def promises_hold(drawn: Drawn) -> None:
            scene.world.empty_database()
            for page in scene.store.list_under(""):
                assert not scene.store.delete_found(page).remaining
            seen["worlds"] += 1
            seen.update(judge(scene, steps, drawn))

        promises_hold()
    sys.stdout.write("\n".join(f"{count:7,} {what}" for what, count in seen.most_common()))
