"""Starts a bulk deletion for each organization of which artifacts have expired."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from temporalio import activity

from activities.backend.contract import Backend
from activities.database import Database
from activities.selection import organizations_with_expired
from artifact_deletion.bulk import BulkRequest
from artifact_deletion.client import start_bulk
from workflows.bulk_steps import START_RETENTION, Retention, RetentionStarted


@dataclass(frozen=True)
class StartRetention:
    """Needs the database and Temporal."""

    database: Database
    backend: Backend

    @activity.defn(name=START_RETENTION.name, no_thread_cancel_exception=True)
    async def start_retention(self, retention: Retention) -> RetentionStarted:
        """Returns when a run is at work for each of them, this or an earlier one."""
        requests = await asyncio.to_thread(requests_of, self.database, self.backend, retention)
        for request in requests:
            await start_bulk(activity.client(), request)
        return RetentionStarted(organizations=len(requests))


def requests_of(database: Database, backend: Backend, retention: Retention) -> Sequence[BulkRequest]:
    """What is to be started. A command starts the same."""
    with database.read() as session:
        found = organizations_with_expired(session, backend)
    return [
        BulkRequest(
            organization_id=organization,
            images=retention.images,
            requested_by=retention.requested_by,
            artifacts_an_hour=retention.artifacts_an_hour,
            expired=True,
        )
        for organization in found
        if retention.organization_id in {None, organization}
    ]
