"""What a worker shows of itself: metrics that dashboard and alerts rely on, log lines that parse, a file that says it lives."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text, update
from temporalio.client import Client, WorkflowFailureError
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig

import worker
from activities.backend.tables import Artifact
from activities.gauges import LedgerGauges
from activities.ledger import deletions, holds
from activities.ledger.schema import Ask, Deletion, Hold
from artifact_deletion.bulk import BulkRequest
from artifact_deletion.client import start_bulk
from artifact_deletion.converter import data_converter
from artifact_deletion.errors import StoreUnavailable
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from composition import open_backend
from telemetry import JsonLines, TextLines
from tests.metrics import free_address, scraped
from tests.stack import ROOT, Stack, eventually, lines, pending_failures
from tests.workflow.test_reruns import hold

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PROMQL = {"absent", "and", "by", "clamp_min", "histogram_quantile", "increase", "job", "le", "max", "or", "rate", "sum"}
PROMQL |= {"max_over_time", "time", "unless", "vector", "without"}


def expressions() -> Iterator[str]:
    """Every PromQL expression of the dashboard and the alerts."""
    dashboard = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    for group in yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def metrics_named(expression: str) -> set[str]:
    """The metrics of a PromQL expression: its words outside selectors, groupings and strings."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression)
    bare = re.sub(r"\b(by|without) \([^)]*\)", "", bare)
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - PROMQL


def test_metrics_are_found_in_promql() -> None:
    """If the next test looked for nothing, it would find everything."""
    shown = (
        'histogram_quantile(0.9, sum by (le, stage) (rate(a_bucket{job=~"b|c"}[1h]))) > 3 or time() - max by (job) (d_total)'
    )
    assert metrics_named(shown) == {"a_bucket", "d_total"}
    assert len({name for expression in expressions() for name in metrics_named(expression)}) > 10


@pytest.mark.thorough
@on_sqlite
async def test_every_metric_that_dashboard_and_alerts_name_exists(stack: Stack) -> None:
    """An alert over a name that no one reports never fires. The schema drifts and is mended, and something is left over."""
    moved, one = stack.snapshots("moved", "one")
    elsewhere = stack.world.project(stack.organization_id, "elsewhere")
    with stack.database.write() as session:
        session.execute(update(Artifact).where(Artifact.id == moved.id).values(project_id=elsewhere.id))
        session.execute(text("CREATE TABLE newcomer (artifact_id BIGINT REFERENCES sentry_preprodartifact (id))"))
    scope = f"preprod/org.{stack.organization_id}/project.{one.artifact.project_id}/objects/"
    unnamed = f"{scope}{stack.organization_id}/{one.artifact.project_id}/{one.id}/no-row-named-it"
    stack.s3.put_object(Bucket=stack.bucket, Key=unnamed, Body=b"12345")
    drifted = "artifact_deletion_schema_drift_references"
    with free_address() as address:
        changes = {"METRICS_ADDRESS": address, "METRICS_LEDGER_EVERY_S": "0.1", "CHUNK_ARTIFACTS": "1", "CHUNKS_AT_ONCE": "1"}
        stack.worker_process(**{f"ARTIFACT_DELETION_{name}": value for name, value in changes.items()})
        handle = await stack.start([moved.id, one.id])

        async def stuck() -> bool:
            return "open_deletion" in await pending_failures(handle) and (await scraped(address)).get(drifted) == 1

        await eventually(stuck)
        with stack.database.write() as session:
            session.execute(text("DROP TABLE newcomer"))
        await stack.failure(handle)

        async def left_over() -> dict[str, float] | None:
            series = await scraped(address)
            return series if series.get('artifact_deletion_leftovers{code="NamedElsewhere"}') else None

        series = await eventually(left_over)
    there = {name.partition("{")[0] for name in series}
    named = {name for expression in expressions() for name in metrics_named(expression)}
    assert named <= there
    receipt = stack.receipt(handle.id)
    totals: dict[str, float] = {}
    for name, value in series.items():
        labels = dict(re.findall(r'(\w+)="([^"]*)"', name))
        key = " ".join(
            [name.partition("{")[0], *(labels[one] for one in ("outcome", "named_by", "state", "code") if one in labels)]
        )
        totals[key] = totals.get(key, 0) + value
        assert not [value for label, value in labels.items() if label != "le" and (value.isdigit() or "/" in value)], name
    assert totals["artifact_deletion_deletions_total left_over"] == 1
    assert totals["artifact_deletion_keys_total deleted ledger"] == receipt.objects.deleted > 0
    assert totals["artifact_deletion_keys_total deleted listing"] == receipt.objects.found_by_listing > 0
    assert totals["artifact_deletion_listed_bytes_total"] >= 5
    assert totals["artifact_deletion_leftovers NamedElsewhere"] == receipt.left_over["NamedElsewhere"]
    assert totals["artifact_deletion_open_deletions failed"] == 1
    assert totals["artifact_deletion_stage_seconds_count"] >= 5


