"""What a small deletion costs, in counts, which do not flake: one that creeps in costs every deletion from then on."""

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import event, inspect
from temporalio.api.enums.v1 import EventType

from activities.stores import guards
from activities.stores.s3 import S3Objects
from demo.world import Snapshot, screen
from tests.stack import Stack, deletion_of, steps_of
from workflows.steps import CLOSE_DELETION

MASKS = 50
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def small_ones(stack: Stack, count: int) -> list[Snapshot]:
    """Snapshots with one comparison of fifty masks each, and trace items."""
    project = stack.world.project(stack.world.organization("acme"), "shop")
    base = stack.world.snapshot(project, {"login": screen("login")})
    made = [stack.world.snapshot(project, {"login": screen("login", number)}) for number in range(count)]
    for one in made:
        stack.world.comparison(one, base, masks=MASKS)
    return made


@on_postgresql
def test_a_small_deletion_makes_no_more_statements_transactions_and_requests_than_it_did(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ask included, with one usecase and no versions. Looks that a worker makes once in a while are made before."""
    first, second = small_ones(stack, 2)
    monkeypatch.setattr(guards, "FRESH_S", float("inf"))
    counts = Counter[str]()
    store = S3Objects(stack.server.client(), stack.bucket, versioned=False)
    with steps_of(stack, store, usecases=(first.usecase,)) as steps:
        for one in (first, second):
            if one is second:
                event.listen(stack.database.engine, "before_cursor_execute", lambda *_: counts.update(["statements"]))
                event.listen(stack.database.engine, "begin", lambda _: counts.update(["transactions"]))
                store.client.meta.events.register("before-send.s3", lambda **_: counts.update(["requests"]))
            request = stack.request([one.id])
            stack.accept(request)
            sealed = steps.open_and_collect(request)
            steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
            steps.run(CLOSE_DELETION, deletion_of(request))
    assert counts <= Counter(statements=60, transactions=15, requests=9), counts
    receipt = stack.receipt(stack.request([second.id]).workflow_id)
    assert receipt.complete
    assert receipt.objects.deleted > MASKS
    assert receipt.trace_items.state == "confirmed"


@on_postgresql
async def test_a_small_deletion_writes_no_more_events_than_it_did(stack: Stack) -> None:
    (one,) = small_ones(stack, 1)
    async with stack.worker(usecases=(one.usecase,)):
        handle = await stack.start([one.id])
        assert (await handle.result()).complete
    events = Counter([EventType.Name(event.event_type) async for event in handle.fetch_history_events()])
    assert events.total() <= 31, events


@on_sqlite
def test_no_statement_goes_through_all_rows_of_a_table(stack: Stack) -> None:
    """As SQLite says it: PostgreSQL plans by how many rows there are. Closing alone looks at all artifacts, once."""
    (one,) = small_ones(stack, 1)
    statements = list[tuple[str, Any]]()
    with steps_of(stack, usecases=(one.usecase,)) as steps:
        request = stack.request([one.id], images="delete")
        stack.accept(request)
        event.listen(stack.database.engine, "before_cursor_execute", lambda *given: statements.append((given[2], given[3])))
        sealed = steps.open_and_collect(request)
        steps.delete_what_was_released(sealed, steps.delete_rows(sealed))
    with stack.database.read() as session:
        asked, tables = session.connection(), set(inspect(session.connection()).get_table_names())
        plans = [
            asked.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given).all()
            for statement, given in statements
            if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
        ]
    lines = [line.split() for plan in plans for *_, line in plan]
    scanned = {table for verb, name, *_ in lines if verb == "SCAN" and (table := name.removeprefix("main.")) in tables}
    assert len(plans) > 30
    assert scanned == {"artifact_deletion_hold"}, "holds are few"
