"""The ledger's own promises, on both databases: fences, counts that add up, states, migrations, clean transactions."""

import dataclasses
import random
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import BLANK_SCHEMA, MetaData, func, insert, select, text, update
from sqlalchemy.orm import Session
from temporalio.api.failure.v1 import Failure
from temporalio.testing import ActivityEnvironment

from activities.cancel_deletion import CancelDeletion
from activities.collect_keys import Seal
from activities.open_deletion import OpenDeletion
from activities.storage import ledger, tables
from activities.storage.database import LEDGER_SCHEMA, Database
from activities.storage.drift import Schema
from activities.storage.ledger import (
    Deletion,
    DeletionArtifact,
    DeletionChunk,
    DeletionPage,
    DeletionPrefix,
    DeletionState,
    LedgerTable,
    Page,
    PageSource,
    PrefixState,
)
from demo.servers import PostgresServer
from migrations import VERSION_TABLE, as_sql, check_version, migrate
from tests.stack import wait_for_waiters
from workflows.converter import data_converter
from workflows.errors import DatabaseUnavailable, LedgerOutdated, NotOpen, StaleAttempt, StaleSeal
from workflows.messages import Chunk, DeletionRequest, Pace

REQUEST = DeletionRequest(organization_id=1, artifact_ids=(4, 42))
SCOPE = "preprod/org.1/project.2/objects/"
MARKER = "secret-marker-4711"
TABLES = (DeletionArtifact, DeletionChunk, DeletionPage, DeletionPrefix)


def opened(database: Database, request: DeletionRequest = REQUEST) -> None:
    """Accept the request and cut it into one chunk, number 0."""
    with database.write() as session:
        ledger.accept(session, request)
        ledger.make_chunks(session, request.deletion_id, [(one, 2) for one in request.artifact_ids], 100)


def begun(session: Session) -> int:
    """Begin a new attempt at sealing chunk 0."""
    found = ledger.lock_chunk(session, REQUEST.deletion_id, 0)
    ledger.begin_epoch(session, found)
    return found.epoch


def released(database: Database, *pages: list[str]) -> int:
    """Seal pages and mark their rows as deleted; returns the epoch."""
    opened(database)
    with database.write() as session:
        epoch = begun(session)
        found = ledger.lock_sealing(session, REQUEST.deletion_id, 0, epoch)
        for keys in pages:
            ledger.seal_page(session, found, SCOPE, PageSource.MANIFEST, keys)
        found.pages, found.sealed, found.digest = ledger.seal_digest(session, found)
        found.state = ledger.ChunkState.ROWS_DELETED
    return epoch


def pages_of(database: Database) -> list[Page]:
    with database.read() as session:
        return list(ledger.read_pages(session, REQUEST.deletion_id, 0))


def settle(database: Database, page: Page, remaining: dict[str, str], **counts: int) -> bool:
    with database.write() as session:
        found = ledger.lock_released(session, page.deletion_id, page.chunk, page.epoch)
        return bool(ledger.settle_pages(session, found, [ledger.Settlement(page, remaining, **counts)]))


def counts_of(database: Database) -> dict[str, int]:
    with database.read() as session:
        found = ledger.read_chunk(session, REQUEST.deletion_id, 0)
        owed = ledger.keys_owed(session, REQUEST.deletion_id, 0)
        return {"sealed": found.sealed, "deleted": found.deleted, "absent": found.absent, "kept": found.kept, "owed": owed}


