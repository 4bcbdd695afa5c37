"""`retention run`: delete what has expired."""

import json

from activities.start_retention import requests_of
from artifact_deletion.client import start_bulk
from commands import bulk, options
from commands.connection import connect, open_ledger, open_rows
from commands.exit_codes import DONE
from commands.output import say, warn
from workflows.bulk_steps import Retention


async def run(
    *,
    organization: options.OneOrganization = None,
    images: options.Images = "delete",
    by: bulk.AskedBy = None,
    rate: bulk.Rate = None,
    as_json: options.Json = False,
) -> int:
    """Start the deletion of what has expired: a workflow for each organization, as of `delete-organization`.

    One that runs already is left to it. Without any policy nothing expires.
    """
    retention = Retention(organization_id=organization, images=images, requested_by=by, artifacts_an_hour=rate)
    with open_ledger() as database:
        requests = requests_of(database, open_rows(database), retention)
    if not requests:
        warn("nothing has expired")
        return DONE
    client = await connect()
    for request in requests:
        handle = await start_bulk(client, request)
        say(json.dumps({"workflow_id": handle.id}) if as_json else handle.id)
    return DONE
