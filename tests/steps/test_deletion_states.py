"""The life of a deletion in the ledger: what asking, opening and cancelling do to it, in whatever order they come."""

import contextlib
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, select
from temporalio.testing import ActivityEnvironment

from activities.backend import tables
from activities.backend.contract import OwnPrefix, PrefixKind
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.cancel_deletion import CancelDeletion
from activities.database import Database
from activities.ledger import chunks, deletions, pages, prefixes
from activities.ledger.schema import Ask, Deletion, PageSource
from activities.open_deletion import OpenDeletion
from artifact_deletion.errors import NotOpen
from artifact_deletion.outbox import DeletionState, accept_deletion, deletions_to_start
from artifact_deletion.request import DeletionRequest
from tests.stack import deletion_of, recorded, wait_for_waiters
from tests.steps.test_ledger import CHUNK, REQUEST, SCOPE, begun, everything, opened, released
from workflows.steps import Cancelled, Opened, Opening, Pace

ASKED_AGAIN = DeletionRequest(organization_id=1, artifact_ids=(42, 4, 42), requested_by="user:8")
"""In another order, and by another user."""

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def backend(database: Database) -> Database:
    """A database with the artifacts of the request."""
    with database.write() as session:
        session.execute(insert(tables.Organization).values(id=1, slug="acme"))
        session.execute(insert(tables.Project).values(id=2, slug="shop", organization_id=1))
        session.execute(insert(tables.Artifact), [{"id": one, "project_id": 2} for one in REQUEST.artifact_ids])
    return database


def ask(database: Database, request: DeletionRequest = REQUEST, reason: str | None = None) -> None:
    with database.write() as session:
        assert accept_deletion(session, request, reason=reason) == REQUEST.workflow_id


def step_of(run_id: str) -> ActivityEnvironment:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_run_id=run_id)
    return environment


def open_in(database: Database, run_id: str, *, fresh: bool = True) -> Opened:
    """Opened by a step of this run; one that Reset took up again is not `fresh`."""
    step = OpenDeletion(database, SentryBackend(database, Scopes("{usecase}/", ("preprod",))), 100, False, Pace())  # noqa: FBT003
    return step_of(run_id).run(step.open_deletion, Opening(request=REQUEST, fresh=fresh))


def cancel(database: Database, fence: int) -> Cancelled:
    return ActivityEnvironment().run(CancelDeletion(database).cancel_deletion, deletion_of(REQUEST, fence))


def state_of(database: Database) -> DeletionState:
    """Without regard to asks that no run has served."""
    with database.read() as session:
        return DeletionState(session.execute(select(Deletion.state)).scalar_one())


def to_start(database: Database) -> list[DeletionRequest]:
    with database.read() as session:
        return list(deletions_to_start(session))


# Asks -----------------------------------------------------------------------------------------------------------------


def test_asking_twice_is_asking_once(backend: Database) -> None:
    """A backend may ask again, in other words or another order, and by another user."""
    ask(backend, reason="asked by phone")
    ask(backend, ASKED_AGAIN, reason="asked by mail")
    assert to_start(backend) == [REQUEST]
    assert recorded(backend, REQUEST.workflow_id).state is DeletionState.ACCEPTED
    assert [one.chunk for one in open_in(backend, "run-1").chunks] == [0]
    once = everything(backend)
    ask(backend, ASKED_AGAIN)
    assert [one.chunk for one in open_in(backend, "run-1").chunks] == [0]
    served, before = everything(backend), once
    asks, asks_before = served.pop("artifact_deletion_ask"), before.pop("artifact_deletion_ask")
    assert served == before, "a deletion that runs goes on as it was first asked for"
    assert DeletionRequest.model_validate(before["artifact_deletion"][0]["request"]) == REQUEST
    assert asks[:2] == asks_before[:2]
    assert [one["reason"] for one in asks_before[:2]] == ["asked by phone", "asked by mail"]
    assert all(one["served_at"] for one in asks)


