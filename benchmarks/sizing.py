"""What a billion objects would take, from the figures of one run and from what S3's guide promises."""

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import paragraph, shown, table

BILLION = 10**9
PREFIX_A_SECOND, PREFIXES = 3_500, 10
"""DELETE requests a second for each prefix that S3 has partitioned (Amazon S3 User Guide, "Best practices design patterns")."""
KEYS_A_REQUEST = 1_000
_GB = 10**9


def sizing(parts: Mapping[str, Any]) -> str:
    """Markdown."""
    sizes, many, retention = parts["growth"]["sizes"], parts["many"], parts["retention"]
    keys = max(int(size) for size in sizes)
    large, small = sizes[str(keys)], many["contenders"]["on_file"]
    bulk, masks = retention["contenders"]["ours"], many["masks"]
    of_large, of_small = BILLION / keys, BILLION / masks
    each, artifacts = many["deletions"], bulk["artifacts"]
    at_once = artifacts / bulk["deletions"]
    requests = parts["steps"]["steps"]["all of them"]["requests of the store"]
    rows = [
        ("deletions", round(of_large), round(of_small), round(of_small / at_once)),
        ("requests of the store for each", None, requests, None),
        *(
            (
                f"time at {shown(rate)} keys a second ({shown(rate // PREFIX_A_SECOND)} of S3's prefixes)",
                *[_time(BILLION / rate)] * 3,
            )
            for rate in (PREFIX_A_SECOND, PREFIX_A_SECOND * PREFIXES)
        ),
        _cpu("worker CPU", "client_cpu_s", (large, of_large), (small, of_small / each), (bulk, of_small / artifacts)),
        _cpu(
            "Temporal and PostgreSQL CPU",
            "other_cpu_s",
            (large, of_large),
            (small, of_small / each),
            (bulk, of_small / artifacts),
        ),
        (
            "keys a second for one worker core",
            *(
                round(keys_ / cost["client_cpu_s"])
                for keys_, cost in ((keys, large), (masks * each, small), (masks * artifacts, bulk))
            ),
        ),
        ("Temporal events", round(large["events"] * of_large), round(small["events"] * of_small), None),
        ("ledger while it holds all of it at once GB", large["on_disk"] * of_large / _GB, None, None),
    ]
    head = (
        "a billion objects",
        *(f"in artifacts of {shown(keys)} keys", f"in artifacts of {masks}, a deletion each"),
        f"in artifacts of {masks}, {shown(round(at_once))} a deletion",
    )
    said = (
        f"S3's guide promises {shown(PREFIX_A_SECOND)} requests that delete a second for each prefix that it has partitioned. "
        f"It does not say how one of {shown(KEYS_A_REQUEST)} keys counts. Here each of its keys counts."
    )
    return f"{paragraph(said)}\n\n{table(head, rows)}"


def _cpu(label: str, cost: str, *found: tuple[Mapping[str, float], float]) -> tuple[str, ...]:
    return (label, *(_time(one[cost] * times) for one, times in found))


def _time(seconds: float) -> str:
    hours = seconds / 3600
    return f"{shown(hours)} hours" if hours < 48 else f"{shown(hours / 24)} days"  # noqa: PLR2004
