"""Commands about what is held: before a deletion, while it runs, when the hold is lifted, and after a restore."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from activities.backend import tables
from activities.ledger.holds import On, Placed
from activities.ledger.schema import Hold
from activities.receipts import Closed
from artifact_deletion.outbox import deletions_to_start
from artifact_deletion.request import DeletionRequest
from commands.receipt_text import preview_lines
from tests.conftest import Command
from tests.stack import Stack, steps_of
from tests.steps.test_held_artifacts import keep, let_go, run
from tests.steps.test_reopened import restore
from tests.typed import NOWHERE
from workflows.steps import PREVIEW_DELETION

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


# Beforehand -------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@on_sqlite
def test_a_preview_says_how_many_would_be_held_and_counts_the_rest(stack: Stack) -> None:
    """What it counts is what the deletion then takes."""
    kept, along, one = stack.snapshots("kept", "along", "one")
    stack.world.comparison(along, kept)
    request = stack.request([kept.id, along.id, one.id])
    keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        preview = steps.run(PREVIEW_DELETION, request)
        before = stack.world.objects().keys()
        receipt = run(steps, request)
    assert (preview.held.ids, preview.artifacts.ids) == ((kept.id, along.id), (one.id,))
    assert dict(preview.rows) == dict(receipt.rows)
    assert sum(found.count for found in preview.objects.values()) == len(before - stack.world.objects().keys())
    assert ("  held, would stay", 2) in list(preview_lines(preview))


# From a terminal --------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_what_is_let_go_while_its_deletion_is_at_work_is_asked_for_again(stack: Stack) -> None:
    """Its run has passed it over already, and ends without it: the ask that `lift` made is served by the next run."""
    one, kept = stack.snapshots("one", "kept")
    request = stack.request([one.id, kept.id])
    placed = keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        released = steps.delete_rows(sealed)
        let_go(stack.database, placed.id)
        stack.accept(request)
        steps.delete_what_was_released(sealed, released)
        assert steps.close(request).left_over == {"Held": 1}
        with stack.database.read() as session:
            assert list(deletions_to_start(session)) == [request]
        assert run(steps, request).complete
    with stack.database.read() as session:
        assert list(deletions_to_start(session)) == []


@pytest.mark.thorough
def test_a_hold_that_comes_too_late_for_rows_says_which_deletion_to_hold(stack: Stack, command: Command) -> None:
    """The person who places it must not believe that the objects are kept."""
    one, two = stack.snapshots("one", "two")
    request = stack.request([one.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_rows(sealed)
    for on, number in (("--artifact", one.id), ("--project", one.artifact.project_id)):
        code, said = command("hold", on, number, "--reason", "x", "--by", "user:7")
        assert (code, f"hold --deletion {request.deletion_id}" in said) == (0, True), said
    code, said = command("hold", "--artifact", two.id, "--reason", "x", "--by", "user:7")
    assert (code, f"on artifact {two.id} since" in said, "too late" in said) == (0, True, False), said
    _, listed = command("holds")
    assert f"artifact {two.id}" in listed
    assert f"project {one.artifact.project_id}" in listed


def run_under_a_hold(stack: Stack) -> tuple[DeletionRequest, Placed]:
    """A deletion whose only artifact is held."""
    (kept,) = stack.snapshots("kept")
    request = stack.request([kept.id])
    placed = keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        run(steps, request)
    return request, placed


@pytest.mark.thorough
def test_lifting_while_temporal_is_away_asks_in_the_ledger(
    stack: Stack, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ask is a row: `resume`, or the relay, starts it later."""
    request, placed = run_under_a_hold(stack)
    monkeypatch.setenv("TEMPORAL_ADDRESS", NOWHERE)
    code, said = command("lift", placed.id, "--by", "user:8")
    assert (code, "1 deletion is asked for again" in said, "resume" in said) == (0, True, True), said
    with stack.database.read() as session:
        assert list(deletions_to_start(session)) == [request]


@on_sqlite
def test_a_hold_that_never_was_starts_nothing_and_one_that_was_lifted_does(
    stack: Stack, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped id is no wish. To lift it twice is: the first try may have died before it asked."""
    request, placed = run_under_a_hold(stack)
    let_go(stack.database, placed.id)
    monkeypatch.setenv("TEMPORAL_ADDRESS", NOWHERE)
    for nothing in ([placed.id + 98], ["--everything"]):
        assert "asked for again" not in command("lift", *nothing, "--by", "user:8")[1]
        with stack.database.read() as session:
            assert list(deletions_to_start(session)) == []
    code, said = command("lift", placed.id, "--by", "user:8")
    assert (code, "1 deletion is asked for again" in said) == (1, True), said
    with stack.database.read() as session:
        assert list(deletions_to_start(session)) == [request]


@on_sqlite
def test_after_a_restore_what_was_held_is_not_taken_for_what_came_back(stack: Stack, command: Command, tmp_path: Path) -> None:
    """It never went. The restore may have undone the hold: it is to be placed again before the deletion is repeated."""
    one, kept = stack.snapshots("one", "kept")
    request = stack.request([one.id, kept.id])
    placed = keep(stack.database, On.ARTIFACT, kept.id)
    with steps_of(stack) as steps:
        closed = Closed(request=request, receipt=run(steps, request))
    receipts = tmp_path / "receipts"
    receipts.write_text(closed.model_dump_json())
    reapply = ("reapply", "--since", "2000-01-01", "--receipts", receipts, "--dry-run")
    assert "0 artifacts of 0 deletions are back" in command(*reapply)[1]
    restore(stack, one)
    with stack.database.write() as session:
        session.execute(
            update(tables.Artifact).where(tables.Artifact.id == one.id).values(date_added=datetime(2000, 1, 1, tzinfo=UTC))
        )
        session.execute(delete(Hold).where(Hold.id == placed.id))
    assert "1 of 2 artifacts are back, HELD THEN: 1  " in command(*reapply)[1]
