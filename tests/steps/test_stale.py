"""Attempts that Temporal has given up on and that come back late: none of them undoes, drops or claims what a later one knows.

Each is scheduled step by step, and ends in the oracle.
"""

import asyncio
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from activities.backend import tables
from activities.ledger.chunks import begin_epoch
from activities.stores.s3 import S3Objects
from activities.sweep_prefixes import Looked, SweepPrefixes
from artifact_deletion.errors import KeysNotDeletedYet, NotOpen, StaleSeal, StoreUnavailable
from demo.world import Project, Snapshot
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Held, Stack, again, deletion_of, steps_of
from workflows.steps import CANCEL_DELETION

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2, thread_name_prefix="others") as pool:
        yield pool


class Holds:
    """Legal holds on objects of a bucket that has them."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._keys = stack, set[str]()

    def put(self, key: str) -> None:
        """Write an object that is held from its first moment."""
        self._stack.s3.put_object(Bucket=self._stack.bucket, Key=key, Body=b"held", ObjectLockLegalHoldStatus="ON")
        self._keys.add(key)

    def hold(self, key: str) -> None:
        self._stack.s3.put_object_legal_hold(Bucket=self._stack.bucket, Key=key, LegalHold={"Status": "ON"})
        self._keys.add(key)

    def lift(self) -> None:
        for key in self._keys:
            self._stack.s3.put_object_legal_hold(Bucket=self._stack.bucket, Key=key, LegalHold={"Status": "OFF"})
        self._keys.clear()


@pytest.fixture
def holds(stack: Stack, locking_bucket: str) -> Iterator[Holds]:
    stack.use_bucket(locking_bucket)
    made = Holds(stack)
    yield made
    made.lift()


def versioned(stack: Stack) -> S3Objects:
    return S3Objects(stack.s3, stack.bucket, versioned=True)


def own(stack: Stack, one: Snapshot, name: str) -> str:
    place = one.artifact
    return stack.world.physical(one.usecase, place.organization_id, place.project_id, f"{place.prefix}{name}")


def held_settling(monkeypatch: pytest.MonkeyPatch, one: Snapshot) -> Held:
    """Holds the first sweep that has listed the snapshot's prefix, before it writes down what it saw."""
    first = itertools.count()

    def is_first(_self: object, _chunk: object, _run: object, _meter: object, done: list[list[Looked]]) -> bool:
        prefixes = [looked.prefix for of_job in done for looked in of_job]
        found = any(prefix.prefix == one.artifact.prefix and prefix.scope.startswith(f"{one.usecase}/") for prefix in prefixes)
        return found and next(first) == 0

    return Held(monkeypatch, SweepPrefixes, "_settle", only=is_first)


def test_a_sweep_that_saw_a_prefix_empty_too_early_does_not_say_so_when_a_later_one_knows_better(
    stack: Stack, holds: Holds, monkeypatch: pytest.MonkeyPatch, others: ThreadPoolExecutor
) -> None:
    """A writer came in between, and the store refuses to delete what it wrote: "empty" would close the deletion over it."""
    (one,) = stack.snapshots("one")
    request, before = stack.request([one.id]), Evidence.of(stack)
    with steps_of(stack, versioned(stack), quiet_period_s=3600) as steps:
        sealed = steps.open_and_collect(request)
        steps.delete_objects(sealed, deleted := steps.delete_rows(sealed))
        steps.look(sealed)
        steps.pass_quiet_period()
        held = held_settling(monkeypatch, one)
        stale = others.submit(steps.sweep, sealed)
        asyncio.run(held.reached())
        holds.put(own(stack, one, "late.png"))
        again(lambda: steps.sweep(sealed))
        held.let_go()
        with pytest.raises(KeysNotDeletedYet):
            stale.result(10)
        assert deleted.trace_items_owed
        steps.delete_trace_items(sealed)
        steps.close(request)
    assert_promises_hold(stack, before, [request])
    assert stack.receipt(request.workflow_id).objects.found_left_over == {"AccessDenied": 1}


@pytest.mark.thorough
def test_a_prefix_that_was_not_listed_empty_is_not_forgotten_because_its_last_page_went_meanwhile(
    stack: Stack, holds: Holds, monkeypatch: pytest.MonkeyPatch, others: ThreadPoolExecutor
) -> None:
    """The sweep left it to the page, and the page was settled before the sweep was: no listing has seen the prefix empty."""
    (one,) = stack.snapshots("one")
    request, before = stack.request([one.id]), Evidence.of(stack)
    holds.hold(own(stack, one, "manifest.json"))
    with steps_of(stack, versioned(stack), quiet_period_s=3600) as steps:
        sealed = steps.open_and_collect(request)
        deleted = steps.delete_rows(sealed)
        steps.delete_objects(sealed, deleted)
        steps.delete_trace_items(sealed)
        steps.look(sealed)
        steps.pass_quiet_period()
        held = held_settling(monkeypatch, one)
        sweeping = others.submit(steps.sweep, sealed)
        asyncio.run(held.reached())
        holds.lift()
        steps.delete_objects(sealed, deleted)
        held.let_go()
        sweeping.result(10)
        assert steps.close(request).left_over == {"PrefixNotListed": 1}
        assert_promises_hold(stack, before, [request])

        stack.accept(request)
        steps.open(request)
        steps.pass_quiet_period()
        steps.sweep(sealed)
        assert steps.close(request).complete
    assert_promises_hold(stack, before, [request])


