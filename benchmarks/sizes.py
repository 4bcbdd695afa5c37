"""How much of everything one run measures: with the usual sizes it stays under half an hour on two cores."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Counts, by the part that they are for."""

    small: int = 24
    steps: int = 30
    choices: int = 8
    many: int = 60
    growth: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    growth_rounds: int = 1
    rows: tuple[int, ...] = (1_000, 10_000)
    rows_rounds: int = 1
    limit_s: int = 6
    fairness_keys: int = 64_000
    fairness_small: int = 1
    fairness_pause_s: float = 2
    """As long as the store takes for a request; longer where there are few, or they are done too soon to tell."""
    workers: tuple[int, ...] = (1, 2)
    workers_keys: int = 40_000
    workers_small: int = 40
    handler: int = 200
    retention: int = 500
    retention_reference: int = 100
    """As many of the artifacts the reference deletes: its loop's speed does not depend on how many there are."""
    images_caught_up: int = 100_000
    images_hidden: int = 1_000
    images_indexed: tuple[int, ...] = (10, 10_000, 1_000_000)
    reconcile: int = 100_000
    reconcile_rounds: int = 2
    bulk: tuple[tuple[int, int], ...] = ((2_000, 4), (20_000, 2))
    """(keys, rounds)."""
    bulk_others: int = 2_000
    """The largest size of contenders that no target names; they have one round of each."""


USUAL = Sizes()
FULL = Sizes(
    small=40,
    steps=100,
    choices=24,
    many=200,
    growth_rounds=2,
    rows_rounds=3,
    limit_s=10,
    fairness_keys=200_000,
    fairness_small=3,
    fairness_pause_s=1,
    workers=(1, 2, 4),
    workers_keys=100_000,
    workers_small=100,
    retention=2_000,
    retention_reference=2_000,
    images_hidden=3_000,
    reconcile_rounds=3,
    bulk=((2_000, 5), (20_000, 3), (100_000, 3)),
    bulk_others=100_000,
)
QUICK = Sizes(
    small=6,
    steps=3,
    choices=4,
    many=10,
    growth=(1_000, 10_000, 100_000),
    growth_rounds=1,
    rows=(300,),
    rows_rounds=1,
    limit_s=4,
    fairness_keys=64_000,
    fairness_small=1,
    fairness_pause_s=2,
    workers=(1, 2),
    workers_keys=10_000,
    workers_small=4,
    handler=20,
    retention=100,
    retention_reference=20,
    images_caught_up=500,
    images_hidden=300,
    images_indexed=(10, 1_000),
    reconcile=5_000,
    reconcile_rounds=1,
    bulk=((2_000, 2),),
    bulk_others=2_000,
)
