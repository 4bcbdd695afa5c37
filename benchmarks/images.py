"""Shared images: catching up beside reading the manifests alone, hiding and purging beside bare requests, decisions in SQL.

Bare requests do the same by boto3 from as many threads: for each image a listing, or a copy and a look, and deletes of a
thousand keys.
"""

import hashlib
import json
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select, text
from temporalio.testing import ActivityEnvironment

from activities.backend import keys, tables
from activities.backend.contract import ArtifactRef
from activities.backend.sentry import SentryBackend
from activities.images import index, owed
from activities.images.index import Index, ReadSnapshot
from activities.ledger.image_schema import SnapshotState
from activities.ledger.schema import DeletionChunk
from activities.stores.s3 import S3Objects
from artifact_deletion.errors import NotYet
from artifact_deletion.images import packed
from benchmarks.stage import Stage
from composition import Parts, open_parts
from settings import Settings
from workflows.steps import HIDE_IMAGES, SETTLE_IMAGES, Deletion, ImageProject, Pace

ORGANIZATION = 9500
IMAGES_A_SNAPSHOT = 50
WANTED = 500
TURNS = 3
"""Ours and bare requests: what comes first finds neither statements nor connections made."""
_PROJECTS = 2 + 2 * TURNS
IMAGE = b"\x89PNG" + bytes(2044)
_BUCKETS = {"markers": "bench-markers", "copies": "bench-copies"}


@dataclass
class Requests:
    """What a client asked of the store."""

    seen: Counter[str] = field(default_factory=Counter)

    def count(self, event_name: str, **_: Any) -> None:
        """A handler of botocore's events, such as `before-send.s3.CopyObject`."""
        self.seen[event_name.rpartition(".")[2]] += 1


def images(stage: Stage, *, snapshots: int, hidden: int, indexed: Sequence[int]) -> dict[str, Any]:
    """`snapshots` manifests are read, `hidden` images hidden and purged; `indexed` are sizes of an index that is asked."""
    _make_projects(stage)
    return {
        "catch_up": _catch_up(stage, snapshots),
        "hidden": {how: _in_turns(stage, how, hidden) for how in _BUCKETS},
        "decide": _decide(stage, indexed),
    }


def _make_projects(stage: Stage) -> None:
    with stage.database.write() as session:
        session.add(tables.Organization(id=ORGANIZATION, slug="images"))
        session.flush()
        for number in range(_PROJECTS):
            session.add(tables.Project(id=ORGANIZATION + number, slug=f"images-{number}", organization_id=ORGANIZATION))
    for bucket in _BUCKETS.values():
        stage.s3.create_bucket(Bucket=bucket)
    stage.s3.put_bucket_versioning(Bucket=_BUCKETS["markers"], VersioningConfiguration={"Status": "Enabled"})


def _settings(stage: Stage, bucket: str) -> Settings:
    values = {name.removeprefix("ARTIFACT_DELETION_").lower(): value for name, value in stage.worker_variables().items()}
    known: dict[str, Any] = {name: value for name, value in values.items() if name in Settings.model_fields}
    return Settings(**(known | {"bucket": bucket, "images_grace_s": 0.001, "images_late_s": 0.001, "images_catch_up_s": 0.001}))


# Catching up ------------------------------------------------------------------------------------------------------------


def _catch_up(stage: Stage, snapshots: int) -> dict[str, float]:
    project = ORGANIZATION
    refs = [ArtifactRef(ORGANIZATION, project, 30_000_000 + number) for number in range(snapshots)]
    with stage.database.write() as session:
        _insert_snapshots(session, refs)
    parts = open_parts(_settings(stage, _BUCKETS["copies"]), stage.database)
    store, places = _store(parts), [_manifest_place(parts, ref) for ref in refs]
    content = json.dumps({"images": {f"{n}.png": {"content_hash": _hash(n)} for n in range(IMAGES_A_SNAPSHOT)}}).encode()
    with ThreadPoolExecutor(32) as threads:
        _run_out(threads.map(lambda place: store.client.put_object(Bucket=store.bucket, Key=place, Body=content), places))
    limit = parts.settings.manifest_limit_bytes
    with _threads(parts) as (requests, reads):
        began = time.perf_counter()
        _run_out(reads.map(lambda place: store.read(place, limit), places))
        alone = time.perf_counter() - began
        _, with_store = parts.steps(requests, reads, Pace())
        began = time.perf_counter()
        _run(with_store, HIDE_IMAGES.name, Deletion(**_seal(stage, project, [_hash(0)])))
        ours = time.perf_counter() - began
    return {"snapshots": snapshots, "alone_s": alone, "ours_s": ours}


