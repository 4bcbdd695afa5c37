"""What a person sees at a terminal, and what a pipe gets instead."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from temporalio.exceptions import ActivityError, ApplicationError, RetryState

import starter
import terminal
from activities.close_deletion import NOT_LISTED
from activities.storage.ledger import NOT_ATTEMPTED
from activities.storage.objects import S3Objects
from activities.sweep_prefixes import STILL_WRITTEN
from client import Trying
from demo.servers import ObjectStoreServer
from starter import LIST_FILTERS
from tests.stack import ROOT, Held, Stack, eventually, lines, s3_of
from tests.test_reruns import failed, hold
from workflows import page
from workflows.delete_artifacts import named
from workflows.messages import DeletionRequest, Progress, Stage

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
INTERRUPTED = 130


@dataclass
class Terminal:
    """A command at a terminal of its own, whose screen and keyboard are the test's."""

    process: subprocess.Popen[bytes]
    keyboard: int
    _seen: bytearray = field(default_factory=bytearray)

    def read(self) -> bool:
        """False at the end."""
        try:
            seen = os.read(self.keyboard, 65536)
        except OSError:  # Linux's way to say that nobody holds the other end any more
            seen = b""
        self._seen += seen
        return bool(seen)

    @property
    def text(self) -> str:
        """Everything that was drawn, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._seen.decode(errors="replace")).replace("\r", "")

    @property
    def drawn(self) -> str:
        return self._seen.decode(errors="replace")

    async def shows(self, text: str) -> None:
        async with asyncio.timeout(60):
            while text not in self.text:
                assert await asyncio.to_thread(self.read), self.text

    def type(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    async def end(self) -> int:
        """The exit code."""
        async with asyncio.timeout(60):
            while await asyncio.to_thread(self.read):
                pass
            return await asyncio.to_thread(self.process.wait)


@pytest.fixture
def at_terminal(stack: Stack) -> Iterator[Callable[..., Terminal]]:
    """Run starter.py at a terminal of 140 columns."""
    with contextlib.ExitStack() as opened:

        def run(*arguments: object) -> Terminal:
            keyboard, screen = pty.openpty()
            environment = stack.environment(TERM="xterm-256color", COLUMNS="140", LINES="40")
            process = subprocess.Popen(
                [sys.executable, "starter.py", *map(str, arguments)],
                cwd=ROOT,
                env=environment,
                stdin=screen,
                stdout=screen,
                stderr=screen,
                start_new_session=True,
            )
            os.close(screen)
            opened.callback(os.close, keyboard)
            opened.callback(process.wait)
            opened.callback(process.kill)
            return Terminal(process, keyboard)

        yield run


@on_sqlite
async def test_at_a_terminal_a_deletion_has_bars_and_ctrl_c_leaves_it_running(
    stack: Stack, at_terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever leaves is told that it goes on, and how to see it again; it does, and they can."""
    (one,) = stack.snapshots("one")
    workflow = stack.request([one.id]).workflow_id
    held = Held(monkeypatch, S3Objects, "delete")
    async with stack.worker():
        try:
            watching = at_terminal("delete", one.id, "--organization", stack.organization_id, "--wait")
            await watching.shows("deleting objects and trace items")
            await watching.shows("delete_objects since")
            for part in ("Rows", "Objects", "Last listing", "Receipt", "0 of 5 keys (0 %)", "━━━━"):
                assert part in watching.text
            watching.process.send_signal(signal.SIGINT)  # as the terminal does at Ctrl-C
            assert await watching.end() == INTERRUPTED
            assert (
                f"The deletion goes on without you. To see it again: python starter.py status {workflow} --follow"
                in watching.text
            )
            assert "Traceback" not in watching.text

            again = at_terminal("status", workflow, "--follow")
            await again.shows("deleting objects and trace items")
        finally:
            held.let_go()
        assert await again.end() == 0
        await stack.client.get_workflow_handle(workflow).result()
    shown = at_terminal("receipt", workflow)
    assert await shown.end() == 0
    assert "complete: nothing is left over" in shown.text
    assert "\x1b[1;32m" in shown.drawn
    listed = at_terminal("list")
    assert await listed.end() == 0
    assert re.search(r"accepted +state +artifacts +left over +reference +deletion", listed.text)
    assert workflow in listed.text


