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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import IO, Any

import pytest
from temporalio.client import WorkflowHandle

from activities.stores.s3 import S3Objects
from artifact_deletion.client import Trying, trying_again
from artifact_deletion.receipt import Stage
from commands.exit_codes import DONE, FAILED, INTERRUPTED
from commands.list import LIST_FILTERS
from demo.servers import ObjectStoreServer
from tests.stack import ROOT, Held, Stack, eventually, lines, s3_of
from tests.workflow.test_reruns import failed, hold

pytestmark = pytest.mark.thorough

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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
        except OSError:  # Linux's way to say that no one holds the other end any more
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
    """Run starter.py at a terminal of 140 columns, unless it is told otherwise."""
    with contextlib.ExitStack() as opened:

        def run(*arguments: object, **changes: str) -> Terminal:
            keyboard, screen = pty.openpty()
            environment = stack.environment(**{"TERM": "xterm-256color", "COLUMNS": "140", "LINES": "40"} | changes)
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
    """A person who leaves is told that it goes on, and how to see it again; it does, and they can."""
    (one,) = stack.snapshots("one")
    workflow = stack.request([one.id]).workflow_id
    held = Held(monkeypatch, S3Objects, "delete")
    async with stack.worker():
        try:
            watching = at_terminal("delete", one.id, "--organization", stack.organization_id, "--images", "keep", "--wait")
            await watching.shows(
                f"Delete 1 artifact of organization {stack.organization_id} for good, and keep their images? [y/N]"
            )
            watching.type("y\n")
            await watching.shows("deleting objects and trace items")
            await watching.shows("delete_objects since")
            for part in ("Rows", "Objects", "Trace items", "Listings", "Receipt", "0 of 6 keys (0 %)", "━━━━"):
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
    assert re.search(r"deletion +organization +accepted +state +artifacts *\n", listed.text)
    assert re.search(
        rf"^ {workflow.rpartition('/')[2][:8]} +{stack.organization_id} .* closed +1 *$", listed.text, re.MULTILINE
    )


@pytest.mark.thorough
@on_sqlite
async def test_on_a_terminal_nothing_is_deleted_before_a_person_says_yes(
    stack: Stack, at_terminal: Callable[..., Terminal]
) -> None:
    """With how much it would be; no is what anything but yes means, and a script on a terminal says --yes."""
    ids = [one.id for one in stack.snapshots("one", "two")]
    asked = ("delete", *ids, "--organization", stack.organization_id)
    for answer in ("\n", "n\n", "\x04"):  # Ctrl-D
        refused = at_terminal(*asked)
        await refused.shows(f"Delete 2 artifacts of organization {stack.organization_id} for good, with images that")
        await refused.shows("no other snapshot shows? [y/N]")
        refused.type(answer)
        assert await refused.end() == FAILED
        assert "nothing was asked for" in refused.text
    later = at_terminal(*asked, "--after", "24h")
    await later.shows("no other snapshot shows, 24 h 0 min from now? [y/N]")
    later.type("n\n")
    assert await later.end() == FAILED
    assert (await stack.run_command("list")).stdout == ""
    accepted = at_terminal(*asked, "--yes")
    assert await accepted.end() == DONE
    assert (accepted.text, "[y/N]" in accepted.text) == (f"{stack.request(ids, images='delete').workflow_id}\n", False)


@on_sqlite
@pytest.mark.parametrize("columns", ["40", *(pytest.param(one, marks=pytest.mark.thorough) for one in ("80", "120"))])
async def test_an_identifier_is_whole_however_narrow_the_terminal(
    stack: Stack, at_terminal: Callable[..., Terminal], columns: str
) -> None:
    """So that it can be copied: a table that has no room is plain lines, which the terminal itself breaks."""
    request = stack.request([one.id for one in stack.snapshots("one")], reference=f"TICKET-{'1' * 40}")
    stack.accept(request)
    hold_it = ("hold", "--deletion", request.deletion_id[:8], "--reason", "a " * 40, "--by", f"user:{'7' * 30}")
    assert (await stack.run_command(*hold_it)).returncode == DONE
    for command in ("list", "holds"):
        listed = at_terminal(command, COLUMNS=columns)
        assert await listed.end() == DONE
        for text_ in (request.deletion_id[:8], request.reference if command == "list" else f"user:{'7' * 30}"):
            assert str(text_) in listed.text
        assert "…" not in listed.text
    status = at_terminal("status", request.deletion_id, COLUMNS=columns)
    assert await status.end() == DONE
    assert status.text.startswith(f"{request.workflow_id}: accepted, not running\n")