def everything(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of the ledger, to see that nothing has changed."""
    with database.read() as session:
        return {
            table.__tablename__: [dict(row) for row in session.execute(select(table.__table__)).mappings()]
            for table in (Deletion, *TABLES)
        }


# Fencing --------------------------------------------------------------------------------------------------------------


def test_an_attempt_that_was_overtaken_can_seal_nothing_more(database: Database) -> None:
    """Temporal times an attempt out and starts another; the first may still be running, and finish late."""
    opened(database)
    with database.write() as session:
        old = begun(session)
    with database.write() as session:
        new = begun(session)
    late = Seal(database, Chunk(deletion_id=REQUEST.deletion_id, chunk=0), old)
    with pytest.raises(StaleSeal):
        late.add("diff_mask", [SCOPE], PageSource.MANIFEST, [f"1/2/4/3/diff/{n:05}.png" for n in range(20_000)])
    assert pages_of(database) == []
    with database.write() as session:
        assert ledger.lock_sealing(session, REQUEST.deletion_id, 0, new).epoch == new


def test_an_attempt_that_was_overtaken_can_settle_nothing(database: Database) -> None:
    """Only the epoch that was released with the rows may count keys as deleted."""
    epoch = released(database, ["a", "b"])
    (page,) = pages_of(database)
    with pytest.raises(StaleAttempt):
        settle(database, dataclasses.replace(page, epoch=epoch - 1), {}, deleted=2)
    assert counts_of(database) == {"sealed": 2, "deleted": 0, "absent": 0, "kept": 0, "owed": 2}


def test_nothing_is_settled_before_the_rows_are_gone_nor_sealed_after(database: Database) -> None:
    """The rows' commit is the line between sealing and deleting: no key may go while a row still names it."""
    opened(database)
    with database.write() as session:
        epoch = begun(session)
    with pytest.raises(StaleAttempt), database.write() as session:
        ledger.lock_released(session, REQUEST.deletion_id, 0, epoch)
    with database.write() as session:
        ledger.lock_sealing(session, REQUEST.deletion_id, 0, epoch).state = ledger.ChunkState.ROWS_DELETED
    with pytest.raises(StaleSeal), database.write() as session:
        ledger.lock_sealing(session, REQUEST.deletion_id, 0, epoch)


def test_a_new_attempt_forgets_what_earlier_ones_sealed(database: Database) -> None:
    """Otherwise a key of an earlier look would be released that the rows no longer name."""
    opened(database)
    with database.write() as session:
        epoch = begun(session)
        found = ledger.lock_sealing(session, REQUEST.deletion_id, 0, epoch)
        ledger.seal_page(session, found, SCOPE, PageSource.MANIFEST, ["a"])
        ledger.seal_prefixes(session, found, [(SCOPE, "1/2/4/", False)], PrefixState.OWED)
    with database.write() as session:
        begun(session)
    with database.read() as session:
        assert ledger.prefixes_to_sweep(session, REQUEST.deletion_id, 0) == []
        assert ledger.seal_digest(session, ledger.read_chunk(session, REQUEST.deletion_id, 0))[:2] == (0, 0)
    assert pages_of(database) == []


def test_prefixes_of_any_characters_are_sealed_and_settled_as_they_are(database: Database) -> None:
    """They go to the database many at a time, as one text: nothing in them may be taken for its punctuation."""
    odd = [
        "1/2/4/",
        'a"b/',
        "a\\b/",
        'a\\"b/',
        "a,b/",
        "{a}/",
        "[a]/",
        "NULL",
        "null",
        "",
        " a ",
        "a'b/",
        "ä€😀/",
        "%s/",
        "a:b/",
    ]
    opened(database)
    with database.write() as session:
        found = ledger.lock_sealing(session, REQUEST.deletion_id, 0, begun(session))
        ledger.seal_prefixes(session, found, [(SCOPE, prefix, False) for prefix in odd], PrefixState.OWED)
    with database.write() as session:
        found = ledger.lock_chunk(session, REQUEST.deletion_id, 0)
        sealed = ledger.prefixes_to_sweep(session, REQUEST.deletion_id, 0)
        assert {one.prefix for one in sealed} == set(odd)
        assert ledger.settle_prefixes(session, found, sealed, PrefixState.EMPTY, deleted=0, codes={}, sweep=1)
        assert ledger.prefixes_to_sweep(session, REQUEST.deletion_id, 0) == []


def test_prefixes_of_several_scopes_are_settled_together_and_no_others(database: Database) -> None:
    """Two scopes with the same two prefixes and one with three, of which some are settled: the others stay owed."""
    scopes = [SCOPE, SCOPE.replace("preprod", "snapshots"), SCOPE.replace("preprod", "preprod_size")]
    opened(database)
    with database.write() as session:
        found = ledger.lock_sealing(session, REQUEST.deletion_id, 0, begun(session))
        named = [(scope, prefix, False) for scope in scopes for prefix in ("a/", "b/", "c/")]
        ledger.seal_prefixes(session, found, named, PrefixState.OWED)
    settled = {(scopes[0], "a/"), (scopes[0], "b/"), (scopes[1], "a/"), (scopes[1], "b/"), (scopes[2], "a/")}
    with database.write() as session:
        found = ledger.lock_chunk(session, REQUEST.deletion_id, 0)
        every = ledger.prefixes_to_sweep(session, REQUEST.deletion_id, 0)
        some = [one for one in reversed(every) if (one.scope, one.prefix) in settled]
        assert ledger.settle_prefixes(session, found, some, PrefixState.EMPTY, deleted=0, codes={}, sweep=1)
        left = {(one.scope, one.prefix) for one in ledger.prefixes_to_sweep(session, REQUEST.deletion_id, 0)}
    assert left == {(scope, prefix) for scope, prefix, _ in named} - settled


def test_an_attempt_from_before_a_cancel_is_fenced_off_from_the_run_that_follows(database: Database) -> None:
    """A cancel drops the chunks and a new run makes new ones: who slept through both must not pass for the new attempt."""
    opened(database)
    with database.write() as session:
        old = begun(session)
        assert ledger.cancel(session, REQUEST, "run-1")
    opened(database)
    with database.write() as session:
        begun(session)
    with pytest.raises(StaleSeal), database.write() as session:
        ledger.lock_sealing(session, REQUEST.deletion_id, 0, old)


def test_the_digest_of_a_seal_knows_every_key_and_its_scope(database: Database) -> None:
    """delete_rows releases exactly the set that it is told of by this digest."""
    digests: set[str] = set()
    for scope, pages in (
        (SCOPE, [["a", "b"]]),
        (SCOPE, [["a"], ["b"]]),
        (SCOPE, [["b"], ["a"]]),
        (SCOPE, [["a", "c"]]),
        ("snapshots/org.1/project.2/objects/", [["a", "b"]]),
    ):
        if not digests:
            opened(database)
        with database.write() as session:
            found = ledger.lock_sealing(session, REQUEST.deletion_id, 0, begun(session))
            for keys in pages:
                ledger.seal_page(session, found, scope, PageSource.MANIFEST, keys)
            digests.add(ledger.seal_digest(session, found)[2])
    assert len(digests) == 5


# Counts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remaining", [{}, {"b": "AccessDenied"}], ids=["whole", "shrunk"])
def test_a_page_that_two_attempts_settle_counts_once(database: Database, remaining: dict[str, str]) -> None:
    """The attempt that timed out may answer last; what it read is no longer what stands there."""
    released(database, ["a", "b", "c"])
    (page,) = pages_of(database)
    gone = 3 - len(remaining)
    assert settle(database, page, remaining, deleted=gone)
    once = everything(database)
    assert not settle(database, page, {}, deleted=3)
    assert not settle(database, page, remaining, deleted=gone)
    assert everything(database) == once
    assert counts_of(database) == {"sealed": 3, "deleted": gone, "absent": 0, "kept": 0, "owed": len(remaining)}


def test_a_page_that_two_attempts_settle_at_the_same_time_counts_once(database: Database) -> None:
    """The same over two connections that begin together, many times."""
    released(database, *([f"{n}/a", f"{n}/b"] for n in range(12)))
    together = threading.Barrier(2)

    def attempt(pages: list[Page]) -> list[bool]:
        won = []
        for page in pages:
            together.wait(10)
            won.append(settle(database, page, {page.keys[0]: "SlowDown"}, deleted=1))
        return won

    read = pages_of(database)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(attempt, [read, read])
    assert [a + b for a, b in zip(first, second, strict=True)] == [1] * 12
    assert counts_of(database) == {"sealed": 24, "deleted": 12, "absent": 0, "kept": 0, "owed": 12}


def test_a_page_must_settle_into_all_of_its_keys(database: Database) -> None:
    """An outcome that loses a key, or finds one too many, is a bug that must not become a count."""
    released(database, ["a", "b", "c"])
    (page,) = pages_of(database)
    before = everything(database)
    outcomes: list[dict[str, int]] = [{}, {"deleted": 1}, {"deleted": 2, "absent": 1}, {"kept": 3}]
    for counts in outcomes:
        with pytest.raises(ValueError, match="cannot settle"):
            settle(database, page, {"a": "AccessDenied"}, **counts)
    assert everything(database) == before


@pytest.mark.parametrize("seed", range(2))
def test_every_sealed_key_is_in_exactly_one_count_after_any_order_of_settles(database: Database, seed: int) -> None:
    """No key is lost or counted twice, whatever the order, with attempts that read long ago among them."""
    order = random.Random(seed)
    released(database, *([f"{page}/{key}" for key in range(order.randint(1, 9))] for page in range(5)))
    read = pages_of(database)
    for _ in range(25):
        page = order.choice(read)
        left = {key: order.choice(["SlowDown", "AccessDenied"]) for key in page.keys if order.random() < 0.5}
        absent = order.randint(0, len(page.keys) - len(left))
        kept = order.randint(0, len(page.keys) - len(left) - absent)
        settle(database, page, left, absent=absent, kept=kept, deleted=len(page.keys) - len(left) - absent - kept)
        counts = counts_of(database)
        assert counts.pop("sealed") == sum(counts.values())
        if order.random() < 0.5:
            read += pages_of(database)  # without forgetting those that were read before
    with database.read() as session:
        pages = session.execute(select(DeletionPage.count, DeletionPage.codes)).all()
    assert all(count == sum(codes.values()) for count, codes in pages if codes)


# States ---------------------------------------------------------------------------------------------------------------


def test_accepting_twice_is_accepting_once(database: Database) -> None:
    """A backend may ask again, in other words or another order, and by another user."""
    with database.write() as session:
        assert ledger.accept(session, REQUEST, "asked by phone") is DeletionState.ACCEPTED
    before = everything(database)
    again = DeletionRequest(organization_id=1, artifact_ids=(42, 4, 42), requested_by="user:8")
    with database.write() as session:
        assert ledger.accept(session, again, "asked by mail") is DeletionState.ACCEPTED
    assert everything(database) == before


REOPENED = {
    DeletionState.ACCEPTED: DeletionState.ACCEPTED,
    DeletionState.RUNNING: DeletionState.RUNNING,
    DeletionState.CLOSED: DeletionState.CLOSED,
    DeletionState.FAILED: DeletionState.ACCEPTED,
    DeletionState.REFUSED: DeletionState.ACCEPTED,
    DeletionState.CANCELLED: DeletionState.ACCEPTED,
}


def test_only_what_ended_without_being_complete_is_opened_again(database: Database) -> None:
    """A closed deletion answers with its receipt, a running one goes on; `resume` finds what is open again."""
    assert set(REOPENED) == set(DeletionState)
    for found, then in REOPENED.items():
        with database.write() as session:
            ledger.accept(session, REQUEST)
            ledger.set_state(session, REQUEST.deletion_id, found)
        with database.write() as session:
            assert ledger.accept(session, REQUEST) is found
        with database.read() as session:
            assert session.execute(select(Deletion.state)).scalar_one() == then


def test_a_cancel_before_rows_are_deleted_undoes_everything(database: Database) -> None:
    """As if it had never been opened: nothing is owed, and nothing stands in the way of asking again."""
    opened(database)
    with database.write() as session:
        found = ledger.lock_sealing(session, REQUEST.deletion_id, 0, begun(session))
        ledger.seal_page(session, found, SCOPE, PageSource.MANIFEST, ["a"])
        ledger.seal_prefixes(session, found, [(SCOPE, "1/2/4/", False)], PrefixState.OWED)
    with database.write() as session:
        assert ledger.cancel(session, REQUEST, "run-1")
    left = everything(database)
    assert [row["state"] for row in left.pop("artifact_deletion")] == [DeletionState.CANCELLED]
    assert not any(left.values())


def test_a_cancel_after_rows_are_deleted_changes_nothing(database: Database) -> None:
    """Past the point of no return the rest must happen: its keys are named nowhere else any more."""
    released(database, ["a"])
    before = everything(database)
    with database.write() as session:
        assert not ledger.cancel(session, REQUEST, "run-1")
    assert everything(database) == before


def test_a_cancel_of_a_closed_deletion_changes_nothing(database: Database) -> None:
    """What is complete stays complete."""
    with database.write() as session:
        ledger.accept(session, REQUEST)
        ledger.set_state(session, REQUEST.deletion_id, DeletionState.CLOSED)
    with database.write() as session:
        assert not ledger.cancel(session, REQUEST, "run-1")
    assert [row["state"] for row in everything(database)["artifact_deletion"]] == [DeletionState.CLOSED]


def step_of(run_id: str) -> ActivityEnvironment:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_run_id=run_id)
    return environment


