"""A mistake that a person could make in our code, and the tests that should notice: see mutants.py."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutation:
    """One wrong line, or a few."""

    name: str
    file: str
    old: str
    """Stands in the file exactly once."""
    new: str
    tests: tuple[str, ...]
    """pytest's names of the tests that should notice; the first that does ends the run."""

    def mutated(self, root: Path) -> str:
        """The file as it would be. Raises ValueError if the old text does not stand there exactly once."""
        content = (root / self.file).read_text()
        if (times := content.count(self.old)) != 1:
            raise ValueError(f"{self.name}: the text to replace stands {times} times in {self.file}")
        return content.replace(self.old, self.new)