@on_sqlite
async def test_in_a_pipe_there_are_plain_lines_and_why_it_is_stuck(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log gets a line when something changes, a script JSON; both hear of the failure that holds it up."""
    server = ObjectStoreServer(stack.folder / "mortal")
    server.start()
    try:
        s3_of(server).create_bucket(Bucket="mortal")
        stack.use_bucket("mortal", server)
        (one,) = stack.snapshots("one")
        held = Held(monkeypatch, S3Objects, "delete")
        async with stack.worker():
            try:
                handle = await stack.start([one.id])
                await held.reached()
                server.kill()
            finally:
                held.let_go()

            async def stuck() -> list[Trying]:
                return await starter.trying_again(stack.client, handle.id)

            assert await eventually(stuck)
            status = await stack.run_command("status", handle.id)
            plain = asyncio.create_task(stack.run_command("status", handle.id, "--follow"))
            as_json = asyncio.create_task(stack.run_command("status", handle.id, "--follow", "--json"))
            as_json_now = json.loads((await stack.run_command("status", handle.id, "--json")).stdout)
            server.start()
            await asyncio.wait_for(handle.result(), 100)
            followed, script = await plain, await as_json
    finally:
        server.close()
    assert status.returncode == 0
    assert re.search(r"at work: delete_objects since .* UTC; it needs the object store", status.stdout)
    assert re.search(r"tried again: delete_objects, attempt \d+: the object store could not be reached", status.stdout)
    assert as_json_now["trying_again"][0]["step"] == "delete_objects"
    assert as_json_now["progress"]["under_way"][0]["what"] == "delete_objects"
    assert followed.returncode == script.returncode == 0
    assert "\x1b" not in followed.stdout
    assert followed.stdout.startswith("deleting objects and trace items: 2 rows, 0 of 5 keys")
    assert "delete_objects, attempt" in followed.stdout
    found = [json.loads(line) for line in lines(script.stdout)]
    assert {line["workflow_id"] for line in found} == {handle.id}
    assert found[0]["progress"]["stage"] == Stage.DELETING_OBJECTS
    assert {"keys_a_second", "seconds_left"} <= found[0].keys()
    assert found[-1] == {"workflow_id": handle.id, "state": "closed", "running": False, "left_over": {}}


@on_sqlite
async def test_all_that_failed_runs_again_once_a_person_has_seen_what_that_is(
    stack: Stack, at_terminal: Callable[..., Terminal], locking_bucket: str
) -> None:
    """The morning after an outage: a table, a question, and only a yes starts anything; a script says --yes."""
    stack.use_bucket(locking_bucket)
    one, two = stack.snapshots("one", "two")
    stranger = stack.world.snapshot(stack.world.project(stack.world.organization("globex"), "app"), one.images)
    async with stack.worker():
        ours = [await failed(stack, [snapshot.id]) for snapshot in (one, two)]
        other = stack.organization_id + 1
        hold(stack, [stranger.id], "ON")
        theirs = await stack.start([stranger.id], organization_id=other)
        await stack.failure(theirs)
        hold(stack, [stranger.id], "OFF")

        asked = at_terminal("rerun", "--all-failed", "--organization", stack.organization_id)
        await asked.shows("Run 2 failed deletions with AccessDenied 2 left over again? [y/N]")
        assert all(handle.id in asked.text for handle in ours)
        assert theirs.id not in asked.text
        asked.type("\n")
        assert await asked.end() == 1
        assert "nothing was started" in asked.text

        piped = await stack.run_command("rerun", "--all-failed")
        assert (piped.returncode, piped.stderr.count("\n")) == (2, 1)
        assert "3 failed deletions with AccessDenied 3 left over: nothing was started" in piped.stderr
        assert {one["state"] for one in map(json.loads, lines((await stack.run_command("list", "--json")).stdout))} == {
            "failed"
        }

        asked = at_terminal("rerun", "--all-failed", "--organization", stack.organization_id, "--wait")
        await asked.shows("[y/N]")
        asked.type("y\n")
        assert await asked.end() == 0
        assert all(f"{handle.id}: closed" in asked.text for handle in ours)

        scripted = await stack.run_command("rerun", "--all-failed", "--yes", "--wait", "--json")
        assert scripted.returncode == 0
        assert [json.loads(line) for line in lines(scripted.stdout)] == [
            {"workflow_id": theirs.id, "state": "closed", "left_over": {}}
        ]
        none = await stack.run_command("rerun", "--all-failed")
        assert (none.returncode, none.stderr) == (0, "no deletion has failed\n")


@on_sqlite
async def test_the_filters_that_list_help_prints_find_what_they_say(
    stack: Stack, locking_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One deletion that failed with leftovers, one of two chunks of which one is past the point of no return, one before it."""
    stack.use_bucket(locking_bucket)
    one, two, three, four = stack.snapshots("one", "two", "three", "four")
    deletes = Held(monkeypatch, S3Objects, "delete_found", only=lambda *_: False)
    async with stack.worker(chunk_artifacts=1, chunks_at_once=1):
        left_over = await failed(stack, [one.id])
        deletes = Held(monkeypatch, S3Objects, "delete")
        last = f"/{three.id}/"
        reads = Held(monkeypatch, S3Objects, "read", only=lambda _, key, __: last in key or f"/{four.id}/" in key)
        try:
            past = await stack.start([two.id, three.id])
            before = await stack.start([four.id])
            await deletes.reached()
            await reads.reached()
            expected = {
                "all with leftovers": {left_over.id},
                "all of organization 42": {left_over.id, past.id, before.id},
                "all that run, past the point of no return": {past.id},
                "nothing deleted in this run yet": {before.id},
                "all that failed": {left_over.id},
            }
            assert expected.keys() == LIST_FILTERS.keys()
            own = f'OrganizationId = "{stack.organization_id}"'
            for what, query in LIST_FILTERS.items():
                narrowed = own if "organization" in what else f"({query}) AND {own}"

                async def found() -> bool:
                    listed = {one.id async for one in stack.client.list_workflows(narrowed)}  # noqa: B023  called at once
                    return listed == expected[what]  # noqa: B023

                assert await eventually(found), what
        finally:
            deletes.let_go()
            reads.let_go()
        await asyncio.gather(past.result(), before.result())
    printed = (await stack.run_command("list", "--help")).stdout
    readme = (ROOT / "README.md").read_text()
    for query in LIST_FILTERS.values():
        assert query in printed
        assert f"`{query}`" in readme


# Rules, as tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (45.4, "45 s"), (99.4, "99 s"), (120, "2 min"), (5_900, "98 min"), (12_000, "3 h 20 min")],
)
def test_a_duration_is_said_in_two_digits_or_so(seconds: float, said: str) -> None:
    assert terminal.duration(seconds) == said


