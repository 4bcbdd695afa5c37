"""`delete`: ask for a deletion, and start it."""

import asyncio
import sys
from typing import Annotated

import typer

from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import DeletionRequest
from commands import options
from commands.exit_codes import FAILED
from commands.ledger import open_ledger
from commands.output import warn
from commands.starting import start_and_follow

Reason = Annotated[str | None, typer.Option(parser=options.text, metavar="TEXT", help="free text; stays in the ledger")]


async def delete(
    *,
    artifacts: options.Artifacts = None,
    organization: options.Organization,
    ids_from: options.IdsFrom = None,
    project: options.Project = None,
    requested_by: options.RequestedBy = None,
    reference: options.Reference = None,
    reason: Reason = None,
    yes: options.Yes = False,
    wait: options.Wait = False,
    as_json: options.Json = False,
    utc: options.Utc = False,
) -> int:
    """Delete artifacts of an organization, for good.

    On a terminal it asks first. Asking twice is asking once; a complete deletion answers with its receipt.
    """
    request = request_of(
        artifacts,
        ids_from,
        organization=organization,
        project=project,
        requested_by=requested_by,
        reference=reference,
    )
    if not yes and sys.stdin.isatty() and not await asyncio.to_thread(options.confirmed, _question(request)):
        warn("nothing was asked for")
        return FAILED
    with open_ledger() as database:
        with database.write() as session:
            accept_deletion(session, request, reason=reason)
        return await start_and_follow(database, request, wait=wait, as_json=as_json, utc=utc)


def request_of(
    artifacts: list[options.Ids] | None,
    ids_from: str | None,
    *,
    organization: int,
    project: int | None,
    requested_by: str | None,
    reference: str | None,
) -> DeletionRequest:
    """The request that was typed. Raises pydantic's ValidationError, typer's BadParameter."""
    named = [*(artifacts or ()), *([options.numbers_from(ids_from)] if ids_from is not None else ())]
    if not named:
        raise options.BadUsage("no artifact ids: name some, or a file of them with --ids-from")
    return DeletionRequest(
        organization_id=organization,
        artifact_ids=tuple(one for several in named for one in several),
        project_id=project,
        requested_by=requested_by,
        reference=reference,
    )


def _question(request: DeletionRequest) -> str:
    count = len(request.artifact_ids)
    return f"Delete {count:,} artifact{'s' * (count != 1)} of organization {request.organization_id} for good?"
