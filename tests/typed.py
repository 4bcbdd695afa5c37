"""Commands as a test types them: in this process, since one of its own takes seconds, most of them for imports."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

import starter
from tests.stack import Stack, lines

NOWHERE = "127.0.0.1:1"
"""An address where no one listens."""


@dataclass(frozen=True)
class Done:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Done]]
Findings = dict[str, dict[str, str]]
Examine = Callable[..., Awaitable[tuple[int, Findings]]]


def runner(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with the test's settings, and others that are named."""

    async def command(*arguments: object, **environment: str) -> Done:
        with monkeypatch.context() as changed:
            for name, value in (stack.environment() | environment).items():
                changed.setenv(name, value)
            capsys.readouterr()
            code = await asyncio.to_thread(starter.main, [str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return command


def examiner(run: Run) -> Examine:
    """Runs `doctor --json`: its exit code, and what it found by name."""

    async def examine(*arguments: str, **environment: str) -> tuple[int, Findings]:
        done = await run("doctor", "--json", *arguments, **environment)
        return done.code, {one["name"]: one for one in json.loads(done.out)}

    return examine


def states(found: Findings) -> dict[str, str]:
    return {name: one["state"] for name, one in found.items()}


def assert_one_sentence(done: Done, code: int) -> None:
    assert done.code == code, done
    assert "Traceback" not in done.err
    assert len(list(lines(done.err))) == 1, done.err
