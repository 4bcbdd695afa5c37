"""A database's or a role's own default for transactions: each step sees all that was committed while it waited."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, select, text

from activities.backend import files, tables
from activities.database import Database
from tests.shop import POSTGRESQL
from tests.stack import Stack, steps_of, wait_for_waiters

pytestmark = POSTGRESQL
DEFAULTS = [(on, level) for on in ("database", "role") for level in ("repeatable read", "serializable")]


@pytest.fixture
def default(request: pytest.FixtureRequest, database: Database, database_url: str) -> Iterator[str]:
    """The level that every connection from now on begins with, set where the test says."""
    on, level = request.param
    where = "DATABASE {0}" if on == "database" else "ROLE {1} IN DATABASE {0}"
    names = database.engine.url.database, database.engine.url.username
    with psycopg.connect(database_url.replace("+psycopg", "", 1), autocommit=True) as connection:
        set_default = f"ALTER {where.format(*names)} SET default_transaction_isolation = '{level}'"
        connection.execute(set_default.encode())
    database.dispose()
    yield level
    database.dispose()


def said(database: Database, name: str, *, write: bool = False, snapshot: bool = False) -> str:
    """What the server says of a transaction of ours."""
    with database.write() if write else database.read(snapshot=snapshot) as session:
        return str(session.execute(text(f"SHOW {name}")).scalar_one())


@pytest.mark.thorough
@pytest.mark.parametrize("default", DEFAULTS, ids=" ".join, indirect=True)
def test_a_file_that_another_artifact_comes_to_name_while_delete_rows_waits_stays(stack: Stack, default: str) -> None:
    """A snapshot that is older than the lock would not show the other artifact: its file would go, and it would dangle."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    going = stack.world.mobile_build(project, icon=None)
    shared = going.file_ids[0]
    request = stack.request([going.id])
    assert said(stack.database, "default_transaction_isolation") == default
    with steps_of(stack) as steps, ThreadPoolExecutor(1) as threads:
        sealed = steps.open_and_collect(request)
        with stack.database.engine.connect().execution_options(begin="BEGIN") as upload, upload.begin():
            assert upload.execute(text("SHOW transaction_isolation")).scalar_one() == default, "as a backend's own begins"
            upload.execute(select(tables.Artifact.id).where(tables.Artifact.id == going.id).with_for_update()).one()
            deleting = threads.submit(steps.delete_rows, sealed)
            wait_for_waiters(stack.database)
            upload.execute(insert(tables.Artifact).values(project_id=project.id, file_id=shared))
        steps.delete_what_was_released(sealed, deleting.result(30))
        receipt = steps.close(request)
    rows = stack.world.rows()
    assert [row["file_id"] for row in rows["sentry_preprodartifact"].values()] == [shared]
    assert shared in rows["sentry_file"]
    assert {name: ids.ids for name, ids in receipt.files.kept.items()} == {files.STILL_NAMED: (shared,)}
    assert receipt.complete


@pytest.mark.parametrize("default", DEFAULTS, ids=" ".join, indirect=True)
def test_every_transaction_says_its_own_level(database: Database, default: str) -> None:
    """Writes see each statement's moment; a preview sees one moment, and PostgreSQL itself keeps all reads from writing."""
    assert said(database, "default_transaction_isolation") == default
    assert said(database, "transaction_isolation", write=True) == "read committed"
    assert said(database, "transaction_isolation") == "read committed"
    assert said(database, "transaction_isolation", snapshot=True) == "repeatable read"
    assert said(database, "transaction_read_only", snapshot=True) == said(database, "transaction_read_only") == "on"
    assert said(database, "transaction_read_only", write=True) == "off"


@pytest.mark.parametrize("default", DEFAULTS, ids=" ".join, indirect=True)
def test_the_level_costs_no_round_trip_of_its_own(database: Database, tmp_path: Path, default: str) -> None:
    """It is said with BEGIN, as the time-outs are. Written down by the driver's own library, message by message."""
    with database.write() as session:
        session.execute(text("SELECT 1"))
    pooled = database.engine.raw_connection()
    driver: Any = pooled.driver_connection
    pooled.close()
    with (tmp_path / "wire").open("w") as wire:
        driver.pgconn.trace(wire.fileno())
        with database.write() as session:
            session.execute(text("SELECT 2"))
        driver.pgconn.untrace()
    messages = (tmp_path / "wire").read_text().splitlines()
    sent = [line.partition("\tQuery\t")[2].strip(' "') for line in messages if "\tF\t" in line]
    assert [one.partition(";")[0] for one in sent] == ["BEGIN ISOLATION LEVEL READ COMMITTED", "SELECT 2", "COMMIT"]
    assert sum("ReadyForQuery" in line for line in messages) == len(sent), "an empty query asks a pooled connection if it lives"
