"""What the demo's world holds at one time, and what a deletion changed in it: by the world's own record, not the service's."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from demo.world import Sample, World

_KINDS = (
    ("images, shared by snapshots", r"/[0-9a-f]{64}"),
    ("app icons", r"/icn_[^/]+"),
    ("download archives", r"/snapshot_archives/[^/]+"),
    ("snapshot manifests", r"/objects/\d+/\d+/\d+/[^/]+"),
    ("comparisons: diff masks", r"/\d+/\d+/(?:.*/)?diff/.*\.png"),
    ("comparisons: all else", r"/\d+/\d+/.+"),
)


class DemoFailed(Exception):
    """The demo did not show what it is there to show. The message is a sentence, perhaps with the tail of a log."""


@dataclass(frozen=True)
class Inventory:
    """Every row and object of the world at one time."""

    rows: dict[tuple[str, int], dict[str, Any]]
    objects: dict[str, tuple[str, int]]
    """Etag and size by key."""

    @classmethod
    def of(cls, world: World) -> Self:
        rows = {(table, row_id): row for table, found in world.rows().items() for row_id, row in found.items()}
        return cls(rows, world.objects())


def check_exactly(what: str, doomed: set[Any], before: Mapping[Any, object], after: Mapping[Any, object]) -> None:
    """Compare with the world's own record of what goes with an artifact, which shares no rule with the service."""
    still_there = len(doomed & after.keys())
    harmed = sum(after.get(key) != value for key, value in before.items() if key not in doomed)
    new = len(after.keys() - before.keys())
    for count, one, more in (
        (still_there, "should be gone and is still there", "should be gone and are still there"),
        (harmed, "should have been left alone and is gone or changed", "should have been left alone and are gone or changed"),
        (new, "is new, though none was to be written", "are new, though none was to be written"),
    ):
        if count:
            raise DemoFailed(f"{count} {what} {one}" if count == 1 else f"{count} {what}s {more}")


def left_in_project(world: World, sample: Sample, before: Inventory, after: Inventory) -> str:
    """A table of what the project had and has, and a line for all else."""
    project, scope = sample.project, f"/project.{sample.project.id}/"
    artifacts = {row["id"] for (table, _), row in before.rows.items() if _is_artifact_of(table, row, project.id)}
    rows = world.rows_of(artifacts)

    def counts(now: Inventory) -> dict[str, int]:
        kinds = Counter(kind_of(key) for key in now.objects if scope in key)
        elsewhere = sum(scope not in key for key in now.objects)
        return {
            "artifacts": sum(_is_artifact_of(table, row, project.id) for (table, _), row in now.rows.items()),
            "rows of artifacts, trace items": len(rows & now.rows.keys()),
            **{name: kinds[name] for name, _ in _KINDS},
            "objects elsewhere, file blobs": elsewhere,
        }

    had, has = counts(before), counts(after)
    lines = [f"  {f'Project {project.slug}':<34}{'before':>7}{'deleted':>9}{'left':>6}"]
    lines += [f"  {name:<34}{had[name]:>7}{had[name] - has[name]:>9}{has[name]:>6}" for name in had]
    return "\n".join(lines)


def _is_artifact_of(table: str, row: Mapping[str, Any], project_id: int) -> bool:
    return table == "sentry_preprodartifact" and bool(row["project_id"] == project_id)


def kind_of(key: str) -> str:
    return next((name for name, pattern in _KINDS if re.search(f"{pattern}$", key)), "other")
