"""Steps from before a cancel: whatever they come upon when the same deletion was asked for anew, it is not theirs."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from activities.plan import Planner
from artifact_deletion.errors import NotOpen
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import DeletionRequest
from tests.shop import shop_of
from tests.stack import Held, Seen, Stack, Steps, deletion_of, plain, recorded, steps_of
from tests.steps.test_ledger import everything
from workflows.steps import CANCEL_DELETION, CLOSE_DELETION, DELETE_OBJECTS, PageRange, SealedChunk

BEFORE_ROWS_GO: dict[str, Callable[[Steps, SealedChunk, DeletionRequest], object]] = {
    "collect_keys": lambda steps, old, _: steps.collect(old),
    "delete_rows": lambda steps, old, _: steps.delete_rows(old),
    "close_deletion": lambda steps, _, request: steps.run(CLOSE_DELETION, deletion_of(request)),
}
AFTERWARDS: dict[str, Callable[[Steps, SealedChunk, DeletionRequest], object]] = {
    "collect_keys": lambda steps, old, _: steps.collect(old),
    "delete_rows": lambda steps, old, _: steps.delete_rows(old),
    "delete_objects": lambda steps, old, _: steps.run(DELETE_OBJECTS, PageRange(**plain(old), first=0, end=old.seal.pages)),
    "delete_trace_items": lambda steps, old, _: steps.delete_trace_items(old),
    "sweep_prefixes": lambda steps, old, _: steps.sweep(old),
    "close_deletion": lambda steps, _, request: steps.run(CLOSE_DELETION, deletion_of(request)),
}


def cancelled_and_asked_for_anew(stack: Stack, steps: Steps, request: DeletionRequest) -> tuple[SealedChunk, SealedChunk]:
    """The chunk as it was sealed before the cancel, and as it is now: but for the fence the same."""
    stack.accept(request)
    old = steps.open_and_collect(request)
    assert steps.cancel(request).nothing_deleted
    stack.accept(request)
    (chunk,) = steps.open(request)
    new = steps.collect(chunk)
    assert new.model_copy(update={"fence": old.fence}) == old
    assert new.fence == old.fence + 1
    return old, new


@pytest.mark.thorough
def test_a_late_step_from_before_a_cancel_does_nothing_in_the_life_that_follows(stack: Stack) -> None:
    """Chunks have the same numbers, epochs and seals again. Not a row of the ledger, the backend or the store changes."""
    shop = shop_of(stack.world)
    request, before = stack.request([shop.head.id, shop.build.id]), Seen.of(stack.world)

    def nothing_is_done(steps: Steps, old: SealedChunk, late: dict[str, Callable[..., object]]) -> None:
        ledger, world = everything(stack.database), Seen.of(stack.world)
        for name, step in late.items():
            with pytest.raises(NotOpen):
                step(steps, old, request)
            assert (everything(stack.database), Seen.of(stack.world)) == (ledger, world), name
        assert steps.run(CANCEL_DELETION, deletion_of(request)).nothing_deleted, "as it was answered the first time"
        assert (everything(stack.database), Seen.of(stack.world)) == (ledger, world)
        assert recorded(stack.database, request.workflow_id).state is DeletionState.RUNNING

    with steps_of(stack) as steps:
        old, new = cancelled_and_asked_for_anew(stack, steps, request)
        nothing_is_done(steps, old, BEFORE_ROWS_GO)
        released = steps.delete_rows(new)
        nothing_is_done(steps, old, AFTERWARDS)
        steps.delete_what_was_released(new, released)
        nothing_is_done(steps, old, AFTERWARDS)
        assert steps.close(request).complete
    stack.assert_only_these_are_gone(request.artifact_ids, before)


def test_a_collecting_step_that_slept_through_a_cancel_seals_nothing_into_the_new_chunk(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had begun its epoch, and was about to read manifests: the new attempt has the same epoch, in the same chunk."""
    shop = shop_of(stack.world)
    request = stack.request([shop.head.id])
    with steps_of(stack) as steps, ThreadPoolExecutor(1) as threads:
        stack.accept(request)
        (chunk,) = steps.open(request)
        with monkeypatch.context() as patched:
            held = Held(patched, Planner, "keys")
            sleeping = threads.submit(steps.collect, chunk)
            asyncio.run(held.reached())
        assert steps.cancel(request).nothing_deleted
        stack.accept(request)
        (again,) = steps.open(request)
        sealed = steps.collect(again)
        ledger = everything(stack.database)
        held.let_go()
        assert isinstance(sleeping.exception(30), NotOpen)
        assert everything(stack.database) == ledger
        assert steps.finish(request, sealed).complete
