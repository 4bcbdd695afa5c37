"""`images adopt`: after a restore of the database, find the hidden images that the ledger has forgotten."""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from activities.images import adopt as forgotten
from activities.images import rows
from activities.images.adopt import Adopted
from activities.images.work import ImageWork
from activities.watch_images import watch
from commands import options
from commands.connection import connect
from commands.exit_codes import DONE, BadUsage
from commands.output import say
from settings import Settings, load
from workflows.steps import ImageProject


async def adopt(*, project: options.OneProject, as_json: options.Json = False) -> int:
    """After a restore of the database, find hidden images that the ledger has forgotten.

    With a worker's settings. It lists what the store hides of the project. What a snapshot names is made readable again; what
    none names is purged after a whole grace. Run it as often as you like. `reapply` does it for the projects of its receipts.
    """
    with image_work() as work:
        of = ImageProject(organization_id=_organization_of(work, project), project_id=project)
        adopted = forgotten.adopt(work, of.organization_id, of.project_id)
    say(json.dumps(_as_json(of, adopted), indent=2) if as_json else line(of, adopted))
    await watch(await connect(), of)
    return DONE


@contextlib.contextmanager
def image_work() -> Iterator[ImageWork]:
    """What a worker does its work on images with. Raises BadUsage where there is no such work."""
    from composition import open_parts  # noqa: PLC0415  slow to import, and not needed to refuse a word

    settings = load(Settings)
    parts = open_parts(settings)
    try:
        with ThreadPoolExecutor(settings.manifest_readers) as reads:
            work = parts.images(parts.planner(reads), reads)
            if work is None:
                raise BadUsage("the artifacts of this backend share no images, or its store cannot hide them")
            yield work
    finally:
        parts.database.dispose()


def line(of: ImageProject, adopted: Adopted) -> str:
    """What became of a project's hidden images, for a person."""
    return (
        f"project {of.project_id}: {adopted.restored:,} hidden images are to be restored, "
        f"{adopted.hidden:,} to be purged after the grace, {adopted.known:,} were known"
    )


def _organization_of(work: ImageWork, project: int) -> int:
    with work.database.read() as session:
        found = work.catching_up.backend.organization_of(session, project) or rows.organization_of(session, project)
    if found is None:
        raise BadUsage(f"there is no project {project}, and the ledger knows no image of it")
    return found


def _as_json(of: ImageProject, adopted: Adopted) -> dict[str, object]:
    return {**of.model_dump(), "workflow_id": of.workflow_id, **asdict(adopted)}
