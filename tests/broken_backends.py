"""Backends that break the contract in one place each, and the test of the suite that finds it: all of these must fail.

Not collected by itself: test_backend_conformance.py runs it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from activities.backend.contract import ArtifactRef, Cascade, Locked, NamedKey, Names, Places, places_of
from activities.database import Database
from conformance.backend import OF_OURS
from examples.own_backend import test_deletion
from examples.own_backend.deletion import BUILDS, SHOTS, OwnBackend
from examples.own_backend.tables import Base, Shot

FOUND_BY: dict[type[OwnBackend], str] = {}


def found_by(test: str) -> Callable[[type[OwnBackend]], type[OwnBackend]]:
    def note(broken: type[OwnBackend]) -> type[OwnBackend]:
        FOUND_BY[broken] = test
        return broken

    return note


@found_by("test_own_prefixes_cover_nothing_of_others")
class PrefixWithoutSlash(OwnBackend):
    def prefix_of(self, artifact: ArtifactRef) -> str:
        return super().prefix_of(artifact)[:-1]


@found_by("test_an_artifact_that_is_gone_is_looked_for_in_its_own_organization")
class PrefixWithoutOrganization(OwnBackend):
    def prefix_of(self, artifact: ArtifactRef) -> str:
        return f"builds/{artifact.id}/"


@found_by("test_every_key_that_rows_name_is_collected")
class NamesNothing(OwnBackend):
    def read_row(self, *_: object) -> None:
        """As if there were nothing to read."""


@found_by("test_a_key_outside_its_own_prefix_is_a_stray")
class TakesWhatIsNamed(OwnBackend):
    def survey(self, session: Session, known: Mapping[int, int | None], organization_id: int) -> tuple[Places, Names]:
        places, names = super().survey(session, known, organization_id)
        return places, Names([*names.keys, *(NamedKey("shot", one.artifact, str(one.key)) for one in names.strays)])


@found_by("test_a_survey_knows_present_gone_lost_and_moved")
class BelievesTheRequest(OwnBackend):
    def survey(self, session: Session, known: Mapping[int, int | None], organization_id: int) -> tuple[Places, Names]:
        found = dict.fromkeys(self.find(session, known), (organization_id, organization_id))
        return places_of(found, known, organization_id), Names()


@found_by("test_the_schema_as_it_is_is_known")
class ForgetsATable(OwnBackend):
    parts = (BUILDS,)  # type: ignore[assignment]


@found_by("test_all_rows_go_and_no_others")
class ParentsFirst(OwnBackend):
    parts = (BUILDS, SHOTS)


@found_by("test_locking_says_where_artifacts_are")
class PassesOverOthers(OwnBackend):
    def lock(self, session: Session, artifact_ids: Collection[int], organization_id: int) -> Locked:
        places = super().lock(session, artifact_ids, organization_id).places
        return Locked({one: where for one, where in places.items() if where[1] == organization_id})


@found_by("test_a_locked_artifact_cannot_change")
class LocksNothing(OwnBackend):
    def lock(self, session: Session, artifact_ids: Collection[int], organization_id: int) -> Locked:  # noqa: ARG002
        return Locked(self.find(session, artifact_ids))


@found_by("test_all_rows_go_and_no_others")
class TakesTooMuch(OwnBackend):
    def delete(self, session: Session, artifacts: Sequence[ArtifactRef], locked: Locked) -> Cascade:
        session.execute(delete(Shot).where(Shot.build_id == max(OF_OURS)))
        return super().delete(session, artifacts, locked)


@found_by("test_all_rows_go_and_no_others")
class MissesRows(OwnBackend):
    def delete(self, session: Session, artifacts: Sequence[ArtifactRef], locked: Locked) -> Cascade:
        cascade = super().delete(session, artifacts, locked)
        cascade.ids.pop(Shot.__tablename__)
        return cascade


@found_by("test_a_row_that_goes_with_two_artifacts_ties_them")
class TiesNone(OwnBackend):
    def look(self, session: Session, artifacts: Sequence[ArtifactRef]) -> Cascade:
        cascade = super().look(session, artifacts)
        cascade.ids["comparisons"] = {1}
        return cascade


@found_by("test_a_transaction_that_fails_leaves_everything")
class Commits(OwnBackend):
    def delete(self, session: Session, artifacts: Sequence[ArtifactRef], locked: Locked) -> Cascade:
        cascade = super().delete(session, artifacts, locked)
        session.commit()
        return cascade


@found_by("test_a_key_that_came_after_collecting_is_named_when_its_row_goes")
class ForgetsNames(OwnBackend):
    def delete(self, session: Session, artifacts: Sequence[ArtifactRef], locked: Locked) -> Cascade:
        return Cascade(super().delete(session, artifacts, locked).ids)


@found_by("test_a_new_table_that_refers_to_an_artifacts_is_refused_by_name")
class LooksAtNoSchema(OwnBackend):
    def refuse_unknown_tables(self) -> None:
        """As if there were none."""


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer: it locks by itself
class TestBroken(test_deletion.TestOwnBackend):
    @pytest.fixture(params=FOUND_BY, ids=lambda broken: broken.__name__)
    def backend(self, request: pytest.FixtureRequest, database_url: str) -> Iterator[OwnBackend]:
        database = Database(database_url)
        Base.metadata.create_all(database.engine)
        yield request.param(database)
        database.dispose()
