"""What Prometheus is told of keys as they go. The ledger as it stands is in activities/gauges.py.

Labels are states and codes; ids, keys and names are in none, since each value of a label is a time series for ever.
"""

from temporalio.common import MetricCounter, MetricMeter


def begin_at_zero(of_pages: MetricMeter, of_sweeps: MetricMeter, of_images: MetricMeter) -> None:
    """Let every series be there before the first key or image is settled, by the step that counts it most."""
    for outcome in ("deleted", "absent", "kept"):
        _keys(of_pages).add(0, {"named_by": "ledger", "outcome": outcome})
    _keys(of_sweeps).add(0, {"named_by": "listing", "outcome": "deleted"})
    _listed_bytes(of_sweeps).add(0)
    for outcome in ("hidden", "purged", "restored", "missing", "unregistered"):
        _images(of_images).add(0, {"outcome": outcome})


def count_keys(meter: MetricMeter, named_by: str, **outcomes: int) -> None:
    """Count keys that the ledger has settled: `named_by` is `ledger` for sealed keys, `listing` for keys that no row named."""
    for outcome, count in outcomes.items():
        if count:
            _keys(meter).add(count, {"named_by": named_by, "outcome": outcome})


def count_listed_bytes(meter: MetricMeter, size: int) -> None:
    """Count bytes that a listing saw before they were deleted. Of keys that were not listed the size is unknown."""
    if size:
        _listed_bytes(meter).add(size)


def count_images(meter: MetricMeter, **outcomes: int) -> None:
    """Count images that were `hidden`, `purged` or `restored`; `missing` ones are named, and have no bytes any more.

    `unregistered` counts snapshots, each of which was committed without reserve_images though every commit is to call it.
    """
    for outcome, count in outcomes.items():
        if count:
            _images(meter).add(count, {"outcome": outcome})


def _images(meter: MetricMeter) -> MetricCounter:
    return meter.create_counter("artifact_deletion_images", "Shared images on their way, by outcome")


def _keys(meter: MetricMeter) -> MetricCounter:
    return meter.create_counter("artifact_deletion_keys", "Object keys that were settled, by outcome")


def _listed_bytes(meter: MetricMeter) -> MetricCounter:
    return meter.create_counter("artifact_deletion_listed_bytes", "Bytes of the objects that were listed and deleted")
