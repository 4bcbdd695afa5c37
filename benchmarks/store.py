"""The store that answers at once as a server to start and stop, and its own log of what it was asked to delete."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.data import Doomed
from demo.servers import Server, listens
from workflows.steps import PAGE_KEYS

_SPAN = 4
_SCRIPT = Path(__file__).with_name("instant_store.py")


class Asked(NamedTuple):
    """A request that deletes: when it came, and what it named."""

    at: float
    keys: tuple[str, ...]


class InstantStore(Server):
    """See instant_store.py."""

    name = "instant-store"

    def __init__(self, folder: Path, *, logs: bool = False, pause_s: float = 0) -> None:
        super().__init__(folder, ports=1)
        self._logged = self.folder / "deleted.log"
        self._options: list[str | Path] = [self._logged, str(pause_s)] if logs else []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def hold(self, doomed: Doomed) -> None:
        """Its manifests, which is all that a deletion reads."""
        for base in doomed.bases:
            (self.folder / f"{base}.json").write_bytes(doomed.manifest(base))

    def asked(self) -> list[Asked]:
        """Every request that deletes so far, in the order in which they came."""
        lines = self._logged.read_text().splitlines() if self._logged.exists() else []
        fields = [line.split("\t") for line in lines]
        return [Asked(float(at), tuple(keys)) for at, *keys in fields]

    def _command(self) -> Sequence[str | Path]:
        return [sys.executable, _SCRIPT, str(self._ports[0]), self.folder, *self._options]

    def _answers(self) -> bool:
        return listens(self._ports[0])


def steady_rate(asked: Sequence[Asked]) -> float:
    """Keys a second while pages were waiting all along: the median over every four full pages in a row.

    The median, since a machine that is busy with something else makes some late, and those that catch up come sooner.
    """
    full = [number for number, one in enumerate(asked) if len(one.keys) == PAGE_KEYS]
    spans = [asked[began : ended + 1] for began, ended in zip(full, full[_SPAN:], strict=False)]
    return statistics.median(sum(len(one.keys) for one in span[:-1]) / (span[-1].at - span[0].at) for span in spans)


def most_in_a_second(asked: Sequence[Asked]) -> int:
    """Keys of the second that had most of them, wherever it begins."""
    return max(sum(len(one.keys) for one in asked if began.at <= one.at < began.at + 1) for began in asked)
