"""The end of a bulk deletion: what hangs from a project beside its artifacts goes last, and only if none of them is there."""

import itertools

import pytest
from sqlalchemy import insert, select, update

from activities.backend.tables import Artifact, BuildConfiguration
from activities.ledger import holds
from activities.ledger.holds import On
from artifact_deletion.bulk import BulkRequest
from artifact_deletion.errors import NotYet
from demo.world import Project, screen
from tests.stack import Stack, steps_of
from workflows.bulk_steps import CLOSE_BULK, BulkClosed

TABLE = BuildConfiguration.__tablename__


@pytest.fixture
def projects(stack: Stack) -> list[Project]:
    """Two of an organization and one of another, each with a configuration."""
    acme, globex = stack.world.organization("acme"), stack.world.organization("globex")
    made = [stack.world.project(acme, "shop"), stack.world.project(acme, "app"), stack.world.project(globex, "shop")]
    with stack.database.write() as session:
        session.execute(insert(BuildConfiguration), [{"name": "Release", "project_id": one.id} for one in made])
    return made


def configured(stack: Stack) -> set[int]:
    """The projects that have one still."""
    with stack.database.read() as session:
        return set(session.execute(select(BuildConfiguration.project_id)).scalars())


def test_a_project_s_go_and_no_other_s(stack: Stack, projects: list[Project]) -> None:
    """Asked again there is nothing left to do."""
    shop, app, other = projects
    request = BulkRequest(organization_id=shop.organization_id, project_id=shop.id)
    with steps_of(stack) as steps:
        assert steps.run(CLOSE_BULK, request) == BulkClosed(remaining=0, rows={TABLE: 1})
        assert configured(stack) == {app.id, other.id}
        assert steps.run(CLOSE_BULK, request) == BulkClosed(remaining=0, rows={TABLE: 0})
        foreign = BulkRequest(organization_id=shop.organization_id, project_id=other.id)
        assert steps.run(CLOSE_BULK, foreign).rows == {TABLE: 0}
        steps.run(CLOSE_BULK, BulkRequest(organization_id=shop.organization_id))
    assert configured(stack) == {other.id}


def test_they_stay_while_an_artifact_is_there_or_only_what_has_expired_was_asked_for(
    stack: Stack, projects: list[Project]
) -> None:
    """The artifact may refer to it."""
    shop = projects[0]
    one = stack.world.snapshot(shop, {"home": screen("home")})
    with stack.database.write() as session:
        of_shop = select(BuildConfiguration.id).where(BuildConfiguration.project_id == shop.id).scalar_subquery()
        session.execute(update(Artifact).where(Artifact.id == one.id).values(build_configuration_id=of_shop))
    with steps_of(stack) as steps:
        for given in ({"project_id": shop.id}, {}, {"expired": True}):
            closed = steps.run(CLOSE_BULK, BulkRequest(organization_id=shop.organization_id, **given))
            assert closed == BulkClosed(remaining=0 if "expired" in given else 1)
    assert configured(stack) == {one.id for one in projects}


def test_a_hold_holds_them_too(stack: Stack, projects: list[Project]) -> None:
    """One on everything, on the organization or on the project; not one on another's."""
    shop, app, other = projects
    request = BulkRequest(organization_id=shop.organization_id)
    of_shop = BulkRequest(organization_id=shop.organization_id, project_id=shop.id)
    ours = [(On.EVERYTHING, ""), (On.ORGANIZATION, str(shop.organization_id)), (On.PROJECT, str(shop.id))]
    with steps_of(stack) as steps:
        for (on, on_id), asked in itertools.product(ours, (request, of_shop)):
            placed = holds.place(stack.database, on, on_id, reason="wrong one", by="user:7")
            with pytest.raises(NotYet, match="held since"):
                steps.run(CLOSE_BULK, asked)
            with stack.database.write() as session:
                holds.lift(session, [placed.id], by="user:7")
        assert configured(stack) == {one.id for one in projects}
        holds.place(stack.database, On.ORGANIZATION, str(other.organization_id), reason="another", by="user:7")
        holds.place(stack.database, On.PROJECT, str(other.id), reason="another", by="user:7")
        kept = holds.place(stack.database, On.PROJECT, str(app.id), reason="another", by="user:7")
        assert steps.run(CLOSE_BULK, of_shop).rows == {TABLE: 1}
        with stack.database.write() as session:
            holds.lift(session, [kept.id], by="user:7")
        assert steps.run(CLOSE_BULK, request).rows == {TABLE: 1}
