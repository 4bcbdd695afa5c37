"""Sentry's schema and the example of tables of one's own keep to one contract, on SQLite and on PostgreSQL."""

import re
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from activities.backend import tables
from activities.backend.contract import ArtifactRef, Backend
from activities.backend.keys import Scopes, artifact_prefix, comparison_prefix
from activities.backend.sentry import SentryBackend
from activities.database import Database
from conformance.backend import BackendConformance
from examples.own_backend import test_deletion
from tests.broken_backends import FOUND_BY
from tests.stack import ROOT

pytestmark = pytest.mark.thorough

_BASES = 1_000_000
"""The id of an artifact's base less its own."""


@pytest.mark.thorough
def test_each_backend_that_breaks_the_contract_is_found_out() -> None:
    """A suite that passes whatever it is given promises nothing: each of these breaks one thing, and a test fails for it."""
    these = " or ".join(f"({test} and {broken.__name__})" for broken, test in FOUND_BY.items())
    command = [sys.executable, "-m", "pytest", "tests/broken_backends.py", "--all", "-q", "-rA", "-p", "no:cacheprovider"]
    ended = subprocess.run([*command, "-k", these], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    said = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)\[(\w+)", ended.stdout, re.MULTILINE)
    assert {(outcome, test, name) for outcome, test, name in said} == {
        ("FAILED", test, broken.__name__) for broken, test in FOUND_BY.items()
    }


class TestOwnBackend(test_deletion.TestOwnBackend):
    @pytest.fixture
    def url(self, database_url: str) -> str:
        return database_url


@pytest.mark.thorough
class TestSentry(BackendConformance):
    @pytest.fixture
    def backend(self, database: Database) -> Backend:
        return SentryBackend(database, Scopes("{usecase}/{organization_id}/{project_id}/", ("preprod", "snapshots")))

    def add(self, session: Session, organization_id: int, artifact_id: int) -> set[str]:
        project = project_of(session, organization_id)
        mine = ArtifactRef(organization_id, project, artifact_id)
        head, base = (add_one(session, project, one) for one in (artifact_id, artifact_id + _BASES))
        own, compared = artifact_prefix(mine), comparison_prefix(mine, artifact_id + _BASES)
        keys = {"manifest_key": f"{own}manifest.json", "head_images_key": f"{own}images.json"}
        head.extras = keys
        icon = f"icn_{artifact_id}"
        session.add_all(
            [
                tables.MobileAppInfo(preprod_artifact_id=artifact_id, app_icon_id=icon),
                tables.InstallableArtifact(preprod_artifact_id=artifact_id, url_path=str(artifact_id)),
                tables.ComparisonApproval(preprod_artifact_id=artifact_id),
                tables.SnapshotComparison(
                    head_snapshot_metrics_id=head.id,
                    base_snapshot_metrics_id=base.id,
                    extras={"comparison_key": f"{compared}comparison.json"},
                ),
            ]
        )
        return {*keys.values(), f"{compared}comparison.json", f"{organization_id}/{project}/{icon}"}

    def name(self, session: Session, artifact: ArtifactRef, key: str) -> None:
        metrics = tables.SnapshotMetrics
        of_it = metrics.preprod_artifact_id == artifact.id
        extras: dict[str, Any] = session.execute(select(metrics.extras).where(of_it)).scalar_one()
        session.execute(update(metrics).where(of_it).values(extras={**extras, "head_images_key": key}))

    def move(self, session: Session, artifact: ArtifactRef, organization_id: int) -> None:
        there = select(tables.Project.id).where(tables.Project.organization_id == organization_id).scalar_subquery()
        session.execute(update(tables.Artifact).where(tables.Artifact.id == artifact.id).values(project_id=there))


def project_of(session: Session, organization_id: int) -> int:
    """Its first project, made with it. Like organizations, projects have ids that begin like another's."""
    if session.get(tables.Organization, organization_id) is None:
        session.add(tables.Organization(id=organization_id, slug=str(organization_id)))
        session.flush()
        session.add(tables.Project(id=organization_id * 10 + 1, slug="app", organization_id=organization_id))
        session.flush()
    return organization_id * 10 + 1


def add_one(session: Session, project: int, artifact_id: int) -> tables.SnapshotMetrics:
    """An artifact with files and the result of a size comparison with itself. Returns its metrics."""
    files = [tables.File(name=name, type="x") for name in ("build", "installable", "analysis", "result")]
    session.add_all(files)
    session.flush()
    build, installable, analysis, result = (one.id for one in files)
    session.add(
        tables.Artifact(id=artifact_id, project_id=project, file_id=build, installable_app_file_id=installable, extras={})
    )
    session.flush()
    size = tables.SizeMetrics(preprod_artifact_id=artifact_id, analysis_file_id=analysis)
    metrics = tables.SnapshotMetrics(preprod_artifact_id=artifact_id, extras={})
    session.add_all([size, metrics])
    session.flush()
    session.add(
        tables.SizeComparison(organization_id=1, head_size_analysis_id=size.id, base_size_analysis_id=size.id, file_id=result)
    )
    return metrics