def test_a_late_step_of_a_cancelled_run_opens_nothing_and_the_next_run_does(database: Database) -> None:
    """The cancel may overtake the step that would write the request down, even before anything is in the ledger."""
    with database.write() as session:
        session.execute(insert(tables.Organization).values(id=1, slug="acme"))
        session.execute(insert(tables.Project).values(id=2, slug="shop", organization_id=1))
        session.execute(insert(tables.Artifact), [{"id": one, "project_id": 2} for one in REQUEST.artifact_ids])
    step = OpenDeletion(database, Schema(database), 100, traces_configured=False, pace=Pace())
    answer = step_of("run-1").run(CancelDeletion(database).cancel_deletion, REQUEST)
    assert answer.nothing_deleted

    cancelled = everything(database)
    with pytest.raises(NotOpen):
        step_of("run-1").run(step.open_deletion, REQUEST)
    assert everything(database) == cancelled

    with database.write() as session:
        ledger.accept(session, REQUEST)
    with pytest.raises(NotOpen):
        step_of("run-1").run(step.open_deletion, REQUEST)
    assert [left.released for left in step_of("run-2").run(step.open_deletion, REQUEST).chunks] == [None]


def test_a_late_step_of_any_cancelled_run_opens_nothing(database: Database) -> None:
    """It was asked for and cancelled twice, while a worker slept in the first run's step."""
    step = OpenDeletion(database, Schema(database), 100, traces_configured=False, pace=Pace())
    for run in ("run-1", "run-2"):
        with database.write() as session:
            ledger.accept(session, REQUEST)
        assert step_of(run).run(CancelDeletion(database).cancel_deletion, REQUEST).nothing_deleted
    cancelled = everything(database)
    for run in ("run-1", "run-2"):
        with pytest.raises(NotOpen):
            step_of(run).run(step.open_deletion, REQUEST)
    assert everything(database) == cancelled


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_cancel_takes_its_locks_in_the_order_of_all_others(database: Database) -> None:
    """The chunk before its pages, as whoever collects does, or the two wait for each other."""
    opened(database)
    with database.write() as session:
        begun(session)
        ledger.seal_page(session, ledger.lock_chunk(session, REQUEST.deletion_id, 0), "", PageSource.COLUMN, ["a"])
    with ThreadPoolExecutor(1) as threads, database.write() as session:
        found = ledger.lock_chunk(session, REQUEST.deletion_id, 0)

        def cancel() -> bool:
            with database.write() as other:
                return ledger.cancel(other, REQUEST, "run-1")

        cancelling = threads.submit(cancel)
        wait_for_waiters(database)
        ledger.begin_epoch(session, found)
        session.commit()
        assert cancelling.result()


