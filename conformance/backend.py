"""What every backend must do: subclass `BackendConformance`, give it a `backend` on empty tables, and say how rows come there.

class TestMyBackend(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend: ...

    def add(self, session: Session, organization_id: int, artifact_id: int) -> set[str]: ...

    def name(self, session: Session, artifact: ArtifactRef, key: str) -> None: ...

    def move(self, session: Session, artifact: ArtifactRef, organization_id: int) -> None: ...
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import MetaData, select, text
from sqlalchemy.orm import Session

from activities.backend.contract import ArtifactRef, Backend, Cascade, Names, OwnPrefix, Places, PrefixKind, UnreadableManifest
from activities.database import Database
from artifact_deletion.errors import DatabaseUnavailable, SchemaDrift

OURS, THEIRS = 1, 11
"""Two organizations."""
OF_OURS, OF_THEIRS = (4, 42, 421), (5, 52)
"""Their artifacts. As texts some ids begin like others, and so do keys that are made of them."""
NEVER = 9
"""An artifact that was never there."""
STRAYS: dict[str, Callable[[str, str], str]] = {
    "another's": lambda _own, other: f"{other}x.png",
    "in no folder": lambda _own, _other: "x.png",
    "the folder itself": lambda own, _other: own,
    "without its slash": lambda own, _other: own[:-1],
    "a neighbour's": lambda own, _other: f"{own[:-1]}2/x.png",
    "a level up": lambda own, _other: f"{own}../x.png",
    "an empty segment": lambda own, _other: f"{own}/x.png",
    "after a slash": lambda own, _other: f"/{own}x.png",
    "with a control character": lambda own, _other: f"{own}x\n.png",
    "with a backslash": lambda own, _other: f"{own}..\\x.png",
    "too long": lambda own, _other: f"{own}{'x' * 1024}",
}
NO_MANIFESTS = (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000)
Rows = dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]
"""By table and primary key."""


class BackendConformance(ABC):
    """The contract of `activities.backend.contract.Backend`, on empty tables. Keys go into rows alone: no store is asked."""

    @abstractmethod
    def add(self, session: Session, organization_id: int, artifact_id: int) -> set[str]:
        """Add an artifact with rows in every table that goes with it. Returns all keys that they name, each its own."""

    @abstractmethod
    def name(self, session: Session, artifact: ArtifactRef, key: str) -> None:
        """Let a row of the artifact name this key, whatever it is: a new row, or one that changes."""

    @abstractmethod
    def move(self, session: Session, artifact: ArtifactRef, organization_id: int) -> None:
        """Give the artifact to the other organization, which has artifacts."""

    @pytest.fixture
    def keys(self, backend: Backend) -> dict[int, set[str]]:
        """The keys that rows name, by artifact."""
        every = [(OURS, one) for one in OF_OURS] + [(THEIRS, one) for one in OF_THEIRS]
        with backend.database.write() as session:
            return {artifact: self.add(session, organization, artifact) for organization, artifact in every}

    @pytest.fixture
    def refs(self, backend: Backend, keys: dict[int, set[str]]) -> dict[int, ArtifactRef]:
        """Every artifact, where it is."""
        with backend.database.read() as session:
            found = backend.find(session, keys)
        return {one: ArtifactRef(organization, project, one) for one, (project, organization) in found.items()}

    # Where artifacts are

    def test_artifacts_are_where_they_were_put(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        assert {one: ref.organization_id for one, ref in refs.items()} == {
            **dict.fromkeys(OF_OURS, OURS),
            **dict.fromkeys(OF_THEIRS, THEIRS),
        }
        with backend.database.read() as session:
            living = {tuple(row) for row in session.execute(select(backend.living.subquery()))}
            assert {(one.id, one.project_id, one.organization_id) for one in refs.values()} <= living
            for one in refs.values():
                assert backend.organization_of(session, one.project_id) == one.organization_id

    def test_a_request_s_ten_thousand_ids_are_looked_for_at_once(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        with backend.database.read() as session:
            assert backend.find(session, range(1, 10_001)).keys() >= refs.keys()
            assert NEVER not in backend.find(session, [NEVER, *refs])

    def test_it_is_known_when_an_artifact_was_added(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        """After a restore that tells an artifact that is back from one that was given its id since."""
        with backend.database.read() as session:
            added = backend.added(session, [*refs, NEVER], OURS)
        assert added.keys() == set(OF_OURS)
        assert all(abs(datetime.now(UTC) - at) < timedelta(minutes=5) for at in added.values())

    def test_each_artifact_has_a_kind_and_an_age(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        """Retention looks at these, and deletes what has expired by them."""
        with backend.database.read() as session:
            aged = {row[0]: row for row in session.execute(backend.bulk.aged(backend.artifacts))}
        assert aged.keys() >= refs.keys()
        assert all(row[4] in (backend.bulk.kinds or {""}) and row[5] >= row[3] for row in aged.values())

    def test_a_survey_knows_present_gone_lost_and_moved(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        ours, theirs = refs[OF_OURS[0]], refs[OF_THEIRS[0]]
        gone = ArtifactRef(OURS, ours.project_id, NEVER)
        places, names = survey(backend, {ours.id: None, gone.id: gone.project_id, NEVER + 1: None, theirs.id: None}, OURS)
        assert (places.present, places.gone, places.lost, places.moved) == ([ours], [gone], [NEVER + 1], [theirs.id])
        named = {one.artifact for one in names.keys} | {one.artifact for one in names.strays}
        assert theirs not in named, "of others' rows nothing is looked at"

    # The keys that their rows name

    def test_every_key_that_rows_name_is_collected(self, backend: Backend, keys: dict[int, set[str]]) -> None:
        assert all(keys.values()), "or these tests would show nothing"
        places, names = survey(backend, dict.fromkeys(OF_OURS), OURS)
        for artifact in places.present:
            named = {one.key for one in names.keys if one.artifact == artifact and not one.is_derived}
            assert named == keys[artifact.id]
        assert names.strays == []

    @pytest.mark.parametrize("make", STRAYS.values(), ids=STRAYS.keys())
    def test_a_key_outside_its_own_prefix_is_a_stray(
        self, backend: Backend, refs: dict[int, ArtifactRef], make: Callable[[str, str], str]
    ) -> None:
        """A row may name anything: no such key is ever read or deleted, and no word of it is told."""
        mine = refs[OF_OURS[0]]
        with backend.database.write() as session:
            self.name(session, mine, key := make(backend.prefix_of(mine), backend.prefix_of(refs[OF_OURS[1]])))
        _, names = survey(backend, {mine.id: None}, OURS)
        assert key not in {one.key for one in names.keys}
        (stray,) = names.strays
        assert (stray.artifact, stray.key) == (mine, key)
        assert backend.why_stray(stray)
        assert key not in backend.why_stray(stray)

    def test_rows_that_change_change_the_digest(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        """So it is known that keys must be collected again."""
        mine = refs[OF_OURS[0]]
        digests = [digest(backend, mine)]
        for key in (f"{backend.prefix_of(mine)}a.png", f"{backend.prefix_of(mine)}b.png", "a stray"):
            with backend.database.write() as session:
                self.name(session, mine, key)
            digests.append(digest(backend, mine))
        assert len(set(digests)) == len(digests)
        assert digest(backend, mine) == digests[-1]

    def test_manifests_are_read_or_known_to_be_unreadable(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        """An error is never an empty list."""
        _, names = survey(backend, dict.fromkeys(refs), OURS)
        for named in (one for one in names.keys if one.is_manifest):
            for content in NO_MANIFESTS:
                with pytest.raises(UnreadableManifest):
                    backend.read_manifest(named, content)

    # Their own prefixes

    def test_own_prefixes_cover_every_key_that_rows_name(self, backend: Backend, keys: dict[int, set[str]]) -> None:
        places, names = survey(backend, dict.fromkeys(OF_OURS), OURS)
        own = backend.own_prefixes(places, names)
        assert {one.artifact_id for one in own} == set(OF_OURS) <= keys.keys()
        for named in names.keys:
            for scope in backend.scopes(named.artifact):
                assert [one for one in own if covers(one, scope + named.key)], named.kind
        for one in own:
            assert one.scope in backend.scopes(next(ref for ref in places.present if ref.id == one.artifact_id))

    def test_own_prefixes_cover_nothing_of_others(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        """Artifact 4 owns nothing of 42's, and 1/11 nothing of 11/1's: all under a prefix is deleted."""
        own = {one: exclusive(backend, ref) for one, ref in refs.items()}
        assert all(own.values())
        for one, names in own.items():
            others = [name for other, theirs in own.items() if other != one for name in theirs]
            assert [(mine, name) for mine in names for name in others if name.startswith(mine)] == []

    def test_a_listed_key_is_its_own_artifact_s_or_no_one_s(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        """What is under no row's artifact is reported as an orphan."""
        for ref in refs.values():
            key = f"{backend.prefix_of(ref)}a.png"
            assert backend.owner_of(key, ref.organization_id, ref.project_id).artifact in {ref.id, 0}
            assert backend.owner_of(key, NEVER, NEVER).artifact == 0
            assert backend.owner_of(f"x/{key}", ref.organization_id, ref.project_id).artifact == 0

    def test_an_artifact_that_is_gone_is_looked_for_in_its_own_organization(
        self, backend: Backend, refs: dict[int, ArtifactRef]
    ) -> None:
        """Without a row a request is believed where it was, so the organization must be part of the place."""
        places = [ArtifactRef(ref.organization_id, ref.project_id, NEVER) for ref in (refs[OF_OURS[0]], refs[OF_THEIRS[0]])]
        ours, theirs = (
            {one.name for one in backend.own_prefixes(Places(gone=[place]), Names())} | {backend.prefix_of(place)}
            for place in places
        )
        assert not [(one, other) for one in ours for other in theirs if one.startswith(other) or other.startswith(one)]

    def test_a_shared_key_is_still_named_until_the_last_row_that_names_it_goes(
        self, backend: Backend, refs: dict[int, ArtifactRef]
    ) -> None:
        mine = refs[OF_OURS[0]]
        _, names = survey(backend, {mine.id: None}, OURS)
        shared = {one.key for one in names.keys if one.is_shared}
        with backend.transaction() as session:
            assert backend.still_named(session, shared) == shared
            assert backend.still_named(session, shared, {mine.id}) == set()
            delete(backend, session, [mine.id])
            assert backend.still_named(session, shared) == set()

    # How their rows go

    def test_locking_says_where_artifacts_are(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        ours, theirs = refs[OF_OURS[0]], refs[OF_THEIRS[0]]
        with backend.transaction() as session:
            places = backend.lock(session, [ours.id, theirs.id, NEVER], OURS).places
        assert dict(places) == {one.id: (one.project_id, one.organization_id) for one in (ours, theirs)}

    @pytest.mark.parametrize("change", ["names another key", "is moved"])
    def test_a_locked_artifact_cannot_change(self, backend: Backend, refs: dict[int, ArtifactRef], change: str) -> None:
        """Another transaction that adds to it has to wait, and fails on its foreign key once the artifact is gone."""
        mine = refs[OF_OURS[0]]

        def happens(session: Session) -> None:
            if change == "is moved":
                self.move(session, mine, THEIRS)
            else:
                self.name(session, mine, f"{backend.prefix_of(mine)}late.png")

        with backend.transaction() as session, impatient(backend) as other:
            backend.lock(session, [mine.id], OURS)
            with pytest.raises(DatabaseUnavailable), other.write() as late:
                happens(late)
        before = rows_of(backend)
        with backend.database.write() as session:
            happens(session)
        assert rows_of(backend) != before, "or it would not have been the lock that it waited for"

    def test_all_rows_go_and_no_others(self, backend: Backend, keys: dict[int, set[str]]) -> None:
        """Counted by table, children with their parents."""
        before, deleted = rows_of(backend), OF_OURS[:2]
        with backend.transaction() as session:
            cascade = delete(backend, session, deleted)
            files = backend.delete_files(session, cascade, OURS)
        after = rows_of(backend)
        gone = {table: rows.keys() - after[table].keys() for table, rows in before.items() if rows.keys() - after[table].keys()}
        assert {table: len(ids) for table, ids in gone.items()} == cascade.rows | files.rows
        assert {table: {(one,) for one in ids} for table, ids in cascade.ids.items()} == {
            table: ids for table, ids in gone.items() if table not in files.rows
        }
        assert cascade.ids.keys() == {part.of.name for part in backend.parts}, "`add` makes rows in each of these tables"
        assert all(before[table][one] == row for table, rows in after.items() for one, row in rows.items())
        left = [str(row) for rows in after.values() for row in rows.values()]
        assert not [key for one in deleted for key in keys[one] for row in left if key in row]

    def test_a_row_that_goes_with_two_artifacts_ties_them(self, backend: Backend, keys: dict[int, set[str]]) -> None:
        """Where a hold keeps the one, the other's deletion would take the row, so it is kept too: `ties` of the part."""
        assert keys
        with backend.database.read() as session:
            living = [ArtifactRef(row[2], row[1], row[0]) for row in session.execute(backend.living)]
            looked = {one.id: backend.look(session, [one]).ids for one in living}
            ties = [part.ties for part in backend.parts if part.ties is not None]
            tied = {(one, other) for tie in ties for one, other in session.execute(tie, {"artifacts": list(looked)})}
        rows = {one: {(table, row) for table, ids in found.items() for row in ids} for one, found in looked.items()}
        assert {(one, other) for one in rows for other in rows if one != other and rows[one] & rows[other]} <= tied

    def test_artifacts_whose_rows_are_gone_are_gone(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        """And deleting them again is no trouble."""
        mine = refs[OF_OURS[0]]
        for _ in range(2):
            with backend.transaction() as session:
                cascade = delete(backend, session, [mine.id])
        assert (cascade.rows, cascade.names.keys) == ({}, [])
        places, _ = survey(backend, {mine.id: mine.project_id}, OURS)
        assert (places.gone, places.present) == ([mine], [])

    @pytest.mark.usefixtures("keys")
    def test_a_transaction_that_fails_leaves_everything(self, backend: Backend) -> None:
        before = rows_of(backend)
        with contextlib.suppress(ZeroDivisionError), backend.transaction() as session:
            backend.delete_files(session, delete(backend, session, OF_OURS), OURS)
            raise ZeroDivisionError
        assert rows_of(backend) == before

    def test_a_look_tells_what_deleting_takes(self, backend: Backend, refs: dict[int, ArtifactRef]) -> None:
        """A preview says so beforehand, and collecting seals it: all three name the same."""
        mine, before = refs[OF_OURS[0]], rows_of(backend)
        with backend.database.read() as session:
            looked = backend.look(session, [mine])
            judged = backend.judge_files(session, looked, OURS)
        assert rows_of(backend) == before
        surveyed = digest(backend, mine)
        with backend.transaction() as session:
            deleted = delete(backend, session, [mine.id])
            files = backend.delete_files(session, deleted, OURS)
        assert looked.names.digest == deleted.names.digest == surveyed
        assert (looked.ids, judged.going, judged.kept, judged.rows) == (deleted.ids, files.going, files.kept, files.rows)

    def test_a_key_that_came_after_collecting_is_named_when_its_row_goes(
        self, backend: Backend, refs: dict[int, ArtifactRef]
    ) -> None:
        mine = refs[OF_OURS[0]]
        collected = digest(backend, mine)
        with backend.database.write() as session:
            self.name(session, mine, late := f"{backend.prefix_of(mine)}late.png")
        with backend.transaction() as session:
            names = delete(backend, session, [mine.id]).names
        assert late in {one.key for one in names.keys}
        assert names.digest != collected

    # Drift

    def test_the_schema_as_it_is_is_known(self, backend: Backend) -> None:
        backend.refuse_unknown_tables()
        assert list(backend.unknown_references()) == []

    def test_a_new_table_that_refers_to_an_artifacts_is_refused_by_name(self, backend: Backend) -> None:
        """Its rows would be left behind, or keep an artifact's from going."""
        new = {f"new_{number}": part.of.name for number, part in enumerate(backend.parts)}
        with backend.database.write() as session:
            for name, table in new.items():
                columns = f'id INTEGER PRIMARY KEY, one BIGINT REFERENCES "{table}" (id)'
                session.execute(text(f"CREATE TABLE {name} ({columns})"))
        with pytest.raises(SchemaDrift) as refused:
            backend.refuse_unknown_tables()
        assert [name for name in new if f"{name}.one" not in str(refused.value)] == []
        assert len(backend.unknown_references()) == len(new)


def survey(backend: Backend, known: Mapping[int, int | None], organization_id: int) -> tuple[Places, Names]:
    with backend.database.read() as session:
        return backend.survey(session, known, organization_id)


def digest(backend: Backend, artifact: ArtifactRef) -> str:
    _, names = survey(backend, {artifact.id: artifact.project_id}, artifact.organization_id)
    return names.digest


def delete(backend: Backend, session: Session, artifact_ids: Collection[int]) -> Cascade:
    """As delete_rows does: lock, see where they are, delete."""
    locked = backend.lock(session, artifact_ids, OURS)
    there = [ArtifactRef(organization, project, one) for one, (project, organization) in locked.places.items()]
    return backend.delete(session, there, locked)


def covers(own: OwnPrefix, key: str) -> bool:
    return key.startswith(own.name) if own.kind in {PrefixKind.ARTIFACT, PrefixKind.COMPARISON} else key == own.name


def exclusive(backend: Backend, artifact: ArtifactRef) -> set[str]:
    """The physical prefixes and keys that are this artifact's alone."""
    places, names = survey(backend, {artifact.id: None}, artifact.organization_id)
    own = [one for one in backend.own_prefixes(places, names) if one.kind in {PrefixKind.ARTIFACT, PrefixKind.KEY}]
    assert all(one.name.endswith("/") for one in own if one.kind is PrefixKind.ARTIFACT)
    return {one.name for one in own}


@contextlib.contextmanager
def impatient(backend: Backend) -> Iterator[Database]:
    """Another connection, which does not wait long for a lock."""
    other = Database(backend.database.engine.url.render_as_string(hide_password=False), lock_timeout_s=0.2)
    try:
        yield other
    finally:
        other.dispose()


def rows_of(backend: Backend) -> Rows:
    """All rows of all tables but the ledger's."""
    metadata = MetaData()
    metadata.reflect(backend.database.engine)
    tables = [table for table in metadata.sorted_tables if not table.name.startswith("artifact_deletion")]
    with backend.database.read() as session:
        return {
            table.name: {tuple(row[: len(table.primary_key)]): tuple(row) for row in session.execute(_by_key(table))}
            for table in tables
        }


def _by_key(table: Any) -> Any:
    """The columns of the primary key first."""
    key = [*table.primary_key] or [*table.columns]
    return select(*key, *(one for one in table.columns if one not in set(key)))
