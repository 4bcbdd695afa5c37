"""A backend's own ORM deletes the rows: its hooks run, and every promise about rows holds as with our SQL.

Most of these are the tests of our own SQL, run again with the ORM of `examples/orm_delete_rows.py` in its place.
"""

import asyncio
import importlib

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from activities.backend.cascade import PARTS
from activities.ledger.schema import DeletionChunk
from artifact_deletion.errors import RowsRemain
from demo.world import sample_world
from examples.orm_delete_rows import DeletedArtifact
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack, steps_of
from tests.steps.test_changed_rows import (
    test_a_key_that_a_row_names_only_at_the_last_moment_is_sealed_with_its_deletion,
    test_an_artifact_of_another_organization_by_now_is_left_alone_and_left_over,
    test_an_artifact_that_has_moved_is_never_deleted_by_what_was_sealed_before,
)
from tests.steps.test_races import (
    before,
    others,
    pair,
    test_a_cancel_that_comes_while_rows_are_being_deleted_waits_and_comes_too_late,
    test_a_comparison_made_after_the_keys_were_collected_goes_with_the_rows,
    test_a_comparison_that_is_committed_while_delete_rows_waits_for_its_locks_goes_with_the_rows,
    test_a_deletion_that_is_chosen_as_a_deadlocks_victim_leaves_nothing_and_succeeds_the_next_time,
    test_a_deletion_whose_connection_is_killed_in_the_middle_leaves_nothing_and_succeeds_the_next_time,
    test_a_head_and_a_base_that_are_deleted_at_once_both_go,
    test_nothing_can_be_tied_to_an_artifact_once_its_rows_are_gone,
    test_two_attempts_at_one_chunk_delete_its_rows_once_and_both_say_so,
)
from tests.steps.test_rows import (
    test_a_comparison_goes_with_its_head_or_its_base,
    test_a_file_goes_unless_there_is_evidence_that_another_needs_it,
    test_a_seal_that_is_not_the_ledgers_releases_nothing,
    test_rows_are_deleted_once_and_counted_alike_however_often_the_step_runs,
    test_the_result_of_a_size_comparison_goes_with_either_side,
)

__all__ = [
    "before",
    "others",
    "pair",
    "test_a_cancel_that_comes_while_rows_are_being_deleted_waits_and_comes_too_late",
    "test_a_comparison_goes_with_its_head_or_its_base",
    "test_a_comparison_made_after_the_keys_were_collected_goes_with_the_rows",
    "test_a_comparison_that_is_committed_while_delete_rows_waits_for_its_locks_goes_with_the_rows",
    "test_a_deletion_that_is_chosen_as_a_deadlocks_victim_leaves_nothing_and_succeeds_the_next_time",
    "test_a_deletion_whose_connection_is_killed_in_the_middle_leaves_nothing_and_succeeds_the_next_time",
    "test_a_file_goes_unless_there_is_evidence_that_another_needs_it",
    "test_a_head_and_a_base_that_are_deleted_at_once_both_go",
    "test_a_key_that_a_row_names_only_at_the_last_moment_is_sealed_with_its_deletion",
    "test_a_seal_that_is_not_the_ledgers_releases_nothing",
    "test_an_artifact_of_another_organization_by_now_is_left_alone_and_left_over",
    "test_an_artifact_that_has_moved_is_never_deleted_by_what_was_sealed_before",
    "test_nothing_can_be_tied_to_an_artifact_once_its_rows_are_gone",
    "test_rows_are_deleted_once_and_counted_alike_however_often_the_step_runs",
    "test_the_result_of_a_size_comparison_goes_with_either_side",
    "test_two_attempts_at_one_chunk_delete_its_rows_once_and_both_say_so",
]
pytestmark = pytest.mark.thorough  # the same tests of our own SQL are in each run
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ADAPTERS = "examples.orm_delete_rows:adapters"
orm_example = importlib.import_module("examples.orm_delete_rows")


@pytest.fixture(autouse=True)
def orm(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ORM deletes in every test of this file."""
    monkeypatch.setenv("ARTIFACT_DELETION_ADAPTERS", ADAPTERS)
    DeletedArtifact.__table__.create(stack.database.engine)  # type: ignore[attr-defined]


def noted(stack: Stack) -> set[int]:
    """What the backend's hook has written down."""
    with stack.database.read() as session:
        return set(session.execute(select(DeletedArtifact.artifact_id)).scalars())


async def test_the_orms_hooks_run_in_the_transaction_that_releases_the_keys(stack: Stack) -> None:
    """The whole world through a worker process: the hook's rows say what the receipt says."""
    sample = sample_world(stack.world)
    before = Evidence.of(stack)
    stack.worker_process(ARTIFACT_DELETION_ADAPTERS=ADAPTERS)
    receipt = await stack.delete(sample.to_delete)
    assert receipt.complete
    assert_promises_hold(stack, before, [stack.request(sample.to_delete)])
    assert noted(stack) == set(sample.to_delete) == set(receipt.artifacts.deleted.ids)
    tables = {part.table.__tablename__ for part in PARTS}
    after = stack.world.rows()
    assert {table: count for table, count in receipt.rows.items() if table in tables} == {
        table: gone for table in tables if (gone := len(before.rows[table]) - len(after[table]))
    }


@on_sqlite
def test_a_hook_that_fails_leaves_everything_as_it_was(stack: Stack) -> None:
    """After half of the rows are deleted: neither rows nor seal nor audit entry."""
    (head,) = stack.snapshots("head")
    request, before = stack.request([head.id]), Seen.of(stack.world)

    def fails(*_: object) -> None:
        raise RuntimeError("PRIVATE")

    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        event.listen(orm_example.Artifact, "after_delete", fails)
        try:
            with pytest.raises(RuntimeError):
                steps.delete_rows(sealed)
        finally:
            event.remove(orm_example.Artifact, "after_delete", fails)
        assert Seen.of(stack.world) == before
        assert noted(stack) == set()
        with stack.database.read() as session:
            assert session.execute(select(DeletionChunk.state)).scalar_one() == "open"
        receipt = steps.finish(request, sealed)
    assert receipt.complete
    assert noted(stack) == {head.id}


@on_sqlite
async def test_an_orm_that_leaves_rows_behind_releases_nothing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that vetoes, a model that was forgotten: told by table, and nothing is committed."""
    (head,) = stack.snapshots("head")
    request, before = stack.request([head.id]), Seen.of(stack.world)

    def forgets(_session: Session, _artifacts: object) -> None:
        """Delete nothing."""

    with steps_of(stack) as steps:
        sealed = await asyncio.to_thread(steps.open_and_collect, request)
        with monkeypatch.context() as forgetful:
            forgetful.setattr(orm_example, "delete_with_orm", forgets)
            with pytest.raises(RowsRemain, match=r"sentry_preprodartifact 1, sentry_preprodsnapshotmetrics 1"):
                steps.delete_rows(sealed)
        assert Seen.of(stack.world) == before
        assert steps.finish(request, sealed).complete
