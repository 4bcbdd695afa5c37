"""Of a project: restore hidden images that a snapshot names by now, and purge those that none names after the grace.

It is tried again and again until no image of the project is on its way: each attempt reads what has been uploaded since.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from temporalio import activity

from activities.database import Database
from activities.images import owed, rows
from activities.images.decisions import Times
from activities.images.index import lock_project
from activities.images.rows import OnItsWay, Standing
from activities.images.transitions import ImageState
from activities.images.work import ImageWork, ProjectWork
from activities.ledger import holds
from activities.ledger.schema import clock
from activities.metrics import count_images
from artifact_deletion.errors import Held, Misconfigured, NotYet
from workflows.steps import SETTLE_IMAGES, ImageProject, ImagesSettled

_AT_ONCE = timedelta(0)
_ABANDONED = timedelta(minutes=1)
"""A deletion's own step hides what it began to hide; what is older was left behind by a step that ended."""
_REFUSED = timedelta(hours=1)
"""What the store refused is tried again after this."""


@dataclass(frozen=True)
class SettleImages:
    """Needs the ledger, the backend's rows and the store."""

    database: Database
    work: ImageWork | None
    pause: timedelta
    """Between two looks at what has been uploaded: so long an image that a new snapshot names may be unreadable."""

    @activity.defn(name=SETTLE_IMAGES.name, no_thread_cancel_exception=True)
    def settle_images(self, of: ImageProject) -> ImagesSettled:
        """Returns when no image of the project is on its way. Raises NotYet until then, and StoreUnavailable."""
        work = self.work
        if work is None:
            raise Misconfigured("this worker has no store in which images are hidden, or a backend that has none")
        if self._is_over(work, of.project_id):
            return ImagesSettled()
        project = work.on(of.organization_id, of.project_id)
        with self.database.read() as session:
            looked_at = session.execute(select(clock())).scalar_one()
        try:
            work.catch_up(of.project_id)
        finally:  # a manifest that the store does not give is no reason to leave a snapshot without its images
            readable = self._restore(project)
        try:
            self._refuse_held(of.project_id)
            self._settle(project, readable, looked_at)
        except (Held, NotYet) as waits:
            raise NotYet(str(waits), self.pause) from None
        with self.database.read() as session:
            standing = rows.standing(session, of.project_id)
        raise NotYet(_said(standing, work.times), self.pause)

    def _refuse_held(self, project_id: int) -> None:
        """Raises Held before anything is decided: what a hold keeps hidden can be restored as long as it lasts."""
        with self.database.read() as session:
            holds.refuse_held(holds.placed_on_project(session, project_id))

    def _is_over(self, work: ImageWork, project_id: int) -> bool:
        """Whether no image is on its way. Under the lock: no deletion begins to hide one between two looks."""
        with self.database.write() as session:
            lock_project(session, project_id)
            if rows.standing(session, project_id) or owed.is_undecided(session, project_id):
                return False
            work.catching_up.index.prune(session, project_id)
            return True

    def _restore(self, project: ProjectWork) -> dict[str, bool]:
        """All that a snapshot names, before anything else; no hold has to be lifted for it."""
        readable: dict[str, bool] = {}
        for restored in rows.batches(self.database, project.decisions.project_id, ImageState.RESTORED, _AT_ONCE):
            readable |= project.requests.restore(restored)
        return readable

    def _settle(self, project: ProjectWork, readable: Mapping[str, bool], looked_at: datetime) -> None:
        """End what is over. `readable`: what was looked at in this attempt, and whether it has bytes."""
        project_id = project.decisions.project_id
        for restored in rows.batches(self.database, project_id, ImageState.RESTORED, _AT_ONCE):
            done = project.decisions.watched(restored.keys() & readable.keys(), looked_at)
            project.requests.stop_watching(done)
            count_images(activity.metric_meter(), missing=sum(not readable[image] for image in done))
        project.decisions.take_due()
        for purging in rows.batches(self.database, project_id, ImageState.PURGING, _AT_ONCE):
            project.decisions.hide_anew(project.requests.purge(purging))
        for over in rows.batches(self.database, project_id, ImageState.PURGED, project.decisions.times.grace):
            project.decisions.forget(over, project.requests.newer(over))
        for hiding in rows.batches(self.database, project_id, ImageState.HIDING, _ABANDONED):
            self._hide(project, {image: row for image, row in hiding.items() if not row.codes})
        for refused in rows.batches(self.database, project_id, ImageState.HIDING, _REFUSED):
            self._hide(project, refused)

    def _hide(self, project: ProjectWork, hiding: Mapping[str, OnItsWay]) -> None:
        """Except what a held deletion has yet to hide: the guard of this step knows of no deletion."""
        with self.database.read() as session:
            held = owed.held(session, project.decisions.project_id, hiding.keys())
        project.requests.hide({image: row for image, row in hiding.items() if image not in held})


def _said(standing: list[Standing], times: Times) -> str:
    """What an operator reads in *Pending Activities*."""
    by_state = {one.state: one for one in standing}
    parts = [f"{one.count:,} {one.state}" for one in standing]
    if (hidden := by_state.get(ImageState.HIDDEN)) is not None:
        until = times.until_purged
        parts.append(f"purged from {_at(hidden.oldest + until)} to {_at(hidden.newest + until)}")
    if (purged := by_state.get(ImageState.PURGED)) is not None:
        parts.append(f"remembered until {_at(purged.newest + times.grace)}")
    return f"images of the project: {', '.join(parts) or 'about to be hidden'}"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