@on_postgresql
def test_an_ask_writes_nothing_but_itself_and_waits_for_no_lock(database: Database, database_url: str) -> None:
    """A backend asks in its own transaction, which may hold an artifact that a running deletion waits for."""
    opened(database)
    before = everything(database)
    impatient = Database(database_url, lock_timeout_s=0.1)
    with contextlib.ExitStack() as ended, database.write() as session:
        ended.callback(impatient.dispose)
        assert deletions.find_locked(session, REQUEST.deletion_id)
        chunks.lock_chunk(session, CHUNK)
        ask(impatient)
    after = everything(database)
    assert len(after.pop("artifact_deletion_ask")) == len(before.pop("artifact_deletion_ask")) + 1
    assert after == before


REOPENED = {
    DeletionState.RUNNING: DeletionState.RUNNING,
    DeletionState.CLOSED: DeletionState.CLOSED,
    DeletionState.FAILED: DeletionState.RUNNING,
    DeletionState.REFUSED: DeletionState.RUNNING,
    DeletionState.CANCELLED: DeletionState.RUNNING,
}


@pytest.mark.parametrize("found", REOPENED)
def test_only_what_ended_without_being_complete_is_opened_again(database: Database, found: DeletionState) -> None:
    """A closed deletion answers with its receipt, a running one goes on; `resume` finds those that are open again."""
    assert {*REOPENED, DeletionState.ACCEPTED} == set(DeletionState)
    ask(database)
    open_in(database, "run-0")
    with database.write() as session:
        if found is DeletionState.CANCELLED:
            assert deletions.cancel(session, REQUEST.deletion_id, 0)
        deletions.set_state(session, REQUEST.deletion_id, found)
    assert len(to_start(database)) == (found is DeletionState.RUNNING)
    ask(database)
    asked = DeletionState.RUNNING if found is DeletionState.RUNNING else DeletionState.ACCEPTED
    assert recorded(database, REQUEST.workflow_id).state is asked
    assert to_start(database) == [REQUEST]
    open_in(database, "run-1")
    assert recorded(database, REQUEST.workflow_id).state is state_of(database) is REOPENED[found]
    assert len(to_start(database)) == (REOPENED[found] is DeletionState.RUNNING)


@on_postgresql
def test_an_ask_that_commits_after_a_later_one_was_served_is_not_served_with_it(database: Database) -> None:
    """Numbers are given out before the COMMIT: the lower one may be the one that comes later."""
    with database.write() as slow:
        accept_deletion(slow, REQUEST, reason="first")
        ask(database, reason="second")
        open_in(database, "run-1")
        assert len(open_in(database, "run-1").chunks) == 1
    assert reasons_served(database) == {"second"}
    open_in(database, "run-2")
    assert reasons_served(database) == {"first", "second"}


def reasons_served(database: Database) -> set[str]:
    with database.read() as session:
        asks = select(Ask.c.reason).where(Ask.c.reason.is_not(None), Ask.c.served_at.is_not(None))
        return set(session.execute(asks).scalars())


# Cancels --------------------------------------------------------------------------------------------------------------


def test_a_cancel_before_rows_are_deleted_undoes_everything(database: Database) -> None:
    """As if it had never been opened: nothing is owed, and nothing stands in the way of asking again."""
    ask(database)
    opened(database)
    with database.write() as session:
        found = begun(session)
        pages.seal_pages(session, found, [(SCOPE, PageSource.MANIFEST, ["a"])])
        prefixes.seal_prefixes(session, found, [OwnPrefix(SCOPE, "1/2/4/", PrefixKind.ARTIFACT, 4)])
    assert cancel(database, 0).nothing_deleted
    left = everything(database)
    assert [(row["state"], row["fence"]) for row in left.pop("artifact_deletion")] == [(DeletionState.CANCELLED, 1)]
    assert [row["served_at"] is None for row in left.pop("artifact_deletion_ask")] == [False], "it is cancelled too"
    del left["artifact_deletion_limit"]
    assert not any(left.values())


