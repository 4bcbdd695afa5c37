"""`delete`: ask for a deletion, and start it."""

import sys
from typing import Annotated

import typer

from artifact_deletion.outbox import accept_deletion
from artifact_deletion.request import DeletionRequest
from commands import options
from commands.connection import open_ledger
from commands.exit_codes import FAILED
from commands.following import start_and_follow
from commands.output import confirmed, warn

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
    ids = options.artifact_ids(artifacts, ids_from)
    request = DeletionRequest(
        organization_id=organization, artifact_ids=ids, project_id=project, requested_by=requested_by, reference=reference
    )
    count = len(request.artifact_ids)
    question = f"Delete {count:,} artifact{'s' * (count != 1)} of organization {organization} for good?"
    if not yes and sys.stdin.isatty() and not await confirmed(question):
        warn("nothing was asked for")
        return FAILED
    with open_ledger() as database:
        with database.write() as session:
            accept_deletion(session, request, reason=reason)
        return await start_and_follow(database, request, wait=wait, as_json=as_json, utc=utc)
