"""`images status`: how far a project's index is, what of its images is hidden, and when that goes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from activities.backend.contract import Backend
from activities.images import owed, rows
from activities.images.decisions import Times
from activities.images.index import Index
from activities.images.rows import Standing
from activities.images.transitions import ImageState
from commands import options
from commands.connection import open_ledger, open_rows
from commands.display import Rows, at, in_utc, print_columns, some
from commands.exit_codes import DONE, BadUsage
from commands.output import say
from settings import DatabaseSettings, load
from workflows.steps import ImageProject

_NAMES = {
    ImageState.HIDING: "About to be hidden",
    ImageState.HIDDEN: "Hidden",
    ImageState.PURGING: "Being purged",
    ImageState.PURGED: "Purged, and remembered",
    ImageState.RESTORED: "Restored, and watched",
}


@dataclass(frozen=True)
class ProjectImages:
    """What the ledger knows of a project's images."""

    project: ImageProject
    snapshots: int
    read: int
    unreadable: list[int]
    """Artifacts whose manifests say nothing: while they do, no image of the project goes."""
    standing: dict[ImageState, Standing]
    purged: int
    restored: int


def status(*, project: options.OneProject, as_json: options.Json = False, utc: options.Utc = False) -> int:
    """Say how far the index of a project's snapshots is, which images are hidden, and when they are purged.

    By the ledger alone. Pending Activities of the project's workflow say why its step waits.
    """
    settings = load(DatabaseSettings)
    with open_ledger() as database:
        backend = open_rows(database)
        if backend.shared_images is None:
            raise BadUsage("the artifacts of this backend share no images")
        with database.read(snapshot=True) as session:
            found = _look(session, backend, project)
    until_purged = Times(settings.images_grace, settings.images_late, settings.images_reserved).until_purged
    if as_json:
        say(json.dumps(_as_json(found, until_purged), indent=2))
    else:
        print_columns(list(_lines(found, until_purged, utc=utc)))
    return DONE


def organization_of(session: Session, backend: Backend, project_id: int) -> int:
    """Whose the project is, or was when its images were hidden. Raises BadUsage."""
    found = backend.organization_of(session, project_id) or rows.organization_of(session, project_id)
    if found is None:
        raise BadUsage(f"there is no project {project_id}, and no image of it is hidden")
    return found


def _look(session: Session, backend: Backend, project_id: int) -> ProjectImages:
    index = Index(backend)
    organization = organization_of(session, backend, project_id)
    snapshots, read, _ = index.counts(session, project_id)
    purged, restored = owed.settled(session, project_id)
    return ProjectImages(
        ImageProject(organization_id=organization, project_id=project_id),
        snapshots,
        read,
        index.unreadable(session, project_id),
        {one.state: one for one in rows.standing(session, project_id)},
        purged,
        restored,
    )


def _as_json(found: ProjectImages, until_purged: timedelta) -> dict[str, Any]:
    hidden = found.standing.get(ImageState.HIDDEN)
    return {
        "project_id": found.project.project_id,
        "organization_id": found.project.organization_id,
        "workflow_id": found.project.workflow_id,
        "snapshots": found.snapshots,
        "read": found.read,
        "unreadable": found.unreadable,
        "images": {
            state: {"count": one.count, "first": in_utc(one.oldest), "last": in_utc(one.newest)}
            for state, one in found.standing.items()
        },
        "purge_from": in_utc(hidden.oldest + until_purged) if hidden else None,
        "purge_until": in_utc(hidden.newest + until_purged) if hidden else None,
        "purged": found.purged,
        "restored": found.restored,
    }


def _lines(found: ProjectImages, until_purged: timedelta, *, utc: bool) -> Iterator[tuple[str, object]]:
    unreadable = len(found.unreadable)
    yield "Project", f"{found.project.project_id} of organization {found.project.organization_id}"
    yield "Snapshots", f"{found.read:,} of {found.snapshots:,} are in the index"
    yield "  not read yet", found.snapshots - found.read - unreadable
    if unreadable:
        yield "Closed", f"no image goes: the manifests of {unreadable:,} artifacts say nothing"
        yield "  artifacts", some(found.unreadable)
        yield "  then", "delete these artifacts, or put manifests there that can be read"
    for state, name in _NAMES.items():
        if (one := found.standing.get(state)) is not None:
            yield from _of_state(name, one, until_purged, utc=utc)
    yield "Settled", f"{found.purged:,} purged, {found.restored:,} restored for an upload"
    yield "Workflow", found.project.workflow_id if found.standing else "none is needed"


def _of_state(name: str, one: Standing, until_purged: timedelta, *, utc: bool) -> Rows:
    lines: list[tuple[str, object]] = [(name, f"{one.count:,} since {_span(one, timedelta(0), utc=utc)}")]
    if one.state is ImageState.HIDDEN:
        lines.append(("  purged from", f"{_span(one, until_purged, utc=utc)}, unless a snapshot names them by then"))
    return lines


def _span(one: Standing, later: timedelta, *, utc: bool) -> str:
    first, last = at(one.oldest + later, utc=utc), at(one.newest + later, utc=utc)
    return first if first == last else f"{first} to {last}"