def test_a_cancel_after_rows_are_deleted_changes_nothing(database: Database) -> None:
    """Past the point of no return the rest must happen: its keys are named nowhere else any more."""
    released(database, ["a"])
    before = everything(database)
    assert not cancel(database, 0).nothing_deleted
    assert everything(database) == before


def test_a_cancel_of_a_closed_deletion_changes_nothing(database: Database) -> None:
    """A complete deletion stays complete."""
    opened(database)
    with database.write() as session:
        deletions.set_state(session, REQUEST.deletion_id, DeletionState.CLOSED)
    before = everything(database)
    assert not cancel(database, 0).nothing_deleted
    assert everything(database) == before


def test_a_cancel_of_what_was_never_opened_writes_nothing(database: Database) -> None:
    """There is nothing to undo, and an ask that another run is to serve is not its business."""
    ask(database)
    before = everything(database)
    assert cancel(database, 0).nothing_deleted
    assert everything(database) == before


def test_a_late_step_of_a_cancelled_run_opens_nothing_and_the_next_run_does(backend: Database) -> None:
    """The step was tried again, and opened; it was cancelled; then the first attempt, thought to be dead, goes on."""
    ask(backend)
    assert [left.released for left in open_in(backend, "run-1").chunks] == [None]
    assert cancel(backend, 0).nothing_deleted

    cancelled = everything(backend)
    for run, fresh in (("run-1", True), ("run-1 after Reset", False)):
        with pytest.raises(NotOpen):
            open_in(backend, run, fresh=fresh)
    assert everything(backend) == cancelled

    ask(backend)
    asked = everything(backend)
    with pytest.raises(NotOpen):
        open_in(backend, "run-1")
    assert everything(backend) == asked
    again = open_in(backend, "run-2")
    assert ([left.released for left in again.chunks], again.fence) == ([None], 1)


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "started by hand"])
def test_a_late_step_of_any_cancelled_run_opens_nothing(backend: Database, *, asked: bool) -> None:
    """It was asked for and cancelled twice, while a worker slept in the first run's step."""
    for fence, run in enumerate(("run-1", "run-2")):
        if asked:
            ask(backend)
        open_in(backend, run)
        assert cancel(backend, fence).nothing_deleted
    cancelled = everything(backend)
    for run in ("run-1", "run-2"):
        with pytest.raises(NotOpen):
            open_in(backend, run)
    assert everything(backend) == cancelled


def test_a_late_step_of_a_run_that_went_on_with_what_ran_before_opens_nothing_after_a_cancel(backend: Database) -> None:
    """Temporal lost the first run, `resume` started the second: no ask of its own came before that one."""
    ask(backend)
    open_in(backend, "lost")
    open_in(backend, "resumed")
    assert cancel(backend, 0).nothing_deleted
    cancelled = everything(backend)
    for run in ("lost", "resumed"):
        with pytest.raises(NotOpen):
            open_in(backend, run)
    assert everything(backend) == cancelled


def test_an_attempt_whose_answer_was_lost_opens_the_same_again(backend: Database) -> None:
    """Temporal tries the step again; what it had written stands."""
    ask(backend)
    first = open_in(backend, "run-1")
    once = everything(backend)
    assert open_in(backend, "run-1") == first
    assert everything(backend) == once


@on_postgresql
def test_a_cancel_takes_its_locks_in_the_order_of_all_others(database: Database) -> None:
    """The chunk before its pages, as every step that collects does, or the two wait for each other."""
    opened(database)
    with database.write() as session:
        pages.seal_pages(session, begun(session), [("", PageSource.COLUMN, ["a"])])
    with ThreadPoolExecutor(1) as threads, database.write() as session:
        found = chunks.lock_chunk(session, CHUNK)
        cancelling = threads.submit(cancel, database, 0)
        wait_for_waiters(database)
        pages.drop_pages(session, found)
        session.commit()
        assert cancelling.result().nothing_deleted
