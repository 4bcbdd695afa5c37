"""A real Prometheus scrapes a worker while it deletes: every panel of the dashboard has something to show, and it is true.

Deselected otherwise, since it needs Debian's Prometheus: `make test-prometheus`.
"""

import asyncio
import json
import math
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from demo.servers import Server, ServerError, _http_status
from tests.stack import ROOT, Stack, eventually, pending_failures

pytestmark = [pytest.mark.prometheus, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]
DOCS = ROOT / "docs"
JOB = "cell-eu"
_CONFIG = """\
global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
  evaluation_interval: 500ms
rule_files: ["{rules}"]
scrape_configs:
  - job_name: {job}
    static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus(Server):
    """With one target, which keeps its address whether it is up or not, and with our rules for alerts."""

    name = "prometheus"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ports=2)
        self._port, of_target = self._ports
        self.target = f"127.0.0.1:{of_target}"

    def ask(self, what: str, **parameters: str) -> Any:
        """The answer of its HTTP API."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self._port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with opener.open(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def samples(self, expression: str) -> dict[str, float]:
        """What an expression is now, by the values of its labels; what is not a number is left out."""
        found = {
            " ".join(one["metric"].values()): float(one["value"][1]) for one in self.ask("query", query=expression)["result"]
        }
        return {labels: value for labels, value in found.items() if not math.isnan(value)}

    def _prepare(self) -> None:
        config = _CONFIG.format(rules=DOCS / "alerts.yml", job=JOB, target=self.target)
        (self.folder / "prometheus.yml").write_text(config)

    def _command(self) -> Sequence[str | Path]:
        binary = shutil.which("prometheus")
        if binary is None:
            raise ServerError("prometheus is not installed (Debian: apt install prometheus)")
        listens = f"--web.listen-address=127.0.0.1:{self._port}"
        return [binary, f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data", listens]

    def _answers(self) -> bool:
        return _http_status(f"http://127.0.0.1:{self._port}/-/ready") == 200


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    with Prometheus(tmp_path / "prometheus") as server:
        yield server


def panels() -> dict[str, str]:
    """Each panel's query, as Grafana sends it once the cell is chosen."""
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text())
    targets = ((panel["title"], target) for panel in dashboard["panels"] for target in panel["targets"])
    return {f"{title} {target['refId']}": target["expr"].replace("$job", JOB) for title, target in targets}


async def shown(prometheus: Prometheus) -> dict[str, dict[str, float]]:
    return {title: await asyncio.to_thread(prometheus.samples, expression) for title, expression in panels().items()}


async def test_every_panel_shows_a_series_and_counts_from_the_first_deletion_on(stack: Stack, prometheus: Prometheus) -> None:
    """A step fails, since the schema drifts and is mended; a listing finds an object that no row named."""
    first, second = stack.snapshots("first", "second")
    for one in (first, second):
        own = f"{stack.organization_id}/{one.artifact.project_id}/{one.id}/no-row-named-it"
        scope = f"preprod/org.{stack.organization_id}/project.{one.artifact.project_id}/objects/"
        stack.s3.put_object(Bucket=stack.bucket, Key=f"{scope}{own}", Body=b"12345")
    with stack.database.write() as session:
        session.execute(text("CREATE TABLE newcomer (artifact_id BIGINT REFERENCES sentry_preprodartifact (id))"))
    stack.worker_process(ARTIFACT_DELETION_METRICS_ADDRESS=prometheus.target, ARTIFACT_DELETION_METRICS_LEDGER_EVERY_S="0.1")
    titles = panels()

    async def is_drawn(title: str) -> bool:
        return bool(await asyncio.to_thread(prometheus.samples, titles[title]))

    # Before anything has ended, so that the first of each is an increase.
    for title in ("Deletions that ended, an hour A", "Keys a second A", "Listed bytes a second A", "Left over, by code A"):
        await eventually(partial(is_drawn, title))
    handle = await stack.start([first.id])
    await eventually(partial(is_drawn, "Steps that failed and are tried again A"))
    assert "open_deletion" in await pending_failures(handle)
    with stack.database.write() as session:
        session.execute(text("DROP TABLE newcomer"))
    await asyncio.wait_for(handle.result(), 40)
    await eventually(partial(is_drawn, "Wait for a worker, 95th percentile A"))
    await stack.delete([second.id])

    async def all_drawn() -> dict[str, dict[str, float]] | None:
        found = await shown(prometheus)
        missing[:] = [title for title, samples in found.items() if not samples]
        return found if not missing and found["Deletions that ended, an hour A"]["completed"] >= 2 else None

    missing: list[str] = []
    try:
        found = await eventually(all_drawn)
    except TimeoutError:
        raise AssertionError(f"not shown, or wrong: {missing or await shown(prometheus)}") from None
    assert found["Keys a second A"]["listing deleted"] > 0 < found["Keys a second A"]["ledger deleted"]
    assert found["Listed bytes a second A"][""] > 0
    for counter in ("deletions", "keys", "listed_bytes"):
        parts = await asyncio.to_thread(prometheus.samples, f"count by (named_by, outcome) (artifact_deletion_{counter}_total)")
        assert set(parts.values()) == {1}, "a series that began at zero is not the one that counts"


async def test_the_cells_are_found_and_every_alert_is_one_that_this_prometheus_can_compute(
    stack: Stack, prometheus: Prometheus
) -> None:
    """The list in which the person chooses a cell is a query too."""
    stack.worker_process(ARTIFACT_DELETION_METRICS_ADDRESS=prometheus.target)

    async def cells() -> list[str]:
        found: list[str] = await asyncio.to_thread(
            prometheus.ask, "label/job/values", **{"match[]": "artifact_deletion_open_deletions"}
        )
        return found

    assert await eventually(cells) == [JOB]
    (variable,) = [
        one["query"]["query"]
        for one in json.loads((DOCS / "grafana-dashboard.json").read_text())["templating"]["list"]
        if one["name"] == "job"
    ]
    assert variable == "label_values(artifact_deletion_open_deletions, job)"

    async def rules() -> list[Any] | None:
        groups = (await asyncio.to_thread(prometheus.ask, "rules"))["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    assert {rule["health"] for rule in await eventually(rules)} == {"ok"}
