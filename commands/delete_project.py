"""`delete-project`: delete all artifacts of a project."""

from typing import Annotated

import typer

from artifact_deletion.bulk import BulkRequest
from commands import bulk, options

Project = Annotated[int, typer.Argument(parser=options.number, metavar="N", help="the project")]
Organization = Annotated[int, typer.Option(parser=options.number, metavar="N", help="the organization that it belongs to")]


async def delete_project(
    *,
    project: Project,
    organization: Organization,
    images: options.Images = "delete",
    by: bulk.AskedBy = None,
    reference: options.Reference = None,
    rate: bulk.Rate = None,
    yes: options.Yes = False,
    wait: options.Wait = False,
    as_json: options.Json = False,
) -> int:
    """Delete all artifacts of a project, for good: many deletions, a few at a time, behind what people wait for.

    On a terminal it asks first. The project's own row stays. Asked for again, it does the rest.
    """
    request = BulkRequest(
        organization_id=organization,
        project_id=project,
        images=images,
        requested_by=by,
        reference=reference,
        artifacts_an_hour=rate,
    )
    return await bulk.ask_and_start(request, yes=yes, wait=wait, as_json=as_json)
