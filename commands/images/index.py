"""`images index`: read the manifests of a project's snapshots before its first deletion has to wait for that."""

from concurrent.futures import ThreadPoolExecutor

from commands import options
from commands.exit_codes import DONE, FAILED, BadUsage
from commands.images.status import organization_of
from commands.output import say, warn
from settings import Settings, load


def index(*, project: options.OneProject) -> int:
    """Read what the index of a project's snapshots lacks, from here, with a worker's settings.

    The first deletion that asks for images would do it otherwise, and wait. Each manifest is written down as it is read:
    stopped and begun again, it goes on where it was.
    """
    from composition import open_parts  # noqa: PLC0415  slow to import, and not needed to refuse a word

    settings = load(Settings)
    parts = open_parts(settings)
    try:
        with ThreadPoolExecutor(settings.manifest_readers) as reads:
            catching_up = parts.catching_up(parts.planner(reads))
            if catching_up is None:
                raise BadUsage("the artifacts of this backend share no images")
            with parts.database.read() as session:
                organization_of(session, parts.backend, project)  # refuses one that is not there
                snapshots, read, _ = catching_up.index.counts(session, project)
            looked = 0
            for part, _ in catching_up.parts(project):
                looked += part
                warn(f"{looked:,} of {snapshots - read:,} manifests looked at")
            with parts.database.read() as session:
                snapshots, read, unreadable = catching_up.index.counts(session, project)
    finally:
        parts.database.dispose()
    say(f"{read:,} of {snapshots:,} snapshots are in the index, {unreadable:,} are unreadable")
    if read < snapshots:
        warn(f"`python starter.py images status --project {project}` says which keep the project closed")
    return DONE if read == snapshots else FAILED