def _run_out(answers: Iterator[object]) -> None:
    """And keep none."""
    deque(answers, maxlen=0)


def _insert_snapshots(session: Any, refs: Sequence[ArtifactRef]) -> None:
    artifacts = [{"id": ref.id, "project_id": ref.project_id, "state": 3} for ref in refs]
    session.execute(insert(tables.Artifact), artifacts)
    metrics = [
        {
            "id": ref.id,
            "preprod_artifact_id": ref.id,
            "image_count": IMAGES_A_SNAPSHOT,
            "extras": {"manifest_key": f"{keys.artifact_prefix(ref)}manifest.json"},
        }
        for ref in refs
    ]
    session.execute(insert(tables.SnapshotMetrics), metrics)


def _manifest_place(parts: Parts, ref: ArtifactRef) -> str:
    return f"{parts.backend.scopes(ref)[0]}{keys.artifact_prefix(ref)}manifest.json"


# Hiding and purging -----------------------------------------------------------------------------------------------------


def _in_turns(stage: Stage, how: str, count: int) -> dict[str, Any]:
    first = ORGANIZATION + 2 + (0 if how == "markers" else TURNS)
    turns = [_hide_and_purge(stage, how, count, first + turn) for turn in range(TURNS)]
    return {
        "images": count,
        "turns": TURNS,
        **{what: _medians([turn[what] for turn in turns]) for what in ("hide", "purge")},
    }


def _medians(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **{whose: statistics.median(turn[whose] for turn in turns) for whose in ("ours_s", "bare_s")},
        "requests": turns[-1]["requests"],
    }


def _hide_and_purge(stage: Stage, how: str, count: int, project: int) -> dict[str, Any]:
    parts = open_parts(_settings(stage, _BUCKETS[how]), stage.database)
    store, hashes, counted = _store(parts), [_hash(number) for number in range(count)], Requests()
    scope = parts.backend.scopes(ArtifactRef(ORGANIZATION, project, 0))[0]
    places = [f"{scope}{ORGANIZATION}/{project}/{one}" for one in hashes]
    _put(store, places)
    store.client.meta.events.register("before-send.s3", counted.count)
    with _threads(parts) as (requests, reads):
        _, with_store = parts.steps(requests, reads, Pace())
        began = time.perf_counter()
        _run(with_store, HIDE_IMAGES.name, Deletion(**_seal(stage, project, hashes)))
        hide, of_hide = time.perf_counter() - began, dict(counted.seen)
        counted.seen.clear()
        began = time.perf_counter()
        _settled(with_store, ImageProject(organization_id=ORGANIZATION, project_id=project))
        purge, of_purge = time.perf_counter() - began, dict(counted.seen)
        _put(store, places)
        bare = BARE[how](store, places, requests)
    return {
        "hide": {"ours_s": hide, "bare_s": bare[0], "requests": of_hide},
        "purge": {"ours_s": purge, "bare_s": bare[1], "requests": of_purge},
    }


def _settled(steps: Sequence[Callable[..., Any]], project: ImageProject) -> None:
    while True:
        try:
            _run(steps, SETTLE_IMAGES.name, project)
        except NotYet:
            continue
        return


def _bare_markers(store: S3Objects, places: Sequence[str], threads: Executor) -> tuple[float, float]:
    client, bucket = store.client, store.bucket
    began = time.perf_counter()
    list(threads.map(lambda part: _delete(store, [{"Key": place} for place in part]), _thousands(places)))
    hide = time.perf_counter() - began

    def versions(place: str) -> tuple[list[Any], list[Any]]:
        found = client.list_object_versions(Bucket=bucket, Prefix=place)
        return found.get("Versions", []), found.get("DeleteMarkers", [])

    began = time.perf_counter()
    listed = list(threads.map(versions, places))
    for kind in (0, 1):
        named = [{"Key": one["Key"], "VersionId": one["VersionId"]} for both in listed for one in both[kind]]
        list(threads.map(lambda part: _delete(store, part), _thousands(named)))
    return hide, time.perf_counter() - began


def _bare_copies(store: S3Objects, places: Sequence[str], threads: Executor) -> tuple[float, float]:
    client, bucket = store.client, store.bucket

    def copy(place: str) -> None:
        client.copy_object(Bucket=bucket, Key=f"bare/{place}", CopySource={"Bucket": bucket, "Key": place})

    began = time.perf_counter()
    list(threads.map(copy, places))
    list(threads.map(lambda part: _delete(store, [{"Key": place} for place in part]), _thousands(places)))
    hide = time.perf_counter() - began
    began = time.perf_counter()
    list(threads.map(lambda place: _is_absent(store, place), places))
    copies = [f"bare/{place}" for place in places]
    list(threads.map(lambda part: _delete(store, [{"Key": place} for place in part]), _thousands(copies)))
    return hide, time.perf_counter() - began


