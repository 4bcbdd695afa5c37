"""The tables of docs/performance.md, made of the figures of one run of `make bench`.

    python -m benchmarks.tables build/bench.json    # that run's figures take the place of docs/bench.json's
    python -m benchmarks.tables                     # the page and the plot anew, of docs/bench.json

It needs nothing that the benchmarks need, so a test holds that page, plot and figures belong together.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.markdown import paragraph, shown, table
from benchmarks.sizing import sizing
from benchmarks.targets import MANY, targets

Found = Mapping[str, Any]
DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURES, PLOT = DOCS / "performance.md", DOCS / "bench.json", DOCS / "images" / "growth.svg"
_REGION = re.compile(r"(<!-- table: ([\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ROWS_STEPS = ("collect_keys", "delete_rows")
_CPU = ("client CPU {0}", "store CPU {0}", "Temporal and PostgreSQL CPU {0}")
_CPU_S = tuple(one.format("s") for one in _CPU)


class NotOneRun(Exception):
    """Figures of single parts: the page compares what one run measured."""


# Parts of the benchmark, in the order in which they run --------------------------------------------------------------------


def small(found: Found) -> str:
    labels = {
        "reference": "the reference's caller, whole wait",
        "rows": "ours, request to rows gone",
        "receipt": "ours, request to receipt",
        "usecases rows": f"later, with the {found['usecases']} usecases of the default, to rows gone",
        "usecases": "the same to receipt",
        "quiet": f"later, with a quiet period of {found['quiet_period_s']:.0f} s",
        "empty rows": "Temporal alone, empty steps up to the rows",
        "empty receipt": "Temporal alone, empty steps up to the receipt",
    }
    theirs = found["waits"]["reference"]["p50_s"]
    rows = [
        (
            *(label, 1000 * one["p50_s"], 1000 * one["p95_s"], one["p50_s"] / theirs),
            *(1000 * one[cost] if cost in one else None for cost in ("client_cpu_s", "store_cpu_s", "other_cpu_s")),
            one.get("peak_mb") or None,
        )
        for name, label in labels.items()
        if (one := found["waits"].get(name))
    ]
    head = ("wait", "p50 ms", "p95 ms", "p50 / the reference's", *(one.format("ms") for one in _CPU), "peak MB")
    return _with(f"One comparison of {found['masks']} masks, {found['deletions']} deletions of each in turns.", head, rows)


def steps(found: Found) -> str:
    said = f"The same deletion's steps one after another in one process, without Temporal: means of {found['deletions']}."
    costs = list(found["steps"]["all of them"])
    return _with(said, ("step", *costs), ([name, *one.values()] for name, one in found["steps"].items()))


def choices(found: Found) -> str:
    sandbox, outside = found["sandbox"], found["sandbox"]["outside"]
    labels = {"outside": "outside the sandbox, as shipped", "inside": "inside"}
    rows = [
        (
            *(label, 1000 * sandbox[name]["cpu_s"], sandbox[name]["cpu_s"] / outside["cpu_s"]),
            *(1000 * sandbox[name]["p50_s"], sandbox[name]["p50_s"] / outside["p50_s"]),
        )
        for name, label in labels.items()
    ]
    return _with(
        f"Workflows inside and outside the SDK's sandbox, {found['deletions']} small deletions of each.",
        ("workflows", "worker CPU ms", "over outside", "request to receipt p50 ms", "over outside"),
        rows,
    )


def many(found: Found) -> str:
    labels = {
        **{name: f"ours, {label}" for name, label in MANY.items()},
        "empty": "Temporal alone in memory, empty steps",
        "reference": "the reference's way, one after another",
    }
    count, theirs = found["deletions"], found["contenders"]["reference"]["wall_s"]
    rows = [
        (
            *(label, count / one["wall_s"], theirs / one["wall_s"], one["wall_s"]),
            *(1000 * one[cost] / count for cost in ("client_cpu_s", "store_cpu_s", "other_cpu_s")),
            *(one["peak_mb"] or None, one["events"], one["left"]),
        )
        for name, label in labels.items()
        if (one := found["contenders"][name])
    ]
    head = (
        *("contender", "deletions a second", "over the reference's", "s", *(f"{one.format('ms')} a deletion" for one in _CPU)),
        *("peak MB", "Temporal events a deletion", "objects left"),
    )
    return _with(f"{count} deletions of {found['masks']} masks each, asked for at once.", head, rows)


def handler(found: Found) -> str:
    share, allowed = found["answered_204"] / found["deletes"], min(1, found["deadline_s"] / found["rows_gone_last_s"])
    said = (
        f"{found['deletes']} requests at once, a deadline of {found['deadline_s']} s. "
        "Allowed by the throughput of rows: the deadline over the time until the last of them had no rows."
    )
    head = (
        *("answered 204 %", "allowed by the throughput of rows %", "answer p50 s", "answer p95 s"),
        *("rows gone p50 s", "rows gone, the last s", "started by the relay"),
    )
    values = [found[f"{name}_s"] for name in ("answer_p50", "answer_p95", "rows_gone_p50", "rows_gone_last")]
    return _with(said, head, [(shown(100.0 * share), 100.0 * allowed, *values, found["started_by_relay"])])


def growth(found: Found) -> str:
    head = (
        *("keys", "s", "s a 1000 keys", "worker CPU s, whole process", "worker peak MB", _CPU_S[2]),
        *("events", "history KB", "longest event KB", "ledger bytes a key", "on disk", "ledger rows after"),
    )
    rows = [
        (
            *(shown(keys), one["wall_s"], one["wall_s"] / keys * 1000, one["whole_cpu_s"], one["peak_mb"], one["other_cpu_s"]),
            *(round(one["events"]), one["history_bytes"] / 1024, one["longest_event_bytes"] / 1024),
            *(one["packed"] / keys, one["on_disk"] / keys, round(one["rows_left"])),
        )
        for keys, one in by_size(found["sizes"])
    ]
    return _with(f"Medians of {found['rounds']}.", head, rows)


def rows(found: Found) -> str:
    return "\n\n".join(_rows_of(size, one) for size, one in reversed(list(by_size(found))))


def limit(found: Found) -> str:
    head = ("worker processes", "pages an activity", "s", "keys a second, steady", "of the limit", "most in any one second")
    said = f"A limit of {shown(found['keys_per_second'])} keys a second, and {shown(found['keys'])} keys."
    return _with(said, head, (list(one.values()) for one in found["runs"]))


def fairness(found: Found) -> str:
    said = (
        f"One small deletion beside {shown(found['keys'])} keys of another organization. The store takes {found['pause_s']} s "
        f"for each request, and the worker makes {found['requests_at_once']} at a time."
    )
    rows = []
    for name, one in found["switch"].items():
        alone, beside = statistics.median(one["alone"]), statistics.median(one["beside"])
        rows.append((name, alone, beside, max(one["beside"]), beside / alone, max(one["beside"]) / alone, one["whole_s"]))
    head = (
        *("Temporal's matching.enableFairness", "alone s", "beside s, median", "worst", "beside / alone", "worst / alone"),
        "the other's whole s",
    )
    return _with(said, head, rows)


def workers(found: Found) -> str:
    head = (
        *("worker processes", "deletions", "s", "keys a second", "deletions a second", "workers' CPU s"),
        *("keys asked for", "of them twice", "again by the sweep that confirms"),
    )
    return table(head, (list(one.values()) for one in found["runs"]))


def retention(found: Found) -> str:
    labels = {"ours": "ours, one worker", "reference": "the reference's way, one after another"}
    theirs = found["contenders"]["reference"]
    rows = [
        (
            *(label, one["artifacts"], one["deletions"], one["wall_s"], round(3600 * one["artifacts"] / one["wall_s"])),
            one["artifacts"] / one["wall_s"] / (theirs["artifacts"] / theirs["wall_s"]),
            *(1000 * one[cost] / one["artifacts"] for cost in ("client_cpu_s", "store_cpu_s", "other_cpu_s")),
            one["peak_mb"] or None,
        )
        for name, label in labels.items()
        if (one := found["contenders"][name])
    ]
    head = (
        *("contender", "artifacts", "deletions", "s", "artifacts an hour", "rate / the reference's"),
        *(f"{one.format('ms')} an artifact" for one in _CPU),
        "peak MB",
    )
    return _with(f"Expired artifacts of {found['masks']} masks each.", head, rows)


def images(found: Found) -> str:
    caught = found["catch_up"]
    first = table(
        ("snapshots", "reading the manifests alone s", "catching up s", "catching up / reading alone"),
        [(shown(caught["snapshots"]), caught["alone_s"], caught["ours_s"], caught["ours_s"] / caught["alone_s"])],
    )
    rows = [
        (
            f"{what}, by {how}",
            one["images"],
            *(one["images"] / one[what]["ours_s"], one["images"] / one[what]["bare_s"]),
            *(one[what]["bare_s"] / one[what]["ours_s"], sum(one[what]["requests"].values()) / one["images"]),
        )
        for how, one in found["hidden"].items()
        for what in ("hide", "purge")
    ]
    second = table(("step", "images", "images a second", "bare requests", "ours / bare", "requests an image"), rows)
    sizes = [(shown(size), 1000 * seconds) for size, seconds in by_size(found["decide"]["sizes"])]
    third = table(("snapshots of the project", f"SQL to decide {found['decide']['wanted']} images ms"), sizes)
    return f"{first}\n\n{second}\n\n{third}"


def reconcile(found: Found) -> str:
    labels = {"ours": "starter.py reconcile", "rclone": "rclone lsf"}
    middle = {name: medians(of_name) for name, of_name in found["contenders"].items()}
    rows = [
        (
            *(label, one["wall_s"], one["wall_s"] / middle["rclone"]["wall_s"], one["client_cpu_s"], one["store_cpu_s"]),
            *(one["peak_mb"], round(found["objects"] / one["wall_s"])),
        )
        for name, label in labels.items()
        if (one := middle[name])
    ]
    said = f"{shown(found['objects'])} objects of one project, medians of {len(found['contenders']['ours'])}."
    head = ("contender", "wall s", "wall / rclone's", "CPU s", "store CPU s", "peak MB", "objects a second")
    return _with(said, head, rows)


def bulk(found: Found) -> str:
    labels = {
        "ours": "ours, request to receipt",
        "reference": "the reference's way: 8 threads, one key a request",
        "batches": "boto3 batches, 16 threads",
        "s5cmd": "s5cmd rm",
        "rclone": "rclone delete",
        "obstore": "obstore, the server's limit",
    }
    tables = []
    for size, contenders in by_size(found):
        middle = {name: medians(of_name) for name, of_name in contenders.items()}
        rows = [
            (label, len(contenders[name]), one["wall_s"], one["wall_s"] / middle["ours"]["wall_s"], *list(one.values())[1:])
            for name, label in labels.items()
            if (one := middle.get(name))
        ]
        said = f"{shown(size)} keys, medians where there is more than one run."
        tables.append(_with(said, ("contender", "runs", "wall s", "wall / ours", *_CPU_S, "peak MB"), rows))
    return "\n\n".join(tables)


PARTS: dict[str, Callable[[Found], str]] = {
    one.__name__: one
    for one in (
        *(small, steps, choices, many, handler, growth, rows, limit, fairness, workers, retention, images, reconcile, bulk),
    )
}


# The page -----------------------------------------------------------------------------------------------------------------


def run(figures: Found) -> str:
    """The page's first sentences: of which run its figures are."""
    kind = {
        "quick": "**These are figures of a quick run at small sizes, which say nothing about speed.** They are of one run of",
        "usual": "All figures are of one run of",
        "full": "All figures are of one run, with the largest sizes, of",
    }[figures["sizes"]]
    command = {"quick": "make bench QUICK=1", "usual": "make bench", "full": "make bench FULL=1"}[figures["sizes"]]
    cores = f"{figures['cores']} core{'s' * (figures['cores'] != 1)}"
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    said = (
        f"{kind} `{command}`. It took {shown(figures['seconds'])} s on {figures['system']} with {cores} and Python "
        f"{figures['python']}. The load was {shown(float(figures['load']))} when it began."
    )
    return "\n\n".join(paragraph(one) for one in (said, f"Versions: {versions}."))


