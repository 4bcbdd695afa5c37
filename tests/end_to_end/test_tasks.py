"""docs/tasks.md as it stands: its commands, typed in their order, end as it says and say what it shows."""

import asyncio
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from activities.ledger import holds
from activities.ledger.reports import Report
from commands import reconcile
from demo.world import Project, Snapshot, screen
from tests.stack import ROOT, Stack, lines
from tests.steps.test_orphans import forget_rows
from tests.steps.test_reconcile import IN_TEN_DAYS
from tests.typed import Run, runner

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PAGE = ROOT / "docs" / "tasks.md"
_PATIENCE = 100


@dataclass(frozen=True)
class Typed:
    """A command of the page."""

    words: str
    code: int
    shown: list[str] = field(default_factory=list)

    @property
    def only_looks(self) -> bool:
        return self.words.startswith("status")


def typed(section: str) -> Iterator[Typed]:
    """Every command of a section, in order."""
    text = re.split(r"^## ", PAGE.read_text().partition(f"## {section}\n")[2], flags=re.MULTILINE)[0]
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for one in re.split(r"^\$ python starter\.py ", block, flags=re.MULTILINE)[1:]:
            first, *shown = one.splitlines()
            words, _, code = first.partition("  # ")
            yield Typed(words, int(code or 0), shown)


@dataclass
class Customer:
    """The page's names, and what they stand for here."""

    stack: Stack
    run: Run
    project: Project
    snapshots: list[Snapshot]
    said: str = ""

    def known(self, text: str) -> str:
        """The page's text with the ids of this test. No number of a count is among them."""
        one, two = (str(snapshot.id) for snapshot in self.snapshots)
        names = {"4242": str(self.stack.organization_id), "77": str(self.project.id), "901": one, "902": two}
        text = re.sub(r"\b(4242|77|901|902)\b", lambda found: names[found[0]], text)
        looked_up: dict[str, Callable[[], str]] = {"ID": self._deletion, "HOLD": self._hold, "REPORT": self._report}
        return re.sub(r"\b(ID|HOLD|REPORT)\b", lambda found: looked_up[found[0]](), text)

    def _deletion(self) -> str:
        shown = rf"delete-artifacts/{self.stack.organization_id}/[0-9a-f]{{32}}|^[0-9a-f]{{8}}(?=  )"
        found: list[str] = re.findall(shown, self.said, re.MULTILINE)
        return found[-1]

    def _hold(self) -> str:
        with self.stack.database.read() as session:
            (placed,) = holds.placed(session)
        return str(placed.id)

    def _report(self) -> str:
        with self.stack.database.read() as session:
            return str(session.execute(select(Report.id).order_by(Report.looked_at.desc())).scalars().first())

    async def type(self, section: str) -> None:
        """Each command of a section. One that looks is repeated until it says what is shown."""
        for command in typed(section):
            words = shlex.split(self.known(command.words))
            for _ in range(_PATIENCE if command.only_looks else 1):
                done = await self.run(*words)
                missing = [line for line in command.shown if not self.is_said(line, done.out)]
                if (done.code, missing) == (command.code, []):
                    break
                await asyncio.sleep(0.1)
            assert (done.code, missing) == (command.code, []), (command.words, done)
            self.said += done.out + done.err

    def is_said(self, shown: str, output: str) -> bool:
        """As one line, where `…` is any text."""
        parts = (re.escape(self.known(part)) for part in shown.split("…"))
        pattern = re.compile(re.sub(r"(\\ )+", r"\\s+", ".*".join(parts)) + r"\s*")
        return any(pattern.fullmatch(line) for line in lines(output))


@pytest.fixture
def customer(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Customer:
    assert stack.world.organization("acme") == stack.organization_id
    project = stack.world.project(stack.organization_id, "shop")
    snapshots = [stack.world.snapshot(project, {name: screen(name)}) for name in ("home", "cart")]
    return Customer(stack, runner(stack, monkeypatch, capsys), project, snapshots)


@pytest.mark.thorough
@on_sqlite
async def test_close_a_customers_account(customer: Customer) -> None:
    """So small an account needs the second person where the setting says so."""
    async with customer.stack.worker(max_bulk_unconfirmed=1):
        await customer.type("Close a customer's account")
    assert customer.stack.world.rows()["sentry_preprodartifact"] == {}


@pytest.mark.thorough
@on_sqlite
async def test_find_what_was_left_behind(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look of a later time: no object can be made old."""
    gone, _ = customer.snapshots
    stack, begun = customer.stack, reconcile._begun  # noqa: SLF001

    def later(*given: Any) -> Any:
        look = begun(*given)
        return replace(look, now=look.now + IN_TEN_DAYS)

    monkeypatch.setattr(reconcile, "_begun", later)
    keys = stack.world.objects_of([gone.id])
    forget_rows(stack, gone)
    async with stack.worker():
        await customer.type("Find what was left behind")
    await stack.client.get_schedule_handle(f"artifact-reconcile/{stack.organization_id}").delete()
    assert not keys & stack.world.objects().keys()


@on_sqlite
async def test_keep_it_for_the_court(customer: Customer) -> None:
    async with customer.stack.worker():
        await customer.type("Keep it for the court")
    assert customer.stack.world.rows()["sentry_preprodartifact"] == {}


@pytest.mark.thorough
@on_sqlite
async def test_we_deleted_the_wrong_project(customer: Customer) -> None:
    """What is cancelled in time is whole. The other one waits for the end of a quiet period, and is held there."""
    stack, (kept, _) = customer.stack, customer.snapshots
    async with stack.worker(quiet_period_s=timedelta(hours=1).total_seconds()):
        await customer.type("We deleted the wrong project")
    assert stack.world.rows()["sentry_preprodartifact"].keys() == {kept.id}
    assert stack.world.objects_of([kept.id]) <= stack.world.objects().keys()


def test_every_task_is_typed_here() -> None:
    """A section without commands, or of which no test types them, would say what is not tried."""
    sections = re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)
    assert [section for section in sections if not list(typed(section))] == []
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {re.sub(r"[^a-z ]", "", section.lower()).replace(" ", "_") for section in sections} <= tests
