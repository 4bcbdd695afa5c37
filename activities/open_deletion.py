"""Step 0: serve the asks, write the deletion down, refuse a request for another's artifacts, and cut the rest into chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session
from temporalio import activity

from activities.backend.contract import Backend
from activities.database import Database
from activities.ledger import chunks, deletions, overlaps, reports
from activities.ledger.deletions import Asked, Locked
from activities.ledger.held import held_among, left_by_holds, take_out
from activities.permitted import refuse_foreign_artifacts, refuse_foreign_project
from activities.run_all import run_of_step
from activities.selection import not_expired
from artifact_deletion.errors import ArtifactNotInOrganization, InvalidRequest, NotOpen, ProjectNotInOrganization
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import DeletionRequest
from workflows.steps import OPEN_DELETION, Opened, Opening, Pace, UnfinishedChunk

_UNDONE = {DeletionState.CANCELLED}
_ENDED = {DeletionState.CANCELLED, DeletionState.REFUSED, DeletionState.FAILED}
"""What an attempt that comes late does not open. A Reset does take up what has failed."""


@dataclass(frozen=True)
class OpenDeletion:
    """Needs the database alone: nothing is read from the store before the request is known to be allowed."""

    database: Database
    backend: Backend
    chunk_size: int
    traces_configured: bool
    pace: Pace

    @activity.defn(name=OPEN_DELETION.name, no_thread_cancel_exception=True)
    def open_deletion(self, opening: Opening) -> Opened:
        """Returns the work that is left, at first all of it. Raises ArtifactNotInOrganization, SchemaDrift and others."""
        self.backend.refuse_unknown_tables()
        try:
            with self.database.write() as session:
                return self._open(session, opening)
        except (ArtifactNotInOrganization, InvalidRequest, ProjectNotInOrganization):
            with self.database.write() as session:
                self._refuse(session, opening)
            raise

    def _open(self, session: Session, opening: Opening) -> Opened:
        request = opening.request
        found = deletions.find_locked(session, request.deletion_id)
        asks = deletions.serve_asks(session, request.deletion_id)
        # Each fresh run asks in its own name too: so an attempt of it that goes on after a cancel is known to be late.
        is_first = opening.fresh and deletions.ask_for_run(session, request, run_of_step())
        if found is None and opening.fresh and not is_first:
            found = deletions.find_locked(session, request.deletion_id)  # another attempt was sooner
        may_begin = is_first or (bool(asks) and not opening.fresh)
        if not may_begin and (found is None or found.state in (_ENDED if opening.fresh else _UNDONE)):
            raise NotOpen("this deletion has ended, and was not asked for since; nothing was deleted")
        asked = bool(asks) or (is_first and (found is None or found.state is not DeletionState.RUNNING))
        begins_at = _begins_at(request, found, asks)
        if found is None and not deletions.make(session, request, DeletionState.RUNNING, _first(asks), begins_at):
            found = deletions.find_locked(session, request.deletion_id)  # another attempt was sooner
        if found is None:
            made = tuple(self._begin(session, request, 0))
            return Opened(fence=0, chunks=made, rows_deleted=0, pace=self.pace, begins_at=begins_at)
        return self._go_on(session, request, found, asks, asked=asked)

    def _begin(self, session: Session, request: DeletionRequest, fence: int) -> list[UnfinishedChunk]:
        """Chunks of all artifacts. Raises ArtifactNotInOrganization, InvalidRequest, ProjectNotInOrganization."""
        refuse_foreign_project(session, self.backend, request)
        reports.refuse_unlisted(session, request)
        places = {} if request.report else self.backend.find(session, request.artifact_ids)
        refuse_foreign_artifacts(request, places)
        asked = [(one, places[one][0] if one in places else request.project_id) for one in request.artifact_ids]
        made = chunks.make_chunks(session, request.deletion_id, fence, asked, self.chunk_size)
        return [UnfinishedChunk(chunk=chunk, released=None) for chunk in made]

    def _go_on(
        self, session: Session, request: DeletionRequest, found: Locked, asks: Sequence[Asked], *, asked: bool
    ) -> Opened:
        """The unfinished chunks, and further ones for artifacts that came back and were asked for again."""
        following, begins_at = chunks.next_chunk(session, found.id), _begins_at(request, found, asks)
        to_do = found.state is not DeletionState.CLOSED
        if following == 0:
            self._begin(session, request, found.fence)
        elif asked:
            to_do |= self._delete_again(session, request, found.fence, following)
            # Another deletion may have taken rows that came back, and owe their objects.
            to_do |= bool(overlaps.deletions_owing(session, found.id, traces_configured=self.traces_configured))
        if to_do:
            deletions.set_state(session, found.id, DeletionState.RUNNING, begins_at)
            if found.state not in deletions.UNFINISHED:
                deletions.accept_anew(session, found.id, _first(asks))
        return Opened(
            fence=found.fence,
            chunks=tuple(chunks.unfinished_chunks(session, found.id, traces_configured=self.traces_configured)),
            rows_deleted=chunks.rows_deleted(session, found.id),
            pace=self.pace,
            begins_at=begins_at if to_do else None,
            held=len(left_by_holds(session, found.id)),
        )

    def _delete_again(self, session: Session, request: DeletionRequest, fence: int, first: int) -> bool:
        """Rows that came back, from a backup or another organization, are deleted again, and so is what a hold has let go."""
        living = self.backend.find(session, request.artifact_ids)
        left = left_by_holds(session, request.deletion_id)
        held = held_among(session, self.backend, left, request.organization_id)
        let_go = {artifact: project for artifact, project in left.items() if artifact not in held}
        passed_over = chunks.artifacts_in_open_chunks(session, request.deletion_id) | held.keys()
        if request.expired:
            passed_over |= not_expired(session, self.backend, living, request.organization_id).keys()
        if request.report:
            passed_over |= chunks.artifacts_left_alone(session, request.deletion_id)
        again = let_go | {
            artifact: project
            for artifact, (project, organization) in living.items()
            if organization == request.organization_id and artifact not in passed_over
        }
        take_out(session, request.deletion_id, let_go)
        made = chunks.make_chunks(session, request.deletion_id, fence, list(again.items()), self.chunk_size, first=first)
        return bool(made)

    def _refuse(self, session: Session, opening: Opening) -> None:
        """Write down that it was refused, for good until it is asked for anew. Raises NotOpen if it was opened since."""
        request = opening.request
        asks = deletions.serve_asks(session, request.deletion_id)
        if opening.fresh:
            deletions.ask_for_run(session, request, run_of_step())
        if deletions.make(session, request, DeletionState.REFUSED, _first(asks)):
            return
        deletions.find_locked(session, request.deletion_id)
        if chunks.next_chunk(session, request.deletion_id):
            raise NotOpen("another attempt has opened this deletion since it was to be refused; nothing was changed")
        deletions.set_state(session, request.deletion_id, DeletionState.REFUSED)


def _begins_at(request: DeletionRequest, found: Locked | None, asks: Sequence[Asked]) -> datetime | None:
    """The earliest time that an ask wants. To ask for an unfinished deletion again may bring it forward, never put it off.

    A run brings a wish of its own only where the ledger has none: `resume` starts it with the request of any ask.
    """
    wishes = deletions.wishes(ask.not_before for ask in asks)
    if found is not None and found.state in deletions.UNFINISHED:
        wishes.append(found.begins_at)
    return deletions.earliest(wishes or [request.not_before])


def _first(asks: Sequence[Asked]) -> datetime | None:
    return min((ask.at for ask in asks), default=None)
