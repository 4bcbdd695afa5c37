"""The version of this service."""

import tomllib
from importlib import metadata
from pathlib import Path

_NAME = "artifact-deletion"
_PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def version() -> str:
    """The installed version, or that of a checkout's pyproject.toml."""
    try:
        return metadata.version(_NAME)
    except metadata.PackageNotFoundError:
        return str(tomllib.loads(_PROJECT.read_text())["project"]["version"])