@pytest.fixture
def buffer() -> MetricBuffer:
    return MetricBuffer(10_000)


@pytest.fixture
def gauges(stack: Stack, buffer: MetricBuffer) -> LedgerGauges:
    meter = Runtime(telemetry=TelemetryConfig(metrics=buffer, attach_service_name=False)).metric_meter
    return LedgerGauges(meter, stack.database, open_backend(stack.settings(), stack.database), timedelta(days=30))


def refreshed(gauges: LedgerGauges, buffer: MetricBuffer) -> dict[tuple[str, str], float]:
    """The gauges by name and value of their label, without the prefix."""
    gauges.refresh()
    return {
        (one.metric.name.removeprefix("artifact_deletion_"), str(next(iter(one.attributes.values()), ""))): one.value
        for one in buffer.retrieve_updates()
    }


def opened(stack: Stack) -> None:
    """Serve the asks for artifact 1, as a run does when it begins."""
    request = stack.request([1])
    with stack.database.write() as session:
        asks = deletions.serve_asks(session, request.deletion_id)
        assert deletions.make(session, request, DeletionState.RUNNING, min((ask.at for ask in asks), default=None))


def set_deletion(stack: Stack, **values: Any) -> None:
    with stack.database.write() as session:
        session.execute(update(Deletion).values(**values))


def failed_receipt(stack: Stack, codes: dict[str, int]) -> dict[str, Any]:
    request, now = stack.request([1]), datetime.now(UTC)
    receipt = DeletionReceipt.model_validate(
        {
            "deletion_id": request.deletion_id,
            "workflow_id": request.workflow_id,
            "organization_id": request.organization_id,
            "requested_artifacts": 1,
            "requested_by": None,
            "reference": None,
            "complete": False,
            "artifacts": {"moved": {"count": 1, "ids": (1,)}, "not_reached": {"count": 2, "ids": (1, 2)}},
            "rows": {},
            "files": {},
            "objects": {"digest": "", "left_over": codes, "found_left_over": {"AccessDenied": 4}},
            "manifests": {"named_elsewhere": 3},
            "trace_items": {"state": "unconfirmed", "unconfirmed_artifacts": 5},
            "owed_by_others": 6,
            "times": {"accepted": now, "closed": now},
        }
    )
    return receipt.model_dump(mode="json")


def test_the_ledger_s_gauges_say_what_the_ledger_holds(stack: Stack, gauges: LedgerGauges, buffer: MetricBuffer) -> None:
    """Age and number by state, and of a failed deletion each thing that its receipt says is left over; mended, it is zero."""
    assert refreshed(gauges, buffer)["oldest_open_seconds", "accepted"] == 0
    stack.accept(stack.request([1]))
    with stack.database.write() as session:
        session.execute(update(Ask).values(asked_at=datetime.now(UTC) - timedelta(hours=2)))
    shown = refreshed(gauges, buffer)
    assert shown["open_deletions", "accepted"] == 1
    assert 7198 <= shown["oldest_open_seconds", "accepted"] < 7300
    assert shown["oldest_open_seconds", "failed"] == 0

    opened(stack)
    shown = refreshed(gauges, buffer)
    assert (shown["open_deletions", "accepted"], shown["open_deletions", "running"]) == (0, 1)
    assert 7198 <= shown["oldest_open_seconds", "running"] < 7300

    receipt = failed_receipt(stack, {"AccessDenied": 7, "NotAttempted": 1})
    set_deletion(stack, state=DeletionState.FAILED, receipt=receipt)
    shown = refreshed(gauges, buffer)
    assert shown["open_deletions", "accepted"] == 0
    assert 7198 <= shown["oldest_open_seconds", "failed"] < 7300
    left_over = {code: value for (name, code), value in shown.items() if name == "leftovers"}
    assert {code: count for code, count in left_over.items() if count} == {
        "AccessDenied": 11,
        **{k: v for k, v in DeletionReceipt.model_validate(receipt).left_over.items() if k != "AccessDenied"},
    }

    set_deletion(stack, state=DeletionState.CLOSED)
    shown = refreshed(gauges, buffer)
    assert {value for (name, _), value in shown.items() if name in {"leftovers", "open_deletions"}} == {0}
    assert left_over.keys() == {code for name, code in shown if name == "leftovers"}

    stack.accept(stack.request([1]))
    assert refreshed(gauges, buffer)["open_deletions", "accepted"] == 1, "asked for anew"


