"""`reapply`: after a restore, delete again what it brought back, as receipts say that are kept outside the database."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from activities.backend.contract import Backend
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.database import Database
from activities.receipts import Closed, receipts_of
from adapters import adapters
from artifact_deletion.errors import DeletionError
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import DeletionRequest
from commands import options
from commands.connection import connect, open_ledger
from commands.display import at
from commands.exit_codes import AWAY, DONE, FAILED, UNREACHABLE, BadUsage, explained
from commands.following import start
from commands.output import confirmed, say, warn
from settings import Settings, load

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
        return f"{closed_at}  {back}{others}  {request.workflow_id}"


async def reapply(
    *, since: Since, receipts: ReceiptsFile = None, dry_run: DryRun = False, yes: options.Yes = False, utc: options.Utc = False
) -> int:
    """After a restore, delete again what it brought back, by receipts kept outside."""
    all_closed, unreadable = receipts_of(_lines(since, receipts), since)
    with open_ledger() as database:
        backend = _backend(database)
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
        if unreadable:
            warn(f"{unreadable:,} lines are no receipts that this version knows")
        done = FAILED if unreadable or len(again) < len(found) else DONE
        if dry_run or not again:
            return done
        if not yes and not await confirmed(f"Delete these {total:,} artifacts again?"):
            warn("nothing was done")
            return FAILED
        return await _delete_again(database, [one.closed.request for one in again]) or done


def _came_back(session: Session, backend: Backend, all_closed: Iterable[Closed]) -> Iterator[CameBack]:
    """Find the deletions of which artifacts have rows again, in whatever project of their organization."""
    for closed in all_closed:
        request, receipt = closed.request, closed.receipt
        gone_at = receipt.times.rows_deleted or receipt.times.closed
        asked = set(request.artifact_ids) - set(receipt.artifacts.not_reached.ids)
        if added := backend.added(session, asked, request.organization_id):
            older = sum(when <= gone_at for when in added.values())
            yield CameBack(closed, older, len(added) - older)


def _backend(database: Database) -> Backend:
    """Open the backend, of which only rows are asked for. Only an adapter needs more settings than the database's."""
    adapter = adapters().backend
    return SentryBackend(database, Scopes("", ())) if adapter is None else adapter(load(Settings), database)


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


async def _delete_again(database: Database, requests: Sequence[DeletionRequest]) -> int:
    with database.write() as session:
        for request in requests:
            accept_deletion(session, request)
    try:
        client = await connect()
        for request in requests:
            await start(client, request)
            say(request.workflow_id)
    except (*AWAY, DeletionError) as error:
        sentence, _ = explained(error)
        warn(f"all are accepted, and `python starter.py resume` starts them later: {sentence}")
        return UNREACHABLE
    return DONE
