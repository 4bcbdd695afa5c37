"""What has expired, deleted by one worker, beside a loop over the same artifacts the reference's way, one after another."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update

from activities.backend import tables
from activities.backend.keys import Scopes
from activities.backend.sentry import SentryBackend
from activities.ledger import policies
from activities.ledger.policies import Scope
from activities.start_retention import requests_of
from artifact_deletion.client import start_bulk
from benchmarks.data import ORGANIZATION, Doomed
from benchmarks.many import MASKS, small_ones, the_reference_s_way
from benchmarks.measure import ContenderFailed, Cost, measured
from benchmarks.stage import BUCKET, Stage
from workflows.bulk_steps import Retention

DAYS = 90


async def retention(stage: Stage, *, artifacts: int, reference: int) -> dict[str, Any]:
    """Of so many artifacts. The reference's loop has the first `reference` of them: it is as fast with all."""
    doomed = small_ones(artifacts)
    stage.fill(*doomed)
    _insert_rows(stage, doomed)
    theirs = await asyncio.to_thread(the_reference_s_way, stage, doomed[:reference])
    stage.fill(*doomed)
    _insert_rows(stage, doomed)
    backend = SentryBackend(stage.database, Scopes("{usecase}/{organization_id}/{project_id}/", ("preprod",)))
    wanted, ours = Retention(organization_id=ORGANIZATION), Cost()
    with (
        stage.worker("worker-retention") as worker,
        measured(ours, clients=[worker.pid], store=stage.objects.pid, others=stage.others),
    ):
        (request,) = requests_of(stage.database, backend, wanted)
        receipt = await (await start_bulk(stage.client, request)).result()
    with stage.database.write() as session:
        policies.remove(session, Scope(ORGANIZATION, None, None))
    left = stage.s3.list_objects_v2(Bucket=BUCKET, Prefix=doomed[0].scope)["KeyCount"]
    if not receipt.complete or receipt.deleted != artifacts or left:
        raise ContenderFailed(f"ours: {receipt.deleted} artifacts, {left} objects left")
    deletions = sum(receipt.deletions.values())
    contenders = {
        "ours": vars(ours) | {"artifacts": artifacts, "deletions": deletions},
        "reference": vars(theirs) | {"artifacts": reference, "deletions": None},
    }
    return {"masks": MASKS, "contenders": contenders}


def _insert_rows(stage: Stage, doomed: Sequence[Doomed]) -> None:
    """Of artifacts that were uploaded before the policy's days."""
    stage.insert_rows(*doomed)
    aged = update(tables.Artifact).where(tables.Artifact.id.in_([one.id for one in doomed]))
    with stage.database.write() as session:
        policies.set_policy(session, Scope(ORGANIZATION, None, None), DAYS, by="user:7")
        session.execute(aged.values(date_added=datetime.now(UTC) - timedelta(days=DAYS + 1)))