@pytest.mark.parametrize("what", ["artifacts", "images"])
def test_what_waits_for_a_court_is_counted_and_not_old(
    stack: Stack, gauges: LedgerGauges, buffer: MetricBuffer, what: str
) -> None:
    """A hold may last for years: no one is to be woken up for that, and still the deletion is not complete."""
    stack.accept(stack.request([1]))
    opened(stack)
    receipt = failed_receipt(stack, {})
    long_ago = datetime.now(UTC) - timedelta(days=40)
    set_deletion(stack, state=DeletionState.FAILED, receipt=receipt, accepted_at=long_ago)
    shown = refreshed(gauges, buffer)
    assert shown["oldest_open_seconds", "failed"] > 7000
    assert shown["overdue_deletions", ""] == 1
    if what == "artifacts":
        receipt["artifacts"]["held"] = {"count": 2, "ids": [1, 2]}
    else:
        receipt["images"]["left_over"] = {"ImagesHeld": 3}
    set_deletion(stack, receipt=receipt)
    shown = refreshed(gauges, buffer)
    assert (shown["oldest_open_seconds", "failed"], shown["open_deletions", "failed"]) == (0, 1)
    assert (shown["overdue_deletions", ""], shown["overdue_seconds", ""]) == (0, 0)
    assert shown["leftovers", "Held"] == (2 if what == "artifacts" else 0)
    set_deletion(stack, state=DeletionState.RUNNING)
    assert refreshed(gauges, buffer)["oldest_open_seconds", "running"] > 7000, "it is run again"


def test_a_hold_is_seen_with_its_age(stack: Stack, gauges: LedgerGauges, buffer: MetricBuffer) -> None:
    """Deletions that wait for a person who has forgotten them wake no one up by themselves."""

    def held() -> dict[str, float]:
        return {on: value for (name, on), value in refreshed(gauges, buffer).items() if name == "held_seconds"}

    none = dict.fromkeys(map(str, holds.On), 0.0)
    assert held() == none
    placed = holds.place(stack.database, holds.On.ORGANIZATION, str(stack.organization_id), reason="a test", by="user:7")
    with stack.database.write() as session:
        session.execute(update(Hold).values(placed_at=datetime.now(UTC) - timedelta(hours=2)))
    holds.place(stack.database, holds.On.EVERYTHING, "", reason="a test", by="user:7")
    ages = held()
    assert 7198 <= ages["organization"] < 7300
    assert 0 < ages["everything"] < 100
    assert ages["deletion"] == 0
    with stack.database.write() as session:
        holds.lift(session, [placed.id, placed.id + 1], by="user:7")
    assert held() == none


@on_sqlite
def test_a_store_that_makes_up_codes_makes_no_series_without_end(
    stack: Stack, gauges: LedgerGauges, buffer: MetricBuffer
) -> None:
    """A label's value is a time series for ever, and what the store answers is not ours to choose."""
    opened(stack)
    for start in (0, 1000):
        codes = {f"Code{number}": 1 for number in range(start, start + 1000)}
        set_deletion(stack, state=DeletionState.FAILED, receipt=failed_receipt(stack, codes))
        shown = {code: value for (name, code), value in refreshed(gauges, buffer).items() if name == "leftovers"}
        assert len(shown) == 51
        assert sum(shown.values()) == 1000 + 4 + 1 + 2 + 3 + 5 + 6


async def buffered(stack: Stack) -> MetricBuffer:
    """What the stack's workers count from now on."""
    buffer = MetricBuffer(100_000)
    runtime = Runtime(telemetry=TelemetryConfig(metrics=buffer, attach_service_name=False))
    stack.use_temporal(
        await Client.connect(
            stack.temporal_address, namespace=stack.client.namespace, data_converter=data_converter, runtime=runtime
        )
    )
    return buffer