def test_a_late_step_of_a_cancelled_run_finds_no_chunk(database: Database) -> None:
    """Every later step begins with the chunk, which the cancel has dropped."""
    opened(database)
    with database.write() as session:
        ledger.cancel(session, REQUEST, "run-1")
    for look in (ledger.lock_chunk, ledger.read_chunk):
        with pytest.raises(NotOpen), database.write() as session:
            look(session, REQUEST.deletion_id, 0)


# Migrations -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database(f"empty_{tmp_path.name}".lower())


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.dispose()


def differences(database: Database) -> list[Any]:
    """What Alembic would change to make the database's ledger the one that the code declares."""
    on_postgresql = database.is_postgresql
    declared = LedgerTable.metadata
    if not on_postgresql:
        declared = MetaData()
        for table in LedgerTable.metadata.tables.values():
            copy: Any = table.to_metadata  # its annotations leave no way to say “no schema”
            copy(declared, schema=None, referred_schema_fn=lambda *_: BLANK_SCHEMA)

    def ours(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name == (LEDGER_SCHEMA if on_postgresql else None)
        return kind != "table" or (str(name).startswith("artifact_deletion") and name != VERSION_TABLE)

    options = {"include_schemas": on_postgresql, "include_name": ours, "compare_type": True, "compare_server_default": True}
    with database.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), declared))


