"""How many keys a bulk deletion may have in flight: which count, and for which deletion the next one waits."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update

from activities.ledger import deletions, holds
from activities.ledger.holds import On
from activities.ledger.in_flight import KEYS, keys_of
from activities.ledger.schema import Deletion
from activities.next_artifacts import COLLECTED_WITHIN
from artifact_deletion.bulk import BulkRequest
from artifact_deletion.errors import NotYet
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import DeletionRequest
from demo.world import Snapshot
from tests.stack import Stack, Steps, deletion_of, steps_of
from workflows.bulk_steps import NEXT_ARTIFACTS, After, ArtifactsFound
from workflows.steps import WAIT_TO_BEGIN, Due


def in_flight(stack: Stack, organization: int) -> int:
    with stack.database.read() as session:
        return keys_of(session, organization)


def asked(stack: Stack, last: DeletionRequest | None = None) -> After:
    bulk = BulkRequest(organization_id=stack.organization_id)
    return After(request=bulk, after=0, at_most=1, last=last.deletion_id if last else None)


def first(snapshot: Snapshot) -> ArtifactsFound:
    return ArtifactsFound(artifact_ids=(snapshot.id,))


def test_the_next_deletion_begins_when_few_enough_keys_are_in_flight(stack: Stack) -> None:
    """They count from the moment in which they are sealed, rows or no rows, to that in which the store has deleted them."""
    one, two = stack.snapshots("one", "two")
    request = stack.request([one.id])
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
    keys = in_flight(stack, stack.organization_id)
    assert keys > 1
    with steps_of(stack, bulk_keys_at_once=keys) as steps:
        assert steps.run(NEXT_ARTIFACTS, asked(stack)) == first(one)
    with steps_of(stack, bulk_keys_at_once=keys - 1) as steps:
        said = f"owe {keys} keys: the next one begins when these are {keys - 1} or fewer"
        with pytest.raises(NotYet, match=said):
            steps.run(NEXT_ARTIFACTS, asked(stack))
        released = steps.delete_rows(sealed)
        with pytest.raises(NotYet, match=said):
            steps.run(NEXT_ARTIFACTS, asked(stack))
        steps.delete_objects(sealed, released)
        assert in_flight(stack, stack.organization_id) == 0
        assert steps.run(NEXT_ARTIFACTS, asked(stack)) == first(two)


def test_one_whose_grace_is_over_waits_for_its_turn_too(stack: Stack) -> None:
    """Many may have waited for the same moment. A person's deletion begins at its time, whatever is owed."""
    one, two = stack.snapshots("one", "two")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    graced, persons = (stack.request([two.id], not_before=tomorrow, expired=expired) for expired in (True, False))
    at_work = stack.request([one.id])
    with steps_of(stack, bulk_keys_at_once=1) as steps:
        steps.open(graced)
        steps.open(persons)
        with stack.database.write() as session:
            session.execute(update(Deletion).values(begins_at=datetime.now(UTC)))
        steps.open_and_collect(at_work)
        with pytest.raises(NotYet, match="the next one begins when these are 1 or fewer"):
            steps.run(WAIT_TO_BEGIN, deletion_of(graced))
        assert steps.run(WAIT_TO_BEGIN, deletion_of(persons)) == Due()
        with stack.database.write() as session:
            deletions.set_state(session, at_work.deletion_id, DeletionState.FAILED)
        assert steps.run(WAIT_TO_BEGIN, deletion_of(graced)) == Due()


def test_only_keys_that_a_deletion_of_the_organization_is_at_work_on_count(stack: Stack) -> None:
    """Not another organization's, not those of one that has failed, and not of one that is held: it could last for ever."""
    (one,) = stack.snapshots("one")
    stranger = stack.world.organization("globex")
    other = stack.world.snapshot(stack.world.project(stranger, "app"), one.images)
    request = stack.request([one.id])
    with steps_of(stack, bulk_keys_at_once=1) as steps:
        steps.open_and_collect(DeletionRequest(organization_id=stranger, artifact_ids=[other.id]))
        assert in_flight(stack, stranger) > 1
        assert steps.run(NEXT_ARTIFACTS, asked(stack)) == first(one)
        steps.open_and_collect(request)
        for state, waits in ((DeletionState.FAILED, False), (DeletionState.RUNNING, True)):
            with stack.database.write() as session:
                deletions.set_state(session, request.deletion_id, state)
            assert (in_flight(stack, stack.organization_id) > 1) is waits
        for on, on_id in ((On.DELETION, request.deletion_id), (On.ORGANIZATION, str(stack.organization_id))):
            placed = holds.place(stack.database, on, on_id, reason="wrong one", by="user:7")
            assert steps.run(NEXT_ARTIFACTS, asked(stack)) == first(one)
            with stack.database.write() as session:
                holds.lift(session, [placed.id], by="user:7")
        with pytest.raises(NotYet, match="the next one begins when"):
            steps.run(NEXT_ARTIFACTS, asked(stack))