@pytest.mark.thorough
@on_sqlite
async def test_a_bulk_deletion_is_counted_by_its_kind_and_how_it_ended(stack: Stack, locking_bucket: str) -> None:
    """What an operator sees of it beside its deletions: how much went, and whether it is to be asked for again."""
    stack.use_bucket(locking_bucket)
    one, *_ = stack.snapshots("one", "two", "three")
    hold(stack, [one.id], "ON")
    buffer = await buffered(stack)
    project = one.artifact.project_id
    async with stack.worker(chunk_artifacts=1):
        for request in (
            BulkRequest(organization_id=stack.organization_id, project_id=project),
            BulkRequest(organization_id=stack.organization_id),
            BulkRequest(organization_id=stack.organization_id + 1, project_id=project),
        ):
            with contextlib.suppress(WorkflowFailureError):
                await asyncio.wait_for((await start_bulk(stack.client, request)).result(), 60)
    counted: Counter[tuple[str, ...]] = Counter()
    for one_ in buffer.retrieve_updates():
        if one_.metric.name.startswith("artifact_deletion_bulk"):
            labels = (str(one_.attributes[name]) for name in ("kind", "outcome") if name in one_.attributes)
            counted[(one_.metric.name, *labels)] += int(one_.value)
    assert +counted == {
        ("artifact_deletion_bulk", "project", "left_over"): 1,
        ("artifact_deletion_bulk", "organization", "completed"): 1,
        ("artifact_deletion_bulk", "project", "refused"): 1,
        ("artifact_deletion_bulk_artifacts", "project"): 3,
    }


@on_sqlite
async def test_each_deletion_is_counted_once_by_how_it_ended(stack: Stack) -> None:
    """Completed, refused, cancelled: what a rate of failures is divided by, and what it is made of."""
    buffer = await buffered(stack)
    one, two = stack.snapshots("one", "two")
    async with stack.worker(serves="rows"):
        cancelled = await stack.start([two.id])

        async def collects() -> bool:
            return bool((await cancelled.describe()).raw_description.pending_activities)

        await eventually(collects)
        await cancelled.cancel()
        with pytest.raises(WorkflowFailureError):
            await asyncio.wait_for(cancelled.result(), 40)
        foreign = await stack.start([one.id], organization_id=stack.organization_id + 1)
        assert (await stack.failure(foreign)).type == "ArtifactNotInOrganization"
    async with stack.worker():
        await stack.delete([one.id])
    ends = [one for one in buffer.retrieve_updates() if one.metric.name == "artifact_deletion_deletions"]
    assert Counter(str(one.attributes["outcome"]) for one in ends) == {"cancelled": 1, "refused": 1, "completed": 1}


