"""What a request may ask for: artifacts and a project of its own organization. Opening refuses others, a preview says so."""

from collections.abc import Mapping

from sqlalchemy.orm import Session

from activities.backend.contract import Backend
from artifact_deletion.bulk import BulkRequest
from artifact_deletion.errors import ArtifactNotInOrganization, ProjectNotInOrganization
from artifact_deletion.request import DeletionRequest

_IDS_SHOWN = 10


def refuse_foreign_project(session: Session, backend: Backend, request: DeletionRequest | BulkRequest) -> None:
    """Raises ProjectNotInOrganization."""
    if request.project_id is None:
        return
    if backend.organization_of(session, request.project_id) not in {None, request.organization_id}:
        raise ProjectNotInOrganization(
            f"project {request.project_id} is not one of organization {request.organization_id}; nothing was deleted"
        )


def refuse_foreign_artifacts(request: DeletionRequest, places: Mapping[int, tuple[int, int]]) -> None:
    """Raises ArtifactNotInOrganization, which names the first of them."""
    foreign = sorted(one for one, (_, organization) in places.items() if organization != request.organization_id)
    if foreign:
        shown = ", ".join(map(str, foreign[:_IDS_SHOWN])) + (" …" if len(foreign) > _IDS_SHOWN else "")
        raise ArtifactNotInOrganization(
            f"{len(foreign)} of {len(request.artifact_ids)} artifacts do not belong to organization "
            f"{request.organization_id} ({shown}); nothing was deleted"
        )
