"""A shop whose artifacts are tied to each other, and what may happen to its rows: for tests of what goes and what stays."""

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from activities.backend import tables
from activities.backend.contract import ArtifactRef
from activities.ledger import pages
from demo.world import Build, Comparison, Place, Project, Snapshot, World, screen
from tests.stack import Stack
from workflows.steps import Chunk

USECASES = ("preprod", "preprod_snapshots", "snapshots", "preprod_size")
ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@dataclass(frozen=True)
class Shop:
    """Two snapshots, compared, and a build beside them."""

    project: Project
    head: Snapshot
    base: Snapshot
    comparison: Comparison
    build: Build

    @property
    def organization_id(self) -> int:
        return self.project.organization_id

    def key(self, name: str) -> str:
        """A key of the head's own."""
        return f"{self.organization_id}/{self.project.id}/{self.head.id}/{name}"


def shop_of(world: World, **of_comparison: Any) -> Shop:
    project = world.project(world.organization("acme"), "shop")
    base = world.snapshot(project, {"login": screen("login"), "cart": screen("cart")})
    head = world.snapshot(project, {"login": screen("login", 1), "cart": screen("cart")})
    comparison = world.comparison(head, base, **of_comparison)
    return Shop(project, head, base, comparison, world.mobile_build(project, icon="icn_first"))


def put(stack: Stack, usecase: str, project: Project, key: str, content: bytes = b"{}") -> str:
    physical = stack.world.physical(usecase, project.organization_id, project.id, key)
    stack.s3.put_object(Bucket=stack.bucket, Key=physical, Body=content)
    return physical


def set_extras(session: Session, table: Any, row: int | None, **names: object) -> None:
    extras = session.execute(select(table.extras).where(table.id == row)).scalar_one()
    session.execute(update(table).where(table.id == row).values(extras={**(extras or {}), **names}))


def move(session: Session, artifact: int, project: Project) -> None:
    session.execute(update(tables.Artifact).where(tables.Artifact.id == artifact).values(project_id=project.id))


def ref(place: Place) -> ArtifactRef:
    """The artifact as the service names it."""
    return ArtifactRef(place.organization_id, place.project_id, place.id)


def sealed_keys(stack: Stack, chunk: Chunk) -> set[tuple[str, str]]:
    """(scope, key) of all that the chunk's pages hold."""
    with stack.database.read() as session:
        return {(page.scope, key) for page in pages.read_pages(session, chunk) for key in page.keys}


# What a row may come to name at the last moment. Each returns the key.


def rename_manifest(session: Session, shop: Shop) -> str:
    key = shop.key("second/manifest.json")
    set_extras(session, tables.SnapshotMetrics, shop.head.metrics_id, manifest_key=key)
    return key


def rename_head_images(session: Session, shop: Shop) -> str:
    key = shop.key("second/snapshot_head_images.json")
    set_extras(session, tables.SnapshotMetrics, shop.head.metrics_id, head_images_key=key)
    return key


def rename_comparison(session: Session, shop: Shop) -> str:
    key = shop.key(f"{shop.base.id}/runs/second/comparison.json")
    set_extras(session, tables.SnapshotComparison, shop.comparison.id, comparison_key=key)
    return key


def rename_icon(session: Session, shop: Shop) -> str:
    of_build = tables.MobileAppInfo.preprod_artifact_id == shop.build.id
    session.execute(update(tables.MobileAppInfo).where(of_build).values(app_icon_id="icn_second"))
    return f"{shop.organization_id}/{shop.project.id}/icn_second"


RENAMES = (rename_manifest, rename_head_images, rename_comparison, rename_icon)