def test_migrations_make_exactly_the_declared_tables_and_are_safe_to_repeat(empty: Database) -> None:
    """A column in the code alone would fail at the first deletion; one in the migrations alone would never be filled."""
    for _ in range(2):
        migrate(empty)
        check_version(empty)
        assert differences(empty) == []
    with empty.write() as session:
        table = f"{LEDGER_SCHEMA}.{DeletionPage.__tablename__}" if empty.is_postgresql else DeletionPage.__tablename__
        session.execute(text(f"DROP TABLE {table}"))
    assert [change[0] for change in differences(empty)] == ["add_table"], "the comparison itself sees what is missing"


@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
def test_a_migration_waits_for_one_that_is_at_work(empty: Database, empty_url: str) -> None:
    """Several machines may be set up at the same time, the first time too, when the schema is not there yet."""
    with ThreadPoolExecutor(1) as pool, psycopg.connect(empty_url.replace("+psycopg", "", 1)) as first:
        first.execute("SELECT pg_advisory_xact_lock(hashtext('artifact_deletion.migrations'))")
        first.execute(f"CREATE SCHEMA {LEDGER_SCHEMA}".encode())
        second = pool.submit(migrate, empty)
        wait_for_waiters(empty)
        first.commit()
        second.result(10)
    check_version(empty)
    assert differences(empty) == []


