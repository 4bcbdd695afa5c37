"""`reapply`: after a restore, delete again what it brought back, as receipts say that are kept outside the database."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from activities.backend.contract import Backend
from activities.database import Database
from activities.images import adopt as forgotten
from activities.receipts import Closed, receipts_of
from activities.watch_images import watch
from artifact_deletion.errors import DeletionError, NotYet
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import DeletionRequest
from commands import options
from commands.connection import connect, open_ledger, open_rows
from commands.display import at
from commands.exit_codes import AWAY, DONE, FAILED, UNREACHABLE, BadUsage, explained
from commands.following import start
from commands.images.adopt import image_work, line
from commands.output import confirmed, say, warn
from settings import Settings, load
from workflows.steps import ImageProject

Since = Annotated[
    datetime,
    typer.Option(
        parser=options.moment, metavar="TIME", help="the moment to which the database was restored; UTC unless it says"
    ),
]
ReceiptsFile = Annotated[str | None, typer.Option(metavar="FILE", help="receipts as JSON lines, where workers print them")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what came back, and do nothing")]


@dataclass(frozen=True)
class CameBack:
    """A deletion of which artifacts have rows again."""

    closed: Closed
    artifacts: int
    """How many it deleted that are there as they were before it."""
    younger: int
    """How many have the id of one that it deleted, and were added later: a restored database counts on from where it was."""

    def line(self, *, utc: bool) -> str:
        request, closed_at = self.closed.request, at(self.closed.receipt.times.closed, utc=utc)
        back = f"{self.artifacts:>7,} of {len(request.artifact_ids):,} artifacts are back"
        others = f", LEFT ALONE: {self.younger:,} others have ids that it deleted, but were added later" if self.younger else ""
        held = f", HELD THEN: {count:,}" if (count := self.closed.receipt.artifacts.held.count) else ""
        return f"{closed_at}  {back}{others}{held}  {request.workflow_id}"


async def reapply(
    *, since: Since, receipts: ReceiptsFile = None, dry_run: DryRun = False, yes: options.Yes = False, utc: options.Utc = False
) -> int:
    """After a restore, delete again what it brought back, by receipts kept outside.

    Images that are hidden and that the restored ledger has forgotten are found in the store, as `images adopt` does.
    """
    all_closed, unreadable = receipts_of(_lines(since, receipts), since)
    projects = _projects(all_closed)
    with open_ledger() as database:
        backend = open_rows(database)
        with database.read(snapshot=True) as session:
            found = list(_came_back(session, backend, all_closed))
        again = [one for one in found if not one.younger]
        total = sum(one.artifacts for one in again)
        for one in found:
            say(one.line(utc=utc))
        say(
            f"{len(all_closed):,} receipts since {at(since, utc=utc)}: "
            f"{total:,} artifacts of {len(again):,} deletions are back, and may be deleted again"
        )
        if projects:
            say(f"hidden images of {len(projects):,} projects may be forgotten")
        if unreadable:
            warn(f"{unreadable:,} lines are no receipts that this version knows")
        done = FAILED if unreadable or len(again) < len(found) else DONE
        if dry_run or not (again or projects):
            return done
        if not yes and not await confirmed(_question(total, len(projects))):
            warn("nothing was done")
            return FAILED
        requests = [one.closed.request for one in again]
        adopted = _adopt(projects, going={one for request in requests for one in request.artifact_ids})
        done = done if len(adopted) == len(projects) else FAILED
        return await _start(database, requests, adopted) or done


def _question(artifacts: int, projects: int) -> str:
    parts = [f"delete these {artifacts:,} artifacts again"] * bool(artifacts)
    parts += [f"look for hidden images of {projects:,} projects"] * bool(projects)
    question = " and ".join(parts)
    return f"{question[0].upper()}{question[1:]}?"


def _projects(all_closed: Iterable[Closed]) -> list[ImageProject]:
    """Whose images the deletions were asked for. Receipts of before there were images name none."""
    every = {
        (closed.request.organization_id, project) for closed in all_closed for project in closed.receipt.images.projects.ids
    }
    return [ImageProject(organization_id=organization, project_id=project) for organization, project in sorted(every)]


def _came_back(session: Session, backend: Backend, all_closed: Iterable[Closed]) -> Iterator[CameBack]:
    """Find the deletions of which artifacts have rows again, in whatever project of their organization."""
    for closed in all_closed:
        request, receipt = closed.request, closed.receipt
        if request.report is not None:  # it deleted no row
            continue
        gone_at = receipt.times.rows_deleted or receipt.times.closed
        left = {*receipt.artifacts.not_reached.ids, *receipt.artifacts.held.ids}
        asked = set(request.artifact_ids) - left
        if added := backend.added(session, asked, request.organization_id):
            older = sum(when <= gone_at for when in added.values())
            yield CameBack(closed, older, len(added) - older)


def _lines(since: datetime, file: str | None) -> Iterator[str]:
    if file is not None:
        try:
            return iter(Path(file).read_text(errors="replace").splitlines())
        except OSError as error:
            raise BadUsage(f"the file of receipts cannot be read ({type(error).__name__})") from None
    from composition import stored_receipts  # noqa: PLC0415  slow to import, and not needed with a file

    settings = load(Settings)
    if settings.receipt_export in {None, "stdout"}:
        raise BadUsage("ARTIFACT_DELETION_RECEIPT_EXPORT: names no place in the store; name a file (--receipts)")
    return stored_receipts(settings).lines(since)


def _adopt(projects: Sequence[ImageProject], going: Collection[int]) -> list[ImageProject]:
    """Before the deletions: what only they name stays hidden all the while. Returns the projects in which it could be done."""
    if not projects:
        return []
    adopted = []
    with image_work() as work:
        for of in projects:
            try:
                say(line(of, forgotten.adopt(work, of.organization_id, of.project_id, going)))
                adopted.append(of)
            except NotYet as waits:
                warn(f"{waits}: repeat this command later")
    return adopted


async def _start(database: Database, requests: Sequence[DeletionRequest], adopted: Iterable[ImageProject]) -> int:
    with database.write() as session:
        for request in requests:
            accept_deletion(session, request)
    try:
        client = await connect()
        for request in requests:
            await start(client, request)
            say(request.workflow_id)
        for of in adopted:
            await watch(client, of)
            say(of.workflow_id)
    except (*AWAY, DeletionError) as error:
        sentence, _ = explained(error)
        warn(f"all are accepted, and `python starter.py resume` starts them later: {sentence}")
        return UNREACHABLE
    return DONE
