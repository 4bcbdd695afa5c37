"""What was counted so far, by class and artifact, in a private SQLite file: a project may have more artifacts than memory."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from activities.reconcile.stored import AGES, Sum
from activities.stores.traces import StoredTrace

_AGES = [f"age_{place}" for place in range(len(AGES))]
_COUNTS = ["objects", "size", *_AGES]
_TABLE = f"""
    CREATE TABLE sums (
        class TEXT, artifact INTEGER, {", ".join(f"{name} INTEGER" for name in _COUNTS)}, oldest INTEGER, newest INTEGER,
        PRIMARY KEY (class, artifact)
    ) WITHOUT ROWID
"""
_COMPARISONS = "CREATE TABLE comparisons (head INTEGER, base INTEGER, PRIMARY KEY (head, base)) WITHOUT ROWID"
_TRACES = "CREATE TABLE traces (id TEXT PRIMARY KEY, items INTEGER, written REAL) WITHOUT ROWID"
# SQLite's min and max of two values are NULL if either is.
_SPAN = ", ".join(
    f"{name} = {least}(coalesce({name}, excluded.{name}), coalesce(excluded.{name}, {name}))"
    for name, least in (("oldest", "min"), ("newest", "max"))
)
_ADD = f"""
    INSERT INTO sums (class, artifact, {", ".join(_COUNTS)}, oldest, newest) VALUES ({", ".join("?" * (len(_COUNTS) + 4))})
    ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNTS)}, {_SPAN}
"""  # noqa: S608  names of this file
_BY_CLASS = f"""
    SELECT class, count(nullif(artifact, 0)), {", ".join(f"sum({name})" for name in _COUNTS)}, min(oldest), max(newest)
    FROM sums GROUP BY class
"""  # noqa: S608  names of this file
_LINES = f"""
    SELECT class, artifact, {", ".join(_COUNTS)}, oldest, newest FROM sums
    WHERE class = coalesce(?, class) ORDER BY class, artifact
"""  # noqa: S608  names of this file


@dataclass(frozen=True)
class Line:
    """One class of one artifact."""

    name: str
    artifact: int
    """0: of none alone."""
    sum: Sum


@dataclass(frozen=True)
class Total:
    """One class."""

    artifacts: int = 0
    sum: Sum = field(default_factory=Sum)


class Tally:
    """For one thread."""

    def __init__(self) -> None:
        """SQLite deletes the file of an empty name when it is closed."""
        self._sums = sqlite3.connect("", isolation_level=None)
        self._sums.execute("PRAGMA synchronous = OFF")
        self._sums.execute(_TABLE)
        self._sums.execute(_COMPARISONS)
        self._sums.execute(_TRACES)

    def add(self, sums: Mapping[tuple[str, int], Sum]) -> None:
        """Count more, by class and artifact."""
        rows = [
            (name, artifact, one.objects, one.size, *one.ages, one.oldest, one.newest) for (name, artifact), one in sums.items()
        ]
        with self._sums:
            self._sums.execute("BEGIN")
            self._sums.executemany(_ADD, rows)

    def add_leftovers(self, comparisons: Collection[tuple[int, int]]) -> None:
        """Remember comparisons, each by its head and its base, of which objects are left and no row."""
        self._sums.executemany("INSERT OR IGNORE INTO comparisons VALUES (?, ?)", comparisons)

    def leftovers(self) -> Iterator[tuple[int, int]]:
        """Each of them once."""
        return iter(self._sums.execute("SELECT head, base FROM comparisons ORDER BY head, base"))

    def add_traces(self, traces: Iterable[StoredTrace]) -> None:
        """Remember traces until it is known whose they are."""
        rows = [(one.id, one.items, one.written and one.written.timestamp()) for one in traces]
        self._sums.executemany("INSERT OR REPLACE INTO traces VALUES (?, ?, ?)", rows)

    def has_traces(self) -> bool:
        """Whether any is left."""
        return self._sums.execute("SELECT 1 FROM traces LIMIT 1").fetchone() is not None

    def take_traces(self, ids: Sequence[str]) -> list[StoredTrace]:
        """Those of these that are remembered, which are forgotten then."""
        of = f"FROM traces WHERE id IN ({', '.join('?' * len(ids))})"
        if found := [_trace(*row) for row in self._sums.execute(f"SELECT id, items, written {of}", ids)]:
            self._sums.execute(f"DELETE {of}", ids)
        return found

    def traces(self) -> Iterator[StoredTrace]:
        """Those that are left."""
        return (_trace(*row) for row in self._sums.execute("SELECT id, items, written FROM traces ORDER BY id"))

    def artifacts(self, *classes: str) -> Iterator[int]:
        """Each artifact that is counted, by id; of these classes, if any is given."""
        of = f"AND class IN ({', '.join('?' * len(classes))})" if classes else ""
        every = f"SELECT DISTINCT artifact FROM sums WHERE artifact > 0 {of} ORDER BY artifact"  # noqa: S608  question marks
        return (artifact for (artifact,) in self._sums.execute(every, classes))

    def by_class(self) -> dict[str, Total]:
        """Every class that has anything."""
        return {name: Total(artifacts, _sum(counts)) for name, artifacts, *counts in self._sums.execute(_BY_CLASS)}

    def lines(self, of_class: str | None = None) -> Iterator[Line]:
        """Every class of every artifact, or one class."""
        return (Line(name, artifact, _sum(counts)) for name, artifact, *counts in self._sums.execute(_LINES, (of_class,)))

    def close(self) -> None:
        """Forget all of it."""
        self._sums.close()


def _sum(counts: list[int]) -> Sum:
    objects, size, *ages, oldest, newest = counts
    return Sum(objects, size, oldest, newest, ages)


def _trace(id_: str, items: int, written: float | None) -> StoredTrace:
    return StoredTrace(id_, items, None if written is None else datetime.fromtimestamp(written, UTC))
