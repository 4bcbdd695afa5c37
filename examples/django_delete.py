"""A complete DELETE view for Django: decided in Django's own transaction, answered within a deadline.

    DELETE /organizations/{organization_id}/artifacts/{artifact_id}

    204  the rows are gone; objects and trace items go in the background
    202  accepted, and not done yet: Temporal is slow or down. `python starter.py resume --every 30s` starts what does not run
    400  no such request: an id is 0, or too large
    403  the caller may not delete here
    404  the artifact is another organization's
    409  the deletion ended before the rows were gone, and says why

Put `urlpatterns` into yours, after `may_delete` was replaced by a check of your own, and serve your project with threads, as in
`gunicorn --workers 4 --threads 25 project.wsgi`. A request that waits for its rows keeps a thread and its database connection
busy: while Temporal is down, for the whole deadline. The ledger is expected in Django's default database.
It needs what a backend installs, and Django: nothing of the service.
"""

from datetime import timedelta

from django.core.exceptions import PermissionDenied
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_http_methods
from pydantic import ValidationError

from artifact_deletion import BlockingDeletions, DeletionRequest
from artifact_deletion.errors import ArtifactNotInOrganization, DeletionError
from artifact_deletion.request import refused_fields

DEADLINE = timedelta(seconds=5)
"""What a caller is ready to wait for. Rows of an artifact take a fraction of a second."""
deletions = BlockingDeletions()


class AuditEntry(models.Model):
    """Something that the backend commits together with the decision to delete: both happen or neither."""

    caller = models.CharField(max_length=128)
    artifact_id = models.BigIntegerField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "backend"  # a model in an application's models.py needs no label


def may_delete(_request: HttpRequest, organization_id: int) -> str:
    """The id of a caller who may delete in this organization. Who may is the backend's to know: replace this."""
    raise PermissionDenied(f"deleting in organization {organization_id} is not allowed yet")


def accept_deletion(request: DeletionRequest, reason: str | None = None) -> None:
    """What the function of this name in `artifact_deletion` does, on Django's connection instead of SQLAlchemy's."""
    ledger = "artifact_deletion." if connection.vendor == "postgresql" else ""  # SQLite has no schemas
    ask = f"INSERT INTO {ledger}artifact_deletion_ask (deletion_id, request, reason) VALUES (%s, %s, %s)"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(ask, [request.deletion_id, request.model_dump_json(), reason])


def decide(request: DeletionRequest) -> None:
    """From this commit on the deletion will happen, Temporal up or down."""
    with transaction.atomic(durable=True):  # durable: inside another transaction it would be no commit, and is an error
        accept_deletion(request)
        for artifact_id in request.artifact_ids:
            AuditEntry.objects.create(caller=request.requested_by, artifact_id=artifact_id)


@transaction.non_atomic_requests  # with ATOMIC_REQUESTS the commit would come after the answer
@require_http_methods(["DELETE"])
def delete_artifact(http: HttpRequest, organization_id: int, artifact_id: int) -> HttpResponse:
    caller = may_delete(http, organization_id)
    try:
        request = DeletionRequest(
            organization_id=organization_id, artifact_ids=[artifact_id], requested_by=caller, images="delete"
        )
    except ValidationError as error:
        return JsonResponse({"detail": refused_fields(error)}, status=400)
    decide(request)
    try:
        done = deletions.rows_deleted(request, within=DEADLINE)
    except ArtifactNotInOrganization:
        return JsonResponse({"detail": "the organization has no such artifact"}, status=404)
    except DeletionError as ended:
        return JsonResponse({"detail": str(ended)}, status=409)
    return HttpResponse(status=204) if done else JsonResponse({"workflow_id": request.workflow_id}, status=202)


urlpatterns = [path("organizations/<int:organization_id>/artifacts/<int:artifact_id>", delete_artifact)]
