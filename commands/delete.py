"""`delete`: ask for a deletion, and start it."""

import sys
from datetime import timedelta
from typing import Annotated

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from activities.ledger.schema import clock
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import DeletionRequest
from commands import options
from commands.connection import open_ledger
from commands.display import at
from commands.exit_codes import FAILED
from commands.followers import duration
from commands.following import start_and_follow
from commands.output import confirmed, warn

Reason = Annotated[str | None, typer.Option(parser=options.text, metavar="TEXT", help="free text; stays in the ledger")]
After = Annotated[
    timedelta | None,
    typer.Option(parser=options.delay, metavar="TIME", help="wait so long, such as 24h: until then `cancel` calls it off"),
]


async def delete(
    *,
    artifacts: options.Artifacts = None,
    organization: options.Organization,
    ids_from: options.IdsFrom = None,
    project: options.Project = None,
    images: options.Images = "delete",
    requested_by: options.RequestedBy = None,
    reference: options.Reference = None,
    reason: Reason = None,
    after: After = None,
    yes: options.Yes = False,
    wait: options.Wait = False,
    as_json: options.Json = False,
    utc: options.Utc = False,
) -> int:
    """Delete artifacts of an organization, for good.

    On a terminal it asks first. Asking twice is asking once; a complete deletion answers with its receipt.

    Images that no other snapshot of their project shows are hidden at once, and gone for good after a grace of a day.
    """
    request = DeletionRequest(
        organization_id=organization,
        artifact_ids=options.artifact_ids(artifacts, ids_from),
        project_id=project,
        requested_by=requested_by,
        reference=reference,
        images=images,
    )
    if not yes and sys.stdin.isatty() and not await confirmed(_question(request, after)):
        warn("nothing was asked for")
        return FAILED
    with open_ledger() as database:
        with database.write() as session:
            request = _not_before(session, request, after)
            accept_deletion(session, request, reason=reason)
        if request.not_before is not None:
            warn(_way_back(request.workflow_id, at(request.not_before, utc=utc)))
        return await start_and_follow(database, request, wait=wait, as_json=as_json, utc=utc)


def _not_before(session: Session, request: DeletionRequest, after: timedelta | None) -> DeletionRequest:
    """Reckon by the database's clock, which decides when a deletion begins."""
    if after is None:
        return request
    return request.model_copy(update={"not_before": session.execute(select(clock())).scalar_one() + after})


def _way_back(workflow: str, until: str) -> str:
    call_off = f"python starter.py cancel {workflow}"
    unless = "unless it runs already, is complete or refused, or is asked for sooner"  # no one has looked yet
    return f"{unless}, it waits until {until}; to call it off: {call_off}"


def _question(request: DeletionRequest, after: timedelta | None) -> str:
    """Name all that goes."""
    when = "" if after is None else f", {duration(after.total_seconds())} from now"
    images = {"delete": "with images that no other snapshot shows", "keep": "and keep their images"}[request.images]
    return f"{request.summary} for good, {images}{when}?"
