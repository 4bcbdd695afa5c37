"""What every event store must do: subclass `TraceStoreConformance`, and say how to `put`, `count` and `settle` items.

`settle` does what time does where deletes are only accepted at first.
"""

import uuid
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta

from activities.stores.traces import CountsTraceItems, ListsTraces, StoredTrace, TraceStore

ORGANIZATION, PROJECT = 11, 22


def trace_id() -> str:
    return uuid.uuid4().hex


class TraceStoreConformance(ABC):
    """The contract of `activities.stores.traces.TraceStore`, on an empty store."""

    @abstractmethod
    def put(self, organization_id: int, project_id: int, trace: str, items: int, *, preprod: bool = True) -> None:
        """Put so many items of a trace, of the type of preprod artifacts or another."""

    @abstractmethod
    def count(self) -> int:
        """All items there are."""

    @abstractmethod
    def settle(self) -> None:
        """Let accepted deletes happen."""

    def test_items_are_counted_and_go_until_none_is_counted(self, store: TraceStore) -> None:
        self.put(ORGANIZATION, PROJECT, one := trace_id(), 3)
        self.put(ORGANIZATION, PROJECT, two := trace_id(), 2)
        assert store.delete(ORGANIZATION, PROJECT, [one, two])[0] == 5
        self.settle()
        assert store.delete(ORGANIZATION, PROJECT, [one, two]) == (0, 0)
        assert self.count() == 0

    def test_what_is_left_is_said(self, store: TraceStore) -> None:
        """Of a store that says that none is left it is not asked again."""
        self.put(ORGANIZATION, PROJECT, one := trace_id(), 3)
        assert store.delete(ORGANIZATION, PROJECT, [one]) == (3, self.count())

    def test_nothing_else_goes(self, store: TraceStore) -> None:
        """Other traces, projects, organizations and types of items."""
        one, other = trace_id(), trace_id()
        self.put(ORGANIZATION, PROJECT, one, 1)
        kept = [(ORGANIZATION, PROJECT, other), (ORGANIZATION, PROJECT + 1, one), (ORGANIZATION + 1, PROJECT, one)]
        for organization, project, trace in kept:
            self.put(organization, project, trace, 2)
        self.put(ORGANIZATION, PROJECT, one, 4, preprod=False)
        before = self.count()
        store.delete(ORGANIZATION, PROJECT, [one])
        self.settle()
        assert before - self.count() == 1

    def test_what_is_not_there_is_counted_as_nothing(self, store: TraceStore) -> None:
        assert store.delete(ORGANIZATION, PROJECT, [trace_id()]) == (0, 0)

    def test_many_traces_are_one_call(self, store: TraceStore) -> None:
        """As many as a chunk may have artifacts."""
        traces = [trace_id() for _ in range(1000)]
        for trace in traces[::100]:
            self.put(ORGANIZATION, PROJECT, trace, 1)
        assert store.delete(ORGANIZATION, PROJECT, traces)[0] == 10
        self.settle()
        assert store.delete(ORGANIZATION, PROJECT, traces) == (0, 0)


class CountingTraceStoreConformance(TraceStoreConformance):
    """The same for a store that is a `CountsTraceItems` too."""

    def test_only_these_are_counted_and_none_goes(self, store: TraceStore) -> None:
        assert isinstance(store, CountsTraceItems)
        one, two, other = trace_id(), trace_id(), trace_id()
        self.put(ORGANIZATION, PROJECT, one, 3)
        self.put(ORGANIZATION, PROJECT, two, 2)
        self.put(ORGANIZATION, PROJECT, one, 4, preprod=False)
        for organization, project, trace in (
            (ORGANIZATION, PROJECT, other),
            (ORGANIZATION, PROJECT + 1, one),
            (ORGANIZATION + 1, PROJECT, one),
        ):
            self.put(organization, project, trace, 7)
        before = self.count()
        assert store.count(ORGANIZATION, PROJECT, [one, two]) == 5
        assert store.count(ORGANIZATION, PROJECT, [trace_id()]) == 0
        assert self.count() == before
        store.delete(ORGANIZATION, PROJECT, [one, two])
        self.settle()
        assert store.count(ORGANIZATION, PROJECT, [one, two]) == 0

    def test_many_traces_are_counted_in_one_call(self, store: TraceStore) -> None:
        """As many as a chunk may have artifacts."""
        assert isinstance(store, CountsTraceItems)
        traces = [trace_id() for _ in range(1000)]
        for trace in traces[::100]:
            self.put(ORGANIZATION, PROJECT, trace, 1)
        assert store.count(ORGANIZATION, PROJECT, traces) == 10


class ListingTraceStoreConformance(CountingTraceStoreConformance):
    """The same for a store that is a `ListsTraces` too."""

    def listed(self, store: TraceStore, project_id: int = PROJECT) -> dict[str, StoredTrace]:
        assert isinstance(store, ListsTraces)
        return {one.id: one for page in store.list_traces(ORGANIZATION, project_id) for one in page}

    def test_the_projects_preprod_traces_are_listed_and_none_goes(self, store: TraceStore) -> None:
        """Each with its items and the time of the last."""
        one, two, other = trace_id(), trace_id(), trace_id()
        self.put(ORGANIZATION, PROJECT, one, 3)
        self.put(ORGANIZATION, PROJECT, one, 4, preprod=False)
        self.put(ORGANIZATION, PROJECT, two, 2)
        self.put(ORGANIZATION, PROJECT, other, 1, preprod=False)
        self.put(ORGANIZATION, PROJECT + 1, other, 7)
        self.put(ORGANIZATION + 1, PROJECT, other, 7)
        before, now = self.count(), datetime.now(UTC)
        found = self.listed(store)
        assert {id_: trace.items for id_, trace in found.items()} == {one: 3, two: 2}
        times = [trace.written for trace in found.values()]
        assert all(at is None or abs(now - at) < timedelta(hours=1) for at in times)
        assert self.count() == before
        store.delete(ORGANIZATION, PROJECT, [one])
        self.settle()
        assert self.listed(store).keys() == {two}
        assert self.listed(store, PROJECT + 2) == {}

    def test_many_traces_are_listed(self, store: TraceStore) -> None:
        """More than a page has, each of them."""
        traces = [trace_id() for _ in range(self.more_than_a_page)]
        for trace in traces:
            self.put(ORGANIZATION, PROJECT, trace, 1)
        assert self.listed(store).keys() == set(traces)

    more_than_a_page = 1001