def duration(figures: Found) -> str:
    """Seconds by part."""
    return table(("part", "s"), ((name, round(one["seconds"])) for name, one in figures["parts"].items()))


def page_of(page: str, figures: Found) -> str:
    """The page with the tables of these figures. Raises NotOneRun, and KeyError for a region that there is no table for."""
    if absent := PARTS.keys() - figures["parts"].keys():
        raise NotOneRun(f"these parts did not run: {', '.join(sorted(absent))}")
    of_part = {name: one["figures"] for name, one in figures["parts"].items()}
    made = {name: PARTS[name](found) for name, found in of_part.items()}
    made |= {"run": run(figures), "duration": duration(figures), "targets": targets(of_part), "sizing": sizing(of_part)}
    return _REGION.sub(lambda region: f"{region[1]}\n{made[region[2]]}\n\n{region[3]}", page)


def plot_of(figures: Found) -> str:
    """An SVG of growth."""
    sizes = list(by_size(figures["parts"]["growth"]["figures"]["sizes"]))
    lines = {
        f"{label} a 1000 keys": [(keys, one[cost] / keys * 1000) for keys, one in sizes]
        for label, cost in (("seconds", "wall_s"), ("worker CPU seconds", "client_cpu_s"))
    }
    return plot.svg("Cost against size, a store that answers at once", lines)


