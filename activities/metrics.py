"""What Prometheus is told of keys as they go. The ledger as it stands is in activities/gauges.py.

Labels are states and codes; ids, keys and names are in none, since each value of a label is a time series for ever.
"""

from temporalio.common import MetricMeter


def count_keys(meter: MetricMeter, named_by: str, **outcomes: int) -> None:
    """Count keys that the ledger has settled: `named_by` is `ledger` for sealed keys, `listing` for keys that no row named."""
    counter = meter.create_counter("artifact_deletion_keys", "Object keys that were settled, by outcome")
    for outcome, count in outcomes.items():
        if count:
            counter.add(count, {"named_by": named_by, "outcome": outcome})


def count_listed_bytes(meter: MetricMeter, size: int) -> None:
    """Count bytes that a listing saw before they were deleted. Of keys that were not listed the size is unknown."""
    if size:
        meter.create_counter("artifact_deletion_listed_bytes", "Bytes of the objects that were listed and deleted").add(size)
