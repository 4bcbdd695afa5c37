"""The worker as a program: its help, its settings, and why it does not start. How it ends is in `test_faults.py`."""

import asyncio
import os
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from temporalio.client import Client

import starter
import worker
from activities.database import Database
from artifact_deletion.client import Deletions
from artifact_deletion.converter import connect
from artifact_deletion.errors import TemporalUnreachable
from artifact_deletion.request import DeletionRequest
from demo.world import create_schema
from settings import PREFIX, Settings
from tests.stack import Stack, lines, prepare_database

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
NOWHERE = "127.0.0.1:1"
GOOD = {"DATABASE_URL": "sqlite:////tmp/backend.db", "BUCKET": "artifacts"}


def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def start(monkeypatch: pytest.MonkeyPatch, **settings: str) -> int:
    """The program's exit code under these settings and no others, with no one at Temporal's address."""
    without_settings(monkeypatch)
    monkeypatch.setenv("TEMPORAL_ADDRESS", NOWHERE)
    for name, value in settings.items():
        monkeypatch.setenv(f"{PREFIX}{name}", value)
    try:
        return worker.main([])
    except SystemExit as error:
        return int(str(error.code))


def test_help_explains_every_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is where an operator looks first, and must work without any setting."""
    without_settings(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        worker.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        assert f"  {PREFIX}{name.upper()}\n" in shown
        assert field.description
        assert field.description in shown
    assert "TEMPORAL_ADDRESS" in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", None),
        ("DATABASE_URL", "private"),
        ("DATABASE_URL", "mysql://private:private@private/private"),
        ("DATABASE_URL", "postgresql://private@private/private"),
        ("DATABASE_URL", "postgresql+psycopg://user:not@escaped:private@host:5432/backend"),
        ("DATABASE_URL", "postgresql+psycopg://user:not@escaped:private/not@host/backend"),
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_LOCK_TIMEOUT_S", "private"),
        ("DATABASE_STATEMENT_TIMEOUT_S", "-1"),
        ("DATABASE_PREPARE", "private"),
        ("BUCKET", None),
        ("BUCKET", ""),
        ("S3_ENDPOINT", ""),
        ("S3_ENDPOINT", "private:8333"),
        ("S3_ENDPOINT", "http://private_host:8333"),
        ("S3_REGION", ""),
        ("S3_REGION", "us private"),
        ("S3_READ_TIMEOUT_S", "0"),
        ("BUCKET_VERSIONED", "private"),
        ("BUCKET_LISTABLE", "private"),
        ("SCOPE_TEMPLATE", "private/{usecase}/"),
        ("SCOPE_TEMPLATE", "{usecase}/{organization_id}/{project_id}"),
        ("SCOPE_TEMPLATE", "{usecase}/{organization_id}/{project_id}/{private}/"),
        ("SCOPE_TEMPLATE", "{usecase}/{organization_id}/{project_id}/{"),
        ("USECASES", ""),
        ("USECASES", "preprod,pri/vate"),
        ("TRACE_STORE", "private"),
        ("CHUNK_ARTIFACTS", "0"),
        ("CHUNK_ARTIFACTS", "1001"),
        ("PAGES_A_STEP", "private"),
        ("STORE_STEPS", "0"),
        ("STORE_STEPS", "99999999999999999999"),
        ("QUIET_PERIOD_S", "-1"),
        ("QUIET_PERIOD_S", "inf"),
        ("TRACE_ITEMS_WITHIN_S", "1e300"),
        ("KEYS_PER_SECOND", "0"),
        ("MAX_ARTIFACTS_UNCONFIRMED", "0"),
        ("MAX_KEYS_UNCONFIRMED", "private"),
        ("RECEIPT_EXPORT", "private"),
        ("RECEIPT_EXPORT", "s3://private"),
        ("RECEIPT_EXPORT", "s3://private/no-slash-at-the-end"),
        ("SHUTDOWN_GRACE_S", "private"),
        ("SHUTDOWN_GRACE_S", "inf"),
        ("BUILD_ID", ""),
        ("HEALTH_FILE", ""),
        ("HEALTH_FILE", "/"),
        ("SERVES", "private"),
        ("SEARCH_ATTRIBUTES", "private"),
        ("METRICS_ADDRESS", "private:9464"),
        ("METRICS_LEDGER_EVERY_S", "0"),
        ("LOG_FORMAT", "private"),
        ("TRACING", "private"),
    ],
)
def test_a_bad_setting_is_named_and_its_value_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str | None
) -> None:
    """One line: it ends up in a deployment's log, where a password must not stand."""
    settings = GOOD | {name: value} if value is not None else {key: good for key, good in GOOD.items() if key != name}
    assert start(monkeypatch, **{key: str(good) for key, good in settings.items()}) == 2
    said = capsys.readouterr().err
    assert len(list(lines(said))) == 1
    assert said.startswith(f"{PREFIX}{name}: ")
    assert "private" not in said