def rounded(value: Any) -> Any:
    """Four digits of each number: a run cannot be trusted for more."""
    match value:
        case float():
            return float(f"{value:.4g}")
        case Mapping():
            return {name: rounded(one) for name, one in value.items()}
        case list() | tuple():
            return [rounded(one) for one in value]
    return value


def as_json(figures: Found) -> str:
    """With a line for each contender or size, so that a change of them can be read."""
    text = json.dumps(figures, indent=1)
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda flat: re.sub(r"\s+", " ", flat[0]), text) + "\n"


def main(given: Sequence[str]) -> None:
    """Raises NotOneRun."""
    figures = json.loads(Path(given[0] if given else FIGURES).read_text())
    page = page_of(PAGE.read_text(), figures)
    FIGURES.write_text(as_json(figures))
    PAGE.write_text(page)
    PLOT.write_text(plot_of(figures))


# What the tables share ----------------------------------------------------------------------------------------------------


def by_size(found: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    """JSON has sizes as text."""
    return ((int(size), one) for size, one in found.items())


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure by itself."""
    return {name: statistics.median(one[name] for one in runs) for name in runs[0]}


def _with(said: str, head: Sequence[str], found: Iterable[Sequence[object]]) -> str:
    return f"{paragraph(said)}\n\n{table(head, found)}"


def _rows_of(size: int, found: Mapping[str, Sequence[Any]]) -> str:
    labels = {
        "sql": "SQL by hand, one transaction",
        "ours": "ours, request to rows gone",
        "manifests": "reading the manifests alone, boto3, 8 threads",
        "empty": "Temporal alone, empty steps up to the rows",
    }
    costs = ("wall_s", "locked_s", "client_cpu_s", "store_cpu_s", "other_cpu_s", "temporal_cpu_s")
    middle = {name: medians([{cost: one[cost] for cost in costs} for one in found[name]]) for name in labels}
    count, theirs = found["sql"][0]["rows"], middle["sql"]["wall_s"]
    lines: list[Sequence[object]] = []
    for name, label in labels.items():
        wall, locked, *cpu = middle[name].values()
        deletes = bool(found[name][0]["rows"])
        peak = max(one["peak_mb"] for one in found[name]) or None
        rate, longest = (round(count / wall), 1000 * locked) if deletes else (None, None)
        lines.append((label, wall, rate, wall / theirs, longest, *cpu, peak))
    steps_s = [one["steps_s"] for one in found["ours"]]
    others = {f"ours, all {step} steps added up": statistics.median(one[step] for one in steps_s) for step in _ROWS_STEPS}
    if receipts := [one["receipt_s"] for one in found["ours"] if one["receipt_s"] is not None]:
        others[f"ours, request to receipt ({len(receipts)} run)"] = statistics.median(receipts)
    lines += [(label, took, round(count / took), took / theirs, *[None] * 6) for label, took in others.items()]
    head = (
        *("contender", "wall s", "rows a second", "wall / SQL by hand", "longest lock on rows ms"),
        *("client CPU s", "store CPU s", "PostgreSQL CPU s", "Temporal CPU s", "peak MB"),
    )
    return _with(f"{shown(size)} artifacts, {shown(count)} rows, medians of {len(found['sql'])}.", head, lines)


if __name__ == "__main__":
    main(sys.argv[1:])
