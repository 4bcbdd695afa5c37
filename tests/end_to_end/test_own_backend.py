"""A backend with tables of its own, from the setting to the receipt: no table of Sentry's is in its database."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mypy_boto3_s3 import S3Client
from sqlalchemy import insert, inspect, select, text

import composition
import starter
from activities.database import Database
from artifact_deletion.request import DeletionRequest
from commands.exit_codes import DONE, FAILED
from demo.servers import ObjectStoreServer, PostgresServer, TemporalServer
from examples.own_backend.tables import Base, Build, Shot
from settings import Settings, load
from tests.stack import PROCESS, ROOT, Steps, s3_of
from workflows.steps import Pace

ADAPTERS = "examples.own_backend.deletion:adapters"
_databases = itertools.count(1)
_owners = itertools.count(501, 2)  # the Temporal server is other tests' too


@dataclass
class Ci:
    """Builds of two owners, and a bucket with their screenshots."""

    database: Database
    s3: S3Client
    bucket: str
    owner: int
    capsys: pytest.CaptureFixture[str]

    @property
    def other(self) -> int:
        return self.owner + 1

    def build(self, owner: int, build: int, *shots: str) -> None:
        """With an object for each shot."""
        keys = [f"{owner}/{build}/{name}.png" for name in shots]
        with self.database.write() as session:
            session.execute(insert(Build).values(id=build, owner_id=owner))
            session.execute(insert(Shot), [{"build_id": build, "key": key} for key in keys])
        self.put(keys)

    def put(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=key.encode())

    def rows(self) -> dict[str, set[tuple[Any, ...]]]:
        with self.database.read() as session:
            every = {model.__tablename__: session.execute(select(*model.__table__.columns)) for model in (Build, Shot)}
            return {table: {tuple(row) for row in rows} for table, rows in every.items()}

    def objects(self) -> set[str]:
        return {one["Key"] for one in self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", ())}

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """A command: its exit code, what it answered, and what it said besides."""
        self.capsys.readouterr()
        code = starter.main([str(one) for one in arguments])
        return code, *self.capsys.readouterr()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ci.db'}"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.create_database(f"own_backend_{PROCESS}_{next(_databases)}")


@pytest.fixture
def ci(
    url: str,
    temporal: TemporalServer,
    object_store: ObjectStoreServer,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Ci]:
    environment = {
        "TEMPORAL_ADDRESS": temporal.address,
        "TEMPORAL_NAMESPACE": PROCESS,
        "ARTIFACT_DELETION_DATABASE_URL": url,
        "ARTIFACT_DELETION_ADAPTERS": ADAPTERS,
        "ARTIFACT_DELETION_BUCKET": bucket,
        "ARTIFACT_DELETION_S3_ENDPOINT": object_store.endpoint,
        "ARTIFACT_DELETION_S3_ACCESS_KEY": object_store.access_key,
        "ARTIFACT_DELETION_S3_SECRET_KEY": object_store.secret_key,
        "ARTIFACT_DELETION_QUIET_PERIOD_S": "0",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    database = Database(url)
    Base.metadata.create_all(database.engine)
    yield Ci(database, s3_of(object_store), bucket, next(_owners), capsys)
    database.dispose()


@pytest.fixture
def worker(ci: Ci, tmp_path: Path) -> Iterator[None]:
    """A worker of this backend, as a process."""
    assert ci.run("setup")[0] == DONE
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "worker.py"], cwd=ROOT, stdout=log, stderr=log)
    yield
    process.kill()
    process.wait()


@pytest.mark.thorough
@pytest.mark.usefixtures("worker")
def test_builds_of_a_backend_of_its_own_are_deleted(ci: Ci) -> None:
    """Seen beforehand, deleted with all that is theirs, and told in a receipt; build 4 takes nothing of 42's."""
    ci.build(ci.owner, 4, "login", "cart")
    ci.build(ci.owner, 42, "login")
    ci.build(ci.other, 421, "login")
    ci.put([f"{ci.owner}/4/thumbnails/login.png"])
    with ci.database.write() as session:
        session.execute(insert(Shot).values(build_id=4, key=f"{ci.owner}/42/login.png"))
    rows, objects, of_build = ci.rows(), ci.objects(), {"build": 1, "shot": 3}

    code, said, _ = ci.run("preview", 4, "--organization", ci.owner, "--json")
    preview = json.loads(said)
    assert (code, ci.rows(), ci.objects()) == (DONE, rows, objects)
    assert preview["rows"] == of_build
    assert {kind: one["count"] for kind, one in preview["objects"].items()} == {"shot": 2, "found by listing": 1}
    assert preview["strays"] == {"not under the artifact's own prefix": 1}

    code, said, _ = ci.run("delete", 4, "--organization", ci.owner, "--wait", "--json")
    receipt = json.loads(said)
    assert (code, receipt["complete"], receipt["artifacts"]["deleted"]["ids"]) == (DONE, True, [4])
    assert receipt["rows"] == of_build
    assert (receipt["objects"]["sealed_by_kind"], receipt["objects"]["found_by_listing"]) == ({"shot": 2}, 1)
    assert (receipt["objects"]["prefixes_listed_empty"], receipt["manifests"]["strays"]) == (1, 1)
    assert (receipt["files"]["deleted"], receipt["trace_items"]["state"]) == (0, "unchecked")
    assert objects - ci.objects() == {f"{ci.owner}/4/{name}.png" for name in ("login", "cart", "thumbnails/login")}
    after = ci.rows()
    assert {table: len(of_table - after[table]) for table, of_table in rows.items()} == of_build
    assert all(after[table] <= of_table for table, of_table in rows.items())

    code, said, _ = ci.run("receipt", receipt["workflow_id"], "--json")
    assert (code, json.loads(said)) == (DONE, receipt)
    code, said, _ = ci.run("delete", 4, "--organization", ci.owner, "--wait", "--json")
    assert (code, json.loads(said)) == (DONE, receipt), "asking twice is asking once"