@pytest.mark.thorough
@on_sqlite
async def test_a_person_who_wants_no_colour_gets_none(stack: Stack, at_terminal: Callable[..., Terminal]) -> None:
    """By the variable that all programs heed, on a terminal as in a pipe."""
    stack.accept(stack.request([one.id for one in stack.snapshots("one")]))
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        for command in (["doctor", "--database-only"], ["--help"]):
            shown = at_terminal(*command, **variables)
            await shown.end()
            assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", shown.drawn)) is coloured, command
    piped = await stack.run_command("--help")
    assert "\x1b" not in piped.stdout


@contextlib.contextmanager
def following(stack: Stack, workflow: str, *more: str) -> Iterator[IO[str]]:
    """What `status --follow` prints into a pipe. It ends with 0 by itself."""
    line = [sys.executable, "starter.py", "status", workflow, "--follow", *more]
    with subprocess.Popen(line, cwd=ROOT, env=stack.environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.thorough
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
                return await trying_again(stack.client, handle.id)

            assert await eventually(stuck)
            status = await stack.run_command("status", handle.id)
            as_json_now = json.loads((await stack.run_command("status", handle.id, "--json")).stdout)
            with following(stack, handle.id) as plain, following(stack, handle.id, "--json") as as_json:
                first, first_json = [await asyncio.to_thread(one.readline) for one in (plain, as_json)]
                server.start()
                await asyncio.wait_for(handle.result(), 100)
                followed, script = [await asyncio.to_thread(one.read) for one in (plain, as_json)]
    finally:
        server.close()
    assert status.returncode == 0
    assert re.search(r"at work: delete_objects since .* UTC; it needs the object store", status.stdout)
    assert re.search(r"tried again: delete_objects, attempt \d+: the object store could not be reached", status.stdout)
    assert as_json_now["trying_again"][0]["step"] == "delete_objects"
    assert {step["step"] for step in as_json_now["progress"]["at_work"]} >= {"delete_objects"}
    assert "\x1b" not in first + followed
    assert first.startswith("deleting objects and trace items: 2 rows, 0 of 6 keys")
    assert "delete_objects, attempt" in first + followed
    found = [json.loads(line) for line in lines(first_json + script)]
    assert {line["workflow_id"] for line in found} == {handle.id}
    assert found[0]["progress"]["stage"] == Stage.DELETING_OBJECTS
    assert {"keys_a_second", "seconds_left"} <= found[0].keys()
    assert found[-1] == {"workflow_id": handle.id, "state": "closed", "running": False, "left_over": {}}


@pytest.mark.thorough
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
        assert all(digest_of(handle) in asked.text for handle in ours)
        assert digest_of(theirs) not in asked.text
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


def digest_of(handle: WorkflowHandle[Any, Any]) -> str:
    """As tables show it."""
    return handle.id.rpartition("/")[2][:8]


@on_sqlite
async def test_the_filters_that_list_prints_find_what_they_say(
    stack: Stack, locking_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One deletion that failed with leftovers, one of two chunks of which one is past the point of no return, one before it."""
    stack.use_bucket(locking_bucket)
    one, two, three, four, five = stack.snapshots("one", "two", "three", "four", "five")
    deletes = Held(monkeypatch, S3Objects, "delete_found", only=lambda *_: False)
    async with stack.worker(chunk_artifacts=1, chunks_at_once=1):
        left_over = await failed(stack, [one.id])
        deletes = Held(monkeypatch, S3Objects, "delete")
        last = f"/{three.id}/"
        reads = Held(monkeypatch, S3Objects, "read", only=lambda _, key, __: last in key or f"/{four.id}/" in key)
        try:
            past = await stack.start([two.id, three.id])
            before = await stack.start([four.id])
            waiting = await stack.start([five.id], not_before=datetime.now(UTC) + timedelta(hours=1))
            await deletes.reached()
            await reads.reached()
            expected = {
                "all with leftovers": {left_over.id},
                "all of organization 42": {left_over.id, past.id, before.id, waiting.id},
                "all that wait for their time": {waiting.id},
                "all that run, past the point of no return": {past.id},
                "nothing deleted in this run yet": {before.id, waiting.id},
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
        await asyncio.gather(past.result(), before.result(), waiting.cancel())
    assert "--filters" in (await stack.run_command("list", "--help")).stdout
    printed = (await stack.run_command("list", "--filters")).stdout.splitlines()
    readme = (ROOT / "README.md").read_text()
    for what, query in LIST_FILTERS.items():
        assert printed[printed.index(f"{what}:") + 1] == f"  {query}"
        assert f"`{query}`" in readme