@pytest.mark.parametrize("given", ["S3_ACCESS_KEY", "S3_SECRET_KEY"])
def test_half_a_pair_of_credentials_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    """With one alone, boto3 would silently use the machine's, and delete from another account's bucket."""
    assert start(monkeypatch, **GOOD, **{given: "private"}) == 2
    said = capsys.readouterr().err
    assert len(list(lines(said))) == 1
    assert "S3_ACCESS_KEY" in said
    assert "S3_SECRET_KEY" in said
    assert "private" not in said


def test_a_worker_that_cannot_reach_temporal_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, **GOOD) == 3
    said = capsys.readouterr().err
    assert len(list(lines(said))) == 1
    assert "TEMPORAL_ADDRESS" in said


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("TEMPORAL_PROFILE", "private", "ConfigError"),
        ("TEMPORAL_CONFIG_FILE", "private", "ConfigError"),
        ("TEMPORAL_ADDRESS", "a private address", "ValueError"),
        ("TEMPORAL_ADDRESS", "http://private:7233", "the address is HOST:PORT, without a scheme such as http://"),
        ("TEMPORAL_TLS_CLIENT_CERT_PATH", "/private/cert.pem", "FileNotFoundError"),
    ],
)
def test_temporals_own_settings_that_cannot_be_used_are_not_taken_for_a_server_that_is_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, value: str, why: str
) -> None:
    """A person who waited for a server would wait for ever: bad usage, in one sentence without a value, for every program."""
    if name == "TEMPORAL_CONFIG_FILE":
        (tmp_path / value).write_text("[private")
        value = str(tmp_path / value)
    without_settings(monkeypatch)
    url = f"sqlite:///{tmp_path / 'backend.db'}"
    prepare_database(url)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", url)
    monkeypatch.setenv(f"{PREFIX}BUCKET", "objects")
    monkeypatch.setenv("TEMPORAL_ADDRESS", NOWHERE)
    monkeypatch.setenv(name, value)
    for program in (partial(worker.main, []), partial(starter.main, ["resume"])):
        assert program() == 2
        (line,) = lines(capsys.readouterr().err)
        assert line.startswith(f"Temporal's settings cannot be used ({why}); see TEMPORAL_ADDRESS, ")
        assert "private" not in line
    request = DeletionRequest(organization_id=1, artifact_ids=(1,))
    answer = asyncio.run(Deletions().rows_deleted(request, within=timedelta(seconds=30)))
    assert answer is None, "a handler answers 202: what it accepted is started when this is mended"


async def test_temporal_is_looked_for_nearby_if_nothing_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Temporal's own tools."""
    asked: list[str] = []

    async def refuse(target_host: str, **_: object) -> None:
        asked.append(target_host)
        raise RuntimeError("Failed client connect")

    for name in [name for name in os.environ if name.startswith("TEMPORAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setattr(Client, "connect", refuse)
    with pytest.raises(TemporalUnreachable):
        await connect()
    assert asked == ["127.0.0.1:7233"]


@pytest.mark.thorough
@on_sqlite
async def test_a_worker_without_a_ledger_says_what_to_do(stack: Stack, tmp_path: Path) -> None:
    """Its tables are made by a command that an operator runs, not by whatever worker comes first."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    database = Database(url)
    create_schema(database.engine)
    database.dispose()
    process = stack.worker_process(ARTIFACT_DELETION_DATABASE_URL=url)
    assert await asyncio.to_thread(process.wait, 30) == 3
    said = (stack.folder / "worker-0.log").read_text()
    assert said == "the ledger is absent: run `python starter.py setup`\n"


@on_sqlite
def test_a_worker_that_cannot_use_its_database_says_so(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence and exit code 3, so that a supervisor starts it again later."""
    for name, value in (stack.environment() | {f"{PREFIX}DATABASE_URL": "sqlite:////nowhere/backend.db"}).items():
        monkeypatch.setenv(name, value)
    assert worker.main([]) == 3
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith("the database could not be used")