@pytest.mark.parametrize(
    ("seen", "total", "rate", "left"),
    [
        ([], 10, None, None),
        ([(0.0, 0)], 10, None, None),
        ([(0.0, 0), (2.0, 100)], 300, 50, 4),
        ([(0.0, 0), (2.0, 0)], 300, 0, None),
        ([(0.0, 0), (100.0, 1000), (110.0, 1100)], 1200, 10, 10),
        ([(0.0, 0), (2.0, 100)], 100, 50, 0),
    ],
)
def test_a_rate_is_that_of_the_last_minute(
    seen: Sequence[tuple[float, int]], total: int, rate: float | None, left: float | None
) -> None:
    """What was fast an hour ago says nothing of how long it takes from here."""
    measured = terminal.Rate()
    for at, done in seen:
        measured.add(at, done)
    assert (measured.a_second, measured.seconds_left(total) if seen else None) == (rate, left)


def test_a_terminal_without_rich_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A backend that has installed no more than it needs can still ask how a deletion is."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with terminal.follower("x") as shown:
        shown.show(Progress(stage=Stage.CLOSING, keys=5, keys_done=5), [Trying("close_deletion", 3, "the database is away")])
    assert capsys.readouterr().out == (
        "closing: 0 rows, 5 of 5 keys, 0 found by listing\n  close_deletion, attempt 3: the database is away\n"
    )


def test_every_reason_of_ours_for_leftovers_is_explained() -> None:
    """Those of the store's are its own; ours mean something only to whoever has read this code."""
    of_receipts = {"Moved", "NamedElsewhere", "OwedByOthers", "RowsNotDeleted", "TraceItemsUnconfirmed"}
    assert {NOT_ATTEMPTED, NOT_LISTED, STILL_WRITTEN} | of_receipts <= page.LEFT_OVER.keys()


@pytest.mark.parametrize(
    ("state", "cause", "said"),
    [
        (
            RetryState.TIMEOUT,
            ApplicationError("the database is away", type="DatabaseUnavailable"),
            "the database is away. When",
        ),
        (RetryState.TIMEOUT, None, "close_deletion: its time is over. When"),
        (RetryState.NON_RETRYABLE_FAILURE, ApplicationError("not one of them is yours", type="X"), "not one of them is yours"),
    ],
)
def test_a_step_whose_time_was_over_says_how_the_deletion_is_run_again(
    state: RetryState, cause: ApplicationError | None, said: str
) -> None:
    """A refusal would only be repeated; everything else is worth another run once its cause is mended."""
    request = DeletionRequest(organization_id=1, artifact_ids=(2,))
    error = ActivityError(
        "",
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type="close_deletion",
        activity_id="1",
        retry_state=state,
    )
    error.__cause__ = cause
    again = f" the cause is mended: python starter.py rerun {request.workflow_id}"
    assert named(error, request).message == said + (again if said.endswith("When") else "")
