"""The worker as a program: its help, its settings, and why it does not start. How it ends is in `test_faults.py`."""

import asyncio
import os
from pathlib import Path

import pytest

import worker
from activities.storage.database import Database
from demo.world import create_schema
from settings import PREFIX, Settings
from tests.stack import Stack, lines

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
NOBODY = "127.0.0.1:1"
GOOD = {"DATABASE_URL": "sqlite:////tmp/backend.db", "BUCKET": "artifacts"}


def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def start(monkeypatch: pytest.MonkeyPatch, **settings: str) -> int:
    """The program's exit code under these settings and no others, with nobody at Temporal's address."""
    without_settings(monkeypatch)
    monkeypatch.setenv("TEMPORAL_ADDRESS", NOBODY)
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
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_LOCK_TIMEOUT_S", "private"),
        ("DATABASE_STATEMENT_TIMEOUT_S", "-1"),
        ("DATABASE_PREPARE", "private"),
        ("BUCKET", None),
        ("BUCKET", ""),
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
        ("PAGES_AN_ACTIVITY", "private"),
        ("ACTIVITY_THREADS", "1"),
        ("QUIET_PERIOD_S", "-1"),
        ("KEYS_PER_SECOND", "0"),
        ("MAX_ARTIFACTS_UNCONFIRMED", "0"),
        ("MAX_KEYS_UNCONFIRMED", "private"),
        ("RECEIPT_EXPORT", "private"),
        ("RECEIPT_EXPORT", "s3://private"),
        ("RECEIPT_EXPORT", "s3://private/no-slash-at-the-end"),
        ("SHUTDOWN_GRACE_S", "private"),
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
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ARTIFACT_DELETION_S3_ENDPOINT": f"http://{NOBODY}"}, "the object store could not be reached"),
        ({"ARTIFACT_DELETION_BUCKET": "no-such-bucket"}, "the object store answered NoSuchBucket"),
        ({"ARTIFACT_DELETION_DATABASE_URL": "sqlite:////nowhere/backend.db"}, "the database could not be used"),
    ],
    ids=["store", "bucket", "database"],
)
def test_a_worker_that_cannot_use_what_it_needs_says_so(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, str], said: str
) -> None:
    """One sentence and exit code 3, so that a supervisor starts it again later."""
    for name, value in (stack.environment() | changes).items():
        monkeypatch.setenv(name, value)
    assert worker.main([]) == 3
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith(said)