def asked_for_since(steps: Steps, age: timedelta) -> None:
    """Let the next steps have been asked for so long ago."""
    steps.environment.info = dataclasses.replace(steps.environment.info, scheduled_time=datetime.now(UTC) - age)


def test_the_keys_of_the_one_before_are_waited_for_but_not_for_long(stack: Stack) -> None:
    """Else several would begin while none has a key in the ledger. One that cannot collect its keys holds up no other."""
    one, two = stack.snapshots("one", "two")
    request, failed = stack.request([one.id]), stack.request([two.id])
    with steps_of(stack) as steps:
        asked_for_since(steps, timedelta(0))
        with pytest.raises(NotYet, match="the keys of the deletion before it are collected first"):
            steps.run(NEXT_ARTIFACTS, asked(stack, request))  # it is not in the ledger yet
        (chunk,) = steps.open(request)
        with pytest.raises(NotYet, match="the keys of the deletion before it are collected first"):
            steps.run(NEXT_ARTIFACTS, asked(stack, request))
        asked_for_since(steps, COLLECTED_WITHIN)
        assert steps.run(NEXT_ARTIFACTS, asked(stack, request)) == first(one)
        asked_for_since(steps, timedelta(0))
        steps.collect(chunk)
        assert steps.run(NEXT_ARTIFACTS, asked(stack, request)) == first(one)
        steps.open(failed)
        with stack.database.write() as session:
            deletions.set_state(session, failed.deletion_id, DeletionState.FAILED)
        assert steps.run(NEXT_ARTIFACTS, asked(stack, failed)) == first(one)


FILL = """
    INSERT INTO artifact_deletion.artifact_deletion (id, organization_id, request, state, fence, accepted_at)
    SELECT lpad(n::text, 32, '0'), n % 100, '{}', CASE WHEN n % 50 = 0 THEN 'running' ELSE 'failed' END, 0, now()
    FROM generate_series(1, 5000) n;
    INSERT INTO artifact_deletion.artifact_deletion_chunk
        (deletion_id, chunk, fence, epoch, state, pages, digest, names_digest, kinds, manifests, sealed, deleted, absent,
         kept, rows, files, listed, trace_items_matched)
    SELECT id, 0, 0, 1, 'rows_deleted', 10, '', 'x', '{}', '{}', 0, 0, 0, 0, '{}', '{}', '{}', 0
    FROM artifact_deletion.artifact_deletion;
    INSERT INTO artifact_deletion.artifact_deletion_page (deletion_id, chunk, seq, scope, source, keys, count, digest, codes)
    SELECT id, 0, n, 'x', 'column', 'x', 1000, 'x', '{}'
    FROM artifact_deletion.artifact_deletion, generate_series(1, 10) n;
    ANALYZE
"""
"""Fifty deletions of an organization run, among thousands that have failed; each owes ten thousand keys."""


@pytest.mark.thorough
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_page_of_another_deletion_is_read(stack: Stack) -> None:
    """The question comes every three seconds, beside a ledger that may hold millions of keys of others."""
    with stack.database.write() as session:
        for statement in FILL.split(";"):
            session.execute(text(statement))
        asking = KEYS.params(organization=0).compile(session.connection(), compile_kwargs={"literal_binds": True})
        plan = "\n".join(session.execute(text(f"EXPLAIN {asking}")).scalars())
    assert in_flight(stack, 0) == 50 * 10_000
    assert "Seq Scan on artifact_deletion_page" not in plan, plan
    assert "artifact_deletion_page_pkey" in plan, plan
