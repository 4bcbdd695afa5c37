"""What a report's deletion would take: places of artifacts that have no row, and of comparisons that have none.

No row goes, and no key that one names. Steps look again for rows before they delete: what has one again stays.
"""

from collections.abc import Collection

from sqlalchemy.orm import Session

from activities.backend.contract import ArtifactRef, Backend, Names, OwnPrefix, Places
from activities.ledger import chunks, prefixes, reports
from activities.ledger.schema import STAYING, DeletionChunk, RowsState
from activities.plan import Plan
from workflows.steps import Chunk


def plan_of_report(session: Session, backend: Backend, report_id: str, artifact_ids: Collection[int]) -> Plan:
    """Artifacts that have a row by now, wherever it is, count as moved: of them only comparisons go that the report lists."""
    report = reports.get(session, report_id)
    heads = {head for head, _ in reports.leftovers_of(session, report_id, artifact_ids)}
    stay = heads | backend.find(session, artifact_ids).keys()
    going = dict.fromkeys((one for one in artifact_ids if one not in stay), report.project_id)
    places, names = backend.survey(session, going, report.organization_id)
    own = [*backend.own_prefixes(places, names), *_comparisons(session, backend, report_id, artifact_ids)]
    return Plan(Places(gone=places.gone, moved=sorted(stay)), Names(), own)


def leave_what_came_back(session: Session, backend: Backend, chunk: Chunk, found: DeletionChunk, report_id: str) -> None:
    """Nothing is deleted any more of what has a row again. The chunk is locked."""
    ids = [one.id for one in chunks.artifacts_of(session, chunk) if one.rows_state not in STAYING]
    living = backend.find(session, ids)
    chunks.set_artifacts(session, chunk, living, rows_state=RowsState.MOVED)
    prefixes.forget_artifacts(session, found, living)
    compared = prefixes.named_by_rows(session, found).difference(_comparisons(session, backend, report_id, ids))
    prefixes.forget(session, found, compared)


def _comparisons(session: Session, backend: Backend, report_id: str, artifact_ids: Collection[int]) -> list[OwnPrefix]:
    """Those that the report lists under these artifacts, and that have no row."""
    if not (listed := reports.leftovers_of(session, report_id, artifact_ids)):
        return []
    report = reports.get(session, report_id)
    place = report.organization_id, report.project_id
    return backend.without_rows(session, [(ArtifactRef(*place, head), base) for head, base in listed])
