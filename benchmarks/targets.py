"""The targets, and how far one run is from each: ratios, since the same machine is faster in some hours than in others."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.markdown import shown, table

Parts = Mapping[str, Any]
BULK = {2_000: {"s5cmd": 1.1}, 20_000: {"s5cmd": 0.75, "obstore": 1.06}, 100_000: {"s5cmd": 0.65, "obstore": 0.88}}
"""At most, by the number of keys."""
MANY = {
    "in_memory": "one worker, Temporal in memory",
    "in_memory_two": "two workers, Temporal in memory",
    "on_file": "one worker, Temporal on its file",
    "on_file_two": "two workers, Temporal on its file",
}


@dataclass(frozen=True)
class Target:
    """One line of the table."""

    what: str
    value: float
    limit: float
    at_least: bool = False
    unit: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        """As the table shows it."""
        sign = "≥ " if self.at_least else "≤ " if self.limit else ""
        return (self.what, f"{sign}{self._in_words(self.limit)}", self._in_words(self.value), self.met())

    def met(self) -> str:
        """With by how much. The value counts as it is shown."""
        value = float(shown(float(self.value)).replace(",", ""))
        if value >= self.limit if self.at_least else value <= self.limit:
            return "met"
        if not self.limit:
            return "**missed**"
        beyond = 1 - value / self.limit if self.at_least else value / self.limit - 1
        return f"**missed** by {shown(round(100 * beyond))} %"

    def _in_words(self, value: float) -> str:
        return f"{shown(float(value)) if value % 1 else shown(int(value))}{self.unit}"


def targets(parts: Parts) -> str:
    """Markdown."""
    return table(("what", "target", "measured", ""), (one.row for one in targets_of(parts)))


def targets_of(parts: Parts) -> Iterator[Target]:
    """In the order in which a reader asks."""
    yield from _small(parts["small"])
    yield from _throughput(parts)
    yield from _bulk(parts["bulk"])
    yield from _growth(parts["growth"])
    yield from _images(parts["images"])
    yield from _others(parts)


def _small(found: Parts) -> Iterator[Target]:
    waits = found["waits"]
    theirs = waits["reference"]["p50_s"]
    yield Target("small, request to rows gone p50 / the reference caller's whole wait", waits["rows"]["p50_s"] / theirs, 0.6)
    yield Target("small, request to receipt p50 / the same", waits["receipt"]["p50_s"] / theirs, 1.6)


def _throughput(parts: Parts) -> Iterator[Target]:
    theirs = parts["many"]["contenders"]["reference"]["wall_s"]
    for name, label in MANY.items():
        ratio = theirs / parts["many"]["contenders"][name]["wall_s"]
        yield Target(f"many small, {label}: throughput / the reference's, one by one", ratio, 1.0, at_least=True)
    found = parts["handler"]
    share, allowed = found["answered_204"] / found["deletes"], min(1, found["deadline_s"] / found["rows_gone_last_s"])
    what = f"{found['deletes']} deletes at once through a handler with a deadline of {found['deadline_s']} s: answered 204"
    yield Target(f"{what}, beside what rows' throughput allows", 100 * share, round(100 * allowed), at_least=True, unit=" %")
    ours, reference = parts["retention"]["contenders"]["ours"], parts["retention"]["contenders"]["reference"]
    ratio = ours["artifacts"] / ours["wall_s"] / (reference["artifacts"] / reference["wall_s"])
    what = f"retention, {shown(ours['artifacts'])} artifacts of {parts['retention']['masks']} keys through one worker"
    yield Target(f"{what}: rate / the reference's loop", ratio, 3.0, at_least=True)
    size, rows = max(parts["rows"].items(), key=lambda one: int(one[0]))
    what = f"rows, {shown(int(size))} artifacts, request to rows gone / SQL by hand"
    yield Target(what, _wall(rows["ours"]) / _wall(rows["sql"]), 2.5)


def _bulk(found: Parts) -> Iterator[Target]:
    for size, limits in BULK.items():
        for name, limit in limits.items() if str(size) in found else ():
            of_size = found[str(size)]
            yield Target(f"bulk, {shown(size)} keys / {name}", _wall(of_size["ours"]) / _wall(of_size[name]), limit)


def _growth(found: Parts) -> Iterator[Target]:
    keys, base = max(int(size) for size in found["sizes"]), 10_000
    large, small = found["sizes"][str(keys)], found["sizes"][str(base)]
    what = f"growth, {shown(keys)} keys beside {shown(base)}"
    yield Target(f"{what}: time a key", large["wall_s"] / keys / (small["wall_s"] / base), 1.1)
    yield Target(f"{what}: worker's peak memory", large["peak_mb"] - small["peak_mb"], 50, unit=" MB more")
    yield Target(f"worker CPU of {shown(keys)} keys, its start included", large["whole_cpu_s"], 25, unit=" s")
    yield Target(f"history of {shown(keys)} keys, events", large["events"], 2_000)
    yield Target("the same, size", large["history_bytes"] / 10**6, 2, unit=" MB")
    yield Target("the same, its longest event but the request", large["longest_event_bytes"] / 1024, 64, unit=" KB")
    yield Target("ledger while it holds the keys, on disk", large["on_disk"] / keys, 15, unit=" bytes a key")
    yield Target("the same afterwards", large["rows_left"], 0, unit=" rows")


def _images(found: Parts) -> Iterator[Target]:
    caught = found["catch_up"]
    what = f"images, catching up with {shown(caught['snapshots'])} snapshots / reading their manifests alone"
    yield Target(what, caught["ours_s"] / caught["alone_s"], 1.3)
    for how, of_how in found["hidden"].items():
        for step, verb in (("hide", "hiding"), ("purge", "purging")):
            ratio = of_how[step]["bare_s"] / of_how[step]["ours_s"]
            yield Target(f"images, {verb} {shown(of_how['images'])} by {how} / bare requests' rate", ratio, 0.9, at_least=True)


def _others(parts: Parts) -> Iterator[Target]:
    found = parts["reconcile"]
    ratio = _wall(found["contenders"]["ours"]) / _wall(found["contenders"]["rclone"])
    yield Target(f"reconcile, {shown(found['objects'])} objects / rclone lsf", ratio, 1.5)
    rates = [run["of_limit"] for run in parts["limit"]["runs"]]
    what = f"limit of {shown(parts['limit']['keys_per_second'])} keys a second, one and two workers"
    yield Target(f"{what}: the slowest rate / the limit", min(rates), 0.9, at_least=True)
    yield Target(f"{what}: the fastest / the limit", max(rates), 1.0)
    for switch, one in parts["fairness"]["switch"].items():
        what = f"fairness {switch}: a small deletion beside another organization's, the slowest / alone"
        yield Target(what, max(one["beside"]) / statistics.median(one["alone"]), 3)
    twice = sum(run["twice"] for run in parts["workers"]["runs"])
    yield Target("several workers: keys that are asked for twice", twice, 0)


def _wall(runs: Sequence[Mapping[str, float]]) -> float:
    return statistics.median(one["wall_s"] for one in runs)