BARE: dict[str, Callable[[S3Objects, Sequence[str], Executor], tuple[float, float]]] = {
    "markers": _bare_markers,
    "copies": _bare_copies,
}


def _is_absent(store: S3Objects, place: str) -> bool:
    try:
        store.client.head_object(Bucket=store.bucket, Key=place)
    except store.client.exceptions.ClientError:
        return True
    return False


def _delete(store: S3Objects, objects: Sequence[Any]) -> None:
    store.client.delete_objects(Bucket=store.bucket, Delete={"Objects": list(objects)})


def _thousands(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + 1000] for start in range(0, len(values), 1000))


# Deciding ---------------------------------------------------------------------------------------------------------------


def _decide(stage: Stage, sizes: Sequence[int]) -> dict[str, Any]:
    """Of images that no snapshot names: then each of the project's snapshots is looked at."""
    project, found = ORGANIZATION + 1, dict[str, float]()
    asked = Index(SentryBackend(stage.database, keys.Scopes("{usecase}/{organization_id}/{project_id}/", ("preprod",))))
    wanted, there = [_hash(10**6 + number) for number in range(WANTED)], 0
    for size in sizes:
        with stage.database.write() as session:
            _index_by_sql(session, project, range(there, size))
        there = size
        with stage.database.read() as session:
            session.execute(text("SELECT 1"))
            began = time.perf_counter()
            index.lock_project(session, project)
            assert not asked.unread(session, project), "all are indexed"
            assert not asked.named(session, project, wanted)
            found[str(size)] = time.perf_counter() - began
    return {"wanted": WANTED, "sizes": found}


def _index_by_sql(session: Any, project: int, numbers: range) -> None:
    """Backend's rows and ours, as many as that, all of the same images: what is in them costs nothing more."""
    index.record(session, project, [ReadSnapshot(0, SnapshotState.READ, packed(map(_hash, range(IMAGES_A_SNAPSHOT))))])
    values = {"project": project, "first": 7_000_000 + numbers.start, "last": 7_000_000 + numbers.stop - 1}
    series = "FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS id"
    metrics, ours = "sentry_preprodsnapshotmetrics", "artifact_deletion.artifact_deletion_snapshot"
    same = f"{ours} AS same WHERE same.artifact_id = 0 AND project_id = :project"
    statements = (
        f"INSERT INTO sentry_preprodartifact (id, project_id, state) SELECT id, :project, 3 {series}",
        f"INSERT INTO {metrics} (id, preprod_artifact_id, image_count, is_selective) SELECT id, id, 1, false {series}",
        f"INSERT INTO {ours} SELECT project_id, id, same.state, images, read_at {series}, {same}",
        "ANALYZE",
    )
    for statement in statements:
        session.execute(text(statement), values)


# What all share ---------------------------------------------------------------------------------------------------------


def _seal(stage: Stage, project: int, hashes: Sequence[str]) -> dict[str, Any]:
    """A deletion whose rows are gone, and that owes these images."""
    deletion = hashlib.md5(str(project).encode(), usedforsecurity=False).hexdigest()
    with stage.database.write() as session:
        gone = {"state": "rows_deleted", "rows_deleted_at": datetime.now(UTC)}
        session.add(DeletionChunk(deletion_id=deletion, chunk=0, fence=0, **gone))
        session.flush()
        found = session.execute(select(DeletionChunk).where(DeletionChunk.deletion_id == deletion)).scalar_one()
        owed.seal(session, found, {(ORGANIZATION, project): [bytes.fromhex(one) for one in hashes]})
    return {"deletion_id": deletion, "organization_id": ORGANIZATION, "fence": 0, "images": True}


def _run(steps: Sequence[Callable[..., Any]], name: str, given: Any) -> Any:
    (step,) = (one for one in steps if one.__name__ == name)
    return ActivityEnvironment().run(step, given)


@contextmanager
def _threads(parts: Parts) -> Iterator[tuple[Executor, Executor]]:
    with (
        ThreadPoolExecutor(parts.settings.store_requests) as requests,
        ThreadPoolExecutor(parts.settings.manifest_readers) as reads,
    ):
        yield requests, reads


def _store(parts: Parts) -> S3Objects:
    assert isinstance(parts.store, S3Objects)
    return parts.store


def _put(store: S3Objects, places: Sequence[str]) -> None:
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda place: store.client.put_object(Bucket=store.bucket, Key=place, Body=IMAGE), places))


def _hash(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()
