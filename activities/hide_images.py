"""Step 4: hide the images that the deletion's snapshots named and no other snapshot does. They are unreadable at once.

Their bytes stay for a grace, since a client may have been told before that they exist (activities/images/transitions.py).
"""

from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity

from activities.database import Database
from activities.images import owed
from activities.images.work import ImageWork
from activities.ledger import holds
from activities.ledger.held import IMAGES_HELD
from artifact_deletion.errors import NotYet
from workflows.steps import HIDE_IMAGES, Deletion, ImagesHidden

_SOON = timedelta(seconds=2)


@dataclass(frozen=True)
class HideImages:
    """Needs the ledger, the backend's rows and the store."""

    database: Database
    work: ImageWork | None
    """None: this worker is set to keep images, or its store cannot hide them."""

    @activity.defn(name=HIDE_IMAGES.name, no_thread_cancel_exception=True)
    def hide_images(self, deletion: Deletion) -> ImagesHidden:
        """Returns when each image is hidden, named by another snapshot, absent or left over.

        Raises NotYet while it is not known what all snapshots name, or an image is being purged. Raises StoreUnavailable, Held.
        """
        with self.database.write() as session:
            projects = owed.projects(session, deletion.deletion_id)
            held = [one for one in projects if holds.placed_on_project(session, one[1])]
            owed.leave_over(session, deletion.deletion_id, held, IMAGES_HELD)
            if self.work is None:
                owed.leave_over(session, deletion.deletion_id, projects, owed.IMAGES_STAY)
                projects = []
        for organization, project in (one for one in projects if one not in held):
            self._hide(deletion.deletion_id, organization, project)
        with self.database.read() as session:
            total = owed.total(session, deletion.deletion_id)
        hidden = total.hidden + total.purged + total.restored
        return ImagesHidden(hidden=hidden, kept=total.kept, left_over=total.left_over.total())

    def _hide(self, deletion_id: str, organization_id: int, project_id: int) -> None:
        assert self.work is not None  # noqa: S101  or it was left over
        self.work.catch_up(project_id)
        project = self.work.on(organization_id, project_id, deletion_id)
        every, after = True, None
        while True:
            with self.database.read() as session:
                pages = owed.undecided(session, deletion_id, project.decisions.project_id, after)
            if not pages:
                break
            # Before anything is written down: the project's workflow hides that too, once this step has ended.
            self.work.guard.watch.refuse_held(organization_id, deletion_id, project_id)
            absent = project.requests.hide(project.decisions.begin(pages))
            every &= project.decisions.end(pages, absent)
            after = pages[-1].key
        if not every:
            raise NotYet("images that it names are being purged for another deletion: it waits for the end of that", _SOON)
