"""Proves that OwnBackend keeps to the contract. Three methods say how rows come into these tables."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from activities.backend.contract import ArtifactRef, Backend
from activities.database import Database
from conformance.backend import BackendConformance
from examples.own_backend.deletion import OwnBackend
from examples.own_backend.tables import Base, Build, Shot


class TestOwnBackend(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/ci.db"

    @pytest.fixture
    def backend(self, url: str) -> Iterator[Backend]:
        database = Database(url)
        Base.metadata.create_all(database.engine)
        yield OwnBackend(database)
        database.dispose()

    def add(self, session: Session, organization_id: int, artifact_id: int) -> set[str]:
        keys = {f"{organization_id}/{artifact_id}/{name}.png" for name in ("login", "cart")}
        session.add(Build(id=artifact_id, owner_id=organization_id))
        session.flush()
        session.add_all(Shot(build_id=artifact_id, key=key) for key in keys)
        return keys

    def name(self, session: Session, artifact: ArtifactRef, key: str) -> None:
        session.add(Shot(build_id=artifact.id, key=key))

    def move(self, session: Session, artifact: ArtifactRef, organization_id: int) -> None:
        session.execute(update(Build).where(Build.id == artifact.id).values(owner_id=organization_id))