@pytest.mark.thorough
@pytest.mark.usefixtures("worker")
def test_another_owners_builds_are_refused_and_so_is_another_owners_place(ci: Ci) -> None:
    ci.build(ci.owner, 4, "login")
    ci.build(ci.other, 7, "login")
    rows, objects = ci.rows(), ci.objects()
    code, _, said = ci.run("delete", 4, 7, "--organization", ci.owner, "--wait")
    assert (code, ci.rows(), ci.objects()) == (FAILED, rows, objects)
    assert f"do not belong to organization {ci.owner} (7)" in said
    code, _, said = ci.run("delete", 99, "--project", ci.other, "--organization", ci.owner, "--wait")
    assert (code, ci.rows(), ci.objects()) == (FAILED, rows, objects)
    assert f"project {ci.other} is not one of organization {ci.owner}" in said


@pytest.mark.thorough
@pytest.mark.usefixtures("worker")
def test_what_a_build_left_whose_rows_are_gone_is_swept_in_its_owners_place(ci: Ci) -> None:
    """Without projects the owner is the place."""
    ci.build(ci.owner, 42, "login")
    ci.put([f"{ci.owner}/4/login.png"])
    code, said, _ = ci.run("delete", 4, "--project", ci.owner, "--organization", ci.owner, "--wait", "--json")
    assert (code, json.loads(said)["artifacts"]["gone_before"]["swept"]["ids"]) == (DONE, [4])
    assert ci.objects() == {f"{ci.owner}/42/login.png"}


def test_a_shot_that_comes_after_the_keys_were_collected_goes_too(ci: Ci) -> None:
    """Its row names its object when it goes, and the key is sealed in the same transaction."""
    assert ci.run("setup")[0] == DONE
    ci.build(ci.owner, 4, "login")
    request = DeletionRequest(organization_id=ci.owner, artifact_ids=(4,))
    with ThreadPoolExecutor(4) as requests:
        by_queue = composition.open_parts(load(Settings), ci.database).steps(requests, requests, Pace())
        steps = Steps(ci.database, {one.__name__: one for queue in by_queue for one in queue})
        sealed = steps.open_and_collect(request)
        late = f"{ci.owner}/4/late.png"
        with ci.database.write() as session:
            session.execute(insert(Shot).values(build_id=4, key=late))
        ci.put([late])
        receipt = steps.finish(request, sealed)
    assert (receipt.complete, receipt.objects.sealed_by_kind, receipt.objects.found_by_listing) == (True, {"shot": 2}, 0)
    assert (ci.objects(), receipt.rows) == (set(), {"build": 1, "shot": 2})


def test_the_doctor_looks_at_its_schema(ci: Ci) -> None:
    """Its database has its own tables and the ledger's, and nothing else. Drift is found before any deletion is asked for."""
    assert ci.run("setup")[0] == DONE
    names = {name for name in inspect(ci.database.engine).get_table_names() if not name.startswith("artifact_deletion")}
    assert names == {"build", "shot"}
    states = {"database": "ok", "ledger": "ok", "tables": "skipped", "schema drift": "ok", "rights": "ok", "holds": "ok"}
    assert doctors_findings(ci) == (DONE, states)
    with ci.database.write() as session:
        session.execute(text("CREATE TABLE review (id INTEGER PRIMARY KEY, build_id INTEGER REFERENCES build (id))"))
    assert doctors_findings(ci) == (FAILED, states | {"schema drift": "bad"})


def doctors_findings(ci: Ci) -> tuple[int, dict[str, str]]:
    code, said, _ = ci.run("doctor", "--database-only", "--json")
    return code, {one["name"]: one["state"] for one in json.loads(said)}


@pytest.mark.thorough
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_no_worker_starts_with_a_trace_store_that_its_backend_says_nothing_of(ci: Ci, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be found out after the rows are gone."""
    monkeypatch.setenv("ARTIFACT_DELETION_TRACE_STORE", "sql")
    assert ci.run("setup")[0] == DONE
    worker = subprocess.run([sys.executable, "worker.py"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    said = "TRACE_STORE: this backend does not say which trace items are an artifact's (trace_id)"
    assert (worker.returncode, said in worker.stderr) == (2, True), worker.stderr