@on_sqlite
async def test_a_database_that_is_gone_is_a_log_line_and_not_the_worker_s_end(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, however often it is looked at; when it is back, the numbers move again."""
    looks: list[bool] = []
    whole = LedgerGauges.refresh

    def counted(gauges: LedgerGauges) -> None:
        looks.append(False)
        whole(gauges)
        looks[-1] = True

    monkeypatch.setattr(LedgerGauges, "refresh", counted)

    async def looked(*, well: bool) -> bool:
        return looks[-3:] == [well] * 3

    def rename(before: str, after: str) -> None:
        with stack.database.write() as session:
            session.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))

    (one,) = stack.snapshots("one")
    async with stack.worker(metrics_address="127.0.0.1:1", metrics_ledger_every_s=0.01):
        await eventually(lambda: looked(well=True))
        rename("artifact_deletion", "hidden")
        await eventually(lambda: looked(well=False))
        rename("hidden", "artifact_deletion")
        await eventually(lambda: looked(well=True))
        await stack.delete([one.id])
    assert caplog.text.count("stand still") == 1


def main_with(stack: Stack, monkeypatch: pytest.MonkeyPatch, **changes: str) -> int:
    """The worker as a program that cannot start under these settings."""
    for name, value in (stack.environment() | {f"ARTIFACT_DELETION_{name}": value for name, value in changes.items()}).items():
        monkeypatch.setenv(name, value)
    return worker.main([])


@on_sqlite
def test_an_endpoint_that_another_process_has_is_one_sentence(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main_with(stack, monkeypatch, METRICS_ADDRESS=f"127.0.0.1:{taken.getsockname()[1]}") == 2
    assert capsys.readouterr().err == "ARTIFACT_DELETION_METRICS_ADDRESS: no metrics can be served there\n"


@on_sqlite
def test_traces_without_their_packages_are_one_sentence(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are an extra, and nothing of them is imported unless they are asked for."""
    monkeypatch.delitem(sys.modules, "tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert main_with(stack, monkeypatch, TRACING="true") == 2
    assert capsys.readouterr().err == "ARTIFACT_DELETION_TRACING needs the packages of OpenTelemetry (opentelemetry)\n"


@pytest.mark.thorough
@on_sqlite
async def test_every_line_of_a_worker_s_json_log_parses_and_says_whose_it_is(stack: Stack) -> None:
    """The worker's, Temporal's and the steps', from the first to the last, with a step that fails in between."""
    (one,) = stack.snapshots("one")
    with stack.database.write() as session:
        session.execute(text("CREATE TABLE newcomer (artifact_id BIGINT REFERENCES sentry_preprodartifact (id))"))
    process = stack.worker_process(ARTIFACT_DELETION_LOG_FORMAT="json")
    handle = await stack.start([one.id])

    async def failed() -> bool:
        return "open_deletion" in await pending_failures(handle)

    await eventually(failed)
    with stack.database.write() as session:
        session.execute(text("DROP TABLE newcomer"))
    await asyncio.wait_for(handle.result(), 40)
    process.terminate()
    assert await asyncio.to_thread(process.wait, 30) == 0

    shown = [json.loads(line) for line in lines((stack.folder / "worker-0.log").read_text())]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in shown)
    ours = {"workflow_id": handle.id, "organization_id": stack.organization_id, "deletion_id": handle.id.rpartition("/")[2]}
    of_deletion = [line for line in shown if "workflow_id" in line]
    assert all(ours.items() <= line.items() for line in of_deletion)
    assert {"deleting objects and trace items", "completed"} <= {line["message"] for line in of_deletion}
    (first, *_) = [line for line in of_deletion if "activity" in line]
    assert (first["activity"], first["attempt"]) == ("open_deletion", 1)
    assert first["exception"].startswith("ApplicationError: SchemaDrift: the database has foreign keys")
    assert {"worker is up: it serves all", "stopping: running activities get 0:00:30"} <= {line["message"] for line in shown}


@pytest.mark.thorough
def test_a_worker_that_does_not_start_says_so_in_json_too(tmp_path: Path) -> None:
    """A log store that is given one other line may drop the very one that says why."""
    environment = {"LOG_FORMAT": "json", "DATABASE_URL": f"sqlite:///{tmp_path / 'none.db'}", "BUCKET": "artifacts"}
    started = subprocess.run(
        [sys.executable, "worker.py"],
        cwd=ROOT,
        env={f"ARTIFACT_DELETION_{name}": value for name, value in environment.items()} | {"TEMPORAL_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (line,) = [json.loads(line) for line in lines(started.stderr)]
    assert (started.returncode, line["level"]) == (3, "CRITICAL")
    assert "TEMPORAL_ADDRESS" in line["message"]


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()], ids=["text", "json"])
def test_the_message_of_a_stranger_s_exception_is_in_no_log_line(formatter: logging.Formatter) -> None:
    """It may carry a key or a row's values. Its class and place are enough, and our own errors speak for themselves."""
    for error, said in ((ValueError("private"), False), (StoreUnavailable("the store is away"), True)):
        error.__context__ = KeyError("private")
        try:
            raise error
        except (ValueError, StoreUnavailable):
            record = logging.makeLogRecord({"msg": "it failed", "exc_info": sys.exc_info(), "levelname": "ERROR"})
        line = formatter.format(record)
        assert "private" not in line
        assert f"{type(error).__name__}" in line
        assert "test_telemetry.py" in line
        assert ("the store is away" in line) == said


@on_sqlite
async def test_the_health_file_is_fresh_while_the_worker_works_and_gone_when_it_stops(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readiness is that it is there, liveness that it is young: a loop that hangs does not touch it."""
    monkeypatch.setattr("telemetry.ALIVE_EVERY_S", 0.01)
    file = stack.folder / "alive"

    async def touched_after(before: int) -> int | None:
        return at if file.exists() and (at := file.stat().st_mtime_ns) > before else None

    async with stack.worker(health_file=file):
        first = await eventually(lambda: touched_after(0))
        await eventually(lambda: touched_after(first))
    assert not file.exists()
