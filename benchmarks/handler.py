"""Hundreds of DELETE requests at once to the example's handler, which answers 204 if the rows are gone within its deadline.

Beside the share that is answered so stands the share that could be: the rows of all of them are gone at some time, and so
many a second can be gone within the deadline, if the service finishes some before it begins the others.
"""

import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select, text

from activities.ledger.schema import Deletion, DeletionArtifact, DeletionChunk
from artifact_deletion.client import resume
from artifact_deletion.outbox import deletions_to_start
from benchmarks.data import ORGANIZATION, Doomed
from benchmarks.many import MASKS, small_ones
from benchmarks.measure import ContenderFailed, percentile
from benchmarks.stage import ROOT, Stage
from demo.servers import POLL_INTERVAL, Server, listens

DEADLINE_S = 5
GIVEN_UP_S = 900
_PROGRAM = """
from examples.fastapi_delete import BackendRow, create_app, may_delete
from sqlalchemy import create_engine
import os

def application():
    engine = create_engine(os.environ["DATABASE_URL"])
    BackendRow.metadata.create_all(engine)
    made = create_app(engine)
    made.dependency_overrides[may_delete] = lambda: "user:7"
    return made
"""


class Site(Server):
    """The example, with a check that refuses no caller."""

    name = "site"

    def __init__(self, folder: Path, stage: Stage) -> None:
        super().__init__(folder, ports=1)
        url = stage.database.engine.url.render_as_string(hide_password=False)
        self._variables = {
            "DATABASE_URL": url,
            "TEMPORAL_ADDRESS": stage.temporal.address,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}",
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def _prepare(self) -> None:
        (self.folder / "site_.py").write_text(_PROGRAM)

    def _command(self) -> Sequence[str | Path]:
        variables = [f"{name}={value}" for name, value in self._variables.items()]
        serve = ["-m", "uvicorn", "--factory", "--log-level=warning", f"--port={self._ports[0]}", "site_:application"]
        return ["env", *variables, sys.executable, *serve]

    def _answers(self) -> bool:
        return listens(self._ports[0])


async def handler(stage: Stage, *, deletes: int) -> dict[str, Any]:
    """All at once. Raises ContenderFailed if rows stay, or an answer is neither 204 nor 202."""
    first, *doomed = small_ones(1 + deletes)
    stage.fill(first, *doomed)
    stage.insert_rows(first, *doomed)
    with stage.worker("worker-handler"), Site(stage.folder / "site", stage) as site:
        async with httpx.AsyncClient(base_url=site.url, limits=httpx.Limits(max_connections=None), timeout=60) as client:
            await _answer(client, first)
            began = _now(stage)
            answers = await asyncio.gather(*(_answer(client, one) for one in doomed))
        statuses = Counter(status for status, _ in answers)
        if statuses.keys() - {204, 202}:
            raise ContenderFailed(f"answers: {dict(statuses)}")
        by_relay = await _resume(stage)
        gone = [(at - began).total_seconds() for at in await _rows_gone(stage, doomed)]
    return {
        "deletes": deletes,
        "masks": MASKS,
        "deadline_s": DEADLINE_S,
        "answered_204": statuses[204],
        "started_by_relay": by_relay,
        "answer_p50_s": statistics.median(took for _, took in answers),
        "answer_p95_s": percentile([took for _, took in answers], 0.95),
        "rows_gone_p50_s": statistics.median(gone),
        "rows_gone_last_s": max(gone),
    }


async def _answer(client: httpx.AsyncClient, doomed: Doomed) -> tuple[int, float]:
    """Its status, and how many seconds it took."""
    began = time.perf_counter()
    answered = await client.delete(f"/organizations/{ORGANIZATION}/artifacts/{doomed.id}")
    return answered.status_code, time.perf_counter() - began


async def _resume(stage: Stage) -> int:
    """What the relay does every so often: start those whose handler had no time left to reach Temporal."""
    with stage.database.read() as session:
        asked = list(deletions_to_start(session))
    return len(await resume(stage.client, asked))


async def _rows_gone(stage: Stage, doomed: Sequence[Doomed]) -> list[datetime]:
    """When the rows of each were gone, by the ledger, once all deletions are at their end: the next part has quiet servers."""
    ids, until = {one.id for one in doomed}, time.monotonic() + GIVEN_UP_S
    while time.monotonic() < until:
        found = list(_ended(stage, ids))
        if len(found) == len(ids):
            return found
        await asyncio.sleep(POLL_INTERVAL * 10)
    raise ContenderFailed(f"{len(ids)} deletions, and {len(found)} of them are complete")


def _ended(stage: Stage, ids: set[int]) -> Iterator[datetime]:
    rows = (
        select(DeletionArtifact.artifact_id, DeletionChunk.rows_deleted_at)
        .join(Deletion, Deletion.id == DeletionArtifact.deletion_id)
        .join(DeletionChunk, DeletionChunk.deletion_id == Deletion.id)
        .where(Deletion.closed_at.is_not(None))
    )
    with stage.database.read() as session:
        for artifact, at in session.execute(rows):
            if artifact in ids and at is not None:
                yield at


def _now(stage: Stage) -> datetime:
    """By the database's clock, as the ledger's times are."""
    with stage.database.read() as session:
        now: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now