def test_the_printed_sql_makes_the_same_tables(empty: Database, empty_url: str) -> None:
    """Whoever may not migrate from here hands the SQL to somebody who may, and the worker then finds its version."""
    if empty_url.startswith("sqlite"):
        connection = sqlite3.connect(empty_url.removeprefix("sqlite:///"))
        connection.executescript(as_sql("sqlite"))
        connection.close()
    else:
        with psycopg.connect(empty_url.replace("+psycopg", "", 1), autocommit=True) as session:
            session.execute(as_sql("postgresql").encode())
    check_version(empty)
    assert differences(empty) == []


def test_a_ledger_of_another_version_is_refused_by_name(database: Database) -> None:
    """A worker that is older or newer than its tables would find out in the middle of a deletion."""
    check_version(database)
    table = f"{LEDGER_SCHEMA}.{VERSION_TABLE}" if database.is_postgresql else VERSION_TABLE
    with database.write() as session:
        session.execute(text(f"UPDATE {table} SET version_num = '0001'"))
    with pytest.raises(LedgerOutdated, match=r"at version 0001, this code needs \d+: run .*starter\.py setup"):
        check_version(database)
    with database.write() as session:
        session.execute(text(f"UPDATE {table} SET version_num = '9999'"))
    for use in (check_version, migrate):
        with pytest.raises(LedgerOutdated, match="this code is too old for the ledger, which is at version 9999"):
            use(database)


def test_an_absent_ledger_is_refused_by_name(empty: Database) -> None:
    """The first worker against a new database says what to do."""
    with pytest.raises(LedgerOutdated, match="is absent"):
        check_version(empty)


# Transactions ---------------------------------------------------------------------------------------------------------


def add_artifact_without_project(session: Session) -> None:
    session.execute(insert(tables.Artifact).values(project_id=4711))
    assert artifacts_in(session) == 1, "only the COMMIT refuses it"


def artifacts_in(session: Session) -> int:
    return int(session.execute(select(func.count()).select_from(tables.Artifact)).scalar_one())


