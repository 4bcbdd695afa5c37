"""Which version this is."""

import tomllib
from importlib import metadata
from pathlib import Path

_NAME = "artifact-deletion"
_PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def version() -> str:
    """As it is installed; of a checkout, as its pyproject.toml says."""
    try:
        return metadata.version(_NAME)
    except metadata.PackageNotFoundError:
        return str(tomllib.loads(_PROJECT.read_text())["project"]["version"])
