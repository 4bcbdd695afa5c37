"""What a report's deletion would take: places of artifacts that have no row. No row, and no key that one names."""

from collections.abc import Collection

from sqlalchemy.orm import Session

from activities.backend.contract import Backend, Names, Places
from activities.ledger import reports
from activities.plan import Plan


def plan_of_report(session: Session, backend: Backend, report_id: str, artifact_ids: Collection[int]) -> Plan:
    """Artifacts that have a row by now, wherever it is, count as moved: they are left alone."""
    report = reports.get(session, report_id)
    living = backend.find(session, artifact_ids)
    places, names = backend.survey(
        session, {one: report.project_id for one in artifact_ids if one not in living}, report.organization_id
    )
    return Plan(Places(gone=places.gone, moved=sorted(living)), Names(), backend.own_prefixes(places, names))