def test_a_commit_that_foreign_keys_refuse_leaves_nothing_and_a_clean_connection(database: Database) -> None:
    """SQLite keeps a transaction open whose COMMIT failed: back in the pool, it would lock out everyone, and commit later."""
    with pytest.raises(DatabaseUnavailable, match="refused"), database.write() as session:
        add_artifact_without_project(session)
    pooled = database.engine.raw_connection()
    if isinstance(pooled.driver_connection, sqlite3.Connection):
        assert not pooled.driver_connection.in_transaction
    pooled.close()
    other = Database(database.engine.url.render_as_string(hide_password=False), lock_timeout_s=0.1)
    with other.write() as session:
        assert artifacts_in(session) == 0
        session.execute(insert(tables.Organization).values(slug="acme"))
    other.dispose()
    with database.write() as session:
        session.execute(insert(tables.Organization).values(slug="globex"))
    with database.read() as session:
        assert session.execute(select(func.count()).select_from(tables.Organization)).scalar_one() == 2
        assert artifacts_in(session) == 0


def test_a_transaction_that_fails_half_way_leaves_nothing(database: Database) -> None:
    """An error of ours between two statements undoes the first."""

    def fail(session: Session) -> None:
        session.execute(insert(tables.Organization).values(slug="acme"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), database.write() as session:
        fail(session)
    with database.write() as session:
        assert session.execute(select(func.count()).select_from(tables.Organization)).scalar_one() == 0


def refuse_a_duplicate(session: Session) -> None:
    for _ in range(2):
        session.execute(insert(tables.InstallableArtifact).values(preprod_artifact_id=4711, url_path=MARKER))


def refuse_a_foreign_key(session: Session) -> None:
    session.execute(insert(tables.InstallableArtifact).values(preprod_artifact_id=4711, url_path=MARKER))


def refuse_a_statement(session: Session) -> None:
    session.execute(text(f"SELECT '{MARKER}' FROM no_such_table WHERE name = :name"), {"name": MARKER})


def refuse_a_null(session: Session) -> None:
    session.execute(insert(tables.File).values(name=MARKER, type=None))


def test_what_is_said_of_a_databases_error_carries_no_values(database: Database) -> None:
    """A database quotes the row that it refuses; the message of our error goes into Temporal's history."""
    named = r"\((IntegrityError|OperationalError|ProgrammingError) [A-Z0-9_]+\)"
    for refused in (refuse_a_duplicate, refuse_a_foreign_key, refuse_a_statement, refuse_a_null):
        with pytest.raises(DatabaseUnavailable, match=named) as caught, database.write() as session:
            refused(session)
        assert_says_nothing(caught.value)


def test_what_is_said_of_a_database_that_is_down_carries_no_secret(tmp_path: Path) -> None:
    """A driver's message names host, user and file."""
    for url in (f"postgresql+psycopg://{MARKER}:{MARKER}@127.0.0.1:1/{MARKER}", f"sqlite:///{tmp_path}/{MARKER}/backend.db"):
        database = Database(url)
        with pytest.raises(DatabaseUnavailable, match="could not be used") as caught, database.read() as session:
            session.execute(text("SELECT 1"))
        assert_says_nothing(caught.value)
        database.dispose()


def assert_says_nothing(error: DatabaseUnavailable) -> None:
    """Neither in words nor as what Temporal stores: causes and traces are part of that."""
    assert MARKER not in str(error)
    assert "4711" not in str(error)
    failure = Failure()
    data_converter.failure_converter.to_failure(error, data_converter.payload_converter, failure)
    assert MARKER not in str(failure)
    assert not failure.HasField("cause")


def test_times_are_utc_on_both_databases(database: Database) -> None:
    """SQLite keeps no zone, PostgreSQL answers in its own, and a receipt's times are read by others."""
    if database.is_postgresql:
        with database.write() as session:
            session.execute(text(f"ALTER DATABASE {database.engine.url.database} SET timezone TO 'America/New_York'"))
        database.dispose()
    with database.write() as session:
        ledger.accept(session, REQUEST)
        session.execute(update(Deletion).values(closed_at=func.now()))
    with database.read() as session:
        accepted, closed = session.execute(select(Deletion.accepted_at, Deletion.closed_at)).one()
    assert accepted.tzinfo is not None
    assert accepted.utcoffset() == (closed and closed.utcoffset()) == timedelta(0)
