"""`delete-organization`: delete all artifacts of an organization."""

from typing import Annotated

import typer

from artifact_deletion.bulk import BulkRequest
from commands import bulk, options

Organization = Annotated[int, typer.Argument(parser=options.number, metavar="N", help="the organization")]


async def delete_organization(
    *,
    organization: Organization,
    images: options.Images = "delete",
    by: bulk.AskedBy = None,
    reference: options.Reference = None,
    rate: bulk.Rate = None,
    yes: options.Yes = False,
    wait: options.Wait = False,
    as_json: options.Json = False,
) -> int:
    """Delete all artifacts of all projects of an organization, for good. See `delete-project`.

    On a terminal it asks first. The rows of organization and projects stay. Asked for again, it does the rest.
    """
    request = BulkRequest(
        organization_id=organization, images=images, requested_by=by, reference=reference, artifacts_an_hour=rate
    )
    return await bulk.ask_and_start(request, yes=yes, wait=wait, as_json=as_json)