def test_rows_are_not_deleted_any_more_when_a_receipt_has_said_that_they_were_not(stack: Stack) -> None:
    """A step whose time was over goes on: a reader of the receipt must find the rows, and may ask again."""
    (one,) = stack.snapshots("one")
    request, before = stack.request([one.id]), Evidence.of(stack)
    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        assert "RowsNotDeleted" in steps.close(request).left_over
        with pytest.raises(NotOpen):
            steps.delete_rows(sealed)
        assert_promises_hold(stack, before, [request])
        stack.accept(request)
        assert steps.finish(request, steps.open_and_collect(request)).complete
    assert_promises_hold(stack, before, [request])


def test_a_receipt_does_not_count_keys_of_a_seal_that_was_given_up(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collected once, then again in vain until the time was over: nothing is sealed, and nothing was."""
    (one,) = stack.snapshots("one")
    request, before = stack.request([one.id]), Evidence.of(stack)

    def down(*_: object) -> bytes:
        raise StoreUnavailable("the object store could not be reached (ConnectTimeoutError)")

    with steps_of(stack) as steps:
        sealed = steps.open_and_collect(request)
        monkeypatch.setattr(S3Objects, "read", down)
        with pytest.raises(StoreUnavailable):
            steps.collect(sealed)
        receipt = steps.close(request)
    assert_promises_hold(stack, before, [request])
    assert (receipt.objects.sealed, receipt.manifests.read, receipt.left_over) == (0, 0, {"RowsNotDeleted": 1})


@pytest.mark.thorough
def test_a_cancel_that_comes_twice_does_not_undo_what_was_asked_in_between(stack: Stack) -> None:
    """The first run was cancelled, the second is at work; the first one's cancel was tried twice, and one try comes late."""
    (one,) = stack.snapshots("one")
    request, before = stack.request([one.id]), Evidence.of(stack)
    with steps_of(stack) as steps:
        steps.open(request)
        of_first_run = deletion_of(request, steps.fence(request))
        assert steps.run(CANCEL_DELETION, of_first_run).nothing_deleted
        stack.accept(request)
        sealed = steps.open_and_collect(request)
        assert steps.run(CANCEL_DELETION, of_first_run).nothing_deleted
        assert steps.finish(request, sealed).complete
    assert_promises_hold(stack, before, [request])


def test_a_late_close_does_not_keep_the_next_run_from_closing(stack: Stack, holds: Holds) -> None:
    """A run that failed was closed twice, once late: the one that follows has done the rest, and must be able to say so."""
    (one,) = stack.snapshots("one")
    request, before = stack.request([one.id]), Evidence.of(stack)
    holds.hold(own(stack, one, "manifest.json"))
    with steps_of(stack, versioned(stack)) as steps:
        sealed = steps.open_and_collect(request)
        assert steps.finish(request, sealed).left_over == {"AccessDenied": 1}
        stack.accept(request)
        steps.open(request)
        assert steps.close(request).left_over == {"AccessDenied": 1}
        holds.lift()
        steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
        assert steps.close(request).complete
    assert_promises_hold(stack, before, [request])


def test_keys_are_collected_again_when_a_late_attempt_has_begun_to_collect(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, others: ThreadPoolExecutor
) -> None:
    """The late one took the epoch. The run that is told so by Temporal's own attempt must go on, and not give the rows up."""
    (one,) = stack.snapshots("one")
    request, before = stack.request([one.id]), Evidence.of(stack)
    with steps_of(stack) as steps:
        (chunk,) = steps.open(request)
        held = Held(monkeypatch, S3Objects, "read")
        collecting = others.submit(steps.collect, chunk)
        asyncio.run(held.reached())
        with stack.database.write() as session:
            begin_epoch(session, chunk)
        held.let_go()
        with pytest.raises(StaleSeal):
            collecting.result(10)
        assert steps.finish(request, again(lambda: steps.collect(chunk))).complete
    assert_promises_hold(stack, before, [request])


@pytest.mark.thorough
def test_what_is_owed_from_before_an_artifact_came_back_is_owed_still(stack: Stack, holds: Holds) -> None:
    """Its row came back without its app info, and went again: the icon of the first time is in the first chunk alone."""
    (one,) = stack.snapshots("one")
    project = Project(one.artifact.project_id, stack.organization_id, "shop")
    build = stack.world.mobile_build(project, icon="icn_first")
    requests = [stack.request([build.id]), stack.request([one.id, build.id])]
    before = Evidence.of(stack)
    holds.hold(next(key for key in before.objects if key.endswith("icn_first")))
    with steps_of(stack, versioned(stack)) as steps:
        assert steps.finish(requests[0], steps.open_and_collect(requests[0])).left_over == {"AccessDenied": 1}
        with stack.database.write() as session:
            session.add(tables.Artifact(id=build.id, project_id=project.id))
        stack.accept(requests[0])
        chunks = steps.open(requests[0])
        assert [one.chunk for one in chunks] == [0, 1]
        again_sealed = steps.collect(chunks[1])
        assert steps.finish(requests[0], again_sealed).left_over == {"AccessDenied": 1}
        assert steps.finish(requests[1], steps.open_and_collect(requests[1])).left_over == {"OwedByOthers": 1}
    assert_promises_hold(stack, before, requests, also_rows={"sentry_preprodartifact": 1})
