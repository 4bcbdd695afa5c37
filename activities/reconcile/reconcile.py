"""One look at a project: its listing, key by key, beside what the database says of each, then its rows. Nothing is written.

Neither a listing nor rows are ever in memory at once, and both go on changing. So the listing comes first, and each thousand of
its keys is judged by what the database says a moment later: a row that came since makes a key living, and a deletion owes what
it has not yet deleted.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from activities.backend.contract import ArtifactRef, Backend
from activities.backend.owners import FOREIGN, KeyKind, Owner
from activities.backend.shared_images import is_image
from activities.database import Database
from activities.images.index import Index
from activities.reconcile.facts import Project, facts_of, image_facts_of
from activities.reconcile.judge import Class, judge_image, judge_key
from activities.reconcile.rows import CheckRows, RowsLook, Seen
from activities.reconcile.stored import Stored, Sum, stored
from activities.reconcile.tally import Tally
from activities.run_all import ahead, between_requests
from activities.stores.objects import ObjectStore

DANGLING = "dangling_"
"""Before a kind of key: the class of rows that name one in vain."""
_KEYS_A_QUERY = 1000
_IMAGES_A_QUERY = 10_000
"""To learn that no snapshot names an image, the index is read from end to end."""


@dataclass
class Reconciliation:
    """Run `list_objects` to its end, then `check_rows`; then the tally is complete."""

    database: Database
    backend: Backend
    store: ObjectStore
    requests: Executor
    quarantine: str
    """Where copies of hidden images lie."""
    project: Project
    older_than: timedelta
    now: datetime
    tally: Tally = field(default_factory=Tally)
    rows: RowsLook = field(default_factory=RowsLook)
    _seen: Seen = field(default_factory=Seen)
    _images: list[tuple[str, Stored]] = field(default_factory=list)

    def list_objects(self) -> Iterator[int]:
        """How many keys were looked at, now and then. Raises StoreUnavailable, DatabaseUnavailable."""
        looked = 0
        for scope in self.backend.scopes(ArtifactRef(self.project.organization_id, self.project.id, 0)):
            hides = scope and self.backend.shared_images is not None  # a listing of the whole bucket has both
            for prefix in (scope, self.quarantine + scope) if hides else (scope,):
                keys = stored(ahead(self.requests, self.store.list_under(prefix)), self.now)
                while part := list(islice(keys, _KEYS_A_QUERY)):
                    self._judge(prefix, part, is_quarantine=prefix != scope)
                    looked += len(part)
                    between_requests(looked, 0)
                    yield looked
        self._judge_images()

    def check_rows(self) -> Iterator[int]:
        """How many artifacts were looked at, now and then. Raises StoreUnavailable, DatabaseUnavailable."""
        for look in CheckRows(self.database, self.backend, self.store, self.requests).check(self.project, self._seen):
            self.rows = look
            self.tally.add({(DANGLING + kind, one): Sum(count) for (kind, one), count in look.dangling.items()})
            yield look.artifacts

    # Judging ------------------------------------------------------------------------------------------------------------

    def _judge(self, prefix: str, part: Sequence[Stored], *, is_quarantine: bool) -> None:
        owners: dict[str, tuple[str, Owner]] = {}
        for one in part:
            image, owner = self._copy_in(one.key, prefix) if is_quarantine else self._owner_of(one.key[len(prefix) :])
            owners[one.key] = prefix, owner
            if image:
                self._images.append((image, Stored(one.key, one.sum, one.is_readable and not is_quarantine)))
        self._judge_keys(owners, {one.key: one for one in part})
        if len(self._images) >= _IMAGES_A_QUERY:
            self._judge_images()

    def _owner_of(self, key: str) -> tuple[str, Owner]:
        """An image's hash, or nothing, and whose the key is."""
        organization, project, shared = self.project.organization_id, self.project.id, self.backend.shared_images
        name = key.rpartition("/")[2]
        if shared is not None and is_image(name) and key in shared.keys(organization, project, name):
            return name, Owner(KeyKind.IMAGE)
        return "", self.backend.owner_of(key, organization, project)

    def _copy_in(self, key: str, prefix: str) -> tuple[str, Owner]:
        """The same of a key in quarantine, where a round's number stands after that of the image."""
        name, _, round_ = key[len(prefix) :].rpartition(".")
        image, owner = self._owner_of(name) if round_.isdecimal() else ("", FOREIGN)
        return (image, owner) if image else ("", FOREIGN)

    def _judge_keys(self, owners: Mapping[str, tuple[str, Owner]], part: Mapping[str, Stored]) -> None:
        sums, leftovers = dict[tuple[str, int], Sum](), set[tuple[int, int]]()
        with self.database.read(snapshot=True) as session:
            facts, names = facts_of(session, self.backend, self.project, owners)
        named = {one.key for one in names.keys if not one.is_derived}
        for key, (scope, owner) in owners.items():
            if owner.kind is KeyKind.IMAGE:
                continue
            one, relative = part[key], key[len(scope) :]
            judged = judge_key(scope, relative, owner, facts, is_old=one.sum.is_older(self.older_than, self.now))
            sums.setdefault((judged, owner.artifact), Sum()).add(one.sum)
            if judged is Class.LEFTOVER:
                leftovers.add((owner.artifact, owner.base))
            if one.is_readable and (relative in named or relative in facts.named):
                self._seen.add(key)
        self.tally.add(sums)
        self.tally.add_leftovers(leftovers)

    def _judge_images(self) -> None:
        if not self._images:
            return
        index, sums = Index(self.backend), dict[tuple[str, int], Sum]()
        with self.database.read(snapshot=True) as session:
            facts = image_facts_of(session, index, self.project.id, {image for image, _ in self._images})
        for image, one in self._images:
            judged: Class = judge_image(image, facts, is_hidden=not one.is_readable)
            sums.setdefault((judged, 0), Sum()).add(one.sum)
        self.tally.add(sums)
        self._images.clear()
