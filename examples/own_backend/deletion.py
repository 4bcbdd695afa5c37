"""How its builds are deleted.

export ARTIFACT_DELETION_ADAPTERS=examples.own_backend.deletion:adapters
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from activities.backend.contract import ArtifactRef, Backend, Names
from activities.backend.part import Part
from activities.one_of import one_of
from adapters import Adapters
from examples.own_backend.tables import Build, Shot

SHOTS = Part(Shot, one_of(Shot.build_id, "artifacts"), (Shot.build_id, Shot.key))
BUILDS = Part(Build, one_of(Build.id, "artifacts"))


class OwnBackend(Backend):
    """An artifact is a build. Its organization is its owner, and so is its project, since there are none."""

    artifacts = select(Build.id, Build.owner_id, Build.owner_id, Build.created_at)
    parts = (SHOTS, BUILDS)

    def prefix_of(self, artifact: ArtifactRef) -> str:
        """See Backend."""
        return f"{artifact.organization_id}/{artifact.id}/"

    def read_row(self, names: Names, part: Part, row: Any, artifacts: Mapping[int, ArtifactRef]) -> None:
        """See Backend."""
        if part is SHOTS:
            build = artifacts[row.build_id]
            names.add("shot", build, row.key, self.prefix_of(build))


adapters = Adapters(backend=lambda _settings, database: OwnBackend(database))
