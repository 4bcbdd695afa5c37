"""What is needed again by the time that rows go: it stays whole, and the rest of its deletion goes on."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from sqlalchemy import update

from activities.backend.tables import Artifact
from activities.ledger.holds import On
from artifact_deletion.bulk import BulkRequest
from artifact_deletion.errors import StaleSeal
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest
from demo.world import Project, Snapshot
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack, Steps, steps_of
from tests.steps import test_held_artifacts, test_retention
from tests.steps.test_held_artifacts import run
from workflows.steps import PREVIEW_DELETION


@dataclass(frozen=True)
class Expired:
    """Two artifacts that had expired when a bulk deletion asked for them."""

    stack: Stack
    going: Snapshot
    needed: Snapshot
    head: Snapshot
    """Which is young, and not asked for."""

    @property
    def request(self) -> DeletionRequest:
        of = BulkRequest(organization_id=self.stack.organization_id, expired=True)
        return of.deletion_of([self.going.id, self.needed.id])

    def compare(self) -> None:
        self.stack.world.comparison(self.head, self.needed)

    def inherit(self) -> None:
        """A selective snapshot is uploaded whose commit was made of that of the one that is needed."""
        world = self.stack.world
        place = self.needed.artifact
        shop = Project(place.project_id, place.organization_id, "shop")
        world.snapshot(shop, {}, base=self.needed, commit=world.commit(shop.organization_id, "second", made_of="first"))

    def keep_longer(self) -> None:
        """The one that is needed is younger than what the policy now says; the other is not."""
        test_retention.aged(self.stack, self.going, days=300)
        test_retention.keep(self.stack, 200)

    def assert_one_went(self, before: Evidence, receipt: DeletionReceipt) -> None:
        """And all of the other is as it was."""
        self.stack.assert_only_these_are_gone({self.going.id}, Seen(before.rows, before.objects))
        found = receipt.artifacts
        assert (found.deleted.ids, found.not_expired.ids) == ((self.going.id,), (self.needed.id,))
        assert receipt.complete
        assert receipt.times.rows_deleted is None, "not all are gone"
        assert_promises_hold(self.stack, before, [self.request])


BEFORE, *_ = WHEN = ("before", "after the keys were collected")
NEEDED: dict[str, Callable[[Expired], None]] = {
    "a new head": Expired.compare,
    "a selective snapshot": Expired.inherit,
    "another policy": Expired.keep_longer,
}


@pytest.fixture
def expired(stack: Stack) -> Expired:
    going, needed, head = stack.snapshots("going", "needed", "head")
    commit = stack.world.commit(stack.organization_id, "first")
    with stack.database.write() as session:
        session.execute(update(Artifact).where(Artifact.id == needed.id).values(commit_comparison_id=commit))
    test_retention.aged(stack, going, needed)
    test_retention.keep(stack, 90)
    return Expired(stack, going, needed, head)


def finish_with(steps: Steps, expired: Expired, when: str, become_needed: Callable[[Expired], None]) -> None:
    """The deletion to its end, in which one of the two is needed again."""
    request = expired.request
    expired.stack.accept(request)
    if when == BEFORE:
        become_needed(expired)
    (chunk,) = steps.open(request)
    sealed = steps.collect(chunk)
    if when != BEFORE:
        become_needed(expired)
        with pytest.raises(StaleSeal, match="needed by now"):
            steps.delete_rows(sealed)
        sealed = steps.collect(sealed)
    before = Evidence.of(expired.stack)
    expired.assert_one_went(before, steps.finish(request, sealed))


@pytest.mark.thorough
@pytest.mark.parametrize("why", NEEDED)
@pytest.mark.parametrize("when", WHEN)
def test_what_is_needed_again_stays(stack: Stack, expired: Expired, why: str, when: str) -> None:
    """Until the moment at which rows go: of the last words of policies and uploads none is too late."""
    with steps_of(stack) as steps:
        finish_with(steps, expired, when, NEEDED[why])


@pytest.mark.parametrize("when", WHEN)
def test_the_comparison_of_one_that_goes_with_its_base_goes_too(stack: Stack, expired: Expired, when: str) -> None:
    """Its objects lie under the head's prefix; of the base nothing is sealed any more."""
    stack.world.comparison(expired.going, expired.needed)
    with steps_of(stack) as steps:
        finish_with(steps, expired, when, Expired.keep_longer)


def test_it_goes_when_it_is_asked_for_after_it_has_expired(stack: Stack, expired: Expired) -> None:
    """Asked for sooner, it stays, and no chunk is made for it."""
    expired.keep_longer()
    request = expired.request
    stack.accept(request)
    with steps_of(stack) as steps:
        assert run(steps, request).complete
        stack.accept(request)
        assert steps.open(request) == []
        assert steps.close(request).artifacts.not_expired.ids == (expired.needed.id,)
        test_retention.keep(stack, 90)
        stack.accept(request)
        receipt = run(steps, request)
    assert (receipt.artifacts.deleted.count, receipt.artifacts.not_expired.count) == (2, 0)
    assert receipt.times.rows_deleted is not None


@pytest.mark.thorough
def test_what_a_person_asks_for_goes_whatever_its_age(stack: Stack, expired: Expired) -> None:
    """It is another deletion, with another id."""
    expired.compare()
    request = stack.request([expired.going.id, expired.needed.id])
    assert request.deletion_id != expired.request.deletion_id
    stack.accept(request)
    with steps_of(stack) as steps:
        assert run(steps, request).artifacts.deleted.count == 2


@pytest.mark.thorough
def test_one_that_is_held_too_is_left_over(stack: Stack, expired: Expired) -> None:
    """A hold is a person's word: the receipt says that it is held."""
    expired.compare()
    test_held_artifacts.keep(stack.database, On.ARTIFACT, expired.needed.id)
    stack.accept(expired.request)
    with steps_of(stack) as steps:
        receipt = run(steps, expired.request)
    assert receipt.left_over == {"Held": 1}
    assert (receipt.artifacts.held.ids, receipt.artifacts.not_expired.count) == ((expired.needed.id,), 0)


@pytest.mark.thorough
def test_a_preview_says_which_would_stay(stack: Stack, expired: Expired) -> None:
    expired.compare()
    with steps_of(stack) as steps:
        preview = steps.run(PREVIEW_DELETION, expired.request)
    assert (preview.artifacts.ids, preview.not_expired.ids) == ((expired.going.id,), (expired.needed.id,))
