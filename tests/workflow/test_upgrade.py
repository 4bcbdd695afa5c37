"""Deletions take days, and releases come in between: what an earlier one began, the next one finishes, and the other way round.

That the workflow goes on with a history of an earlier release, `test_workflow.py` shows by replaying recorded ones.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import func, inspect, select

import migrations
from activities.database import Database
from activities.ledger.schema import DeletionChunk, DeletionPage
from artifact_deletion.errors import LedgerOutdated
from artifact_deletion.outbox import LEDGER_SCHEMA, DeletionState
from migrations import check_version, migrate
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Stack, plain, recorded, resume, steps_of
from workflows.steps import DELETE_OBJECTS, PageRange

NEXT = "1.999"
# What a release may do to the ledger: add.
STEP = f"""
import sqlalchemy as sa
from alembic import context, op

revision, down_revision, branch_labels, depends_on = "{NEXT}", "{{head}}", None, None


def upgrade() -> None:
    schema = "{LEDGER_SCHEMA}" if context.get_context().dialect.name == "postgresql" else None
    op.add_column("artifact_deletion_chunk", sa.Column("later", sa.BigInteger), schema=schema)
    op.create_table("artifact_deletion_later", sa.Column("id", sa.BigInteger, primary_key=True), schema=schema)
"""


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Have the code be its own next release, with one more step of migrations. Undone, it is as it was."""
    head, folder = migrations._SCRIPTS.get_current_head(), tmp_path / "migrations"  # noqa: SLF001
    shutil.copytree(Path(migrations.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "next.py").write_text(STEP.format(head=head))
    monkeypatch.setattr(migrations, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr(migrations, "_SCRIPTS", ScriptDirectory.from_config(migrations._config()))  # noqa: SLF001
    return monkeypatch


def columns(database: Database) -> set[str]:
    schema = LEDGER_SCHEMA if database.is_postgresql else None
    return {column["name"] for column in inspect(database.engine).get_columns("artifact_deletion_chunk", schema=schema)}


@pytest.mark.thorough
@pytest.mark.parametrize("finished_by", ["the next release", pytest.param("the earlier release", marks=pytest.mark.thorough)])
async def test_a_deletion_that_one_release_began_is_finished_by_another(
    stack: Stack, next_release: pytest.MonkeyPatch, finished_by: str
) -> None:
    """One chunk with rows gone and half its pages, one with its keys collected, one not begun; then setup and other workers.

    An earlier release's worker goes on too: a roll-back must not have to wait for deletions that take days.
    """
    one, two, three = stack.snapshots("one", "two", "three")
    stack.world.comparison(one, two, masks=3)
    before = Evidence.of(stack)
    request = stack.request([one.id, two.id, three.id])
    stack.accept(request)
    with pytest.MonkeyPatch.context() as small:
        small.setattr("activities.collect_keys.PAGE_KEYS", 2)
        with steps_of(stack, chunk_artifacts=1) as steps:
            first, second, _ = steps.open(request)
            released = steps.delete_rows(steps.collect(first))
            half = PageRange(**plain(first), first=released.first_page, end=released.end_page // 2)
            steps.run(DELETE_OBJECTS, half)
            steps.collect(second)
    done, pages = done_of(stack)
    assert done.deleted > 0
    assert pages > 0

    with pytest.raises(LedgerOutdated, match=f"this code needs {NEXT}: run `python starter.py setup`"):
        check_version(stack.database)
    migrate(stack.database)
    check_version(stack.database)
    assert "later" in columns(stack.database)
    assert done_of(stack) == (done, pages)

    if finished_by == "the earlier release":
        next_release.undo()
    async with stack.worker(chunk_artifacts=1):
        assert await resume(stack.client, stack.database) == [request.workflow_id]
        await asyncio.wait_for(stack.client.get_workflow_handle(request.workflow_id).result(), 40)
    assert recorded(stack.database, request.workflow_id).state == DeletionState.CLOSED
    assert stack.receipt(request.workflow_id).objects.deleted > done.deleted
    assert_promises_hold(stack, before, [request])


def done_of(stack: Stack) -> tuple[Any, int]:
    """The first chunk's counts, and the pages that are there."""
    with stack.database.read() as session:
        chunk = select(DeletionChunk.epoch, DeletionChunk.sealed, DeletionChunk.deleted, DeletionChunk.absent)
        pages = select(func.count()).select_from(DeletionPage)
        return session.execute(chunk.order_by(DeletionChunk.chunk).limit(1)).one(), session.execute(pages).scalar_one()
