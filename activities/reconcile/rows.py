"""The other direction: keys that rows name, and under which there is nothing that can be read."""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from sqlalchemy import Integer, bindparam
from sqlalchemy.orm import Session

from activities.backend.contract import Backend, NamedKey, Names
from activities.database import Database
from activities.listing import short
from activities.reconcile.facts import Project
from activities.run_all import between_requests, run_all
from activities.stores.objects import ObjectAbsent, ObjectStore, ObjectTooLarge

_ROWS_A_QUERY = 1000
KEYS_KEPT = 10_000
"""Dangling keys that are kept for a person who asks for them."""


def artifacts_of(database: Database, backend: Backend, project: Project) -> Iterator[int]:
    """Ids of the project's artifacts that have a row, in order. A thousand are read at a time."""
    artifact, in_project, _ = backend.living.selected_columns
    page = (
        backend.living.where(in_project == bindparam("project"), artifact > bindparam("after"))
        .order_by(artifact)
        .limit(bindparam("size", type_=Integer()))
    )
    after = 0
    while True:
        with database.read() as session:
            values = {"project": project.id, "after": after, "size": _ROWS_A_QUERY}
            ids = [row[0] for row in session.execute(page, values)]
        if not ids:
            return
        yield from ids
        after = ids[-1]


class Seen:
    """Named keys that the listing has shown: 8 bytes for each, and none for all other objects."""

    def __init__(self) -> None:
        """Add all of them, then ask."""
        self._keys = array("Q")
        self._is_sorted = True

    def add(self, physical: str) -> None:
        """Remember one."""
        self._keys.append(short(physical))
        self._is_sorted = False

    def __contains__(self, physical: str) -> bool:
        if not self._is_sorted:
            self._keys = array("Q", sorted(self._keys))
            self._is_sorted = True
        key = short(physical)
        place = bisect_left(self._keys, key)
        return place < len(self._keys) and self._keys[place] == key


@dataclass
class RowsLook:
    """What was found so far."""

    artifacts: int = 0
    dangling: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Of the last rows looked at, by kind and artifact."""
    keys: list[tuple[str, int, str]] = field(default_factory=list)
    """(kind, artifact, key) of the first dangling ones."""
    strays: Counter[str] = field(default_factory=Counter)
    """By reason: keys that rows name and that are not their artifact's own. They are not looked for."""


@dataclass(frozen=True)
class CheckRows:
    """Reads rows a thousand artifacts at a time, and asks the store for what the listing has not shown."""

    database: Database
    backend: Backend
    store: ObjectStore
    requests: Executor

    def check(self, project: Project, seen: Seen) -> Iterator[RowsLook]:
        """The same look after each thousand artifacts. Raises StoreUnavailable."""
        look = RowsLook()
        artifacts = artifacts_of(self.database, self.backend, project)
        while ids := list(islice(artifacts, _ROWS_A_QUERY)):
            with self.database.read(snapshot=True) as session:
                named, names = self._named(session, project, ids)
            look.strays.update(self.backend.why_stray(one) for one in names.strays if one.artifact.id in ids)
            unseen = [one for one in named if not any(place in seen for place in self._places(one))]
            absent = [one for one in run_all(self.requests, [partial(self._absent, one) for one in unseen]) if one]
            dangling = self._still_named(project, absent)
            look.artifacts += len(ids)
            look.dangling = Counter((one.kind, one.artifact.id) for one in dangling)
            look.keys += [(one.kind, one.artifact.id, one.key) for one in dangling][: KEYS_KEPT - len(look.keys)]
            between_requests(look.artifacts, 0)
            yield look

    def _named(self, session: Session, project: Project, ids: Collection[int]) -> tuple[list[NamedKey], Names]:
        """Each key that columns of these artifacts name; of a comparison its head's."""
        _, names = self.backend.survey(session, dict.fromkeys(ids), project.organization_id)
        wanted = set(ids)
        return [one for one in names.keys if not one.is_derived and one.artifact.id in wanted], names

    def _still_named(self, project: Project, absent: Sequence[NamedKey]) -> list[NamedKey]:
        """A deletion may have taken rows and objects since the rows were read."""
        if not absent:
            return []
        with self.database.read(snapshot=True) as session:
            named, _ = self._named(session, project, {one.artifact.id for one in absent})
        return sorted({*absent}.intersection(named), key=lambda one: (one.artifact.id, one.kind, one.key))

    def _absent(self, named: NamedKey) -> NamedKey | None:
        return None if any(map(self._is_readable, self._places(named))) else named

    def _is_readable(self, physical: str) -> bool:
        try:
            self.store.read(physical, 0)
        except ObjectTooLarge:
            return True
        except ObjectAbsent:
            return False
        return True

    def _places(self, named: NamedKey) -> Iterator[str]:
        return (scope + named.key for scope in self.backend.scopes(named.artifact))
