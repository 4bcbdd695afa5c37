"""One look at a project: its listing, key by key, beside what the database says of each, then its rows. Nothing is written.

Neither a listing nor rows are ever in memory at once, and both go on changing. So the listing comes first, and each thousand of
its keys is judged by what the database says a moment later: a row that came since makes a key living, and a deletion owes what
it has not yet deleted.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from activities.backend.contract import ArtifactRef, Backend
from activities.backend.owners import FOREIGN, Owner
from activities.backend.shared_images import is_image
from activities.database import Database
from activities.images.index import Index
from activities.reconcile.facts import Project, facts_of, image_facts_of
from activities.reconcile.judge import Class, judge_image, judge_key
from activities.reconcile.rows import CheckRows, RowsLook, Seen
from activities.reconcile.stored import Stored, Sum, stored
from activities.reconcile.tally import Tally
from activities.reconcile.traces import CheckTraces
from activities.run_all import ahead, between_requests
from activities.stores.objects import ObjectStore
from activities.stores.traces import ListsTraces, TraceStore
from artifact_deletion.errors import TraceStoreRefused, TraceStoreUnavailable

DANGLING = "dangling_"
"""Before a kind of key: the class of rows that name one in vain."""
_KEYS_A_QUERY = 1000
_IMAGES_A_QUERY = 10_000
"""To learn that no snapshot names an image, the index is read from end to end."""


@dataclass
class Reconciliation:
    """Run `list_objects` to its end, then `check_rows` and `check_traces`; then the tally is complete."""

    database: Database
    backend: Backend
    store: ObjectStore
    traces: TraceStore | None
    requests: Executor
    quarantine: str
    """Where copies of hidden images lie."""
    project: Project
    older_than: timedelta
    now: datetime
    tally: Tally = field(default_factory=Tally)
    rows: RowsLook = field(default_factory=RowsLook)
    why_no_traces: str | None = None
    """Why traces were not looked at, if they were not."""
    _seen: Seen = field(default_factory=Seen)
    _images: list[tuple[str, Sum, bool]] = field(default_factory=list)
    """Each with what it comes to, and whether it is hidden."""

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

    def check_traces(self) -> Iterator[int]:
        """How many traces or ids were looked at, now and then. Raises DatabaseUnavailable.

        Where the trace store cannot be asked, which a worker that deletes objects need not be able to, nothing is counted.
        """
        if not isinstance(self.traces, ListsTraces):
            self.why_no_traces = "no trace store that can list is configured"
            return
        of = self.project, self.older_than, self.now, self.tally
        try:
            yield from CheckTraces(self.database, self.backend, self.traces, *of).check()
        except (TraceStoreRefused, TraceStoreUnavailable) as failed:
            self.why_no_traces = str(failed)

    # Judging ------------------------------------------------------------------------------------------------------------

    def _judge(self, prefix: str, part: Sequence[Stored], *, is_quarantine: bool) -> None:
        owned: list[tuple[Stored, str, Owner]] = []
        for one in part:
            key = one.key[len(prefix) :]
            if image := self._copied_image(key) if is_quarantine else self._image(key):
                self._images.append((image, one.sum, is_quarantine or not one.is_readable))
            else:
                whose = FOREIGN if is_quarantine else self.backend.owner_of(key, self.project.organization_id, self.project.id)
                owned.append((one, key, whose))
        if owned:
            self._judge_keys(prefix, owned)
        if len(self._images) >= _IMAGES_A_QUERY:
            self._judge_images()

    def _image(self, key: str) -> str:
        """The hash of the image that lies there, or nothing."""
        name, shared = key.rpartition("/")[2], self.backend.shared_images
        if shared is None or not is_image(name):
            return ""
        return name if key in shared.keys(self.project.organization_id, self.project.id, name) else ""

    def _copied_image(self, key: str) -> str:
        """The same of a key in quarantine, where a round's number stands after that of the image."""
        name, _, round_ = key.rpartition(".")
        return self._image(name) if round_.isdecimal() else ""

    def _judge_keys(self, scope: str, owned: Sequence[tuple[Stored, str, Owner]]) -> None:
        sums, leftovers = defaultdict[tuple[str, int], Sum](Sum), set[tuple[int, int]]()
        with self.database.read(snapshot=True) as session:
            facts, names = facts_of(session, self.backend, self.project, scope, {key: owner for _, key, owner in owned})
        named = {one.key for one in names.keys if not one.is_derived}.union(facts.named)
        for one, key, owner in owned:
            judged = judge_key(scope, key, owner, facts, is_old=one.sum.is_older(self.older_than, self.now))
            sums[judged, owner.artifact].add(one.sum)
            if judged is Class.LEFTOVER:
                leftovers.add((owner.artifact, owner.base))
            if key in named and one.is_readable:
                self._seen.add(one.key)
        self.tally.add(sums)
        self.tally.add_leftovers(leftovers)

    def _judge_images(self) -> None:
        if not self._images:
            return
        index, sums = Index(self.backend), defaultdict[tuple[str, int], Sum](Sum)
        with self.database.read(snapshot=True) as session:
            facts = image_facts_of(session, index, self.project.id, {image for image, _, _ in self._images})
        for image, of_image, is_hidden in self._images:
            sums[judge_image(image, facts, is_hidden=is_hidden), 0].add(of_image)
        self.tally.add(sums)
        self._images.clear()
